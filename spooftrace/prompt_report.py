"""How wordings of a question compare on labelled clips: error rates, calibrated log-odds, and how far they agree."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spooftrace.evaluation import measure
from spooftrace.evaluation_report import Measures, Settings
from spooftrace.metrics import cllr
from spooftrace.prompt_study import Question


SCHEMA_VERSION = 1

Calibrate = Callable[[np.ndarray, np.ndarray], tuple[float, float]]

# Splits that results are reported on. A wording that was chosen there would look better than it is.
REPORTED_SPLITS = ("test", "eval", "progress", "hidden")


@dataclass(frozen=True)
class WordingMeasures:
    """
    One wording on the clips that all wordings have answered.

    Args:
        question: the wording.
        measures: of the bare log-odds, with the EER and its interval, the AUC and the CLLR.
        scale, bias: of the calibration `scale * score + bias`, fitted to these clips.
        cllr_calibrated: the CLLR after it; what is left is how well the wording separates.
        shift: mean of log-odds minus the model's own wording's, as they are.
        calibrated_difference: mean absolute difference from the model's own wording's log-odds, both calibrated.
    """

    question: Question
    measures: Measures
    scale: float
    bias: float
    cllr_calibrated: float
    shift: float
    calibrated_difference: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of the question what is for reading."""
        chosen = ("eer", "eer_threshold", "auc", "cllr")
        interval = self.measures.eer_interval
        return {
            "prompt": self.question.prompt,
            "system_prompt": self.question.system_prompt,
            "label_words": dict(zip(("bonafide", "spoof"), self.question.label_words, strict=True)),
            **{name: float(getattr(self.measures, name)) for name in chosen},
            "eer_interval": interval and asdict(interval),
            **{name: value for name, value in vars(self).items() if name not in ("question", "measures")},
        }


@dataclass(frozen=True)
class PromptReport:
    """
    All wordings, the model's own first.

    Args:
        wordings: their measures.
        agreement: `[i][j]`, the share of clips on which the calibrated decisions of two wordings agree.
        rank_correlation: `[i][j]`, Spearman's, of their log-odds; `None` where one gives all clips the same score.
        clips: `(bona fide, spoof)` that were answered.
        best:
            index of the wording with the lowest CLLR after calibration of those whose higher scores are the more genuine
            ones; `None` on a split that results are reported on.
        warning: why there is no best one.
    """

    wordings: list[WordingMeasures]
    agreement: list[list[float]]
    rank_correlation: list[list[float | None]]
    clips: tuple[int, int]
    best: int | None
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "clips": dict(zip(("bonafide", "spoof"), self.clips, strict=True)),
            "wordings": [wording.to_dict() for wording in self.wordings],
            "agreement": self.agreement,
            "rank_correlation": self.rank_correlation,
            "best": self.best,
            "warning": self.warning,
        }


def compare_wordings(
    questions: Sequence[Question],
    scores: np.ndarray,
    bonafide: np.ndarray,
    *,
    calibrate: Calibrate,
    split: str | None = None,
    speakers: Sequence[str | None] | None = None,
    settings: Settings | None = None,
) -> PromptReport:
    """
    Args:
        questions: the wordings, the model's own first.
        scores: log-odds of bona fide, `(clips, questions)`.
        bonafide: which clips are, boolean `(clips,)`.
        calibrate: bona fide and spoof scores -> scale and bias.
        split: which the clips are of.
        speakers: of the clips, resampled for the interval where all are known.
        settings: of the interval.

    Raises:
        ValueError: where one of the labels has no clip.
    """
    count = int(bonafide.sum()), int((~bonafide).sum())
    if not all(count):
        raise ValueError(
            f"wordings are compared on both labels, got {count[0]} bona fide clips and {count[1]} spoofs."
        )
    fitted = [calibrate(column[bonafide], column[~bonafide]) for column in scores.T]
    calibrated = np.stack(
        [scale * column + bias for (scale, bias), column in zip(fitted, scores.T, strict=True)], axis=1
    )
    options = {"settings": settings, "speakers": _by_label(speakers, bonafide)}
    shifts = (scores - scores[:, :1]).mean(axis=0)
    differences = np.abs(calibrated - calibrated[:, :1]).mean(axis=0)
    wordings = [
        WordingMeasures(
            question,
            measure(scores[bonafide, index], scores[~bonafide, index], **options),
            *fitted[index],
            cllr(calibrated[bonafide, index], calibrated[~bonafide, index]),
            float(shifts[index]),
            float(differences[index]),
        )
        for index, question in enumerate(questions)
    ]
    # A negative scale says that the answers mean the opposite; a detector would be worse than chance.
    sound = [index for index, wording in enumerate(wordings) if wording.scale > 0]
    warning = _warning(split, bool(sound))
    best = None if warning else min(sound, key=lambda index: wordings[index].cllr_calibrated)
    return PromptReport(wordings, agreement(calibrated), rank_correlation(scores), count, best, warning)


def _by_label(speakers: Sequence[str | None] | None, bonafide: np.ndarray) -> tuple[list, list] | tuple[None, None]:
    """The speakers of bona fide clips and of spoofs, where all are known."""
    if speakers is None or None in speakers:
        return None, None
    pairs = list(zip(speakers, bonafide, strict=True))
    return [speaker for speaker, real in pairs if real], [speaker for speaker, real in pairs if not real]


def _warning(split: str | None, any_sound: bool) -> str | None:
    if split not in REPORTED_SPLITS:
        return None if any_sound else "in no wording are higher scores the more genuine ones: none is named the best."
    return (
        f"the split {split!r} is what results are reported on: a wording that is chosen here would look better than it is. "
        "None is named the best; choose on the validation split."
    )


def agreement(log_odds: np.ndarray) -> list[list[float]]:
    """Share of clips `(clips, questions)` with the same sign, for each pair of questions."""
    genuine = log_odds >= 0
    return (genuine[:, :, None] == genuine[:, None, :]).mean(axis=0).tolist()


def rank_correlation(scores: np.ndarray) -> list[list[float | None]]:
    """Spearman's correlation of each pair of columns, ties by their mean rank; `None` for columns of one value."""
    ranks = np.stack([_ranks(column) for column in scores.T])
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(axis=1))
    products = ranks @ ranks.T
    return [
        [
            float(products[i, j] / (lengths[i] * lengths[j])) if lengths[i] * lengths[j] else None
            for j in range(len(ranks))
        ]
        for i in range(len(ranks))
    ]


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[places]
