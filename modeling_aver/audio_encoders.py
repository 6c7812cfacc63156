"""Sound to frames: the audio encoders, with padding kept out of real frames, and what is made of their layers.

Parameter names are transformers' own, so that their checkpoints load.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import MODEL_MAPPING, AutoModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class MaskedGroupNormConvolutions(nn.Module):
    """
    The convolutional front of wav2vec2-base and its kin, whose first layer normalizes each channel over time: padding
    would enter that mean. Reads `(batch_size, 2, num_samples)`, the waveform and its mask, because the encoder around
    it passes on what it is given; holds the encoder's own layers, so checkpoints keep their names.
    """

    def __init__(self, feature_extractor):
        super().__init__()
        first, *rest = feature_extractor.conv_layers
        self.conv_layers = nn.ModuleList([MaskedGroupNormConvolution(first), *rest])

    def forward(self, waveform_and_mask):
        waveform, mask = waveform_and_mask.unbind(dim=1)
        first, *rest = self.conv_layers
        if self.training and first.conv.weight.requires_grad and not waveform.requires_grad:
            waveform.requires_grad_()  # or reentrant checkpointing would leave the first layer without gradients
        hidden_states = first(waveform, (mask > 0).sum(dim=1))
        for layer in rest:
            hidden_states = layer(hidden_states)
        return hidden_states

    def _freeze_parameters(self):
        self.requires_grad_(False)


class MaskedGroupNormConvolution(GradientCheckpointingLayer):
    """The first of those layers, with its statistics over the real samples alone."""

    def __init__(self, layer):
        super().__init__()
        self.conv, self.layer_norm, self.activation = layer.conv, layer.layer_norm, layer.activation

    def forward(self, waveform, lengths):
        lengths = (lengths - self.conv.kernel_size[0]) // self.conv.stride[0] + 1
        return self.activation(_masked_group_norm(self.layer_norm, self.conv(waveform[:, None]), lengths))


def _masked_group_norm(norm, states, lengths):
    """`norm`, a GroupNorm of one channel a group, over the first `lengths` frames of `states (B, C, T)`."""
    mask = torch.arange(states.shape[2], device=states.device) < lengths[:, None]
    weights = mask[:, None].float() / mask.sum(dim=1).clamp(min=1)[:, None, None]
    wide = states.float()
    mean = (wide * weights).sum(dim=2, keepdim=True)
    variance = ((wide - mean) ** 2 * weights).sum(dim=2, keepdim=True)
    normal = (wide - mean) * torch.rsqrt(variance + norm.eps)
    return (normal * norm.weight[:, None].float() + norm.bias[:, None].float()).to(states.dtype)


class MaskedPositionalConvolutions(nn.Module):
    """
    data2vec-audio's five positional convolutions. The encoder zeroes padded frames before the first of them only, and
    the bias of each would travel into real frames through the next: here padding stays zero between them too.
    """

    def __init__(self, pos_conv_embed):
        super().__init__()
        self.layers = pos_conv_embed.layers

    def forward(self, hidden_states):
        mask = (hidden_states != 0).any(dim=2)[:, None]  # exactly the frames that the encoder has not zeroed
        hidden_states = hidden_states.transpose(1, 2)
        for layer in self.layers:
            hidden_states = layer(hidden_states).masked_fill(~mask, 0.0)
        return hidden_states.transpose(1, 2)


class WindowedWhisperEncoder(WhisperEncoder):
    """Whisper's encoder on windows of any length up to 30 s, with a prefix of its position table, and with a mask."""

    def forward(self, input_features, attention_mask, output_hidden_states=False, **kwargs):
        """
        Args:
            input_features (`torch.Tensor` of shape `(batch_size, num_mel_bins, num_spectrogram_frames)`): 100 Hz.
            attention_mask (`torch.BoolTensor` of shape `(batch_size, num_spectrogram_frames)`): `True` for real ones.
            output_hidden_states (`bool`, *optional*): Of every layer, the last one after the final norm.

        Returns:
            [`BaseModelOutput`] at 50 Hz: two spectrogram frames, begun or whole, make one frame.

        Raises:
            `ValueError`: for more frames than the position table has rows.
        """
        mask = attention_mask[:, None]
        hidden_states = F.gelu(self.conv1(input_features)).masked_fill(~mask, 0.0)
        hidden_states = F.gelu(self.conv2(hidden_states)).transpose(1, 2)
        if hidden_states.shape[1] > self.max_source_positions:
            raise ValueError(
                f"`input_features` has {input_features.shape[2]} frames ({input_features.shape[2] / 100:.1f} s) but "
                f"this whisper encoder hears at most {2 * self.max_source_positions}: cut the recording into windows."
            )
        hidden_states = hidden_states + self.embed_positions.weight[: hidden_states.shape[1]]
        hidden_states = F.dropout(hidden_states, p=self.dropout, training=self.training)
        mask = create_bidirectional_mask(
            self.config, inputs_embeds=hidden_states, attention_mask=attention_mask[:, ::2]
        )
        states = [hidden_states]
        for layer in self.layers:
            states.append(layer(states[-1], mask, **kwargs))
        last = self.layer_norm(states[-1])
        return BaseModelOutput(
            last_hidden_state=last, hidden_states=(*states[:-1], last) if output_hidden_states else None
        )


def build_audio_encoder(audio_config):
    """A new encoder of `audio_config` whose real frames never depend on padding; parameter names are transformers'."""
    if audio_config.model_type == "whisper":
        return WindowedWhisperEncoder(audio_config)
    if not MODEL_MAPPING[type(audio_config)]._supports_sdpa:
        audio_config._attn_implementation = "eager"  # wavlm has one attention, and refuses every other word
    encoder = AutoModel.from_config(audio_config)
    if audio_config.model_type == "data2vec-audio":
        encoder.encoder.pos_conv_embed = MaskedPositionalConvolutions(encoder.encoder.pos_conv_embed)
    elif normalizes_over_time(audio_config):
        encoder.feature_extractor = MaskedGroupNormConvolutions(encoder.feature_extractor)
    if audio_config.mask_time_prob == 0 and "masked_spec_embed" in dict(encoder.named_parameters()):
        encoder.masked_spec_embed.requires_grad_(False)  # unispeech-sat has it even where nothing is masked
    return encoder


def fix_convolutions(encoder):
    """Fixes the parameters of the convolutional front; w2v-bert has none."""
    if isinstance(encoder, WhisperEncoder):
        encoder.conv1.requires_grad_(False)
        encoder.conv2.requires_grad_(False)
    elif encoder.main_input_name == "input_values":
        encoder.feature_extractor._freeze_parameters()


def fix_unheard(encoder, deepest):
    """Fixes the parameters behind the deepest layer that is heard: without gradients, DDP would wait for them."""
    stack = encoder if isinstance(encoder, WhisperEncoder) else encoder.encoder
    if deepest < len(stack.layers):
        stack.layers[deepest:].requires_grad_(False)
        if isinstance(encoder, WhisperEncoder) or getattr(encoder.config, "do_stable_layer_norm", False):
            stack.layer_norm.requires_grad_(False)  # the others normalize before their first layer


def normalizes_over_time(audio_config):
    """Whether its first convolution is normalized over time, and so needs the mask beside the waveform."""
    return "feat_extract_norm" in audio_config.to_dict() and audio_config.feat_extract_norm == "group"


def finetuning_config(audio_config):
    """A pretrained encoder's configuration without layer drop and SpecAugment, as in AverConfig's default."""
    for name in ("layerdrop", "encoder_layerdrop", "mask_time_prob", "mask_feature_prob"):
        if name in audio_config.to_dict():
            setattr(audio_config, name, 0.0)
    return audio_config


def pretrained_weights(name, audio_config, kwargs):
    """State of the encoder of a checkpoint, all of it or a `ValueError` that says what is missing."""
    source, extra = AutoModel, {}
    if audio_config.model_type == "whisper":  # whole whisper checkpoints hold it as `model.encoder`
        source, extra = WhisperEncoder, {"key_mapping": {r"^(model\.)?encoder\.": ""}}
    try:
        encoder, report = source.from_pretrained(
            name, config=audio_config, output_loading_info=True, **extra, **kwargs
        )
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise ValueError(
            f"`{name}` has no model.safetensors. Convert it once by torch's weights-only loader, and name the folder: "
            f'AutoModel.from_pretrained("{name}", use_safetensors=False).save_pretrained(FOLDER); '
            f'AutoFeatureExtractor.from_pretrained("{name}").save_pretrained(FOLDER)'
        ) from error
    if report["missing_keys"]:
        raise ValueError(
            f"`{name}` lacks {len(report['missing_keys'])} weights of its {audio_config.model_type} encoder, such as "
            f"{sorted(report['missing_keys'])[0]}."
        )
    return encoder.state_dict()


# ── what is made of an encoder's frames ──────────────────────────────────────────────────────────────────────────────


class ChannelStandardization(nn.Module):
    """
    Frames to zero mean and unit deviation in each channel of each layer, by the statistics of the training clips, or
    by a speaker's own. Until [`~ChannelStandardization.set_statistics`] has put any in, frames stay as they are.
    """

    def __init__(self, num_layers, num_channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_layers, num_channels))
        self.register_buffer("std", torch.ones(num_layers, num_channels))

    def set_statistics(self, mean, std):
        """Of the training clips, `(num_layers, num_channels)`; channels of deviation 0 keep their size."""
        self.mean.copy_(mean)
        self.std.copy_(std.masked_fill(std <= 0, 1.0))

    def reset(self):
        """As for a new model: frames stay as they are."""
        init.zeros_(self.mean)
        init.ones_(self.std)

    def forward(self, frames, speaker_mean=None, speaker_std=None):
        """
        Args:
            frames (`torch.Tensor` of shape `(batch_size, num_frames, num_layers, num_channels)`)
            speaker_mean, speaker_std (`torch.Tensor` of shape `(batch_size, num_layers, num_channels)`, *optional*):
                Where a deviation is 0 the speaker's statistics are unknown, and those of training stand in.

        Returns:
            `torch.Tensor` of the shape and type of `frames`; computed in float32, for some channels have means a
            hundred times their deviation.
        """
        mean, std = self.mean.float(), self.std.float()
        if speaker_mean is not None:
            known = speaker_std > 0
            mean = torch.where(known, speaker_mean.float(), mean)[:, None]
            std = torch.where(known, speaker_std.float(), std)[:, None]
        return ((frames.float() - mean) / std).to(frames.dtype)


class LayerMix(nn.Module):
    """Mean of several layers' frames with learned weights, a softmax; they begin equal."""

    def __init__(self, num_layers):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))

    def reset(self):
        """As for a new model: all layers count alike."""
        init.zeros_(self.scores)

    def forward(self, frames):
        """`(batch_size, num_frames, num_layers, num_channels)` to `(batch_size, num_frames, num_channels)`."""
        return torch.einsum("btlc,l->btc", frames, self.scores.softmax(dim=0).to(frames.dtype))


def pool_frames(frames, mask, stride):
    """
    Means of `stride` frames in a row, of the real ones among them: fewer tokens for the fusion.

    Args:
        frames (`torch.Tensor` of shape `(batch_size, num_frames, …)`)
        mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): `True` for real frames.
        stride (`int`): 1 changes nothing.

    Returns:
        `tuple`: frames `(batch_size, ceil(num_frames / stride), …)` and their mask.
    """
    if stride == 1:
        return frames, mask
    num_frames = frames.shape[1]
    # By indices: whether padding is needed would be the same for all lengths under torch.export.
    places = torch.arange((num_frames + stride - 1) // stride * stride, device=frames.device)
    nearest = places.clamp(max=num_frames - 1)
    weights = (mask[:, nearest] & (places < num_frames)).unflatten(1, (-1, stride))
    groups = frames[:, nearest].unflatten(1, (-1, stride))
    groups = groups.masked_fill(~weights[(...,) + (None,) * (frames.ndim - 2)], 0.0)
    counts = weights.sum(dim=2)
    return groups.sum(dim=2) / counts.clamp(min=1)[(...,) + (None,) * (frames.ndim - 2)], counts > 0
