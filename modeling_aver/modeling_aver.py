"""The model: encode audio, project both streams, put them on one clock, embed for CTM, fuse, pool, classify.

`AverModel` is the trunk (eq. 1-5), `AverForEmotionClassification` adds the classifier and the losses (eq. 6-12).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .audio_encoders import (
    ChannelStandardization,
    LayerMix,
    build_audio_encoder,
    finetuning_config,
    fix_convolutions,
    fix_unheard,
    normalizes_over_time,
    pool_frames,
    pretrained_weights,
)
from .configuration_aver import AverConfig
from .encoder import FusionEncoder, initialize, masked_mean
from .losses import cross_temporal_matching_loss
from .positions import frame_timestamps

IGNORED_LABEL = -100


@dataclass
class AverModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.Tensor` of shape `(batch_size, num_audio_frames + num_video_frames, hidden_size)`):
            Fused tokens, audio first.
        pooler_output (`torch.Tensor` of shape `(batch_size, hidden_size)`): Mean of the real tokens of both streams.
        audio_embeds, video_embeds (`torch.Tensor`, *optional*):
            E of eq. 6-8, `(batch_size, num_frames, ctm_projection_dim)`: unit vectors, float32. `None` where
            `ctm_loss_weight` is 0.
        audio_timestamps, video_timestamps (`torch.Tensor` of shape `(batch_size, num_frames)`): Seconds on one clock.
        audio_mask, video_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`): `True` for real frames.
        hidden_states (`tuple(torch.Tensor)`, *optional*):
            Tokens of both streams before the first fusion block (F of eq. 1-2, with absolute positions if any) and
            after each one.
        attentions (`tuple(torch.Tensor)`, *optional*): Of the fusion layers; see [`FusionEncoderOutput`].
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    audio_timestamps: torch.Tensor | None = None
    video_timestamps: torch.Tensor | None = None
    audio_mask: torch.Tensor | None = None
    video_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class AverClassifierOutput(ModelOutput):
    """
    Args:
        loss (`torch.Tensor`, *optional*):
            L_total of eq. 12 in nats, where `labels` are given: `classification_loss + ctm_loss_weight × ctm_loss`.
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`): Scores before the softmax.
        classification_loss (`torch.Tensor`, *optional*): L_cls, cross-entropy in nats.
        ctm_loss (`torch.Tensor`, *optional*): L_ctm of eq. 11 in nats; `None` where `ctm_loss_weight` is 0.

    The other fields are those of [`AverModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    ctm_loss: torch.Tensor | None = None
    audio_embeds: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    audio_timestamps: torch.Tensor | None = None
    video_timestamps: torch.Tensor | None = None
    audio_mask: torch.Tensor | None = None
    video_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class AverPreTrainedModel(PreTrainedModel):
    """Loading, saving, initialization and attention backends, as everywhere in transformers."""

    config_class = AverConfig
    base_model_prefix = "aver"
    main_input_name = "input_values"
    input_modalities = ("audio", "video")
    supports_gradient_checkpointing = True
    _no_split_modules = ["FusionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        self.main_input_name = config.audio_input_name

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, ChannelStandardization | LayerMix):
            module.reset()
        else:
            initialize(module, self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, *args, use_safetensors=True, **kwargs):
        """As everywhere in transformers, but only from safetensors, unless `use_safetensors=False` is asked for."""
        return super().from_pretrained(*args, use_safetensors=use_safetensors, **kwargs)

    @classmethod
    def from_audio_pretrained(cls, audio_model_name_or_path, config=None, *, use_safetensors=None, **kwargs):
        """
        A new model around a pretrained audio encoder; everything else is freshly initialized.

        Args:
            audio_model_name_or_path (`str`):
                A Hub id as `"facebook/wav2vec2-large-xlsr-53"`, or a folder.
            config (`AverConfig`, *optional*):
                Everything but `audio_config`, which comes with the encoder. Its layer drop and SpecAugment are
                switched off, as in the default `audio_config` (*our choice*).
            use_safetensors (`bool`, *optional*):
                By default, safetensors are read if the revision has them, else those of the Hub's conversion pull
                request for this revision, else `pytorch_model.bin` by torch's weights-only loader, which is then
                converted once in a local cache. `True` reads only safetensors of the revision, `False` only
                `pytorch_model.bin`.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only` of `from_pretrained`.

        Raises:
            `ValueError`: if the checkpoint has no weights of the wanted format, holds anything but tensors, or lacks
            weights of the encoder.
        """
        audio_config = AutoConfig.from_pretrained(audio_model_name_or_path, trust_remote_code=False, **kwargs)
        audio_config = finetuning_config(audio_config)
        if Path(audio_model_name_or_path).is_dir():
            audio_config.name_or_path = ""  # a Hub id is worth remembering, a path on one machine is not
        values = {} if config is None else config.to_dict()
        model = cls(AverConfig.from_dict({**values, "audio_config": audio_config}))
        weights = pretrained_weights(audio_model_name_or_path, audio_config, use_safetensors, **kwargs)
        model.base_model.audio_encoder.load_state_dict(weights)
        return model

    def freeze_feature_encoder(self):
        """Fixes the convolutional front of the audio encoder (wav2vec2 practice). w2v-bert has none."""
        fix_convolutions(self.base_model.audio_encoder)

    def freeze_audio_encoder(self):
        """Fixes the whole audio encoder, which then also runs without dropout while the rest trains."""
        self.base_model.audio_encoder.requires_grad_(False)
        self.base_model.audio_encoder.eval()


class AverModel(AverPreTrainedModel):
    """Audio-visual trunk: two streams in, fused tokens and their mean out (section 2.1)."""

    _input_embed_layer = "audio_projection"  # what transformers' `get_input_embeddings` and its setter go to

    def __init__(self, config):
        super().__init__(config)
        self.audio_encoder = build_audio_encoder(config.audio_config)
        if config.audio_layers is not None:
            fix_unheard(self.audio_encoder, max(config.audio_layers))
        if config.audio_normalization == "standardize":
            self.audio_standardization = ChannelStandardization(
                config.num_audio_layers, config.audio_config.hidden_size
            )
        if config.num_audio_layers > 1:
            self.audio_layer_mix = LayerMix(config.num_audio_layers)
        self.audio_projection = nn.Linear(config.audio_config.hidden_size, config.hidden_size)  # eq. 1
        self.video_projection = nn.Linear(config.num_action_units, config.hidden_size)  # eq. 2
        self.projection_dropout = nn.Dropout(config.projection_dropout)
        if config.ctm_loss_weight > 0:
            self.audio_ctm_projection = nn.Linear(config.hidden_size, config.ctm_projection_dim)
            self.video_ctm_projection = nn.Linear(config.hidden_size, config.ctm_projection_dim)
        self.fusion_encoder = FusionEncoder(config)
        self.post_init()

    def train(self, mode=True):
        """As `torch.nn.Module.train`, but a frozen audio encoder stays in evaluation mode."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.audio_encoder.parameters()):
            self.audio_encoder.eval()
        return self

    @can_return_tuple
    def forward(
        self,
        input_values=None,
        action_units=None,
        attention_mask=None,
        action_units_mask=None,
        video_timestamps=None,
        audio_timestamps=None,
        input_features=None,
        audio_frames=None,
        audio_frames_mask=None,
        speaker_audio_mean=None,
        speaker_audio_std=None,
        output_hidden_states=None,
        output_attentions=None,
    ):
        """
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_samples)`, *optional*):
                Waveform at `sampling_rate`, normalized as the audio encoder expects ([`AverProcessor`] does). Absent
                where nobody in the batch has audio.
            action_units (`torch.Tensor` of shape `(batch_size, num_video_frames, num_action_units)`, *optional*):
                A row for each video frame. Absent where nobody in the batch has video.
            attention_mask (`torch.Tensor` of shape `(batch_size, num_samples)`, *optional*):
                1 for samples that are **not masked**, 0 for padding on the right. A row of zeros has no audio.
            action_units_mask (`torch.Tensor` of shape `(batch_size, num_video_frames)`, *optional*):
                1 for frames that are **not masked**, 0 for padding and failed frames. A row of zeros has no video.
            video_timestamps (`torch.Tensor` of shape `(batch_size, num_video_frames)`, *optional*):
                Seconds on the audio's clock, for variable frame rates and start offsets. Defaults to
                `frame / video_frame_rate`.
            audio_timestamps (`torch.Tensor` of shape `(batch_size, num_audio_frames)`, *optional*):
                Seconds. Defaults to `frame / audio_frame_rate`.
            input_features (`torch.Tensor`, *optional*):
                In place of `input_values` where the encoder reads a spectrogram: `(batch_size, num_mel_bins,
                num_spectrogram_frames)` for whisper, `(batch_size, num_spectrogram_frames, 160)` for w2v-bert, with
                `attention_mask` of shape `(batch_size, num_spectrogram_frames)`.
            audio_frames (`torch.Tensor` of shape `(batch_size, num_audio_frames, num_audio_layers, channels)`,
                *optional*): What [`~AverModel.encode_audio`] made of the sound before, in place of it: a frozen
                encoder need not run twice.
            audio_frames_mask (`torch.Tensor` of shape `(batch_size, num_audio_frames)`, *optional*): 1 for real ones.
            speaker_audio_mean, speaker_audio_std (`torch.Tensor` of shape `(batch_size, num_audio_layers, channels)`,
                *optional*): Of a speaker's audio frames, for `audio_normalization="standardize"`; zeros where they
                are unknown.
            output_hidden_states, output_attentions (`bool`, *optional*): Of the fusion encoder.

        Returns:
            [`AverModelOutput`]

        Raises:
            `ValueError`: if no stream is given, shapes do not belong together, or (checked on the CPU only, where it
            costs no synchronization) values are not finite, times decrease, or a clip has neither stream.
        """
        audio_inputs = self._audio_inputs(input_values, input_features, audio_frames)
        _check_batch(self.config, audio_inputs, action_units)
        if audio_frames is None:
            audio_input_mask = _audio_input_mask(self.config, audio_inputs, attention_mask)
        else:
            audio_input_mask = _audio_frames_mask(self.config, audio_frames, audio_frames_mask)
        video_mask = _video_mask(self.config, action_units, action_units_mask)
        if _readable(audio_inputs, action_units, audio_input_mask, action_units_mask, video_timestamps):
            _check_values(self.config, audio_inputs, action_units, audio_input_mask, video_mask, video_timestamps)

        if audio_frames is not None:
            audio_frames = audio_frames.to(self.dtype).masked_fill(~audio_input_mask[..., None, None], 0.0)
        elif audio_inputs is not None:
            audio_frames, audio_input_mask = self._encode_audio(audio_inputs, audio_input_mask)
        audio_states, audio_mask = self._audio_tokens(
            audio_frames, audio_input_mask, speaker_audio_mean, speaker_audio_std, like=action_units
        )
        video_states, video_mask = self._video_tokens(action_units, video_mask, like=audio_states)
        audio_timestamps = self._timestamps("audio", audio_timestamps, audio_mask)
        video_timestamps = self._timestamps("video", video_timestamps, video_mask)

        fused = self.fusion_encoder(
            audio_states,
            video_states,
            audio_timestamps,
            video_timestamps,
            audio_mask,
            video_mask,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        tokens = torch.cat([fused.audio_hidden_states, fused.video_hidden_states], dim=1)
        has_ctm = self.config.ctm_loss_weight > 0
        return AverModelOutput(
            last_hidden_state=tokens,
            pooler_output=masked_mean(tokens, torch.cat([audio_mask, video_mask], dim=1)),
            audio_embeds=_unit_vectors(self.audio_ctm_projection(audio_states)) if has_ctm else None,
            video_embeds=_unit_vectors(self.video_ctm_projection(video_states)) if has_ctm else None,
            audio_timestamps=audio_timestamps.expand(audio_mask.shape).contiguous(),
            video_timestamps=video_timestamps.expand(video_mask.shape).contiguous(),
            audio_mask=audio_mask,
            video_mask=video_mask,
            hidden_states=fused.hidden_states,
            attentions=fused.attentions,
        )

    def encode_audio(self, input_values=None, attention_mask=None, input_features=None):
        """
        The frames that the rest of the model hears: what the audio encoder makes of the sound, before anything that
        trains with a frozen encoder. Kept, they can be given to `forward` as `audio_frames`.

        Args:
            input_values, attention_mask, input_features: See [`~AverModel.forward`].

        Returns:
            `tuple`: `audio_frames` `(batch_size, num_audio_frames, num_audio_layers, channels)`, pooled by
            `audio_pooling_stride`, and `audio_frames_mask` `(batch_size, num_audio_frames)`, bool.
        """
        inputs = self._audio_inputs(input_values, input_features, None)
        _check_batch(self.config, inputs, None)
        return self._encode_audio(inputs, _audio_input_mask(self.config, inputs, attention_mask))

    def _audio_inputs(self, input_values, input_features, audio_frames):
        given = {"input_values": input_values, "input_features": input_features}
        inputs = given.pop(self.config.audio_input_name)
        for name, other in given.items():
            if other is not None:
                raise ValueError(
                    f"`{name}` was given, but this model's audio encoder ({self.config.audio_config.model_type}) "
                    f"reads `{self.config.audio_input_name}`. Was the batch made by another model's processor?"
                )
        if inputs is not None and audio_frames is not None:
            raise ValueError(f"Give `{self.config.audio_input_name}` or `audio_frames`, not both: they are one sound.")
        return inputs if audio_frames is None else audio_frames

    def _encode_audio(self, inputs, input_mask):
        num_frames = self.config.num_audio_frames(input_mask.sum(dim=1))
        inputs = inputs.to(self.dtype).masked_fill(~_over_channels(self.config, input_mask), 0.0)
        # A clip without audio runs as silence, so that no softmax within the encoder is empty; its frames are masked.
        input_mask = input_mask | (num_frames == 0)[:, None]
        if normalizes_over_time(self.config.audio_config):
            inputs = torch.stack([inputs, input_mask.to(inputs.dtype)], dim=1)
        layers = self.config.audio_layers
        outputs = self.audio_encoder(inputs, attention_mask=input_mask, output_hidden_states=layers is not None)
        if layers is None:
            frames = outputs.last_hidden_state[:, :, None]
        else:  # families differ in whether the last of their hidden states has passed the final norm
            states = (*outputs.hidden_states[:-1], outputs.last_hidden_state)
            frames = torch.stack([states[layer] for layer in layers], dim=2)
        mask = torch.arange(frames.shape[1], device=frames.device) < num_frames[:, None]
        return pool_frames(frames, mask, self.config.audio_pooling_stride)

    def _audio_tokens(self, frames, mask, speaker_mean, speaker_std, like):
        """F^a of eq. 1 `(B, T_a, D)` and its mask; no frames where the stream is absent."""
        if frames is None:
            return self._no_frames(like)
        if self.config.audio_normalization == "standardize":
            _check_speaker_statistics(frames, speaker_audio_mean=speaker_mean, speaker_audio_std=speaker_std)
            frames = self.audio_standardization(frames, speaker_mean, speaker_std)
        elif speaker_mean is not None:
            raise ValueError(
                "`speaker_audio_mean` was given, but this model does not standardize audio frames "
                '(`audio_normalization="none"`): it has to be trained with "standardize".'
            )
        states = self.audio_layer_mix(frames) if self.config.num_audio_layers > 1 else frames.squeeze(2)
        return self.audio_projection(self.projection_dropout(states)), mask

    def _video_tokens(self, action_units, mask, like):
        """F^v of eq. 2 `(B, T_v, D)` and its mask; no frames where the stream is absent."""
        if action_units is None:
            return self._no_frames(like)
        action_units = action_units.to(self.dtype).masked_fill(~mask[..., None], 0.0)
        return self.video_projection(self.projection_dropout(action_units)), mask

    def _no_frames(self, like):
        states = torch.zeros(like.shape[0], 0, self.config.hidden_size, dtype=self.dtype, device=like.device)
        return states, torch.zeros(like.shape[0], 0, dtype=torch.bool, device=like.device)

    def _timestamps(self, stream, timestamps, mask):
        if timestamps is None or mask.shape[1] == 0:
            if stream == "video":
                return frame_timestamps(mask.shape[1], self.config.video_frame_rate, device=mask.device)
            stride, frame_rate = self.config.audio_pooling_stride, self.config.audio_frame_rate
            middle = (stride - 1) / 2 / frame_rate  # of the frames that a token is the mean of
            return frame_timestamps(mask.shape[1], frame_rate / stride, device=mask.device) + middle
        if tuple(timestamps.shape) not in (tuple(mask.shape), tuple(mask.shape[1:])):
            raise ValueError(
                f"`{stream}_timestamps` {tuple(timestamps.shape)} must give a time to each of the {tuple(mask.shape)} "
                f"frames of the {stream} stream."
            )
        return timestamps


class AverForEmotionClassification(AverPreTrainedModel):
    """[`AverModel`] with a linear classifier on the pooled tokens, and the losses of eq. 11-12."""

    # Losses are divided by `num_items_in_batch`, so that accumulated and distributed steps equal whole ones.
    accepts_loss_kwargs = True

    def __init__(self, config):
        super().__init__(config)
        self.aver = AverModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values=None,
        action_units=None,
        attention_mask=None,
        action_units_mask=None,
        video_timestamps=None,
        audio_timestamps=None,
        input_features=None,
        audio_frames=None,
        audio_frames_mask=None,
        speaker_audio_mean=None,
        speaker_audio_std=None,
        labels=None,
        num_items_in_batch=None,
        output_hidden_states=None,
        output_attentions=None,
    ):
        """
        Args:
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
                Emotions, 0 to `num_labels - 1`; -100 for a clip without label, which then counts for CTM alone.
            num_items_in_batch (`int` or `torch.Tensor`, *optional*):
                Labelled clips in the whole step, over accumulated batches and processes; the sums of both losses are
                divided by it. Defaults to those of this batch.

        The other arguments are those of [`AverModel.forward`].

        Returns:
            [`AverClassifierOutput`]
        """
        if labels is not None:
            _check_labels(
                self.config,
                labels,
                batch_size=len(_first_given(input_values, input_features, audio_frames, action_units)),
            )
        outputs = self.aver(
            input_values=input_values,
            action_units=action_units,
            attention_mask=attention_mask,
            action_units_mask=action_units_mask,
            video_timestamps=video_timestamps,
            audio_timestamps=audio_timestamps,
            input_features=input_features,
            audio_frames=audio_frames,
            audio_frames_mask=audio_frames_mask,
            speaker_audio_mean=speaker_audio_mean,
            speaker_audio_std=speaker_audio_std,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        logits = self.classifier(outputs.pooler_output)
        loss = classification_loss = ctm_loss = None
        if labels is not None:
            classification_loss = _classification_loss(logits, labels, num_items_in_batch)
            ctm_loss = self._ctm_loss(outputs, num_items_in_batch)
            loss = classification_loss
            if ctm_loss is not None:
                loss = classification_loss + self.config.ctm_loss_weight * ctm_loss  # eq. 12
        return AverClassifierOutput(
            loss=loss,
            logits=logits,
            classification_loss=classification_loss,
            ctm_loss=ctm_loss,
            audio_embeds=outputs.audio_embeds,
            video_embeds=outputs.video_embeds,
            audio_timestamps=outputs.audio_timestamps,
            video_timestamps=outputs.video_timestamps,
            audio_mask=outputs.audio_mask,
            video_mask=outputs.video_mask,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _ctm_loss(self, outputs, num_items_in_batch):
        if self.config.ctm_loss_weight == 0:
            return None
        loss = cross_temporal_matching_loss(
            outputs.audio_embeds,
            outputs.video_embeds,
            outputs.audio_timestamps,
            outputs.video_timestamps,
            outputs.audio_mask,
            outputs.video_mask,
            sigma=self.config.ctm_sigma,
            temperature=self.config.ctm_temperature,
        )
        return loss if num_items_in_batch is None else loss * len(outputs.audio_embeds) / num_items_in_batch

    def save_pretrained(self, save_directory, **kwargs):
        """
        As in transformers. `AutoModel` and `AutoModelForAudioClassification` both find this class in the folder, and
        `pipeline` the pipeline that travels with it.
        """
        from .pipeline_aver import CUSTOM_PIPELINES

        self.config.custom_pipelines = CUSTOM_PIPELINES
        auto_map = getattr(self.config, "auto_map", None) or {}  # set by transformers, on saved configurations only
        name = f"{type(self).__module__.rsplit('.', 1)[-1]}.{type(self).__name__}"
        self.config.auto_map = {**auto_map, "AutoModelForAudioClassification": name}
        super().save_pretrained(save_directory, **kwargs)


def _unit_vectors(embeds):
    return F.normalize(embeds.float(), dim=-1)


def _classification_loss(logits, labels, num_items_in_batch):
    """Cross-entropy in float32, summed and divided by the labelled clips of the step."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return total / ((labels != IGNORED_LABEL).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)


# ── what a batch may be ─────────────────────────────────────────────────────────────────────────────────────────────


def _check_batch(config, audio_inputs, action_units):
    if audio_inputs is None and action_units is None:
        raise ValueError(
            f"Neither `{config.audio_input_name}` nor `action_units` was given: a clip needs one of them."
        )
    if audio_inputs is None or action_units is None:
        return
    num_clips = audio_inputs.shape[0], action_units.shape[0]  # `len` would be a constant to torch.export
    if num_clips[0] != num_clips[1]:
        raise ValueError(
            f"`{config.audio_input_name}` has {num_clips[0]} clips but `action_units` has {num_clips[1]}."
        )


def _audio_input_mask(config, inputs, attention_mask):
    """`(B, num_inputs)` bool, or `None` where there is no audio; refuses audio of another shape."""
    if inputs is None:
        return None
    name, waveform = config.audio_input_name, config.audio_input_name == "input_values"
    if inputs.ndim != (2 if waveform else 3):
        layout = "(batch_size, num_samples)" if waveform else "of a spectrogram, with three dimensions"
        raise ValueError(f"`{name}` must have the shape {layout}, but has {tuple(inputs.shape)}.")
    lengths = (inputs.shape[0], inputs.shape[_time_axis(config)])
    if lengths[1] < config.min_audio_inputs:
        raise ValueError(
            f"`{name}` has {lengths[1]} inputs a clip, but one frame of the audio encoder takes "
            f"{config.min_audio_inputs}. Leave it out where there is no audio."
        )
    return _bool_mask("attention_mask", attention_mask, lengths, inputs.device)


def _audio_frames_mask(config, frames, mask):
    """`(B, T_a)` bool; refuses frames of another encoder, or of other layers of it."""
    layout = (config.num_audio_layers, config.audio_config.hidden_size)
    if frames.ndim != 4 or tuple(frames.shape[2:]) != layout:
        raise ValueError(
            f"`audio_frames` must have the shape (batch_size, num_audio_frames, {layout[0]}, {layout[1]}) of this "
            f"model's audio encoder, but has {tuple(frames.shape)}."
        )
    if frames.shape[1] == 0:
        raise ValueError("`audio_frames` has no frames. Leave it out where there is no audio.")
    return _bool_mask("audio_frames_mask", mask, tuple(frames.shape[:2]), frames.device)


def _check_speaker_statistics(frames, **statistics):
    layout = (frames.shape[0], *frames.shape[2:])
    for name, values in statistics.items():
        if (values is None) != (statistics["speaker_audio_mean"] is None):
            raise ValueError("Give `speaker_audio_mean` and `speaker_audio_std`, or neither.")
        if values is not None and tuple(values.shape) != layout:
            raise ValueError(
                f"`{name}` must have the shape {layout} (batch_size, num_audio_layers, channels), but has "
                f"{tuple(values.shape)}. Was the speaker's profile made with another model?"
            )


def _video_mask(config, action_units, action_units_mask):
    """`(B, T_v)` bool, or `None` where there is no video; refuses action units of another shape."""
    if action_units is None:
        return None
    if action_units.ndim != 3:
        raise ValueError(
            "`action_units` must have the shape (batch_size, num_video_frames, num_action_units), but has "
            f"{tuple(action_units.shape)}."
        )
    if action_units.shape[2] != config.num_action_units:
        hint = " (17 intensities, then 18 presences)" if config.num_action_units == 35 else ""
        raise ValueError(
            f"`action_units` must have {config.num_action_units} channels{hint}, but has {action_units.shape[2]}."
        )
    if action_units.shape[1] == 0:
        raise ValueError("`action_units` has no frames. Leave it out where there is no video.")
    return _bool_mask("action_units_mask", action_units_mask, tuple(action_units.shape[:2]), action_units.device)


def _bool_mask(name, mask, shape, device):
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(f"`{name}` must have the shape {tuple(shape)} of what it masks, but has {tuple(mask.shape)}.")
    return mask.bool()


def _readable(*tensors):
    """Whether values may be looked at: on the CPU and not while tracing. Elsewhere it would stall the device."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return all(tensor is None or tensor.device.type == "cpu" for tensor in tensors)


def _check_values(config, audio_inputs, action_units, audio_input_mask, video_mask, video_timestamps):
    present = torch.zeros(len(_first_given(audio_inputs, action_units)), dtype=torch.bool)
    if audio_inputs is not None:
        if audio_inputs.ndim == 4:
            _check_finite("audio_frames", audio_inputs, audio_input_mask[..., None, None])
        else:
            _check_audio(config, audio_inputs, audio_input_mask)
        present |= audio_input_mask.any(dim=1)
    if action_units is not None:
        _check_finite("action_units", action_units, video_mask[..., None])
        present |= video_mask.any(dim=1)
        if video_timestamps is not None and video_timestamps.shape[-1] == video_mask.shape[1]:
            _check_clock(video_timestamps.expand(video_mask.shape), video_mask)
    if not present.all():
        raise ValueError(f"Clips {_indices(~present)} of the batch have neither audio nor video.")


def _check_audio(config, inputs, mask):
    _check_finite(config.audio_input_name, inputs, _over_channels(config, mask))
    num_inputs = mask.sum(dim=1)
    short = (num_inputs > 0) & (num_inputs < config.min_audio_inputs)
    if short.any():
        raise ValueError(
            f"Clips {_indices(short)} have {num_inputs[short].tolist()} audio inputs, but one frame of the audio "
            f"encoder takes {config.min_audio_inputs}."
        )


def _check_finite(name, values, mask):
    bad = ~values.isfinite() & mask
    if bad.any():
        raise ValueError(f"`{name}` is not finite in clips {_indices(bad.flatten(1).any(dim=1))}: mask such frames.")


def _check_clock(timestamps, mask):
    _check_finite("video_timestamps", timestamps, mask)
    latest = timestamps.masked_fill(~mask, -torch.inf).cummax(dim=1).values
    backwards = (timestamps < latest) & mask
    if backwards.any():
        clip, frame = backwards.nonzero()[0].tolist()
        raise ValueError(
            f"`video_timestamps` must not decrease, but in clip {clip} frame {frame} is at "
            f"{timestamps[clip, frame]:.3f} s, after {latest[clip, frame]:.3f} s."
        )


def _check_labels(config, labels, batch_size):
    if tuple(labels.shape) != (batch_size,):
        raise ValueError(f"`labels` {tuple(labels.shape)} must hold one number for each of the {batch_size} clips.")
    if labels.dtype.is_floating_point:
        raise ValueError(f"`labels` must be integers, but are {labels.dtype}.")
    if not _readable(labels):
        return
    wrong = ((labels < 0) | (labels >= config.num_labels)) & (labels != IGNORED_LABEL)
    if wrong.any():
        raise ValueError(
            f"`labels` must be 0 to {config.num_labels - 1} ({', '.join(config.id2label.values())}), or "
            f"{IGNORED_LABEL} for none, but hold {labels[wrong].tolist()}."
        )


def _first_given(*tensors):
    return next((tensor for tensor in tensors if tensor is not None), ())


def _indices(flags):
    return flags.nonzero().flatten().tolist()


def _time_axis(config):
    return 2 if config.audio_config.model_type == "whisper" else 1


def _over_channels(config, input_mask):
    """The mask of the audio inputs, shaped to broadcast over the channels of a spectrogram."""
    if config.audio_input_name == "input_values":
        return input_mask
    return input_mask[:, None] if _time_axis(config) == 2 else input_mask[..., None]
