"""The four questions of codec source tracing, their classes, and the logits that answer them."""

from collections.abc import Mapping, Sequence

import torch


# The class of a clip in a task where it is not known, as `torch.nn.functional.cross_entropy` passes over it.
UNKNOWN = -100

# The taxonomy of CodecFake+ (arXiv 2501.08238). Bona fide speech comes first in every task.
TASK_LABELS = {
    "bin": ("bonafide", "spoof"),
    "vq": ("bonafide", "mvq", "svq", "sq"),
    "aux": ("bonafide", "none", "semantic", "disentanglement"),
    "dec": ("bonafide", "time", "frequency"),
}

# Weights of the classes in the cross-entropy of the public implementations, in the order of TASK_LABELS.
SASTNET_CLASS_WEIGHTS = {
    "bin": (0.5, 0.5),
    "vq": (0.1, 0.3, 0.3, 0.3),
    "aux": (0.1, 0.3, 0.3, 0.3),
    "dec": (0.2, 0.4, 0.4),
}
BASELINE_CLASS_WEIGHTS = {**SASTNET_CLASS_WEIGHTS, "bin": (0.9, 0.1), "dec": (0.1, 0.45, 0.45)}


def complete_task_labels(
    tasks: Sequence[str], task_labels: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """
    The classes of every task: those of `TASK_LABELS`, or the part of them that `task_labels` keeps.

    Raises:
        `ValueError`: for no task, an unknown or repeated one, and for labels that are not bona fide followed by some of
            the task's own, in their order.
    """
    unknown = [task for task in tasks if task not in TASK_LABELS]
    if not tasks or unknown or len(set(tasks)) < len(tasks):
        raise ValueError(f"`tasks` are some of {', '.join(TASK_LABELS)}, each once, got {list(tasks)}.")
    given = dict(task_labels or {})
    if strangers := sorted(set(given) - set(tasks)):
        raise ValueError(f"`task_labels` names {', '.join(strangers)}, but the model's tasks are {', '.join(tasks)}.")
    complete = {task: list(given.get(task, TASK_LABELS[task])) for task in tasks}
    for task, labels in complete.items():
        known = TASK_LABELS[task]
        if len(labels) < 2 or labels != [label for label in known if label in labels] or labels[0] != known[0]:
            raise ValueError(
                f"`task_labels[{task!r}]` is {known[0]!r} followed by some of {', '.join(known[1:])}, in this order, got "
                f"{labels}."
            )
    return complete


def index_classes(
    task: str, labels: Sequence[str], id2label: Mapping | None = None, num_labels: int | None = None
) -> dict[int, str]:
    """
    The `id2label` of a model whose logits answer `task` with `labels`.

    Raises:
        `ValueError`: for an `id2label` or `num_labels` that was given and says otherwise.
    """
    classes = dict(enumerate(labels))
    given = None if id2label is None else {int(index): label for index, label in id2label.items()}
    if given not in (None, classes) or num_labels not in (None, len(classes)):
        raise ValueError(
            f"the first task {task!r} has the labels {', '.join(labels)}, but `id2label` is {given} and `num_labels` is "
            f"{num_labels}; leave both out and choose labels by `task_labels`."
        )
    return classes


def check_answers(tasks: Sequence[str], task_labels: Mapping[str, Sequence[str]] | None, id2label: Mapping[int, str]):
    """
    Compares the tasks of a model with what its logits answer; a model without `task_labels` answers `"bin"`.

    Raises:
        `ValueError`: for other tasks than the labels are of, or another order, and for other names of the first one's classes.
    """
    answered = ["bin"] if task_labels is None else list(task_labels)
    if list(tasks) != answered:
        raise ValueError(
            f"this model answers {', '.join(answered)}, in this order, and was asked for {', '.join(tasks)}: loading does not "
            "change what a checkpoint was trained for. Load another one, or leave the task out."
        )
    named = [id2label[index] for index in sorted(id2label)]
    if task_labels is not None and named != list(task_labels[tasks[0]]):
        raise ValueError(
            f"the classes of {tasks[0]!r} are {', '.join(task_labels[tasks[0]])}, but `id2label` names {', '.join(named)}: "
            "leave both out."
        )


def logits_by_task(output, config) -> dict[str, torch.Tensor]:
    """
    Logits of every task of a model of the AASIST or SASTNet family, each `(batch_size, classes of the task)`.

    Args:
        output: what the model's forward pass returned.
        config: of the model; its `tasks` tell what the logits answer.
    """
    several = getattr(output, "task_logits", None)
    return dict(several) if several is not None else {config.tasks[0]: output.logits}


__all__ = [
    "BASELINE_CLASS_WEIGHTS",
    "SASTNET_CLASS_WEIGHTS",
    "TASK_LABELS",
    "UNKNOWN",
    "check_answers",
    "complete_task_labels",
    "index_classes",
    "logits_by_task",
]
