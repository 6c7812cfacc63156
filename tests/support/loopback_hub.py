"""A read-only Hugging Face Hub on loopback, for tests: files of revisions, model information and pull requests."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

CREATED = "2026-01-01T00:00:00.000Z"


class LoopbackHub:
    """
    Serves repositories to the real huggingface_hub client, whose `HF_ENDPOINT` is `endpoint`.

    Attributes:
        revisions (`dict`): By repository and name, such as main or refs/pr/1, the hash of its commit.
        commits (`dict`): By repository and hash, `{file name: bytes}`.
        pull_requests (`dict`): By id, what the Hub's API lists.
        log (`list[str]`): Method and path of each request.
    """

    def __init__(self):
        self.revisions, self.commits, self.pull_requests, self.log = {}, {}, {}, []
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, repo_id, files, revision="main"):
        """Puts `files` (`dict[str, bytes]`) into a revision in place of what was there; the commit's hash."""
        content = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        sha = hashlib.sha1(json.dumps([repo_id, revision, content]).encode()).hexdigest()
        self.commits[repo_id, sha] = dict(files)
        self.revisions[repo_id, revision] = sha
        return sha

    def open_pull_request(self, repo_id, files, author="SFconvertbot", status="open"):
        """A pull request that adds `files` to the main branch; the hash of its commit."""
        pulls = self.pull_requests.setdefault(repo_id, [])
        number = len(pulls) + 1
        pulls.append(
            {
                "num": number,
                "title": "Adding `safetensors` variant of this model",
                "author": {"name": author},
                "status": status,
                "isPullRequest": True,
                "createdAt": CREATED,
                "repo": {"name": repo_id, "type": "model"},
            }
        )
        return self.commit(repo_id, {**self.files(repo_id), **files}, f"refs/pr/{number}")

    def find(self, repo_id, revision):
        """Hash of the commit that a revision is at, or `None`."""
        commit = self.revisions.get((repo_id, revision), revision)
        return commit if (repo_id, commit) in self.commits else None

    def files(self, repo_id, revision="main"):
        """`dict[str, bytes]`: what a revision holds."""
        return self.commits[repo_id, self.find(repo_id, revision)]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.hub.log.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", parts.path):
            self.send_file(match[1], unquote(match[2]), unquote(match[3]))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/discussions", parts.path):
            self.send_discussions(match[1], parse_qs(parts.query))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", parts.path):
            self.send_information(match[1], unquote(match[2] or "main"))
        else:
            self.answer(404, b"{}")

    do_HEAD = do_POST = do_GET  # noqa: N815 (names of http.server)

    def send_file(self, repo_id, revision, name):
        commit = self.found(repo_id, revision)
        if commit is None:
            return
        data = self.hub.files(repo_id, commit).get(name)
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self.answer(200, data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'})

    def send_information(self, repo_id, revision):
        commit = self.found(repo_id, revision)
        if commit is None:
            return
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            for name, data in self.hub.files(repo_id, commit).items()
        ]
        self.answer_json({"id": repo_id, "sha": commit, "private": False, "tags": [], "siblings": siblings})

    def send_discussions(self, repo_id, query):
        pulls = self.hub.pull_requests.get(repo_id, [])
        if "author" in query:
            pulls = [pull for pull in pulls if pull["author"]["name"] in query["author"]]
        self.answer_json({"discussions": pulls, "count": len(pulls), "start": 0})

    def found(self, repo_id, revision):
        commit = self.hub.find(repo_id, revision)
        if commit is None:
            known = any(repo_id == repository for repository, _ in self.hub.commits)
            missing = "RevisionNotFound" if known else "RepoNotFound"
            self.answer(404, b"{}", {"X-Error-Code": missing, "X-Error-Message": missing})
        return commit

    def answer_json(self, values):
        self.answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def answer(self, status, data, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
