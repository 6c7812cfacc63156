"""What `train_hf.py` can be told, and the reading of recipes."""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate.utils import parse_flag_from_env
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ..configuration_aver import AverConfig
from ..evaluation.results import PROTOCOLS
from ..io.media import one_line
from .adapters import require_peft
from .processes import check_world_size, join_processes_on_cpus

CLASS_WEIGHTS = ("none", "balanced")
LORA_TARGETS = ["q_proj", "v_proj"]  # Hu et al. 2021, section 7.1: of few weights, these two are the best to adapt


@dataclass
class ModelArguments:
    """Which model to train. Values left out are those of AverConfig, which are the paper's."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Go on from a checkpoint of this model."})
    audio_model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Start from a pretrained audio encoder: facebook/wav2vec2-large-xlsr-53, or a folder."},
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of either of them."})
    audio_config: dict | str | None = field(
        default=None, metadata={"help": "A new audio encoder instead: its configuration (JSON), randomly initialized."}
    )
    audio_layers: list[int] | None = field(
        default=None,
        metadata={"help": "Hidden states of the audio encoder to mix, such as 0 1 2 3 4; default: its last."},
    )
    audio_pooling_stride: int | None = field(default=None, metadata={"help": "Audio frames averaged to one token."})
    audio_normalization: str | None = field(
        default=None, metadata={"help": "none (the paper), or standardize: by statistics of the training clips."}
    )
    fusion_layers: list[str] | None = field(default=None, metadata={"help": "msa, isa, ica: a row of Table 2."})
    position_embedding_type: str | None = field(default=None, metadata={"help": "A row of Table 3."})
    ctm_loss_weight: float | None = field(default=None, metadata={"help": "λ of eq. 12; 0 is Table 3 without CTM."})
    ctm_sigma: float | None = field(default=None, metadata={"help": "σ of eq. 6, in seconds."})
    ctm_temperature: float | None = field(default=None, metadata={"help": "τ of eq. 7-8."})
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    dropout: float | None = None
    projection_dropout: float | None = field(default=None, metadata={"help": "On both streams before projection."})
    freeze_feature_encoder: bool = field(
        default=True, metadata={"help": "Fix the convolutional front of the audio encoder (wav2vec2 practice)."}
    )
    freeze_audio_encoder: bool = field(default=False, metadata={"help": "Fix the whole audio encoder."})
    lora_rank: int | None = field(
        default=None, metadata={"help": "Train adapters of this rank in place of the audio encoder's own weights."}
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "An adapter's output is multiplied by alpha / rank; default: twice the rank."}
    )
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Linear layers that get one, by the last part of their names; default: q_proj v_proj."},
    )

    def __post_init__(self):
        if isinstance(self.audio_config, str):
            try:
                self.audio_config = json.loads(self.audio_config)
            except json.JSONDecodeError as error:
                raise ValueError(f"`audio_config` is not JSON ({error}): {self.audio_config[:80]}") from error
        sources = ("model_name_or_path", "audio_model_name_or_path", "audio_config")
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"Give one of {', '.join(sources)}, not {' and '.join(given)}.")
        self._check_lora()

    def _check_lora(self):
        if self.lora_rank is None:
            if self.lora_alpha is not None or self.lora_target_modules is not None:
                raise ValueError(
                    "`lora_alpha` and `lora_target_modules` need `lora_rank`: there is no adapter without."
                )
            return
        if self.lora_rank < 1:
            raise ValueError(f"`lora_rank` ({self.lora_rank}) must be 1 or more.")
        if self.freeze_audio_encoder:
            raise ValueError("Give `lora_rank` or `freeze_audio_encoder`: adapters train the audio encoder.")
        require_peft()

    def lora_values(self):
        """`dict`: `rank`, `alpha` and `target_modules` of the adapters, or `None` where there are none."""
        if self.lora_rank is None:
            return None
        alpha = 2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha
        return {"rank": self.lora_rank, "alpha": alpha, "target_modules": self.lora_target_modules or LORA_TARGETS}

    def config_values(self):
        """The values of AverConfig that were given."""
        names = {name for name in AverConfig.__dataclass_fields__ if name in asdict(self)}
        return {name: getattr(self, name) for name in sorted(names) if getattr(self, name) is not None}


@dataclass
class DataArguments:
    """Which clips to train on and to score."""

    dataset_name: str = field(
        default="crema_d",
        metadata={
            "help": "crema_d or ravdess (from their official folders), a CSV of file,label,speaker, a Hub id, or a "
            "folder of Parquet files of the schema."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "The corpus's folder. Without it, CREMA-D's six clips that the project carries."},
    )
    dataset_config_name: str | None = field(
        default=None,
        metadata={
            "help": "Such as emobox, speaker_5fold_1, speaker_holdout, luna_jimenez_5fold_1; with `fold`, the name of "
            "the folds without their number."
        },
    )
    fold: str | None = field(
        default=None, metadata={"help": "A number, or all: train and score each fold, in `output_dir`/fold_N."}
    )
    action_units_folder: str | None = field(
        default=None,
        metadata={
            "help": "Features of the face, a table a clip, such as `aver extract` writes; in data_dir or anywhere."
        },
    )
    feature_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder where a frozen audio encoder's frames are kept: computed once, read ever after."},
    )
    feature_cache_dtype: str = field(
        default="float32", metadata={"help": "float32: the same numbers; float16 or bfloat16: half the space."}
    )
    speaker_profiles: str = field(
        default="none",
        metadata={
            "help": "none (the paper), or unlabelled: each clip is standardized by the statistics of its own "
            "speaker's clips of the same split, labels unseen, test speakers included; another protocol."
        },
    )
    validation_fraction: float = field(
        default=0.0, metadata={"help": "Share of the training speakers that becomes the split `validation`."}
    )
    streams: str = field(
        default="both", metadata={"help": "both, or a baseline: audio or video, with the other taken from every clip."}
    )
    train_split: str = "train"
    eval_split: str | None = field(default=None, metadata={"help": "Scored after training. Never used to choose."})
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    preprocessing_num_proc: int | None = None

    def __post_init__(self):
        if self.speaker_profiles not in PROTOCOLS:
            raise ValueError(f"`speaker_profiles` ({self.speaker_profiles!r}) must be one of {', '.join(PROTOCOLS)}.")


@dataclass
class AverTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with section 3.2 of the paper as defaults."""

    output_dir: str | None = "runs/aver"
    num_train_epochs: float = 50
    per_device_train_batch_size: int = 4
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)
    remove_unused_columns: bool = False  # the collator reads all columns
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    hub_strategy: str = "end"  # every_save and checkpoint also push pickles, of the arguments and the optimizer
    length_column_name: str = "audio_duration"  # for `train_sampling_strategy group_by_length`
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last complete checkpoint in `output_dir`, if there is one."}
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Replace an earlier run in `output_dir`, finished or not; its checkpoints are deleted."},
    )
    seeds: int = field(
        default=1, metadata={"help": "Repeat with as many seeds, from `seed` on, in `output_dir`/seed_S."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after as many evaluations on `validation` without improvement."}
    )
    class_weights: str = field(
        default="none", metadata={"help": "none (the paper), or balanced: each emotion weighs the same in training."}
    )
    audio_dropout_rate: float = field(
        default=0.0, metadata={"help": "Share of the clips that lose their sound in a training step; 0 in the paper."}
    )
    video_dropout_rate: float = field(
        default=0.0, metadata={"help": "Share of the clips that lose their video. No clip loses both."}
    )

    def __post_init__(self):
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be False: the collator makes the model's inputs of the columns."
            )
        self._check_options()
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"  # as Trainer does for `load_best_model_at_end`
        join_processes_on_cpus(self)
        super().__post_init__()
        check_world_size(self.world_size)
        self._check_reporting()
        if self.eval_strategy == "no" and (self.load_best_model_at_end or self.early_stopping_patience is not None):
            raise ValueError(
                f"`{self.scores_while_training()}` chooses by evaluations, but `eval_strategy` is no. Set it to epoch."
            )

    def _check_options(self):
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(f"`class_weights` ({self.class_weights!r}) must be one of {', '.join(CLASS_WEIGHTS)}.")
        rates = (self.audio_dropout_rate, self.video_dropout_rate)
        if min(rates) < 0 or sum(rates) > 1:
            raise ValueError(
                f"`audio_dropout_rate` ({rates[0]}) and `video_dropout_rate` ({rates[1]}) must be shares of the "
                "clips, together at most 1: no clip loses both streams."
            )
        if self.seeds < 1:
            raise ValueError(f"`seeds` ({self.seeds}) must be 1 or more.")
        if self.resume and self.resume_from_checkpoint:
            raise ValueError("Give `resume` or `resume_from_checkpoint`, not both.")
        if self.overwrite and self.resume:
            raise ValueError("Give `overwrite` or `resume`, not both: one deletes the checkpoints of the other.")
        if self.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor` ({self.label_smoothing_factor}) must be 0: the model makes its own loss."
            )

    def _check_reporting(self):
        """Trainer would notice when the clips are read and the model is built."""
        for callback in get_reporting_integration_callbacks(self.report_to):
            try:
                callback()
            except RuntimeError as error:
                raise ImportError(f"`report_to` ({', '.join(self.report_to)}): {error}") from error

    def scores_while_training(self):
        """`str` or `None`: the argument for which clips are scored before training ends."""
        wished = {
            "load_best_model_at_end": self.load_best_model_at_end,
            "early_stopping_patience": self.early_stopping_patience is not None,
            "save_strategy": self.save_strategy == "best",
            "eval_strategy": self.eval_strategy != "no",
            "eval_on_start": self.eval_on_start,
        }
        return next((name for name, is_wished in wished.items() if is_wished), None)


def parse_arguments(argv=None):
    """
    Reads `[RECIPE.yaml|json] [--flag value …]`; flags override the recipe.

    Args:
        argv (`list[str]`, *optional*): Defaults to the command line.

    Returns:
        `tuple`: [`ModelArguments`], [`DataArguments`], [`AverTrainingArguments`].

    Raises:
        `ValueError`: for a recipe that cannot be read or that sets an unknown name.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = HfArgumentParser((ModelArguments, DataArguments, AverTrainingArguments))
    if argv and not argv[0].startswith("-"):
        parser.set_defaults(**_checked_recipe(parser, argv.pop(0)))
    try:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses(argv)
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(
            f"The arguments cannot be used: {one_line(error)}. Is a value of the recipe of another kind than --help "
            "says?"
        ) from error
    _check_adapters_are_whole(model_args, training_args)
    return model_args, data_args, training_args


def _check_adapters_are_whole(model_args, training_args):
    by_accelerate = any(map(parse_flag_from_env, ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")))
    if model_args.lora_rank is not None and (training_args.fsdp or training_args.deepspeed or by_accelerate):
        raise ValueError(
            "`lora_rank` merges adapters into whole weights at the end, but FSDP and DeepSpeed keep parts of them in "
            "each process. Launch it by torchrun or accelerate without either: adapters need little memory."
        )


def _checked_recipe(parser, path):
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {path} cannot be read: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"The recipe {path} must be a mapping of names to values, but is a {type(values).__name__}.")
    known = {action.dest for action in parser._actions}
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        raise ValueError(
            f"The recipe {path} sets {one_line(', '.join(unknown))}, which no argument is called. See --help."
        )
    return values
