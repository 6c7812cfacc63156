"""One command line, one or several training runs: plan, train, score, write results and card."""

import gc
import os
import sys
from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from transformers import EarlyStoppingCallback, set_seed

from datasets_scripts import identities_of

from ..cards.experiment_card import write_experiment_card
from ..cards.model_card import write_card
from ..cards.push import push_run
from ..cards.scored_data import ScoredData
from ..evaluation.cross_validation import (
    arguments_that_matter,
    begin,
    check_experiment_folder,
    find_finished_run,
    is_finished,
    plan_runs,
    print_summary,
    summarize,
)
from ..evaluation.metrics import compute_metrics
from ..evaluation.results import predictions_table, write_results
from ..evaluation.run_folder import FinishedRun, read_json
from .adapters import merge_lora
from .arguments import parse_arguments
from .checkpoints import delete_run, where_to_start
from .data import check_choice, configurations_of, count_without_action_units, load_splits
from .model_source import check_model_source
from .preflight import Rehearsal
from .processes import has_separate_disks, lost_process, missing_launch, on_main_process
from .setup import balanced_class_weights, build_collator, build_model, build_processor, check_features
from .trainer import AverTrainer


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


def print_warnings(folder, of_several=None):
    """
    Prints what makes the scores of a run mean less than they seem to; `of_several` is the folder of an experiment
    whose results are printed instead.
    """
    run = FinishedRun.read(folder)
    results = run.results if of_several is None else read_json(of_several / "results.json")
    for warning in ScoredData(results, run.predictions, run.training).warnings:
        Console().print(f"Warning: {warning}", style="bold yellow", markup=False, highlight=False, soft_wrap=True)


def in_one_line(error):
    """`str`: what went wrong. Of a process that read clips, torch tells it as the last line of a traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def run_command():
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
