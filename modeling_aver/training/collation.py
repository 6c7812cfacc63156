"""Rows of a dataset to a batch of the model."""

import torch

from ..io.media import read_audio


class AverDataCollator:
    """
    Makes a batch of rows of the documented schema (see `datasets_scripts.schema`).

    Args:
        processor ([`AverProcessor`]): Prepares both streams.
        cache ([`FeatureCache`], *optional*): Gives the frames of a frozen audio encoder, in place of the sound.
        profiles (`dict[str, SpeakerProfile]`, *optional*):
            By `utterance_id`, of who is in each clip; see [`profiles_of_clips`].

    Example:

    ```python
    >>> batch = AverDataCollator(AverProcessor(AverFeatureExtractor()))([dataset[0], dataset[1]])
    >>> {name: tuple(values.shape) for name, values in batch.items()}
    {'input_values': (2, 38034), 'attention_mask': (2, 38034), 'action_units': (2, 70, 35),
     'action_units_mask': (2, 70), 'video_timestamps': (2, 70), 'labels': (2,)}
    ```

    Rows without sound (`audio` is `None`) or without video (no `action_units`) are masked. `labels` is there where all
    rows have a `label`.
    """

    def __init__(self, processor, cache=None, profiles=None):
        self.processor, self.cache, self.profiles = processor, cache, profiles

    def __call__(self, rows):
        sampling_rate = self.processor.feature_extractor.sampling_rate
        tracks = [row["action_units"] or None for row in rows]
        if self.cache is None:
            sound = {"audio": [_waveform(row, sampling_rate) for row in rows]}
        else:
            sound = {"audio_frames": [self.cache.frames(row) for row in rows]}
        batch = self.processor(
            **sound,
            action_units=tracks,
            action_units_success=[
                track and row["action_units_success"] for track, row in zip(tracks, rows, strict=True)
            ],
            speaker_profiles=None if self.profiles is None else [self.profiles[row["utterance_id"]] for row in rows],
            video_timestamps=[track and row["video_timestamps"] for track, row in zip(tracks, rows, strict=True)],
            sampling_rate=sampling_rate,
            return_tensors="pt",
        )
        if all("label" in row for row in rows):
            batch["labels"] = torch.tensor([row["label"] for row in rows])
        return batch


def _waveform(row, sampling_rate):
    audio = row["audio"]
    if audio is None or not (audio["bytes"] or audio["path"]):
        return None
    return read_audio(audio["bytes"] or audio["path"], sampling_rate, name=row["utterance_id"])
