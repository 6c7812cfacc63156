"""What SECURITY.md promises of the sources, of calls to other programs, and of what runs only when it is asked for."""

import ast
import re
from pathlib import Path

import pytest
from support.fake_openface import write_openface, write_runtime
from support.media import write_video

from modeling_aver.app.space import write_space
from modeling_aver.features.base import ExtractorUnavailableError
from modeling_aver.features.extraction import find_extractor

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*/**/*.py"))
    if path.parts[len(ROOT.parts)] in ("modeling_aver", "datasets_scripts", "benchmarks", "tests", "train_hf.py")
)

UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
PARSERS = {"xml", "lxml", "xmlrpc", "plistlib"}  # of formats that can name entities or objects of their own
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle"),
    *("tempfile.mktemp", "shutil.unpack_archive"),
}
PROCESSES = {f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")}
LOADERS = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoFeatureExtractor", "AverProcessor")
NEEDED = {  # keywords without which a call is refused, by its name or that of its method
    "np.load": "allow_pickle=False",
    "torch.load": "weights_only=True",
    "extractall": "filter='data'",
    "pipeline": "trust_remote_code=False",
    **{f"{loader}.from_pretrained": "trust_remote_code=False" for loader in LOADERS},
}
REFUSED = {"shell=True", "verify=False", "weights_only=False", "allow_pickle=True", "trust_remote_code=True"}
# Where tests play the stranger who trusts a folder that they wrote, or look at the code that is written.
TESTS_MAY = {
    "compile": ("tests/app/test_page.py", "tests/claims/test_readme.py", "tests/outside/"),
    "exec": ("tests/claims/test_readme.py",),
    "pickle": ("tests/",),
    "trust_remote_code": ("tests/",),
    "xml": ("tests/outside/",),  # the report of the run itself
}


def faults(code):
    """(line, what) of everything in a source that could run what a file, a name or a server says."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            if module.split(".")[0] in UNPICKLERS | PARSERS:
                yield node.lineno, module.split(".")[0]
        if isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in faults_of_call(node))


def faults_of_call(node):
    name = ast.unparse(node.func)
    keywords = {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords}
    if name in CALLS:
        yield name
    needed = NEEDED.get(name) or NEEDED.get(name.rpartition(".")[2])
    if needed and needed not in keywords:
        yield f"{name} without {needed}"
    yield from sorted(keywords & REFUSED)
    if any(keyword.startswith(("shell=", "trust_remote_code=")) for keyword in keywords - REFUSED - {needed}):
        yield f"{name} with a shell or remote code"
    if name in PROCESSES and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
        yield "a command that is a string"


def allowed(path, what):
    return any(word in what and path.startswith(paths) for word, paths in TESTS_MAY.items())


@pytest.mark.parametrize("path", SOURCES)
def test_no_source_unpickles_runs_strings_or_loads_code_that_nobody_asked_for(path):
    found = [(line, what) for line, what in faults((ROOT / path).read_text()) if not allowed(path, what)]
    assert not found, "\n".join(f"{path}:{line}: {what}" for line, what in found)


BAD = [
    *("import pickle", "from dill import loads", "import joblib", "import marshal", "import shelve"),
    *("from xml.etree import ElementTree", "import lxml.etree"),
    *("eval(text)", "exec(text)", "compile(text, '', 'exec')", "__import__(name)"),
    *("yaml.load(file, Loader=yaml.Loader)", "yaml.unsafe_load(file)", "yaml.full_load(file)"),
    *("pd.read_pickle(path)", "torch.load(path)", "torch.load(path, weights_only=False)"),
    *("np.load(path)", "np.load(path, allow_pickle=True)", "read(path, allow_pickle=True)"),
    *("os.system(command)", "os.popen(command)", "subprocess.getoutput(command)"),
    *("subprocess.run(words, shell=True)", "subprocess.Popen(words, shell=flag)"),
    *("subprocess.run('ls ' 'x')", "subprocess.Popen(f'ls {name}')", "tempfile.mktemp()"),
    *("archive.extractall(folder)", "shutil.unpack_archive(path)", "requests.get(url, verify=False)"),
    *("AutoModel.from_pretrained(name)", "AutoProcessor.from_pretrained(name, trust_remote_code=True)"),
    *("pipeline(task, model=name)", "load_dataset(name, trust_remote_code=flag)"),
]


@pytest.mark.parametrize("code", BAD)
def test_the_scan_finds_each_of_these(code):
    assert list(faults(code))


def test_the_scan_reads_every_source_and_finds_no_fault_in_sound_code():
    assert {"train_hf.py", "modeling_aver/cli/main.py", "datasets_scripts/hub/build.py"} < set(SOURCES)
    assert len(SOURCES) > 100
    sound = "np.load(path, allow_pickle=False)\nsubprocess.run(['ls', name])\nyaml.safe_load(file)\nre.compile('a')"
    assert not list(faults(sound + "\nAutoModel.from_pretrained(name, trust_remote_code=False)"))


def test_the_code_written_into_a_space_passes_the_scan(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_aver.app.space.version", lambda name: "1.0")
    write_space(tmp_path / "space", "org/aver-demo")
    assert not list(faults((tmp_path / "space" / "app.py").read_text()))


ADDRESSES = {
    "zenodo.org",
    "raw.githubusercontent.com",
    "media.githubusercontent.com",
    "storage.googleapis.com",
}


def test_only_the_servers_that_security_md_names_are_ever_asked():
    """Other addresses in the sources are for people to read: none of these files opens one."""
    named = set(re.findall(r"`([\w.]+\.(?:org|com))`", (ROOT / "SECURITY.md").read_text()))
    assert ADDRESSES <= named
    openers = {path for path in SOURCES if "urlopen(" in (ROOT / path).read_text() and not path.startswith("tests/")}
    assert openers == {
        "modeling_aver/io/download.py",
        "modeling_aver/features/mediapipe.py",
        "modeling_aver/pipeline_aver.py",  # an address that the user gave
    }
    constants = r'(?m)^(?:[A-Z_]+ = |    ")"?(?:https?)://([\w.]+)'
    fetched = {
        host
        for path in ("datasets_scripts/downloads.py", "modeling_aver/features/mediapipe.py")
        for host in re.findall(constants, (ROOT / path).read_text())
    }
    assert fetched == ADDRESSES


def test_remote_code_is_shown_with_a_pinned_revision_wherever_it_is_shown():
    shown = 0
    for path in (*ROOT.glob("*.md"), *(ROOT / "modeling_aver" / "training").glob("*.md"), *ROOT.glob("*/*/README.md")):
        for block in re.findall(r"```python.*?```", path.read_text(), flags=re.DOTALL):
            for line in block.splitlines():
                if "trust_remote_code=True" in line:
                    shown += 1
                    assert "revision=" in line, f"{path.name}: {line}"
    assert shown >= 2


NAMES = [
    "a; touch pwned.mp4",
    "$(touch pwned).mp4",
    "`touch pwned`.mp4",
    "-rf.mp4",
    "a\ntouch pwned\n.mp4",
    "a,ro.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_media_file_s_name_is_one_argument_and_never_an_option(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    program = write_openface(tmp_path / "OpenFace")
    write_video(tmp_path / name, [0, 40, 80])
    track = find_extractor("openface", openface=program).extract(Path(name))
    assert len(track.timestamps) == 3
    assert f"-f\t{tmp_path / name}\t" in (program.parent / "calls.txt").read_text()
    assert not list(tmp_path.rglob("pwned*"))


DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize("name", NAMES[-2:])
@pytest.mark.parametrize("runtime, image", [("docker", f"a/b@{DIGEST}"), ("apptainer", f"docker://a/b@{DIGEST}")])
def test_a_container_is_given_one_file_to_read_and_no_network(tmp_path, monkeypatch, runtime, image, name):
    program = write_openface(tmp_path / "OpenFace")
    write_runtime(tmp_path / "bin", runtime, program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    video = write_video(tmp_path / name, [0, 40, 80])
    assert len(find_extractor("openface", openface=f"{runtime}:{image}").extract(video).timestamps) == 3
    told = (tmp_path / "bin" / "runtime.txt").read_text()
    assert told.count("--mount\n") == 2 and "destination=/in/clip.mp4,ro\n" in told
    assert runtime != "docker" or "--network\nnone\n" in told
    assert not list(tmp_path.rglob("pwned*"))


@pytest.mark.parametrize("image", [f"--privileged@{DIGEST}", f"-v/:/host@{DIGEST}", "openface:latest"])
def test_an_image_is_no_option_of_the_runtime(tmp_path, monkeypatch, image):
    write_runtime(tmp_path / "bin", "docker", "none")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    with pytest.raises(ExtractorUnavailableError, match="Name it by digest"):
        find_extractor("openface", openface=f"docker:{image}")
