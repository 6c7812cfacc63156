"""What an extraction wrote, by clip."""

from pathlib import Path


def tables(out):
    """Bytes of each table under a folder, by name."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in Path(out).rglob("*.npz")}


def by_name(report):
    return {Path(outcome.clip).name: outcome for outcome in report.outcomes}
