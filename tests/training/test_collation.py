import datasets
import pytest
import torch

from datasets_scripts import load_crema_d
from modeling_aver import AverFeatureExtractor, AverProcessor
from modeling_aver.training.collation import AverDataCollator


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_crema_d(cache_dir=str(tmp_path_factory.mktemp("cache")), split="train")


@pytest.fixture(scope="module")
def collator():
    return AverDataCollator(AverProcessor(AverFeatureExtractor()))


def test_two_real_clips_become_the_batch_of_the_docstring(clips, collator):
    batch = collator([clips[0], clips[1]])
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "input_values": (2, 38034),
        "attention_mask": (2, 38034),
        "action_units": (2, 70, 35),
        "action_units_mask": (2, 70),
        "video_timestamps": (2, 70),
        "labels": (2,),
    }
    assert batch["attention_mask"].sum(dim=1).tolist() == [36363, 38034]
    assert batch["action_units_mask"].sum(dim=1).tolist() == [67, 70]
    torch.testing.assert_close(batch["action_units"][1], torch.tensor(clips[1]["action_units"]))
    assert batch["labels"].tolist() == [0, 1]


def test_rows_without_a_stream_are_masked(clips, collator):
    deaf = {**clips[0], "audio": None}
    blind = {**clips[1], "action_units": [], "action_units_success": [], "video_timestamps": []}
    batch = collator([deaf, blind])
    assert batch["attention_mask"].sum(dim=1).tolist() == [0, 38034]
    assert batch["action_units_mask"].sum(dim=1).tolist() == [67, 0]


def test_rows_without_label_give_no_labels(clips, collator):
    row = {name: value for name, value in clips[0].items() if name != "label"}
    assert "labels" not in collator([row])


def test_a_damaged_file_is_named(clips, collator):
    row = {**clips[0], "audio": {"bytes": b"RIFF but nothing more", "path": None}}
    with pytest.raises(ValueError, match="1001_DFA_ANG_XX cannot be decoded"):
        collator([row])


def test_audio_is_read_without_torchcodec(clips):
    assert clips.features["audio"] == datasets.Audio(sampling_rate=16_000, decode=False)
