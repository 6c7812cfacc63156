import pytest
import torch
from support.models import aver_config
from torch.utils.flop_counter import FlopCounterMode

from modeling_aver import AverConfig, FusionEncoder
from modeling_aver.encoder import FusionLayer, masked_mean
from modeling_aver.positions import frame_timestamps

FUSIONS = [["msa", "msa"], ["isa", "isa"], ["ica", "ica"], ["isa", "ica"], ["ica", "isa"], []]  # Table 2
POSITIONS = ["tarope", "rope", "sinusoidal", "learnable", "none"]  # Table 3, and the control
NUM_AUDIO, NUM_VIDEO = 11, 7


def encoder(**values):
    torch.manual_seed(0)
    encoder = FusionEncoder(aver_config(initializer_range=0.2, **values)).eval()
    return encoder


def streams(batch_size=2):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch_size, NUM_AUDIO, 32, generator=generator),
        torch.randn(batch_size, NUM_VIDEO, 32, generator=generator),
        frame_timestamps(NUM_AUDIO, 200.0),
        frame_timestamps(NUM_VIDEO, 120.0),
    )


def outputs(model, *args, **kwargs):
    fused = model(*args, **kwargs)
    return torch.cat([fused.audio_hidden_states, fused.video_hidden_states], dim=1)


def close(ours, theirs, atol=1e-5):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize(("layers", "count"), [(["isa", "ica"], 12_609_536), (["msa", "msa"], 6_304_768), ([], 0)])
def test_table_2s_parameter_counts(layers, count):
    """Two blocks of one layer a stream have the printed 12.61M; two msa layers with one Linear(1024, 512) 6.83M."""
    assert FusionEncoder(AverConfig(fusion_layers=layers)).num_parameters() == count
    assert 6_304_768 + 1024 * 512 + 512 == 6_829_568


def test_an_msa_layer_costs_half_a_gigaflop_on_two_seconds():
    """Section 3.4: "approximately 0.5 GFLOPs for a 2-second input", 100 audio and 60 video frames; multiply-adds."""
    model = FusionEncoder(AverConfig(fusion_layers=["msa"])).eval()
    model.set_attn_implementation("eager")
    arguments = (
        torch.randn(1, 100, 512),
        torch.randn(1, 60, 512),
        frame_timestamps(100, 50),
        frame_timestamps(60, 30),
    )
    with FlopCounterMode(display=False) as counter:
        model(*arguments)
    assert counter.get_total_flops() / 2 == pytest.approx(0.5e9, rel=0.1)


@pytest.mark.parametrize("training", [False, True])
def test_with_positions_off_a_layer_equals_torchs(training):
    torch.manual_seed(0)
    config = AverConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48, dropout=0.0)
    ours = FusionLayer(config).train(training)
    theirs = torch.nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True).train(training)
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.attention.qkv_proj.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.attention.qkv_proj.bias.normal_())
    pairs = {
        theirs.self_attn.out_proj: ours.attention.out_proj,
        theirs.norm1: ours.attention_norm,
        theirs.linear1: ours.feed_forward_in,
        theirs.linear2: ours.feed_forward_out,
        theirs.norm2: ours.feed_forward_norm,
    }
    for target, source in pairs.items():
        target.load_state_dict(source.state_dict())
    tokens, mask = torch.randn(3, 9, 32), torch.arange(9) < torch.tensor([9, 5, 7])[:, None]
    result, _ = ours(tokens, tokens, None, None, mask, "sdpa")
    close(result[mask], theirs(tokens, src_key_padding_mask=~mask)[mask], atol=1e-6)


def test_tokens_hear_themselves_as_they_hear_a_copy_of_themselves():
    """One product and one rotation for queries and keys, or two of each: the same attention."""
    torch.manual_seed(0)
    layer = FusionLayer(AverConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48, dropout=0.0))
    tokens, mask = torch.randn(3, 9, 32), torch.arange(9) < torch.tensor([9, 5, 7])[:, None]
    angles = torch.randn(3, 1, 9, 4)
    together, apart = (layer(tokens, context, angles, angles, mask, "sdpa")[0] for context in (tokens, tokens.clone()))
    close(together[mask], apart[mask], atol=1e-6)
    assert (layer(tokens, tokens, None, None, mask, "sdpa")[0] - together)[mask].abs().max() > 1e-3


def test_equal_rates_make_tarope_equal_rope():
    audio, video, audio_times, _ = streams()
    tarope = encoder(position_embedding_type="tarope")
    rope = encoder(position_embedding_type="rope")
    same_rate = frame_timestamps(NUM_VIDEO, 200.0)
    close(outputs(tarope, audio, video, audio_times, same_rate), outputs(rope, audio, video, audio_times, same_rate))
    other_rate = frame_timestamps(NUM_VIDEO, 120.0)
    different = outputs(tarope, audio, video, audio_times, other_rate) - outputs(
        rope, audio, video, audio_times, other_rate
    )
    assert different.abs().max() > 1e-2


@pytest.mark.parametrize("offset", [0.37, -12.0, 3600.0, 86_400.0])
@pytest.mark.parametrize("layers", FUSIONS[:5])
def test_shifting_both_clocks_changes_nothing(layers, offset):
    audio, video, *times = streams()
    model = encoder(fusion_layers=layers)
    later = [seconds.double() + offset for seconds in times]
    close(outputs(model, audio, video, *later), outputs(model, audio, video, *(seconds.double() for seconds in times)))


def test_shifting_one_clock_changes_something():
    audio, video, audio_times, video_times = streams()
    model = encoder()
    shifted = outputs(model, audio, video, audio_times, video_times + 0.1)
    assert (shifted - outputs(model, audio, video, audio_times, video_times)).abs().max() > 1e-2


@pytest.mark.parametrize("layers", FUSIONS[:5])
def test_tokens_permuted_with_their_timestamps_are_the_same_clip(layers):
    audio, video, audio_times, video_times = streams()
    model = encoder(fusion_layers=layers)
    audio_order, video_order = torch.randperm(NUM_AUDIO), torch.randperm(NUM_VIDEO)
    fused = model(audio, video, audio_times, video_times)
    permuted = model(audio[:, audio_order], video[:, video_order], audio_times[audio_order], video_times[video_order])
    close(permuted.audio_hidden_states, fused.audio_hidden_states[:, audio_order])
    close(permuted.video_hidden_states, fused.video_hidden_states[:, video_order])


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("layers", FUSIONS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_masked_frame_is_heard_by_nobody(layers, position, attention):
    audio, video, audio_times, video_times = streams()
    model = encoder(fusion_layers=layers, position_embedding_type=position, attn_implementation=attention)
    audio_mask = torch.ones(2, NUM_AUDIO, dtype=torch.bool)
    video_mask = torch.ones(2, NUM_VIDEO, dtype=torch.bool)
    audio_mask[0, 4], video_mask[1, 2:] = False, False
    clean = outputs(model, audio, video, audio_times, video_times, audio_mask, video_mask)
    audio, video = audio.masked_fill(~audio_mask[..., None], 1e3), video.masked_fill(~video_mask[..., None], -1e3)
    dirty = outputs(model, audio, video, audio_times, video_times, audio_mask, video_mask)
    real = torch.cat([audio_mask, video_mask], dim=1)
    close(dirty[real], clean[real])


@pytest.mark.parametrize(("layers", "hears_itself", "hears_other"), [("msa", 1, 1), ("isa", 1, 0), ("ica", 0, 1)])
def test_who_hears_whom(layers, hears_itself, hears_other):
    """Change one frame of each stream in turn and see which *other* frames of the audio stream move."""
    audio, video, audio_times, video_times = streams()
    model = encoder(fusion_layers=[layers])
    before = model(audio, video, audio_times, video_times).audio_hidden_states
    for stream, heard in (("audio", hears_itself), ("video", hears_other)):
        changed = {"audio": audio.clone(), "video": video.clone()}
        changed[stream][:, 3] += 1.0
        after = model(changed["audio"], changed["video"], audio_times, video_times).audio_hidden_states
        moved = (after - before).abs().amax(dim=(0, 2)) > 1e-5
        assert moved[torch.arange(NUM_AUDIO) != 3].any() == bool(heard)


@pytest.mark.parametrize("layers", FUSIONS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_stream_without_frames_equals_a_masked_one(layers, attention):
    audio, video, audio_times, video_times = streams()
    model = encoder(fusion_layers=layers, attn_implementation=attention)
    absent = model(audio, video[:, :0], audio_times, video_times[:0])
    nothing = torch.zeros(2, NUM_VIDEO, dtype=torch.bool)
    masked = model(audio, video, audio_times, video_times, video_mask=nothing)
    close(absent.audio_hidden_states, masked.audio_hidden_states)
    assert masked.video_hidden_states.isfinite().all()


@pytest.mark.parametrize(
    ("layers", "shapes"), [("msa", [(18, 18)]), ("isa", [(11, 11), (7, 7)]), ("ica", [(11, 7), (7, 11)])]
)
def test_attentions_are_distributions_over_what_is_heard(layers, shapes):
    model = encoder(fusion_layers=[layers, layers], attn_implementation="sdpa")
    fused = model(*streams(), output_attentions=True, output_hidden_states=True)
    assert [tuple(weights.shape) for weights in fused.attentions] == [(2, 4, *shape) for shape in shapes] * 2
    for weights in fused.attentions:
        close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]), atol=1e-6)
    assert len(fused.hidden_states) == 3
    close(fused.hidden_states[-1], outputs(model, *streams()))


def test_it_serves_features_of_any_length_alone():
    model = FusionEncoder(AverConfig(hidden_size=32, num_attention_heads=4, intermediate_size=48))
    fused = model(
        torch.randn(2, 100, 32), torch.randn(2, 60, 32), frame_timestamps(100, 50.0), frame_timestamps(60, 30.0)
    )
    assert fused.audio_hidden_states.shape == (2, 100, 32)
    assert fused.video_hidden_states.shape == (2, 60, 32)


def test_a_learnable_table_that_is_too_short_is_named():
    with pytest.raises(ValueError, match=r"`max_position_embeddings` \(5\) is less than the 11 frames"):
        encoder(position_embedding_type="learnable", max_position_embeddings=5)(*streams())


def test_shapes_that_do_not_belong_together_are_named():
    audio, video, audio_times, video_times = streams()
    with pytest.raises(ValueError, match="`audio_hidden_states` must have the shape .*32"):
        encoder()(audio[..., :30], video, audio_times, video_times)
    with pytest.raises(ValueError, match="`video_timestamps` must have the shape"):
        encoder()(audio, video, audio_times, video_times[:3])
    with pytest.raises(ValueError, match="`audio_mask` must have the shape"):
        encoder()(audio, video, audio_times, video_times, audio_mask=torch.ones(2, 3))


def test_the_masked_mean_by_hand():
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [8.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    close(masked_mean(states, mask), torch.tensor([[2.0], [0.0]]))
