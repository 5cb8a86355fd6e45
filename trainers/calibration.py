"""Affine calibration of scores. Scores are log-odds of bona fide."""

import numpy as np


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
