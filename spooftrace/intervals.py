"""Bootstrap intervals and paired tests for metrics of two sets of scores, over trials or over speakers.

Resampling trials takes them for independent. Trials of one speaker are not: where speakers are known, pass them, and whole
speakers are drawn with replacement, each with all trials of both labels. That interval is wider and the honest one.

Plain percentile intervals (Efron and Tibshirani, *An introduction to the bootstrap*, 1993, chapter 13). They say nothing
about errors that the sample cannot show: a system without an error in 20 trials gets the interval [0, 0].
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spooftrace.metrics import ErrorRate, as_scores, eer, sweep


Statistic = Callable[[np.ndarray, np.ndarray], float]
Scores = tuple[np.ndarray, np.ndarray]  # of bona fide trials and of spoofs


@dataclass(frozen=True)
class Interval:
    """
    A statistic and its percentile bootstrap interval.

    Args:
        value: of the trials as they are.
        low, high: ends of the interval.
        level: share of the rounds inside, such as 0.95.
        rounds: bootstrap rounds.
        clusters: number of speakers that were resampled; `None` where trials were.
        redrawn: draws of speakers that lacked a label and were repeated; if many, the interval is of little use.
    """

    value: float
    low: float
    high: float
    level: float
    rounds: int
    clusters: int | None = None
    redrawn: int = 0


@dataclass(frozen=True)
class McNemar:
    """Trials that only one of two systems got wrong, and the two-sided p-value of their being equally likely."""

    only_first_wrong: int
    only_second_wrong: int
    p_value: float


@dataclass(frozen=True)
class PairedTest:
    """
    The difference of two systems on the same trials.

    Args:
        first, second: their equal error rates.
        difference: interval of `first - second`, both measured on the same resampled trials.
        p_value: two-sided, of no difference: twice the smaller share of rounds on either side of 0, at least 2 / (rounds + 1).
            Rounds without a difference count on both sides, so that the test is conservative.
        mcnemar: of the decisions, each system at the threshold of its own equal error rate; trials count as independent.
    """

    first: float
    second: float
    difference: Interval
    p_value: float
    mcnemar: McNemar


@dataclass(frozen=True)
class CorpusErrors:
    """
    Equal error rates of one system over several corpora.

    Args:
        per_corpus: by name.
        average: their plain mean, each corpus with a threshold of its own.
        pooled: of all trials together with one threshold, where scores must mean the same everywhere; usually higher.
    """

    per_corpus: dict[str, ErrorRate]
    average: float
    pooled: ErrorRate


class Resampler:
    """
    Draws how often each trial counts in a bootstrap round; the same seed gives the same draws.

    Args:
        bonafide, spoof: numbers of trials, each at least 2; resampled apart, so both keep their size.
        bonafide_speakers, spoof_speakers: one hashable value per trial, both or neither. If given, speakers are resampled
            instead, so the numbers of trials vary; a draw without one of the labels is repeated.

    Raises:
        `ValueError`: if there are too few trials or speakers, or a trial without a speaker.
    """

    def __init__(
        self,
        bonafide: int,
        spoof: int,
        bonafide_speakers: Sequence | None = None,
        spoof_speakers: Sequence | None = None,
    ):
        if min(bonafide, spoof) < 2:
            raise ValueError(f"a bootstrap needs two trials of each label, got {bonafide} bona fide and {spoof} spoof")
        if (bonafide_speakers is None) != (spoof_speakers is None):
            raise ValueError("give speakers for the bona fide trials and for the spoofs, or for neither")
        self.sizes = (bonafide, spoof)
        self.clusters: int | None = None
        self.redrawn = 0
        self._units = [np.arange(size) for size in self.sizes]
        if bonafide_speakers is not None and spoof_speakers is not None:
            self._number_speakers(bonafide_speakers, spoof_speakers)

    def _number_speakers(self, bonafide_speakers: Sequence, spoof_speakers: Sequence):
        numbers: dict = {}
        named = (("bona fide", bonafide_speakers), ("spoof", spoof_speakers))
        for label, ((name, speakers), size) in enumerate(zip(named, self.sizes, strict=True)):
            if len(speakers) != size:
                raise ValueError(f"{size} {name} trials have {len(speakers)} speakers")
            missing = sum(map(_is_missing, speakers))
            if missing:
                raise ValueError(f"{missing} {name} trials have no speaker; leave speakers out to resample trials")
            codes = (numbers.setdefault(speaker, len(numbers)) for speaker in speakers)
            self._units[label] = np.fromiter(codes, np.intp, size)
        self.clusters = len(numbers)
        if self.clusters < 2:
            raise ValueError("all trials are of one speaker; leave speakers out to resample trials")
        self._has_label = [np.bincount(unit, minlength=self.clusters) > 0 for unit in self._units]

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """How often each bona fide trial and each spoof counts, or, twice the same array, each speaker; see [`units`]."""
        if self.clusters is None:
            return tuple(np.bincount(rng.integers(0, size, size), minlength=size) for size in self.sizes)
        while True:
            times = np.bincount(rng.integers(0, self.clusters, self.clusters), minlength=self.clusters)
            if all(times[has].any() for has in self._has_label):
                return times, times
            self.redrawn += 1

    def units(self, orders: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """For bona fide trials and spoofs, where each one's count stands in the arrays of [`draw`]; in the given orders."""
        if orders is None:
            return self._units
        return [unit[order] for unit, order in zip(self._units, orders, strict=True)]


class ResampledEer:
    """
    Equal error rates of one system in many bootstrap rounds, from one sorting.

    A round costs two cumulative sums and a bisection, and gives exactly what [`spooftrace.metrics.eer`] gives for the
    resampled scores.

    Args:
        bonafide, spoof: scores.
        resampler: of the same trials.
        method: `"asvspoof"` or `"merged"`, see [`spooftrace.metrics.eer`].
    """

    def __init__(
        self,
        bonafide: np.ndarray,
        spoof: np.ndarray,
        resampler: Resampler,
        method: Literal["asvspoof", "merged"] = "asvspoof",
    ):
        if method not in ("asvspoof", "merged"):
            raise ValueError(f"method is 'asvspoof' or 'merged', got {method!r}; others go through bootstrap_interval")
        scores, (self._bonafide, self._spoof) = sweep(bonafide, spoof)
        self._merged = method == "merged"
        if self._merged:
            ends = np.append(np.flatnonzero(scores[1:] > scores[:-1]), len(scores) - 1)
            self._bonafide, self._spoof = self._bonafide[ends], self._spoof[ends]
        orders = [np.argsort(values, kind="stable") for values in (bonafide, spoof)]
        self._units = resampler.units(orders)
        self._sums = [np.zeros(len(unit) + 1, dtype=np.int64) for unit in self._units]

    def __call__(self, times: tuple[np.ndarray, np.ndarray]) -> float:
        """The equal error rate of one draw of the resampler."""
        for sums, unit, count in zip(self._sums, self._units, times, strict=True):
            np.cumsum(count[unit], out=sums[1:])
        bonafide, spoof = int(self._sums[0][-1]), int(self._sums[1][-1])
        missed, rejected = self._crossing(bonafide, spoof)
        rates = [(m / bonafide, (spoof - r) / spoof) for m, r in zip(missed, rejected, strict=True)]
        miss, false_alarm = min(rates, key=lambda pair: abs(pair[0] - pair[1]))
        return (miss + false_alarm) / 2

    def _crossing(self, bonafide: int, spoof: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Counts of missed and of rejected trials at the last point with fewer misses than false alarms and the next."""

        def counts(point: int) -> tuple[int, int]:
            return int(self._sums[0][self._bonafide[point]]), int(self._sums[1][self._spoof[point]])

        low, high = 0, len(self._bonafide) - 1
        while high - low > 1:
            middle = (low + high) // 2
            missed, rejected = counts(middle)
            low, high = (low, middle) if missed * spoof + rejected * bonafide >= bonafide * spoof else (middle, high)
        (missed, rejected), (next_missed, next_rejected) = counts(low), counts(high)
        if not self._merged:
            # A trial that was drawn several times is passed one copy at a time, as the evaluation packages would.
            short = bonafide * spoof - missed * spoof - rejected * bonafide
            if next_missed > missed:
                copies = -(-short // spoof)
                missed, next_missed = missed + copies - 1, missed + copies
            else:
                copies = -(-short // bonafide)
                rejected, next_rejected = rejected + copies - 1, rejected + copies
        return (missed, next_missed), (rejected, next_rejected)


def bootstrap_interval(
    statistic: Statistic,
    bonafide: np.ndarray,
    spoof: np.ndarray,
    *,
    bonafide_speakers: Sequence | None = None,
    spoof_speakers: Sequence | None = None,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """
    Percentile bootstrap interval of any function of bona fide and spoof scores.

    Args:
        statistic: takes both score arrays, such as [`spooftrace.metrics.cllr`], and returns a number.
        bonafide_speakers, spoof_speakers: to resample speakers instead of trials, see [`Resampler`].

    Raises:
        `ValueError`: as [`Resampler`]; for empty sets and for scores that are not finite.
    """
    bonafide, spoof = as_scores("bona fide", bonafide), as_scores("spoof", spoof)
    resampler = Resampler(len(bonafide), len(spoof), bonafide_speakers, spoof_speakers)
    units = resampler.units()

    def one_round(times: tuple[np.ndarray, np.ndarray]) -> float:
        pairs = zip((bonafide, spoof), times, units, strict=True)
        return statistic(*(np.repeat(scores, count[unit]) for scores, count, unit in pairs))

    values = [one_round(times) for times in _draws(resampler, rounds, seed)]
    return _interval(float(statistic(bonafide, spoof)), values, level, resampler)


def eer_interval(
    bonafide: np.ndarray,
    spoof: np.ndarray,
    *,
    bonafide_speakers: Sequence | None = None,
    spoof_speakers: Sequence | None = None,
    method: Literal["asvspoof", "merged"] = "asvspoof",
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Equal error rate with its interval: what [`bootstrap_interval`] gives for it with the same seed, many times faster."""
    bonafide, spoof = as_scores("bona fide", bonafide), as_scores("spoof", spoof)
    resampler = Resampler(len(bonafide), len(spoof), bonafide_speakers, spoof_speakers)
    rate = ResampledEer(bonafide, spoof, resampler, method)
    values = [rate(times) for times in _draws(resampler, rounds, seed)]
    return _interval(eer(bonafide, spoof, method=method).eer, values, level, resampler)


def paired_test(
    first: Scores,
    second: Scores,
    *,
    bonafide_speakers: Sequence | None = None,
    spoof_speakers: Sequence | None = None,
    method: Literal["asvspoof", "merged"] = "asvspoof",
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """
    Whether two systems differ in equal error rate, from scores of the same trials in the same order.

    Args:
        first, second: bona fide and spoof scores of each system.
        bonafide_speakers, spoof_speakers: to resample speakers instead of trials, see [`Resampler`].

    Raises:
        `ValueError`: as [`Resampler`], and if the systems have different numbers of trials.
    """
    systems = _same_trials(first, second)
    resampler = Resampler(*map(len, systems[0]), bonafide_speakers, spoof_speakers)
    rates = [ResampledEer(*scores, resampler, method) for scores in systems]
    differences = np.array([rates[0](times) - rates[1](times) for times in _draws(resampler, rounds, seed)])
    values = [eer(*scores, method=method) for scores in systems]
    tail = 1 + min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return PairedTest(
        first=values[0].eer,
        second=values[1].eer,
        difference=_interval(values[0].eer - values[1].eer, differences, level, resampler),
        p_value=float(min(1.0, 2 * tail / (rounds + 1))),
        mcnemar=mcnemar(*(_wrong(*scores, value.threshold) for scores, value in zip(systems, values, strict=True))),
    )


def _same_trials(first: Scores, second: Scores) -> list[Scores]:
    """The checked scores of both systems, as many bona fide trials and as many spoofs of each."""
    systems = [
        (as_scores(f"{name} system's bona fide", bonafide), as_scores(f"{name} system's spoof", spoof))
        for name, (bonafide, spoof) in (("first", first), ("second", second))
    ]
    sizes = [(len(bonafide), len(spoof)) for bonafide, spoof in systems]
    if sizes[0] != sizes[1]:
        raise ValueError(f"a paired test needs the same trials of both systems; they have {sizes[0]} and {sizes[1]}")
    return systems


def mcnemar(first_wrong: np.ndarray, second_wrong: np.ndarray) -> McNemar:
    """
    McNemar's test on two systems' errors over the same trials, boolean arrays `(trials,)`.

    The exact binomial test up to 1,000 trials that exactly one system got wrong, above that the normal approximation with
    continuity correction.
    """
    first_wrong, second_wrong = np.asarray(first_wrong, bool), np.asarray(second_wrong, bool)
    if first_wrong.shape != second_wrong.shape:
        raise ValueError(f"the systems have errors over {first_wrong.shape} and {second_wrong.shape} trials")
    only_first = int(np.count_nonzero(first_wrong & ~second_wrong))
    only_second = int(np.count_nonzero(second_wrong & ~first_wrong))
    total, fewer = only_first + only_second, min(only_first, only_second)
    if total <= 1000:
        tail = sum(math.comb(total, count) for count in range(fewer + 1))
        return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**total))
    distance = max(abs(only_first - only_second) - 1, 0) / math.sqrt(total)
    return McNemar(only_first, only_second, math.erfc(distance / math.sqrt(2)))


def pooled_and_average(
    corpora: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    method: Literal["asvspoof", "merged", "rocch"] = "asvspoof",
) -> CorpusErrors:
    """Equal error rates of bona fide and spoof scores by corpus, their average, and that of all scores pooled."""
    if not corpora:
        raise ValueError("there are no corpora to average over")
    per_corpus = {}
    for name, (bonafide, spoof) in corpora.items():
        per_corpus[name] = eer(
            as_scores(f"{name} bona fide", bonafide), as_scores(f"{name} spoof", spoof), method=method
        )
    bonafide, spoof = (np.concatenate([scores[label] for scores in corpora.values()]) for label in (0, 1))
    average = sum(rate.eer for rate in per_corpus.values()) / len(per_corpus)
    return CorpusErrors(per_corpus, average, eer(bonafide, spoof, method=method))


def _draws(resampler: Resampler, rounds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if rounds < 1:
        raise ValueError(f"a bootstrap needs at least one round, got {rounds}")
    rng = np.random.default_rng(seed)
    return (resampler.draw(rng) for _ in range(rounds))


def _interval(value: float, values: Sequence[float], level: float, resampler: Resampler) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return Interval(value, float(low), float(high), level, len(values), resampler.clusters, resampler.redrawn)


def _is_missing(speaker: object) -> bool:
    """`None`, `""`, any NaN or NaT, which differ from themselves, and the `NA` of pandas, which can't tell whether it does."""
    try:
        return speaker is None or speaker == "" or bool(speaker != speaker)  # noqa: PLR0124
    except TypeError:
        return True


def _wrong(bonafide: np.ndarray, spoof: np.ndarray, threshold: float) -> np.ndarray:
    return np.concatenate([bonafide <= threshold, spoof > threshold])
