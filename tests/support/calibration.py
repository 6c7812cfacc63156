"""Training with speaker profiles."""

import pytest
import yaml
from support.feature_cache import FROZEN

ROWS = [
    *("anger,anna,train", "sad,ben,train", "anger,ben,train", "sad,anna,train"),
    *("anger,cleo,test", "sad,cleo,test"),
]


@pytest.fixture
def recipe(tmp_path, own_clips):
    path = tmp_path / "calibrated.yaml"
    values = {**FROZEN, "eval_split": "test", "dataset_name": own_clips(*ROWS), "speaker_profiles": "unlabelled"}
    path.write_text(yaml.safe_dump({**values, "action_units_folder": "OpenFace", "output_dir": str(tmp_path / "run")}))
    return path
