"""
Trains and scores audio-visual emotion recognition.

    python train_hf.py RECIPE.yaml [--flag value …]
    accelerate launch train_hf.py RECIPE.yaml …
    torchrun --nproc_per_node 2 train_hf.py RECIPE.yaml …

A recipe is a YAML or JSON file of the flags; flags on the command line override it. `--help` lists them.
`--resume` goes on where a run was broken off. `--fold all` trains and scores each fold, `--seeds 3` each seed. A
finished run is not replaced without `--overwrite true`.

Several processes train together on accelerators or, where there is none, on CPUs, where `mpirun` can start them too.
On several hosts, start this on each of them:

    torchrun --nnodes 2 --node_rank 0|1 --master_addr HOST_0 --master_port 29500 --nproc_per_node 1 train_hf.py …

`output_dir` may be one folder that all hosts share, or a folder on the disk of each host, which may have another name
there. Process 0 writes results, predictions and card. Checkpoints and the model are written once to a shared folder,
or else to the folder of each host (`save_on_each_node` is set by this), and `--resume` starts from the last checkpoint
that is complete on all of them: give it on every host. If a process ends or its host cannot be reached, the others end
with a message: at once where the connection is closed, and else after `--ddp_timeout` seconds (1800).
"""

import gc
import os
import sys
from pathlib import Path
from typing import NamedTuple

import datasets
from accelerate import PartialState
from rich.console import Console
from transformers import EarlyStoppingCallback, set_seed

from datasets_scripts import (
    SAMPLE_DIR,
    check_columns,
    identities_of,
    keep_streams,
    load_clips,
    load_crema_d,
    load_ravdess,
)
from datasets_scripts import load_splits as published_splits
from datasets_scripts.hub.record import load_published
from modeling_aver.cards.experiment_card import write_experiment_card
from modeling_aver.cards.model_card import write_card
from modeling_aver.cards.push import push_run
from modeling_aver.cards.scored_data import ScoredData
from modeling_aver.evaluation.cross_validation import (
    arguments_that_matter,
    begin,
    check_experiment_folder,
    find_finished_run,
    is_finished,
    plan_runs,
    print_summary,
    summarize,
)
from modeling_aver.evaluation.metrics import compute_metrics
from modeling_aver.evaluation.results import predictions_table, write_results
from modeling_aver.evaluation.run_folder import FinishedRun, read_json
from modeling_aver.training.adapters import merge_lora
from modeling_aver.training.arguments import parse_arguments
from modeling_aver.training.checkpoints import delete_run, where_to_start
from modeling_aver.training.model_source import check_model_source
from modeling_aver.training.preflight import Rehearsal
from modeling_aver.training.processes import has_separate_disks, lost_process, missing_launch, on_main_process
from modeling_aver.training.setup import (
    balanced_class_weights,
    build_collator,
    build_model,
    build_processor,
    check_features,
)
from modeling_aver.training.trainer import AverTrainer


def main(argv=None):
    argv = sys.argv[1:] if argv is None else list(argv)
    given = parse_arguments(argv)
    _, data_args, training_args = given
    runs = plan_runs(data_args, training_args, configurations_of(data_args))
    output_dir = Path(training_args.output_dir)
    if [run.folder for run in runs] == [output_dir]:
        return train_single_run(runs[0], argv, arguments_that_matter(*given))
    on_main_process(check_experiment_folder, output_dir)
    for run in runs:
        train_unless_finished(run, *arguments_of(run, argv))
    if training_args.process_index == 0:
        print_summary(summarize(output_dir, runs))
        for folder in {output_dir, *(run.folder.parent for run in runs)}:
            write_experiment_card(folder)
        print_warnings(runs[0].folder, output_dir)


def train_single_run(run, argv, matter):
    """The only run that the command line asks for, unless it is finished; `matter` is what decides its numbers."""
    arguments = arguments_of(run, argv)
    finished = on_main_process(find_finished_run, run.folder, matter, arguments[-1])
    if finished is None:
        train_and_score(*arguments, matter)
        if PartialState().is_main_process:
            print_warnings(run.folder)
    elif PartialState().is_main_process:
        Console().print(finished, markup=False, highlight=False, soft_wrap=True)


def arguments_of(run, argv):
    """The arguments of one of the runs that the command line asks for."""
    of_run = ["--output_dir", str(run.folder), "--seed", str(run.seed)]
    model_args, data_args, training_args = parse_arguments([*argv, *of_run])
    data_args.dataset_config_name, data_args.fold = run.config, run.fold
    return model_args, data_args, training_args


def train_unless_finished(run, *arguments):
    """Trains one of several runs, if no earlier start of them has finished it."""
    matter = arguments_that_matter(*arguments)
    overwrite = arguments[-1].overwrite
    if overwrite or not on_main_process(is_finished, run.folder, matter):
        if PartialState().is_main_process and not overwrite:  # results of the earlier run are still there
            begin(run.folder, matter)
        train_and_score(*arguments, matter)
        gc.collect()  # a Trainer is a ring of objects that holds the model's memory
    PartialState().wait_for_everyone()


def train_and_score(model_args, data_args, training_args, matter):
    """One run: trains, saves, scores `eval_split`, and writes the results and what decides them (`matter`)."""
    if source := model_args.model_name_or_path or model_args.audio_model_name_or_path:
        check_model_source(source, model_args.model_revision)
    training_args.save_on_each_node = has_separate_disks(training_args.output_dir)
    start = where_to_start(training_args)
    set_seed(training_args.seed)
    with training_args.main_process_first(desc="reading clips"):
        clips = load_splits(data_args)
        check_choice(training_args, data_args, clips)
        identities = identities_of(clips.train)
        processor = build_processor(model_args, clips.train, next(iter(identities), None))
    for dataset in filter(None, clips):
        check_features(processor.feature_extractor, identities_of(dataset))
    labels = clips.train.features["label"].names
    model = build_model(model_args, labels, processor)
    collator = build_collator(model, processor, clips, data_args, training_args)
    trainer = build_trainer(model, collator, training_args, clips)
    trained = {"num_trainable_parameters": model.num_parameters(only_trainable=True)}
    if training_args.overwrite and training_args.should_save:
        delete_run(Path(training_args.output_dir), kept_checkpoint=start)
    metrics = trainer.train(resume_from_checkpoint=start).metrics
    if lora := model_args.lora_values():
        merge_lora(model.base_model.audio_encoder)
        trained["lora"] = lora
    trainer.save_finished()
    scores, predictions = score(trainer, clips.scored, labels, data_args.speaker_profiles)
    if trainer.is_world_process_zero():
        begin(Path(training_args.output_dir), matter)
        write_results(
            training_args.output_dir,
            metrics=metrics | scores,
            model=trainer.accelerator.unwrap_model(trainer.model),
            training_args=training_args,
            data_args=data_args,
            predictions=predictions,
            seen_in_training=data_args.eval_split == data_args.train_split,
            trained=trained,
            without_action_units=count_without_action_units(clips, data_args),
        )
        write_card(training_args.output_dir)
        if training_args.push_to_hub:
            push_run(
                training_args.output_dir,
                trainer.hub_model_id,
                token=training_args.hub_token,
                revision=training_args.hub_revision,
            )
    elif training_args.should_save:
        Console().print(
            f"{training_args.output_dir} on this host holds model and checkpoints. Results, predictions and card are "
            "in the `output_dir` of process 0.",
            markup=False,
            soft_wrap=True,
        )


def build_trainer(model, collator, training_args, clips):
    trainer = AverTrainer(
        model,
        training_args,
        collator,
        clips.train,
        clips.validation,
        compute_metrics=compute_metrics,
        processor=collator.processor,
        class_weights=balanced_class_weights(clips.train) if training_args.class_weights == "balanced" else None,
    )
    trainer.add_callback(Rehearsal(trainer))
    if training_args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(training_args.early_stopping_patience))
    return trainer


def score(trainer, dataset, labels, speaker_profiles):
    """Scores of the clips (`dict`) and each clip's prediction (`pd.DataFrame`); nothing and `None` without clips."""
    if dataset is None:
        return {}, None
    scored = trainer.predict(dataset, metric_key_prefix="eval")
    trainer.log_metrics("eval", scored.metrics)
    return scored.metrics, predictions_table(dataset, scored.predictions, labels, speaker_profiles)


class Clips(NamedTuple):
    """Clips to train on, to choose by while training, and to score after it; the last two may be `None`."""

    train: datasets.Dataset
    validation: datasets.Dataset | None
    scored: datasets.Dataset | None


def load_splits(data_args):
    """[`Clips`]: `train_split`, `validation` if there is one, and `eval_split`."""
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
    return Clips(*(clips and keep_streams(clips, data_args.streams) for clips in chosen))


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


def in_one_line(error):
    """`str`: what went wrong. Of a process that read clips, torch tells it as the last line of a traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def print_warnings(folder, of_several=None):
    """
    Prints what makes the scores of a run mean less than they seem to; `of_several` is the folder of an experiment
    whose results are printed instead.
    """
    run = FinishedRun.read(folder)
    results = run.results if of_several is None else read_json(of_several / "results.json")
    for warning in ScoredData(results, run.predictions, run.training).warnings:
        Console().print(f"Warning: {warning}", style="bold yellow", markup=False, highlight=False, soft_wrap=True)


def run():
    """The command: one line for each error that a user can mend, a traceback for any other."""
    try:
        if launch := missing_launch():
            os.execv(launch[0], [*launch, *sys.argv])
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"train_hf.py: {in_one_line(error)}")
    except RuntimeError as error:
        if lost := lost_process(error):
            sys.exit(f"train_hf.py: {lost}")
        raise


if __name__ == "__main__":
    run()
