"""What became of each clip of a run, for people and for programs."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

STATUSES = {
    "done": "features are there",
    "doubtful": "features are there, but may mix two people or scenes",
    "no_face": "no face in any frame: the table is there, with every frame failed",
    "corrupt": "the file cannot be used",
    "failed": "the extractor failed, the file may be sound",
    "skipped": "not looked at",
    "ignored": "not a clip of its own: a hidden file, a folder already searched, a sound file beside its video",
}
COMPLETE = ("done", "doubtful", "ignored")  # statuses that leave no clip without features


@dataclass(frozen=True)
class Outcome:
    """
    What became of one clip.

    Args:
        clip (`str`): Its file.
        status (`str`): One of `STATUSES`.
        reason (`str`, *optional*): Why.
        frames (`int`, *optional*, defaults to 0): In how many frames a face was found.
        earlier (`bool`, *optional*, defaults to `False`): Whether an earlier run had finished it.
    """

    clip: str
    status: str
    reason: str = ""
    frames: int = 0
    earlier: bool = field(default=False, compare=False)

    @property
    def is_missing(self):
        """Whether the clip is left without usable features."""
        return self.status not in COMPLETE


def missing_reasons(outcomes):
    """`dict[str, str]`: the reason of each clip that is left without features, by its file."""
    return {outcome.clip: outcome.reason for outcome in outcomes if outcome.is_missing}


@dataclass(frozen=True)
class Report:
    """What became of all clips, and the identity of their features."""

    identity: dict
    outcomes: tuple[Outcome, ...]

    @property
    def counts(self):
        """How many clips have each status."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {status: found[status] for status in STATUSES}

    def to_json(self):
        """JSON: identity, counts, and for each clip its file, status, reason and number of frames with a face."""
        clips = [asdict(outcome) for outcome in self.outcomes]
        return json.dumps({"identity": self.identity, "counts": self.counts, "clips": clips}, indent=1)

    def to_text(self):
        """Text: the counts, how many were already done, then every clip that is not done, by name with its reason."""
        lines = [f"{count:6d} {status:8s} {STATUSES[status]}" for status, count in self.counts.items() if count]
        if earlier := sum(outcome.earlier for outcome in self.outcomes):
            lines.append(f"already done: {earlier} of {len(self.outcomes)}, in an earlier run")
        bad = [outcome for outcome in self.outcomes if outcome.status != "done"]
        return "\n".join([*lines, *(f"{one.status:8s} {one.clip}: {one.reason}" for one in bad)])
