"""What the metric scripts share: how trials come in, and the description that `evaluate` shows."""

import datasets
import evaluate
import numpy as np


INPUTS = """
Args:
    predictions: one score per trial; higher means more likely genuine speech. Natural log-odds, where the metric reads
        the scores as such.
    references: the class id of each trial.
    bonafide_label (`int`, 0): the class id of genuine speech, which high scores speak for (scikit-learn's `pos_label`).
        Every other id is a spoof. Data sets that number `spoof` 0 and `bonafide` 1 need 1 here.
"""


def metric_info(description: str, *, options: str, returns: str, citation: str, url: str) -> evaluate.MetricInfo:
    """The description of a metric over scores and class ids; `options` and `returns` complete the list of arguments."""
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=f"{INPUTS}{options}\nReturns:\n{returns}",
        # float32 would round scores, and make equal ones of scores that differ.
        features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}),
        reference_urls=[url],
    )


def split_trials(predictions, references, bonafide_label: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Scores of bona fide trials and of spoofs, `(trials,)` each.

    Raises:
        `ValueError`: for trials without a label (`None`, or an id below zero as `datasets` writes it), and where one of the
            classes is missing. What is wrong with the scores is for the metric to say.
    """
    scores = np.asarray(predictions, dtype=np.float64)
    labels = np.asarray(references, dtype=np.float64)  # as integers, None would not pass; here it is NaN
    unlabelled = np.count_nonzero(~(labels >= 0))
    if unlabelled:
        raise ValueError(
            f"{unlabelled} of {labels.size} references are missing or below 0: leave out trials without a label"
        )
    is_bonafide = labels == bonafide_label
    for kind, found in (("bona fide", is_bonafide), ("spoof", ~is_bonafide)):
        if not found.any():
            ids = ", ".join(f"{label:.0f}" for label in np.unique(labels)[:5]) or "nothing"
            raise ValueError(
                f"there are no {kind} trials: bona fide is class {bonafide_label}, the references hold {ids}; "
                "pass bonafide_label= if genuine speech has another id"
            )
    return scores[is_bonafide], scores[~is_bonafide]
