"""
Trains and scores audio-visual emotion recognition.

    python train_hf.py RECIPE.yaml [--flag value …]
    accelerate launch train_hf.py RECIPE.yaml …
    torchrun --nproc_per_node 2 train_hf.py RECIPE.yaml …

A recipe is a YAML or JSON file of the flags; flags on the command line override it. `--help` lists them.
"""

import sys

import datasets
from transformers import set_seed

from datasets_scripts import SAMPLE_DIR, check_columns, identities_of, load_clips, load_crema_d, load_ravdess
from modeling_aver.training.arguments import parse_arguments
from modeling_aver.training.collation import AverDataCollator
from modeling_aver.training.metrics import compute_metrics
from modeling_aver.training.results import predictions_table, write_results
from modeling_aver.training.setup import build_model, build_processor, check_features
from modeling_aver.training.trainer import AverTrainer


def main(argv=None):
    model_args, data_args, training_args = parse_arguments(argv)
    set_seed(training_args.seed)
    with training_args.main_process_first(desc="reading clips"):
        train_dataset, eval_dataset = load_splits(data_args)
        identities = identities_of(train_dataset)
        processor = build_processor(model_args, train_dataset, next(iter(identities), None))
    for dataset in filter(None, (train_dataset, eval_dataset)):
        check_features(processor.feature_extractor, identities_of(dataset))
    labels = train_dataset.features["label"].names
    trainer = AverTrainer(
        build_model(model_args, labels, processor),
        training_args,
        AverDataCollator(processor),
        train_dataset,
        eval_dataset,
        compute_metrics=compute_metrics,
        processor=processor,
    )
    metrics = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint).metrics
    trainer.save_model()
    predictions = None
    if eval_dataset is not None:
        scored = trainer.predict(eval_dataset, metric_key_prefix="eval")
        metrics |= scored.metrics
        trainer.log_metrics("eval", scored.metrics)
        predictions = predictions_table(eval_dataset, scored.predictions, labels)
    if trainer.is_world_process_zero():
        write_results(
            training_args.output_dir,
            metrics=metrics,
            model=trainer.accelerator.unwrap_model(trainer.model),
            training_args=training_args,
            data_args=data_args,
            predictions=predictions,
            seen_in_training=data_args.eval_split == data_args.train_split,
        )


def load_splits(data_args):
    """Training clips, and the clips to score (`None` where no `eval_split` is given)."""
    splits = load_corpus(data_args)
    for split in splits.values():
        check_columns(split.features)
    wanted = [name for name in (data_args.train_split, data_args.eval_split) if name is not None]
    for name in wanted:
        if name not in splits:
            raise ValueError(f"{data_args.dataset_name} has no split {name!r}, only {', '.join(splits)}.")
    train_dataset = first(splits[data_args.train_split], data_args.max_train_samples)
    if data_args.eval_split is None:
        return train_dataset, None
    return train_dataset, first(splits[data_args.eval_split], data_args.max_eval_samples)


def load_corpus(data_args):
    """Every split of the dataset that the arguments name."""
    name, folder, num_proc = data_args.dataset_config_name, data_args.data_dir, data_args.preprocessing_num_proc
    builder_values = {"num_proc": num_proc, "validation_fraction": data_args.validation_fraction}
    if data_args.dataset_name == "crema_d":
        return load_crema_d(folder or SAMPLE_DIR, name=name or "all", **builder_values)
    if data_args.dataset_name == "ravdess":
        if folder is None:
            raise ValueError("`data_dir` is missing: the folder that holds RAVDESS's official archives.")
        return load_ravdess(folder, name=name or "all", require_action_units=False, **builder_values)
    if data_args.dataset_name.endswith(".csv"):
        return load_clips(data_args.dataset_name, **builder_values)
    splits = datasets.load_dataset(data_args.dataset_name, name, data_dir=folder, num_proc=num_proc)
    return splits.cast_column("audio", datasets.Audio(decode=False))


def first(dataset, count):
    return dataset if count is None else dataset.select(range(min(count, len(dataset))))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"train_hf.py: {error}")
