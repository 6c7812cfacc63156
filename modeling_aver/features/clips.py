"""Which clips a run is about: files and folders in, every video once, and its share where several processes run."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..io.media import MediaError
from .report import Outcome

VIDEO_SUFFIXES = frozenset(
    ".3gp .asf .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)
SOUND_SUFFIXES = frozenset(
    ".aac .ac3 .aif .aiff .amr .au .caf .flac .m4a .mka .mp3 .oga .ogg .opus .wav .weba .wma .wv".split()
)
MOST_FOLDERS = 64  # that a name can grow by


@dataclass(frozen=True)
class Clip:
    """
    A video or sound file, and the name of its features: its path under the folder that was given, without suffix,
    unless another clip has the same: see [`distinct_names`].
    """

    path: Path
    name: str


def find_clips(sources, sound=False):
    """
    Videos among files and, by their suffix, under folders. Links to folders are followed, each folder once.

    Args:
        sources (`list[str | Path]`): Files, whatever their suffix, and folders.
        sound (`bool`, *optional*, defaults to `False`): Also find sound files under folders. A sound file beside a
            video of the same name is ignored.

    Returns:
        `tuple[list[Clip], list[Outcome]]`: the clips in the order of their names, and what is skipped or ignored and
        why: sound files beside their video, hidden files, links that lead back, folders that cannot
        be read.

    Raises:
        `MediaError`: if no clip is found; names the suffixes that were looked for.
    """
    suffixes = VIDEO_SUFFIXES | SOUND_SUFFIXES if sound else VIDEO_SUFFIXES
    candidates, skipped, seen = [], [], set()
    for source in map(Path, sources):
        if source.is_dir():
            candidates.extend(_under(source, source, suffixes, seen, skipped))
        else:
            candidates.append(Clip(source, source.stem))
    if not candidates:
        raise MediaError(_nothing_found(sources, sound))
    candidates, beside = _without_sound_of_videos(candidates)
    skipped.extend(beside)
    clips = {}
    for clip in distinct_names(candidates):
        first = clips.setdefault(clip.name, clip)
        if os.path.abspath(first.path) != os.path.abspath(clip.path):
            reason = f"has the same name as {first.path}, so its features would take that one's place"
            skipped.append(Outcome(str(clip.path), "skipped", reason))
    return [clips[name] for name in sorted(clips)], skipped


def distinct_names(clips: list[Clip]) -> list[Clip]:
    """
    Clips under names of their own. Where two files have one name, all of that name take longer ones: with their suffix
    (`a.mp4`, `a.mkv`), then with as many of their folders as it takes (`first/a.mp4`, `second/a.mp4`). A video keeps
    its name where only sound files have the same, so that its name does not depend on whether they are looked for.

    Returns:
        `list[Clip]`: in the same order.
    """
    for _ in range(MOST_FOLDERS):
        rivals = defaultdict(set)
        for clip in clips:
            for is_sound in {_is_sound(clip), True}:
                rivals[clip.name, is_sound].add(os.path.abspath(clip.path))
        if all(len(rivals[clip.name, _is_sound(clip)]) == 1 for clip in clips):
            break
        clips = [_lengthened(clip) if len(rivals[clip.name, _is_sound(clip)]) > 1 else clip for clip in clips]
    return clips


def _lengthened(clip):
    """The name with the suffix; then from one folder further up: of `x/first/a.mp4`, `first/a.mp4`."""
    if not clip.name.endswith(clip.path.suffix):
        return Clip(clip.path, f"{clip.name}{clip.path.suffix}")
    parents = Path(os.path.abspath(clip.path)).parents
    above = parents[min(clip.name.count("/"), len(parents) - 1)].name
    return Clip(clip.path, f"{above}/{clip.name}" if above else clip.name)


def this_share(found):
    """
    The part of this process in what [`find_clips`] found, where `accelerate launch` or `torchrun` started several, on
    one machine or many: every n-th.

    Returns:
        `tuple[tuple[list, list], str]`: clips and skipped, and a name for the report of this share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return found, "report"
    from accelerate import PartialState

    state = PartialState(cpu=True)
    index, count = state.process_index, state.num_processes
    state.destroy_process_group()  # each goes its own way from here, so a slow one cannot time out the others
    return tuple(part[index::count] for part in found), f"report-{index + 1:05d}-of-{count:05d}"


def _is_sound(clip):
    return clip.path.suffix.lower() in SOUND_SUFFIXES


def _without_sound_of_videos(clips):
    """(clips, those left out): a sound file beside a video of the same name is no clip of its own."""
    videos = {clip.path.with_suffix(""): clip.path.name for clip in clips if not _is_sound(clip)}
    kept, left_out = [], []
    for clip in clips:
        video = videos.get(clip.path.with_suffix("")) if _is_sound(clip) else None
        if video is None:
            kept.append(clip)
        else:
            left_out.append(Outcome(str(clip.path), "ignored", f"is a sound file beside the video {video}"))
    return kept, left_out


def _nothing_found(sources, sound):
    places, videos = ", ".join(map(str, sources)), ", ".join(sorted(VIDEO_SUFFIXES))
    if sound:
        sounds = ", ".join(sorted(SOUND_SUFFIXES))
        return f"No video or sound file under {places}. Looked for videos ({videos}) and sound files ({sounds})."
    return f"No video under {places}. Looked for files in {videos}."


def _under(folder, root, suffixes, seen, skipped):
    real = os.path.realpath(folder)
    if real in seen:
        skipped.append(Outcome(str(folder), "ignored", f"leads to {real}, which is looked at already"))
        return
    seen.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        skipped.append(Outcome(str(folder), "skipped", f"cannot be read: {error.strerror}"))
        return
    for path in (folder / name for name in names):
        if os.path.isdir(path):
            yield from _under(path, root, suffixes, seen, skipped)
        elif path.name.startswith(".") and path.suffix.lower() in suffixes:
            skipped.append(Outcome(str(path), "ignored", "is a hidden file, such as systems leave beside others"))
        elif path.suffix.lower() in suffixes:
            yield Clip(path, path.relative_to(root).with_suffix("").as_posix())
