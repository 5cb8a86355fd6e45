"""
Open-set tracing: how unlike every known source a clip is, from a tracer's logits or embeddings. Numpy only.

All scores are higher for clips that are more likely of an unknown source. [`OpenSet`] is one of them with its threshold, as
a file beside the model that it was fitted for.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spooftrace.metrics import as_scores, auc
from spooftrace.open_set_scores import (
    METHODS,
    Energy,
    Mahalanobis,
    MaximumSoftmax,
    NearestNeighbours,
    OpenSetScore,
    RelativeMahalanobis,
)


__all__ = [
    "METHODS",
    "OPEN_SET_FILE",
    "Energy",
    "Mahalanobis",
    "MaximumSoftmax",
    "NearestNeighbours",
    "OpenSet",
    "OpenSetError",
    "OpenSetScore",
    "RelativeMahalanobis",
    "acceptance_threshold",
    "auroc",
    "fpr_at_tpr",
]

OPEN_SET_FILE = "open_set.safetensors"
_FORMAT = "spooftrace open set 1"


class OpenSetError(ValueError):
    """A file that holds no usable open-set score, or one that was fitted for other weights."""


@dataclass(frozen=True)
class OpenSet:
    """
    A score with the threshold above which a clip's source counts as unknown.

    Fitted to a tracer of your own, measured on codecs that it was not trained on, and kept beside its weights, where
    `Tracer.from_pretrained` and `spooftrace trace` find it:

    ```python
    tracer = Tracer.from_pretrained("my-tracer")


    def embeddings(paths):
        return np.stack([trace.features.embedding for trace in tracer.trace(paths)])


    scorer = RelativeMahalanobis.fit(embeddings(train), codecs_of_train)  # scores of logits read `trace.features.logits[task]`
    known, unknown = scorer.score(embeddings(test)), scorer.score(embeddings(of_other_codecs))
    print(auroc(known, unknown), fpr_at_tpr(known, unknown))
    sha256 = weights_file_sha256(Path("my-tracer"))  # of spooftrace.checkpoint
    about = {"task": "vq", "fitted_on": "train; threshold: valid", "weights_sha256": sha256}
    OpenSet.at_acceptance(scorer, embeddings(valid), **about).save("my-tracer")
    ```

    Args:
        scorer: what it is computed with.
        task: whose logits are scored; for scores of embeddings, the task or attribute that the classes are of.
        threshold: clips that score above are of an unknown source.
        known_acceptance: share of known clips that should lie at or below it, in (0, 1].
        fitted_on: the clips that score and threshold were fitted on, in words.
        weights_sha256: of the model's weights, see [`spooftrace.checkpoint.weights_file_sha256`].
    """

    scorer: OpenSetScore
    task: str
    threshold: float
    known_acceptance: float
    fitted_on: str
    weights_sha256: str

    def __post_init__(self):
        if not math.isfinite(self.threshold) or not 0 < self.known_acceptance <= 1:
            raise ValueError(
                "an open-set threshold is finite and accepts a share of known clips between 0 and 1, got "
                f"{self.threshold} at {self.known_acceptance}"
            )

    @classmethod
    def at_acceptance(
        cls, scorer: OpenSetScore, known: np.ndarray, known_acceptance: float = 0.95, **description: str
    ) -> "OpenSet":
        """
        The score with the lowest threshold that accepts so many known clips.

        Args:
            scorer: fitted.
            known: logits or embeddings of known clips that it was not fitted on, `(clips, width)`.
            known_acceptance: share of them that may not be called unknown.
            **description: `task`, `fitted_on`, `weights_sha256`.
        """
        threshold = acceptance_threshold(scorer.score(known), known_acceptance)
        return cls(scorer, threshold=threshold, known_acceptance=known_acceptance, **description)

    def score(self, logits: Mapping[str, np.ndarray], embedding: np.ndarray | None) -> float:
        """
        The score of one clip, higher where its source is more likely unknown.

        Args:
            logits: of each task, `(classes,)`.
            embedding: `(width,)`, or `None` where the model gives none.

        Raises:
            OpenSetError: where the score reads what is not there.
            ValueError: for an embedding of another width.
        """
        features = logits.get(self.task) if self.scorer.reads == "logits" else embedding
        if features is None:
            raise OpenSetError(f"the open-set score reads {self.scorer.reads}, which the model does not give")
        return float(self.scorer.score(features[None])[0])

    def is_unknown(self, score: float) -> bool:
        """Whether a clip with this score counts as of an unknown source."""
        return score > self.threshold

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes `open_set.safetensors` into the model's folder, as a whole or not at all; returns its path."""
        path = Path(folder) / OPEN_SET_FILE
        metadata = {
            "format": _FORMAT,
            "method": self.scorer.method,
            "task": self.task,
            "threshold": repr(self.threshold),
            "known_acceptance": repr(self.known_acceptance),
            "fitted_on": self.fitted_on,
            "weights_sha256": self.weights_sha256,
        }
        temporary = path.with_name(f".{path.name}.part")
        save_file(self.scorer.tensors(), temporary, metadata=metadata)
        os.replace(temporary, path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "OpenSet":
        """
        Reads what [`save`] wrote.

        Args:
            path: of the file.

        Raises:
            OpenSetError: for a file that is cut short, of another kind, or whose tensors do not fit together.
            OSError: where it cannot be read.
        """
        metadata, tensors = _read(Path(path))
        if metadata.get("format") != _FORMAT or metadata.get("method") not in METHODS:
            raise OpenSetError(
                f"{path} holds no open-set score that is known here: its format is {metadata.get('format')!r}, its method "
                f"{metadata.get('method')!r}. Remove it, or fit it anew."
            )
        texts = {name: metadata.get(name, "") for name in ("task", "fitted_on", "weights_sha256")}
        try:
            numbers = {name: float(metadata[name]) for name in ("threshold", "known_acceptance")}
            return cls(METHODS[metadata["method"]](**tensors), **texts, **numbers)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise OpenSetError(f"{path} is not a valid open-set score: {error}. Fit it anew.") from error

    def require_weights(self, sha256: str, name: str) -> None:
        """Raises `OpenSetError` unless the score was fitted for the weights with this digest, of the model `name`."""
        if sha256 != self.weights_sha256:
            raise OpenSetError(
                f"{name}: {OPEN_SET_FILE} was fitted for the weights {self.weights_sha256[:12]}, but these are "
                f"{sha256[:12]}: fit it anew, or remove it."
            )

    def to_dict(self) -> dict[str, Any]:
        """What results say about it."""
        return {
            "method": self.scorer.method,
            "task": self.task,
            "threshold": self.threshold,
            "known_acceptance": self.known_acceptance,
        }


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """
    How often a clip of an unknown source scores above one of a known source, equal scores counted half. In [0, 1].

    `bootstrap_interval(auroc, known, unknown)` of [`spooftrace.intervals`] gives its interval.
    """
    return auc(as_scores("unknown", unknown), as_scores("known", known))


def fpr_at_tpr(known: np.ndarray, unknown: np.ndarray, tpr: float = 0.95) -> float:
    """
    Share of clips of unknown sources that pass as known where at least `tpr` of the known clips do. In [0, 1].

    Known is positive, as usual in the field (Liang et al., arXiv 1706.02690). A clip passes up to and with the threshold.
    `bootstrap_interval(fpr_at_tpr, known, unknown)` of [`spooftrace.intervals`] gives its interval.
    """
    threshold = acceptance_threshold(known, tpr)
    return float(np.mean(as_scores("unknown", unknown) <= threshold))


def acceptance_threshold(known: np.ndarray, acceptance: float = 0.95) -> float:
    """
    The lowest score of a known clip such that at least `acceptance` of the known clips score as much or less.

    Raises:
        ValueError: for a share outside (0, 1], and scores that are absent or not finite.
    """
    if not 0 < acceptance <= 1:
        raise ValueError(f"the share of known clips to accept lies between 0 and 1, got {acceptance}")
    known = np.sort(as_scores("known", known))
    needed = math.ceil(known.size * acceptance - 1e-9)  # 0.07 * 100 is a little more than 7
    return float(known[max(needed, 1) - 1])


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file; all tensors finite."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, TypeError) as error:
        raise OpenSetError(f"{path} cannot be read as safetensors: {error}. Fit it anew, or remove it.") from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise OpenSetError(f"{path}: the tensor {name!r} holds values that are not finite. Fit it anew.")
    return metadata, tensors
