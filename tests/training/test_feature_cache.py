"""Frames of a frozen encoder, computed once: the same numbers, each clip once, and nothing stale or broken is read."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from packaging.version import Version
from rich.console import Console
from safetensors.torch import load_file
from support.feature_cache import FROZEN, losses_of
from support.models import aver_config, aver_model

import train_hf
from datasets_scripts import load_crema_d
from modeling_aver import AverProcessor
from modeling_aver.io.progress import ClipCounter, LineProgress
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.encoding import RunningStatistics, fill_cache, fit_audio_standardization
from modeling_aver.training.feature_cache import FeatureCache, clip_key


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_crema_d(cache_dir=str(tmp_path_factory.mktemp("cache")), split="train").select(range(3))


@pytest.fixture
def model():
    return aver_model(aver_config("whisper", num_action_units=35, audio_layers=[0, 2])).aver


@pytest.fixture
def processor(model):
    return AverProcessor.from_config(model.config)


def filled(folder, model, processor, clips, **values):
    cache = FeatureCache(folder, model, processor.feature_extractor, **values)
    fill_cache(cache, model, processor, [clips], batch_size=2)
    return cache


def test_a_batch_of_kept_frames_gives_the_same_answers(tmp_path, model, processor, clips):
    cache = filled(tmp_path, model, processor, clips)
    rows = [clips[2], clips[0], {**clips[1], "audio": None}]
    with torch.inference_mode():
        sound, kept = model(**_inputs(processor, None, rows)), model(**_inputs(processor, cache, rows))
    torch.testing.assert_close(kept.pooler_output, sound.pooler_output, atol=1e-5, rtol=0)


def _inputs(processor, cache, rows):
    batch = AverDataCollator(processor, cache)(rows)
    assert ("audio_frames" in batch) == (cache is not None)
    batch.pop("labels")
    return batch


def test_each_sound_is_encoded_once_whatever_dataset_it_is_in(tmp_path, model, processor, clips, monkeypatch):
    encoded = []
    whole = type(model).encode_audio
    monkeypatch.setattr(
        type(model),
        "encode_audio",
        lambda self, **inputs: encoded.append(len(inputs["attention_mask"])) or whole(self, **inputs),
    )
    filled(tmp_path, model, processor, clips.select([0, 1]))
    filled(tmp_path, model, processor, clips.select([2, 1, 0, 1]))
    assert sum(encoded) == 3


def test_other_weights_layers_or_types_never_meet_these_entries(tmp_path, model, processor, clips):
    first = filled(tmp_path, model, processor, clips)
    others = [FeatureCache(tmp_path, model, processor.feature_extractor, dtype="float16")]
    model.config.audio_layers = [1, 2]
    others.append(FeatureCache(tmp_path, model, processor.feature_extractor))
    model.config.audio_layers = [0, 2]
    assert len(FeatureCache(tmp_path, model, processor.feature_extractor)) == len(first) == 3
    with torch.no_grad():
        next(model.audio_encoder.parameters()).flatten()[0] += 1e-3
    others.append(FeatureCache(tmp_path, model, processor.feature_extractor))
    assert [len(other) for other in others] == [0, 0, 0]


def test_half_the_space_is_half_the_digits(tmp_path, model, processor, clips):
    whole, half = (filled(tmp_path, model, processor, clips, dtype=dtype) for dtype in ("float32", "float16"))
    sizes = [sum(file.stat().st_size for file in cache.folder.glob("*.safetensors")) for cache in (whole, half)]
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.02)
    assert half.frames(clips[0]).dtype == torch.float32
    torch.testing.assert_close(half.frames(clips[0]), whole.frames(clips[0]), atol=0, rtol=2**-10)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff" * 99])
def test_a_damaged_file_is_encoded_again(tmp_path, model, processor, clips, damage, caplog):
    cache = filled(tmp_path, model, processor, clips)
    (path,) = cache.folder.glob("*.safetensors")
    before = cache.frames(clips[0]).clone()
    damaged = damage(path.read_bytes())
    path.unlink()  # not written over: the file is mapped into this process's memory
    path.write_bytes(damaged)
    again = FeatureCache(tmp_path, model, processor.feature_extractor)
    assert len(again) == 0 and "is damaged" in caplog.text
    fill_cache(again, model, processor, [clips], batch_size=2)
    torch.testing.assert_close(again.frames(clips[0]), before)


def test_what_was_broken_off_leaves_no_entry_and_no_part(tmp_path, model, processor, clips, monkeypatch):
    cache = FeatureCache(tmp_path, model, processor.feature_extractor)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="safetensors cannot be written: No space left on device. Make room"):
        cache.write({clip_key(clips[0]): torch.zeros(4, 2, 24)})
    assert [path.name for path in cache.folder.iterdir()] == ["encoder.json"]


def test_a_clip_that_is_not_there_is_named(tmp_path, model, processor, clips):
    cache = filled(tmp_path, model, processor, clips.select([0]))
    with pytest.raises(ValueError, match="1001_DFA_DIS_XX is not in the feature cache"):
        cache.frames(clips[1])


def test_an_unknown_type_is_refused(tmp_path, model, processor):
    with pytest.raises(ValueError, match="float32, float16, bfloat16"):
        FeatureCache(tmp_path, model, processor.feature_extractor, dtype="int8")


def test_statistics_are_those_of_all_real_frames_of_the_training_clips(tmp_path, processor, clips):
    model = aver_model(
        aver_config("whisper", num_action_units=35, audio_layers=[0, 2], audio_normalization="standardize")
    ).aver
    cache = filled(tmp_path, model, processor, clips)
    frames = torch.cat([cache.frames(row) for row in clips])
    for collator in (AverDataCollator(processor, cache), AverDataCollator(processor)):
        fit_audio_standardization(model, collator, clips, batch_size=2)
        torch.testing.assert_close(model.audio_standardization.mean, frames.mean(dim=0), atol=1e-5, rtol=1e-5)
        std = frames.double().std(dim=0, correction=0).float()
        torch.testing.assert_close(model.audio_standardization.std, std, atol=1e-4, rtol=1e-4)


def test_running_statistics_do_not_depend_on_how_values_are_cut():
    values = 1e4 + torch.randn(101, 3, dtype=torch.float64)
    statistics = RunningStatistics((3,))
    for part in values.split([1, 0, 50, 49, 1]):
        statistics.add(part)
    mean, deviation = statistics.mean_and_deviation()
    torch.testing.assert_close(mean, values.mean(dim=0).float())
    torch.testing.assert_close(deviation, values.std(dim=0, correction=0).float())


def test_no_values_have_no_statistics():
    with pytest.raises(ValueError, match="nothing to take statistics of"):
        RunningStatistics((3,)).mean_and_deviation()


# Older encoders draw random numbers for layer drop even where nothing is dropped; the cache, which does not run them,
# leaves these to modality dropout.
DROPPED = 0.3 if Version(transformers.__version__) >= Version("5.23") else 0.0


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "frozen.yaml"
    path.write_text(yaml.safe_dump({**FROZEN, "audio_dropout_rate": DROPPED, "output_dir": str(tmp_path / "sound")}))
    return path


def test_training_from_the_cache_is_training_from_the_sound(recipe, tmp_path):
    train_hf.main([str(recipe)])
    kept = ["--feature_cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "kept")]
    train_hf.main([str(recipe), *kept])
    assert losses_of(tmp_path / "kept") == pytest.approx(losses_of(tmp_path / "sound"), abs=1e-5)
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("kept", "sound"))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=0)
    scale = weights["aver.audio_standardization.mean"]
    assert scale.abs().max() > 0.01, "the statistics of the training clips are part of the model"
    assert str(tmp_path / "cache") not in (tmp_path / "kept" / "results.json").read_text().replace(
        json.loads((tmp_path / "kept" / "results.json").read_text())["command"], ""
    )


def test_frames_of_an_encoder_that_trains_cannot_be_kept(recipe, tmp_path):
    flags = ["--freeze_audio_encoder", "false", "--feature_cache_dir", str(tmp_path / "cache")]
    with pytest.raises(ValueError, match="Freeze it: --freeze_audio_encoder true"):
        train_hf.main([str(recipe), *flags])
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_two_processes_share_the_encoding_and_read_each_others_frames(recipe, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29547"]
    script = Path(__file__).resolve().parents[2] / "train_hf.py"
    flags = ["--feature_cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "both")]
    flags += ["--audio_dropout_rate", "0"]
    done = subprocess.run(
        [*command, str(script), str(recipe), *flags, "--per_device_train_batch_size", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    train_hf.main([str(recipe), "--per_device_train_batch_size", "4", "--audio_dropout_rate", "0"])
    assert losses_of(tmp_path / "both") == pytest.approx(losses_of(tmp_path / "sound"), abs=1e-4)


@pytest.mark.slow
def test_a_log_says_how_far_the_encoding_is_while_it_runs(recipe, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("modeling_aver.io.progress.LEAST", 0.0)
    train_hf.main([str(recipe), "--feature_cache_dir", str(tmp_path / "cache")])
    printed = capfd.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("encoding sound: ")]
    assert [line.split(",")[0] for line in lines] == [
        f"encoding sound: {done} of 6 clips ({done / 6:.0%})" for done in range(1, 7)
    ]
    assert "clips/s" in lines[0] and "left" in lines[0] and "encoding sound" not in printed.out


def test_lines_come_every_ten_seconds_or_each_twentieth_but_not_in_a_flood():
    now, console = [0.0], Console(file=io.StringIO(), width=200)
    counter = ClipCounter(1000, clock=lambda: now[0])
    lines = LineProgress("extract", counter, console)
    counter.add(400, earlier=True)

    def printed_after(seconds, clips):
        now[0] += seconds
        counter.add(clips)
        before = len(console.file.getvalue())
        lines.update()
        return console.file.getvalue()[before:]

    assert printed_after(0.5, 60) == ""
    assert printed_after(4.5, 0) == "extract: 460 of 1000 clips (46%), already done: 400, 12.0 clips/s, 0:00:45 left\n"
    assert printed_after(9.0, 49) == ""
    assert printed_after(1.0, 0).startswith("extract: 509 of 1000 clips (51%)")
    assert printed_after(2.0, 50).startswith("extract: 559 of 1000 clips (56%)")
    lines.finish()
    assert len(console.file.getvalue().splitlines()) == 3, "the last line is not printed twice"
