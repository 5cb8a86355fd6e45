"""
Scores of how unlike all known sources a clip is, from a model's logits or embeddings. Numpy only.

Each is a small class with `fit` and `score`. Thresholds, files and metrics are in [`spooftrace.open_set`].
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import numpy as np


_ROWS = 1024  # clips whose distances to all known ones are held at once


class OpenSetScore(ABC):
    """
    A score of clips, higher for those that are more likely of an unknown source.

    What was fitted is kept in float32 and computed with in float64, so that a saved score gives the same numbers.
    """

    method: ClassVar[str]
    reads: ClassVar[Literal["logits", "embeddings"]]

    @classmethod
    @abstractmethod
    def fit(cls, features: np.ndarray, labels: Sequence | None = None) -> "OpenSetScore":
        """
        Fits the score to clips of known sources.

        Args:
            features: logits or embeddings, as `reads` says, `(clips, width)`.
            labels: of each clip its class, of any kind that can be sorted: of a task, or finer, such as the codec.

        Raises:
            ValueError: for features that are not finite, without variance or too few.
        """

    @abstractmethod
    def score(self, features: np.ndarray) -> np.ndarray:
        """
        Args:
            features: logits or embeddings, as `reads` says, `(clips, width)`.

        Returns:
            float64 `(clips,)`.
        """

    def tensors(self) -> dict[str, np.ndarray]:
        """What was fitted, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, eq=False)
class MaximumSoftmax(OpenSetScore):
    """`-log max p`, in [0, log classes], for the probabilities p of a task (Hendrycks and Gimpel, arXiv 1610.02136)."""

    method = "max_softmax"
    reads = "logits"

    @classmethod
    def fit(cls, features: np.ndarray, labels: Sequence | None = None) -> "MaximumSoftmax":
        _checked(features, cls.reads)
        return cls()

    def score(self, features: np.ndarray) -> np.ndarray:
        logits = np.sort(_checked(features, self.reads), axis=1)
        return np.log1p(np.exp(logits[:, :-1] - logits[:, -1:]).sum(axis=1))  # exact where p is close to 1


@dataclass(frozen=True, eq=False)
class Energy(OpenSetScore):
    """`-logsumexp(logits)` of a task, at temperature 1 (Liu et al., arXiv 2010.03759)."""

    method = "energy"
    reads = "logits"

    @classmethod
    def fit(cls, features: np.ndarray, labels: Sequence | None = None) -> "Energy":
        _checked(features, cls.reads)
        return cls()

    def score(self, features: np.ndarray) -> np.ndarray:
        logits = _checked(features, self.reads)
        top = logits.max(axis=1)
        return -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))


@dataclass(frozen=True, eq=False)
class Mahalanobis(OpenSetScore):
    """
    Squared Mahalanobis distance to the nearest class mean, all classes sharing one covariance (Lee et al., arXiv 1807.03888).

    The covariance is shrunk towards a multiple of the identity, as far as Ledoit and Wolf's rule says.

    Args:
        means: of the classes, `(classes, width)`.
        whitening: a matrix W with W^T W the inverse covariance, `(width, width)`.
    """

    method = "mahalanobis"
    reads = "embeddings"

    means: np.ndarray
    whitening: np.ndarray

    def __post_init__(self):
        _check_whitening(self.means, self.whitening)

    @classmethod
    def fit(cls, features: np.ndarray, labels: Sequence | None = None) -> "Mahalanobis":
        means, whitening = _fit_gaussians(features, labels)
        return cls(means, whitening)

    def score(self, features: np.ndarray) -> np.ndarray:
        return _mahalanobis(_checked(features, self.reads, self.means.shape[1]), self.means, self.whitening).min(
            axis=1
        )


@dataclass(frozen=True, eq=False)
class RelativeMahalanobis(OpenSetScore):
    """
    As [`Mahalanobis`], less the distance to the mean of all clips by the covariance of all (Ren et al., arXiv 2106.09022).

    It leaves out how unusual a clip is in ways that do not tell classes apart. May be negative.

    Args:
        means, whitening: as for [`Mahalanobis`].
        mean, mean_whitening: the same of all clips as one class, `(1, width)` and `(width, width)`.
    """

    method = "relative_mahalanobis"
    reads = "embeddings"

    means: np.ndarray
    whitening: np.ndarray
    mean: np.ndarray
    mean_whitening: np.ndarray

    def __post_init__(self):
        _check_whitening(self.means, self.whitening)
        _check_whitening(self.mean, self.mean_whitening)

    @classmethod
    def fit(cls, features: np.ndarray, labels: Sequence | None = None) -> "RelativeMahalanobis":
        means, whitening = _fit_gaussians(features, labels)
        if len(means) < 2:
            raise ValueError("the relative distance needs clips of at least two classes")
        return cls(means, whitening, *_fit_gaussians(features, [0] * len(features)))

    def score(self, features: np.ndarray) -> np.ndarray:
        embeddings = _checked(features, self.reads, self.means.shape[1])
        background = _mahalanobis(embeddings, self.mean, self.mean_whitening)[:, 0]
        return _mahalanobis(embeddings, self.means, self.whitening).min(axis=1) - background


@dataclass(frozen=True, eq=False)
class NearestNeighbours(OpenSetScore):
    """
    Distance to the k-th nearest known clip, in [0, 2], between embeddings of length 1 (Sun et al., arXiv 2204.06507).

    A known clip is its own nearest neighbour, so thresholds have to come from other clips than `bank`.

    Args:
        bank: embeddings of known clips, each of length 1, `(clips, width)`.
        neighbours: k, `(1,)`.
    """

    method = "nearest_neighbours"
    reads = "embeddings"

    bank: np.ndarray
    neighbours: np.ndarray

    def __post_init__(self):
        if self.bank.ndim != 2 or self.neighbours.shape != (1,) or not 1 <= self.neighbours[0] <= len(self.bank):
            raise ValueError(
                f"k nearest neighbours need 1 to {len(self.bank)} of the known clips, got k = {self.neighbours.tolist()}"
            )

    @classmethod
    def fit(cls, features: np.ndarray, labels: Sequence | None = None, *, neighbours: int = 10) -> "NearestNeighbours":
        bank = _unit(_checked(features, cls.reads))
        return cls(bank.astype(np.float32), np.array([neighbours], dtype=np.int64))

    def score(self, features: np.ndarray) -> np.ndarray:
        embeddings, k = _unit(_checked(features, self.reads, self.bank.shape[1])), int(self.neighbours[0])
        bank = self.bank.astype(np.float64)
        parts = np.split(embeddings, range(_ROWS, len(embeddings), _ROWS))
        similarities = [np.partition(part @ bank.T, -k, axis=1)[:, -k] for part in parts]
        return np.sqrt(np.maximum(2 - 2 * np.concatenate(similarities), 0))


METHODS: dict[str, type[OpenSetScore]] = {
    score.method: score for score in (MaximumSoftmax, Energy, Mahalanobis, RelativeMahalanobis, NearestNeighbours)
}


def _checked(features: np.ndarray, kind: str, width: int | None = None) -> np.ndarray:
    """Features as float64 `(clips, width)`. Raises ValueError for another shape, none, and values that are not finite."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not features.size or width not in (None, features.shape[1]):
        expected = "width" if width is None else width
        raise ValueError(f"{kind} have the shape (clips, {expected}), got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(f"{kind} hold values that are not finite; leave these clips out, and say so")
    return features


def _unit(features: np.ndarray) -> np.ndarray:
    """Vectors of length 1, `(clips, width)`; a vector of zeros stays one, at distance 1.4 of all others."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def _fit_gaussians(features: np.ndarray, labels: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Class means `(classes, width)` and the whitening of their shared covariance `(width, width)`, float32."""
    features = _checked(features, "embeddings")
    if labels is None or len(labels) != len(features):
        raise ValueError(
            f"{len(features)} embeddings need as many labels, got {None if labels is None else len(labels)}"
        )
    _, index = np.unique(np.asarray(labels), return_inverse=True)
    means = np.stack([features[index == label].mean(axis=0) for label in range(index.max() + 1)])
    covariance = shrunk_covariance(features - means[index])
    try:
        whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError as error:
        raise ValueError("the embeddings do not vary within their classes; fit on more clips") from error
    return means.astype(np.float32), whitening.astype(np.float32)


def shrunk_covariance(centred: np.ndarray) -> np.ndarray:
    """
    Covariance of `(clips, width)` rows of mean 0, shrunk towards the identity times its mean variance, `(width, width)`.

    The weight is that of Ledoit and Wolf, *A well-conditioned estimator for large-dimensional covariance matrices*, 2004:
    the estimated error of the sample covariance S over its distance from the target.
    """
    count, width = centred.shape
    sample = centred.T @ centred / count
    target = np.trace(sample) / width * np.eye(width)
    distance = np.sum((sample - target) ** 2)
    error = (np.mean(np.sum(centred**2, axis=1) ** 2) - np.sum(sample**2)) / count
    weight = min(error / distance, 1.0) if distance > 0 else 1.0
    return weight * target + (1 - weight) * sample


def _mahalanobis(embeddings: np.ndarray, means: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Squared distances to each mean, `(clips, classes)`."""
    whitening = whitening.astype(np.float64)
    points, centres = embeddings @ whitening.T, means.astype(np.float64) @ whitening.T
    return np.stack([((points - centre) ** 2).sum(axis=1) for centre in centres], axis=1)


def _check_whitening(means: np.ndarray, whitening: np.ndarray) -> None:
    if means.ndim != 2 or not len(means) or whitening.shape != (means.shape[1],) * 2:
        raise ValueError(
            f"class means of shape {means.shape} do not fit a whitening matrix of shape {whitening.shape}"
        )
