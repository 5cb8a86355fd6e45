"""What the detector answers: a detection for each clip, or a failure. Standard library only."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


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
