"""Figure 3 of trained runs: whether the CTM loss makes both streams move together, in one clip and in all."""

from pathlib import Path
from typing import NamedTuple

import datasets
import pandas as pd
from torch.utils.data import DataLoader

import train_hf

from ..analysis.dynamics import feature_dynamics, plot_feature_dynamics, plot_sign_agreements
from ..evaluation.bootstrap import LEVEL, clustered_mean_interval
from ..evaluation.cross_validation import plan_runs
from ..io.atomic import write_whole
from ..modeling_aver import AverForEmotionClassification
from ..processing_aver import AverProcessor
from ..training.arguments import AverTrainingArguments, parse_arguments
from ..training.collation import AverDataCollator
from ..training.speaker_statistics import profiles_of_clips

AGREEMENTS = "sign_agreement.csv"  # of a run, beside its results
PAPERS_CLIP = "1087_MTIANG_XX"  # section 3.5
NAMES = {"tarope": "without CTM", "tarope+ctm": "with CTM"}
_NOTHING = (
    "No picture: in no scored clip do both streams last two moments together. Figure 3 takes a row of features for "
    "each video frame."
)
_KEYS = ["utterance_id", "speaker_id", "label", "seed"]


def draw_figure3(plan, clip=None):
    """
    Draws both parts of Figure 3 from the seeds that both rows have finished.

    Args:
        plan ([`Plan`]): Of the experiment `figure3`.
        clip (`str`, *optional*): Utterance id for (a). Defaults to the paper's where it is scored, else to the first.

    Returns:
        `tuple`: the files (`list[Path]`: (a), (b), and a CSV with each clip's agreement), and a sentence that sums
        them up; no file and no sentence (`None`) where a row has no finished run, and a sentence alone where in no
        clip both streams can be compared.

    Raises:
        `ValueError`: if there is no such clip.
    """
    table = agreement_table(plan)
    if table is None:
        return [], None
    if table.empty:
        return [], _NOTHING
    paths = {name: plan.out / name for name in ("figure3a.png", "figure3b.png", "figure3b.csv")}
    write_whole(paths["figure3b.csv"], table.to_csv(index=False))
    _draw_clip(plan, table, clip, paths["figure3a.png"])
    columns = {title: table[title].to_numpy() for title in NAMES.values()}
    clips, seeds = table["utterance_id"].nunique(), table["seed"].nunique()
    each = f", each with {seeds} seeds" if seeds > 1 else ""
    plot_sign_agreements(
        columns, paths["figure3b.png"], title=f"How often both streams move alike: {clips:,} clips{each}"
    )
    return list(paths.values()), _summary(table)


def agreement_table(plan):
    """
    Derivative sign agreement of every scored clip in which both streams can be compared.

    Returns:
        `pd.DataFrame`: a row a clip and seed: `utterance_id`, `speaker_id`, `label`, `seed`, `without CTM` and `with
        CTM` (in [0, 1]); `None` where no seed has both.
    """
    found = {}
    for job in plan.jobs:
        if job.is_finished():
            found.setdefault(job.seed, {})[NAMES[job.row.name]] = job
    both = {seed: jobs for seed, jobs in found.items() if len(jobs) == len(NAMES)}
    if not both:
        return None
    tables = []
    for seed, jobs in both.items():
        columns = {title: run_agreements(jobs[title]).assign(seed=seed).set_index(_KEYS) for title in NAMES.values()}
        tables.append(pd.concat({title: column["agreement"] for title, column in columns.items()}, axis=1))
    return pd.concat(tables).dropna().reset_index()


def run_agreements(job):
    """
    Derivative sign agreement of each clip that a finished job scored, computed once and kept beside its results.

    Returns:
        `pd.DataFrame`: `utterance_id`, `speaker_id`, `label` and `agreement`, which is missing where the streams share
        too little.
    """
    path = job.folder / AGREEMENTS
    if not path.is_file():
        together = pd.concat([part.agreements() for part in _parts(job)])
        write_whole(path, together.to_csv(index=False))
    return pd.read_csv(path, dtype={name: str for name in _KEYS})


def _draw_clip(plan, table, clip, path):
    ids = list(table["utterance_id"])
    clip = clip or (PAPERS_CLIP if PAPERS_CLIP in ids else ids[0])
    if clip not in ids:
        raise ValueError(f"There is no clip {clip} among {len(ids)} clips such as {', '.join(ids[:3])}.")
    seed, panels = table["seed"].iloc[0], {}
    for job in plan.jobs:
        if job.seed == seed:
            one = _dynamics_of(job, clip)
            panels[f"{clip}, {NAMES[job.row.name]}: the streams move alike {one.sign_agreement():.0%} of the time"] = (
                one
            )
    plot_feature_dynamics(panels, path)


class _Part(NamedTuple):
    """What one training of a job scored: a fold, or all."""

    folder: Path
    dataset: datasets.Dataset
    speaker_profiles: str
    training_args: AverTrainingArguments

    def dynamics(self, rows=None):
        """[`FeatureDynamics`] of each scored clip, or of some rows."""
        arguments = self.training_args
        model = AverForEmotionClassification.from_pretrained(self.folder).eval().to(arguments.device)
        processor = AverProcessor.from_pretrained(self.folder, trust_remote_code=False)
        profiles = None
        if self.speaker_profiles != "none":
            profiles = profiles_of_clips(model, processor, self.dataset)
        collate = AverDataCollator(processor, profiles=profiles)
        clips = self.dataset if rows is None else self.dataset.select(rows)
        batches = DataLoader(clips, batch_size=arguments.per_device_eval_batch_size, collate_fn=collate)
        return [one for batch in batches for one in feature_dynamics(model, batch.to(model.device))]

    def agreements(self):
        """See [`run_agreements`]."""
        names = self.dataset.features["label"].names
        agreements = [one.sign_agreement() if len(one.shared_moments()) > 1 else None for one in self.dynamics()]
        columns = {name: self.dataset[name] for name in ("utterance_id", "speaker_id")}
        labels = [names[index] for index in self.dataset["label"]]
        return pd.DataFrame({**columns, "label": labels, "agreement": agreements})


def _dynamics_of(job, clip):
    for part in _parts(job):
        ids = list(part.dataset["utterance_id"])
        if clip in ids:
            return part.dynamics([ids.index(clip)])[0]
    raise ValueError(f"{job.name} scored no clip {clip}.")


def _parts(job):
    """[`_Part`] of each fold, or of the only run."""
    _, data_args, training_args = parse_arguments(job.argv)
    for run in plan_runs(data_args, training_args, train_hf.configurations_of(data_args)):
        _, data_args, training_args = train_hf.arguments_of(run, job.argv)
        yield _Part(run.folder, train_hf.load_splits(data_args).scored, data_args.speaker_profiles, training_args)


def _summary(table):
    without, with_ctm = (table[title] for title in NAMES.values())
    gain = with_ctm - without
    text = (
        f"Derivative sign agreement (chance 0.5), mean of {table['utterance_id'].nunique():,} clips: "
        f"{without.mean():.3f} without CTM, {with_ctm.mean():.3f} with, {gain.mean():+.3f}"
    )
    ends = clustered_mean_interval(gain, table["speaker_id"])
    return text + ("." if ends is None else f" ({LEVEL:.0%} over speakers {ends[0]:+.3f} to {ends[1]:+.3f}).")
