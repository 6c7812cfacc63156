"""How late the video is: by made-up embeddings, by the alignment probe's streams, by the command and as a warning."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import aver
from support.saved_models import OPENFACE, TABLES, VIDEOS, saved

from modeling_aver import AverConfig, AverForEmotionClassification
from modeling_aver.analysis.dynamics import Alignment, alignments, plot_alignment
from modeling_aver.features.clips import find_clips
from modeling_aver.inference.faces import find_faces
from modeling_aver.inference.predict import load_pipeline, predict_clips
from modeling_aver.inference.sync import (
    CONFIDENT,
    Offset,
    combine,
    estimate_offset,
    find_offsets,
    listening,
    print_offsets,
)

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIGMA = 0.1


def moving(times, seed=0):
    """Unit vectors that wander: what a stream's embeddings do. One seed is one scene, seen at any times."""
    generator = np.random.default_rng(seed)
    hertz, phase = generator.uniform(0.2, 2.0, (2, 1, 24)) * [[[1.0]], [[np.pi]]]
    waves = np.sin(2 * np.pi * hertz * times[:, None] + phase)
    return waves / np.linalg.norm(waves, axis=1, keepdims=True)


def made_up(late, seconds=6.0, video_rate=30.0, seeds=(0, 0)):
    """Streams of one scene (of two, where `seeds` differ) whose video is `late` seconds late."""
    heard, seen = np.arange(0, seconds, 0.02), np.arange(0, seconds, 1 / video_rate)
    return Alignment(heard, seen, moving(heard, seeds[0]) @ moving(seen - late, seeds[1]).T)


@pytest.mark.parametrize("late", [-0.4, -0.013, 0.0, 0.007, 0.25])
@pytest.mark.parametrize("video_rate", [12.5, 29.97])
def test_the_offset_is_found_finer_than_a_frame_and_positive_is_video_late(late, video_rate):
    offset = estimate_offset(made_up(late, video_rate=video_rate), SIGMA)
    assert offset.seconds == pytest.approx(late, abs=0.01) and offset.confidence > CONFIDENT


def test_moving_the_video_s_clock_moves_the_offset_by_as_much():
    one, later = made_up(0.1), made_up(0.1)
    later.video_timestamps += 0.3
    moved = estimate_offset(later, SIGMA).seconds - estimate_offset(one, SIGMA).seconds
    assert moved == pytest.approx(0.3, abs=1e-3)


def test_the_score_is_that_of_the_equation_in_plain_loops():
    from modeling_aver.inference.sync import _scores

    clip = made_up(0.0, seconds=1.2, video_rate=12.5)
    heard = np.rint(clip.audio_timestamps / 0.005) * 0.005
    centred = clip.similarity - clip.similarity.mean(0) - clip.similarity.mean(1)[:, None] + clip.similarity.mean()
    for shift in (-0.2, 0.035):
        weights = [[np.exp(-((j - i - shift) ** 2) / (2 * 0.3**2)) for j in clip.video_timestamps] for i in heard]
        expected = sum(w * s for w, s in zip(np.ravel(weights), centred.ravel(), strict=True)) / np.sum(weights)
        assert _scores(clip, np.array([shift]), 0.3)[0, 0] == pytest.approx(expected, abs=1e-9)


def test_unrelated_streams_are_rarely_confident():
    offsets = [estimate_offset(made_up(0.0, seeds=(seed, 1000 + seed)), SIGMA) for seed in range(20)]
    assert sum(offset.confidence > CONFIDENT for offset in offsets) <= 1


def test_a_peak_at_the_end_of_the_range_is_no_answer():
    assert estimate_offset(made_up(0.5), SIGMA, max_shift=0.45).confidence == 0.0


def test_less_than_a_second_gives_no_offset():
    assert estimate_offset(made_up(0.0, seconds=0.9), SIGMA) is None
    assert combine([None, None]) is None


def test_windows_give_their_median_and_more_of_them_more_confidence():
    whole = combine([Offset(0.1, 2.0), Offset(0.3, 3.0), None, Offset(0.2, 4.0)])
    assert (whole.seconds, whole.num_windows) == (0.2, 3) and whole.spread == pytest.approx(0.1)
    assert whole.confidence == pytest.approx(9 / 3**0.5)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), num_action_units=35, feature_identity=OPENFACE)


def test_the_command_lists_the_real_clips(model_folder, tmp_path):
    command = ("sync", str(VIDEOS), "--model", model_folder, "--action-units-folder", str(TABLES))
    output = aver(*command, "--out", str(tmp_path / "sync.json"))
    clips = json.loads((tmp_path / "sync.json").read_text())["clips"]
    assert len(clips) == 6 and all(clip["clip"] in output for clip in clips)
    assert all(clip["num_windows"] == 1 for clip in clips)
    for clip in clips:
        known = clip["confidence"] > CONFIDENT
        assert (clip["verdict"] == "cannot tell") == (clip["seconds"] is None) == (clip["spread"] is None) != known


def test_a_model_without_ctm_is_refused(tmp_path):
    recognize = load_pipeline(saved(tmp_path, num_action_units=35, feature_identity=OPENFACE, ctm_loss_weight=0.0))
    with pytest.raises(ValueError, match="trained without cross-temporal matching"):
        find_offsets(recognize, find_clips([VIDEOS]), None)


def test_a_clip_without_a_second_of_both_streams_is_told(model_folder, tmp_path):
    from support.media import tone, write_sound

    recognize = load_pipeline(model_folder)
    faces = find_faces(recognize.processor.feature_extractor, TABLES)
    done, failed = find_offsets(recognize, find_clips([write_sound(tmp_path / "tone.wav", tone(2.0))]), faces)
    assert not done and "tone.wav" in str(failed)


@pytest.mark.parametrize("timing", [None, {"window": 2.0, "hop": 0.5}])
def test_predict_warns_where_the_streams_are_far_apart_and_is_silent_otherwise(model_folder, timing, monkeypatch):
    recognize = load_pipeline(model_folder)
    faces, clip = find_faces(recognize.processor.feature_extractor, TABLES), find_clips(sorted(VIDEOS.iterdir())[:1])
    for offset, warned in ((Offset(-0.32, 6.0), True), (Offset(-0.32, 1.0), False), (Offset(0.02, 9.0), False)):
        monkeypatch.setattr("modeling_aver.inference.sync.estimate_offset", lambda *_, offset=offset: offset)
        ((_, one),) = predict_clips(recognize, clip, faces, timing=timing).done.items()
        assert any("seems to be 0.32 s early" in note for note in one["notes"]) == warned


def test_a_picture_of_who_is_like_whom_is_drawn(tmp_path):
    plot_alignment(made_up(0.2), tmp_path / "alignment.png", "a clip", offset=0.2)
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_stream_moved_by_a_known_offset_moves_the_estimate_by_it_on_the_alignment_probe(monkeypatch):
    """The probe's streams, of which those whose events coincide train CTM; then the video's events are moved."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import alignment_probe as probe

    model, clips = _probe_model(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        audio, video, labels = probe.make_batch(clips, 16)
        together = labels == 1
        batch = {"audio_frames": audio[together][:, :, None], "action_units": video[together]}
        loss = model(**batch, labels=labels[together]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    for late in (-0.25, -0.1, 0.0, 0.1, 0.25):  # events come every 0.6 s: more could be less of the other sign
        times = probe.make_event_times(clips, 20)[0]
        audio = probe._frames_with_events(clips, times, probe.AUDIO_CLOCK)
        video = probe._frames_with_events(clips, times + late, probe.VIDEO_CLOCK)
        with torch.inference_mode():
            outputs = model(audio_frames=audio[:, :, None], action_units=video)
        found = [estimate_offset(one, model.config.ctm_sigma, max_shift=0.3).seconds for one in alignments(outputs)]
        np.testing.assert_allclose(np.median(found), late, atol=0.015)  # half a frame of video
        assert np.mean(np.abs(np.array(found) - late) < 1 / 30) > 0.9


def _probe_model():
    torch.manual_seed(0)
    encoder = {"hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    convolutions = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 2, "num_conv_pos_embedding_groups": 2}
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64, "ctm_projection_dim": 16}
    config = AverConfig(
        **{"audio_config": {**encoder, **convolutions}, "num_action_units": 4, "fusion_layers": ["msa"], **sizes},
        **{"dropout": 0.0, "ctm_sigma": 0.05, "id2label": {0: "apart", 1: "together"}, "initializer_range": 0.125},
    )
    return AverForEmotionClassification(config)


def test_the_whole_verdict_is_one_line_per_clip_where_the_output_is_no_terminal(capsys):
    name = "interviews/2024/" + "a long name of a recording " * 5
    print_offsets({name: Offset(0.32, 6.1, 3, 0.02), "b": Offset(1.0, 0.0)}, {})
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["interviews/2024/a"].split()[-6:] == ["video", "late", "+0.32", "6.1", "3", "0.02"]
    assert lines["b"].split() == ["b", "cannot", "tell", "-", "0.0", "1", "-"]


def test_a_model_of_one_vector_per_clip_is_refused_by_sync_and_never_warns(tmp_path):
    identity = {**OPENFACE, "settings": {"statistic": "mean of the clip"}}
    model = saved(tmp_path / "model", num_action_units=35, feature_identity=identity)
    with pytest.raises(ValueError, match=r"one vector of face features per clip \(statistic: mean of the clip\)"):
        aver("sync", str(VIDEOS), "--model", model, "--action-units-folder", str(TABLES))
    recognize = load_pipeline(model)
    with listening(recognize.model) as offsets:
        recognize((np.zeros(48_000, np.float32) + 0.1, np.random.default_rng(0).random((90, 35))))
    assert offsets == []
