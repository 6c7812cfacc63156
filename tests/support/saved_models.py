"""Small saved models whose answers depend on what they see, and the tables of the sample clips."""

from support.models import aver_config, aver_model

from datasets_scripts import SAMPLE_DIR
from modeling_aver import AverProcessor
from modeling_aver.features.openface_csv import ACTION_UNITS

VIDEOS, TABLES, SOUNDS = (SAMPLE_DIR / name for name in ("VideoFlash", "OpenFace", "AudioWAV"))


BRIGHTNESS = {"name": "brightness", "settings": {"corner": 4}, "columns": ["mean", "corner"]}


OPENFACE = {"name": "openface", "settings": {}, "columns": list(ACTION_UNITS)}


def saved(folder, seed=0, **values):
    config = aver_config(**values)
    aver_model(config, seed).save_pretrained(folder)
    AverProcessor.from_config(config).save_pretrained(folder)
    return str(folder)
