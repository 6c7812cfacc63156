"""Published protocols keep what they say: sizes, speakers, clips, and the golden scores of reference [2]."""

import csv
import dataclasses
import json

import pytest
from support.corpora import crema_d_names, ravdess_names, shared_file

from datasets_scripts.splits import SPLITS_DIR, Split, SplitError, check_speakers, cut_validation, load_splits
from modeling_aver.evaluation.metrics import EmotionScores

TINY = Split(
    name="tiny",
    corpus="made_up",
    source="a test",
    citation="nobody",
    speaker_independent=True,
    num_clips=4,
    sizes={"train": 2, "test": 2},
    speakers={"train": frozenset({"a", "b"}), "test": frozenset({"c"})},
)
TINY_CLIPS = {"a1": "a", "b1": "b", "c1": "c", "c2": "c"}


@pytest.fixture(scope="module")
def crema_d():
    return {name: name[:4] for name in crema_d_names()}


@pytest.fixture(scope="module")
def ravdess():
    return {name: name[-2:] for name in ravdess_names()}


def sizes(parts):
    return {part: len(clips) for part, clips in parts.items()}


def test_emobox_has_its_published_sizes_and_says_that_speakers_overlap(crema_d):
    split = load_splits("crema_d")["emobox"]
    parts = split.parts(crema_d)
    assert sizes(parts) == {"train": 5586, "test": 1856}
    assert {crema_d[clip] for clip in parts["train"]} == {crema_d[clip] for clip in parts["test"]}
    assert not split.speaker_independent
    assert "same speakers are in train and test" in split.warning


def test_emobox_would_be_refused_if_it_claimed_speaker_independence(crema_d):
    liar = dataclasses.replace(load_splits("crema_d")["emobox"], speaker_independent=True)
    with pytest.raises(SplitError, match=r"Speakers 1001, 1002, .* and 85 more are in both train and test"):
        liar.parts(crema_d)


@pytest.mark.parametrize(
    ("fold", "train", "test"),
    [(1, 5974, 1463), (2, 5967, 1470), (3, 5962, 1475), (4, 5963, 1474), (5, 5882, 1555)],
)
def test_the_speaker_folds_have_the_sizes_of_hicmae_and_leave_five_clips_out(crema_d, fold, train, test):
    split = load_splits("crema_d")[f"speaker_5fold_{fold}"]
    assert sizes(split.parts(crema_d)) == {"train": train, "test": test}
    assert len(split.left_out) == 5 and train + test + 5 == 7442


def test_the_speaker_holdout_has_the_sizes_of_tensorflow_datasets(crema_d):
    split = load_splits("crema_d")["speaker_holdout"]
    assert sizes(split.parts(crema_d)) == {"train": 5144, "validation": 738, "test": 1556}
    assert sizes(split.speakers) == {"train": 63, "validation": 9, "test": 19}
    assert split.warning is None


def test_each_protocol_of_folds_tests_every_speaker_once():
    for corpus, protocol, speakers in [
        ("crema_d", "speaker_5fold", 91),
        ("ravdess", "luna_jimenez_5fold", 24),
        ("ravdess", "emobox_6fold", 24),
    ]:
        folds = [split for name, split in load_splits(corpus).items() if name.startswith(protocol)]
        tested = [speaker for split in folds for speaker in split.speakers["test"]]
        assert len(tested) == len(set(tested)) == speakers
        assert all(split.speakers["train"] | split.speakers["test"] == set(tested) for split in folds)


def test_the_papers_ravdess_folds_have_300_clips_four_times_and_240_once(ravdess):
    splits = load_splits("ravdess")
    found = [sizes(splits[f"luna_jimenez_5fold_{fold}"].parts(ravdess)) for fold in range(1, 6)]
    assert [size["test"] for size in found] == [300, 300, 300, 300, 240]
    assert all(size["train"] + size["test"] == 1440 for size in found)
    assert sizes(splits["emobox_6fold_6"].parts(ravdess)) == {"train": 1200, "test": 240}


@pytest.mark.parametrize(
    ("column", "mean_of_folds", "pooled"),
    [("audio_wav2vec2", 81.82, 81.94), ("video_au_bilstm", 62.13, 62.36), ("late_fusion", 86.70, 86.74)],
)
def test_published_predictions_score_as_published_on_our_fold_lists(column, mean_of_folds, pooled):
    with shared_file("data", "ravdess", "luna_jimenez_predictions.csv").open() as file:
        rows = {row["utterance_id"]: row for row in csv.DictReader(file)}
    clips = {name: name[-2:] for name in rows}
    emotions = sorted({row["label"] for row in rows.values()})

    def percent(clips):
        truth, answers = ([emotions.index(rows[clip][name]) for clip in clips] for name in ("label", column))
        return 100 * EmotionScores(keep_in_memory=True).compute(predictions=answers, references=truth)["war"]

    accuracies, seen = [], []
    for fold in range(1, 6):
        test = load_splits("ravdess")[f"luna_jimenez_5fold_{fold}"].parts(clips)["test"]
        accuracies.append(percent(test))
        assert {rows[clip]["fold"] for clip in test} == {str(fold)}
        seen += test
    assert sorted(seen) == sorted(rows)
    assert round(sum(accuracies) / 5, 2) == mean_of_folds
    assert round(percent(seen), 2) == pooled


def test_speakers_in_two_parts_are_named():
    with pytest.raises(SplitError) as error:
        check_speakers({"train": ["1007", "1001", "1023"], "validation": ["1023", "1007"], "test": ["1002"]})
    assert str(error.value) == (
        "Speakers 1007, 1023 are in both train and validation: the split is not speaker-independent."
    )


def test_a_split_that_lists_a_speaker_twice_cannot_be_made():
    with pytest.raises(SplitError, match="Speakers a are in both train and test"):
        dataclasses.replace(TINY, speakers={"train": frozenset("ab"), "test": frozenset("ac")})


def test_a_split_that_lists_a_clip_twice_cannot_be_made():
    with pytest.raises(SplitError, match="Clips a1 are in both validation and test"):
        dataclasses.replace(TINY, speakers={}, clips={"validation": frozenset({"a1"}), "test": frozenset({"a1"})})


def test_a_clip_in_no_part_and_not_left_out_is_named():
    with pytest.raises(SplitError, match="tiny neither uses nor leaves out c2"):
        TINY.check({"train": ["a1", "b1"], "test": ["c1"]}, TINY_CLIPS)


def test_wrong_sizes_of_a_complete_corpus_are_refused_and_of_a_partial_one_allowed():
    wrong = dataclasses.replace(TINY, sizes={"train": 3, "test": 1})
    with pytest.raises(SplitError, match="tiny has 2 train clips, but a test has 3"):
        wrong.parts(TINY_CLIPS)
    assert wrong.parts({"a1": "a", "c1": "c"}) == {"train": ["a1"], "test": ["c1"]}


def test_an_unknown_speaker_is_refused_by_name():
    with pytest.raises(SplitError, match=r"Speaker d of d1 is in no part of tiny\. Is it made_up\?"):
        TINY.parts({**TINY_CLIPS, "d1": "d"})


def test_validation_speakers_come_from_training_alone_and_never_depend_on_missing_clips(crema_d):
    split = load_splits("crema_d")["speaker_5fold_1"]
    parts = split.parts(crema_d, validation_fraction=0.1, seed=3)
    held_out = {crema_d[clip] for clip in parts["validation"]}
    assert len(held_out) == 7 and held_out < split.speakers["train"]
    assert not held_out & {crema_d[clip] for clip in parts["train"]}
    assert parts["test"] == split.parts(crema_d)["test"]
    fewer = {clip: speaker for clip, speaker in crema_d.items() if not clip.endswith("HI")}
    assert {fewer[clip] for clip in split.parts(fewer, 0.1, seed=3)["validation"]} == held_out
    other = split.parts(crema_d, validation_fraction=0.1, seed=4)["validation"]
    assert {crema_d[clip] for clip in other} != held_out


def test_the_cut_is_the_same_on_every_machine():
    clips = [f"{name}1" for name in "abcdef"]
    _, validation = cut_validation(clips, {clip: clip[0] for clip in clips}, fraction=0.34, seed=0)
    assert validation == ["c1", "f1"]  # as `printf 0/c | sha256sum` ranks them


def test_emobox_is_cut_by_clip_because_its_speakers_overlap_anyway(crema_d):
    parts = load_splits("crema_d")["emobox"].parts(crema_d, validation_fraction=0.1)
    assert sizes(parts) == {"train": 5027, "validation": 559, "test": 1856}


def test_a_split_with_its_own_validation_part_refuses_another(crema_d):
    with pytest.raises(ValueError, match="speaker_holdout has its own validation part"):
        load_splits("crema_d")["speaker_holdout"].parts(crema_d, validation_fraction=0.1)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_a_fraction_that_is_none_is_refused_with_its_value(fraction):
    with pytest.raises(ValueError, match=rf"`validation_fraction` \({fraction}\) must lie between 0 and 1"):
        TINY.parts(TINY_CLIPS, validation_fraction=fraction)


def test_one_training_speaker_cannot_be_cut_in_two():
    with pytest.raises(ValueError, match="1 training speaker"):
        TINY.parts({"a1": "a", "c1": "c"}, validation_fraction=0.5)


def test_every_list_names_its_source_and_an_unknown_corpus_the_known_ones():
    for path in SPLITS_DIR.glob("*.json"):
        assert json.loads(path.read_text())["source"].startswith("https://")
    with pytest.raises(ValueError, match=r"`corpus` \('iemocap'\) must be one of crema_d, ravdess"):
        load_splits("iemocap")
