"""The fusion encoder: two streams of tokens with timestamps in, the same tokens fused out. It knows no wav2vec2, no
labels and no files, so it serves anybody's features.

Every kind of fusion in Table 2 is one layer class, `FusionLayer.forward(queries, context, …)`, wired differently: msa
lets all tokens hear all tokens, isa keeps to its own stream, ica hears only the other one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .configuration_aver import AverConfig
from .positions import rotary_angles, rotate, sinusoids


@dataclass
class FusionEncoderOutput(ModelOutput):
    """
    Args:
        audio_hidden_states (`torch.Tensor` of shape `(batch_size, num_audio_frames, hidden_size)`): Fused audio.
        video_hidden_states (`torch.Tensor` of shape `(batch_size, num_video_frames, hidden_size)`): Fused video.
        hidden_states (`tuple(torch.Tensor)`, *optional*):
            The tokens of both streams, audio first, before the first block and after each one:
            `(batch_size, num_audio_frames + num_video_frames, hidden_size)`.
        attentions (`tuple(torch.Tensor)`, *optional*):
            Weights `(batch_size, num_heads, num_queries, num_keys)`, one a layer: an msa block has one, an isa or ica
            block has two, first of the audio queries, then of the video queries.
    """

    audio_hidden_states: torch.Tensor | None = None
    video_hidden_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class Stream:
    """Tokens with what belongs to them: `states (B, T, D)`, `mask (B, T)` bool, `angles (B or 1, 1, T, D_head/2)`."""

    states: torch.Tensor
    mask: torch.Tensor
    angles: torch.Tensor | None

    def with_states(self, states):
        return Stream(states, self.mask, self.angles)

    def split(self, sizes):
        angles = [None, None] if self.angles is None else self.angles.split(sizes, dim=2)
        parts = zip(self.states.split(sizes, dim=1), self.mask.split(sizes, dim=1), angles, strict=True)
        return [Stream(*part) for part in parts]


def masked_mean(states, mask):
    """Mean of `states (B, T, D)` over the frames where `mask (B, T)` is true; 0 where none is."""
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Softmax attention in plain tensors, softmax in float32. `attention_mask`: True is seen, or `None`."""
    scores = torch.matmul(query, key.mT) * scaling  # (B, H, T_q, D_h) x (B, H, D_h, T_k) -> (B, H, T_q, T_k)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights  # (B, T_q, H, D_h)


class FusionAttention(nn.Module):
    """Multi-head attention of queries over a context, both rotated by their own angles (eq. 3-5)."""

    is_causal = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # rows of queries, of keys, of values
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries, context, query_angles, context_angles, context_mask, implementation):
        if queries.shape[1] == 0 or context.shape[1] == 0:  # a missing stream: nobody listens, or nothing is heard
            weights = queries.new_zeros(
                len(queries), self.config.num_attention_heads, queries.shape[1], context.shape[1]
            )
            return self.out_proj(torch.zeros_like(queries)), weights
        if context is queries:
            query, key, value = self._project_together(queries, query_angles)
        else:
            query, key, value = self._project_apart(queries, context, query_angles, context_angles)
        if "flash" in implementation and context is not queries:
            implementation = "sdpa"  # flash kernels unpad queries and keys by one mask
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        # A clip without a single frame to hear hears nothing, whatever a backend makes of an empty softmax.
        hears = context_mask.any(dim=1, keepdim=True)
        mask = self._mask(queries, context_mask | ~hears, implementation)
        dropout = self.config.dropout if self.training else 0.0
        output, weights = attend(self, query, key, value, mask, scaling=self.scaling, dropout=dropout)
        output = output.flatten(2) * hears[..., None]  # (B, T_q, H, D_h) -> (B, T_q, D)
        return self.out_proj(output), weights

    def _project_together(self, tokens, angles):
        """Query, key and value `(B, H, T, D_h)` of tokens that hear themselves: one product, one rotation."""
        num_heads = self.config.num_attention_heads
        turning, value = self._heads(self.qkv_proj(tokens)).split([2 * num_heads, num_heads], dim=1)
        query, key = (turning if angles is None else rotate(turning, angles)).chunk(2, dim=1)
        return query, key, value

    def _project_apart(self, queries, context, query_angles, context_angles):
        """The same where queries hear others."""
        size = self.config.hidden_size
        weight, bias = self.qkv_proj.weight, self.qkv_proj.bias
        query = self._heads(F.linear(queries, weight[:size], bias[:size]))
        key, value = self._heads(F.linear(context, weight[size:], bias[size:])).chunk(2, dim=1)
        if query_angles is not None:
            query, key = rotate(query, query_angles), rotate(key, context_angles)
        return query, key, value

    def _heads(self, states):
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, T, D) -> (B, H, T, D_h)

    def _mask(self, queries, context_mask, implementation):
        if implementation in ("eager", "sdpa"):
            return context_mask[:, None, None, :]  # broadcasts over heads and queries; no look at its values, no sync
        return create_bidirectional_mask(self.config, inputs_embeds=queries, attention_mask=context_mask)


class FusionLayer(GradientCheckpointingLayer):
    """
    One post-norm transformer layer. With queries as their own context and positions off it equals
    `torch.nn.TransformerEncoderLayer` of the same weights; with another context it is cross-attention.
    """

    def __init__(self, config):
        super().__init__()
        self.attention = FusionAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward_in = nn.Linear(config.hidden_size, config.intermediate_size)
        self.feed_forward_out = nn.Linear(config.intermediate_size, config.hidden_size)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        if isinstance(self.activation, nn.ReLU):
            self.activation.inplace = True  # nobody else reads the widest states of the layer
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries, context, query_angles, context_angles, context_mask, implementation):
        """
        Args:
            queries (`torch.Tensor` of shape `(batch_size, num_queries, hidden_size)`): Tokens that listen.
            context (`torch.Tensor` of shape `(batch_size, num_keys, hidden_size)`): Tokens that they hear.
            query_angles, context_angles (`torch.Tensor` of shape `(batch_size or 1, 1, num_frames, head_dim // 2)`):
                Rotations in radians, or `None` for none.
            context_mask (`torch.BoolTensor` of shape `(batch_size, num_keys)`): `True` for tokens that may be heard.
            implementation (`str`): A name in transformers' attention interface.

        Returns:
            `tuple`: the queries' new states, and the attention weights where the implementation gives them.
        """
        heard, weights = self.attention(queries, context, query_angles, context_angles, context_mask, implementation)
        states = self.attention_norm(queries + self.dropout(heard))
        expanded = self.dropout(self.activation(self.feed_forward_in(states)))
        return self.feed_forward_norm(states + self.dropout(self.feed_forward_out(expanded))), weights


class MultimodalSelfAttention(nn.Module):
    """msa: one layer in which every token of both streams hears every other (section 2.1)."""

    def __init__(self, config):
        super().__init__()
        self.layer = FusionLayer(config)

    def forward(self, tokens, sizes, implementation):
        states, weights = _listen(self.layer, tokens, tokens, implementation)
        return states, (weights,)


class StreamwiseAttention(nn.Module):
    """A layer for each stream. Subclasses say which stream each of them hears, as it was before the block."""

    def __init__(self, config):
        super().__init__()
        self.audio_layer = FusionLayer(config)
        self.video_layer = FusionLayer(config)

    def forward(self, tokens, sizes, implementation):
        audio, video = tokens.split(sizes)
        audio_context, video_context = self.contexts(audio, video)
        audio_states, audio_weights = _listen(self.audio_layer, audio, audio_context, implementation)
        video_states, video_weights = _listen(self.video_layer, video, video_context, implementation)
        return torch.cat([audio_states, video_states], dim=1), (audio_weights, video_weights)


class IntraModalSelfAttention(StreamwiseAttention):
    """isa: each stream hears only itself (Fig. 2)."""

    @staticmethod
    def contexts(audio, video):
        return audio, video


class InterModalCrossAttention(StreamwiseAttention):
    """ica: each stream hears only the other (Fig. 2)."""

    @staticmethod
    def contexts(audio, video):
        return video, audio


FUSION_BLOCKS = {"msa": MultimodalSelfAttention, "isa": IntraModalSelfAttention, "ica": InterModalCrossAttention}


def _listen(layer, queries, context, implementation):
    # Positionally: gradient checkpointing passes keyword arguments by, and its states must be among the inputs.
    return layer(queries.states, context.states, queries.angles, context.angles, context.mask, implementation)


class FusionEncoder(PreTrainedModel):
    """
    Fuses two streams of tokens on one clock (section 2.1-2.2). `len(config.fusion_layers)` blocks, then nothing: with
    `fusion_layers=[]` the tokens come back as they are (Table 2, Concat).

    Example:

    ```python
    encoder = FusionEncoder(AverConfig(hidden_size=64, num_attention_heads=4, intermediate_size=128))
    fused = encoder(speech, gestures, frame_timestamps(100, 50.0), frame_timestamps(60, 30.0))
    fused.audio_hidden_states, fused.video_hidden_states
    ```
    """

    config_class = AverConfig
    base_model_prefix = "fusion_encoder"
    main_input_name = "audio_hidden_states"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FusionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList([FUSION_BLOCKS[kind](config) for kind in config.fusion_layers])
        if config.position_embedding_type == "learnable":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.post_init()

    def forward(
        self,
        audio_hidden_states,
        video_hidden_states,
        audio_timestamps,
        video_timestamps,
        audio_mask=None,
        video_mask=None,
        output_hidden_states=None,
        output_attentions=None,
    ):
        """
        Args:
            audio_hidden_states (`torch.Tensor` of shape `(batch_size, num_audio_frames, hidden_size)`):
                Audio tokens. No frames at all (`num_audio_frames` 0) is a missing stream.
            video_hidden_states (`torch.Tensor` of shape `(batch_size, num_video_frames, hidden_size)`): Likewise.
            audio_timestamps, video_timestamps (`torch.Tensor` of shape `(num_frames,)` or `(batch_size, num_frames)`):
                Seconds on one clock, float. Only their differences matter.
            audio_mask, video_mask (`torch.BoolTensor` of shape `(batch_size, num_frames)`, *optional*):
                `True` for real frames. Masked frames are heard by nobody; what comes out in their place means nothing.
            output_hidden_states (`bool`, *optional*): Also return the tokens between the blocks.
            output_attentions (`bool`, *optional*): Also return attention weights; this call then runs eager attention.

        Returns:
            [`FusionEncoderOutput`]

        Raises:
            `ValueError`: if shapes do not belong together, or a stream is longer than a learnable position table.
        """
        output_hidden_states = _or_default(output_hidden_states, self.config.output_hidden_states)
        output_attentions = _or_default(output_attentions, self.config.output_attentions)
        audio_mask = self._checked_mask("audio", audio_hidden_states, audio_timestamps, audio_mask)
        video_mask = self._checked_mask("video", video_hidden_states, video_timestamps, video_mask)

        sizes = [audio_hidden_states.shape[1], video_hidden_states.shape[1]]
        states = torch.cat([self._with_position(audio_hidden_states), self._with_position(video_hidden_states)], dim=1)
        mask = torch.cat([audio_mask, video_mask], dim=1)
        tokens = Stream(states, mask, self._angles(audio_timestamps, video_timestamps, sizes, mask))

        implementation = "eager" if output_attentions else self.config._attn_implementation
        hidden_states, attentions = (tokens.states,), ()
        for block in self.blocks:
            states, weights = block(tokens, sizes, implementation)
            tokens = tokens.with_states(states)
            hidden_states, attentions = (*hidden_states, states), (*attentions, *weights)
        audio_states, video_states = tokens.states.split(sizes, dim=1)
        return FusionEncoderOutput(
            audio_hidden_states=audio_states,
            video_hidden_states=video_states,
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
        )

    def _with_position(self, states):
        """Absolute encodings are added to the tokens once; each stream counts its own frames from 0."""
        kind = self.config.position_embedding_type
        if kind not in ("sinusoidal", "learnable"):
            return states
        num_frames = states.shape[1]
        indices = torch.arange(num_frames, device=states.device)
        if kind == "sinusoidal":
            return states + sinusoids(indices, states.shape[2], self.config.rope_theta).to(states.dtype)
        if num_frames > self.config.max_position_embeddings:
            raise ValueError(
                f"`max_position_embeddings` ({self.config.max_position_embeddings}) is less than the {num_frames} "
                "frames of a stream: cut the recording into windows, or use a position type without a table."
            )
        return states + self.position_embeddings(indices)

    def _angles(self, audio_timestamps, video_timestamps, sizes, mask):
        """Rotations `(B or 1, 1, T, D_head/2)` in radians (eq. 4-5; eq. 3 for plain RoPE), or `None`."""
        if self.config.position_embedding_type == "tarope":
            positions = self._seconds(audio_timestamps, video_timestamps, mask) * self.config.audio_frame_rate
        elif self.config.position_embedding_type == "rope":
            positions = torch.cat([torch.arange(size, device=mask.device) for size in sizes])[None]
        else:
            return None
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        return rotary_angles(positions, head_dim, self.config.rope_theta)[:, None]

    def _seconds(self, audio_timestamps, video_timestamps, mask):
        """
        Times of all tokens since the first one of their clip, `(B or 1, T)`. Rotations only see differences, so the
        origin is free, and small numbers keep float32 exact: a window an hour into a recording turns as the first.
        """
        if audio_timestamps.ndim == 2 or video_timestamps.ndim == 2:
            audio_timestamps, video_timestamps = (
                times.expand(mask.shape[0], -1) for times in (audio_timestamps, video_timestamps)
            )
        else:
            audio_timestamps, video_timestamps = audio_timestamps[None], video_timestamps[None]
            mask = mask.any(dim=0, keepdim=True)
        wide = torch.promote_types(audio_timestamps.dtype, video_timestamps.dtype)
        seconds = torch.cat([audio_timestamps.to(wide), video_timestamps.to(wide)], dim=1)
        seconds = seconds.to(torch.promote_types(wide, torch.float32))
        origin = seconds.masked_fill(~mask, torch.finfo(seconds.dtype).max).amin(dim=1, keepdim=True)
        return (seconds - origin).masked_fill(~mask, 0.0)

    def _checked_mask(self, stream, states, timestamps, mask):
        if states.ndim != 3 or states.shape[2] != self.config.hidden_size:
            raise ValueError(
                f"`{stream}_hidden_states` must have the shape (batch_size, num_frames, {self.config.hidden_size}), "
                f"but has {tuple(states.shape)}."
            )
        frames = tuple(states.shape[:2])
        if tuple(timestamps.shape) not in (frames, frames[1:]):
            raise ValueError(
                f"`{stream}_timestamps` must have the shape {frames[1:]} or {frames}, but has "
                f"{tuple(timestamps.shape)}."
            )
        if mask is None:
            return states.new_ones(frames, dtype=torch.bool)
        if tuple(mask.shape) != frames:
            raise ValueError(
                f"`{stream}_mask` must have the shape {frames} of the frames, but has {tuple(mask.shape)}."
            )
        return mask.bool()

    @torch.no_grad()
    def _init_weights(self, module):
        initialize(module, self.config.initializer_range)


def initialize(module, deviation):
    """Fills a new module: normal linear and embedding weights, zero biases, unit norms."""
    if isinstance(module, nn.Linear | nn.Embedding):
        init.normal_(module.weight, mean=0.0, std=deviation)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
    if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
        init.zeros_(module.bias)


def _or_default(value, default):
    return default if value is None else value
