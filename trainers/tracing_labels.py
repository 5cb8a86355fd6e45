"""What the rows of a corpus answer to each task of source tracing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from spooftrace.modeling.source_tasks import TASK_LABELS, UNKNOWN
from spooftrace.trainers.clips import LabelError, column, spelled_labels


UnknownLabels = Literal["error", "mask"]


def labels_of(config: Any) -> dict[str, list[str]]:
    """The classes of each task of a model of the AASIST or SASTNet family, in the order of its logits."""
    if config.task_labels is not None:
        return {task: list(config.task_labels[task]) for task in config.tasks}
    return {config.tasks[0]: [config.id2label[index] for index in range(config.num_labels)]}


def task_numbers(
    rows: Any, task_labels: Mapping[str, Sequence[str]], unknown_labels: UnknownLabels = "error"
) -> list[list[int]]:
    """
    The class of each row in every task, `[rows][tasks]`, `UNKNOWN` where the row tells none.

    `"bin"` is the column `label`, the others have columns of their own. Bona fide rows are bona fide in every task.

    Args:
        rows: a `datasets.Dataset`, or a sequence of mappings; classes are names, or numbers of a `ClassLabel`.
        task_labels: the classes of each task, in the order of their numbers.
        unknown_labels: what becomes of a class of the taxonomy that is not among these.

    Raises:
        LabelError: for classes that no taxonomy has, for those of the taxonomy that the model lacks unless they are to be
            masked, and for rows whose columns contradict each other; all with their counts.
        KeyError: for rows without one of the columns.
    """
    genuine = spelled_task(rows, "bin")
    numbers = [
        _numbers(task, _answers(task, spelled_task(rows, task), genuine), labels, unknown_labels)
        for task, labels in task_labels.items()
    ]
    return [list(row) for row in zip(*numbers, strict=True)]


def spelled_task(rows: Any, task: str) -> list[str | None]:
    """The classes of one task as they stand in the rows, by name."""
    name = "label" if task == "bin" else task
    features = getattr(rows, "features", None) or {}
    return spelled_labels(column(rows, name), getattr(features.get(name), "names", None))


def _answers(task: str, values: list[str | None], labels: list[str | None]) -> list[str | None]:
    """A task's classes, with bona fide rows completed."""
    pairs = list(zip(values, labels, strict=True))
    wrong = Counter(pair for pair in pairs if None not in pair and (pair[0] == "bonafide") != (pair[1] == "bonafide"))
    if wrong:
        listed = ", ".join(f"{value!r} and {label!r} ({count} rows)" for (value, label), count in wrong.items())
        raise LabelError(f"the columns {task!r} and 'label' contradict each other: {listed}; correct one of the two.")
    return ["bonafide" if label == "bonafide" else value for value, label in pairs]


def _numbers(task: str, values: list[str | None], labels: Sequence[str], unknown_labels: UnknownLabels) -> list[int]:
    known = {label: number for number, label in enumerate(labels)}
    strangers = Counter(value for value in values if value is not None and value not in known)
    outside = [value for value in strangers if value not in TASK_LABELS[task]]
    if outside or (strangers and unknown_labels == "error"):
        counts = ", ".join(f"{value!r} ({count} rows)" for value, count in strangers.items())
        remedy = "" if outside else "; leave these rows out, or mask their classes with `unknown_labels='mask'`"
        raise LabelError(
            f"labels of the task {task!r} that the model does not have: {counts}; its own are {', '.join(labels)}{remedy}."
        )
    return [known.get(value, UNKNOWN) for value in values]


def count_classes(rows: Any, task: str) -> Counter:
    """Rows of each class of a task; those of which it is not known are counted as `None`."""
    return Counter(_answers(task, spelled_task(rows, task), spelled_task(rows, "bin")))


def take(rows: Any, kept: Sequence[int]) -> Any:
    """Some rows of a dataset or of a sequence."""
    return rows.select(kept) if hasattr(rows, "select") else [rows[index] for index in kept]
