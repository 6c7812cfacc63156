"""
Damaged and made-up files of every kind that is read: what they hold is right, or one line says what is wrong.

A few random files every day, many in the slow stage; the same ones in every run.
"""

import functools
import io
import json
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.corruptions import changed_json, damaged_bytes, damaged_table
from support.models import aver_config
from support.reencoded_media import CLIPS
from support.runs import made_up_predictions, made_up_run

from datasets_scripts import SAMPLE_DIR
from datasets_scripts.clips import read_clips_table
from datasets_scripts.crema_d_tables import read_demographics, read_perceived
from datasets_scripts.hub.record import RECORD, Build
from modeling_aver import AverConfig, AverFeatureExtractor, AverForEmotionClassification, SpeakerProfile
from modeling_aver.evaluation.results import read_predictions
from modeling_aver.evaluation.run_folder import FinishedRun
from modeling_aver.features.openface_csv import read_openface
from modeling_aver.features.pyfeat import read_felt
from modeling_aver.features.tables import read_features, read_header, write_features
from modeling_aver.io.archives import find_members
from modeling_aver.io.media import read_audio, read_timestamps
from modeling_aver.training.arguments import parse_arguments
from modeling_aver.training.feature_cache import FeatureCache, clip_key

EVERY_DAY, MANY = 12, 120
LONGEST = 700  # characters of a line that a person still reads
TRACK = read_openface(SAMPLE_DIR / "OpenFace" / "1001_DFA_ANG_XX.csv")
OPENFACE = (SAMPLE_DIR / "OpenFace" / "1001_DFA_ANG_XX.csv").read_bytes()
FEATURES = b"timestamp,a,b,success\n" + b"".join(b"%.3f,%d,0.5,1\n" % (i / 30, i) for i in range(20))


def fuzzed(many=MANY, **strategies):
    """A test of a few examples every day, and of `many` in the slow stage; its first argument is a folder."""

    def decorate(test):
        def run(tmp_path, examples):
            def one(**drawn):
                test(tmp_path, **drawn)

            options = {"deadline": None, "derandomize": True, "database": None, "max_examples": examples}
            options["phases"] = [Phase.generate]  # smaller examples of random damage say no more, and take minutes
            settings(**options, suppress_health_check=list(HealthCheck))(given(**strategies)(one))()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return pytest.mark.parametrize("examples", [EVERY_DAY, pytest.param(many, marks=pytest.mark.slow)])(run)

    return decorate


def read_or_refused(read, *names):
    """
    What `read()` gives, or `None` where it refuses: in one line that says one of `names`. Whatever else it raises, a
    warning too, fails the test.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read()
        except (ValueError, OSError) as error:
            assert type(error) is not UnicodeDecodeError and any(name in str(error) for name in names), repr(error)
            assert "\n" not in str(error) and len(str(error)) <= LONGEST, repr(error)
    return None


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


def check_track(track):
    if track is None:
        return
    assert len(track.timestamps) == len(track.features) == len(track.success) > 0
    assert np.isfinite(track.timestamps).all() and (np.diff(track.timestamps) >= 0).all()
    assert track.features.dtype == np.float32 and np.isfinite(track.features).all()
    assert track.success.dtype == bool and not track.features[~track.success].any()


# ── tables of features ──────────────────────────────────────────────────────────────────────────────────────────────


@fuzzed(many=400, content=damaged_table(OPENFACE))
def test_a_damaged_table_of_openface_is_a_track_or_one_line(folder, content):
    track = read_or_refused(lambda: read_openface(content, name="clip.csv"), "clip.csv")
    check_track(track)
    assert track is None or track.features.shape[1] == 35


@fuzzed(many=400, content=damaged_table(FEATURES))
def test_a_damaged_table_of_features_is_a_track_or_one_line(folder, content):
    check_track(read_or_refused(lambda: read_features(written(folder, "clip.csv", content)), "clip.csv"))


def saved(name, save):
    """The bytes of a file that `save` writes to the path that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def packed(suffix):
    return saved(f"clip{suffix}", lambda path: write_features(path, TRACK, {"file": "clip.flv"}))


@fuzzed(many=300, content=damaged_bytes(packed(".npz"), tail=400))
def test_a_damaged_npz_is_a_track_or_one_line(folder, content):
    path = written(folder, "clip.npz", content)
    check_track(read_or_refused(lambda: read_features(path), "clip.npz"))
    read_or_refused(lambda: read_header(path), "clip.npz")


@fuzzed(many=300, content=damaged_bytes(packed(".parquet"), tail=6000))
def test_a_damaged_parquet_file_is_a_track_or_one_line(folder, content):
    path = written(folder, "clip.parquet", content)
    check_track(read_or_refused(lambda: read_features(path), "clip.parquet"))
    read_or_refused(lambda: read_header(path), "clip.parquet")


FELT = b"frame,FaceScore,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,AU01,AU02\n" + b"".join(
    b"%d,0.9,1,2,30,40,0.5,0.25\n" % frame for frame in range(12)
)


@fuzzed(content=damaged_table(FELT))
def test_a_damaged_table_of_py_feat_is_a_track_or_one_line(folder, content):
    check_track(read_or_refused(lambda: read_felt(content, "clip.csv"), "clip.csv"))


# ── corpora ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def zip_of_tables():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Actor_01/a.csv", OPENFACE)
        archive.writestr("b.csv", FEATURES)
    return file.getvalue()


@fuzzed(many=400, content=damaged_bytes(zip_of_tables(), tail=200))
def test_a_damaged_zip_gives_files_or_one_line(folder, content):
    path = written(folder, "audio.zip", content)
    members = read_or_refused(lambda: find_members(path, {".csv"}), "audio.zip")
    for member in members or []:
        read_or_refused(member.read, "audio.zip")


DEMOGRAPHICS = b'"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
PERCEIVED = (
    b"FileName,VoiceVote,VoiceLevel,FaceVote,FaceLevel,MultiModalVote,MultiModalLevel\n"
    b"1001_DFA_ANG_XX,A,50,A,50,A,50\n1002_TIE_SAD_XX,S,50,N,50,S:N,50:40\n"
)
OWN = b"file,label,speaker,split\na.wav,joy,anna,train\nb.wav,calm,ben,test\nc.wav,joy,carl,validation\n"


@fuzzed(people=damaged_table(DEMOGRAPHICS), votes=damaged_table(PERCEIVED), own=damaged_table(OWN))
def test_damaged_tables_of_a_corpus_are_read_or_named(folder, people, votes, own):
    for read, content in ((read_demographics, people), (read_perceived, votes), (read_clips_table, own)):
        path = written(folder, "table.csv", content)
        read_or_refused(lambda read=read, path=path: read(path), "table.csv")


RECORDED = {
    "corpus": "clips",
    "counts": {"all": {"train": {"clips": 1, "speakers": 1, "emotions": {"joy": 1}}}},
    "files": {"all": {"train": ["data/a.parquet"]}},
    "left_out": {},
    "warnings": {},
    "extractors": {},
    "known_bad": {},
}


@fuzzed(content=damaged_bytes(json.dumps(RECORDED).encode()))
def test_a_damaged_record_of_a_build_is_read_or_named(folder, content):
    written(folder, RECORD, content)
    read_or_refused(lambda: Build.read(folder), RECORD)


@fuzzed(many=80, content=damaged_bytes(CLIPS[3].read_bytes()[:60_000]))
def test_a_damaged_recording_is_decoded_or_named(folder, content):
    path = written(folder, "clip.flv", content)
    sound = read_or_refused(lambda: read_audio(path), "clip.flv")
    assert sound is None or (sound.dtype == np.float32 and np.isfinite(sound).all())
    read_or_refused(lambda: read_timestamps(path), "clip.flv")


# ── models and processors ───────────────────────────────────────────────────────────────────────────────────────────

CONFIG = json.loads(aver_config(feature_identity={"name": "openface"}, audio_layers=[1]).to_json_string())
OWN_KEYS = {name for name in AverConfig.__annotations__ if name in CONFIG} | {"dtype", "id2label", "label2id"}


@fuzzed(many=400, change=changed_json(CONFIG, OWN_KEYS))
def test_a_configuration_of_odd_values_builds_a_model_or_names_the_key(folder, change):
    path, values = change
    config = read_or_refused(lambda: AverConfig.from_dict(values), path[-1], path[0])
    if config is None or max_size(config) > 10**6:
        return
    with torch.device("meta"):  # shapes alone
        read_or_refused(lambda: AverForEmotionClassification(config), path[-1], *_OF_TORCH)


# torch's and transformers' own words about sizes and shares that do not go together.
_OF_TORCH = ("divisible", "dropout probability", "must be", "expected")


def max_size(config):
    numbers = [*config.to_dict().values(), *config.audio_config.to_dict().values()]
    return max(abs(number) for number in numbers if isinstance(number, int))


EXTRACTOR = {
    **AverFeatureExtractor.from_config(aver_config(feature_identity={"name": "openface"})).to_dict(),
    "action_unit_mean": [0.5] * 7,
    "action_unit_std": [1.0] * 7,
    "audio_identity": "wav2vec2",
}
SPEECH, FACE = np.zeros(4000, np.float32), np.zeros((8, 7))


@fuzzed(many=400, change=changed_json(EXTRACTOR, EXTRACTOR.keys() - {"feature_extractor_type"}))
def test_a_processor_of_odd_values_prepares_a_clip_or_names_the_value(folder, change):
    path, values = change
    extractor = read_or_refused(lambda: AverFeatureExtractor.from_dict(values), *path, "action units")
    if extractor is None:
        return
    rate = values["sampling_rate"]
    named = (*path, "num_action_units", "action_units", "sampling_rate", "sampling rate")
    batch = read_or_refused(lambda: extractor(SPEECH, FACE, sampling_rate=rate), *named)
    assert batch is None or all(np.isfinite(np.asarray(values, float)).all() for values in batch.values())


PROFILE = SpeakerProfile(*(make(7) for make in (np.zeros, np.ones)), *(make((1, 24)) for make in (np.zeros, np.ones)))


@fuzzed(many=400, content=damaged_bytes(saved("anna.safetensors", PROFILE.save)))
def test_a_damaged_profile_is_a_profile_or_one_line(folder, content):
    path = written(folder, "anna.safetensors", content)
    profile = read_or_refused(lambda: SpeakerProfile.load(path), "anna.safetensors")
    assert profile is None or np.isfinite(profile.action_unit_mean).all()


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────────

RECIPE = {
    "dataset_name": "crema_d",
    "output_dir": "runs/x",
    "seed": 3,
    "learning_rate": 1e-4,
    "fold": "all",
    "bf16": False,
}


def parsed(path):
    """The arguments; argparse ends a command with a line of its own."""
    try:
        return parse_arguments([str(path)])
    except SystemExit as error:
        assert error.code == 2
        return None


@fuzzed(many=120, change=changed_json(RECIPE), content=damaged_bytes(yaml.safe_dump(RECIPE).encode()))
def test_an_odd_recipe_is_parsed_or_refused_in_one_line(folder, change, content):
    path, values = change
    for recipe in (yaml.safe_dump(values).encode(), content):
        recipe = written(folder, "recipe.yaml", recipe)
        read_or_refused(lambda recipe=recipe: parsed(recipe), "recipe.yaml", "The arguments cannot be used", *path)


PREDICTIONS = made_up_predictions().to_csv(index=False).encode()


@fuzzed(many=300, content=damaged_table(PREDICTIONS))
def test_damaged_predictions_are_a_table_or_one_line(folder, content):
    table = read_or_refused(lambda: read_predictions(written(folder, "predictions.csv", content)), "predictions.csv")
    assert table is None or (len(table) and table["utterance_id"].is_unique)


@fuzzed(many=80, data=st.data())
def test_a_damaged_run_is_read_or_named(folder, data):
    whole, run = folder / "whole", folder / "run"
    if not whole.exists():
        made_up_run(whole)
    shutil.copytree(whole, run, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.py"))
    name = data.draw(st.sampled_from(["results.json", "trainer_state.json", "processor_config.json", "config.json"]))
    content = (run / name).read_bytes()
    if data.draw(st.booleans()):
        content = json.dumps(data.draw(changed_json(json.loads(content)))[1]).encode()
    else:
        content = data.draw(damaged_bytes(content))
    read_or_refused(lambda: FinishedRun.read(written(run, name, content).parent), str(run), "onfig", "`")


@functools.cache
def _encoder():
    return AverForEmotionClassification(aver_config()).aver


EXTRACTING = AverFeatureExtractor.from_config(aver_config())


@fuzzed(many=150, data=st.data())
def test_a_damaged_feature_cache_gives_right_frames_or_none(folder, data):
    model = _encoder()
    row = {"utterance_id": "a", "audio": {"bytes": b"sound", "path": None}}
    frames = torch.arange(6.0).reshape(3, 1, 2)
    good = folder / "good"
    cache = FeatureCache(good, model, EXTRACTING)
    if not len(cache):
        cache.write({clip_key(row): frames})
    shutil.rmtree(folder / "bad", ignore_errors=True)
    shutil.copytree(good, folder / "bad")
    (file,) = (folder / "bad").rglob("*.safetensors")
    file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    cache = FeatureCache(folder / "bad", model, EXTRACTING)
    if clip_key(row) in cache:
        found = read_or_refused(lambda: cache.frames(row), "feature cache")
        assert found is None or torch.equal(found, frames)
