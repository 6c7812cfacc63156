"""Baselines that hear alone or see alone."""

import pytest

from datasets_scripts import check_columns, identities_of, keep_streams, load_crema_d
from modeling_aver import AverFeatureExtractor, AverProcessor
from modeling_aver.training.collation import AverDataCollator


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_crema_d(cache_dir=str(tmp_path_factory.mktemp("cache")), split="train").select(range(2))


@pytest.mark.parametrize(("streams", "kept"), [("audio", "input_values"), ("video", "action_units")])
def test_one_stream_is_left_of_every_clip_and_the_schema_stays(clips, streams, kept):
    alone = keep_streams(clips, streams)
    assert alone.features == clips.features
    check_columns(alone.features)
    batch = AverDataCollator(AverProcessor(AverFeatureExtractor()))([alone[0], alone[1]])
    assert set(batch) & {"input_values", "action_units"} == {kept}
    assert batch["labels"].tolist() == [0, 1]
    assert len(identities_of(alone)) == (streams == "video")


def test_both_is_the_dataset_itself(clips):
    assert keep_streams(clips, "both") is clips


def test_clips_that_have_nothing_left_are_left_out_by_number(clips, caplog):
    mixed = clips.map(lambda _, row: {"action_units": []} if row else {}, with_indices=True, features=clips.features)
    assert keep_streams(mixed, "video")["utterance_id"] == clips["utterance_id"][:1]
    assert "1 of 2 clips have no video" in caplog.text
    with pytest.raises(ValueError, match="leaves none of the 2 clips"):
        keep_streams(keep_streams(clips, "audio"), "video")


def test_another_word_is_refused(clips):
    with pytest.raises(ValueError, match="both, audio, video"):
        keep_streams(clips, "text")
