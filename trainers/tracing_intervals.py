"""Bootstrap intervals of what a confusion matrix comes to."""

from collections.abc import Callable, Sequence

import numpy as np

from spooftrace.classification import report_of
from spooftrace.intervals import Interval, bootstrap_interval


def report_intervals(
    truth: np.ndarray,
    predicted: np.ndarray,
    classes: int,
    measures: Sequence[str],
    *,
    clusters: np.ndarray | None = None,
    rounds: int,
) -> dict[str, Interval]:
    """
    95 % intervals by measure, of genuine and spoofed trials drawn apart; none for fewer than two trials of either.

    Args:
        truth, predicted: class numbers `(trials,)`, 0 for bona fide.
        classes: how many there are.
        measures: of the report that [`spooftrace.classification.report_of`] makes, such as `"macro_f1"`.
        clusters: `(trials,)`, what is drawn in a trial's stead, such as its speaker; by default each trial.
        rounds: of the bootstrap.
    """
    genuine, cells = truth == 0, truth * classes + predicted
    parts = cells[genuine], cells[~genuine]
    if min(map(len, parts)) < 2:
        return {}
    who = {} if clusters is None else {"bonafide_speakers": clusters[genuine], "spoof_speakers": clusters[~genuine]}

    def statistic(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
        def value(*drawn: np.ndarray) -> float:
            counts = np.bincount(np.concatenate(drawn).astype(np.int64), minlength=classes**2)
            return getattr(report_of(counts.reshape(classes, classes)), name)

        return value

    return {name: bootstrap_interval(statistic(name), *parts, **who, rounds=rounds) for name in measures}
