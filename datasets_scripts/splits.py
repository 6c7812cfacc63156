"""Published evaluation protocols: which clips train, validate and test. Every claim of a protocol is checked here."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

SPLITS_DIR = Path(__file__).parent / "splits"
PARTS = ("train", "validation", "test")


class SplitError(ValueError):
    """A split that does not keep what it says."""


@dataclass(frozen=True)
class Split:
    """
    One way to part a corpus, as published. It holds names, not data: [`Split.parts`] sorts the clips that are there.

    Args:
        name (`str`): Such as `"speaker_5fold_1"`.
        corpus (`str`): crema_d or ravdess.
        source (`str`): Where the lists come from.
        citation (`str`): Who to cite.
        speaker_independent (`bool`): The claim that no speaker is in two parts. Checked, never believed.
        num_clips (`int`): Clips of the whole corpus.
        sizes (`dict[str, int]`): Published number of clips of each part, when no clip is missing.
        speakers (`dict[str, frozenset[str]]`, *optional*): Of each part, where speakers decide.
        clips (`dict[str, frozenset[str]]`, *optional*):
            Clips of the parts that are listed by clip; every other clip trains.
        left_out (`frozenset[str]`, *optional*): Clips that the protocol does not use.

    Raises:
        [`SplitError`]: if a speaker or clip is listed in two parts although the split claims otherwise.
    """

    name: str
    corpus: str
    source: str
    citation: str
    speaker_independent: bool
    num_clips: int
    sizes: Mapping[str, int]
    speakers: Mapping[str, frozenset] = field(default_factory=dict)
    clips: Mapping[str, frozenset] = field(default_factory=dict)
    left_out: frozenset = frozenset()

    def __post_init__(self):
        check_disjoint(self.clips)
        if self.speaker_independent:
            check_speakers(self.speakers)

    def part_of(self, utterance_id, speaker_id):
        """The part that a clip belongs to, or `None` for a clip that the protocol leaves out."""
        if utterance_id in self.left_out:
            return None
        if not self.speakers:
            return next((part for part, clips in self.clips.items() if utterance_id in clips), "train")
        for part, speakers in self.speakers.items():
            if speaker_id in speakers:
                return part
        raise SplitError(f"Speaker {speaker_id} of {utterance_id} is in no part of {self.name}. Is it {self.corpus}?")

    def parts(self, clips, validation_fraction=0.0, seed=0):
        """
        Sorts clips into parts and checks the result ([`Split.check`]).

        Args:
            clips (`dict[str, str]`): Speaker of each utterance.
            validation_fraction (`float`, *optional*, defaults to 0.0):
                Share of the training speakers whose clips become the validation part. Where speakers overlap anyway it
                is the share of the training clips. Refused where the protocol has its own validation part.
            seed (`int`, *optional*, defaults to 0): Another seed, another cut; the same seed, the same cut everywhere.

        Returns:
            `dict[str, list[str]]`: sorted utterances of train, validation (if any) and test.

        Raises:
            [`SplitError`]: if the parts break a claim of the split.
            `ValueError`: if `validation_fraction` is not in [0, 1) or there is a validation part already.
        """
        sorted_out = {part: [] for part in PARTS if part in self.sizes}
        for utterance_id in sorted(clips):
            part = self.part_of(utterance_id, clips[utterance_id])
            if part is not None:
                sorted_out[part].append(utterance_id)
        self.check(sorted_out, clips)
        if not validation_fraction:
            return sorted_out
        if "validation" in sorted_out:
            raise ValueError(
                f"`validation_fraction` ({validation_fraction}): {self.name} has its own validation part."
            )
        return self._with_validation(sorted_out, clips, validation_fraction, seed)

    def _with_validation(self, parts, clips, fraction, seed):
        speakers_of = clips if self.speaker_independent else {clip: clip for clip in clips}
        train, validation = cut_validation(parts["train"], speakers_of, fraction, seed)
        parts = {"train": train, "validation": validation, "test": parts["test"]}
        check_disjoint(parts)
        if self.speaker_independent:
            check_speakers(speakers_of_parts(parts, clips))
        return parts

    def check(self, parts, clips):
        """
        Raises [`SplitError`] unless the parts are disjoint, share no speaker where the split claims so, hold every
        clip that is not left out, and have the published sizes (the last only if the corpus is complete).

        Args:
            parts (`dict[str, list[str]]`): Utterances of each part.
            clips (`dict[str, str]`): Speaker of each utterance of the corpus.
        """
        check_disjoint(parts)
        if self.speaker_independent:
            check_speakers(speakers_of_parts(parts, clips))
        lost = sorted(set(clips).difference(self.left_out, *parts.values()))
        if lost:
            raise SplitError(f"{self.name} neither uses nor leaves out {_shown(lost)}.")
        if len(clips) == self.num_clips:
            self._check_sizes({part: len(utterances) for part, utterances in parts.items()})

    def _check_sizes(self, found):
        for part, published in self.sizes.items():
            if found.get(part, 0) != published:
                raise SplitError(
                    f"{self.name} has {found.get(part, 0):,} {part} clips, but {self.source} has {published:,}. "
                    "Are all file names official?"
                )

    @property
    def warning(self):
        """What a user has to know before quoting a number on this split, or `None`."""
        if self.speaker_independent:
            return None
        return (
            f"{self.corpus} {self.name}: the same speakers are in train and test. Results on it are not "
            "speaker-independent, whatever a paper calls them."
        )


def check_disjoint(parts):
    """Raises [`SplitError`] if a clip is in two of `parts` (`dict[str, Iterable[str]]`)."""
    for (one, clips), (other, others) in combinations(parts.items(), 2):
        shared = sorted(set(clips) & set(others))
        if shared:
            raise SplitError(f"Clips {_shown(shared)} are in both {one} and {other}.")


def check_speakers(speakers):
    """Raises [`SplitError`] if a speaker is in two parts of `speakers` (`dict[str, Iterable[str]]`)."""
    for (one, ours), (other, theirs) in combinations(speakers.items(), 2):
        shared = sorted(set(ours) & set(theirs))
        if shared:
            raise SplitError(
                f"Speakers {_shown(shared)} are in both {one} and {other}: the split is not speaker-independent."
            )


def speakers_of_parts(parts, clips):
    """Speakers of each part, from its utterances and the speaker of each utterance."""
    return {part: {clips[utterance_id] for utterance_id in utterances} for part, utterances in parts.items()}


def cut_validation(utterances, speakers, fraction, seed=0):
    """
    Moves whole speakers from training to validation. Which ones depends on their names and the seed alone, so that a
    missing clip moves nobody.

    Args:
        utterances (`list[str]`): Of the training part.
        speakers (`dict[str, str]`): Speaker of each utterance.
        fraction (`float`): Share of the speakers, in (0, 1). At least one is moved and one stays.
        seed (`int`, *optional*, defaults to 0)

    Returns:
        `tuple[list[str], list[str]]`: training and validation utterances.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`validation_fraction` ({fraction}) must lie between 0 and 1.")
    ranked = sorted({speakers[utterance_id] for utterance_id in utterances}, key=lambda name: _rank(name, seed))
    if len(ranked) < 2:
        raise ValueError(f"{len(ranked)} training speaker(s) cannot be parted: a validation part needs two or more.")
    held_out = set(ranked[: min(max(1, round(fraction * len(ranked))), len(ranked) - 1)])
    train = [utterance_id for utterance_id in utterances if speakers[utterance_id] not in held_out]
    return train, [utterance_id for utterance_id in utterances if speakers[utterance_id] in held_out]


def _rank(name, seed):
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _shown(names, most=6):
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def load_splits(corpus):
    """
    The published splits of a corpus.

    Args:
        corpus (`str`): crema_d or ravdess.

    Returns:
        `dict[str, Split]`: by name; folds are numbered from 1, such as `speaker_5fold_1`.
    """
    files = sorted(SPLITS_DIR.glob(f"{corpus}_*.json"))
    if not files:
        known = ", ".join(sorted({_read(path)["corpus"] for path in SPLITS_DIR.glob("*.json")}))
        raise ValueError(f"`corpus` ({corpus!r}) must be one of {known}.")
    return {split.name: split for path in files for split in _folds(_read(path))}


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _folds(protocol):
    folds = protocol["folds"]
    for number, fold in enumerate(folds, start=1):
        yield Split(
            name=protocol["name"] if len(folds) == 1 else f"{protocol['name']}_{number}",
            corpus=protocol["corpus"],
            source=protocol["source"],
            citation=protocol["citation"],
            speaker_independent=protocol["speaker_independent"],
            num_clips=protocol["num_clips"],
            sizes=fold["sizes"],
            speakers={part: frozenset(names) for part, names in fold.get("speakers", {}).items()},
            clips={part: frozenset(names) for part, names in fold.get("clips", {}).items()},
            left_out=frozenset(protocol["left_out"]),
        )
