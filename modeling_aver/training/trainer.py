"""transformers' Trainer, with the two losses logged apart and the processor saved beside the weights."""

from pathlib import Path

from transformers import Trainer

LOSS_PARTS = ("classification_loss", "ctm_loss")


class AverTrainer(Trainer):
    """
    Args:
        processor ([`AverProcessor`]): Saved with each checkpoint, so that a checkpoint folder is complete.
        kwargs: Those of `Trainer`.
    """

    def __init__(self, *args, processor, **kwargs):
        # Not as `processing_class`: Trainer looks for a tokenizer in every processor, and fails where there is none.
        super().__init__(*args, **kwargs)
        self.processor = processor
        self._sums = {"train": {}, "eval": {}}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As in `Trainer`; the parts of the loss are added up until the next line of the log."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        # Evaluation averages over clips, a training step is already divided by its clips.
        weight = 1 if model.training else len(inputs["labels"])
        sums = self._sums["train" if model.training else "eval"]
        parts = {name: outputs[name] for name in LOSS_PARTS if outputs.get(name) is not None}
        total = parts["classification_loss"] + self._ctm_weight() * parts.get("ctm_loss", 0.0)
        for name, value in {**parts, "total": total}.items():
            sums[name] = sums.get(name, 0.0) + weight * value.detach()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        """As in `Trainer`, with `classification_loss` and `ctm_loss` (nats) beside each `loss`."""
        for phase, name in {"train": "loss", "eval": "eval_loss"}.items():
            if name in logs and self._sums[phase]:
                sums = {
                    part: self.accelerator.reduce(value, "mean").item() for part, value in self._sums[phase].items()
                }
                total = sums.pop("total")
                prefix = name.removesuffix("loss")
                logs.update({prefix + part: logs[name] * value / total for part, value in sums.items()})
                self._sums[phase] = {}
        super().log(logs, start_time)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if not self.args.should_save:  # one process writes
            return
        folder = Path(output_dir or self.args.output_dir)
        self.processor.save_pretrained(folder)
        (folder / "training_args.bin").unlink()  # a pickle; the same facts as text
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def _ctm_weight(self):
        return self.accelerator.unwrap_model(self.model).config.ctm_loss_weight
