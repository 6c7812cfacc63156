"""Prints the lowest versions that pyproject.toml allows, one `name==version` a line: `make lowest` installs these.

What has no lower bound of its own is left to pip. Extras that the extra `test` names are followed.
"""

import sys
from importlib.metadata import PackageNotFoundError, requires

from packaging.markers import default_environment
from packaging.requirements import Requirement

PROJECT = "modeling-aver"


def lowest(requirements, extras):
    """
    Args:
        requirements (iterable of `str`): As a package's metadata has them.
        extras (`set[str]`): That are wanted; what they name of the project itself is added to them.

    Returns:
        `dict[str, str]`: lowest version by name. Requirements for another Python or system are left out.
    """
    parsed = [Requirement(text) for text in requirements]
    found = {}
    for extra in sorted(extras | {""}):
        environment = {**default_environment(), "extra": extra}
        for one in parsed:
            if one.marker is not None and not one.marker.evaluate(environment):
                continue
            if one.name.replace("_", "-") == PROJECT:
                if not one.extras <= extras:
                    return lowest(requirements, extras | one.extras)
                continue
            found.update((one.name, bound.version) for bound in one.specifier if bound.operator == ">=")
    return found


def main():
    try:
        versions = lowest(requires(PROJECT), {"test"})
    except PackageNotFoundError:
        sys.exit(f"{PROJECT} is not installed: pip install --editable . --no-deps")
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(versions.items()))


if __name__ == "__main__":
    main()
