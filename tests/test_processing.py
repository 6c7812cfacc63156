import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from support.models import AUDIO_ENCODERS, aver_config, aver_model
from transformers import AutoFeatureExtractor, AutoProcessor, SeamlessM4TFeatureExtractor, WhisperFeatureExtractor

from datasets_scripts import SAMPLE_DIR, load_crema_d
from modeling_aver import AverFeatureExtractor, AverProcessor

RATE = 16_000


def extractor(**values):
    return AverFeatureExtractor(**{"num_action_units": 3, **values})


def process(audio=None, action_units=None, **values):
    return extractor()(audio, action_units, **{"sampling_rate": RATE, "return_tensors": "np", **values})


def sound(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=round(seconds * RATE)).astype(np.float32)


def test_literal_padding_of_two_clips():
    faces = [np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 1.0]]), np.array([[5.0, 6.0, 1.0]])]
    batch = process(action_units=faces, action_units_success=[[1, 0], [1]], video_timestamps=[[0.1, 0.2], [0.0]])
    np.testing.assert_array_equal(batch["action_units"], [[[1, 2, 0], [0, 0, 0]], [[5, 6, 1], [0, 0, 0]]])
    np.testing.assert_array_equal(batch["action_units_mask"], [[1, 0], [1, 0]])
    np.testing.assert_allclose(batch["video_timestamps"], [[0.1, 0.2], [0.0, 0.0]])
    assert set(batch) == {"action_units", "action_units_mask", "video_timestamps"}


def test_a_waveform_comes_to_zero_mean_and_unit_variance_and_is_padded_on_the_right():
    batch = process([3 + 2 * sound(0.2), sound(0.1, seed=1)])
    assert batch["input_values"].shape == (2, 3200)
    np.testing.assert_array_equal(batch["attention_mask"].sum(axis=1), [3200, 1600])
    for row, length in zip(batch["input_values"], (3200, 1600), strict=True):
        assert row[:length].mean() == pytest.approx(0, abs=1e-5)
        assert row[:length].std() == pytest.approx(1, abs=1e-3)
        assert not row[length:].any()


@pytest.mark.parametrize(
    "convert", [list, np.asarray, torch.tensor, lambda wave: {"array": wave, "sampling_rate": RATE}]
)
def test_waveforms_may_come_as_lists_arrays_tensors_or_datasets_audio(convert):
    waveform = sound(0.1)
    for audio in (convert(waveform), [convert(waveform)]):
        np.testing.assert_allclose(process(audio)["input_values"], process([waveform])["input_values"], atol=1e-6)


def wav_bytes(waveform, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def decoder(waveform, rate=RATE):
    """torchcodec's `AudioDecoder` as `datasets` gives it, which needs an ffmpeg of the system."""
    samples = SimpleNamespace(data=torch.tensor(waveform)[None], sample_rate=rate)
    return SimpleNamespace(get_all_samples=lambda: samples)


def test_an_audio_column_of_datasets_is_taken_as_it_comes(tmp_path):
    waveform = sound(0.1)
    (tmp_path / "clip.wav").write_bytes(wav_bytes(waveform))
    forms = [
        {"array": waveform, "sampling_rate": RATE},
        {"raw": torch.tensor(waveform), "sampling_rate": RATE},
        {"bytes": wav_bytes(waveform), "path": "clip.wav"},
        {"bytes": None, "path": str(tmp_path / "clip.wav")},
        decoder(waveform),
    ]
    expected = process([waveform])["input_values"]
    np.testing.assert_allclose(process(forms)["input_values"], np.repeat(expected, len(forms), axis=0), atol=1e-6)
    for form in forms:
        np.testing.assert_allclose(process(form, sampling_rate=None)["input_values"], expected, atol=1e-6)


def test_a_row_of_the_sample_corpus_goes_through_the_processor():
    row = load_crema_d(SAMPLE_DIR, split="train")[0]
    processor = AverProcessor(AverFeatureExtractor())
    names = ("action_units", "action_units_success", "video_timestamps")
    batch = processor(audio=[row["audio"]], **{name: [row[name]] for name in names})
    assert batch["attention_mask"].sum() == round(row["audio_duration"] * RATE)
    assert batch["action_units"].shape == (1, len(row["action_units"]), 35)


def test_two_channels_of_a_decoder_are_averaged():
    left, right = sound(0.1), sound(0.1, seed=1)
    samples = SimpleNamespace(data=torch.tensor(np.stack([left, right])), sample_rate=RATE)
    batch = process([SimpleNamespace(get_all_samples=lambda: samples)])
    np.testing.assert_allclose(batch["input_values"], process([(left + right) / 2])["input_values"], atol=1e-5)


@pytest.mark.parametrize("convert", [list, np.asarray, torch.tensor])
def test_action_units_may_come_as_lists_arrays_or_tensors(convert):
    units = np.random.default_rng(0).random((4, 3)).tolist()
    for given in (convert(units), [convert(units)]):
        np.testing.assert_allclose(process(action_units=given)["action_units"][0], units, atol=1e-6)


def test_sixteen_bit_samples_are_heard_as_loud_as_their_floats():
    waveform = (sound(0.1).clip(-1, 1) * 32767).astype(np.int16)
    waveforms = (waveform, torch.tensor(waveform), waveform.astype(np.int32) * 65536, waveform / 32768)
    whisper = extractor(audio_feature_extractor=WhisperFeatureExtractor().to_dict())
    *integers, floats = (whisper(wave, sampling_rate=RATE)["input_features"] for wave in waveforms)
    for ours in integers:
        torch.testing.assert_close(ours, floats)


def test_clips_without_sound_or_without_video_are_masked():
    batch = process([sound(0.1), None], [None, np.ones((3, 3))])
    np.testing.assert_array_equal(batch["attention_mask"].sum(axis=1), [1600, 0])
    np.testing.assert_array_equal(batch["action_units_mask"], [[0, 0, 0], [1, 1, 1]])
    assert "input_values" not in process([None], [np.ones((3, 3))])
    assert "action_units" not in process([sound(0.1)], [None])


def test_video_without_timestamps_runs_at_the_frame_rate():
    batch = process(action_units=np.ones((3, 3)), video_frame_rate=25.0)
    np.testing.assert_allclose(batch["video_timestamps"], [[0.0, 0.04, 0.08]])


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_what_it_makes_is_what_every_audio_encoder_reads(audio):
    """From raw clips, padded together: the same logits as from each clip alone."""
    config = aver_config(audio)
    processor, model = AverProcessor.from_config(config), aver_model(config)
    clips = [(sound(0.5), np.ones((15, 7))), (sound(0.3, seed=1), None), (None, np.eye(7))]
    with torch.no_grad():
        together = model(**processor(*map(list, zip(*clips, strict=True)), sampling_rate=RATE)).logits
        alone = [model(**processor([wave], [units], sampling_rate=RATE)).logits for wave, units in clips]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_action_units_are_scaled_by_the_statistics_of_the_training_clips():
    generator = np.random.default_rng(0)
    clips = [generator.normal([1.0, 40.0, 0.2], [2.0, 5.0, 0.1], size=(n, 3)) for n in (5, 1, 9)]
    success = [np.ones(5), np.zeros(1), np.arange(9) != 4]
    fitted = extractor().fit_action_units(iter(clips), iter(success))
    seen = np.concatenate([clip[found > 0] for clip, found in zip(clips, success, strict=True)])
    np.testing.assert_allclose(fitted.action_unit_mean, seen.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(fitted.action_unit_std, seen.std(axis=0), rtol=1e-6)
    scaled = fitted(action_units=clips[2], action_units_success=success[2])["action_units"][0]
    np.testing.assert_allclose(scaled[0], (clips[2][0] - seen.mean(axis=0)) / seen.std(axis=0), rtol=1e-4)
    assert not scaled[4].any()


def test_an_action_unit_that_never_changes_keeps_its_size():
    fitted = extractor().fit_action_units([np.array([[0.0, 1.0, 5.0], [0.0, 2.0, 5.0]])])
    assert fitted.action_unit_std == [1.0, 0.5, 1.0]


def test_statistics_of_standardized_clips_are_those_of_the_clips_themselves():
    clips = [np.random.default_rng(0).normal(3.0, 2.0, size=(9, 3))]
    fitted = extractor().fit_action_units(clips)
    again = AverFeatureExtractor.from_dict(fitted.to_dict()).fit_action_units(clips)
    np.testing.assert_allclose(again.action_unit_mean, fitted.action_unit_mean)


def test_durations_that_differ_are_taken_where_the_caller_says_so():
    clip = {"audio": sound(2.8), "action_units": np.zeros((42, 3)), "duration_tolerance": np.inf}
    assert process(**clip)["action_units"].shape == (1, 42, 3)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no frame with a face"):
        extractor().fit_action_units([np.ones((4, 3))], [np.zeros(4)])


def test_failed_frames_may_hold_anything():
    units = np.array([[1.0, 2.0, 0.0], [np.nan, np.inf, 0.0]])
    batch = process(action_units=units, action_units_success=[1, 0])
    np.testing.assert_array_equal(batch["action_units"], [[[1, 2, 0], [0, 0, 0]]])


@pytest.mark.parametrize("audio", [None, WhisperFeatureExtractor(feature_size=40), SeamlessM4TFeatureExtractor()])
def test_it_survives_auto_processor_and_auto_feature_extractor(audio, tmp_path):
    made = extractor(
        audio_feature_extractor=audio and audio.to_dict(),
        action_unit_mean=[1.0, 2.0, 3.0],
        action_unit_std=[1.0, 2.0, 0.5],
    )
    AverProcessor(made).save_pretrained(tmp_path)
    processor, alone = AutoProcessor.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(processor) is AverProcessor and type(alone) is AverFeatureExtractor
    inputs = {"audio": sound(0.2), "action_units": np.ones((6, 3)), "sampling_rate": RATE}
    for loaded in (processor, alone):
        for name, values in loaded(**inputs).items():
            torch.testing.assert_close(values, made(**inputs)[name], atol=0, rtol=0)


BAD_CLIPS = {
    "another rate": (
        {"audio": sound(0.1), "sampling_rate": 48_000},
        r"`sampling_rate` is 48000 but this processor was made for 16000. Resample first: dataset.cast_column",
    ),
    "empty sound": ({"audio": np.zeros(0)}, r"`audio` of clip 0 must be one row of samples \(mono\)"),
    "stereo": ({"audio": [np.zeros((2, 99))]}, r"`audio` of clip 0 must be one row .* shape \(2, 99\)"),
    "rows of another rate": (
        {"audio": [{"array": sound(0.1), "sampling_rate": 44_100}]},
        "`sampling_rate` is 44100 but this processor was made for 16000. Resample first: dataset.cast_column",
    ),
    "a decoder of another rate": (
        {"audio": [sound(0.1), decoder(sound(0.1), 8_000)]},
        "`sampling_rate` is 8000 but this processor",
    ),
    "a path": (
        {"audio": "clip.wav"},
        "`audio` of clip 0 must be samples, but is str 'clip.wav'. Pass the file to the",
    ),
    "paths": ({"audio": [sound(0.1), Path("b.wav")]}, r"`audio` of clip 1 must be samples, but is PosixPath.*'b.wav'"),
    "bytes": ({"audio": [b"RIFF"]}, "`audio` of clip 0 must be samples, but is bytes b'RIFF'"),
    "a dict without a rate": ({"audio": {"array": sound(0.1)}}, "which also needs their `sampling_rate`"),
    "a dict of other keys": ({"audio": [{"sound": 1}]}, "`audio` of clip 0 is a dict with the keys sound: it needs"),
    "a file that is not there": ({"audio": [{"path": "nowhere.wav"}]}, "nowhere.wav cannot be read: No such file"),
    "words": ({"audio": np.array(["a"])}, "`audio` of clip 0 must be numbers in rows of equal length"),
    "a table": ({"action_units": "clip.csv"}, "`action_units` of clip 0 must be numbers .* but is str 'clip.csv'"),
    "NaN in sound": (
        {"audio": [sound(0.1), np.full(99, np.nan)]},
        "`audio` of clip 1 must be finite, but 99 of its 99",
    ),
    "34 action units": (
        {"action_units": np.zeros((9, 34)), "extractor": AverFeatureExtractor()},
        r"`action_units` must have 35 channels \(17 intensities, then 18 presences\), but clip 0 has 34. Was AU28_c",
    ),
    "no frames": ({"action_units": np.zeros((0, 3))}, r"must have rows for its frames, but has shape \(0, 3\)"),
    "NaN in a real frame": (
        {"action_units": np.array([[1.0, np.nan, 0.0]])},
        "`action_units` of clip 0 must be finite, but 1 of its 3 values",
    ),
    "ragged rows": ({"action_units": [[[1.0, 2.0, 3.0], [1.0]]]}, "`action_units` of clip 0 must be numbers in rows"),
    "flags of another length": (
        {"action_units": np.zeros((4, 3)), "action_units_success": [1, 1]},
        r"`action_units_success` of clip 0 has shape \(2,\) for 4 video frames",
    ),
    "times of another length": (
        {"action_units": np.zeros((4, 3)), "video_timestamps": [0.0]},
        r"`video_timestamps` of clip 0 has shape \(1,\) for 4 video frames",
    ),
    "time runs backwards": (
        {"action_units": np.zeros((3, 3)), "video_timestamps": [0.0, 0.2, 0.1]},
        "frame 2 is at 0.100 s, after 0.200 s",
    ),
    "time is not finite": (
        {"action_units": np.zeros((2, 3)), "video_timestamps": [0.0, np.inf]},
        "`video_timestamps` of clip 0 must be finite",
    ),
    "nothing": ({}, "Neither `audio` nor `action_units` was given"),
    "a clip of nothing": ({"audio": [sound(0.1), None]}, "Clip 1 has neither `audio` nor `action_units`"),
    "other numbers of clips": (
        {"audio": [sound(0.1)], "action_units": [np.zeros((3, 3))] * 2},
        r"Streams differ in their number of clips: .*'audio': 1.*'action_units': 2",
    ),
    "half the video": (
        {"audio": sound(2.8), "action_units": np.zeros((42, 3))},
        "`action_units` of clip 0 lasts 1.40 s at 30.0 Hz .* but its `audio` lasts 2.80 s at 16000 Hz",
    ),
    "video of another hour": (
        {"audio": sound(1.0), "action_units": np.zeros((30, 3)), "video_timestamps": 3600 + np.arange(30) / 30},
        r"from 3600.00 s to 3601.00 s\) but its `audio` lasts 1.00 s",
    ),
    "frame rate": ({"action_units": np.zeros((3, 3)), "video_frame_rate": 0.0}, r"`video_frame_rate` \(0.0\) must be"),
}


@pytest.mark.parametrize("case", BAD_CLIPS)
def test_a_bad_clip_is_named_with_its_value(case):
    values, message = BAD_CLIPS[case]
    values = {"sampling_rate": RATE, **values}
    with pytest.raises(ValueError, match=message):
        values.pop("extractor", extractor())(**values)


BAD_VALUES = {
    "class": (
        {"audio_feature_extractor": {"feature_extractor_type": "Popen"}},
        r"\('Popen'\) must be one of Wav2Vec2",
    ),
    "rate": ({"video_frame_rate": -1.0}, r"`video_frame_rate` \(-1.0\) must be a positive"),
    "mean": ({"action_unit_mean": [0.0]}, "`action_unit_mean` has 1 numbers for 3 action units"),
    "deviation": ({"action_unit_std": [1.0, 0.0, 1.0]}, "`action_unit_std` must be positive, but holds 0.0"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_configuration_is_named_with_its_value(case):
    values, message = BAD_VALUES[case]
    with pytest.raises(ValueError, match=message):
        extractor(**values)


def test_one_row_that_sums_up_a_clip_may_stand_anywhere_within_it():
    extractor = AverFeatureExtractor(num_action_units=7)
    clip = {"audio": np.zeros(16_000 * 4, np.float32), "action_units": np.ones((1, 7)), "sampling_rate": 16_000}
    batch = extractor(**clip, video_timestamps=[[2.0]])
    assert batch["video_timestamps"].tolist() == [[2.0]]
    with pytest.raises(
        ValueError, match="one row of `action_units` of clip 0 is at 9.00 s, but its `audio` lasts 4.00 s"
    ):
        extractor(**clip, video_timestamps=[[9.0]])


def test_frames_kept_from_before_stand_in_place_of_the_sound():
    extractor = AverFeatureExtractor(num_action_units=7)
    frames = [np.random.default_rng(0).normal(size=(length, 2, 5)) for length in (3, 4)]
    batch = extractor(audio_frames=[frames[0], None, frames[1]], action_units=[None, np.ones((2, 7)), None])
    assert batch["audio_frames"].shape == (3, 4, 2, 5)
    assert batch["audio_frames_mask"].tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_allclose(batch["audio_frames"][2], frames[1], rtol=1e-6)
    assert "attention_mask" not in batch


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audio_frames": np.zeros((3, 5))}, "must have the shape"),
        ({"audio_frames": [np.zeros((0, 2, 5))]}, "must have the shape"),
        ({"audio_frames": [np.zeros((3, 2, 5))], "audio": [np.zeros(99)], "sampling_rate": 16_000}, "not both"),
        ({"audio_frames": [None]}, "neither `audio` nor"),
    ],
)
def test_kept_frames_of_another_shape_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AverFeatureExtractor(num_action_units=7)(**values)
