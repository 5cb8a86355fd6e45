"""What the predicted classes of test clips come to: F1 with intervals, confusion, and F1 and silence by codec or generator."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spooftrace.classification import classification_report, confusion_matrix, random_guess, report_of
from spooftrace.data_scripts.rows import Row
from spooftrace.intervals import Interval
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers.tracing_intervals import report_intervals
from spooftrace.trainers.tracing_sets import clusters_of, source_of, true_classes


MEASURES = ("weighted_f1", "macro_f1")
ROUNDS = 1000
"""Of each bootstrap."""


@dataclass(frozen=True)
class TaskResult:
    """
    One row of a table in one task on one test set.

    Args:
        weighted_f1: F1 of the classes weighted by their trials, as published, in [0, 1].
        macro_f1: their plain mean.
        intervals: bootstrap intervals of both by name; none where a set has fewer than two genuine or spoofed trials.
        confusion: trials by class (rows) and predicted class, in the order of `TASK_LABELS`.
        failed: trials left out because their clip could not be read.
    """

    weighted_f1: float
    macro_f1: float
    intervals: dict[str, Interval]
    confusion: list[list[int]]
    failed: int = 0

    @property
    def trials(self) -> int:
        return int(np.sum(self.confusion))

    @property
    def by_chance(self) -> float:
        """The weighted F1 that is expected of guessing every class alike on these trials."""
        return report_of(random_guess(np.sum(self.confusion, axis=1))).weighted_f1


@dataclass(frozen=True)
class SourceResult:
    """
    One codec or generator in one task.

    Args:
        name: of the codec or generator.
        trials: clips that it made.
        recall: share of them that were traced to the right class.
        f1: weighted F1 over them and the genuine clips beside them: all of a corpus, or those of the generator's page.
        silence: mean share of its clips without speech; `None` where it was not measured.
    """

    name: str
    trials: int
    recall: float
    f1: float
    silence: float | None = None


def predicted_classes(lines: Sequence[Mapping[str, Any]], task: str) -> np.ndarray:
    """
    Index of every clip's most likely class among `TASK_LABELS[task]`, -1 for a clip that could not be read.

    Args:
        lines: of [`ClassScorer`].
        task: one that the model answers.
    """
    labels = TASK_LABELS[task]
    scores = [line["log_probabilities"][task] if "log_probabilities" in line else None for line in lines]
    best = [-1 if found is None else labels.index(max(found, key=found.__getitem__)) for found in scores]
    return np.array(best, dtype=np.int64)


def guessed_classes(rows: Sequence[Row], task: str, seed: int = 0) -> np.ndarray:
    """A class for every trial, each as likely as the others; it follows from the utterance id, the task and the seed."""
    texts = (f"{seed} {task} {row.utterance_id}" for row in rows)
    numbers = (int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") for text in texts)
    return np.array([number * len(TASK_LABELS[task]) >> 256 for number in numbers], dtype=np.int64)


def measure(rows: Sequence[Row], predicted: np.ndarray, task: str) -> TaskResult:
    """
    F1 scores with bootstrap intervals, of `clusters_of` the trials or of single trials.

    Args:
        rows: the trials.
        predicted: index of each one's predicted class, -1 for a trial to leave out.
        task: whose classes these are.

    Raises:
        ValueError: where no trial is left.
    """
    kept = predicted >= 0
    if not kept.any():
        raise ValueError(f"none of {len(rows):,} clips could be scored: there is nothing to measure")
    classes, truth = len(TASK_LABELS[task]), true_classes(rows, task)[kept]
    confusion = confusion_matrix(truth, predicted[kept], classes=classes)
    report = report_of(confusion)
    clusters = clusters_of([row for row, keep in zip(rows, kept, strict=True) if keep])
    who = None if clusters is None else np.array(clusters, dtype=object)
    intervals = report_intervals(truth, predicted[kept], classes, MEASURES, clusters=who, rounds=ROUNDS)
    failed = int(np.count_nonzero(~kept))
    return TaskResult(report.weighted_f1, report.macro_f1, intervals, confusion.tolist(), failed)


def by_source(
    rows: Sequence[Row], predicted: np.ndarray, task: str, silence: Mapping[str, float] | None = None
) -> list[SourceResult]:
    """
    Results of every codec or generator, by name.

    Args:
        rows: the trials.
        predicted: index of each one's predicted class, -1 for a trial to leave out.
        task: whose classes these are.
        silence: utterance id -> share of the clip without speech.
    """
    sources = np.array([source_of(row) for row in rows], dtype=object)
    genuine = np.array([row.label == "bonafide" for row in rows])
    truth, scored = true_classes(rows, task), predicted >= 0
    results = []
    for name in sorted(set(sources) - {None}):
        made = (sources == name) & ~genuine & scored
        together = ((sources == name) | (sources == None)) & scored  # noqa: E711  element by element
        if not made.any():
            continue
        report = classification_report(truth[together], predicted[together], classes=len(TASK_LABELS[task]))
        shares = [(silence or {}).get(rows[index].utterance_id) for index in np.flatnonzero(made)]
        known = [share for share in shares if share is not None]
        recall = float(np.mean(truth[made] == predicted[made]))
        mean = float(np.mean(known)) if known else None
        results.append(SourceResult(name, int(made.sum()), recall, report.weighted_f1, mean))
    return results


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of `number` pairs, in [-1, 1], and the two-sided p-value of there being none."""

    rho: float
    p_value: float
    number: int


def rank_correlation(first: Sequence[float], second: Sequence[float], rounds: int = 10_000) -> RankCorrelation | None:
    """
    Spearman's rank correlation, ties at their mean rank, with a permutation test.

    Returns:
        `None` for fewer than three pairs, and where one side is the same throughout.
    """
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second)]
    if len(ranks[0]) < 3 or not all(np.ptp(values) for values in ranks):
        return None
    left, right = ((values - values.mean()) / (values.std() * len(values) ** 0.5) for values in ranks)
    rng, rho = np.random.default_rng(0), float(left @ right)
    chance = np.array([left @ rng.permutation(right) for _ in range(rounds)])
    at_least = int(np.count_nonzero(np.abs(chance) >= abs(rho) - 1e-12))
    return RankCorrelation(rho, (at_least + 1) / (rounds + 1), len(left))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
