"""
Runs transformers' own test suite on this package: `python tests/outside/run.py [--sdist PATH]`.

The suite is not in the wheel of transformers, but the source archive of the same version carries it. This script
fetches that archive once, unpacks the suite into a temporary folder, adds the helper modules that the archive leaves
out, and runs `test_modeling_aver_outside.py` beside it. Exits with 0 only where tests ran and none failed.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
VERSION = version("transformers")

# What the common tests import and the archive leaves out. Nothing of it is lost on this package but the export tests:
# it has no `generate`, and ConfigTester asks the common arguments of no configuration with parts.
MISSING_MODULES = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def main():
    args = parse_args()
    refuse_missing_requirements()
    archive = args.sdist or fetch_archive(args.cache)
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder)
        unpack_suite(archive, suite)
        exit_status = run_pytest(suite, args.select)
        outcomes = read_outcomes(suite / "report.xml")
    sys.stdout.write(table(outcomes))
    return exit_status or int(not outcomes["passed"])


def parse_args():
    parser = argparse.ArgumentParser(description="Run transformers' own test suite on this package.")
    parser.add_argument(
        "--sdist", type=Path, help=f"transformers-{VERSION}.tar.gz, if you have it; else it is fetched"
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where the archive is kept (%(default)s)")
    parser.add_argument("-k", dest="select", default="", help="run only the tests that match, as in pytest")
    args = parser.parse_args()
    if args.sdist and not args.sdist.is_file():
        parser.error(f"--sdist {args.sdist} is no file")
    return args


def default_cache():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modeling-aver"


def refuse_missing_requirements():
    missing = [name for name in ("pytest", "parameterized", "pytest_timeout") if find_spec(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} must be installed: pip install -e '.[test,outside-tests]'")


def fetch_archive(cache):
    """The source archive of the installed transformers, from pip's package index or from an earlier run."""
    archive = cache / f"transformers-{VERSION}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", f"--dest={cache}"]
        if subprocess.run([*download, f"transformers=={VERSION}"]).returncode or not archive.exists():
            sys.exit(f"{archive.name} could not be fetched. Fetch it elsewhere and pass it as --sdist.")
    return archive


def unpack_suite(archive, folder):
    """`folder/tests`, a package, with the common tests of the archive, its missing helpers, and a bare pytest.ini."""
    prefix = f"transformers-{VERSION}/tests/"
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.name.startswith(prefix)]
        if not members:
            sys.exit(f"{archive} has no {prefix}: it must be the source archive of the installed transformers.")
        for member in members:
            member.name = member.name.removeprefix(f"transformers-{VERSION}/")
        tar.extractall(folder, members, filter="data")
    for name, text in MISSING_MODULES.items():
        module = folder / "tests" / name
        if not module.exists():  # a later archive may carry the real one
            module.parent.mkdir(exist_ok=True)
            module.write_text(text)
    for package in (folder / "tests", *(folder / "tests" / name for name in ("exporters", "generation", "utils"))):
        (package / "__init__.py").touch()  # a real package is found before any folder that happens to be called tests
    (folder / "pytest.ini").write_text("[pytest]\n")  # in place of our own settings: the suite has marks and warnings


def run_pytest(suite, select):
    options = [f"--rootdir={HERE}", f"--confcutdir={HERE}", f"--config-file={suite / 'pytest.ini'}"]
    options += ["-p", "no:cacheprovider", "-p", "no:warnings", "-q", "--no-header", "-rN", "--tb=short"]
    options += [f"--junitxml={suite / 'report.xml'}", "-k", select]
    settings = {
        "PYTHONPATH": os.pathsep.join([str(suite), str(REPOSITORY)]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # the models are tiny: more threads only wait for one another
    }
    command = [sys.executable, "-m", "pytest", *options, str(HERE / "test_modeling_aver_outside.py")]
    return subprocess.run(command, cwd=suite, env={**os.environ, **settings}).returncode


def read_outcomes(report):
    """`{"passed": [(test, "")], "skipped": [(test, reason)], "failed": [(test, reason)]}`, each test once."""
    outcomes = {"passed": [], "skipped": [], "failed": []}
    for case in ElementTree.parse(report).getroot().iter("testcase") if report.exists() else ():
        name = f"{case.get('classname').rpartition('.')[2]}.{case.get('name')}"
        notes = {
            note.tag: note.get("message", "") for note in reversed(case)
        }  # the first of a kind, where it has many
        kinds = {"failure": "failed", "error": "failed", "skipped": "skipped"}
        kind, reason = next(((kinds[tag], notes[tag]) for tag in kinds if tag in notes), ("passed", ""))
        outcomes[kind].append((name, re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason)))
    return outcomes


def table(outcomes):
    lines = ["", f"transformers {VERSION}: its own tests on this package", ""]
    lines += [f"{len(tests):5} {kind}" for kind, tests in outcomes.items()]
    if outcomes["skipped"]:
        lines += ["", "Skipped, by reason:"]
        reasons = Counter(reason for _, reason in outcomes["skipped"])
        lines += [f"{count:5} {reason}" for reason, count in reasons.most_common()]
    if outcomes["failed"]:
        lines += ["", "Failed:", *(f"      {name}: {reason.splitlines()[0]}" for name, reason in outcomes["failed"])]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
