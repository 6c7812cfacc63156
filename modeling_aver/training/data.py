"""The clips of a training run: which corpus, which splits, and what they must have."""

from typing import NamedTuple

import datasets

from datasets_scripts import (
    SAMPLE_DIR,
    check_columns,
    keep_streams,
    load_clips,
    load_crema_d,
    load_ravdess,
)
from datasets_scripts import load_splits as published_splits
from datasets_scripts.hub.record import load_published


class Splits(NamedTuple):
    """Clips to train on, to choose by while training, and to score after it; the last two may be `None`."""

    train: datasets.Dataset
    validation: datasets.Dataset | None
    scored: datasets.Dataset | None


def load_splits(data_args):
    """[`Splits`]: `train_split`, `validation` if there is one, and `eval_split`."""
    splits = load_corpus(data_args)
    for split in splits.values():
        check_columns(split.features)
    wanted = [name for name in (data_args.train_split, data_args.eval_split) if name is not None]
    for name in wanted:
        if name not in splits:
            raise ValueError(f"{data_args.dataset_name} has no split {name!r}, only {', '.join(splits)}.")
    chosen = (
        first(splits[data_args.train_split], data_args.max_train_samples),
        first(splits.get("validation"), data_args.max_eval_samples),
        first(splits.get(data_args.eval_split), data_args.max_eval_samples),
    )
    return Splits(*(clips and keep_streams(clips, data_args.streams) for clips in chosen))


def count_without_action_units(clips, data_args):
    """`dict`: of each split in use, `count` clips of `total` without action units; `None` where none are wanted."""
    if data_args.streams == "audio":
        return None
    splits = {data_args.train_split: clips.train, "validation": clips.validation, data_args.eval_split: clips.scored}
    return {
        name: {"count": sum(not frames for frames in dataset["action_units_success"]), "total": len(dataset)}
        for name, dataset in splits.items()
        if dataset is not None
    }


def check_choice(training_args, data_args, clips):
    """Refuses to choose a model, or when to stop, by the clips that it is scored on afterwards."""
    name = training_args.scores_while_training()
    if name is None:
        return
    if clips.validation is None:
        raise ValueError(
            f"`{name}` scores clips while training, and {data_args.eval_split or 'the test part'} is not for that: it "
            "would choose the model by what it is judged by. Cut a part from the training speakers: "
            "--validation_fraction 0.1."
        )


def configurations_of(data_args):
    """`list[str]`: names of the dataset's configurations, among which its folds are; none where no fold is asked."""
    if data_args.fold is None or data_args.dataset_name.endswith(".csv"):
        return []
    if data_args.dataset_name in ("crema_d", "ravdess"):
        return list(published_splits(data_args.dataset_name))
    return datasets.get_dataset_config_names(data_args.dataset_name, data_dir=data_args.data_dir)


def load_corpus(data_args):
    """Every split of the dataset that the arguments name."""
    name, folder, num_proc = data_args.dataset_config_name, data_args.data_dir, data_args.preprocessing_num_proc
    builder_values = {
        "num_proc": num_proc,
        "validation_fraction": data_args.validation_fraction,
        "action_units_folder": data_args.action_units_folder,
    }
    if data_args.dataset_name == "crema_d":
        return load_crema_d(folder or SAMPLE_DIR, name=name or "all", **builder_values)
    if data_args.dataset_name == "ravdess":
        if folder is None:
            raise ValueError("`data_dir` is missing: the folder that holds RAVDESS's official archives.")
        return load_ravdess(folder, name=name or "all", require_action_units=False, **builder_values)
    if data_args.dataset_name.endswith(".csv"):
        return load_clips(data_args.dataset_name, **builder_values)
    splits = load_published(data_args.dataset_name, name, data_dir=folder, num_proc=num_proc)
    return splits.cast_column("audio", datasets.Audio(decode=False))


def first(dataset, count):
    return dataset if dataset is None or count is None else dataset.select(range(min(count, len(dataset))))
