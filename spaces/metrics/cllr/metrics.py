"""Metrics of anti-spoofing: DET curve, EER, minDCF, actDCF, CLLR, AUC, t-DCF, a-DCF and t-EER. numpy only.

Scores are one-dimensional arrays, one per kind of trial, higher for bona fide speech (or for the target speaker). Every
function takes any number of trials above zero, in any order, and raises ValueError for an empty set, for scores that are
not finite and for arrays that are not one-dimensional, naming the set. Rates and error rates are fractions.

Numbers agree with the evaluation packages of ASVspoof 2019, 2021 and 5 unless a docstring says otherwise. Those packages
walk through all scores in ascending order, one trial at a time, bona fide before spoof where scores are equal, and report
as threshold the score of the trial that was passed last: **accepted are the scores above the threshold**.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np


class ErrorRate(NamedTuple):
    """An equal error rate, a fraction in [0, 1], and the threshold above which scores are accepted there."""

    eer: float
    threshold: float


class DetectionCost(NamedTuple):
    """A normalised detection cost, 0 for no errors, and the threshold that it was found at."""

    cost: float
    threshold: float


class TandemErrorRate(NamedTuple):
    """A tandem equal error rate, a fraction in [0, 1], and the thresholds of the two systems there."""

    t_eer: float
    cm_threshold: float
    asv_threshold: float


@dataclass(frozen=True)
class Costs:
    """
    Priors and costs of a speaker verification system under attack.

    Args:
        p_target, p_nontarget, p_spoof: priors; they sum to one.
        c_miss: of refusing the target speaker.
        c_fa_nontarget: of accepting another speaker.
        c_fa_spoof: of accepting a spoof.
    """

    p_target: float
    p_nontarget: float
    p_spoof: float
    c_miss: float
    c_fa_nontarget: float
    c_fa_spoof: float

    def __post_init__(self):
        priors = (self.p_target, self.p_nontarget, self.p_spoof)
        if not min(priors) >= 0 or not abs(sum(priors) - 1) <= 1e-10:
            raise ValueError(f"priors {priors} must not be negative and must sum to 1")
        if not min(self.c_miss, self.c_fa_nontarget, self.c_fa_spoof) >= 0:
            raise ValueError(f"costs must not be negative, got {self}")


# Of the t-DCF in ASVspoof 2019, 2021 and 5, and of the a-DCF in ASVspoof 5.
ASVSPOOF_COSTS = Costs(0.9405, 0.0095, 0.05, 1.0, 10.0, 10.0)
# What the a-DCF's own package (github.com/shimhz/a_dcf) takes when it is not told otherwise.
A_DCF_PACKAGE_COSTS = Costs(0.9, 0.05, 0.05, 1.0, 10.0, 20.0)


@dataclass(frozen=True)
class AsvErrorRates:
    """
    Error rates of a speaker verification system at one threshold, by name.

    ASVspoof 5's evaluation package passes them as a tuple and, when it is given the organisers' ASV scores, takes the share
    of spoofs that were *refused* for the share that were accepted. Names leave no room for that: the t-DCF below reads
    `spoof_false_alarm`, as in the evaluation plan.

    Args:
        miss: share of target trials that were refused.
        false_alarm: share of non-target trials that were accepted.
        spoof_false_alarm: share of spoofs that were accepted.
        threshold: the threshold, where one is known.
    """

    miss: float
    false_alarm: float
    spoof_false_alarm: float
    threshold: float | None = None

    def __post_init__(self):
        for name in ("miss", "false_alarm", "spoof_false_alarm"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, got {getattr(self, name)}")

    @property
    def spoof_miss(self) -> float:
        """Share of spoofs that were refused."""
        return 1 - self.spoof_false_alarm


# The fixed speaker verification system of ASVspoof 5, for participants without ASV scores.
ASVSPOOF5_ASV = AsvErrorRates(
    miss=0.01880141010575793, false_alarm=0.01881016557566423, spoof_false_alarm=0.4607082907604729
)

EerMethod = Literal["asvspoof", "merged", "rocch"]


@dataclass(frozen=True, eq=False)
class DetCurve:
    """
    Detection error trade-off: all operating points of a detector, for further metrics without sorting again.

    Args:
        miss: share of bona fide trials at or below the threshold, shape `(trials + 1,)`, ascending from 0 to 1.
        false_alarm: share of spoofs above it, same shape, descending from 1 to 0.
        thresholds: a value just below all scores, then all scores in ascending order, same shape.
    """

    miss: np.ndarray
    false_alarm: np.ndarray
    thresholds: np.ndarray

    def reachable(self) -> np.ndarray:
        """Which points some threshold reaches, boolean `(trials + 1,)`: all but those inside a run of equal scores."""
        return np.append(self.thresholds[1:] > self.thresholds[:-1], True)

    def eer(self, *, method: EerMethod = "asvspoof") -> ErrorRate:
        """See [`eer`]."""
        if method not in ("asvspoof", "merged", "rocch"):
            raise ValueError(f"method is 'asvspoof', 'merged' or 'rocch', got {method!r}")
        if method == "rocch":
            return _hull_eer(self)
        gap = np.abs(self.miss - self.false_alarm)
        if method == "merged":
            gap[~self.reachable()] = np.inf
        return self._error_rate(int(np.argmin(gap)))

    def min_dcf(self, *, p_spoof: float = 0.05, c_miss: float = 1.0, c_fa: float = 10.0) -> DetectionCost:
        """See [`min_dcf`]."""
        _check_costs(p_spoof, c_miss, c_fa)
        costs = self.miss * (c_miss * (1 - p_spoof))
        costs += self.false_alarm * (c_fa * p_spoof)
        lowest = int(np.argmin(costs))
        return DetectionCost(
            float(costs[lowest]) / min(c_miss * (1 - p_spoof), c_fa * p_spoof), float(self.thresholds[lowest])
        )

    def min_tdcf(
        self, asv: AsvErrorRates, *, version: Literal["2019", "2021"] = "2021", costs: Costs = ASVSPOOF_COSTS
    ) -> DetectionCost:
        """See [`min_tdcf`]."""
        if version not in ("2019", "2021"):
            raise ValueError(f"version is '2019' or '2021' (also of ASVspoof 5), got {version!r}")
        target = costs.p_target * costs.c_miss
        floor = target * asv.miss + costs.p_nontarget * costs.c_fa_nontarget * asv.false_alarm
        weight_miss = target - floor
        weight_fa = costs.p_spoof * costs.c_fa_spoof * asv.spoof_false_alarm
        if version == "2019":
            floor = 0.0
        reference = floor + min(weight_miss, weight_fa)
        if weight_miss < 0 or reference <= 0:
            raise ValueError(
                f"the t-DCF is not defined where the ASV system costs more than refusing everyone or stops every spoof: {asv}"
            )
        curve = weight_miss * self.miss + weight_fa * self.false_alarm
        lowest = int(np.argmin(curve))
        return DetectionCost((floor + float(curve[lowest])) / reference, float(self.thresholds[lowest]))

    def _error_rate(self, point: int) -> ErrorRate:
        return ErrorRate(float((self.miss[point] + self.false_alarm[point]) / 2), float(self.thresholds[point]))


def det_curve(bonafide: np.ndarray, spoof: np.ndarray) -> DetCurve:
    """
    The DET curve in the evaluation packages' convention.

    One point per trial in ascending order of scores, after a first one that accepts everything, whose threshold is the
    lowest score less 0.001. Equal scores are passed one by one, bona fide first, so a few points inside a run of equal
    scores belong to no threshold ([`DetCurve.reachable`]).
    """
    bonafide, spoof = as_scores("bona fide", bonafide), as_scores("spoof", spoof)
    thresholds, (missed, rejected) = sweep(bonafide, spoof)
    return DetCurve(missed / bonafide.size, (spoof.size - rejected) / spoof.size, thresholds)


def eer(bonafide: np.ndarray, spoof: np.ndarray, *, method: EerMethod = "asvspoof") -> ErrorRate:
    """
    Equal error rate: where the share of refused bona fide trials meets that of accepted spoofs.

    Args:
        method:
            - `"asvspoof"`, of the evaluation packages: the first point of [`det_curve`] with the least difference of both
              rates, and their mean. Inside a run of equal scores it can land on a point that no threshold reaches, with more
              misses than any has; that speaks against systems with coarse scores. Constant scores get 1.
            - `"merged"`: the same among the points that a threshold reaches. Without equal scores of both labels it is
              the same number; a system with constant scores gets exactly 0.5.
            - `"rocch"`: where the lower convex hull of the curve, straight between its corners, meets the diagonal
              (Bruemmer, *Measuring, refining and calibrating speaker and language information*, 2010; the BOSARIS
              toolkit). It is the largest minimum of `p * miss + (1 - p) * false_alarm` over all priors `p`, and at most
              0.5, however wrong a system is. As threshold it has that of the nearer corner.
    """
    return det_curve(bonafide, spoof).eer(method=method)


def min_dcf(
    bonafide: np.ndarray, spoof: np.ndarray, *, p_spoof: float = 0.05, c_miss: float = 1.0, c_fa: float = 10.0
) -> DetectionCost:
    """
    Least detection cost over all points of [`det_curve`], normalised by the better of refusing and accepting everything.

    `c_miss * (1 - p_spoof) * miss + c_fa * p_spoof * false_alarm`; the defaults are those of ASVspoof 5, track 1. In [0, 1].
    """
    return det_curve(bonafide, spoof).min_dcf(p_spoof=p_spoof, c_miss=c_miss, c_fa=c_fa)


def act_dcf(
    bonafide: np.ndarray, spoof: np.ndarray, *, p_spoof: float = 0.05, c_miss: float = 1.0, c_fa: float = 10.0
) -> DetectionCost:
    """
    Cost of the decisions that scores lead to when they are taken for log-likelihood ratios; normalised as [`min_dcf`].

    The threshold is Bayes's, `-log(c_miss * (1 - p_spoof) / (c_fa * p_spoof))`, and a score *equal* to it is accepted, as
    in ASVspoof 5. Above 1, the detector costs more than none.
    """
    _check_costs(p_spoof, c_miss, c_fa)
    weight_miss, weight_fa = c_miss * (1 - p_spoof), c_fa * p_spoof
    threshold = -math.log(weight_miss / weight_fa)
    miss, false_alarm = rates_at(bonafide, spoof, threshold=threshold)
    return DetectionCost((weight_miss * miss + weight_fa * false_alarm) / min(weight_miss, weight_fa), threshold)


def rates_at(bonafide: np.ndarray, spoof: np.ndarray, *, threshold: float) -> tuple[float, float]:
    """Shares of bona fide trials below a fixed threshold (miss) and of spoofs at or above it (false alarm)."""
    bonafide, spoof = as_scores("bona fide", bonafide), as_scores("spoof", spoof)
    miss = np.count_nonzero(bonafide < threshold) / bonafide.size
    return miss, np.count_nonzero(spoof >= threshold) / spoof.size


def cllr(bonafide: np.ndarray, spoof: np.ndarray) -> float:
    """
    Cost of the log-likelihood ratio in bits (Bruemmer and du Preez 2006): 0 is perfect, 1 says nothing, no upper limit.

    Scores are natural logarithms. Those beyond +-709 have a finite cost too, where the evaluation packages answer infinity.
    """
    bonafide, spoof = as_scores("bona fide", bonafide), as_scores("spoof", spoof)
    return float((_softplus(-bonafide).mean() + _softplus(spoof).mean()) / (2 * math.log(2)))


def auc(bonafide: np.ndarray, spoof: np.ndarray) -> float:
    """Area under the ROC curve: how often a bona fide trial scores above a spoof, equal scores counted half. In [0, 1]."""
    bonafide, spoof = np.sort(as_scores("bona fide", bonafide)), np.sort(as_scores("spoof", spoof))
    below, not_above = (np.searchsorted(spoof, bonafide, side) for side in ("left", "right"))
    return float((below.mean() + not_above.mean()) / (2 * spoof.size))


def asv_error_rates(
    target: np.ndarray, nontarget: np.ndarray, spoof: np.ndarray, *, threshold: float | None = None
) -> AsvErrorRates:
    """
    Error rates of a speaker verification system from its scores, a score equal to the threshold being accepted.

    Args:
        threshold: by default that of the system's own equal error rate, targets against non-targets.
    """
    spoof = as_scores("ASV spoof", spoof)
    target, nontarget = as_scores("ASV target", target), as_scores("ASV non-target", nontarget)
    if threshold is None:
        threshold = eer(target, nontarget).threshold
    miss, false_alarm = rates_at(target, nontarget, threshold=threshold)
    return AsvErrorRates(miss, false_alarm, np.count_nonzero(spoof >= threshold) / spoof.size, float(threshold))


def min_tdcf(
    bonafide: np.ndarray,
    spoof: np.ndarray,
    asv: AsvErrorRates,
    *,
    version: Literal["2019", "2021"] = "2021",
    costs: Costs = ASVSPOOF_COSTS,
) -> DetectionCost:
    """
    Least tandem detection cost of a countermeasure in front of a fixed speaker verification system, at most 1.

    Args:
        asv: the system behind: [`asv_error_rates`] of its scores, or [`ASVSPOOF5_ASV`].
        version: `"2021"`, also of ASVspoof 5, keeps the cost that the ASV system has without attacks, so a perfect
            countermeasure gets more than 0 (Kinnunen et al., *Tandem assessment of spoofing countermeasures and automatic
            speaker verification: fundamentals*, 2020); `"2019"` leaves it out, and a perfect one gets 0.

    Raises:
        `ValueError`: if the ASV system is so bad that refusing everyone costs less; for 2019, if it refuses all spoofs.
    """
    return det_curve(bonafide, spoof).min_tdcf(asv, version=version, costs=costs)


def a_dcf(
    target: np.ndarray, nontarget: np.ndarray, spoof: np.ndarray, *, costs: Costs = ASVSPOOF_COSTS
) -> DetectionCost:
    """
    Least architecture-agnostic detection cost of spoofing-robust speaker verification, one score per trial. In [0, 1].

    `c_miss * p_target * miss + c_fa_nontarget * p_nontarget * false_alarm + c_fa_spoof * p_spoof * false_alarm_of_spoofs`,
    normalised by the better of refusing and accepting everything (Shim et al., *a-DCF: an architecture agnostic metric
    with application to spoofing-robust speaker verification*, Odyssey 2024). The defaults are those of ASVspoof 5, track 2;
    those of the metric's own package are [`A_DCF_PACKAGE_COSTS`].
    """
    groups = as_scores("target", target), as_scores("non-target", nontarget), as_scores("spoof", spoof)
    thresholds, (missed, *rejected) = sweep(*groups, margin=1e-8)
    weight_miss = costs.c_miss * costs.p_target
    weights_fa = costs.c_fa_nontarget * costs.p_nontarget, costs.c_fa_spoof * costs.p_spoof
    reference = min(weight_miss, sum(weights_fa))
    if reference <= 0:
        raise ValueError(f"the a-DCF is not defined where one kind of error costs nothing: {costs}")
    curve = missed * (weight_miss / groups[0].size)
    for weight, count, group in zip(weights_fa, rejected, groups[1:], strict=True):
        curve += (group.size - count) * (weight / group.size)
    lowest = int(np.argmin(curve))
    return DetectionCost(float(curve[lowest]) / reference, float(thresholds[lowest]))


def t_eer(
    bonafide: np.ndarray,
    spoof: np.ndarray,
    asv_target: np.ndarray,
    asv_nontarget: np.ndarray,
    asv_spoof: np.ndarray,
) -> TandemErrorRate:
    """
    Concurrent tandem equal error rate of a countermeasure (CM) before a speaker verification system (ASV).

    The tandem accepts what both accept. It misses `miss_cm + (1 - miss_cm) * miss_asv` of the targets and accepts
    `(1 - miss_cm) * fa_asv` of the non-targets and `fa_cm * fa_spoof_asv` of the spoofs, taking both systems' errors for
    independent. The concurrent t-EER is the rate at the one pair of thresholds where all three are equal, whatever the
    share of attacks (Kinnunen et al., *t-EER: parameter-free tandem evaluation of countermeasures and biometric
    comparators*, 2023, arXiv:2309.12237).

    As in the authors' package: every ASV threshold at which the ASV system alone misses less than it accepts is paired with
    the CM threshold that brings misses and false alarms nearest, half of the latter being spoofs; of these pairs the one
    counts where `fa_asv / fa_spoof_asv` is nearest to `fa_cm / (1 - miss_cm)`, and the rate is `fa_cm * fa_spoof_asv`
    there. The search covers all thresholds in O(N log N); ASVspoof 5's package searches a sample of them.

    Args:
        bonafide, spoof: scores of the countermeasure; ASVspoof 5 counts targets and non-targets as bona fide.
        asv_target, asv_nontarget, asv_spoof: scores of the speaker verification system.

    Raises:
        `ValueError`: as everywhere, and where so few trials leave no such pair.
    """
    cm = det_curve(bonafide, spoof)
    groups = [
        as_scores(f"ASV {name}", scores)
        for name, scores in (("target", asv_target), ("non-target", asv_nontarget), ("spoof", asv_spoof))
    ]
    asv_thresholds, counts = sweep(*groups)
    miss = counts[0] / groups[0].size
    accepted, spoof_accepted = (1 - count / group.size for count, group in zip(counts[1:], groups[1:], strict=True))
    # Misses rise and false alarms fall with the threshold: the first thresholds are the ones that qualify.
    qualify = np.count_nonzero(miss < (accepted + spoof_accepted) / 2)
    return _concurrent(cm, miss[:qualify], accepted[:qualify], spoof_accepted[:qualify], asv_thresholds)


def as_scores(name: str, scores: np.ndarray) -> np.ndarray:
    """Scores as float64 of shape `(trials,)`. Raises ValueError, naming the set, if there are none or some are not finite."""
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"{name} scores have shape {scores.shape}; give one score per trial, shape (trials,)")
    if not scores.size:
        raise ValueError(f"there are no {name} scores; this metric needs both kinds of trials")
    broken = scores.size - np.count_nonzero(np.isfinite(scores))
    if broken:
        raise ValueError(f"{broken} of {scores.size} {name} scores are not finite; leave these trials out, and say so")
    return scores


def sweep(*groups: np.ndarray, margin: float = 0.001) -> tuple[np.ndarray, list[np.ndarray]]:
    """
    Passes all trials in ascending order of scores, those of earlier groups first where scores are equal.

    Returns:
        The score passed last at each of the `trials + 1` points, and by group how many of its trials are passed there. The
        first point has passed none; its threshold is the lowest score less `margin`.
    """
    # Sorting the groups is fast, and a stable sort of sorted runs only merges them.
    pooled = np.concatenate([np.sort(group) for group in groups])
    order = np.argsort(pooled, kind="stable")
    thresholds = np.empty(pooled.size + 1)
    np.take(pooled, order, out=thresholds[1:])
    thresholds[0] = min(thresholds[1] - margin, np.nextafter(thresholds[1], -np.inf))
    counts, end = [], 0
    rest = np.arange(pooled.size + 1)
    for group in groups[:-1]:
        begin, end = end, end + group.size
        count = np.zeros(pooled.size + 1, dtype=np.int64)
        np.cumsum((order >= begin) & (order < end), out=count[1:])
        counts.append(count)
        rest -= count
    return thresholds, [*counts, rest]


def _check_costs(p_spoof: float, c_miss: float, c_fa: float):
    if not 0 < p_spoof < 1 or not c_miss > 0 or not c_fa > 0:
        raise ValueError(
            f"p_spoof lies between 0 and 1 and costs are positive, got p_spoof={p_spoof}, c_miss={c_miss}, c_fa={c_fa}"
        )


def _softplus(values: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) without overflow; several times as fast as `np.logaddexp`."""
    result = np.abs(values)
    np.negative(result, out=result)
    np.log1p(np.exp(result, out=result), out=result)
    result += np.maximum(values, 0)
    return result


def _hull_eer(curve: DetCurve) -> ErrorRate:
    """
    Where the lower convex hull of a curve crosses the diagonal.

    Two corners of the hull on either side of the diagonal draw nearer: the point farthest below the line between them is a
    corner too and replaces the one on its side, until none is left.
    """
    miss, false_alarm = curve.miss, curve.false_alarm
    left, right = 0, len(miss) - 1
    while True:
        between = slice(left + 1, right)
        heights = (false_alarm[left] - false_alarm[right]) * (miss[between] - miss[left])
        heights += (miss[right] - miss[left]) * (false_alarm[between] - false_alarm[left])
        lowest = int(np.argmin(heights)) if heights.size else 0
        if not heights.size or heights[lowest] > -1e-15:
            break
        corner = left + 1 + lowest
        left, right = (corner, right) if miss[corner] < false_alarm[corner] else (left, corner)
    gaps = false_alarm[left] - miss[left], miss[right] - false_alarm[right]
    share = gaps[0] / (gaps[0] + gaps[1])
    nearer = left if gaps[0] <= gaps[1] else right
    return ErrorRate(float(miss[left] + share * (miss[right] - miss[left])), float(curve.thresholds[nearer]))


def _concurrent(
    cm: DetCurve, miss: np.ndarray, accepted: np.ndarray, spoof_accepted: np.ndarray, asv_thresholds: np.ndarray
) -> TandemErrorRate:
    """The pair of thresholds where both kinds of false alarms are nearest, see [`t_eer`]."""
    points = _balancing_points(cm, miss, accepted, spoof_accepted)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(accepted / spoof_accepted - cm.false_alarm[points] / (1 - cm.miss[points]))
    distance[np.isnan(distance)] = np.inf
    best = int(np.argmin(distance))
    if np.isinf(distance[best]):
        raise ValueError("there are too few trials for a concurrent t-EER: no pair of thresholds balances the tandem")
    return TandemErrorRate(
        float(spoof_accepted[best] * cm.false_alarm[points[best]]),
        float(cm.thresholds[points[best]]),
        float(asv_thresholds[best]),
    )


def _balancing_points(cm: DetCurve, miss: np.ndarray, accepted: np.ndarray, spoof_accepted: np.ndarray) -> np.ndarray:
    """For each ASV operating point the point of `cm` at which the tandem's misses and false alarms differ least."""

    # The tandem's misses less its false alarms: 1 - passed * (1 - miss) - (passed * accepted + false_alarm * spoof_accepted) / 2.
    passed, weight_passed, weight_alarm = 1 - cm.miss, 1 - miss + accepted / 2, spoof_accepted / 2

    def excess(points: np.ndarray) -> np.ndarray:
        return 1 - passed[points] * weight_passed - cm.false_alarm[points] * weight_alarm

    # The excess of misses rises along the curve, so its change of sign is found by bisection, for all at once.
    low, high = np.zeros(miss.size, dtype=np.intp), np.full(miss.size, cm.miss.size - 1)
    for _ in range(cm.miss.size.bit_length()):
        middle = (low + high) // 2
        more = excess(middle) >= 0
        np.copyto(high, middle, where=more)
        np.copyto(low, np.minimum(middle + 1, high), where=~more)
    before = np.maximum(high - 1, 0)
    return np.where(np.abs(excess(before)) <= np.abs(excess(high)), before, high)
