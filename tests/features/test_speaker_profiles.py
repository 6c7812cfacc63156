"""Speaker profiles: what they are made of, what they change, and whose are refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.batches import with_statistics
from support.models import aver_config, aver_model

from modeling_aver import AverProcessor, SpeakerProfile
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.feature_cache import FeatureCache, clip_key
from modeling_aver.training.speaker_statistics import ProfileEstimator, estimate_profile, profiles_of_clips

UNITS, LAYERS, CHANNELS = 7, 2, 24
SEEING = aver_model(aver_config())  # whose audio frames stay as they are
CONFIG = {"audio_layers": [0, 2], "audio_normalization": "standardize"}


@pytest.fixture(scope="module")
def model():
    return with_statistics(aver_model(aver_config(**CONFIG)))


@pytest.fixture(scope="module")
def processor(model):
    return processor_of(model)


def processor_of(model, **values):
    generator = np.random.default_rng(3)
    values = {"action_unit_mean": generator.normal(size=UNITS).tolist(), **values}
    return AverProcessor.from_config(model.config, action_unit_std=(0.5 + generator.random(UNITS)).tolist(), **values)


class Person:
    """Clips of one person, whose audio frames are in a feature cache."""

    def __init__(self, folder, model, processor, units, frames):
        self.units, self.frames = units, frames
        self.cache = FeatureCache(folder, model.base_model, processor.feature_extractor)
        self.rows = [row(index, clip) for index, clip in enumerate(units)]
        self.cache.write({clip_key(row): clip for row, clip in zip(self.rows, frames, strict=True)})
        self.cache.refresh()

    def logits(self, model, processor, profile):
        profiles = None if profile is None else dict.fromkeys([row["utterance_id"] for row in self.rows], profile)
        with torch.inference_mode():
            return model(**AverDataCollator(processor, self.cache, profiles)(self.rows)).logits


def row(index, units, speaker="a"):
    times = np.arange(len(units)) / 30
    success = [frame % 4 != 3 for frame in range(len(units))]
    return {
        "audio": {"bytes": b"clip %d" % index, "path": None},
        "action_units": units.tolist(),
        "action_units_success": success,
        "video_timestamps": times.tolist(),
        "utterance_id": f"{speaker}-{index}",
        "speaker_id": speaker,
    }


def streams(seed=0, lengths=(5, 9, 6)):
    generator = torch.Generator().manual_seed(seed)
    units = [torch.rand(length, UNITS, generator=generator).double().numpy() for length in lengths]
    return units, [torch.randn(length + 4, LAYERS, CHANNELS, generator=generator) for length in lengths]


@pytest.fixture
def person(tmp_path, model, processor):
    return Person(tmp_path, model, processor, *streams())


def test_a_profile_is_mean_and_deviation_drawn_towards_training_by_plain_loops(model, processor, person):
    profile = estimate_profile(model, processor, person.rows, person.cache, prior_clips=2.0)
    faces = [frame for row in person.rows for frame in np.array(row["action_units"])[row["action_units_success"]]]
    extractor, layer = processor.feature_extractor, model.aver.audio_standardization
    for unit in range(UNITS):
        values = [float(frame[unit]) for frame in faces]
        mean, std = expected(values, 3, extractor.action_unit_mean[unit], extractor.action_unit_std[unit], 2.0)
        assert profile.action_unit_mean[unit] == pytest.approx(mean, rel=1e-5)
        assert profile.action_unit_std[unit] == pytest.approx(std, rel=1e-5)
    for place in np.ndindex(LAYERS, CHANNELS):
        values = [float(frame[place]) for clip in person.frames for frame in clip]
        mean, std = expected(values, 3, float(layer.mean[place]), float(layer.std[place]), 2.0)
        assert profile.audio_mean[place] == pytest.approx(mean, rel=1e-5, abs=1e-6)
        assert profile.audio_std[place] == pytest.approx(std, rel=1e-5)
    assert (profile.num_clips, profile.num_faces) == (3, len(faces))
    assert profile.audio_seconds == pytest.approx(sum(map(len, person.frames)) / model.config.audio_frame_rate)


def expected(values, clips, training_mean, training_std, prior):
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    mean = (clips * mean + prior * training_mean) / (clips + prior)
    return mean, math.sqrt((clips * variance + prior * training_std**2) / (clips + prior))


def test_whoever_moves_and_sounds_otherwise_by_shift_and_scale_is_answered_the_same(
    tmp_path, model, processor, person
):
    generator = torch.Generator().manual_seed(5)
    scale, shift = 0.3 + 2 * torch.rand(UNITS, generator=generator), torch.randn(UNITS, generator=generator)
    louder = 0.3 + 2 * torch.rand(LAYERS, CHANNELS, generator=generator)
    deeper = torch.randn(LAYERS, CHANNELS, generator=generator)
    units = [clip * scale.numpy() + shift.numpy() for clip in person.units]
    other = Person(tmp_path / "other", model, processor, units, [clip * louder + deeper for clip in person.frames])
    answers = [
        one.logits(model, processor, estimate_profile(model, processor, one.rows, one.cache, prior_clips=0))
        for one in (person, other)
    ]
    torch.testing.assert_close(answers[1], answers[0], atol=2e-5, rtol=0)
    plain = other.logits(model, processor, None) - person.logits(model, processor, None)
    assert plain.abs().max() > 0.05  # without profiles it is not


def test_without_a_profile_everything_is_as_before(processor, person):
    collator = AverDataCollator(processor, person.cache)
    plain = collator(person.rows)
    nobody = AverDataCollator(processor, person.cache, {row["utterance_id"]: None for row in person.rows})(person.rows)
    assert (
        set(plain)
        == set(nobody)
        == {*("audio_frames", "audio_frames_mask", "action_units", "action_units_mask", "video_timestamps")}
    )
    for name, values in plain.items():
        assert torch.equal(values, nobody[name])


def test_a_profile_changes_only_its_own_rows(model, processor, person):
    profile = estimate_profile(model, processor, person.rows, person.cache)
    names = [row["utterance_id"] for row in person.rows]
    mixed = AverDataCollator(processor, person.cache, dict(zip(names, [None, profile, None], strict=True)))(
        person.rows
    )
    plain, own = model(**AverDataCollator(processor, person.cache)(person.rows)), model(**mixed)
    assert mixed["speaker_audio_std"][0].count_nonzero() == 0
    for index in (0, 2):
        torch.testing.assert_close(own.logits[index], plain.logits[index], atol=1e-6, rtol=0)
    assert (own.logits[1] - plain.logits[1]).abs().max() > 1e-3


def test_a_profile_of_the_training_statistics_changes_nothing(model, processor, person):
    extractor, layer = processor.feature_extractor, model.aver.audio_standardization
    profile = SpeakerProfile(
        *(np.array(values, np.float32) for values in (extractor.action_unit_mean, extractor.action_unit_std)),
        *(values.numpy() for values in (layer.mean, layer.std)),
    )
    torch.testing.assert_close(
        person.logits(model, processor, profile), person.logits(model, processor, None), atol=1e-5, rtol=0
    )


def test_who_never_shows_their_face_keeps_the_training_statistics_of_faces(model, processor, person):
    rows = [{**row, "action_units_success": [False] * len(row["action_units"])} for row in person.rows]
    profile = estimate_profile(model, processor, rows, person.cache)
    np.testing.assert_allclose(profile.action_unit_mean, processor.feature_extractor.action_unit_mean, rtol=1e-6)
    np.testing.assert_allclose(profile.action_unit_std, processor.feature_extractor.action_unit_std, rtol=1e-6)
    assert profile.num_faces == 0


def test_what_never_changes_in_the_persons_clips_keeps_the_training_deviation(model, processor, person):
    for clip in person.rows:
        clip["action_units"] = [[0.25, *frame[1:]] for frame in clip["action_units"]]
    profile = estimate_profile(model, processor, person.rows, person.cache)
    assert profile.action_unit_std[0] == pytest.approx(processor.feature_extractor.action_unit_std[0], rel=1e-6)


def test_a_profile_knows_only_what_its_model_standardizes(tmp_path):
    plain = aver_model(aver_config())
    processor = processor_of(plain)
    profile = estimate_profile(plain, processor, [{**row(0, streams()[0][0]), "audio": None}])
    assert profile.audio_mean is None
    batch = processor(action_units=[streams()[0][0]], speaker_profiles=[profile])
    assert "speaker_audio_mean" not in batch
    with pytest.raises(ValueError, match="standardizes neither"):
        ProfileEstimator(plain, AverProcessor.from_config(plain.config))


def test_labels_are_not_read(model, processor, person):
    labelled = [{**row, "label": object()} for row in person.rows]
    one, other = (estimate_profile(model, processor, rows, person.cache) for rows in (person.rows, labelled))
    np.testing.assert_array_equal(one.audio_mean, other.audio_mean)


def test_sound_is_as_good_as_frames_that_were_kept_of_it(tmp_path, model, processor, make_clip):
    from datasets_scripts.schema import wav_bytes

    sounds = [wav_bytes(make_clip(seconds)["audio"] / 10) for seconds in (0.4, 0.2, 0.3)]
    rows = [
        {**row(index, np.full((6, UNITS), 0.5)), "audio": {"bytes": sound, "path": None}}
        for index, sound in enumerate(sounds)
    ]
    cache = FeatureCache(tmp_path, model.base_model, processor.feature_extractor)
    for clip in rows:
        heard = AverDataCollator(processor)([clip])
        frames, mask = model.aver.encode_audio(heard["input_values"], heard["attention_mask"])
        cache.write({clip_key(clip): frames[mask].detach()})
    cache.refresh()
    one, other = estimate_profile(model, processor, rows), estimate_profile(model, processor, rows, cache)
    np.testing.assert_allclose(one.audio_mean, other.audio_mean, atol=1e-5)
    np.testing.assert_allclose(one.audio_std, other.audio_std, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.integers(0, 2**31), st.randoms())
def test_how_clips_come_in_makes_no_difference(lengths, seed, random):
    if not sum(lengths):
        lengths = [1]
    generator = np.random.default_rng(seed)
    clips = [torch.from_numpy(1e3 + generator.normal(size=(length, UNITS))) for length in lengths]
    profiles = []
    for _ in range(2):
        estimator, rest = ProfileEstimator(SEEING, processor_of(SEEING), prior_clips=0), list(clips)
        random.shuffle(rest)
        while rest:
            taken = random.randint(1, len(rest))
            estimator.add(rest[:taken], {})
            rest = rest[taken:]
        profiles.append(estimator.profile())
    frames = torch.cat(clips).numpy()
    for profile in profiles:
        np.testing.assert_allclose(profile.action_unit_mean, frames.mean(axis=0), rtol=1e-6)
        if len(frames) > 1:
            np.testing.assert_allclose(profile.action_unit_std, frames.std(axis=0), rtol=1e-5)


def test_each_clip_of_a_dataset_gets_the_profile_of_its_speaker(model, processor, tmp_path):
    from datasets import Dataset

    units, frames = streams(lengths=(5, 9, 6, 4))
    rows = [row(index, clip, speaker) for index, (clip, speaker) in enumerate(zip(units, "abab", strict=True))]
    cache = FeatureCache(tmp_path, model.base_model, processor.feature_extractor)
    cache.write({clip_key(clip): values for clip, values in zip(rows, frames, strict=True)})
    cache.refresh()
    profiles = profiles_of_clips(model, processor, Dataset.from_list(rows), cache)
    assert list(profiles) == ["a-0", "b-1", "a-2", "b-3"]
    assert profiles["a-0"] is profiles["a-2"] and profiles["b-1"] is profiles["b-3"]
    alone = estimate_profile(model, processor, rows[1::2], cache)
    np.testing.assert_array_equal(profiles["b-1"].audio_mean, alone.audio_mean)
    with pytest.raises(ValueError, match="1 clips have no speaker_id"):
        profiles_of_clips(model, processor, Dataset.from_list([*rows[1:], {**rows[0], "speaker_id": None}]), cache)


def test_a_saved_profile_is_loaded_as_it_was(tmp_path, model, processor, person):
    profile = replace(
        estimate_profile(model, processor, person.rows, person.cache),
        feature_identity={"name": "openface", "settings": {}},
        audio_identity="whisper",
    )
    profile.save(tmp_path / "anna.safetensors")
    again = SpeakerProfile.load(tmp_path / "anna.safetensors")
    for name, value in vars(profile).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert [path.name for path in tmp_path.glob("anna*")] == ["anna.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "header"),
    [
        ({"action_unit_mean": np.zeros(3), "action_unit_std": np.ones(3)}, None),
        ({"action_unit_mean": np.zeros(3), "action_unit_std": np.ones(3)}, {"speaker_profile": "2", "facts": "{}"}),
        ({"action_unit_mean": np.zeros(3), "action_unit_std": np.ones(3)}, {"speaker_profile": "1", "facts": "{"}),
        ({"action_unit_mean": np.zeros(3), "action_unit_std": np.ones(3)}, {"speaker_profile": "1"}),
        ({"weights": np.zeros(3)}, {"speaker_profile": "1", "facts": "{}"}),
        ({}, {"speaker_profile": "1", "facts": "{}"}),
        ({"action_unit_mean": np.zeros(3)}, {"speaker_profile": "1", "facts": "{}"}),
        ({"audio_mean": np.zeros(3), "audio_std": np.ones(3)}, {"speaker_profile": "1", "facts": "{}"}),
        ({"action_unit_mean": np.zeros(3), "action_unit_std": np.zeros(3)}, {"speaker_profile": "1", "facts": "{}"}),
        (
            {"action_unit_mean": np.full(3, np.nan), "action_unit_std": np.ones(3)},
            {"speaker_profile": "1", "facts": "{}"},
        ),
    ],
)
def test_a_file_that_is_no_profile_is_refused_by_name(tmp_path, tensors, header):
    save_file(tensors, tmp_path / "bob.safetensors", header)
    with pytest.raises(ValueError, match=r"bob.safetensors is no speaker profile \(.*aver enroll"):
        SpeakerProfile.load(tmp_path / "bob.safetensors")


def test_a_missing_or_damaged_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="is no speaker profile"):
        SpeakerProfile.load(tmp_path / "absent.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x80\x04 not safetensors")
    with pytest.raises(ValueError, match="is no speaker profile"):
        SpeakerProfile.load(tmp_path / "torn.safetensors")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feature_identity": {"name": "mediapipe"}}, "clip 0 .* extractor: mediapipe"),
        ({"action_unit_mean": np.zeros(5, np.float32), "action_unit_std": np.ones(5, np.float32)}, "action units: 5"),
        ({"audio_identity": "hubert"}, "audio encoder: hubert"),
    ],
)
def test_a_profile_of_another_model_is_refused_with_what_differs(processor, model, person, changed, message):
    profile = replace(estimate_profile(model, processor, person.rows, person.cache), **changed)
    with pytest.raises(ValueError, match=message):
        person.logits(model, processor, profile)


def test_statistics_of_another_shape_never_reach_the_frames(model):
    frames = torch.zeros(1, 5, LAYERS, CHANNELS)
    with pytest.raises(ValueError, match="made with another model"):
        model(
            audio_frames=frames, speaker_audio_mean=torch.zeros(1, 1, CHANNELS), speaker_audio_std=torch.ones(1, 1, 1)
        )
    with pytest.raises(ValueError, match="or neither"):
        model(audio_frames=frames, speaker_audio_mean=torch.zeros(1, LAYERS, CHANNELS))


def test_as_many_profiles_as_clips_are_wanted(processor):
    with pytest.raises(ValueError, match="number of clips"):
        processor(action_units=[np.zeros((3, UNITS))] * 2, speaker_profiles=[None])
