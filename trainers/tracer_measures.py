"""What the card of a tracer says in numbers: F1 of every task with intervals, and how well unknown sources are told."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spooftrace.classification import confusion_matrix, random_guess, report_of
from spooftrace.intervals import bootstrap_interval
from spooftrace.open_set import auroc, fpr_at_tpr
from spooftrace.trainers.detector_corpus import Clip
from spooftrace.trainers.tracer_corpus import targets_of
from spooftrace.trainers.tracer_open_set import KNOWN_ACCEPTANCE, Traced
from spooftrace.trainers.tracing_intervals import report_intervals
from spooftrace.trainers.tracing_labels import UNKNOWN


MEASURES = ("macro_f1", "weighted_f1", "accuracy")
ROUNDS = 1000


def speaker_of(clip: Clip) -> str:
    """Who is resampled for a clip; a clip without a speaker is one of its own."""
    return clip.speaker or clip.file


def task_measures(traced: Traced, labels: Mapping[str, Sequence[str]], with_intervals: bool = True) -> dict[str, dict]:
    """
    [`confusion_measures`] of every task, over the clips whose class is in the label set; tasks without one are left out.

    Args:
        traced: genuine and codec-made clips.
        labels: classes of each task.
        with_intervals: 95 % bootstrap intervals over speakers, where there are two clips of each label.
    """
    targets, results = targets_of(traced.clips, labels), {}
    speakers = np.array([speaker_of(clip) for clip in traced.clips], dtype=object)
    for column, (task, names) in enumerate(labels.items()):
        known = targets[:, column] != UNKNOWN
        if known.any():
            truth, predicted = targets[known, column], traced.predictions(task)[known]
            results[task] = confusion_measures(truth, predicted, names)
            if with_intervals:
                results[task] |= f1_intervals(truth, predicted, speakers[known], len(names))
    return results


def confusion_measures(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Support, confusion and `MEASURES` of class numbers `(clips,)`, beside always guessing bona fide and guessing at random."""
    confusion = confusion_matrix(truth, predicted, classes=len(names))
    support = confusion.sum(axis=1)
    majority = np.zeros_like(confusion)
    majority[:, 0] = support
    return {
        "support": dict(zip(names, support.tolist(), strict=True)),
        "confusion": confusion.tolist(),
        **_measures(confusion),
        "majority": _measures(majority),
        "random": _measures(random_guess(support)),
    }


def _measures(confusion: np.ndarray) -> dict[str, float]:
    report = report_of(confusion)
    return {name: round(getattr(report, name), 4) for name in MEASURES}


def f1_intervals(truth: np.ndarray, predicted: np.ndarray, speakers: np.ndarray, classes: int) -> dict[str, Any]:
    """95 % intervals `[low, high]` of `MEASURES` by bootstrap over speakers, and their number; none of too few clips."""
    number = len(set(speakers))
    options = {"clusters": speakers, "rounds": ROUNDS}
    found = report_intervals(truth, predicted, classes, MEASURES, **options) if number > 1 else {}
    intervals = {f"{name}_interval": [round(of.low, 4), round(of.high, 4)] for name, of in found.items()}
    return {"speakers": number, **intervals} if found else {}


def unknown_measures(
    known: tuple[Sequence[Clip], np.ndarray], unknown: tuple[Sequence[Clip], np.ndarray], threshold: float
) -> dict[str, Any]:
    """
    How an open-set score separates clips of unknown sources from known ones.

    Args:
        known, unknown: clips and their scores `(clips,)`, higher where more likely unknown.
        threshold: above which a clip is called unknown.

    Returns:
        Clips, AUROC with its interval over speakers, the share of unknown clips that pass where 95 % of these known ones do,
        and the shares of both that the threshold calls unknown.
    """
    scores = known[1], unknown[1]
    speakers = [np.array([speaker_of(clip) for clip in clips], dtype=object) for clips in (known[0], unknown[0])]
    who = {"bonafide_speakers": speakers[0], "spoof_speakers": speakers[1]}
    interval = bootstrap_interval(auroc, *scores, **who, rounds=ROUNDS)
    return {
        "known": len(scores[0]),
        "unknown": len(scores[1]),
        "auroc": round(auroc(*scores), 4),
        "auroc_interval": [round(interval.low, 4), round(interval.high, 4)],
        "fpr_at_95_tpr": round(fpr_at_tpr(*scores, KNOWN_ACCEPTANCE), 4),
        "known_called_unknown": round(float(np.mean(scores[0] > threshold)), 4),
        "unknown_called_unknown": round(float(np.mean(scores[1] > threshold)), 4),
    }
