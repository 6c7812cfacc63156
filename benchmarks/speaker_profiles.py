"""
How many clips does a speaker profile need, and what do clips of one mood make of it?

Takes trained runs, scores their test speakers again with profiles made of some of these speakers' clips, and compares
with no profile at all and with the profile of all their clips. Nothing is trained. Labels choose the unbalanced sets,
and count what is right; a profile never sees them.

- `random`: n clips of each test speaker, drawn anew `--draws` times; a larger set contains the smaller ones.
- `one emotion`: eight clips of one emotion (all, of a rare one), for each emotion in turn.
- `mostly one emotion`: these eight and two of other emotions.

Every clip of a test speaker is scored, those in the profile too; `held out` counts only the others. Accuracies are the
mean over the folds of a seed; their spread is over draws (emotions) and seeds.

It also measures, on the training speakers of the first run, how much the means of single clips differ within people
and between them. The variance within over that between is the number of clips at which the mean of a person's own
clips and the mean of everybody deserve the same weight: the package's `PRIOR_CLIPS`.

    python benchmarks/speaker_profiles.py RUN … --data-dir DATA --action-units-folder FOLDER --feature-cache-dir CACHE

RUN is a folder of `train_hf.py`, or of its folds and seeds.
"""

import json
import platform
import sys
import tempfile
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from transformers import AutoModel, AutoProcessor

import train_hf
from modeling_aver.evaluation.results import PROTOCOLS
from modeling_aver.evaluation.run_folder import portable_results
from modeling_aver.training.arguments import DataArguments
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.encoding import fill_cache
from modeling_aver.training.feature_cache import FeatureCache
from modeling_aver.training.speaker_statistics import PRIOR_CLIPS, estimate_profile

SIZES = (1, 3, 5, 10, 30)
FEW, OTHERS = 8, 2  # clips of the one emotion, and of the others beside them
BATCH = 16
NAME = "speaker_profiles"


def find_runs(folders):
    """Folders of single runs, among those given and below them; in order."""
    found = []
    for folder in folders:
        below = [
            path for path in sorted(folder.rglob("results.json")) if (path.parent / "model.safetensors").is_file()
        ]
        if not below:
            raise ValueError(f"{folder} holds no finished run: no results.json beside a model.safetensors.")
        found += [path.parent for path in below]
    return found


def choose_sets(speakers, labels, sizes, draws):
    """
    The sets of clips that profiles are made of.

    Args:
        speakers (`list[str]`), labels (`list[int]`): Of the scored clips.
        sizes (`Iterable[int]`), draws (`int`): Of the random sets.

    Yields:
        `tuple`: kind, number of clips (of most speakers), draw or emotion, and the clips' indices by speaker; `None`
        for no profile.
    """
    clips = defaultdict(list)
    for index, speaker in enumerate(speakers):
        clips[speaker].append(index)
    most = max(map(len, clips.values()))
    yield "none", 0, 0, None
    yield "all", most, 0, dict(clips)
    for draw in range(draws):
        order = {name: shuffled(own, draw, number) for number, (name, own) in enumerate(sorted(clips.items()))}
        for size in (size for size in sizes if size < most):
            yield "random", size, draw, {name: own[:size] for name, own in order.items()}
    for emotion in sorted(set(labels)):
        order = {name: shuffled(own, emotion, number) for number, (name, own) in enumerate(sorted(clips.items()))}
        of_it = {name: [clip for clip in own if labels[clip] == emotion][:FEW] for name, own in order.items()}
        rest = {name: [clip for clip in own if labels[clip] != emotion][:OTHERS] for name, own in order.items()}
        if not all(of_it.values()):
            continue  # somebody never shows it
        mostly = {name: of_it[name] + rest[name] for name in clips}
        yield "one emotion", max(map(len, of_it.values())), emotion, of_it
        yield "mostly one emotion", max(map(len, mostly.values())), emotion, mostly


def shuffled(clips, draw, speaker):
    return np.random.default_rng([draw, speaker]).permutation(clips).tolist()


def ratio_of_variances(values, speakers):
    """
    Variance within people over variance between them, pooled over channels of one scale.

    Args:
        values (`np.ndarray` of shape `(num_clips, num_channels)`): One value a clip, such as its mean.
        speakers (`list[str]`): Whose.
    """
    groups = [values[np.array(speakers) == name] for name in sorted(set(speakers))]
    sizes = np.array([len(group) for group in groups])
    scatter = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups)
    within = scatter / (sizes.sum() - len(groups))
    means = np.stack([group.mean(axis=0) for group in groups])
    between = np.maximum(means.var(axis=0, ddof=1) - within * (1 / sizes).mean(), 0.0)
    total = within + between
    moves = total > 1e-12
    return float((within[moves] / total[moves]).sum() / (between[moves] / total[moves]).sum())


class Run:
    """
    A trained run with its clips.

    Args:
        folder (`Path`)
        cache_dir (`str`): Of a feature cache.
        places (`dict`): `data_dir` and `action_units_folder`, which results do not hold.
        prior_clips (`float`): Of the profiles, see [`estimate_profile`].
    """

    def __init__(self, folder, cache_dir, places, prior_clips):
        self.prior_clips = prior_clips
        self.results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        self.folder, self.fold = folder, self.results["dataset"].get("dataset_config_name")
        self.protocol = PROTOCOLS[self.results["dataset"].get("speaker_profiles", "none")]
        self.clips = train_hf.load_splits(DataArguments(**{**self.results["dataset"], **places}))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval().to(device)
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        self.cache = FeatureCache(cache_dir, self.model.base_model, self.processor.feature_extractor)
        self.rows = self.read(self.clips.scored)

    def read(self, dataset):
        """Every row of a dataset, whose sound is encoded now if it was not before."""
        fill_cache(self.cache, self.model.base_model, self.processor, [dataset])
        return list(dataset)

    @torch.inference_mode()
    def right(self, chosen):
        """Whether each scored clip is answered right, with profiles of the `chosen` clips: `(num_clips,)` bool."""
        profiles = None
        if chosen is not None:
            known = {speaker: self.profile([self.rows[clip] for clip in clips]) for speaker, clips in chosen.items()}
            profiles = {row["utterance_id"]: known[row["speaker_id"]] for row in self.rows}
        collator, answers = AverDataCollator(self.processor, self.cache, profiles), []
        for start in range(0, len(self.rows), BATCH):
            batch = collator(self.rows[start : start + BATCH])
            batch.pop("labels", None)
            answers += self.model(**batch.to(self.model.device)).logits.argmax(dim=-1).tolist()
        return np.array(answers) == [row["label"] for row in self.rows]

    def profile(self, rows):
        return estimate_profile(self.model, self.processor, rows, self.cache, self.prior_clips)

    def ratios(self):
        """`dict`: [`ratio_of_variances`] of the means of the training clips, for action units and audio frames."""
        faces, voices = defaultdict(list), defaultdict(list)
        for row in self.read(self.clips.train):
            found = np.array(row["action_units_success"] or [], bool)
            if found.any():
                faces[row["speaker_id"]].append(np.array(row["action_units"])[found].mean(axis=0))
            if (frames := self.cache.frames(row)) is not None:
                voices[row["speaker_id"]].append(frames.double().mean(dim=0).flatten().numpy())
        streams = {"action_units": faces, "audio": voices}
        return {name: _ratio(stream) for name, stream in streams.items() if len(stream) > 1}


def _ratio(stream):
    speakers = [name for name, clips in stream.items() for _ in clips]
    return ratio_of_variances(np.stack([clip for clips in stream.values() for clip in clips]), speakers)


def score_all(run, sizes, draws):
    """`list[dict]`: what each set of clips does to a run's accuracy."""
    labels = [row["label"] for row in run.rows]
    speakers = [row["speaker_id"] for row in run.rows]
    lines = []
    for kind, size, draw, chosen in track(list(choose_sets(speakers, labels, sizes, draws)), run.folder.name):
        right = run.right(chosen)
        used = set() if chosen is None else {clip for clips in chosen.values() for clip in clips}
        others = [bool(value) for clip, value in enumerate(right) if clip not in used]
        line = {"seed": run.results["seed"], "fold": run.fold, "profile": kind, "clips": size, "draw": draw}
        lines.append(line | {"accuracy": float(right.mean()), "held_out": float(np.mean(others)) if others else None})
    return lines


def summarize(lines):
    """Rows of the table: of each kind and size, mean and spread over draws and seeds of the mean of the folds."""
    folds = defaultdict(list)
    for line in lines:
        folds[line["profile"], line["clips"], line["seed"], line["draw"]].append(line)
    means = defaultdict(list)
    for (kind, size, _, _), some in folds.items():
        held_out = [line["held_out"] for line in some if line["held_out"] is not None]
        means[kind, size].append((np.mean([line["accuracy"] for line in some]), np.mean(held_out or [np.nan])))
    return [
        {
            "profile": kind,
            "clips": size,
            "accuracy": float(np.mean([accuracy for accuracy, _ in values])),
            "std": float(np.std([accuracy for accuracy, _ in values], ddof=1)) if len(values) > 1 else None,
            "held_out": None if np.isnan(values[0][1]) else float(np.mean([other for _, other in values])),
            "sets": len(values),
        }
        for (kind, size), values in sorted(means.items(), key=lambda item: (_ORDER.index(item[0][0]), item[0][1]))
    ]


_UNBALANCED = {"one emotion": "s", "mostly one emotion": "^"}  # with their markers in the picture
_ORDER = ("none", "random", "all", *_UNBALANCED)


def write_markdown(results, path):
    lines = [
        "# Speaker profiles of few clips, and of one mood",
        "",
        "| profile made of | clips | accuracy, % | spread | on clips outside it, % |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in results["rows"]:
        spread, held_out = (_percent(row[name]) for name in ("std", "held_out"))
        lines.append(f"| {row['profile']} | {row['clips']} | {_percent(row['accuracy'])} | {spread} | {held_out} |")
    ratios = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in results["ratios"].items())
    lines += [
        "",
        f"    {results['command']}",
        "",
        f"{len(results['runs'])} runs, trained {results['protocol']}. Mean of the folds, averaged over seeds and "
        "draws (emotions, where clips are of one); the spread is the standard deviation over these. `none`: no "
        "profile, the statistics of the training clips. All clips of the test speakers are scored.",
        "",
        f"Variance of clip means within people over that between them, on the training speakers of the first run: "
        f"{ratios}. The prior weighs as {results['prior_clips']:g} clips.",
        "",
        f"What is compared is described in `benchmarks/{NAME}.py`; all numbers are in `{NAME}.json`.",
        "",
        f"{results['date']}, torch {results['torch']}, transformers {results['transformers']}, {results['machine']}.",
        "",
        f"![Accuracy by number of clips]({NAME}.png)",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _percent(value):
    return "" if value is None else f"{100 * value:.2f}"


def draw_curve(results, path):
    """Accuracy over the number of clips, with the unbalanced sets beside it."""
    from matplotlib.figure import Figure  # here, so that the rest can be imported without the `plot` extra

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = {kind: [row for row in results["rows"] if row["profile"] == kind] for kind in _ORDER}
    curve = rows["random"] + rows["all"]
    axes.errorbar(*_points(curve), color="#1f6f8b", marker="o", capsize=3, label="random clips")
    for kind, marker in _UNBALANCED.items():
        axes.errorbar(*_points(rows[kind]), color="#e07a2f", marker=marker, capsize=3, linestyle="", label=kind)
    for row in rows["none"]:
        axes.axhline(100 * row["accuracy"], color="black", linewidth=0.8, linestyle="--", label="no profile")
    axes.set_xscale("log")
    ticks = sorted({row["clips"] for row in curve})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("clips in the profile")
    axes.set_ylabel("accuracy, %")
    axes.set_title("Speaker profiles: how many clips, and which (spread: one standard deviation)")
    axes.legend()
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def _points(rows):
    """Numbers of clips, accuracies and spreads, the last two in %."""
    spreads = [100 * (row["std"] or 0.0) for row in rows]
    return [row["clips"] for row in rows], [100 * row["accuracy"] for row in rows], spreads


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of train_hf.py.")],
    data_dir: Annotated[str | None, typer.Option(help="The corpus's folder, as in training.")] = None,
    action_units_folder: Annotated[str | None, typer.Option(help="As in training.")] = None,
    feature_cache_dir: Annotated[str | None, typer.Option(help="As in training; without it, encoded anew.")] = None,
    sizes: Annotated[str, typer.Option(help="Clips in random sets.")] = ",".join(map(str, SIZES)),
    draws: Annotated[int, typer.Option(min=1, help="Random sets of each size.")] = 10,
    prior_clips: Annotated[float, typer.Option(min=0, help="Weight of training in a profile.")] = PRIOR_CLIPS,
    out: Annotated[Path, typer.Option(help="Folder for table, picture and numbers.")] = Path("benchmarks/results"),
):
    """Scores trained runs again with profiles of few or unbalanced clips."""
    folders = find_runs(runs)
    places = {"data_dir": data_dir, "action_units_folder": action_units_folder}
    places = {name: value for name, value in places.items() if value is not None}
    lines, ratios, protocols = [], {}, set()
    with tempfile.TemporaryDirectory() as temporary:
        for folder in folders:
            run = Run(folder, feature_cache_dir or temporary, places, prior_clips)
            protocols.add(run.protocol)
            ratios = ratios or run.ratios()
            lines += score_all(run, [int(size) for size in sizes.split(",")], draws)
    results = {
        "command": portable_results({"command": f"python {' '.join(sys.argv)}", "dataset": {}})["command"],
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "protocol": " and ".join(sorted(protocols)),
        "prior_clips": prior_clips,
        "ratios": ratios,
        "runs": [folder.name for folder in folders],
        "rows": summarize(lines),
        "lines": lines,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{NAME}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_markdown(results, out / f"{NAME}.md")
    draw_curve(results, out / f"{NAME}.png")
    Console().print((out / f"{NAME}.md").read_text(encoding="utf-8"), markup=False, highlight=False)


if __name__ == "__main__":
    typer.run(main)
