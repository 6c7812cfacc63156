"""
A corpus as a folder of Parquet that is already what the Hub wants: each clip is stored once, in files such that every
part of every configuration is a list of whole files, and the card's YAML holds the lists.
"""

import json
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import datasets
import pyarrow.parquet as pq

from modeling_aver.io.atomic import alone, writing

from ..clips import Clips
from ..crema_d import CremaD
from ..ravdess import CHANNELS, Ravdess
from ..schema import identities_of, load
from ..splits import SplitError
from ..validation import SchemaError, find_problems
from .card import render_card
from .record import RECORD, WORK, Build
from .shards import damage_of, sha256_of

CORPORA = {"crema_d": CremaD, "ravdess": Ravdess, "clips": Clips}
ROWS_A_GROUP = 100  # about 10 MB: what a stream or the Hub's viewer reads at once


def build_corpus(corpus, data_dir, out, *, num_proc=None, strict=False, **config):
    """
    Builds every configuration of a corpus.

    Args:
        corpus (`str`): crema_d, ravdess or clips.
        data_dir (`str` or `Path`): As the corpus's builder wants it; for clips, the CSV.
        out (`str` or `Path`): A new folder, or that of an earlier build, which is replaced when the new one is whole.
        num_proc (`int`, *optional*): Processes that read clips.
        strict (`bool`, *optional*, defaults to `False`): Stop at the first bad clip.
        config: Further fields of the builder's configuration.

    Returns:
        [`~built.Build`]

    Raises:
        `ValueError`: for an unknown corpus, or an `out` that holds other things, or at which another process is.
        `MediaError`: if no clip can be used. `WriteError`: if `out` takes no more; an earlier build is then kept.
    """
    _check_corpus(corpus)
    out = Path(out).resolve()
    _check_out(out)
    with writing(out), _workshop(out) as work:
        new, build = work / "new", Build(corpus)
        for folder, builder in _builders(corpus, data_dir, work / "cache", {"strict": strict, **config}).items():
            _add(build, builder, new, folder, num_proc)
        (new / RECORD).write_text(json.dumps(asdict(build), indent=1) + "\n", encoding="utf-8")
        (new / "README.md").write_text(render_card(build, CORPORA[corpus].SPLITS), encoding="utf-8")
        _replace(out, new)
    return build


def validate_corpus(corpus, data_dir, **config):
    """
    Reads every clip of an official folder, or a table of one's own clips, without building anything.

    Args:
        corpus, data_dir, config: As for [`build_corpus`].

    Returns:
        `dict[str, list[str]]`: why each clip, or file, cannot be used.
    """
    _check_corpus(corpus)
    with tempfile.TemporaryDirectory() as work:
        builders = _builders(corpus, data_dir, work, config).values()
        return {name: [reason] for builder in builders for name, reason in builder.problems().items()}


def _check_corpus(corpus):
    if corpus not in CORPORA:
        raise ValueError(f"`corpus` ({corpus!r}) must be one of {', '.join(CORPORA)}.")


def _check_out(out):
    if out.exists() and not out.is_dir():
        raise ValueError(f"`out` ({out}) is a file. Name a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file() and not (out / WORK).is_dir():
        raise ValueError(f"`out` ({out}) is not empty and no earlier build. Name a new folder.")


@contextmanager
def _workshop(out):
    """
    A folder inside `out` for what is not finished, of one process at a time. What a killed one left there is removed
    by the next: the lock ends with the process.
    """
    work, is_new = out / WORK, not out.exists()
    try:
        with alone(work / "lock", f"builds {out}"):
            _clear(work)
            try:
                yield work
            finally:
                _clear(work)
    finally:
        with suppress(OSError):  # not empty: another process is at work in it, or it holds the build
            work.rmdir()
            if is_new:
                out.rmdir()


def _clear(work):
    for path in set(work.iterdir()) - {work / "lock"}:
        shutil.rmtree(path)


def _replace(out, new):
    """
    Puts the new build in the place of the old, of which only what a build writes is removed. The record goes first and
    comes last: with it, everything is there.
    """
    for old in (out / RECORD, out / "README.md", *out.glob("data*/*.parquet")):
        old.unlink(missing_ok=True)
    for path in sorted(new.rglob("*"), key=lambda path: (path.parent == new, path.name == RECORD, path)):
        if path.is_file():
            target = out / path.relative_to(new)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)


def _builders(corpus, data_dir, cache_dir, config):
    """Builders of a corpus by the folder of their files: RAVDESS's song, where it is there, is a set of its own."""
    data_dir = Path(data_dir).resolve()
    if corpus == "clips":
        config, data_dir = {**config, "table": data_dir.name}, data_dir.parent
    options = {"data_dir": str(data_dir), "cache_dir": str(cache_dir), **config}
    builders = {"data": CORPORA[corpus](config_name="all", **options)}
    if corpus == "ravdess":
        builders["data_song"] = Ravdess(config_name="song", **options)
        builders = {folder: builder for folder, builder in builders.items() if builder.has_sound()}
        if not builders:
            raise ValueError(f"`data_dir` ({data_dir}) holds no sound of {' or '.join(CHANNELS)}.")
    return builders


def _add(build, builder, new, folder, num_proc):
    """Builds one set of clips and adds its files, counts and left-out clips to the record."""
    parts = load(builder, num_proc=num_proc)
    rows = datasets.concatenate_datasets(list(parts.values()))
    configurations = {builder.config.name: {part: list(some["utterance_id"]) for part, some in parts.items()}}
    if builder.config.name == "all":
        clips = dict(zip(rows["utterance_id"], rows["speaker_id"], strict=True))
        configurations |= {name: split.parts(clips) for name, split in builder.SPLITS.items()}
    files = _write(rows, configurations, new / folder)
    build.digests |= {f"{folder}/{file}": sha256_of(new / folder / file) for file in sorted(set(files.values()))}
    for name, parts in configurations.items():
        build.counts[name] = {part: count(rows, ids) for part, ids in parts.items() if ids}
        build.files[name] = {
            part: sorted({f"{folder}/{files[clip]}" for clip in ids}) for part, ids in parts.items() if ids
        }
    build.left_out |= builder.reasons(rows["utterance_id"])
    identities = [identity.to_dict() for identity in identities_of(rows)]
    build.identities += [one for one in identities if one not in build.identities]


def _write(rows, configurations, folder):
    """Clips that are in the same part of every configuration share a file: `dict[str, str]`, file of each clip."""
    signatures = {clip: [] for clip in rows["utterance_id"]}
    for name, parts in configurations.items():
        for part, clips in parts.items():
            for clip in clips:
                signatures[clip].append((name, part))
    groups = {}
    for index, signature in enumerate(signatures.values()):
        groups.setdefault(tuple(signature), []).append(index)
    folder.mkdir(parents=True)
    files, names = {}, list(signatures)
    for number, indices in enumerate(groups.values()):
        file = f"clips-{number:03d}.parquet"
        rows.select(indices).to_parquet(folder / file, batch_size=ROWS_A_GROUP)
        files |= {names[index]: file for index in indices}
    return files


def count(rows, utterance_ids):
    """`dict[str, int]`: clips, speakers, and clips of each emotion, of some utterances of a dataset."""
    wanted, to_name = set(utterance_ids), rows.features["label"].int2str
    columns = zip(rows["utterance_id"], rows["speaker_id"], rows["label"], strict=True)
    chosen = [(speaker, label) for clip, speaker, label in columns if clip in wanted]
    labels = Counter(label for _, label in chosen)
    emotions = {to_name(label): labels[label] for label in range(rows.features["label"].num_classes)}
    return {"clips": len(chosen), "speakers": len({speaker for speaker, _ in chosen}), "emotions": emotions}


def validate_build(folder):
    """
    Reads every clip of a built folder and checks every split again.

    Returns:
        `dict[str, list[str]]`: what is wrong with each file, clip, or configuration.

    Raises:
        `ValueError`: if the folder is no build, or lacks files of it.
    """
    folder, build = Path(folder), Build.read(folder)
    files = build.shards
    lost = [file for file in files if not (folder / file).is_file()]
    if lost:
        raise ValueError(f"{folder} lacks {', '.join(lost[:6])} of its {len(files)} files. Build it again.")
    problems = {}
    for file in files:
        damage = damage_of(folder / file, file, build.digests.get(file))
        problems |= {file: [damage]} if damage else _problems_of_clips(folder / file, file)
    if set(problems).isdisjoint(files):
        problems |= _problems_of_splits(folder, build, files)
    return problems


def _problems_of_clips(path, name):
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    try:
        return find_problems(rows)
    except SchemaError as error:
        return {name: [str(error)]}


def _problems_of_splits(folder, build, files):
    problems = {}
    speakers = {file: _speakers(folder / file) for file in files}
    splits = {name: split for name, split in CORPORA[build.corpus].SPLITS.items() if name in build.files}
    for name, split in splits.items():
        parts = {part: [clip for file in some for clip in speakers[file]] for part, some in build.files[name].items()}
        clips = {clip: who for some in build.files["all"]["train"] for clip, who in speakers[some].items()}
        try:
            split.check(parts, clips)
        except SplitError as error:
            problems[name] = [str(error)]
    return problems


def _speakers(path):
    table = pq.read_table(path, columns=["utterance_id", "speaker_id"])
    return dict(zip(table["utterance_id"].to_pylist(), table["speaker_id"].to_pylist(), strict=True))
