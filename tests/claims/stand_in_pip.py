"""Stands in for pip, which needs the network: `pip install …` of this project, checked against pyproject.toml.

It succeeds for the project's own name or folder with extras that exist, and for packages that pyproject.toml requires;
anything else that a page tells its reader to install is an error. Nothing is installed: the harness skips blocks whose
extras are missing.
"""

import re
import sys
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

PROJECT = "modeling-aver"
FILES = ("-r", "--requirement", "-c", "--constraint")


def main(arguments):
    """Exits with the reason why pip could not install `arguments`, if there is one."""
    if arguments[:1] != ["install"]:
        sys.exit(f"pip {' '.join(arguments)}: only `pip install` is known here")
    words = iter(arguments[1:])
    for word in words:
        if word in FILES:
            if not Path(name := next(words)).is_file():
                sys.exit(f"pip: there is no file {name}")
        elif word in ("-e", "--editable"):
            check(next(words))
        elif not word.startswith("-"):
            check(word)


def check(requirement):
    """Exits unless the requirement is this project with extras that it has, or a package that it requires."""
    try:
        # A folder is no requirement to `packaging`, but becomes one by the project's name.
        parsed = Requirement(re.sub(r"^\.(?=\[|$)", PROJECT, requirement))
    except InvalidRequirement as error:
        sys.exit(f"pip: {requirement}: {error}")
    pyproject = Path("pyproject.toml").read_text(encoding="utf-8")
    known = extras(pyproject)
    if parsed.name != PROJECT:
        if parsed.name not in required_names(pyproject):
            sys.exit(f"pip: {requirement} is neither this project nor a package that it requires")
        return
    if unknown := parsed.extras - known.keys():
        sys.exit(f"pip: {requirement}: no extra {', '.join(sorted(unknown))}, only {', '.join(known)}")


def extras(pyproject):
    """`dict[str, list[str]]`: requirements of each extra. Python 3.10 has no reader of TOML."""
    section = re.search(r"^\[project\.optional-dependencies\]\n(.*?)(?=^\[)", pyproject, re.MULTILINE | re.DOTALL)[1]
    found = re.findall(r"^([\w-]+) = \[(.*?)\](?=\s*(?:#|$))", section, re.MULTILINE | re.DOTALL)
    return {name: re.findall(r'"([^"]+)"', requirements) for name, requirements in found}


def required_names(pyproject):
    """`set[str]`: names of the packages that the project or one of its extras requires."""
    always = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)[1]
    lines = re.findall(r'"([^"]+)"', always) + sum(extras(pyproject).values(), [])
    return {Requirement(line).name for line in lines}


if __name__ == "__main__":
    main(sys.argv[1:])
