"""
Makes clip means of RAVDESS's action units a dataset of the project: a table of one row a clip, at the middle of its
sound. Reference [2] of the paper published such means ("A proposal for multimodal emotion recognition using aural
transformers and action units on RAVDESS dataset", 2021); no sequence of frames is among them.

    python benchmarks/ravdess_clip_means.py MEANS.csv DATA_DIR --out FOLDER

MEANS.csv has `utterance_id` and OpenFace's 35 columns; DATA_DIR is the folder of RAVDESS's sound, as for `ravdess`
elsewhere. Give FOLDER to train_hf.py as `--action_units_folder`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from rich.progress import track

from modeling_aver.features.base import FaceTrack, FeatureIdentity
from modeling_aver.features.openface_csv import ACTION_UNITS
from modeling_aver.features.tables import write_features

# Not the identity of OpenFace's frames: a mean has other values, and a model must not take one for the other.
IDENTITY = FeatureIdentity("openface", settings={"statistic": "mean of the clip"}, columns=ACTION_UNITS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("means", type=Path)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    means = pd.read_csv(arguments.means, index_col="utterance_id", skipinitialspace=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sounds = {path.stem: path for path in arguments.data_dir.rglob("03-01-*") if path.suffix in (".wav", ".flac")}
    missing = [clip for clip in means.index if _sound_of(clip) not in sounds]
    if missing:
        parser.error(f"{arguments.data_dir} has no sound of {len(missing)} clips, such as {missing[0]}.")
    for clip, values in track(means[list(ACTION_UNITS)].iterrows(), "clips", total=len(means), transient=True):
        middle = soundfile.info(sounds[_sound_of(clip)]).duration / 2
        row = FaceTrack(np.array([middle]), values.to_numpy(np.float32)[None], np.array([True]), IDENTITY)
        write_features(arguments.out / f"{clip}.npz", row)


def _sound_of(clip):
    """A clip is named as its film, 01-01-…; its sound as 03-01-…."""
    return "03" + clip[2:]


if __name__ == "__main__":
    main()
