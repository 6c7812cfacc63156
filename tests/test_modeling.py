import pytest
import torch
from support.batches import clips, padded
from support.models import AUDIO_ENCODERS, aver_config, aver_model
from transformers import WhisperModel

from modeling_aver import AverConfig, AverForEmotionClassification, AverModel
from modeling_aver.losses import cross_temporal_matching_loss

TABLE_2 = [["msa", "msa"], ["isa", "isa"], ["ica", "ica"], ["isa", "ica"], ["ica", "isa"], []]
TABLE_3 = ["tarope", "rope", "sinusoidal", "learnable"]


def assert_padding_changes_nothing(config):
    model, alone = aver_model(config), clips(config)
    with torch.no_grad():
        together = model(**padded(config, alone)).logits
        separate = torch.cat([model(**clip).logits for clip in alone])
    torch.testing.assert_close(together, separate, atol=1e-5, rtol=0)
    assert (separate[0] - separate[1]).abs().max() > 1e-2  # the clips are not all alike


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_a_padded_batch_equals_each_clip_alone_for_every_audio_encoder(audio, attention):
    assert_padding_changes_nothing(aver_config(audio, attn_implementation=attention))


@pytest.mark.parametrize("position", [*TABLE_3, "none"])
@pytest.mark.parametrize("layers", TABLE_2)
def test_a_padded_batch_equals_each_clip_alone_for_every_row_of_the_tables(layers, position):
    assert_padding_changes_nothing(aver_config(fusion_layers=layers, position_embedding_type=position))


@pytest.mark.parametrize("audio", ["wav2vec2-layer", "hubert-group", "data2vec-audio", "whisper"])
def test_padding_of_nan_is_not_seen(audio):
    config = aver_config(audio)
    model, alone = aver_model(config), clips(config)
    with torch.no_grad():
        clean, dirty = (model(**padded(config, alone, filling)).logits for filling in (7.0, torch.nan))
    torch.testing.assert_close(dirty, clean, atol=0, rtol=0)


def test_a_short_window_of_whisper_hears_what_the_first_seconds_of_a_full_one_hear():
    """transformers' own encoder insists on 30 s; on exactly 30 s both must agree."""
    config = aver_config("whisper")
    model = aver_model(config)
    theirs = WhisperModel(config.audio_config).encoder.eval()
    theirs.load_state_dict(model.aver.audio_encoder.state_dict())
    spectrogram = torch.randn(1, 80, 3000)
    with torch.no_grad():
        ours = model.aver.audio_encoder(spectrogram, torch.ones(1, 3000, dtype=torch.bool)).last_hidden_state
        torch.testing.assert_close(ours, theirs(spectrogram).last_hidden_state, atol=1e-5, rtol=0)


def test_more_than_whisper_can_hear_is_named():
    model = aver_model(aver_config("whisper"))
    with pytest.raises(ValueError, match=r"3002 frames \(30.0 s\) but this whisper encoder hears at most 3000"):
        model(input_features=torch.zeros(1, 80, 3002))


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_the_loss_is_classification_plus_weighted_ctm(weight):
    config = aver_config(ctm_loss_weight=weight)
    model = aver_model(config)
    batch = padded(config, clips(config))
    outputs = model(**batch, labels=torch.tensor([0, 5, 2]))
    expected = torch.nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 5, 2]))
    torch.testing.assert_close(outputs.classification_loss, expected)
    if weight == 0:
        assert outputs.ctm_loss is None and outputs.audio_embeds is None
        torch.testing.assert_close(outputs.loss, expected)
        return
    ctm = cross_temporal_matching_loss(
        *(outputs.audio_embeds, outputs.video_embeds, outputs.audio_timestamps, outputs.video_timestamps),
        *(outputs.audio_mask, outputs.video_mask),
        sigma=0.5,
        temperature=0.07,
    )
    torch.testing.assert_close(outputs.ctm_loss, ctm)
    torch.testing.assert_close(outputs.loss, expected + 0.5 * ctm)


def test_the_sum_of_accumulated_losses_is_the_loss_of_the_whole():
    config = aver_config()
    model, alone = aver_model(config), clips(config)
    labels = torch.tensor([0, 5, 2])
    whole = model(**padded(config, alone), labels=labels)
    parts = [model(**clip, labels=labels[i : i + 1], num_items_in_batch=3) for i, clip in enumerate(alone)]
    for name in ("loss", "classification_loss", "ctm_loss"):
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name], atol=1e-5, rtol=0)


def test_clips_without_label_count_for_ctm_alone():
    config = aver_config()
    model, (clip, *_) = aver_model(config), clips(config)
    outputs = model(**clip, labels=torch.tensor([-100]))
    assert outputs.classification_loss.item() == 0
    assert outputs.ctm_loss.item() > 0


def test_video_timestamps_move_the_video_on_the_clock():
    config = aver_config(video_frame_rate=30.0)
    model, (clip, *_) = aver_model(config), clips(config)
    frames = torch.arange(9)[None]
    with torch.no_grad():
        default = model(**clip)
        same = model(**clip, video_timestamps=frames / 30.0)
        later = model(**clip, video_timestamps=frames / 30.0 + 0.05)
        both_later = model(
            **clip, video_timestamps=default.video_timestamps + 5.0, audio_timestamps=default.audio_timestamps + 5.0
        )
    torch.testing.assert_close(same.logits, default.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(both_later.logits, default.logits, atol=1e-5, rtol=0)
    assert (later.logits - default.logits).abs().max() > 1e-4
    torch.testing.assert_close(later.video_timestamps, frames / 30.0 + 0.05)


def test_equal_rates_make_tarope_equal_rope():
    audio_rate = aver_config().audio_frame_rate
    models = [
        aver_model(aver_config(position_embedding_type=kind, video_frame_rate=audio_rate))
        for kind in ("tarope", "rope")
    ]
    clip = clips(models[0].config)[0]
    with torch.no_grad():
        tarope, rope = (model(**clip).logits for model in models)
    torch.testing.assert_close(tarope, rope, atol=1e-6, rtol=0)


@pytest.mark.parametrize("layers", TABLE_2)
@pytest.mark.parametrize("position", TABLE_3)
@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_every_parameter_gets_a_gradient_in_every_row_of_the_tables(layers, position, weight):
    config = aver_config(fusion_layers=layers, position_embedding_type=position, ctm_loss_weight=weight)
    model = aver_model(config).train()
    model(**padded(config, clips(config)), labels=torch.tensor([0, 5, 2])).loss.backward()
    unreached = {
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    assert unreached == set()


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_two_steps_move_every_trainable_parameter_and_no_frozen_one(audio):
    config = aver_config(audio)
    model = aver_model(config).train()
    model.freeze_feature_encoder()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {"aver.audio_encoder.conv1.weight"} <= frozen if audio == "whisper" else True
    assert any("feature_extractor" in name for name in frozen) == (config.audio_input_name == "input_values")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    batch = padded(config, clips(config))
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch, labels=torch.tensor([0, 5, 2])).loss.backward()
        optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(before) - frozen


def test_a_frozen_audio_encoder_stays_still_and_without_dropout_while_the_rest_trains():
    model = aver_model(aver_config())
    model.freeze_audio_encoder()
    model.train()
    assert model.aver.fusion_encoder.training and not model.aver.audio_encoder.training
    assert not any(parameter.requires_grad for parameter in model.aver.audio_encoder.parameters())
    assert all(p.requires_grad for name, p in model.named_parameters() if "audio_encoder" not in name)


@pytest.mark.parametrize("layers", [["msa", "msa"], ["isa", "ica"]])
def test_gradient_checkpointing_gives_the_same_gradients(layers):
    config = aver_config(fusion_layers=layers)
    model = aver_model(config).train()
    batch = {**padded(config, clips(config)), "labels": torch.tensor([0, 5, 2])}
    model(**batch).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, plain[name], atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_attentions_are_given_under_sdpa_too():
    config = aver_config(attn_implementation="sdpa")
    model, (clip, *_) = aver_model(config), clips(config)
    outputs = model(**clip, output_attentions=True, output_hidden_states=True)
    num_tokens = outputs.audio_mask.shape[1] + 9
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(1, 4, num_tokens, num_tokens)] * 2
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(1, num_tokens, 32)] * 3
    torch.testing.assert_close(outputs.logits, model(**clip).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clocks_and_losses_stay_in_float32_under_half_weights(dtype):
    config = aver_config()
    model, batch = aver_model(config), padded(config, clips(config))
    labels = torch.tensor([0, 5, 2])
    full = model(**batch, labels=labels)
    half = model.to(dtype)(**batch, labels=labels)
    assert half.logits.dtype == dtype
    for name in ("loss", "classification_loss", "ctm_loss", "audio_timestamps", "video_timestamps", "audio_embeds"):
        assert half[name].dtype == torch.float32, name
    torch.testing.assert_close(half.audio_timestamps, full.audio_timestamps, atol=0, rtol=0)
    torch.testing.assert_close(half.loss, full.loss, atol=0.1, rtol=0.1)


def test_the_trunk_gives_tokens_and_their_mean():
    config = aver_config()
    model = AverModel(config).eval()
    outputs = model(**padded(config, clips(config)))
    mask = torch.cat([outputs.audio_mask, outputs.video_mask], dim=1)
    for tokens, real, pooled in zip(outputs.last_hidden_state, mask, outputs.pooler_output, strict=True):
        torch.testing.assert_close(pooled, tokens[real].mean(dim=0))
    torch.testing.assert_close(outputs.audio_embeds.norm(dim=-1), torch.ones(outputs.audio_mask.shape))


def test_a_model_starts_from_a_pretrained_audio_encoder(tmp_path):
    pretrained = aver_model(aver_config("hubert-group")).aver.audio_encoder
    pretrained.save_pretrained(tmp_path)
    config = AverConfig(hidden_size=64, fusion_layers=["isa"], id2label={0: "calm", 1: "sad"})
    model = AverForEmotionClassification.from_audio_pretrained(str(tmp_path), config)
    assert (model.config.hidden_size, model.config.fusion_layers, model.config.num_labels) == (64, ["isa"], 2)
    assert str(tmp_path) not in model.config.to_json_string()
    for name, weight in pretrained.state_dict().items():
        torch.testing.assert_close(model.aver.audio_encoder.state_dict()[name], weight, atol=0, rtol=0)


def test_a_checkpoint_without_the_encoders_weights_is_named(tmp_path):
    encoder = aver_model(aver_config()).aver.audio_encoder
    weights = {name: weight for name, weight in encoder.state_dict().items() if "layers.1" not in name}
    encoder.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="lacks .* weights of its wav2vec2 encoder, such as encoder.layers.1"):
        AverForEmotionClassification.from_audio_pretrained(str(tmp_path))


def test_a_whole_whisper_checkpoint_gives_its_encoder(tmp_path):
    whole = WhisperModel(aver_config("whisper").audio_config)
    whole.save_pretrained(tmp_path)
    model = AverForEmotionClassification.from_audio_pretrained(str(tmp_path))
    for name, weight in whole.encoder.state_dict().items():
        assert torch.equal(model.aver.audio_encoder.state_dict()[name], weight)


def test_whisper_tiny_starts_a_model(shared):
    model = AverForEmotionClassification.from_audio_pretrained(shared / "models" / "whisper-tiny-encoder").eval()
    outputs = model(input_features=torch.zeros(1, 80, 300), action_units=torch.zeros(1, 90, 35))
    assert outputs.audio_mask.shape == (1, 150)  # 3 s at 50 Hz, not 30 s
    assert model.config.audio_config.num_hidden_layers == 4


BAD_BATCHES = {
    "nothing": ({}, "Neither `input_values` nor `action_units` was given"),
    "channels": ({"action_units": torch.zeros(1, 9, 6)}, "must have 7 channels, but has 6"),
    "no frames": ({"action_units": torch.zeros(1, 0, 7)}, "`action_units` has no frames"),
    "one clip of two dimensions": ({"action_units": torch.zeros(9, 7)}, r"but has \(9, 7\)"),
    "short audio": (
        {"input_values": torch.zeros(1, 20)},
        "`input_values` has 20 inputs a clip, but one frame .* takes 60",
    ),
    "three dimensions": (
        {"input_values": torch.zeros(1, 1, 999)},
        r"\(batch_size, num_samples\), but has \(1, 1, 999\)",
    ),
    "batch sizes": (
        {"input_values": torch.zeros(2, 999), "action_units": torch.zeros(3, 9, 7)},
        "`input_values` has 2 clips but `action_units` has 3",
    ),
    "audio mask": (
        {"input_values": torch.zeros(2, 999), "attention_mask": torch.ones(2, 99)},
        r"`attention_mask` must have the shape \(2, 999\) .* but has \(2, 99\)",
    ),
    "video mask": (
        {"action_units": torch.zeros(2, 9, 7), "action_units_mask": torch.ones(2, 8)},
        r"`action_units_mask` must have the shape \(2, 9\) .* but has \(2, 8\)",
    ),
    "timestamps": (
        {"action_units": torch.zeros(1, 9, 7), "video_timestamps": torch.arange(8)[None] / 30},
        r"`video_timestamps` \(1, 8\) must give a time to each",
    ),
    "backwards": (
        {"action_units": torch.zeros(1, 3, 7), "video_timestamps": torch.tensor([[0.0, 0.2, 0.1]])},
        "in clip 0 frame 2 is at 0.100 s, after 0.200 s",
    ),
    "not finite": (
        {"action_units": torch.tensor([0.0, torch.nan]).repeat(7, 1).T[None]},
        r"`action_units` is not finite in clips \[0\]",
    ),
    "infinite sound": (
        {"input_values": torch.full((1, 999), torch.inf)},
        r"`input_values` is not finite in clips \[0\]",
    ),
    "neither": (
        {"action_units": torch.zeros(2, 9, 7), "action_units_mask": torch.tensor([[1] * 9, [0] * 9])},
        r"Clips \[1\] of the batch have neither audio nor video",
    ),
    "other input": ({"input_features": torch.zeros(1, 80, 99)}, "reads `input_values`. Was the batch made by another"),
    "label too large": (
        {"action_units": torch.zeros(2, 9, 7), "labels": torch.tensor([0, 6])},
        r"`labels` must be 0 to 5 \(anger, .*\), or -100 for none, but hold \[6\]",
    ),
    "label for nobody": (
        {"action_units": torch.zeros(2, 9, 7), "labels": torch.tensor([0])},
        r"`labels` \(1,\) must hold one number for each of the 2 clips",
    ),
    "label with a point": (
        {"action_units": torch.zeros(2, 9, 7), "labels": torch.tensor([0.0, 1.0])},
        "`labels` must be integers, but are torch.float32",
    ),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch_is_named_with_its_value(case, tiny_model):
    batch, message = BAD_BATCHES[case]
    with pytest.raises(ValueError, match=message):
        tiny_model(**batch)


def test_a_misspelt_input_is_not_swallowed(tiny_model):
    with pytest.raises(TypeError, match="action_unit_mask"):
        tiny_model(action_units=torch.zeros(1, 9, 7), action_unit_mask=torch.ones(1, 9))
