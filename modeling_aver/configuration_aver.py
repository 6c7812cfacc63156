"""AverConfig: the paper's numbers as defaults, what the paper leaves open as our choices, and the checks of both."""

import math

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.configuration_auto import AutoConfig

CREMA_D_EMOTIONS = ("anger", "disgust", "fear", "happy", "neutral", "sad")

FUSION_LAYER_TYPES = ("msa", "isa", "ica")
POSITION_EMBEDDING_TYPES = ("tarope", "rope", "sinusoidal", "learnable", "none")
AUDIO_NORMALIZATIONS = ("none", "standardize")
DTYPES = ("float32", "float16", "bfloat16", "float64")
# Attention that torch brings along. Other words make transformers fetch a kernel from the Hub and run it, which is for
# the one who loads to ask for, never for a file.
BUILT_IN_ATTENTIONS = ("eager", "sdpa", "flex_attention")

# Encoders that read the waveform by a stack of convolutions, and those that read a spectrogram: (frames of the
# spectrogram a second, spectrogram frames to one frame of the encoder).
WAVEFORM_ENCODERS = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
SPECTROGRAM_ENCODERS = {"whisper": (100.0, 2), "wav2vec2-bert": (50.0, 1)}

# The shape of facebook/wav2vec2-large-xlsr-53. Its pretraining dropouts are kept; layer drop and SpecAugment are off,
# because the paper names no augmentation and because skipped layers leave parameters without a gradient under DDP.
XLSR_53 = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}


class AverConfig(PreTrainedConfig):
    """
    Configuration of an audio-visual emotion model with TaRoPE and the CTM loss (Koo et al.). The defaults are the
    paper's; entries marked *our choice* fill what the paper leaves open.

    Args:
        audio_config (`PreTrainedConfig` or `dict`, *optional*):
            Any Hugging Face audio encoder: wav2vec2, hubert, wavlm, data2vec-audio, unispeech, unispeech-sat,
            wav2vec2-bert, whisper (its encoder). Defaults to the shape of `facebook/wav2vec2-large-xlsr-53`.
        audio_layers (`list[int]`, *optional*):
            Hidden states of the audio encoder that are heard, mixed by learned softmax weights where they are several
            (as in SUPERB): 0 is what enters its first layer, n what leaves its n-th, the last one after its final
            norm. Defaults to the last alone, as in the paper.
        audio_pooling_stride (`int`, *optional*, defaults to 1):
            Frames of the audio encoder that are averaged to one token; 1 in the paper. Fusion costs grow with tokens.
        audio_normalization (`str`, *optional*, defaults to `"none"`):
            `standardize` brings each channel of the audio frames to zero mean and unit deviation over the training
            clips, or over the speaker's own where a [`~SpeakerProfile`] is given; the paper has `none`.
        sampling_rate (`int`, *optional*, defaults to 16000): Of the waveform, in Hz.
        num_action_units (`int`, *optional*, defaults to 35):
            Channels of a video frame: 17 intensities, then 18 presences of OpenFace. Other features have other sizes.
        video_frame_rate (`float`, *optional*, defaults to 30.0):
            η_v in Hz, used where a batch brings no `video_timestamps`.
        feature_identity (`dict`, *optional*):
            Who made the video features that the model was trained on (name, version, settings, columns), see
            [`~features.FeatureIdentity`]. Features of another extractor mean something else.
        hidden_size (`int`, *optional*, defaults to 512): d_model.
        num_attention_heads (`int`, *optional*, defaults to 8): *Our choice.*
        intermediate_size (`int`, *optional*, defaults to 2048):
            *Our choice*: four such layers have Table 2's 12.61M parameters to the digit.
        hidden_act (`str`, *optional*, defaults to `"relu"`): *Our choice*, as in `torch.nn.TransformerEncoderLayer`.
        dropout (`float`, *optional*, defaults to 0.1): *Our choice*, likewise: attention, feed-forward, residual.
        projection_dropout (`float`, *optional*, defaults to 0.0):
            On audio frames and action units before they are projected (eq. 1-2); wav2vec2's `feat_proj_dropout`.
        layer_norm_eps (`float`, *optional*, defaults to 1e-5): *Our choice*; layers are post-norm.
        initializer_range (`float`, *optional*, defaults to 0.02): *Our choice*: deviation of new linear weights.
        fusion_layers (`list[str]`, *optional*, defaults to `["msa", "msa"]`):
            A row of Table 2. `msa`: one layer over both streams. `isa`: one layer a stream, within it. `ica`: one
            layer a stream, which hears only the other. `[]` is Concat: tokens go straight to the pooling.
        position_embedding_type (`str`, *optional*, defaults to `"tarope"`):
            A row of Table 3: `tarope` rotates by `timestamp × audio_frame_rate`; `rope`, `sinusoidal` and `learnable`
            count the frames of each stream from 0 (*our choice*, so that equal rates make RoPE equal TaRoPE);
            `none` is the control without positions.
        rope_theta (`float`, *optional*, defaults to 10000.0): θ_base of eq. 3.
        max_position_embeddings (`int`, *optional*, defaults to 1500):
            Rows of the `learnable` table, in frames: 30 s at 50 Hz. *Our choice.*
        ctm_loss_weight (`float`, *optional*, defaults to 0.5):
            λ_ctm of eq. 12. 0 is Table 3's column without CTM: the model then has no CTM projections.
        ctm_projection_dim (`int`, *optional*, defaults to 128): d_emb. The projections are linear, *our choice*.
        ctm_sigma (`float`, *optional*, defaults to 0.5): σ of eq. 6, in seconds.
        ctm_temperature (`float`, *optional*, defaults to 0.07): τ of eq. 7-8.
        id2label (`dict[int, str]`, *optional*): Defaults to CREMA-D's six emotions.

    Raises:
        `ValueError`: for a value that no model can have, naming it and what is allowed.

    Example:

    ```python
    AverConfig()                                                      # the paper's model
    AverConfig(position_embedding_type="rope", ctm_loss_weight=0.0)   # Table 3, row RoPE, column w/o
    AverConfig(fusion_layers=["isa", "ica"], ctm_loss_weight=0.0)     # Table 2, row ISA + ICA
    ```
    """

    model_type = "aver"
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2", init_kwargs=XLSR_53)
    }
    keys_to_ignore_at_inference = [
        *("audio_embeds", "video_embeds", "audio_timestamps", "video_timestamps", "audio_mask", "video_mask"),
        *("classification_loss", "ctm_loss", "hidden_states", "attentions"),
    ]

    audio_config: dict | PreTrainedConfig | None = None
    audio_layers: list[int] | tuple[int, ...] | None = None
    audio_pooling_stride: int = 1
    audio_normalization: str = "none"
    sampling_rate: int = 16_000
    num_action_units: int = 35
    video_frame_rate: float = 30.0
    feature_identity: dict | None = None
    hidden_size: int = 512
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "relu"
    dropout: float = 0.1
    projection_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    fusion_layers: list[str] | tuple[str, ...] = ("msa", "msa")
    position_embedding_type: str = "tarope"
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 1500
    ctm_loss_weight: float = 0.5
    ctm_projection_dim: int = 128
    ctm_sigma: float = 0.5
    ctm_temperature: float = 0.07

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """
        As everywhere in transformers, for the values of a file; `kwargs` are what the one who loads it asks for.

        Raises:
            `ValueError`: besides that of the class, for values that transformers cannot read, and for an attention
                that would have to be fetched.
        """
        for values in (config_dict, config_dict.get("audio_config")):
            if isinstance(values, dict):
                _check_attention_is_built_in(values)
        try:
            return super().from_dict(config_dict, **kwargs)
        except (StrictDataclassError, AttributeError, IndexError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The configuration cannot be read: {type(error).__name__}: {reason}.") from error

    def __post_init__(self, **kwargs):
        if self.id2label is None and kwargs.get("num_labels") is None:
            self.id2label = dict(enumerate(CREMA_D_EMOTIONS))
        self._check_types()
        _check_dtypes({"dtype": self.dtype, **kwargs})
        self.fusion_layers = list(self.fusion_layers)
        self.audio_layers = None if self.audio_layers is None else list(self.audio_layers)
        if not __name__.startswith("transformers_modules."):  # installed: its own pipeline is registered, and the
            kwargs.pop("custom_pipelines", None)  # folder's would have to be trusted first
        super().__post_init__(**kwargs)
        self.label2id = {label: index for index, label in self.id2label.items()}
        self._check_numbers()
        self._check_words()
        self._check_labels()
        self._check_audio_encoder()

    @property
    def num_hidden_layers(self):
        """Fusion blocks, each of one layer (msa) or of one a stream (isa, ica)."""
        return len(self.fusion_layers)

    @property
    def audio_input_name(self):
        """What the audio encoder reads: `input_values` (a waveform) or `input_features` (a spectrogram)."""
        return "input_features" if self.audio_config.model_type in SPECTROGRAM_ENCODERS else "input_values"

    @property
    def audio_frame_rate(self):
        """η_a in Hz, from the strides of the audio encoder: 50.0 for xlsr."""
        if self.audio_config.model_type in SPECTROGRAM_ENCODERS:
            spectrogram_rate, stride = SPECTROGRAM_ENCODERS[self.audio_config.model_type]
            return spectrogram_rate / stride
        return self.sampling_rate / math.prod(self.audio_config.conv_stride)

    @property
    def num_audio_layers(self):
        """Hidden states of the audio encoder that are heard."""
        return 1 if self.audio_layers is None else len(self.audio_layers)

    def num_audio_frames(self, num_inputs):
        """
        Frames that the audio encoder makes of `num_inputs` samples (or spectrogram frames): its convolutions' own
        arithmetic, never rate × duration. 16,000 samples give 49 frames of xlsr.

        Args:
            num_inputs (`int` or integer `torch.Tensor`): Real inputs, without padding.

        Returns:
            The same type; 0 where the input is shorter than one frame.
        """
        if self.audio_config.model_type in SPECTROGRAM_ENCODERS:
            _, stride = SPECTROGRAM_ENCODERS[self.audio_config.model_type]
            return (num_inputs + stride - 1) // stride
        frames = num_inputs
        for kernel, stride in zip(self.audio_config.conv_kernel, self.audio_config.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames * (frames > 0)

    @property
    def min_audio_inputs(self):
        """Samples (or spectrogram frames) that one frame of the audio encoder needs: 400 for xlsr, 25 ms."""
        if self.audio_config.model_type in SPECTROGRAM_ENCODERS:
            return 1
        inputs = 1
        for kernel, stride in zip(
            self.audio_config.conv_kernel[::-1], self.audio_config.conv_stride[::-1], strict=True
        ):
            inputs = (inputs - 1) * stride + kernel
        return inputs

    def _check_types(self):
        if not isinstance(self.fusion_layers, list | tuple):
            raise ValueError(
                f"`fusion_layers` ({self.fusion_layers!r}) must be a list of {_listed(FUSION_LAYER_TYPES)}."
            )
        if not isinstance(self.audio_layers, list | tuple | None):
            raise ValueError(
                f"`audio_layers` ({self.audio_layers!r}) must be a list of numbers, or None for the last."
            )
        if not isinstance(self.feature_identity, dict | None):
            raise ValueError(f"`feature_identity` ({self.feature_identity!r}) must be a dict with a name, or None.")
        labels = {} if self.id2label is None else self.id2label
        if not isinstance(labels, dict) or not all(
            str(key).isdecimal() and isinstance(label, str) for key, label in labels.items()
        ):
            raise ValueError(f"`id2label` ({self.id2label!r}) must map the numbers 0, 1, 2 … to names.")
        if not isinstance(self.audio_config, dict | PreTrainedConfig | None):
            raise ValueError(
                f"`audio_config` ({self.audio_config!r}) must be a configuration or a dict of its values."
            )
        if isinstance(self.audio_config, dict):
            _check_audio_encoder_type(self.audio_config.get("model_type", "wav2vec2"))
            _check_dtypes(self.audio_config)

    def _check_numbers(self):
        self._check_counts()
        self._check_ranges()
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of twice `num_attention_heads` "
                f"({self.num_attention_heads}): rotary embeddings turn pairs of channels within each head."
            )

    def _check_counts(self):
        integers = ("sampling_rate", "num_action_units", "hidden_size", "num_attention_heads", "intermediate_size")
        for name in (*integers, "audio_pooling_stride", "max_position_embeddings", "ctm_projection_dim"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"`{name}` ({getattr(self, name)!r}) must be a positive integer.")

    def _check_ranges(self):
        positive = ("video_frame_rate", "layer_norm_eps", "rope_theta", "ctm_sigma", "ctm_temperature")
        for name in positive:
            if not _is_number(getattr(self, name)) or getattr(self, name) <= 0:
                raise ValueError(f"`{name}` ({getattr(self, name)!r}) must be a positive number.")
        for name in ("initializer_range", "ctm_loss_weight"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"`{name}` ({getattr(self, name)!r}) must be a number of at least 0.")
        for name in ("dropout", "projection_dropout"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` ({getattr(self, name)!r}) must be a number of at least 0 and below 1.")

    def _check_words(self):
        unknown = [word for word in self.fusion_layers if word not in FUSION_LAYER_TYPES]
        if unknown:
            raise ValueError(f"`fusion_layers` may hold {_listed(FUSION_LAYER_TYPES)}; got {_listed(unknown)}.")
        if self.position_embedding_type not in POSITION_EMBEDDING_TYPES:
            raise ValueError(
                f"`position_embedding_type` ({self.position_embedding_type!r}) must be one of "
                f"{_listed(POSITION_EMBEDDING_TYPES)}."
            )
        if self.audio_normalization not in AUDIO_NORMALIZATIONS:
            raise ValueError(
                f"`audio_normalization` ({self.audio_normalization!r}) must be one of {_listed(AUDIO_NORMALIZATIONS)}."
            )
        _check_activations({"hidden_act": self.hidden_act})

    def _check_labels(self):
        if sorted(self.id2label) != list(range(len(self.id2label))) or not self.id2label:
            raise ValueError(f"`id2label` must number its labels 0, 1, 2 …, but has the keys {sorted(self.id2label)}.")
        if len(self.label2id) != len(self.id2label):
            raise ValueError(f"`id2label` must name each label once, but has {_listed(self.id2label.values())}.")

    def _check_audio_encoder(self):
        model_type = self.audio_config.model_type
        _check_audio_encoder_type(model_type)
        if model_type in SPECTROGRAM_ENCODERS and self.sampling_rate != 16_000:
            raise ValueError(f"`sampling_rate` ({self.sampling_rate}) must be 16000 for {model_type}'s spectrogram.")
        if getattr(self.audio_config, "add_adapter", False):
            raise ValueError(
                "`audio_config.add_adapter` (True) must be False: an adapter changes the frame rate of the encoder."
            )
        self._check_audio_layers()
        _check_activations(self.audio_config.to_dict())
        if model_type in WAVEFORM_ENCODERS:
            steps = (*self.audio_config.conv_kernel, *self.audio_config.conv_stride)
            if not steps or not all(_is_count(step) for step in steps):
                raise ValueError(
                    f"`audio_config.conv_kernel` ({list(self.audio_config.conv_kernel)}) and `conv_stride` "
                    f"({list(self.audio_config.conv_stride)}) must hold positive integers."
                )

    def _check_audio_layers(self):
        if self.audio_layers is None:
            return
        layers, deepest = self.audio_layers, self.audio_config.num_hidden_layers
        known = [layer for layer in layers if isinstance(layer, int) and 0 <= layer <= deepest]
        if not layers or len(set(known)) < len(layers):
            raise ValueError(
                f"`audio_layers` ({layers}) must name some of 0 to {deepest}, each once: this {deepest}-layer "
                f"{self.audio_config.model_type} has no others."
            )


def _check_audio_encoder_type(model_type):
    known = (*WAVEFORM_ENCODERS, *SPECTROGRAM_ENCODERS)
    if model_type not in known:
        raise ValueError(f"`audio_config.model_type` ({model_type!r}) must be one of {_listed(known)}.")


def _check_attention_is_built_in(values):
    for name in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
        value = values.get(name)
        if value is not None and value not in BUILT_IN_ATTENTIONS:
            raise ValueError(
                f"`{name}` ({value!r}) of a configuration file must be one of {_listed(BUILT_IN_ATTENTIONS)}: others "
                "are code from elsewhere. Ask for it yourself, if you trust it: from_pretrained(…, "
                "attn_implementation=…)."
            )


def _check_dtypes(values):
    for name in ("dtype", "torch_dtype"):
        value = values.get(name)
        if value is not None and str(value).removeprefix("torch.") not in DTYPES:
            raise ValueError(f"`{name}` ({value!r}) must be one of {_listed(DTYPES)}.")


def _check_activations(values):
    from transformers.activations import ACT2FN

    for name in ("hidden_act", "activation_function", "feat_extract_activation"):
        if name in values and (not isinstance(values[name], str) or values[name] not in ACT2FN):
            raise ValueError(f"`{name}` ({values[name]!r}) must be one of {_listed(ACT2FN)}.")


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _listed(words):
    return ", ".join(str(word) for word in words)
