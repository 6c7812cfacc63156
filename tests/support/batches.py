"""Clips of several lengths, alone and padded."""

import torch


def clips(config, seed=0):
    """Three clips alone, as the model reads them: the first has both streams, the second sound, the third a face."""
    generator = torch.Generator().manual_seed(seed)
    waveform = config.audio_input_name == "input_values"
    lengths = (3000, 2000) if waveform else (61, 40)
    channels = {"whisper": 80, "wav2vec2-bert": 160}.get(config.audio_config.model_type)
    audio = [torch.randn(1, *([n] if waveform else [n, channels]), generator=generator) for n in lengths]
    if config.audio_config.model_type == "whisper":
        audio = [spectrogram.mT for spectrogram in audio]
    faces = [torch.randn(1, n, 7, generator=generator) for n in (9, 13)]
    name = config.audio_input_name
    return [{name: audio[0], "action_units": faces[0]}, {name: audio[1]}, {"action_units": faces[1]}]


def padded(config, alone, filling=7.0):
    """One batch of the clips, padded with something that would be heard if it could."""
    name, time = config.audio_input_name, 2 if config.audio_config.model_type == "whisper" else 1
    longest = max(clip[name].shape[time] for clip in alone if name in clip)
    shape = list(alone[0][name].shape)
    shape[0], shape[time] = len(alone), longest
    batch = {name: torch.full(shape, filling), "attention_mask": torch.zeros(len(alone), longest, dtype=torch.long)}
    num_frames = max(clip["action_units"].shape[1] for clip in alone if "action_units" in clip)
    batch["action_units"] = torch.full((len(alone), num_frames, 7), filling)
    batch["action_units_mask"] = torch.zeros(len(alone), num_frames, dtype=torch.long)
    for index, clip in enumerate(alone):
        if name in clip:
            length = clip[name].shape[time]
            batch[name].narrow(time, 0, length)[index] = clip[name][0]
            batch["attention_mask"][index, :length] = 1
        if "action_units" in clip:
            length = clip["action_units"].shape[1]
            batch["action_units"][index, :length] = clip["action_units"][0]
            batch["action_units_mask"][index, :length] = 1
    return batch


def with_statistics(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = model.aver.audio_standardization.mean.shape
    model.aver.audio_standardization.set_statistics(
        torch.randn(shape, generator=generator), 0.5 + torch.rand(shape, generator=generator)
    )
    return model
