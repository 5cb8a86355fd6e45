"""Equal error rate, affine calibration of scores, and what it is worth. Scores are log-odds of bona fide."""

import numpy as np


def equal_error_rate(bonafide: np.ndarray, spoof: np.ndarray) -> float:
    """Where the share of refused genuine clips meets that of accepted fakes; the mean of the nearest two, in [0, 1]."""
    scores = np.concatenate([bonafide, spoof])
    genuine = np.concatenate([np.ones(len(bonafide), bool), np.zeros(len(spoof), bool)])
    order = np.argsort(scores, kind="stable")
    miss = np.concatenate([[0.0], np.cumsum(genuine[order]) / len(bonafide)])
    false_alarm = np.concatenate([[1.0], 1 - np.cumsum(~genuine[order]) / len(spoof)])
    # A threshold cannot lie between equal scores.
    allowed = np.concatenate([[True], np.diff(scores[order]) > 0, [True]])
    miss, false_alarm = miss[allowed], false_alarm[allowed]
    nearest = np.argmin(np.abs(miss - false_alarm))
    return float((miss[nearest] + false_alarm[nearest]) / 2)


def fit_calibration(bonafide: np.ndarray, spoof: np.ndarray, rounds: int = 50) -> tuple[float, float]:
    """`(scale, bias)` of sigmoid(scale * score + bias), by logistic regression with both labels weighted alike.

    Newton's method, with a faint pull towards (1, 0) that keeps separable scores finite.
    """
    scores = np.concatenate([bonafide, spoof]).astype(np.float64)
    target = np.concatenate([np.ones(len(bonafide)), np.zeros(len(spoof))])
    weight = np.where(target == 1, 0.5 / len(bonafide), 0.5 / len(spoof))
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    prior, strength = np.array([1.0, 0.0]), 1e-4
    theta = prior.copy()
    for _ in range(rounds):
        probability = 1 / (1 + np.exp(-np.clip(design @ theta, -60, 60)))
        gradient = design.T @ (weight * (probability - target)) + strength * (theta - prior)
        curvature = (design * (weight * probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(curvature + strength * np.eye(2), gradient)
        theta -= step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-9))
    return float(theta[0]), float(theta[1])


def cllr(bonafide: np.ndarray, spoof: np.ndarray) -> float:
    """Cost of the log-likelihood ratio in bits (Bruemmer and du Preez 2006): 0 is perfect, 1 says nothing."""
    costs = np.logaddexp(0, -bonafide).mean(), np.logaddexp(0, spoof).mean()
    return float(sum(costs) / 2 / np.log(2))


def expected_calibration_error(probability: np.ndarray, genuine: np.ndarray, bins: int = 10) -> float:
    """Mean gap between stated probability and observed share over equal-width bins, labels weighted alike."""
    weight = np.where(genuine, 0.5 / max(genuine.sum(), 1), 0.5 / max((~genuine).sum(), 1))
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [abs((weight * (genuine - probability))[place == k].sum()) for k in range(bins)]
    return float(sum(gaps) / weight.sum())


def bootstrap_interval(
    bonafide: np.ndarray, spoof: np.ndarray, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the equal error rate: percentiles over resampled clips."""
    rng = np.random.default_rng(seed)
    rates = [
        equal_error_rate(rng.choice(bonafide, len(bonafide)), rng.choice(spoof, len(spoof))) for _ in range(rounds)
    ]
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)
