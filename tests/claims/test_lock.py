"""`.ci/lock` holds, with hashes, what pyproject.toml asks for; a requirement added without `make lock` fails here."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {name: (ROOT / ".ci" / "lock" / f"{name}.txt").read_text() for name in ("test", "all")}
YOUR_CHOICE = {"torch"}  # its build differs from machine to machine, so it is in neither lock


def pinned(lock):
    """`dict[str, list[str]]`: versions by package; several where Python versions need different ones."""
    versions = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, flags=re.MULTILINE):
        versions.setdefault(canonicalize_name(name), []).append(version)
    return versions


def requirements(*extras):
    extras_of_the_project = PROJECT["optional-dependencies"]
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [Requirement(text) for extra in extras for text in extras_of_the_project[extra]]
    own = [extra for one in wanted if one.name == PROJECT["name"] for extra in one.extras]
    return [one for one in wanted if one.name != PROJECT["name"]] + (requirements(*own) if own else [])


@pytest.mark.parametrize(("lock", "extras"), [("test", ["test"]), ("all", list(PROJECT["optional-dependencies"]))])
def test_the_lock_pins_every_requirement_within_its_bounds(lock, extras):
    versions, missing = pinned(LOCKS[lock]), []
    for one in requirements(*extras):
        found = versions.get(canonicalize_name(one.name), [])
        if one.name not in YOUR_CHOICE and not any(one.specifier.contains(version) for version in found):
            missing.append(f"{one}: {found}")
    assert missing == [], "run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pinned_package_has_a_hash_and_torch_is_left_out(lock):
    entries = re.split(r"\n(?=\S)", LOCKS[lock].strip())
    assert len(entries) > 100 and [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert YOUR_CHOICE.isdisjoint(pinned(LOCKS[lock]))


def test_both_locks_agree():
    everything, some = pinned(LOCKS["all"]), pinned(LOCKS["test"])
    assert {name for name, versions in some.items() if not set(versions) <= set(everything.get(name, []))} == set()
