"""transformers' Trainer, with losses logged apart, and with checkpoints that are whole or not there."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..modeling_aver import IGNORED_LABEL
from .checkpoints import ASIDE, clean_folder, find_checkpoints, put_in_place, rotate
from .even_batches import ClipsWithFillers, fill_last_batches
from .modality_dropout import drop_streams
from .samplers import EpochOfSampler, EpochSampler

LOSS_PARTS = ("classification_loss", "ctm_loss")


class AverTrainer(Trainer):
    """
    Args:
        processor ([`AverProcessor`]): Saved with each checkpoint, so that a checkpoint folder is complete.
        class_weights (`torch.Tensor` of shape `(num_labels,)`, *optional*):
            Of each emotion's clips in the classification loss of training; see [`balanced_class_weights`].
        kwargs: Those of `Trainer`.
    """

    def __init__(self, *args, processor, class_weights=None, **kwargs):
        # Not as `processing_class`: Trainer looks for a tokenizer in every processor, and fails where there is none.
        super().__init__(*args, **kwargs)
        self.processor = processor
        self.class_weights = None if class_weights is None else class_weights.to(self.args.device)
        self.loss_sums = {"train": {}, "eval": {}}
        self._aside = None
        self.add_callback(EpochOfSampler())

    def _get_dataloader(self, dataset, *args, **kwargs):
        if self.args.world_size == 1:
            return super()._get_dataloader(dataset, *args, **kwargs)
        dataloader = super()._get_dataloader(ClipsWithFillers(dataset), *args, **kwargs)
        fill_last_batches(dataloader)
        return dataloader

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(self.train_dataset)  # itself: only it has a column of lengths
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size *= self.args.world_size  # of the whole step, so that any number of processes has it
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return EpochSampler(sampler, seed)
        return sampler

    def _get_eval_sampler(self, eval_dataset):
        # In the dataset's order, for predictions are put beside its clips; Trainer groups these by length as well.
        return SequentialSampler(eval_dataset)

    def _run_epoch(self, *args, **kwargs):
        # Trainer looks for the end after a step: resumed from its last checkpoint, it would take one too many.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    # ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        As in `Trainer`. While training, streams are dropped and emotions weighted as the arguments say; the parts of
        the loss are added up until the next line of the log.
        """
        clips = (inputs["labels"] != IGNORED_LABEL).sum()  # without fillers
        if model.training:
            inputs = drop_streams(inputs, self.args.audio_dropout_rate, self.args.video_dropout_rate)
        else:
            # Of this process alone: the argument is of all, and Trainer multiplies by their number.
            inputs, num_items_in_batch = {**inputs, "num_items_in_batch": clips.clamp(min=1)}, None
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and self.class_weights is not None:
            loss = self._weigh_classes(loss, outputs, inputs["labels"], num_items_in_batch)
        # Evaluation averages over clips, a training step is already divided by its clips.
        weight = 1 if model.training else clips
        sums = self.loss_sums["train" if model.training else "eval"]
        parts = {name: outputs[name] for name in LOSS_PARTS if outputs.get(name) is not None}
        for name, value in {**parts, "loss": self._total(outputs), "weight": torch.ones_like(loss)}.items():
            sums[name] = sums.get(name, 0.0) + weight * value.detach()
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """
        As in `Trainer`.

        Raises:
            `ValueError`: where the loss is no number: weights and checkpoints are then what they were before the step.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        # With fp16 such a step is part of the game: its scaler leaves it out and tries a smaller scale.
        if self.accelerator.scaler is None and not loss.isfinite():
            raise ValueError(
                f"The loss of step {self.state.global_step + 1} is {loss.item()}: training has diverged, and stops "
                f"before it spoils the weights. {self._what_is_kept()} Try a smaller `learning_rate` "
                f"({self.args.learning_rate:g}), `max_grad_norm` 1 or `warmup_steps`."
            )
        return loss

    def _what_is_kept(self):
        kept = list(find_checkpoints(self.args.output_dir).values())
        return f"The last checkpoint is {kept[-1]}." if kept else "There is no checkpoint yet."

    def _weigh_classes(self, loss, outputs, labels, num_items_in_batch):
        """
        Replaces the classification loss within `loss`, and in `outputs`. Divided by clips as the plain one is, not by
        their weights, so that accumulated and distributed steps equal whole ones; balanced weights average 1 anyway.
        """
        scale = (loss.detach() / self._total(outputs).detach()).nan_to_num(1.0).round()  # Trainer's: of processes
        total = F.cross_entropy(
            outputs["logits"].float(), labels, self.class_weights, ignore_index=IGNORED_LABEL, reduction="sum"
        )
        weighted = total / ((labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch)
        loss = loss + scale * (weighted - outputs["classification_loss"])
        outputs["classification_loss"] = weighted
        return loss

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """
        As in `Trainer`, with `classification_loss` and `ctm_loss` beside the loss, and each the mean over clips: of a
        short last batch, Trainer counts each clip more than once.
        """
        self.loss_sums["eval"] = {}
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = self._mean_losses("eval")
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def log(self, logs, start_time=None):
        """As in `Trainer`, with `classification_loss` and `ctm_loss` (nats) beside the `loss` of training."""
        if "loss" in logs and self.loss_sums["train"]:
            means = self._mean_losses("train")
            total = means.pop("loss")
            logs.update({name: logs["loss"] * value / total for name, value in means.items()})
        super().log(logs, start_time)

    def _mean_losses(self, phase):
        """`dict[str, float]`: `loss` and its parts, over all processes since the last time."""
        sums, self.loss_sums[phase] = self.loss_sums[phase], {}
        means = {name: self.accelerator.reduce(value, "sum").item() for name, value in sums.items()}
        weight = means.pop("weight")
        return {name: value / weight for name, value in means.items()}

    def _total(self, outputs):
        if outputs.get("ctm_loss") is None:
            return outputs["classification_loss"]
        weight = self.accelerator.unwrap_model(self.model).config.ctm_loss_weight
        return outputs["classification_loss"] + weight * outputs["ctm_loss"]

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────

    def clean_aside(self):
        """`Path`: an empty folder beside the checkpoints, for what is not whole yet; for every process."""
        folder = Path(self.args.output_dir) / ASIDE
        if self.args.should_save:
            clean_folder(folder)
        self.accelerator.wait_for_everyone()
        return folder

    def drop_aside(self):
        """Removes that folder."""
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(Path(self.args.output_dir) / ASIDE, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model, trial):
        """As in `Trainer`, but aside; the checkpoint takes its place when it is whole, and only then may others go."""
        output_dir, name = self.args.output_dir, f"checkpoint-{self.state.global_step}"
        with self._telling_of_disks(name):
            self._aside = self.clean_aside()
            try:
                super()._save_checkpoint(model, trial)  # rotates nothing: it is alone there
                self._place_best(name)
            finally:
                aside, self._aside = self._aside, None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                newest = put_in_place(aside / name, output_dir)
            self.accelerator.wait_for_everyone()  # on every host's disk before any of them deletes an earlier one
            if self.args.should_save:
                rotate(output_dir, newest, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.drop_aside()
        if self.args.push_to_hub:
            self._push_from_checkpoint(os.path.join(output_dir, name))

    @contextmanager
    def _telling_of_disks(self, name):
        """What writers of many kinds say of a full disk, in one line; what they left unfinished goes."""
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # where torch.save fails
                raise
            shutil.rmtree(Path(self.args.output_dir) / ASIDE, ignore_errors=True)
            raise OSError(
                f"{name} cannot be written to `output_dir` ({self.args.output_dir}): {str(error).splitlines()[0]}. "
                f"{self._what_is_kept()} Make room, and go on with --resume."
            ) from error

    def save_finished(self):
        """Model and state to `output_dir`, each file whole or not there; every process calls it. `OSError` if not."""
        output_dir = Path(self.args.output_dir)
        with self._telling_of_disks("The trained model"):
            aside = self.clean_aside() / "model"
            self.save_model(str(aside), _internal_call=True)  # not pushed yet: a card needs scores
            self.accelerator.wait_for_everyone()
            for path in sorted(aside.iterdir()) if self.args.should_save else ():
                os.replace(path, output_dir / path.name)
            self.save_state()
        self.drop_aside()

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """As in `Trainer`. `ValueError` for a checkpoint of other weights than the model has: names some."""
        self._loaded = resume_from_checkpoint
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
            if not lines:
                raise
            raise ValueError(self._of_another_model(lines[0].rstrip("."))) from error

    def _issue_warnings_after_load(self, load_result):
        if missing := load_result.missing_keys:
            raise ValueError(self._of_another_model(f"it lacks {len(missing)} weights, such as {missing[0]}"))
        if unexpected := load_result.unexpected_keys:
            raise ValueError(
                self._of_another_model(
                    f"the model does not have {len(unexpected)} of its weights, such as {unexpected[0]}"
                )
            )

    def _of_another_model(self, reason):
        return (
            f"{self._loaded} is not of this model: {reason}. Give the arguments that its run was begun with; if it "
            "was changed since, delete it, and --resume goes on from the one before."
        )

    def _place_best(self, name):
        """Trainer has noted the best checkpoint where it was written, if it is this one."""
        best = self.state.best_model_checkpoint
        if best is not None and Path(best) == self._aside / name:
            self.state.best_model_checkpoint = os.path.join(self.args.output_dir, name)
            if self.args.should_save:
                self.state.save_to_json(str(self._aside / name / "trainer_state.json"))

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._aside is None else str(self._aside)

    def _push_from_checkpoint(self, checkpoint_folder):
        if self._aside is None:  # an upload goes on in the background, so it waits for the last name
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, output_dir=None, state_dict=None):
        model = self.accelerator.unwrap_model(self.model)
        weights = model.state_dict() if state_dict is None else state_dict
        if bad := [name for name, values in weights.items() if not values.isfinite().all()]:
            raise ValueError(
                f"{len(bad)} weights are not finite numbers, such as {bad[0]}: they are not saved. "
                f"{self._what_is_kept()} Try a smaller `learning_rate` ({self.args.learning_rate:g})."
            )
        if self.args.save_on_each_node and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # transformers (5.20 to 5.24) writes weights on process 0 alone, whatever `save_on_each_node` says.
            model.should_save_on_this_rank = lambda is_main_process: is_main_process
        super()._save(output_dir, state_dict)
        if not self.args.should_save:  # one process writes
            return
        folder = Path(output_dir or self.args.output_dir)
        self.processor.save_pretrained(folder)
        (folder / "training_args.bin").unlink()  # a pickle; the same facts as text
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")
