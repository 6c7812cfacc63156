import json

import pytest
from support.models import AUDIO_ENCODERS, audio_config, aver_config
from transformers import AutoConfig, WhisperConfig

from modeling_aver import AverConfig


def test_the_defaults_are_the_papers_numbers():
    config = AverConfig()
    assert (config.hidden_size, config.ctm_projection_dim) == (512, 128)  # section 3.2
    assert (config.ctm_sigma, config.ctm_temperature, config.ctm_loss_weight) == (0.5, 0.07, 0.5)  # section 3.2
    assert (config.num_action_units, config.video_frame_rate, config.audio_frame_rate) == (
        35,
        30.0,
        50.0,
    )  # section 2.1
    assert config.fusion_layers == ["msa", "msa"]  # section 2.1
    assert config.position_embedding_type == "tarope"
    assert config.audio_config.hidden_size == 1024  # section 2.1
    assert list(config.id2label.values()) == ["anger", "disgust", "fear", "happy", "neutral", "sad"]  # section 3.1


def test_a_second_of_audio_has_49_frames_of_xlsr():
    assert AverConfig().num_audio_frames(16_000) == 49
    assert AverConfig().num_audio_frames(400) == 1
    assert AverConfig().num_audio_frames(399) == 0
    assert AverConfig().min_audio_inputs == 400


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
def test_it_survives_json_with_any_audio_encoder(name, tmp_path):
    config = aver_config(name, fusion_layers=["isa", "ica"], rope_theta=500.0, id2label={0: "calm", 1: "surprised"})
    assert AverConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is AverConfig
    assert type(loaded.audio_config) is type(audio_config(name))
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.label2id == {"calm": 0, "surprised": 1}


def test_the_frame_rate_comes_from_the_encoders_strides():
    assert AverConfig().audio_frame_rate == 50.0
    assert aver_config().audio_frame_rate == 200.0
    assert AverConfig(audio_config=WhisperConfig()).audio_frame_rate == 50.0
    assert AverConfig(sampling_rate=8_000).audio_frame_rate == 25.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 500}, r"`hidden_size` \(500\) must be a multiple of twice `num_attention_heads` \(8\)"),
        ({"fusion_layers": ["msa", "mca"]}, "`fusion_layers` may hold msa, isa, ica; got mca"),
        ({"fusion_layers": "msa"}, r"`fusion_layers` \('msa'\) must be a list of msa, isa, ica"),
        (
            {"position_embedding_type": "alibi"},
            r"\('alibi'\) must be one of tarope, rope, sinusoidal, learnable, none",
        ),
        ({"hidden_act": "rellu"}, r"`hidden_act` \('rellu'\) must be one of"),
        ({"ctm_sigma": 0}, r"`ctm_sigma` \(0\) must be a positive number"),
        ({"ctm_temperature": float("nan")}, r"`ctm_temperature` \(nan\) must be a positive number"),
        ({"ctm_loss_weight": -0.5}, r"`ctm_loss_weight` \(-0.5\) must be a number of at least 0"),
        ({"video_frame_rate": "30"}, r"`video_frame_rate` \('30'\) must be a positive number"),
        ({"rope_theta": -1.0}, r"`rope_theta` \(-1.0\) must be a positive number"),
        ({"num_action_units": 0}, r"`num_action_units` \(0\) must be a positive integer"),
        ({"num_attention_heads": True}, r"`num_attention_heads` \(True\) must be a positive integer"),
        ({"ctm_projection_dim": 12.5}, r"`ctm_projection_dim` \(12.5\) must be a positive integer"),
        ({"dropout": 1.0}, r"`dropout` \(1.0\) must be a number of at least 0 and below 1"),
        ({"id2label": {0: "calm", 2: "sad"}}, r"`id2label` must number its labels 0, 1, 2"),
        ({"id2label": {0: "sad", 1: "sad"}}, "`id2label` must name each label once"),
        ({"id2label": ["sad"]}, r"`id2label` \(\['sad'\]\) must map"),
        (
            {"audio_config": {"model_type": "bert"}},
            r"`audio_config.model_type` \('bert'\) must be one of wav2vec2, hubert",
        ),
        ({"audio_config": {"model_type": "os.system"}}, r"`audio_config.model_type` \('os.system'\) must be one of"),
        ({"audio_config": 3}, r"`audio_config` \(3\) must be a configuration or a dict"),
        ({"audio_config": {"add_adapter": True}}, "`audio_config.add_adapter`"),
        ({"audio_config": {"conv_stride": [0] * 7}}, "`conv_stride`.*must hold positive integers"),
        ({"audio_config": WhisperConfig(), "sampling_rate": 8000}, r"`sampling_rate` \(8000\) must be 16000"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(values, message):
    with pytest.raises(ValueError, match=message):
        AverConfig(**values)
