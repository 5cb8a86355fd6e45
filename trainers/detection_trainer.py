"""Empirical risk minimisation: a detector on labelled clips, as any `transformers.Trainer`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import RemoveColumnsCollator

from spooftrace.metrics import eer
from spooftrace.trainers.clips import Augmentation, ClipDataset, collate
from spooftrace.trainers.detection_config import DetectionConfig
from spooftrace.trainers.rawboost import RawBoost
from spooftrace.trainers.samplers import SeededRandomSampler


class NonFiniteLossError(RuntimeError):
    """A loss that is NaN or infinite; the batch's utterance ids are in a file that the message names."""


class _EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch. The way through accelerate's wrappers ends early in a resumed, distributed run."""

    def __init__(self, trainer: "DetectionTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(int(state.epoch))


class DetectionTrainer(Trainer):
    """
    Trains a detector on clips of one length with weighted cross-entropy, and evaluates by equal error rate.

    ```python
    trainer = DetectionTrainer(model, DetectionConfig("out"), train_dataset=train, eval_dataset={"dev": dev})
    ```

    Args:
        model: an audio classifier that takes `input_values`, `[batch, num_samples]`.
        args: see [`DetectionConfig`].
        train_dataset, eval_dataset: rows with `audio`, `label` and `utterance_id`, as `load_corpus` gives them; several
            evaluation sets as a mapping of names.
        processing_class: the feature extractor, saved beside the model.
        augment: alters training clips, instead of what `args.rawboost` names.
        kwargs: of `transformers.Trainer`.

    Raises:
        LabelError: for labels outside the model's.
        ValueError: for class weights of other labels.
    """

    loss_is_scaled_for_ga = False  # the loss is a mean over the batch: the Trainer divides it

    def __init__(
        self,
        model: PreTrainedModel,
        args: DetectionConfig | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any | Mapping[str, Any] | None = None,
        processing_class: Any = None,
        augment: Augmentation | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        args = args or DetectionConfig(output_dir="detector")
        self.label2id = {label: int(index) for label, index in model.config.label2id.items()}
        self.class_weights = _weights(args.class_weights, self.label2id)
        self.augment = augment if augment is not None else RawBoost(args.rawboost) if args.rawboost else None
        self.sampler: SeededRandomSampler | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        callbacks = list(callbacks or [])
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        super().__init__(
            model,
            args,
            data_collator=collate,
            train_dataset=None if train_dataset is None else self.prepare_train(train_dataset, args),
            eval_dataset=self._prepare_eval(eval_dataset, args),
            processing_class=processing_class,
            compute_metrics=compute_metrics or self.error_rates,
            preprocess_logits_for_metrics=_logits_alone,
            callbacks=callbacks,
            **kwargs,
        )
        self.add_callback(_EpochOfSampler(self))

    def prepare_train(self, rows: Any, args: DetectionConfig) -> ClipDataset:
        """The training rows as clips."""
        return ClipDataset(
            rows,
            self.label2id,
            label_names=label_names(rows),
            num_samples=args.num_samples,
            crop=args.crop,
            augment=self.augment,
        )

    def _prepare_eval(self, rows: Any, args: DetectionConfig) -> Any:
        if rows is None:
            return None
        if isinstance(rows, Mapping):
            return {name: self._prepare_eval(part, args) for name, part in rows.items()}
        return ClipDataset(
            rows,
            self.label2id,
            label_names=label_names(rows),
            num_samples=args.num_samples,
            augment=self.augment if args.augment_eval else None,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededRandomSampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        self.sampler = SeededRandomSampler(len(dataset), self.args.seed)
        return self.sampler

    def _get_collator_with_removed_columns(self, data_collator: Callable, description: str | None = None) -> Callable:
        collator = super()._get_collator_with_removed_columns(data_collator, description)
        return collator.data_collator if isinstance(collator, RemoveColumnsCollator) else collator

    def mean_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy in at least float32, with class weights their weighted mean, `[]`."""
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        return F.cross_entropy(logits, labels, weight=weights)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The loss of one batch."""
        outputs = model(input_values=inputs["input_values"])
        loss = self.mean_loss(outputs.logits, inputs["labels"])
        if model.training:
            self.require_finite(loss, inputs)
        return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss

    def require_finite(self, loss: torch.Tensor, inputs: Mapping[str, Any]) -> None:
        """
        Stops before a loss that is not finite can spoil the weights.

        Raises:
            NonFiniteLossError: see there.
        """
        if torch.isfinite(loss).all():
            return
        path = Path(self.args.output_dir) / f"non_finite_loss_process_{self.args.process_index}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"step": self.state.global_step, "loss": str(loss.tolist()), "utterance_ids": inputs["utterance_id"]}
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        raise NonFiniteLossError(
            f"the loss is {loss.tolist()} at step {self.state.global_step}; the clips of this batch are listed in {path}. "
            "Look at them, lower the learning rate, or train in float32; earlier checkpoints are whole."
        )

    def error_rates(self, prediction: EvalPrediction) -> dict[str, float]:
        """EER of the log-odds of bona fide, and accuracy where they are compared with 0; nothing for one class alone."""
        logits, labels = prediction.predictions.astype(np.float64), prediction.label_ids
        genuine = self.label2id["bonafide"]
        others = np.delete(logits, genuine, axis=1)
        scores = logits[:, genuine] - np.logaddexp.reduce(others, axis=1)
        bonafide, spoof = scores[labels == genuine], scores[labels != genuine]
        metrics = {"accuracy": float(((scores > 0) == (labels == genuine)).mean())}
        if len(bonafide) and len(spoof):
            metrics["eer"] = eer(bonafide, spoof).eer
        return metrics

    def note(self, name: str, value: torch.Tensor) -> None:
        """Averages a value over the steps until the next log entry."""
        self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._counts[name] = self._counts.get(name, 0) + 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {name: float(total) / self._counts[name] for name, total in self._sums.items()}
            self._sums, self._counts = {}, {}
        super().log(logs, start_time)


def label_names(rows: Any) -> list[str] | None:
    """What the numbers in a dataset's label column mean; `None` where it holds the names themselves."""
    features = getattr(rows, "features", None) or {}
    return getattr(features.get("label"), "names", None)


def _weights(weights: Mapping[str, float] | None, label2id: Mapping[str, int]) -> torch.Tensor | None:
    if weights is None:
        return None
    if weights.keys() != label2id.keys() or not all(weight > 0 for weight in weights.values()):
        raise ValueError(
            f"`class_weights` needs a positive weight for each of {', '.join(label2id)}, got {dict(weights)}."
        )
    ordered = sorted(label2id, key=label2id.__getitem__)
    return torch.tensor([float(weights[label]) for label in ordered])


def _logits_alone(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    return logits[0] if isinstance(logits, tuple) else logits
