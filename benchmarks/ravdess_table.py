"""
Brings finished runs on RAVDESS together: `model_cards/ravdess_whisper_tiny`, with every fold of every seed.

    python benchmarks/ravdess_table.py RUNS [--out model_cards/ravdess_whisper_tiny]

RUNS holds `plain` and `calibrated`, each what `aver reproduce table2 ravdess_cached` and `train_hf.py --streams` write
(the commands stand in the card). The two protocols have tables of their own: in the second, each clip is standardized
by its speaker's other clips, test speakers included, without labels.
"""

import argparse
import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

ROWS = {
    "audio": "audio alone",
    "video": "action units alone",
    "concat": "Concat",
    "isa+isa": "ISA + ISA",
    "ica+ica": "ICA + ICA",
    "isa+ica": "ISA + ICA",
    "ica+isa": "ICA + ISA",
    "msa+msa": "MSA + MSA",
    "msa+msa+ctm": "MSA + MSA with CTM (the paper's model)",
}
PLACES = {"msa+msa+ctm": "msa+msa_tarope_ctm"}  # the other fusions are without CTM, as in Table 2
# Mean of the five folds, %: others' published numbers on the same folds (reference [2] of the paper; the paper).
PUBLISHED = {
    "audio alone: xlsr fine-tuned (315 M), published by [2]": 81.82,
    "frames of action units alone: bi-LSTM, published by [2]": 62.13,
    "late fusion of these two, published by [2]": 86.70,
    "the paper: xlsr fine-tuned, frames of action units, TaRoPE, CTM": 89.25,
}
TITLES = {
    "plain": "Without profiles: the usual protocol",
    "calibrated": "With speaker profiles: calibrated on each speaker's own unlabelled clips",
}
COMMANDS = """\
python benchmarks/ravdess_clip_means.py MEANS.csv ravdess --out ravdess/clip_means
F="--data_dir ravdess --action_units_folder clip_means --audio_model_name_or_path openai/whisper-tiny"
aver reproduce table2 ravdess_cached --seeds 3 --out plain $F
aver reproduce table3 ravdess_cached --seeds 1 --out plain $F
aver reproduce table3 ravdess_cached --seeds 3 --out plain --only tarope+ctm $F
R=modeling_aver/training/recipes/ravdess_cached.yaml
python train_hf.py $R --seeds 3 --ctm_loss_weight 0 --streams audio --output_dir plain/audio $F
python train_hf.py $R --seeds 3 --ctm_loss_weight 0 --streams video --audio_normalization none \\
  --output_dir plain/video $F
aver reproduce table2 ravdess_cached --seeds 3 --out calibrated --only msa+msa,ica+ica,concat \\
  --speaker_profiles unlabelled $F
python benchmarks/ravdess_svm.py ravdess --action_units_folder ravdess/clip_means
python benchmarks/speaker_profiles.py calibrated/ica+ica*/seed_42/fold_* --data-dir ravdess \\
  --action-units-folder clip_means --feature-cache-dir feature_cache
python benchmarks/ravdess_table.py ."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--svm", type=Path, default=Path("benchmarks/results/ravdess_svm.json"))
    parser.add_argument("--out", type=Path, default=Path("model_cards/ravdess_whisper_tiny"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "predictions").mkdir(exist_ok=True)
    svm = json.loads(arguments.svm.read_text())["rows"]
    results = {protocol: read_rows(arguments.runs / protocol, arguments.out) for protocol in TITLES}
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for table in ("plain/table2", "plain/table3", "calibrated/table2"):
        for suffix in ("md", "csv", "tex"):
            shutil.copy(arguments.runs / f"{table}.{suffix}", arguments.out / f"{table.replace('/', '_')}.{suffix}")
    draw(results, svm, arguments.out / "ravdess.png")
    (arguments.out / "README.md").write_text(card(results, svm), encoding="utf-8")


def read_rows(folder, out):
    """By row: accuracy of each fold of each seed; writes each clip's answers of all seeds as one table."""
    rows = {}
    for name in ROWS:
        for place in filter(Path.is_dir, (folder / name, folder / PLACES.get(name, f"{name}_tarope_no-ctm"))):
            seeds = {path.name.removeprefix("seed_"): path for path in sorted(place.glob("seed_*"))}
            seeds = {seed: path for seed, path in seeds.items() if (path / "results.json").is_file()}
            if not seeds:
                continue
            found = {seed: json.loads((path / "results.json").read_text()) for seed, path in seeds.items()}
            rows[name] = {
                "folds": {seed: [fold["war"] for fold in result["folds"].values()] for seed, result in found.items()},
                "pooled": {seed: result["pooled"] for seed, result in found.items()},
                "ensemble_folds": ensemble_of(seeds),
                "uar": {seed: result["metrics"]["eval_uar"] for seed, result in found.items()},
                "parameters": next(iter(found.values()))["num_parameters"],
                "trained_parameters": next(iter(found.values()))["num_trainable_parameters"],
                "versions": next(iter(found.values()))["versions"],
                "hardware": next(iter(found.values()))["hardware"],
            }
            write_answers(seeds, out / "predictions" / f"{folder.name}_{name}.csv")
    return rows


def ensemble_of(seeds):
    """Accuracy of each fold where the seeds' probabilities are averaged: as many models as seeds, not one."""
    tables = [
        pd.read_csv(place / "predictions.csv", dtype={"speaker_id": str}).set_index("utterance_id")
        for place in seeds.values()
    ]
    first, columns = tables[0], [name for name in tables[0] if name.startswith("p_")]
    mean = sum(table[columns].loc[first.index] for table in tables)
    right = mean.idxmax(axis=1).str.removeprefix("p_") == first["label"]
    return right.groupby(first["fold"]).mean().tolist()


def write_answers(seeds, path):
    tables = {
        seed: pd.read_csv(place / "predictions.csv", dtype={"speaker_id": str}).set_index("utterance_id")
        for seed, place in seeds.items()
    }
    first = next(iter(tables.values()))
    answers = first[["speaker_id", "fold", "label"]].copy()
    for seed, table in tables.items():
        answers[f"seed_{seed}"] = table["prediction"].loc[answers.index]
    answers.to_csv(path)


def lines_of(rows):
    for name, title in ROWS.items():
        if name not in rows:
            yield [title, "not yet run", *[""] * 10]
            continue
        row = rows[name]
        folds = 100 * np.array(list(row["folds"].values()))
        means = folds.mean(axis=1)
        spread = f" ± {means.std(ddof=1):.2f}" if len(means) > 1 else ""
        pooled = 100 * np.mean([scores["war"] for scores in row["pooled"].values()])
        uar = 100 * np.mean(list(row["uar"].values()))
        cells = [f"{value:.2f}" for value in folds.mean(axis=0)]
        trained = f"{row['trained_parameters'] / 1e6:.2f} M"
        together = f"{100 * np.mean(row['ensemble_folds']):.2f}" if len(means) > 1 else ""
        scores = [f"**{means.mean():.2f}**{spread}", str(len(means)), together, f"{pooled:.2f}", f"{uar:.2f}"]
        yield [title, *scores, *cells, trained]


def table(rows):
    head = [
        "input, fusion",
        "accuracy, %",
        "seeds",
        "ensemble",
        "pooled",
        "UAR",
        *(f"fold {n}" for n in range(1, 6)),
        "trained",
    ]
    lines = [head, ["---"] * len(head), *lines_of(rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def baselines(svm, protocol):
    lines = ["| to be beaten, mean of the same five folds | accuracy, % |", "| --- | --- |"]
    for name, row in svm.items():
        if name.startswith(f"{protocol}, "):
            lines.append(f"| support vector machine, {name.partition(', ')[2]} | {100 * row['mean']:.2f} |")
    published = PUBLISHED if protocol == "plain" else {}
    return "\n".join([*lines, *(f"| {name} | {value:.2f} |" for name, value in published.items())])


def card(results, svm):
    parts = [Path(__file__).with_name("ravdess_card.md").read_text(encoding="utf-8")]
    for protocol, title in TITLES.items():
        parts += [f"## {title}\n", table(results[protocol]) + "\n", baselines(svm, protocol) + "\n"]
    versions = next(row for rows in results.values() for row in rows.values())
    facts = ", ".join(f"{name} {version}" for name, version in versions["versions"].items())
    commands = f"<!-- not run: needs RAVDESS and an hour -->\n```bash\n{COMMANDS}\n```\n"
    parts += ["## Commands\n", commands, f"{versions['hardware']}; {facts}.\n"]
    return "\n".join(parts)


def draw(results, svm, path):
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), constrained_layout=True)
    for axis, (protocol, rows) in zip(axes, results.items(), strict=True):
        names = [name for name in ROWS if name in rows]
        for place, name in enumerate(names):
            means = [100 * np.mean(folds) for folds in rows[name]["folds"].values()]
            axis.plot(np.mean(means), place, "|", color="#0072B2", markersize=16)
            axis.plot(means, [place] * len(means), "o", color="#0072B2", markersize=5, alpha=0.6)
        best = max((row["mean"], name) for name, row in svm.items() if name.startswith(protocol))
        axis.axvline(100 * best[0], color="#D55E00", linestyle="--", label=f"SVM {100 * best[0]:.2f}")
        if protocol == "plain":
            axis.axvline(86.70, color="#009E73", linestyle=":", label="[2]: xlsr 315 M, frames of AUs 86.70")
        axis.set_yticks(range(len(names)), [ROWS[name] for name in names])
        axis.set(ylim=(len(names) - 0.4, -0.6), xlabel="accuracy, mean of five folds, %", title=protocol)
        axis.grid(axis="x", alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
