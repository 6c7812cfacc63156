"""What the model hears of its audio encoder: which layers, averaged how, standardized by whom, and kept or not."""

import pytest
import torch
from support.batches import clips, padded, with_statistics
from support.models import AUDIO_ENCODERS, aver_config, aver_model

from modeling_aver import AverConfig
from modeling_aver.audio_encoders import ChannelStandardization, LayerMix, pool_frames

HEARD = {"audio_layers": [0, 1, 2], "audio_pooling_stride": 3, "audio_normalization": "standardize"}


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_the_deepest_layer_alone_is_the_encoders_output(audio):
    plain, chosen = aver_model(aver_config(audio)), aver_model(aver_config(audio, audio_layers=[2]))
    chosen.load_state_dict(plain.state_dict())
    batch = padded(plain.config, clips(plain.config))
    torch.testing.assert_close(chosen(**batch).logits, plain(**batch).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_each_layer_is_what_enters_or_leaves_that_layer_of_the_encoder(audio):
    model = aver_model(aver_config(audio, audio_layers=[0, 1]))
    encoder = model.aver.audio_encoder
    first = (encoder if audio == "whisper" else encoder.encoder).layers[0]
    seen = []
    first.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0], output]))
    sound = clips(model.config)[1]
    frames, _ = model.aver.encode_audio(**sound)
    leaving = seen[1][0] if isinstance(seen[1], tuple) else seen[1]
    torch.testing.assert_close(frames[:, :, 0], seen[0])
    torch.testing.assert_close(frames[:, :, 1], leaving)


@pytest.mark.parametrize("audio", ["wav2vec2-layer", "hubert-group", "data2vec-audio", "wav2vec2-bert", "whisper"])
def test_a_padded_batch_equals_each_clip_alone_with_layers_pooled_and_standardized(audio):
    model = with_statistics(aver_model(aver_config(audio, **HEARD)))
    alone = clips(model.config)
    together = model(**padded(model.config, alone))
    for row, clip in enumerate(alone):
        torch.testing.assert_close(together.logits[row], model(**clip).logits[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("audio", ["wav2vec2-layer", "hubert-group", "data2vec-audio", "wav2vec2-bert", "whisper"])
def test_every_trainable_parameter_gets_a_gradient_where_upper_layers_are_not_heard(audio):
    model = aver_model(aver_config(audio, audio_layers=[0, 1])).train()
    model.freeze_feature_encoder()
    batch = padded(model.config, clips(model.config))
    model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    lacking = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert lacking == []
    fixed = sum(value.numel() for value in model.aver.audio_encoder.parameters() if not value.requires_grad)
    assert fixed > 0


@pytest.mark.parametrize("audio", ["wav2vec2-layer", "whisper"])
@pytest.mark.parametrize("values", [{}, HEARD])
def test_kept_frames_are_as_good_as_the_sound_they_were_made_of(audio, values):
    model = aver_model(aver_config(audio, **values))
    if values:
        with_statistics(model)
    sound = padded(model.config, clips(model.config))
    names = (model.config.audio_input_name, "attention_mask")
    frames, mask = model.aver.encode_audio(**{name: sound[name] for name in names})
    kept = {name: value for name, value in sound.items() if name not in names}
    kept |= {"audio_frames": frames.masked_fill(~mask[..., None, None], torch.nan), "audio_frames_mask": mask}
    labels = torch.tensor([3, 1, 0])
    expected, outputs = model(**sound, labels=labels), model(**kept, labels=labels)
    for name in ("loss", "ctm_loss", "logits", "audio_timestamps"):
        torch.testing.assert_close(outputs[name], expected[name], atol=1e-6, rtol=0)


def test_the_mix_is_a_weighted_mean_by_plain_loops():
    mix = LayerMix(3)
    with torch.no_grad():
        mix.scores.copy_(torch.tensor([0.1, -1.0, 2.0]))
    frames = torch.randn(2, 5, 3, 4)
    weights = [torch.tensor(score).exp() for score in (0.1, -1.0, 2.0)]
    expected = sum(weight * frames[:, :, layer] for layer, weight in enumerate(weights)) / sum(weights)
    torch.testing.assert_close(mix(frames), expected)
    torch.testing.assert_close(LayerMix(3)(frames), frames.mean(dim=2))


def test_pooling_is_the_mean_of_the_real_frames_by_plain_loops():
    frames = torch.randn(2, 7, 2, 3)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    pooled, pooled_mask = pool_frames(frames.masked_fill(~mask[..., None, None], torch.nan), mask, 3)
    assert pooled_mask.tolist() == [[True, True, True], [True, True, False]]
    for row, length in enumerate((7, 4)):
        for token in range(3):
            real = frames[row, 3 * token : min(3 * token + 3, length)]
            expected = real.mean(dim=0) if len(real) else torch.zeros(2, 3)
            torch.testing.assert_close(pooled[row, token], expected)


def test_a_pooled_token_stands_in_the_middle_of_its_frames():
    config = aver_config(audio_pooling_stride=4)
    outputs = aver_model(config).aver(input_values=torch.randn(1, 2000))
    rate = config.audio_frame_rate
    expected = [(4 * token + 1.5) / rate for token in range(outputs.audio_timestamps.shape[1])]
    assert outputs.audio_timestamps[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_standardized_training_frames_have_zero_mean_and_unit_deviation():
    frames = 100 + 3 * torch.randn(4, 50, 2, 6)
    scale = ChannelStandardization(2, 6)
    scale.set_statistics(frames.mean(dim=(0, 1)), frames.std(dim=(0, 1)))
    scaled = scale(frames)
    torch.testing.assert_close(scaled.mean(dim=(0, 1)), torch.zeros(2, 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 1)), torch.ones(2, 6), atol=1e-4, rtol=0)


def test_a_speakers_own_statistics_take_the_place_of_those_of_training_and_only_in_their_rows():
    config = aver_config(**HEARD)
    model = with_statistics(aver_model(config))
    inputs = {"input_values": torch.randn(2, 2000)}
    shape = (2, config.num_audio_layers, config.audio_config.hidden_size)
    mean, std = torch.randn(shape), 0.5 + torch.rand(shape)
    mean[1], std[1] = 0, 0  # nothing is known of the second speaker
    plain = model(**inputs).logits
    own = model(**inputs, speaker_audio_mean=mean, speaker_audio_std=std).logits
    torch.testing.assert_close(own[1], plain[1])
    assert (own[0] - plain[0]).abs().max() > 1e-3
    model.aver.audio_standardization.set_statistics(mean[0], std[0])
    torch.testing.assert_close(own[0], model(**inputs).logits[0])


def test_a_new_model_begins_with_equal_weights_and_changes_no_frame(tmp_path):
    model = aver_model(aver_config(**HEARD))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    for one in (model, again):
        assert one.aver.audio_layer_mix.scores.tolist() == [0, 0, 0]
        assert one.aver.audio_standardization.mean.count_nonzero() == 0
        assert (one.aver.audio_standardization.std == 1).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audio_layers": [3]}, "must name some of 0 to 2"),
        ({"audio_layers": [1, 1]}, "each once"),
        ({"audio_layers": []}, "must name some of 0 to 2"),
        ({"audio_layers": "all"}, "must be a list of numbers"),
        ({"audio_pooling_stride": 0}, "must be a positive integer"),
        ({"audio_normalization": "layer"}, "none, standardize"),
        ({"projection_dropout": 1.0}, "below 1"),
    ],
)
def test_values_that_no_encoder_has_are_refused_with_what_it_has(values, message):
    with pytest.raises(ValueError, match=message):
        aver_config(**values)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"audio_frames": torch.zeros(1, 5, 1, 24), "input_values": torch.zeros(1, 2000)}, "not both"),
        ({"audio_frames": torch.zeros(1, 5, 2, 24)}, r"\(batch_size, num_audio_frames, 1, 24\)"),
        ({"audio_frames": torch.zeros(1, 0, 1, 24)}, "no frames"),
        ({"audio_frames": torch.full((1, 5, 1, 24), torch.nan)}, "not finite in clips"),
        ({"audio_frames": torch.zeros(1, 5, 1, 24), "audio_frames_mask": torch.zeros(1, 5)}, "neither audio nor"),
        ({"audio_frames": torch.zeros(1, 5, 1, 24), "speaker_audio_mean": torch.zeros(1, 1, 24)}, "standardize"),
    ],
)
def test_frames_that_are_not_this_models_are_refused(tiny_model, inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**inputs)


@pytest.mark.parametrize("stream", [{"input_values": 2000}, {"action_units": 9}], ids=["audio", "video"])
def test_projection_dropout_drops_of_either_stream_while_training_alone(stream):
    model = aver_model(aver_config(projection_dropout=0.5, fusion_layers=[]))
    ((name, length),) = stream.items()
    inputs = {name: torch.randn(1, length) if name == "input_values" else torch.randn(1, length, 7)}
    torch.testing.assert_close(model(**inputs).logits, model(**inputs).logits, atol=0, rtol=0)
    model.train()
    assert (model(**inputs).logits - model(**inputs).logits).abs().max() > 1e-3


def test_the_paper_has_none_of_it():
    config = AverConfig()
    assert (config.audio_layers, config.audio_pooling_stride, config.audio_normalization) == (None, 1, "none")
    assert config.projection_dropout == 0
