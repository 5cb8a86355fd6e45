"""Thresholds chosen by how many genuine clips may be flagged, from a detector's scores on labelled clips.

`operating_points.json` holds the sorted scores; the shipped detector's lies in `detector/`, another detector's in its own
folder, and is made from what `spooftrace score` wrote:

    python -m spooftrace.spaces.demo_thresholds SCORES LABELS.csv --split test --measured-on "..." --out MODEL_DIR

The shipped ones are of the test split by `spooftrace.trainers.corpus_table --without-transmission`: the corpus calls genuine
speech after a telephone codec spoof, and a page that calls it fake would mislead.
"""

import argparse
import json
import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spooftrace.results import Detection


POINTS_FILE = "operating_points.json"
UNMEASURED = 0.5
"""Probability of genuine speech at which a detector without measured scores changes its verdict."""

SHIPPED = Path(__file__).resolve().parent / "detector" / POINTS_FILE


@dataclass(frozen=True)
class OperatingPoint:
    """
    A threshold, and what it did on the clips that it was measured on.

    Args:
        score: clips that score below are flagged.
        flagged_genuine: how many of the `genuine` clips were flagged, wrongly.
        flagged_fake: how many of the `fake` clips were flagged.
    """

    score: float
    flagged_genuine: int
    genuine: int
    flagged_fake: int
    fake: int


@dataclass(frozen=True)
class OperatingPoints:
    """
    Scores of labelled clips by one detector.

    Args:
        revision: of the weights, as results name it; scores of other weights say nothing about these.
        measured_on: the clips, in words.
        genuine: log-odds of bona fide of the genuine clips, sorted.
        fake: the same of the fake clips.
    """

    revision: str
    measured_on: str
    genuine: tuple[float, ...]
    fake: tuple[float, ...]

    def __post_init__(self):
        for name in ("genuine", "fake"):
            scores = tuple(float(score) for score in getattr(self, name))
            if not scores or not all(map(math.isfinite, scores)):
                raise ValueError(f"`{name}` of operating points needs finite scores, got {len(scores)} of them")
            object.__setattr__(self, name, tuple(sorted(scores)))

    def at(self, share: float) -> OperatingPoint:
        """
        The highest threshold that flags at most this share of the genuine clips.

        Raises:
            ValueError: for a share outside [0, 1).
        """
        if not 0 <= share < 1:
            raise ValueError(f"the share of genuine clips that may be flagged lies between 0 and 1, got {share}")
        score = self.genuine[math.floor(share * len(self.genuine) + 1e-9)]  # 0.07 * 100 is a little more than 7
        counts = (bisect_left(self.genuine, score), len(self.genuine), bisect_left(self.fake, score), len(self.fake))
        return OperatingPoint(score, *counts)

    @classmethod
    def find(cls, revision: str | None, folder: Path | None = None) -> "OperatingPoints | None":
        """Those that were measured for the weights `revision`: in the model's folder, or shipped; `None` without any."""
        for path in ([folder / POINTS_FILE] if folder else []) + [SHIPPED]:
            if path.is_file():
                points = cls(**json.loads(path.read_text(encoding="utf-8")))
                if points.revision == revision:
                    return points
        return None

    def save(self, folder: Path) -> Path:
        """Writes `operating_points.json` into a folder; returns its path."""
        path = folder / POINTS_FILE
        rounded = {name: [round(score, 4) for score in getattr(self, name)] for name in ("genuine", "fake")}
        path.write_text(json.dumps({**asdict(self), **rounded}) + "\n", encoding="utf-8")
        return path


@dataclass(frozen=True)
class Threshold:
    """
    Where a verdict changes.

    Args:
        probability: of genuine speech, from which on a clip passes.
        share: of genuine clips that may be flagged, which it was chosen by; `None` where that was never measured.
        point: what it did on measured clips.
        measured_on: these clips, in words.
    """

    probability: float
    share: float | None = None
    point: OperatingPoint | None = None
    measured_on: str | None = None

    @classmethod
    def for_share(
        cls, share: float, points: OperatingPoints | None, probability: Callable[[float], float]
    ) -> "Threshold":
        """
        Args:
            share: of genuine clips that may be flagged, in [0, 1).
            points: of the detector; without any the threshold is one half.
            probability: of a score, by the detector's calibration.
        """
        if points is None:
            return cls(UNMEASURED)
        point = points.at(share)
        return cls(probability(point.score), share, point, points.measured_on)

    def apply(self, detection: Detection) -> Detection:
        """The same detection with the verdict by this threshold; an abstention stays one."""
        if detection.verdict == "abstain":
            return detection
        passes = detection.probability_bonafide >= self.probability
        return replace(detection, verdict="bonafide" if passes else "spoof")

    def to_dict(self) -> dict[str, Any]:
        """For reports."""
        return {
            "flagged_below_probability": self.probability,
            "share_of_genuine_flagged": self.share,
            "measured": self.point and asdict(self.point),
            "measured_on": self.measured_on,
        }


def measure(scores: Path, labels: Path, split: str | None, measured_on: str) -> OperatingPoints:
    """The scores in a folder that `spooftrace score` wrote, joined with the labels of the same clips."""
    from spooftrace.data_scripts.parsers.own import read_manifest
    from spooftrace.score_files import Trials, load_scores

    rows = read_manifest(labels, split=split, require_audio=False, allow_outside=True)  # no clip is opened
    joined = load_scores(scores, Trials(tuple(row.utterance_id for row in rows), tuple(row.label for row in rows)))
    genuine, fake = joined.scores[joined.bonafide], joined.scores[~joined.bonafide]
    return OperatingPoints(joined.source.run["model"]["revision"], measured_on, genuine, fake)


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores of labelled clips as the operating points of a detector.")
    parser.add_argument("scores", type=Path, help="folder that `spooftrace score` wrote")
    parser.add_argument("labels", type=Path, help="CSV, JSON Lines or folder with the labels of the same clips")
    parser.add_argument("--split", help="of the labels; default: all")
    parser.add_argument("--measured-on", required=True, help="the clips, in words that visitors read")
    parser.add_argument("--out", type=Path, required=True, help="folder of the detector")
    args = parser.parse_args()
    print(measure(args.scores, args.labels, args.split, args.measured_on).save(args.out))


if __name__ == "__main__":
    main()
