"""Downloads against a server on loopback that drops, resumes, lies about length and sends wrong bytes."""

import hashlib
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console
from support.corpora import tiny_sound
from support.faults import full_disk, read_only

from datasets_scripts import downloads, load_crema_d, load_ravdess
from modeling_aver.io import download as transfer
from modeling_aver.io.atomic import WriteError
from modeling_aver.io.download import DownloadError, RemoteFile, fetch

CONTENT = bytes(range(256)) * 40
SIZE = 10_240  # bytes
MD5 = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"


class Server:
    """
    Answers by path with bytes. `moods` of a path are used up one a request: drop (closes after half of what is left),
    shut (closes at once), lie_long and lie_short (a wrong Content-Length), ignore_range, wrong (other bytes), more
    (extra bytes), no_length, or a status such as 503.
    """

    def __init__(self):
        self.files, self.moods, self.requests = {}, {}, []
        handler = type("Handler", (Handler,), {"server_state": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"


class Handler(BaseHTTPRequestHandler):
    server_state: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        state, path = self.server_state, self.path.lstrip("/")
        asked = self.headers.get("Range")
        state.requests.append((path, asked))
        moods = state.moods.get(path, [])
        mood = moods.pop(0) if moods else None
        if isinstance(mood, int):
            return self.send_error(mood)
        if path not in state.files:
            return self.send_error(404)
        self.reply(state.files[path], asked, mood)

    def reply(self, content, asked, mood):
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and mood != "ignore_range" else 0
        if start >= len(content) and start:
            return self.send_error(416)
        rest = {"wrong": bytes(len(content) - start), "more": content[start:] + b"more"}.get(mood, content[start:])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        length = {"lie_long": len(rest) + 999, "lie_short": len(rest) // 2}.get(mood, len(rest))
        if mood != "no_length":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write({"drop": rest[: len(rest) // 2], "shut": b"", "lie_short": rest[:length]}.get(mood, rest))
        self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    server.files["file.zip"] = CONTENT
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def remote(server, size=SIZE, checksum=MD5):
    return RemoteFile(f"{server.url}/file.zip", "a/file.zip", size, checksum)


@pytest.mark.parametrize(
    "moods",
    [
        [],
        ["drop"],
        ["drop", "drop", "drop", "drop", "drop", "drop", "drop"],
        ["shut", "drop", "shut", 503, 429],
        ["lie_long"],
        ["lie_short"],
        ["no_length"],
        ["drop", "ignore_range"],
    ],
    ids=str,
)
def test_the_file_arrives_whole_whatever_the_connection_does(server, tmp_path, moods):
    server.moods["file.zip"] = list(moods)
    seen = []
    path = fetch(remote(server), tmp_path, seen.append)
    assert path == tmp_path / "a" / "file.zip" and path.read_bytes() == CONTENT
    assert sum(seen) == SIZE  # the progress bar ends at the end
    assert [found.name for found in path.parent.iterdir()] == ["file.zip"]


def test_a_disk_that_is_full_is_told_at_once_and_what_arrived_is_gone_on_from(server, tmp_path):
    with full_disk(tmp_path / "disk", free=6_000) as fill_up:  # of 10,240 bytes; a page of 4,096 fits
        fill_up()
        with pytest.raises(WriteError, match="file.zip.part cannot be written: No space left on device. Make room"):
            fetch(remote(server), tmp_path / "disk")
        assert len(server.requests) == 1, "another attempt would find the same disk"
        (tmp_path / "disk" / "ballast").unlink()
        assert fetch(remote(server), tmp_path / "disk").read_bytes() == CONTENT
        assert server.requests[-1][1] == "bytes=4096-"


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_fetched(server, tmp_path):
    (tmp_path / "here").mkdir()
    with read_only(tmp_path / "here"), pytest.raises(WriteError, match="file.zip.part cannot be written"):
        fetch(remote(server), tmp_path / "here")
    assert not server.requests


def test_a_later_run_asks_only_for_the_rest(server, tmp_path):
    server.moods["file.zip"] = ["drop", *["shut"] * transfer.PATIENCE]
    with pytest.raises(
        DownloadError, match=r"the server stopped after 5,120 of 10,240 bytes.*kept in file\.zip\.part"
    ):
        fetch(remote(server), tmp_path)
    server.requests.clear()
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("file.zip", "bytes=5120-")]


def test_a_file_that_is_there_is_not_fetched_again_and_one_of_another_size_is(server, tmp_path):
    fetch(remote(server), tmp_path)
    server.requests.clear()
    fetch(remote(server), tmp_path)
    assert server.requests == []
    (tmp_path / "a" / "file.zip").write_bytes(CONTENT[:100])
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_wrong_bytes_are_never_kept_and_the_next_run_starts_anew(server, tmp_path):
    server.moods["file.zip"] = ["wrong"]
    with pytest.raises(DownloadError, match=rf"sent other bytes: md5 .*, not {MD5[4:]}\. Run it again"):
        fetch(remote(server), tmp_path)
    assert list((tmp_path / "a").iterdir()) == []
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_more_bytes_than_the_file_has_are_refused(server, tmp_path):
    server.moods["file.zip"] = ["more"]
    with pytest.raises(DownloadError, match=r"sent 10,244 bytes or more, but file\.zip has 10,240"):
        fetch(remote(server), tmp_path)


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file.zip.part").write_bytes(bytes(20_000))
    assert fetch(remote(server, size=None), tmp_path).read_bytes() == CONTENT


def test_a_server_that_always_lies_ends_in_an_error_and_not_in_a_loop(server, tmp_path):
    server.moods["file.zip"] = ["lie_long"] * 99
    with pytest.raises(DownloadError, match="cannot be fetched"):
        fetch(remote(server, size=None, checksum=None), tmp_path)
    assert len(server.requests) < 20


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, transfer.PATIENCE)])
def test_a_refusal_is_final_and_a_failing_server_is_asked_some_times(server, tmp_path, status, requests):
    server.moods["file.zip"] = [status] * 9
    with pytest.raises(DownloadError, match=str(status)):
        fetch(remote(server), tmp_path)
    assert len(server.requests) == requests


def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def zenodo(server, monkeypatch):
    """RAVDESS's two records: one archive's checksum is known beforehand, the other's is told by the record."""
    monkeypatch.setattr(downloads, "ZENODO", f"{server.url}/api/records")
    monkeypatch.setattr(downloads, "KNOWN", {downloads.SPEECH: (len(CONTENT), MD5)})
    tracking = CONTENT[::-1]
    listed = [
        {"key": "readme.txt", "size": 3, "checksum": "md5:abc"},
        {
            "key": downloads.TRACKING,
            "size": len(tracking),
            "checksum": f"md5:{hashlib.md5(tracking, usedforsecurity=False).hexdigest()}",
        },
    ]
    server.files["api/records/3255102"] = json.dumps({"files": listed}).encode()
    server.files[f"api/records/3255102/files/{downloads.TRACKING}/content"] = tracking
    server.files[f"api/records/1188976/files/{downloads.SPEECH}/content"] = CONTENT
    return server


def test_ravdess_is_fetched_with_both_kinds_of_checksum_and_says_how_much_first(zenodo, tmp_path):
    screen = console()
    downloads.download_ravdess(tmp_path, console=screen)
    assert (tmp_path / downloads.SPEECH).read_bytes() == CONTENT
    assert (tmp_path / downloads.TRACKING).read_bytes() == CONTENT[::-1]
    assert screen.file.getvalue().startswith(f"RAVDESS: 0.00 GB in 2 files, into {tmp_path}")
    zenodo.requests.clear()
    downloads.download_ravdess(tmp_path, console=console())
    assert zenodo.requests == []


def test_an_unpacked_archive_is_not_fetched(zenodo, tmp_path):
    (tmp_path / "Audio_Speech_Actors_01-24").mkdir()
    downloads.download_ravdess(tmp_path, console=console())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Audio_Speech_Actors_01-24", downloads.TRACKING]


def test_the_known_archive_is_the_one_that_the_record_publishes():
    assert downloads.KNOWN[downloads.SPEECH] == (208_468_073, "md5:bc696df654c87fed845eb13823edef8a")
    assert downloads.RECORDS[downloads.TRACKING] == "3255102"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"<html>busy</html>", "does not tell size and checksum"),
        (b'{"files": []}', "does not tell size and checksum"),
        (
            json.dumps({"files": [{"key": downloads.TRACKING, "size": 1, "checksum": "crc:1"}]}).encode(),
            "tells a checksum of FacialTracking_Actors_01-24.zip that cannot be used: crc:1",
        ),
    ],
    ids=["no json", "not listed", "odd checksum"],
)
def test_a_record_that_tells_nothing_useful_is_refused(zenodo, tmp_path, record, message):
    zenodo.files["api/records/3255102"] = record
    with pytest.raises(DownloadError, match=message):
        downloads.download_ravdess(tmp_path, console=console())


def test_offline_says_what_to_put_where(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "ZENODO", "http://127.0.0.1:1/api/records")
    monkeypatch.setattr(downloads, "CREMA_D_RAW", "http://127.0.0.1:1")
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    with pytest.raises(DownloadError) as error:
        load_ravdess(tmp_path, download=True)
    assert f"put these into {tmp_path} yourself: Audio_Speech_Actors_01-24.zip" in str(error.value)
    assert "https://zenodo.org/records/3255102" in str(error.value)
    with pytest.raises(DownloadError, match=r"git lfs install && git clone https://github\.com/CheyneyComputer"):
        load_crema_d(tmp_path, download=True)


def test_a_full_disk_is_told_before_the_download(zenodo, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"has 0\.00 GB left, but 0\.00 GB are to come"):
        downloads.download_ravdess(tmp_path, console=console())
    assert not list(tmp_path.glob("*.zip*"))


@pytest.fixture
def github(server, monkeypatch):
    """CREMA-D's repository with two clips: pointers where git has them, the sound where Git-LFS has it."""
    monkeypatch.setattr(downloads, "CREMA_D_RAW", f"{server.url}/raw")
    monkeypatch.setattr(downloads, "CREMA_D_MEDIA", f"{server.url}/media")
    sound = tiny_sound()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(sound).hexdigest()}\n"
    names = ["1001_DFA_ANG_XX", "1002_TIE_SAD_XX"]
    for name in names:
        server.files[f"raw/AudioWAV/{name}.wav"] = f"{pointer}size {len(sound)}\n".encode()
        server.files[f"media/AudioWAV/{name}.wav"] = sound
    lines = "".join(f'{number},"{name}"\n' for number, name in enumerate(names, start=1))
    server.files["raw/SentenceFilenames.csv"] = f'"Stimulus_Number","Filename"\n{lines}'.encode()
    server.files["raw/VideoDemographics.csv"] = (
        b'"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
        b'1002,21,"Female","Caucasian","Not Hispanic"\n'
    )
    server.files["raw/processedResults/summaryTable.csv"] = (
        b"FileName,VoiceVote,VoiceLevel,FaceVote,FaceLevel,MultiModalVote,MultiModalLevel\n"
        b"1001_DFA_ANG_XX,A,50,A,50,A,50\n1002_TIE_SAD_XX,S,50,N,50,S:N,50:40\n"
    )
    return server


def test_crema_d_is_fetched_from_its_repository_checked_by_its_pointers_and_loads(github, tmp_path):
    rows = load_crema_d(tmp_path / "d", download=True, action_units_folder="", cache_dir=tmp_path / "cache")["train"]
    assert rows["utterance_id"] == ["1001_DFA_ANG_XX", "1002_TIE_SAD_XX"] and rows["actor_age"] == [51, 21]
    github.requests.clear()
    downloads.download_crema_d(tmp_path / "d", console=console())
    assert github.requests == []


def test_one_clip_that_fails_does_not_stop_the_others_and_is_named(github, tmp_path):
    github.moods["media/AudioWAV/1001_DFA_ANG_XX.wav"] = ["wrong"]
    with pytest.raises(DownloadError, match=r"1 of 2 files are missing\. .*1001_DFA_ANG_XX\.wav sent other bytes"):
        downloads.download_crema_d(tmp_path, console=console())
    assert [path.name for path in (tmp_path / "AudioWAV").iterdir()] == ["1002_TIE_SAD_XX.wav"]
    downloads.download_crema_d(tmp_path, console=console())
    assert len(list((tmp_path / "AudioWAV").iterdir())) == 2


def test_a_list_of_clips_that_leads_elsewhere_is_refused_and_an_unknown_folder_too(github, tmp_path):
    github.files["raw/SentenceFilenames.csv"] = b'"Stimulus_Number","Filename"\n1,"../../etc/passwd"\n'
    with pytest.raises(DownloadError, match=r"SentenceFilenames\.csv is not CREMA-D's list of clips"):
        downloads.download_crema_d(tmp_path, console=console())
    with pytest.raises(ValueError, match=r"`folders` \('Video'\) must be of AudioWAV, AudioMP3, VideoFlash"):
        downloads.download_crema_d(tmp_path, folders=("Video",))
    with pytest.raises(ValueError, match=r"`corpus` \('clips'\) has no archives to fetch"):
        downloads.download_corpus("clips", tmp_path)
