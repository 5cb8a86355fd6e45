"""Metrics of classification, for source tracing and calibrated verdicts. numpy only.

Labels are integers from 0 to `classes - 1`. Classes without trials or predictions count as in scikit-learn with
`zero_division=0`; the weighted F1 is the one of the papers on codec source tracing.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ClassificationReport:
    """
    What a confusion matrix says.

    Args:
        accuracy: share of right predictions.
        balanced_accuracy: mean recall of the classes that have trials.
        precision, recall, f1: by class, shape `(classes,)`; 0 where they are not defined.
        support: trials by class, shape `(classes,)`.
        macro_f1: plain mean of `f1`, classes without trials included.
        weighted_f1: mean of `f1` weighted by `support`.
    """

    accuracy: float
    balanced_accuracy: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    macro_f1: float
    weighted_f1: float


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> np.ndarray:
    """
    Counts of trials by label (rows) and prediction (columns), int64 `(classes, classes)`.

    Args:
        labels, predictions: integers in `[0, classes)`, shape `(trials,)`.

    Raises:
        `ValueError`: for other shapes, no trials, or values outside, such as the -100 of masked trials: leave those out.
    """
    labels, predictions = _codes("labels", labels, classes), _codes("predictions", predictions, classes)
    if len(labels) != len(predictions):
        raise ValueError(f"there are {len(labels)} labels and {len(predictions)} predictions")
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def normalised_rows(confusion: np.ndarray) -> np.ndarray:
    """Each row of a confusion matrix as shares of its trials; zeros for a class without any."""
    return _shares(confusion, confusion.sum(axis=1, keepdims=True))


def classification_report(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> ClassificationReport:
    """All metrics of labels and predictions, see [`confusion_matrix`] for these."""
    return report_of(confusion_matrix(labels, predictions, classes=classes))


def report_of(confusion: np.ndarray) -> ClassificationReport:
    """All metrics of a confusion matrix of counts, or of expected counts, shape `(classes, classes)`, rows by label."""
    right, support, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    if not support.sum() > 0:
        raise ValueError("the confusion matrix has no trials")
    recall, f1 = _shares(right, support), _shares(2 * right, support + predicted)
    return ClassificationReport(
        accuracy=float(right.sum() / support.sum()),
        balanced_accuracy=float(recall[support > 0].mean()),
        precision=_shares(right, predicted),
        recall=recall,
        f1=f1,
        support=support,
        macro_f1=float(f1.mean()),
        weighted_f1=float((f1 * support).sum() / support.sum()),
    )


def random_guess(support: np.ndarray) -> np.ndarray:
    """Expected confusion matrix of guessing every class alike, for [`report_of`]: the papers' "Random" row."""
    support = np.asarray(support, dtype=np.float64)
    return np.repeat(support[:, None] / len(support), len(support), axis=1)


def expected_calibration_error(
    probability: np.ndarray, outcome: np.ndarray, *, bins: int = 10, balanced: bool = False
) -> float:
    """
    Mean gap between stated probability and observed share over equal-width bins, weighted by bin. In [0, 1].

    Args:
        probability: of the outcome, in [0, 1], shape `(trials,)`; of bona fide for a detector, of the predicted class for a
            classifier.
        outcome: whether it came about, boolean `(trials,)`; for a classifier, whether the prediction was right.
        balanced: weights both outcomes alike, so that the number does not hang on how many spoofs a corpus has.
    """
    probability, outcome, weight = _forecasts(probability, outcome, balanced)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=weight * (outcome - probability), minlength=bins)
    return float(np.abs(gaps).sum() / weight.sum())


def _codes(name: str, values: np.ndarray, classes: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} have shape {values.shape}; give one per trial, shape (trials,), and at least one")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name} are integers from 0 to {classes - 1}, got {values.dtype}")
    outside = values[(values < 0) | (values >= classes)]
    if outside.size:
        raise ValueError(
            f"{outside.size} of {values.size} {name} are not between 0 and {classes - 1}, such as {outside[0]}; "
            "leave out trials without a known class"
        )
    return values.astype(np.int64)


def _forecasts(
    probability: np.ndarray, outcome: np.ndarray, balanced: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probability, outcome = np.asarray(probability, dtype=np.float64), np.asarray(outcome, dtype=bool)
    if probability.shape != outcome.shape or probability.ndim != 1 or not probability.size:
        raise ValueError(
            f"give one probability and one outcome per trial, got shapes {probability.shape} and {outcome.shape}"
        )
    outside = np.count_nonzero(~((probability >= 0) & (probability <= 1)))
    if outside:
        raise ValueError(f"{outside} of {probability.size} probabilities are not between 0 and 1")
    if not balanced:
        return probability, outcome, np.ones(outcome.size)
    happened = np.count_nonzero(outcome)
    if happened in (0, outcome.size):
        raise ValueError("balanced weights need trials of both outcomes")
    return probability, outcome, np.where(outcome, 0.5 / happened, 0.5 / (outcome.size - happened))


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)
