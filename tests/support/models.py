"""Tiny models and synthetic clips. Every dimension has its own size, so that no two axes can be confused."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # runs are compared digit by digit

from pathlib import Path

import torch
from transformers import (
    Data2VecAudioConfig,
    HubertConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
)

from modeling_aver import AverConfig, AverForEmotionClassification

SHARED = Path(__file__).resolve().parents[3] / "shared"

_LAYERS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
_DROPOUTS = dict.fromkeys(
    ["hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop", "mask_time_prob"], 0.0
)
# 16 kHz / (5 × 4 × 4): 200 frames a second, so that a tenth of a second is enough of a clip.
_CONVOLUTIONS = {
    "conv_dim": (14, 15, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 9,
    "num_conv_pos_embedding_groups": 2,
}
_WAVEFORM_CONFIGS = {
    "wav2vec2": Wav2Vec2Config,
    "hubert": HubertConfig,
    "wavlm": WavLMConfig,
    "unispeech": UniSpeechConfig,
    "unispeech-sat": UniSpeechSatConfig,
}
AUDIO_ENCODERS = [
    *(f"{name}-{norm}" for name in _WAVEFORM_CONFIGS for norm in ("layer", "group")),
    *("data2vec-audio", "wav2vec2-bert", "whisper"),
]


def audio_config(name="wav2vec2-layer"):
    """A tiny encoder of a family; for waveforms of a normalization, as `hubert-group`."""
    if name == "whisper":
        sizes = {"d_model": 24, "encoder_layers": 2, "encoder_attention_heads": 3, "encoder_ffn_dim": 40}
        return WhisperConfig(**sizes, num_mel_bins=80, decoder_layers=1, decoder_attention_heads=3, dropout=0.0)
    if name == "wav2vec2-bert":
        dropouts = {**_DROPOUTS, "conformer_conv_dropout": 0.0, "feat_proj_dropout": 0.0}
        return Wav2Vec2BertConfig(**_LAYERS, **dropouts, conv_depthwise_kernel_size=5)
    if name == "data2vec-audio":
        convolutions = {**_CONVOLUTIONS, "num_conv_pos_embeddings": 3}
        return Data2VecAudioConfig(**_LAYERS, **_DROPOUTS, **convolutions, conv_pos_kernel_size=5)
    family, norm = name.rsplit("-", 1)
    stable = {"do_stable_layer_norm": norm == "layer", "feat_extract_norm": norm, "feat_proj_dropout": 0.0}
    return _WAVEFORM_CONFIGS[family](**_LAYERS, **_DROPOUTS, **_CONVOLUTIONS, **stable)


def aver_config(audio="wav2vec2-layer", **values):
    """A tiny model: 7 action units, 32 channels, 4 heads."""
    sizes = {"num_action_units": 7, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    values = {**sizes, "ctm_projection_dim": 13, "dropout": 0.0, "max_position_embeddings": 400, **values}
    return AverConfig(audio_config=audio_config(audio), **values)


def aver_model(config, seed=0):
    """A model with weights large enough to tell right from wrong: the usual 0.02 makes every output nearly equal."""
    torch.manual_seed(seed)
    model = AverForEmotionClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)
    return model
