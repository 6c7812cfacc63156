"""What an extraction wrote, by clip."""

import time
from pathlib import Path


def tables(out):
    """Bytes of each table under a folder, by name."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in Path(out).rglob("*.npz")}


def by_name(report):
    return {Path(outcome.clip).name: outcome for outcome in report.outcomes}


def alive(pid, patience=2.0):
    """Whether a process still runs; one that is dead and not yet buried does not."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        time.sleep(0.05)
    return True
