"""Codec source tracing: classifiers of one or several tasks, trained with cross-entropy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import EvalPrediction, PreTrainedModel
from transformers.utils import logging

from spooftrace.classification import classification_report
from spooftrace.metrics import eer
from spooftrace.modeling.source_tasks import (
    BASELINE_CLASS_WEIGHTS,
    SASTNET_CLASS_WEIGHTS,
    TASK_LABELS,
    logits_by_task,
)
from spooftrace.trainers.clips import ClipDataset, LabelError
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.tracing_config import TracingConfig
from spooftrace.trainers.tracing_labels import UNKNOWN, labels_of, take, task_numbers


logger = logging.get_logger(__name__)

PUBLISHED_CLASS_WEIGHTS = {"sastnet": SASTNET_CLASS_WEIGHTS, "baseline": BASELINE_CLASS_WEIGHTS}
AVERAGED = ("accuracy", "weighted_f1", "macro_f1")
"""What is given for each task, and as the mean over several."""


class TracingTrainer(DetectionTrainer):
    """
    Trains a source tracer of the AASIST or SASTNet family with weighted cross-entropy, and evaluates each of its tasks.

    ```python
    model = AasistForAudioClassification(AasistConfig(frontend="mel", tasks=["vq", "dec"]))
    trainer = TracingTrainer(model, TracingConfig("out"), train_dataset=train, eval_dataset=dev)
    ```

    A class that is not known is masked. Training rows without a known class in any of the tasks are dropped, with a line
    that counts them. A step's loss is the weighted mean over its tasks of the weighted mean over all clips whose class is
    known, so that it depends neither on how they are divided into accumulated batches nor on how many processes share them.

    Logged of the training, besides what the Trainer logs: `accuracy`, or of several tasks `TASK_loss` and `TASK_accuracy`.
    Evaluation gives `accuracy`, `weighted_f1` and `macro_f1`, of `"bin"` also `eer`; of several tasks each with the task's
    name before it and its `TASK_loss`, and the three as means over the tasks too. What has no known clip in a set is left
    out. `predict` gives the logits of all tasks side by side, `[clips, classes of all tasks]`.

    Args:
        model: whose configuration tells `tasks` and their labels.
        args: see [`TracingConfig`].
        kwargs: as for [`DetectionTrainer`]; rows also have the columns `vq`, `aux` and `dec`, as far as they are asked for.

    Raises:
        LabelError: for classes that the model does not have, and where no row is left to train on.
        ValueError: for weights of other tasks or classes, and where `metric_for_best_model` names nothing that the
            evaluation sets give.
    """

    def __init__(self, model: PreTrainedModel, args: TracingConfig | None = None, **kwargs: Any):
        args = args or TracingConfig(output_dir="tracer")
        self.model_config, self.task_labels = model.config, labels_of(model.config)
        self.task_weights = _task_weights(args.task_weights, list(self.task_labels))
        super().__init__(model, args, **kwargs)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What an evaluation may give."""
        if len(self.task_labels) == 1:
            return (*AVERAGED, "loss", *(["eer"] if "bin" in self.task_labels else []))
        of_tasks = [f"{task}_{name}" for task in self.task_labels for name in (*AVERAGED, "loss")]
        means = [f"mean_{name}" for name in AVERAGED]
        return (*of_tasks, *means, "loss", *(["bin_eer"] if "bin" in self.task_labels else []))

    # Data

    def read_class_weights(self, args: TracingConfig) -> dict[str, torch.Tensor]:
        """
        The weight of each class by task, `[classes]`; a configuration that holds class weights gets these.

        Raises:
            ValueError: for other tasks or classes.
        """
        given, own = args.class_weights, getattr(self.model_config, "class_weights", None)
        if given is None and own is not None:
            return {task: torch.tensor([float(weight) for weight in own]) for task in self.task_labels}
        weights = _class_weights(given, self.task_labels)
        if own is not None:
            values = next(iter(weights.values())).tolist()  # of float32: 0.1 would be 0.10000000149
            self.model_config.class_weights = [float(f"{value:.6g}") for value in values]
        return weights

    def prepare_train(self, rows: Any, args: TracingConfig) -> ClipDataset:
        numbers = task_numbers(rows, self.task_labels, args.unknown_labels)
        kept = [index for index, row in enumerate(numbers) if any(number != UNKNOWN for number in row)]
        tasks = " or ".join(self.task_labels)
        if not kept:
            raise LabelError(f"none of {len(numbers)} training rows has a known class of the task {tasks}.")
        if len(kept) < len(numbers) and args.process_index == 0:
            logger.warning(
                f"{len(numbers) - len(kept):,} of {len(numbers):,} training rows are left out: they have no known class of "
                f"the task {tasks}."
            )
        return super().prepare_train(take(rows, kept) if len(kept) < len(numbers) else rows, args)

    def clips(self, rows: Any, args: TracingConfig, **options: Any) -> ClipDataset:
        numbers = task_numbers(rows, self.task_labels, args.unknown_labels)
        options |= {"num_samples": args.num_samples, "augment": self.augment}
        return ClipDataset(rows, self.label2id, labels=numbers, **options)

    # Loss

    def run_model(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Any:
        return self.with_all_logits(model(input_values=inputs["input_values"]))

    def with_all_logits(self, outputs: Any) -> Any:
        """A model's output whose `logits` are those of all tasks side by side, `[batch, classes of all tasks]`."""
        outputs.logits = torch.cat(list(logits_by_task(outputs, self.model_config).values()), dim=1)
        return outputs

    def divide(self, logits: Any) -> dict[str, Any]:
        """Logits of all tasks side by side, as a tensor or array, by task."""
        edges = np.cumsum([0, *(len(labels) for labels in self.task_labels.values())])
        return {
            task: logits[:, start:end]
            for task, start, end in zip(self.task_labels, edges[:-1], edges[1:], strict=True)
        }

    def total_weight(self, labels: torch.Tensor) -> torch.Tensor:
        """What the losses of the clips are divided by in each task, `[tasks]`."""
        return self.known_weight(labels)

    def known_weight(self, labels: torch.Tensor) -> torch.Tensor:
        """The sum in each task of the class weights of the clips whose class is known, `[tasks]`."""
        return torch.stack(
            [
                weights.to(labels.device)[column[column != UNKNOWN]].sum()
                for weights, column in zip(self.class_weights.values(), labels.unbind(1), strict=True)
            ]
        )

    def task_losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum in each task of the weighted cross-entropies of the clips whose class is known, `[tasks]`."""
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        smoothing = self.args.label_smoothing_factor
        return torch.stack(
            [
                F.cross_entropy(
                    part,
                    labels[:, place],
                    self.class_weights[task].to(part),
                    ignore_index=UNKNOWN,
                    reduction="sum",
                    label_smoothing=smoothing,
                )
                for place, (task, part) in enumerate(self.divide(logits).items())
            ]
        )

    def mean_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, total_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The weighted mean over the tasks with a known class of their mean losses, `[]`; 0 without any.

        Args:
            logits: `[batch, classes of all tasks]`.
            labels: `[batch, tasks]`.
            total_weight: of more clips, `[tasks]`; the result is then the share of these in their loss.
        """
        sums = self.task_losses(logits, labels)
        totals = (self.known_weight(labels) if total_weight is None else total_weight).to(sums)
        shares = self.task_weights.to(sums) * (totals > 0)
        means = sums / torch.where(totals > 0, totals, 1)
        return (shares * means).sum() / shares.sum().clamp(min=torch.finfo(sums.dtype).tiny)

    def training_loss(self, outputs: Any, inputs: dict[str, Any], total_weight: torch.Tensor | None) -> torch.Tensor:
        self._note_tasks(outputs.logits.detach(), inputs["labels"])
        return super().training_loss(outputs, inputs, total_weight)

    def _note_tasks(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        sums, totals = self.task_losses(logits, labels), self.known_weight(labels)
        for place, (task, part) in enumerate(self.divide(logits).items()):
            known, prefix = labels[:, place] != UNKNOWN, self._prefix(task)
            right = (part.argmax(dim=1) == labels[:, place])[known].sum()
            self.note(f"{prefix}accuracy", right, known.sum())
            if prefix:  # of a single task it is the loss
                self.note(f"{prefix}loss", sums[place], totals[place])

    def _prefix(self, task: str) -> str:
        return f"{task}_" if len(self.task_labels) > 1 else ""

    # Evaluation

    def check_measurable(self, name: str, metric: str, clips: ClipDataset) -> None:
        columns = {task: [row[place] for row in clips.labels] for place, task in enumerate(self.task_labels)}
        task = next((task for task in columns if metric.startswith(f"{task}_")), None)
        if metric == "eer":
            task = "bin"
        known = {number for each in ([task] if task else columns) for number in columns[each]} - {UNKNOWN}
        needed = 2 if metric.endswith("eer") else 1
        if len(known) < needed:
            raise ValueError(
                f"{name!r} is no measure of a set of {len(clips)} clips with {len(known)} known classes of the task "
                f"{task or ' or '.join(columns)}: give `eval_dataset` more, or `metric_for_best_model` another name."
            )

    def error_rates(self, prediction: EvalPrediction) -> dict[str, float]:
        """The loss of a set, and what the class docstring lists for each task with a known clip."""
        found = self.task_results(prediction)
        metrics = {
            f"{self._prefix(task)}{name}": value
            for task, results in found.items()
            for name, value in results.items()
            if name != "trials"
        }
        if len(self.task_labels) > 1 and found:
            metrics |= {f"mean_{name}": float(np.mean([each[name] for each in found.values()])) for name in AVERAGED}
        logits, labels = prediction.predictions.astype(np.float64), prediction.label_ids
        metrics["loss"] = float(self.mean_loss(torch.from_numpy(logits), torch.from_numpy(labels)))
        return metrics

    def task_results(self, prediction: EvalPrediction) -> dict[str, dict[str, Any]]:
        """Of each task with a known clip, what was measured, and `trials`, the clips of each class that has any."""
        logits, labels = prediction.predictions.astype(np.float64), prediction.label_ids
        losses = self.task_losses(torch.from_numpy(logits), torch.from_numpy(labels)).tolist()
        weights = self.known_weight(torch.from_numpy(labels)).tolist()
        found = {}
        for place, (task, part) in enumerate(self.divide(logits).items()):
            known = labels[:, place] != UNKNOWN
            if known.any():
                results = self._measure(task, part[known], labels[known, place])
                found[task] = {**results, "loss": losses[place] / weights[place]}
        if "bin" in found:
            bonafide, spoof = self.scores(prediction)
            if len(bonafide) and len(spoof):
                found["bin"]["eer"] = eer(bonafide, spoof).eer
        return found

    def _measure(self, task: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        report = classification_report(labels, logits.argmax(axis=1), classes=len(self.task_labels[task]))
        support = zip(self.task_labels[task], report.support.tolist(), strict=True)
        trials = {label: count for label, count in support if count}
        return {**{name: getattr(report, name) for name in AVERAGED}, "trials": trials}

    def scores(self, prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of bona fide in the task `"bin"`, of the bona fide clips and of the spoofs."""
        labels = prediction.label_ids[:, list(self.task_labels).index("bin")]
        known = labels != UNKNOWN
        return super().scores(EvalPrediction(self.divide(prediction.predictions)["bin"][known], labels[known]))


def _task_weights(weights: Mapping[str, float] | None, tasks: list[str]) -> torch.Tensor:
    if weights is None:
        return torch.ones(len(tasks))
    if weights.keys() != set(tasks) or not all(weight > 0 for weight in weights.values()):
        raise ValueError(
            f"`task_weights` needs a positive weight for each of {', '.join(tasks)}, got {dict(weights)}."
        )
    return torch.tensor([float(weights[task]) for task in tasks])


def _class_weights(
    given: Mapping[str, Mapping[str, float]] | str | None, task_labels: Mapping[str, list[str]]
) -> dict[str, torch.Tensor]:
    by_task = _published(given, task_labels) if isinstance(given, str) else dict(given or {})
    if strangers := sorted(set(by_task) - set(task_labels)):
        raise ValueError(
            f"`class_weights` names the task {', '.join(strangers)}, but the model's are {', '.join(task_labels)}."
        )
    return {task: _weights_of(task, labels, by_task.get(task)) for task, labels in task_labels.items()}


def _published(name: str, task_labels: Mapping[str, list[str]]) -> dict[str, dict[str, float]]:
    """Class weights by their name, of the labels that the model has; nothing for equal ones."""
    if name == "equal":
        return {}
    if name not in PUBLISHED_CLASS_WEIGHTS:
        known = ", ".join(map(repr, (*PUBLISHED_CLASS_WEIGHTS, "equal")))
        raise ValueError(f"`class_weights` is one of {known}, or weights by task and label, got {name!r}.")
    table = PUBLISHED_CLASS_WEIGHTS[name]
    known = {task: dict(zip(TASK_LABELS[task], table[task], strict=True)) for task in task_labels}
    return {task: {label: known[task][label] for label in labels} for task, labels in task_labels.items()}


def _weights_of(task: str, labels: list[str], weights: Mapping[str, float] | None) -> torch.Tensor:
    if weights is None:
        return torch.ones(len(labels))
    if not isinstance(weights, Mapping) or weights.keys() != set(labels) or not min(weights.values()) > 0:
        raise ValueError(
            f"`class_weights` of the task {task!r} needs a positive weight for each of {', '.join(labels)}, got {weights}."
        )
    return torch.tensor([float(weights[label]) for label in labels])
