"""
A Hub that drops, refuses, delays and forgets: what a push tries again, what it tells, and that nothing is there by
halves. The Hub is a stand-in on this machine, for its network cannot be had here; client and faults are real.
"""

# ruff: noqa: F401 -- fixtures of another file are asked for by their names

import subprocess
import sys
import time
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.utils import _http
from support.faults import kill_group
from support.hub import PIECES, ROOT, aver, content, elsewhere, here, hub
from support.runs import made_up_run

from datasets_scripts import SAMPLE_DIR
from datasets_scripts.hub.build import build_corpus
from datasets_scripts.hub.record import push_build
from modeling_aver.cards.push import push_run
from modeling_aver.io import uploads
from modeling_aver.io.uploads import UploadError

COMMIT = "/api/models/org/aver/commit/main"
CREATE = "/api/repos/create"
BATCH = "/org/aver.git/info/lfs/objects/batch"
LARGE = "/lfs/"  # where the weights go


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, never changed."""
    return made_up_run(tmp_path_factory.mktemp("runs") / "aver")


@pytest.fixture
def naps(monkeypatch):
    """Seconds that were to be waited between attempts; nobody waits them."""
    naps = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=naps.append, time=time.time))
    monkeypatch.setattr(uploads.with_patience, "__defaults__", (naps.append,))
    return naps


@pytest.fixture
def faulty(here, naps):
    """`faulty(address, *answers)`: the Hub answers the next requests for that address so, and then as it should."""
    handler, waiting = here.server.RequestHandlerClass, {}
    route = handler.route

    def answer(self):
        for address, answers in waiting.items():
            if self.path.startswith(address) and self.command in ("POST", "PUT") and answers:
                return answers.pop(0)(self)
        return route(self)

    handler.do_POST = handler.do_PUT = answer

    def ask(address, *answers):
        waiting[address] = list(answers)
        return waiting[address]

    ask.hub = here
    return ask


def says(code, message="", **headers):
    """An answer of this status."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"X-Error-Message": message}

    def answer(handler):
        handler.body()
        handler.send(code, {"error": message}, headers)

    return answer


def drops(handler):
    """The connection ends in the middle of what is sent."""
    handler.rfile.read(10)
    handler.close_connection = True
    handler.connection.close()


def forgets_to_answer(handler):
    """Takes what is sent, does it, and drops the connection before the answer."""
    handler.send = lambda *_, **__: None
    handler.route()
    handler.close_connection = True
    handler.connection.close()


def is_silent(handler):
    time.sleep(1.0)
    drops(handler)


def commits(hub):
    """Of each commit that anybody can see: its title and the names of its files."""
    repository = hub.state.get("model", "org/aver")
    return [] if repository is None else [(one["title"], set(one["files"])) for one in repository["commits"].values()]


def assert_never_by_halves(hub):
    for title, files in commits(hub):
        assert files == (set() if title == "initial commit" else PIECES), title


MOMENTS = {
    "a connection that breaks off": drops,
    "an answer that is lost": forgets_to_answer,
    "500 once": says(500, "oops"),
    "503 once": says(503),
    "429 with a time to wait": says(429, "slow down", Retry_After="3"),
}


# One of each every day, all of them at all addresses in the slow stage.
DAILY = {
    ("a connection that breaks off", LARGE),
    ("an answer that is lost", COMMIT),
    ("500 once", CREATE),
    ("429 with a time to wait", BATCH),
}
FAULTS = [
    pytest.param(fault, address, marks=() if (fault, address) in DAILY else pytest.mark.slow)
    for fault in MOMENTS
    for address in (CREATE, BATCH, LARGE, COMMIT)
]


@pytest.mark.parametrize(("fault", "address"), FAULTS)
def test_what_fails_for_a_moment_is_tried_again_and_the_repository_is_whole(run, faulty, naps, fault, address):
    left = faulty(address, MOMENTS[fault])
    push_run(run, "org/aver")
    assert not left and naps, "the fault was met, and waited for"
    assert set(content(faulty.hub)) == PIECES
    assert content(faulty.hub)["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert_never_by_halves(faulty.hub)
    assert "429" not in fault or 4.0 in naps or address in (CREATE, COMMIT), "as long as the Hub asked for"


@pytest.mark.parametrize(
    ("fault", "address"),
    [
        pytest.param(drops, CREATE, id="dropped where it is made"),
        pytest.param(drops, LARGE, id="dropped while weights are sent", marks=pytest.mark.slow),
        pytest.param(says(500, "oops"), LARGE, id="500 for weights", marks=pytest.mark.slow),
        pytest.param(says(500, "oops"), COMMIT, id="500 for the commit"),
    ],
)
def test_a_hub_that_never_recovers_is_given_up_and_a_later_push_completes_it(run, faulty, naps, fault, address):
    left = faulty(address, *[fault] * 1000)
    outcome = aver("push", run, "org/aver")
    assert outcome.exit_code == 1 and isinstance(outcome.exception, UploadError)
    told = str(outcome.exception)
    assert "\n" not in told and told.startswith("org/aver was not pushed: the Hub ")
    assert told.endswith(f"Push again later, what has arrived is not sent twice: aver push {run} org/aver")
    assert len(left) > 900 and sum(naps) < 120, "seconds in all"
    assert commits(faulty.hub) in ([], [("initial commit", set())])
    left.clear()
    push_run(run, "org/aver")
    assert set(content(faulty.hub)) == PIECES


@pytest.mark.parametrize("code", [401, 403])
def test_a_token_that_may_not_write_is_told_at_once_and_what_to_do(run, faulty, naps, code):
    faulty(CREATE, says(code, "Invalid username or password."))
    with pytest.raises(
        UploadError, match=rf"answers {code} .*Log in with a token that may write there \(hf auth login"
    ):
        push_run(run, "org/aver")
    assert not naps and not commits(faulty.hub)


def test_a_token_that_may_make_but_not_fill_a_repository_is_told_too(run, faulty):
    faulty(BATCH, says(403, "You don't have write access"))
    with pytest.raises(UploadError, match="answers 403 .*You don't have write access.*Log in"):
        push_run(run, "org/aver")
    assert commits(faulty.hub) == [("initial commit", set())]


def test_a_hub_that_asks_to_wait_for_a_day_is_not_waited_for(run, faulty, naps):
    faulty(LARGE, *[says(429, "slow down", Retry_After="86400")] * 9)
    with pytest.raises(UploadError, match="asks to come back in 86400 s"):
        push_run(run, "org/aver")
    assert sum(naps) < 60


@pytest.mark.parametrize("address", [CREATE, LARGE, pytest.param(COMMIT, marks=pytest.mark.slow)])
def test_a_hub_that_says_nothing_is_not_waited_for_for_ever(run, faulty, monkeypatch, address):
    monkeypatch.setattr(uploads, "TIMEOUT", 0.2)
    left = faulty(address, is_silent)
    began = time.monotonic()
    push_run(run, "org/aver")
    assert not left and time.monotonic() - began < 20
    assert set(content(faulty.hub)) == PIECES


def test_a_hub_that_is_not_there_is_told_in_one_line(run, monkeypatch, naps):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    outcome = aver("push", run, "org/aver")
    assert isinstance(outcome.exception, UploadError) and "cannot be reached (ConnectError" in str(outcome.exception)
    assert "\n" not in str(outcome.exception)


PUSH = "import sys; from modeling_aver.cards.push import push_run; push_run(*sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.parametrize("address", [LARGE, COMMIT])
def test_a_push_that_is_killed_is_completed_by_the_next(run, faulty, tmp_path, address):
    met = []

    def holds(handler):
        met.append(handler.path)
        time.sleep(5)
        drops(handler)

    faulty(address, holds)
    client = subprocess.Popen(
        [sys.executable, "-c", PUSH, str(run), "org/aver"],
        env=elsewhere(faulty.hub, tmp_path),
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not met and time.monotonic() < deadline:
        time.sleep(0.01)
    kill_group(client)
    assert met and commits(faulty.hub) == [("initial commit", set())]
    push_run(run, "org/aver")
    assert set(content(faulty.hub)) == PIECES
    assert_never_by_halves(faulty.hub)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "six"
    build_corpus("crema_d", SAMPLE_DIR, folder)
    return folder


def clips_at(hub):
    repository = hub.state.get("dataset", "org/clips")
    return set(repository["commits"][repository["refs"]["main"]]["files"]) if repository else None


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["a connection that breaks off", "an answer that is lost", "500 once"])
def test_clips_are_pushed_whole_over_a_fault(built, faulty, fault):
    for address in (CREATE, LARGE, "/api/datasets/org/clips/commit/main"):
        faulty(address, MOMENTS[fault])
    push_build(built, "org/clips")
    assert clips_at(faulty.hub) == {
        path.relative_to(built).as_posix() for path in built.rglob("*") if path.suffix in (".parquet", ".md", ".json")
    }


def test_clips_that_could_not_be_pushed_are_not_there_by_halves(built, faulty):
    left = faulty(LARGE, *[says(500)] * 1000)
    with pytest.raises(UploadError, match="org/clips was not pushed: the Hub answers 500"):
        push_build(built, "org/clips")
    assert clips_at(faulty.hub) == set()
    left.clear()
    push_build(built, "org/clips")
    assert any(name.endswith(".parquet") for name in clips_at(faulty.hub))
