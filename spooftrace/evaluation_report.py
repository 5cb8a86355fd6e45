"""What an evaluation says: numbers with the data, scores and model that they are of. Numbers in, JSON or text out."""

from dataclasses import asdict, dataclass, field
from typing import Any

from spooftrace._version import __version__
from spooftrace.intervals import Interval, PairedTest


SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """
    How intervals are made.

    Args:
        rounds: of the bootstrap; 0 for no intervals.
        level: share of the rounds inside.
        seed: the same one gives the same intervals.
        cluster: column of the speakers. Where all trials have one, speakers are resampled instead of trials.
    """

    rounds: int = 1000
    level: float = 0.95
    seed: int = 0
    cluster: str = "speaker_id"


@dataclass(frozen=True)
class Measures:
    """
    All numbers over one set of trials. A measure that needs both labels is `None` where one has no trial.

    Args:
        bonafide, spoof: numbers of trials.
        eer, eer_threshold: equal error rate, and the score above which trials are accepted there.
        eer_interval: its bootstrap interval.
        min_dcf, act_dcf: normalised detection costs of ASVspoof 5, track 1 (spoof prior 0.05, costs 1 and 10).
        cllr: cost of the log-likelihood ratio in bits.
        auc: area under the ROC curve.
        accuracy, balanced_accuracy, f1_bonafide, f1_spoof, f1_macro: of the decision "bona fide from a score of 0 on".
        confusion: its counts; rows are true, columns predicted, bona fide first.
        calibration_error: expected calibration error of `sigmoid(score)` as probability of bona fide, in 10 bins of equal
            width, both labels weighing alike.
    """

    bonafide: int
    spoof: int
    eer: float | None
    eer_threshold: float | None
    eer_interval: Interval | None
    min_dcf: float | None
    act_dcf: float | None
    cllr: float | None
    auc: float | None
    accuracy: float
    balanced_accuracy: float | None
    f1_bonafide: float | None
    f1_spoof: float | None
    f1_macro: float | None
    confusion: list[list[int]]
    calibration_error: float | None


@dataclass(frozen=True)
class Group:
    """
    One value of a column.

    Args:
        value: `None` for trials without one.
        bonafide, spoof: numbers of trials that the rates are of.
        eer, eer_interval: `None` where one of the labels has no trial.
        refused_bonafide, accepted_spoof: shares at the threshold of the overall EER; `None` without such trials.
        note: why there is no EER.
    """

    value: str | None
    bonafide: int
    spoof: int
    eer: float | None
    eer_interval: Interval | None
    refused_bonafide: float | None
    accepted_spoof: float | None
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """
    The groups of a column.

    Args:
        column: its name.
        against: `"all bona fide"` where only spoofs have a value, so that each group's spoofs meet all bona fide trials;
            else `"the group's bona fide"`.
        groups: sorted by value, trials without one last.
    """

    column: str
    against: str
    groups: list[Group]


@dataclass(frozen=True)
class Comparison:
    """
    Another system on the same trials.

    Args:
        other: its source, as in `Report.sources`.
        trials: numbers of bona fide and spoof trials that both systems scored.
        test: the paired test, this system first.
        unpaired: trials left out because one of the systems had no score for them.
    """

    other: dict[str, Any]
    trials: tuple[int, int]
    test: PairedTest
    unpaired: int = 0


@dataclass(frozen=True)
class Report:
    """
    An evaluation.

    Args:
        sources: for every score file its data, corpus, split, path, hash, and the model that made it.
        overall: all trials together; with several corpora this is the pooled result.
        skipped: numbers of bona fide and spoof trials whose clip could not be scored.
        skipped_examples: utterance id and reason.
        tables: by column.
        corpora: number of corpora, and the mean of their equal error rates; `None` for one corpus.
        settings: how the intervals were made.
        comparison: with another system.
        trained_on: what the model says it was trained on; `None` where it does not.
        contamination: sentences about speech that training and test share.
        warnings: what to heed before quoting a number.
    """

    sources: list[dict[str, Any]]
    overall: Measures
    skipped: tuple[int, int]
    skipped_examples: dict[str, str]
    tables: list[Table]
    corpora: dict[str, Any] | None
    settings: Settings
    comparison: Comparison | None = None
    trained_on: list[str] | None = None
    contamination: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with a fixed set of keys, ready for `json.dumps(..., allow_nan=False)`; what is not known is null."""
        return {"schema_version": SCHEMA_VERSION, "spooftrace": __version__, **asdict(self)}

    def to_text(self) -> str:
        """For people."""
        from spooftrace.evaluation_text import render

        return render(self)
