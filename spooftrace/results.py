"""What detector and tracer answer: a detection or a trace for each clip, or a failure. Standard library only."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal


if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Window:
    """Log-odds of bona fide speech between two times of a clip, in seconds."""

    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Detection:
    """
    What the detector says about one clip.

    Args:
        path: the file as it was named, or a stand-in for bytes, streams and arrays.
        score: log-odds of bona fide, higher for genuine speech; given for every finite clip, abstention or not.
        probability_bonafide: `sigmoid(scale * score + bias)` by the model's calibration; of the bare score without one.
        verdict: `"bonafide"`, `"spoof"` or `"abstain"`.
        reason: why there is no verdict: too short, silent, not finite, too little voiced material, or
            clipped, or a steady tone.
        duration: in seconds.
        windows: in order of time, overlapping by half; together they cover the clip.
        model: `name`, `revision` (the commit on the Hub, or a digest of local weights), `calibrated`, and the version
            of `spooftrace`.
        sha256: of the encoded audio.
    """

    path: str
    score: float | None
    probability_bonafide: float | None
    verdict: Literal["bonafide", "spoof", "abstain"]
    reason: str | None
    duration: float
    windows: list[Window]
    model: dict[str, Any]
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class SourceAnswer:
    """
    One question about a clip's source: the quantiser (`vq`), the auxiliary objective (`aux`), or the decoder (`dec`).

    Args:
        label: the most probable class; `None` where the tracer abstains.
        probabilities: by class, adding up to 1; `None` where the clip's samples are not finite.
    """

    label: str | None
    probabilities: dict[str, float] | None


@dataclass(frozen=True)
class UnknownAnswer:
    """
    Whether a clip comes from a source that the model does not know.

    Args:
        score: higher for clips less like the known sources; `None` where the clip's samples are not finite.
        is_unknown: whether it lies above the threshold; `None` where the tracer abstains. Of the shipped tracer this is weak
            evidence: about one unknown clip in five is called unknown, and new codecs are told from known ones no better
            than by chance; see its card.
    """

    score: float | None
    is_unknown: bool | None


@dataclass(frozen=True)
class ClipFeatures:
    """
    What the model computed for a clip, as means over its windows; open-set scores are fitted to these.

    Args:
        logits: of each task, float64 `(classes,)`.
        embedding: float64 `(width,)`, of the model that has an open-set score, else of the first; `None` where it gives
            none.
    """

    logits: "dict[str, np.ndarray]"
    embedding: "np.ndarray | None"


@dataclass(frozen=True)
class Trace:
    """
    What the tracer says about the source of one clip.

    Args:
        path: the file as it was named, or a stand-in for bytes, streams and arrays.
        vq, aux, dec: the answers; `None` for a question that no model answers.
        unknown: `None` where the model has no open-set score.
        reason: why the tracer abstains, as in [`Detection`].
        model: `checkpoints`, each with `name`, `revision` and `tasks`, the `open_set` score with its threshold, and the
            version of `spooftrace`.
        duration: in seconds.
        sha256: of the encoded audio.
        features: behind the answers; left out of `to_dict`. `None` where the clip's samples are not finite.
    """

    path: str
    vq: SourceAnswer | None
    aux: SourceAnswer | None
    dec: SourceAnswer | None
    unknown: UnknownAnswer | None
    reason: str | None
    model: dict[str, Any]
    duration: float
    sha256: str
    features: ClipFeatures | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "features"}
        answers = {name: asdict(value) for name, value in values.items() if is_dataclass(value)}
        return {**values, **answers}


@dataclass(frozen=True)
class Failure:
    """A clip that could not be processed: the name of the error's class, and its message."""

    path: str
    error: str
    message: str

    @classmethod
    def of(cls, path: str, exception: Exception) -> "Failure":
        return cls(path, type(exception).__name__, str(exception))

    def to_dict(self) -> dict[str, str]:
        """Plain values, ready for `json.dumps`."""
        return {"path": self.path, "error": self.error, "message": self.message}


def printable(text: str) -> str:
    """Control characters as escapes: a file's name may rewrite neither the terminal nor a report."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
