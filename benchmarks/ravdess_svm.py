"""
What a support vector machine makes of RAVDESS, as the baseline that a trained fusion has to beat: means and deviations
over time of whisper-tiny's five hidden states, beside clip means of action units, on reference [2]'s five folds.

    python benchmarks/ravdess_svm.py DATA_DIR --action_units_folder FOLDER --encoder openai/whisper-tiny

Two protocols, never to be mixed: `plain` standardizes by the training speakers, `calibrated` each speaker by the
statistics of their own unlabelled clips, test speakers included. Nothing was chosen here: kernel and gamma
are scikit-learn's defaults, C is 10, and both weights of the action units are printed.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from datasets_scripts import load_ravdess
from modeling_aver import AverConfig, AverForEmotionClassification, AverProcessor
from modeling_aver.training.encoding import fill_cache
from modeling_aver.training.feature_cache import FeatureCache

FOLDS = [f"luna_jimenez_5fold_{fold}" for fold in range(1, 6)]
WEIGHTS = (1.0, 10.0)  # of an action unit beside one of the 3,840 numbers of the voice


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--action_units_folder", required=True)
    parser.add_argument("--encoder", default="openai/whisper-tiny")
    parser.add_argument("--cache", default="feature_cache")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ravdess_svm.json"))
    arguments = parser.parse_args()
    clips, speakers, labels = read_clips(arguments)
    rows = {}
    for protocol in ("plain", "calibrated"):
        for name, streams in streams_of(clips).items():
            folds = [accuracy(streams, labels, speakers, tests, protocol) for tests in test_speakers(arguments)]
            rows[f"{protocol}, {name}"] = {"folds": folds, "mean": float(np.mean(folds))}
            print(f"{protocol:10} {name:28} {100 * np.mean(folds):.2f}")  # noqa: T201
    command = (
        f"python benchmarks/ravdess_svm.py {Path(arguments.data_dir).name} --action_units_folder "
        f"{arguments.action_units_folder} --encoder {arguments.encoder}"
    )
    results = {"command": command, "rows": rows, "date": time.strftime("%Y-%m-%d")}
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def read_clips(arguments):
    """Voice `(N, 3840)` and action units `(N, 35)`, speakers and labels of all clips."""
    dataset = load(arguments, "all")["train"]
    config = AverConfig(audio_layers=list(range(5)), num_action_units=35, audio_config={"model_type": "whisper"})
    model = AverForEmotionClassification.from_audio_pretrained(arguments.encoder, config).aver.eval()
    processor = AverProcessor.from_audio_pretrained(arguments.encoder)
    cache = FeatureCache(arguments.cache, model, processor.feature_extractor, dtype="float16")
    fill_cache(cache, model, processor, [dataset])
    voices, faces = [], []
    for row in dataset:
        frames = cache.frames(row).flatten(1)
        voices.append(torch.cat([frames.mean(dim=0), frames.std(dim=0)]).numpy())
        faces.append(np.mean(row["action_units"], axis=0))
    return {"voice": np.array(voices), "face": np.array(faces)}, np.array(dataset["speaker_id"]), dataset["label"]


def load(arguments, name):
    return load_ravdess(
        arguments.data_dir,
        name=name,
        require_action_units=False,
        action_units_folder=str(Path(arguments.action_units_folder).absolute()),
    )


def test_speakers(arguments):
    return [set(load(arguments, name)["test"]["speaker_id"]) for name in FOLDS]


def streams_of(clips):
    """Inputs by name, each a list of (values, weight)."""
    alone = {"voice alone": [(clips["voice"], 1.0)], "action units alone": [(clips["face"], 1.0)]}
    both = {f"both, action units x {weight:g}": [(clips["voice"], 1.0), (clips["face"], weight)] for weight in WEIGHTS}
    return alone | both


def accuracy(streams, labels, speakers, tests, protocol):
    """Of one fold: accuracy on `tests` (speakers) of a machine trained on the others."""
    is_test, labels = np.isin(speakers, list(tests)), np.array(labels)
    scaled = [weight * scale(values, speakers, is_test, protocol) for values, weight in streams]
    inputs = np.concatenate(scaled, axis=1)
    machine = SVC(C=10, gamma="scale").fit(inputs[~is_test], labels[~is_test])
    return float((machine.predict(inputs[is_test]) == labels[is_test]).mean())


def scale(values, speakers, is_test, protocol):
    if protocol == "plain":
        return StandardScaler().fit(values[~is_test]).transform(values)
    scaled = np.empty_like(values)
    for speaker in np.unique(speakers):
        own = speakers == speaker
        scaled[own] = StandardScaler().fit_transform(values[own])
    return scaled


if __name__ == "__main__":
    main()
