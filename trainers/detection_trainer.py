"""Empirical risk minimisation: a detector on labelled clips, as any `transformers.Trainer`."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel, TrainerCallback
from transformers.trainer_utils import RemoveColumnsCollator

from spooftrace.metrics import eer
from spooftrace.trainers.batch_norm import BatchNormStatistics
from spooftrace.trainers.clips import Augmentation, ClipDataset, collate, label_names
from spooftrace.trainers.detection_config import DetectionConfig
from spooftrace.trainers.device_augmentation import DeviceAugmentation, DeviceAugmentationConfig
from spooftrace.trainers.mldg import average_over_processes
from spooftrace.trainers.rawboost import RawBoost
from spooftrace.trainers.resumable_trainer import ResumableTrainer
from spooftrace.trainers.samplers import SeededRandomSampler


class NonFiniteLossError(RuntimeError):
    """A loss that is NaN or infinite; the batch's utterance ids are in a file that the message names."""


class DetectionTrainer(ResumableTrainer):
    """
    Trains a detector on clips of one length with weighted cross-entropy, and evaluates by equal error rate.

    ```python
    trainer = DetectionTrainer(model, DetectionConfig("out"), train_dataset=train, eval_dataset={"dev": dev})
    ```

    Interrupted in any way, it can be resumed as if nothing had happened: see [`ResumableTrainer`].

    Args:
        model: an audio classifier that takes `input_values`, `[batch, num_samples]`.
        args: see [`DetectionConfig`].
        train_dataset, eval_dataset: rows with `audio`, `label` and `utterance_id`, as `load_corpus` gives them; several
            evaluation sets as a mapping of names.
        processing_class: the feature extractor, saved beside the model.
        augment: alters training clips, instead of what `args.rawboost` names.
        augment_batch: alters training batches on the device, `[batch, num_samples]` with the seed of each clip, instead of
            what `args.device_augmentation` names.
        kwargs: of `transformers.Trainer`.

    Raises:
        LabelError: for labels outside the model's.
        ValueError: for class weights of other labels, and where `metric_for_best_model` names nothing that the evaluation
            sets give.
    """

    loss_is_scaled_for_ga = True  # by the weights of all the clips of a step
    metric_names: tuple[str, ...] = ("eer", "loss", "accuracy")  # that an evaluation may give

    def __init__(
        self,
        model: PreTrainedModel,
        args: DetectionConfig | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any | Mapping[str, Any] | None = None,
        processing_class: Any = None,
        augment: Augmentation | None = None,
        augment_batch: Callable[[torch.Tensor, Sequence[int]], torch.Tensor] | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        args = args or DetectionConfig(output_dir="detector")
        self.label2id = {label: int(index) for label, index in model.config.label2id.items()}
        self.class_weights = self.read_class_weights(args)
        self.augment = augment if augment is not None else RawBoost(args.rawboost) if args.rawboost else None
        self.augment_batch = augment_batch
        if augment_batch is None and args.device_augmentation:
            self.augment_batch = DeviceAugmentation(DeviceAugmentationConfig.of(args.device_augmentation))
        self._statistics: BatchNormStatistics | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._note_weights: dict[str, torch.Tensor] = {}
        callbacks = list(callbacks or [])
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        eval_clips = self._prepare_eval(eval_dataset, args)
        if compute_metrics is None:
            self._check_best_metric(args, eval_clips)
        super().__init__(
            model,
            args,
            data_collator=collate,
            train_dataset=None if train_dataset is None else self.prepare_train(train_dataset, args),
            eval_dataset=eval_clips,
            processing_class=processing_class,
            compute_metrics=compute_metrics or self.error_rates,
            preprocess_logits_for_metrics=_logits_alone,
            callbacks=callbacks,
            **kwargs,
        )

    # Data

    def read_class_weights(self, args: DetectionConfig) -> torch.Tensor | None:
        """The weight of each label, `[labels]`; `None` where they are alike. Raises ValueError for other labels."""
        return _weights(args.class_weights, self.label2id)

    def prepare_train(self, rows: Any, args: DetectionConfig) -> ClipDataset:
        """The training rows as clips."""
        return self.clips(rows, args, crop=args.crop)

    def clips(self, rows: Any, args: DetectionConfig, **options: Any) -> ClipDataset:
        """Rows as labelled clips, with further `options` of [`ClipDataset`]."""
        names = label_names(rows)
        options |= {"num_samples": args.num_samples, "augment": self.augment}
        return ClipDataset(rows, self.label2id, label_names=names, **options)

    def _prepare_eval(self, rows: Any, args: DetectionConfig) -> Any:
        if rows is None or isinstance(rows, (str, ClipDataset)):  # a name among several sets
            return rows
        if isinstance(rows, Mapping):
            return {name: self._prepare_eval(part, args) for name, part in rows.items()}
        return self.clips(rows, args, augment_eval=args.augment_eval)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        return super().get_eval_dataloader(self._prepare_eval(eval_dataset, self.args))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return super().get_test_dataloader(self._prepare_eval(test_dataset, self.args))

    def _get_dataloader(
        self, dataset: Any, description: str, batch_size: int, *args: Any, is_training: bool = False, **kwargs: Any
    ) -> DataLoader:
        """As in transformers, where `dataloader_drop_last` would leave clips out of evaluations, too."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(dataset, description, batch_size, *args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededRandomSampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        self.sampler = SeededRandomSampler(len(dataset), self.args.seed)
        return self.sampler

    def _get_collator_with_removed_columns(self, data_collator: Callable, description: str | None = None) -> Callable:
        collator = super()._get_collator_with_removed_columns(data_collator, description)
        return collator.data_collator if isinstance(collator, RemoveColumnsCollator) else collator

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        seeds = inputs.pop("seed", None)  # evaluation clips have none, unless they are to be altered
        if self.augment_batch is not None and seeds is not None:
            inputs["input_values"] = self.augment_batch(inputs["input_values"], seeds)
        return inputs

    # Loss

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of each clip in at least float32, times its class weight, and the weights, both `[batch]`."""
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        weights = logits.new_ones(logits.shape[1]) if self.class_weights is None else self.class_weights.to(logits)
        losses = F.cross_entropy(
            logits, labels, weight=weights, reduction="none", label_smoothing=self.args.label_smoothing_factor
        )
        return losses, weights[labels]

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | None]:
        """The batches of one step, and what `total_weight` makes of all their clips over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        labels = torch.cat([batch["labels"] for batch in batches]).to(device)
        return batches, average_over_processes([self.total_weight(labels)])[0] * self.args.world_size

    def total_weight(self, labels: torch.Tensor) -> torch.Tensor:
        """What the losses of the clips are divided by, `[]`: the sum of their class weights."""
        weights = torch.ones(len(self.label2id)) if self.class_weights is None else self.class_weights
        return weights.to(labels.device)[labels].sum()

    def mean_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, total_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The (weighted) mean loss of some clips, `[]`, or their share in that of more, whose weight is given."""
        losses, weights = self.losses(logits, labels)
        return losses.sum() / (weights.sum() if total_weight is None else total_weight)

    def run_model(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
        """The forward pass on a batch; in evaluation, with the logits that `predict` gives as `logits`."""
        return model(input_values=inputs["input_values"])

    def training_loss(self, outputs: Any, inputs: dict[str, Any], total_weight: torch.Tensor | None) -> torch.Tensor:
        """A batch's share in the loss of a step of that weight, or its own mean without, `[]`."""
        return self.mean_loss(outputs.logits, inputs["labels"], total_weight)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """
        A batch's share in the loss of its step, or, in evaluation, its own (weighted) mean.

        Args:
            num_items_in_batch: the weight of all clips of the step, from `get_batch_samples`.
        """
        outputs = self.run_model(model, inputs)
        if model.training:
            loss = self.training_loss(outputs, inputs, num_items_in_batch)
            if num_items_in_batch is not None:  # the gradients of several processes are averaged
                loss = loss * self.args.world_size
            if self._statistics is not None:
                self._statistics.keep()
            self.require_finite(loss, inputs)
        else:
            loss = self.mean_loss(outputs.logits, inputs["labels"])
        return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if not self.args.activation_checkpointing:
            return super().training_step(model, inputs, num_items_in_batch)
        self._statistics = BatchNormStatistics(model)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._statistics.restore()
        return loss

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
            "Look at them, lower the learning rate, or train in float32, from an earlier checkpoint on."
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The cycle that `args.cycle_steps` asks for, or what `args.lr_scheduler_type` names."""
        if self.args.cycle_steps is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        low = self.args.minimum_learning_rate / self.args.learning_rate
        triangle = partial(_triangle, low=low, steps=self.args.cycle_steps)
        self.lr_scheduler = LambdaLR(optimizer if optimizer is not None else self.optimizer, triangle)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """
        As in transformers, where a checkpoint of adapters belongs to the encoder that the model has.

        Raises:
            ValueError: where it belongs to another one, as after a branch has moved.
        """
        path = Path(resume_from_checkpoint) / "config.json"
        saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        theirs, ours = ((lora or {}).get("base_sha256") for lora in (saved.get("lora"), self._lora()))
        if theirs != ours:
            raise ValueError(
                f"{resume_from_checkpoint} was trained on another encoder (digest {str(theirs)[:16]}) than the model has "
                f"({str(ours)[:16]}): give the same one and the same revision of it."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _lora(self) -> dict | None:
        return getattr(self.accelerator.unwrap_model(self.model).config, "lora", None)

    # Evaluation and logs

    def _check_best_metric(
        self, args: DetectionConfig, eval_clips: ClipDataset | Mapping[str, ClipDataset] | None
    ) -> None:
        """
        Completes a bare metric where there is one evaluation set, and holds its name against what evaluation will give.

        Raises:
            ValueError: for a metric that will not be there.
        """
        if eval_clips is None or args.metric_for_best_model is None or args.eval_strategy == "no":
            return
        several = isinstance(eval_clips, Mapping)
        sets = {f"{name}_": clips for name, clips in eval_clips.items()} if several else {"": eval_clips}
        known = {prefix + metric: (metric, sets[prefix]) for prefix in sets for metric in self.metric_names}
        name, only = args.metric_for_best_model.removeprefix("eval_"), next(iter(sets)) if len(sets) == 1 else ""
        # Of several tasks, a bare name is the mean over them.
        whole = next((full for full in (name, f"{only}{name}", f"{only}mean_{name}") if full in known), None)
        if whole is None:
            given = args.metric_for_best_model
            raise ValueError(f"`metric_for_best_model` is one of {', '.join(known)}, got {given!r}.")
        if whole != name:
            args.metric_for_best_model = whole
        self.check_measurable(whole, *known[whole])

    def check_measurable(self, name: str, metric: str, clips: ClipDataset) -> None:
        """
        Raises:
            ValueError: for a metric that the labels of a set do not allow, called `name` there.
        """
        counts = Counter(clips.labels)
        if metric == "eer" and len(counts) < 2:
            raise ValueError(
                f"{name!r} is no measure of a set with one label alone ({sum(counts.values())} clips of it): give "
                "`eval_dataset` both, or `metric_for_best_model` another name."
            )

    def error_rates(self, prediction: EvalPrediction) -> dict[str, float]:
        """
        Of all clips of a set: loss, EER of the log-odds of bona fide, and accuracy where they are compared with 0.

        No EER where all clips have one label.
        """
        bonafide, spoof = self.scores(prediction)
        logits, labels = prediction.predictions.astype(np.float64), prediction.label_ids
        # Under this name it takes the place of the Trainer's mean over batches, which class weights would make depend
        # on their size.
        metrics = {"loss": float(self.mean_loss(torch.from_numpy(logits), torch.from_numpy(labels)))}
        metrics["accuracy"] = float(((bonafide > 0).sum() + (spoof <= 0).sum()) / len(labels))
        if len(bonafide) and len(spoof):
            metrics["eer"] = eer(bonafide, spoof).eer
        return metrics

    def scores(self, prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of bona fide, of the bona fide clips and of the spoofs."""
        logits, labels = prediction.predictions.astype(np.float64), prediction.label_ids
        genuine = self.label2id["bonafide"]
        scores = logits[:, genuine] - np.logaddexp.reduce(np.delete(logits, genuine, axis=1), axis=1)
        return scores[labels == genuine], scores[labels != genuine]

    def note(self, name: str, value: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """
        Averages a value over the batches until the next log entry, and over the processes, which note the same names.

        Args:
            weight: of what `value` is the sum over, `[]`; by default `value` is a mean that counts once.
        """
        value = value.detach()
        self._sums[name] = self._sums.get(name, 0) + value
        weight = torch.ones_like(value) if weight is None else weight.detach().to(value.device)
        self._note_weights[name] = self._note_weights.get(name, 0) + weight

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._sums:
            sums = [total.float() for total in self._sums.values()]
            weights = [weight.float() for weight in self._note_weights.values()]
            both = average_over_processes([*sums, *weights])
            pairs = zip(self._sums, both[: len(sums)], both[len(sums) :], strict=True)
            logs |= {name: float(total / weight) for name, total, weight in pairs if weight > 0}
            self._sums, self._note_weights = {}, {}
        super().log(logs, start_time)


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


def _triangle(step: int, low: float, steps: int) -> float:
    """From `low` to 1 and back in `steps` steps, again and again."""
    place = (step % steps) / steps
    return low + (1 - low) * (1 - abs(2 * place - 1))
