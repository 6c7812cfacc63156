"""Clips without one of their streams, as the baselines of audio alone and of video alone see them."""

import logging

logger = logging.getLogger(__name__)

STREAMS = ("both", "audio", "video")
_NO_AUDIO = {"audio": {"bytes": None, "path": None}, "audio_duration": 0.0}
NO_VIDEO = {
    "action_units": [],
    "action_units_success": [],
    "video_timestamps": [],
    "video_frame_rate": None,
    "video_duration": 0.0,
    "extractor": None,
    "extractor_version": None,
    "extractor_settings": None,
    "feature_names": [],
}


def keep_streams(dataset, streams):
    """
    Takes the other stream away from every clip; clips that then have none are left out, and their number is said.

    Args:
        dataset (`datasets.Dataset`): Rows of the documented schema.
        streams (`str`): `both` changes nothing; `audio` keeps the sound alone, `video` the features of the face.

    Raises:
        `ValueError`: for another word, or if no clip is left.
    """
    if streams not in STREAMS:
        raise ValueError(f"`streams` ({streams!r}) must be one of {', '.join(STREAMS)}.")
    if streams == "both":
        return dataset
    has_sound = streams == "audio"
    # A flag a clip first, of the one column that says it: a filter over all columns would read every sound file.
    present = [_has(value) for value in dataset["audio" if has_sound else "action_units"]]
    kept = dataset if all(present) else dataset.select([row for row, flag in enumerate(present) if flag])
    if len(kept) == 0:
        raise ValueError(f"`streams` ({streams}) leaves none of the {len(dataset)} clips: they have no {streams}.")
    if len(kept) < len(dataset):
        logger.warning("%d of %d clips have no %s and are left out.", len(dataset) - len(kept), len(dataset), streams)
    taken = {name: value for name, value in (NO_VIDEO if has_sound else _NO_AUDIO).items() if name in dataset.features}
    return kept.map(lambda _: taken, features=dataset.features, desc=f"{streams} alone")


def _has(value):
    return bool(value and (value["bytes"] or value["path"])) if isinstance(value, dict) else bool(value)
