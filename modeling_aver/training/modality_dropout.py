"""Modality dropout: clips that lose a stream while training, so that the model learns to do without."""

import torch


def drop_streams(batch, audio_rate, video_rate):
    """
    Masks one stream of some clips, never both. Drawn here, in the step, and not where batches are made: those are made
    ahead, and a resumed run would draw anew.

    Args:
        batch (`dict[str, torch.Tensor]`): Of [`AverDataCollator`].
        audio_rate, video_rate (`float`): Share of the clips with both streams that lose one, together at most 1.

    Returns:
        `dict[str, torch.Tensor]`: the batch itself where nothing is dropped, else with other masks.
    """
    audio_mask = "audio_frames_mask" if "audio_frames_mask" in batch else "attention_mask"
    audio, video = batch.get(audio_mask), batch.get("action_units_mask")
    if audio_rate + video_rate == 0 or audio is None or video is None:
        return batch
    both = audio.bool().any(dim=1) & video.bool().any(dim=1)
    draw = torch.rand(len(both)).to(both.device)  # one for both streams: a clip that loses one keeps the other
    no_audio, no_video = both & (draw < audio_rate), both & (draw >= 1 - video_rate)
    return {
        **batch,
        audio_mask: audio.masked_fill(no_audio[:, None], 0),
        "action_units_mask": video.masked_fill(no_video[:, None], 0),
    }
