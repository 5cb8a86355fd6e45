"""The models of the demo, loaded once at its start: detectors to choose from, and a tracer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spooftrace.audio import AudioLimits
from spooftrace.checkpoint import default_folder
from spooftrace.detector import Detector
from spooftrace.spaces.demo_thresholds import OperatingPoints
from spooftrace.tracer import Tracer


SHIPPED = "default"


@dataclass(frozen=True)
class DemoSettings:
    """
    What a demo offers and accepts.

    Args:
        models: detectors by folder or Hub name, in the order of the choice; `"default"` is the shipped one.
        tracer: of the same kind, several where each answers another question; without any, sources are not traced.
        device: that all models run on; by default the best one present.
        max_seconds: of a clip.
        max_bytes: of an uploaded file.
        running: clips that are worked on at the same time.
        waiting: clips that may wait; more are told to come back.
        keep_seconds: after which uploaded and made files are deleted.
    """

    models: Sequence[str] = (SHIPPED,)
    tracer: Sequence[str] = (SHIPPED,)
    device: str | None = None
    max_seconds: float = 600.0
    max_bytes: int = 50 * 2**20
    running: int = 2
    waiting: int = 128
    keep_seconds: int = 600

    @property
    def limits(self) -> AudioLimits:
        return AudioLimits(max_seconds=self.max_seconds, max_bytes=self.max_bytes)


@dataclass(frozen=True)
class OfferedDetector:
    """
    A detector under the name that visitors choose it by.

    Args:
        name: never a path, whose folders are nobody's business.
        detector: loaded.
        points: its scores on labelled clips; `None` where none were measured.
        card: its model card, where it is at hand.
    """

    name: str
    detector: Detector
    points: OperatingPoints | None
    card: Path | None


@dataclass(frozen=True)
class DemoModels:
    """All that is loaded: at least one detector, and a tracer or `None`; and the tracer's cards, where they are at hand."""

    detectors: dict[str, OfferedDetector]
    tracer: Tracer | None
    tracer_cards: Sequence[Path] = ()

    @classmethod
    def load(cls, settings: DemoSettings) -> "DemoModels":
        """
        Loads every model of the settings.

        Raises:
            CheckpointError, OSError: where a model cannot be loaded.
            ValueError: without a detector, or for two of one name.
        """
        offered = [_load_detector(model, settings) for model in settings.models]
        names = [entry.name for entry in offered]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"A demo needs detectors of different names, got {', '.join(names) or 'none'}.")
        cards = [card for model in settings.tracer if (card := _card(model, "tracer"))]
        return cls(dict(zip(names, offered, strict=True)), _load_tracer(settings), cards)


def _load_detector(model: str, settings: DemoSettings) -> OfferedDetector:
    source = None if model == SHIPPED else model
    detector = Detector.from_pretrained(source, device=settings.device, limits=settings.limits)
    name = detector.model_info["name"] = public_name(detector.model_info["name"])
    folder = Path(model) if source is not None and os.path.isdir(model) else None
    points = OperatingPoints.find(detector.model_info["revision"], folder)
    return OfferedDetector(name, detector, points, _card(model, "default"))


def _load_tracer(settings: DemoSettings) -> Tracer | None:
    if not settings.tracer:
        return None
    sources = [None if model == SHIPPED else model for model in settings.tracer]
    tracer = Tracer.from_pretrained(sources, device=settings.device, limits=settings.limits)
    for entry in tracer.model_info["checkpoints"]:
        entry["name"] = public_name(entry["name"])
    return tracer


def _card(model: str, shipped: str) -> Path | None:
    card = (default_folder(shipped) if model == SHIPPED else Path(model)) / "README.md"
    return card if card.is_file() else None


def public_name(name: str) -> str:
    """How a model is called before visitors: its name on the Hub, or the last part of its folder."""
    return Path(name).resolve().name if os.path.isdir(name) else name
