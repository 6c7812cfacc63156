"""What a run was trained and scored on, in words: corpus, parts, split, and what makes its numbers mean less."""

import re
from pathlib import Path

from datasets_scripts.hub.card import HEADS
from datasets_scripts.splits import load_splits

from ..evaluation.results import NO_VIDEO, PROTOCOLS
from ..evaluation.run_folder import portable_results

CORPORA = {"crema_d": "CREMA-D", "ravdess": "RAVDESS"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class ScoredData:
    """
    What was trained and scored on, and what is known of it.

    Args:
        results (`dict`): `results.json` of a run, or of several folds together.
        predictions (`pd.DataFrame`, *optional*): Of the scored clips; `None` where none was scored.
        training (`dict`): Arguments of the training, as far as they are known.
    """

    def __init__(self, results, predictions, training):
        self.predictions, self.training = predictions, training
        self.trained_on_scored = bool(results["scored_clips_were_trained_on"])
        self.without_action_units = results.get(NO_VIDEO, {})
        self.values = portable_results(results)["dataset"]
        source = self.values["dataset_name"]
        self.head = HEADS.get(source)
        of_hub = self.head is None and HUB_ID.fullmatch(source) and not Path(source).exists()
        self.hub_id = source if of_hub else None
        self.name = CORPORA.get(source, self.hub_id or Path(source).name)
        self.id = source if self.head else self.name
        self.config = self.values.get("dataset_config_name") or "all"
        self.split = self._published_split(source)

    @property
    def part(self):
        """Where the scored clips are."""
        return f"configuration `{self.config}`, part `{self.values.get('eval_split')}`"

    @property
    def protocol(self):
        """Whether speakers had profiles, in words."""
        return PROTOCOLS[self.values.get("speaker_profiles", "none")]

    @property
    def is_calibrated(self):
        return self.protocol != PROTOCOLS["none"]

    @property
    def scored(self):
        return self.predictions is not None

    @property
    def warnings(self):
        """What makes the numbers mean less than they seem to."""
        missing = [self.missing_video] if self.missing_video else []
        if not self.scored:
            return missing
        if self.trained_on_scored:
            return [
                "The clips that were scored are those that the model was trained on. Their scores say nothing about "
                "other clips.",
                *missing,
            ]
        found = [self.split.warning] if self.split is not None and self.split.warning else []
        if self.is_calibrated:
            found.append(f"This run is {self.protocol}: its scores are not to be mixed with those of runs without.")
        if self._chosen_while_training() and self.values["eval_split"] == "validation":
            found.append("The checkpoint was chosen by the clips that it was scored on.")
        return [*found, *missing]

    @property
    def missing_video(self):
        """`str`: how many clips had no action units; empty where all had some, or where none were wanted."""
        bare = {part: counts for part, counts in self.without_action_units.items() if counts["count"]}
        if not bare:
            return ""
        parts = " and ".join(
            f"{some['count']:,} of {some['total']:,} clips of `{part}`" for part, some in bare.items()
        )
        text = f"{parts} have no action units: of these the model had the sound alone."
        if any(2 * some["count"] >= some["total"] for some in bare.values()):
            text += " The scores are those of an audio model, not of an audio-visual one."
        return text

    def _chosen_while_training(self):
        patience = self.training.get("early_stopping_patience")
        return self.training.get("load_best_model_at_end") or patience is not None

    def facts(self):
        """Sentences: corpus, parts, who is on both sides."""
        facts = [f"Corpus: {self.link()}, configuration `{self.config}`."]
        facts.append(f"Trained on `{self.values['train_split']}`{self._at_most('max_train_samples')}.")
        if self.scored:
            speakers = self.predictions["speaker_id"].nunique()
            facts.append(
                f"Scored on `{self.values['eval_split']}`{self._at_most('max_eval_samples')}: "
                f"{len(self.predictions):,} clips of {speakers:,} speaker{'s' if speakers > 1 else ''}."
            )
            facts.append(self._speakers())
        if self.missing_video:
            facts.append(f"**{self.missing_video}**")
        if self.values.get("validation_fraction"):
            facts.append(f"Held out of training: {self.values['validation_fraction']:.0%} of it, as `validation`.")
        if self.split is not None:
            facts.append(f"Split: {self.split.source}; {self.split.citation}.")
        return facts

    def link(self):
        if self.hub_id:
            return f"[{self.hub_id}](https://huggingface.co/datasets/{self.hub_id})"
        homepage = self.head and self.head["homepage"]
        return f"[{self.name}]({homepage})" if homepage else f"`{self.name}`"

    def _speakers(self):
        if self.trained_on_scored:
            return "**Every scored clip was trained on.**"
        if self.split is None:
            return "Whether anybody speaks in training and in scoring alike is not recorded of these clips."
        if self.split.warning:
            return f"**{self.split.warning}**"
        return "Nobody speaks in training and in scoring alike: the published lists were checked."

    def _at_most(self, name):
        count = self.values.get(name)
        return "" if count is None else f" (its first {count:,} clips at most)"

    def _published_split(self, source):
        """The split of that name: of the corpus, or, where a Hub id or folder hides it, of the corpus that has it."""
        corpora = (source,) if source in CORPORA else CORPORA
        fold = self.values.get("fold")
        number = 1 if fold == "all" else fold  # folds of one protocol have one source and one warning
        names = (self.config, f"{self.config}_{number}")  # a fold's number is in the name or beside it
        found = (splits[name] for splits in map(load_splits, corpora) for name in names if name in splits)
        return next(found, None)
