"""What the demo does for a visitor: checks a clip, judges it anew at another threshold, plays a window, writes the report."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np

from spooftrace.audio import SAMPLING_RATE, AudioError
from spooftrace.results import Detection, Failure, Trace, Window
from spooftrace.spaces.demo_clip import Picture, Progress, cut, detect, draw, report, report_name, trace
from spooftrace.spaces.demo_guard import UPLOADS_ONLY
from spooftrace.spaces.demo_inside import inside_views, look_inside
from spooftrace.spaces.demo_limits import measured
from spooftrace.spaces.demo_models import DemoModels, DemoSettings, OfferedDetector
from spooftrace.spaces.demo_pictures import timeline
from spooftrace.spaces.demo_thresholds import Threshold
from spooftrace.spaces.demo_views import trace_card, verdict_card
from spooftrace.spaces.demo_words import verdict


EMPTY = '<p class="st-empty">Choose or record a clip on which somebody speaks. The verdict appears here.</p>'


@dataclass(frozen=True)
class Checked:
    """
    A clip that was checked, as long as its visitor stays.

    Args:
        upload: its path, in the folder of uploads.
        model: the name of the detector.
        detection: its answer, with the verdict by the detector's own threshold.
        trace: the tracer's answer; `None` without a tracer, or where it was not asked.
        picture: of the clip; `None` where it cannot be drawn.
    """

    upload: str
    model: str
    detection: Detection | Failure
    trace: Trace | Failure | None
    picture: Picture | None

    @property
    def windows(self) -> list[Window]:
        """Those to look at and to hear; none where there is no verdict that they could explain."""
        judged = isinstance(self.detection, Detection) and self.detection.verdict != "abstain"
        return self.detection.windows if judged else []


class Visits:
    """
    Answers to visitors and programs. Nothing is kept here: what belongs to a visit lies in its session.

    Args:
        models: loaded.
        settings: of the demo.
        folder: that all uploads lie in.
    """

    def __init__(self, models: DemoModels, settings: DemoSettings, folder: Path):
        self.models = models
        self.settings = settings
        self.folder = folder.resolve()

    def uploaded(self, path: str | None) -> str:
        """The path of an upload. Gradio checks it too; raises `gradio.Error` without one, and for any other file."""
        if path is None:
            raise gr.Error("Upload a clip first.", print_exception=False)
        if not Path(path).resolve().is_relative_to(self.folder) or Path(path).is_dir():
            raise gr.Error(UPLOADS_ONLY, print_exception=False)
        if not Path(path).is_file():
            raise gr.Error("The clip was deleted meanwhile. Upload it again.", print_exception=False)
        return path

    def offered(self, model: str) -> OfferedDetector:
        """The detector of this name. Raises `gradio.Error` for another name."""
        if model not in self.models.detectors:
            raise gr.Error(f"The models here are {', '.join(self.models.detectors)}.", print_exception=False)
        return self.models.detectors[model]

    def threshold(self, model: str, percent: float) -> Threshold:
        """For `percent` of genuine clips that may be flagged."""
        if not isinstance(percent, (int, float)) or not 0 <= percent < 100:
            raise gr.Error("The share of genuine clips is a number of percent from 0 to 99.", print_exception=False)
        offered = self.offered(model)
        return Threshold.for_share(percent / 100, offered.points, offered.detector.probability)

    def check(self, path: str, model: str, progress: Progress | None, traced: bool) -> Checked:
        """Everything about an uploaded file that does not depend on the threshold."""
        offered, path = self.offered(model), self.uploaded(path)
        result = detect(offered.detector, path, progress)
        failed = isinstance(result, Failure)
        answer = None
        if traced and not failed and self.models.tracer is not None:
            answer = trace(self.models.tracer, path, progress)
        return Checked(path, offered.name, result, answer, None if failed else self._draw(path))

    def current(self, checked: Checked | None, path: str | None, model: str) -> Checked | None:
        """The same where it is of this upload and this detector: after a failed check, it is still of the one before."""
        return checked if checked is not None and (checked.upload, checked.model) == (path, model) else None

    def _draw(self, path: str) -> Picture | None:
        try:
            return draw(path, self.settings.limits)
        except AudioError:  # samples that are not finite, which the detection says
            return None

    def judged(self, checked: Checked, percent: float) -> tuple[Detection | Failure, Threshold]:
        """The answer with the verdict at another threshold."""
        threshold = self.threshold(checked.model, percent)
        failed = isinstance(checked.detection, Failure)
        return checked.detection if failed else threshold.apply(checked.detection), threshold

    def show(self, checked: Checked | None, percent: float) -> tuple[str, str, str]:
        """Verdict, timeline and source of a checked clip as HTML."""
        if checked is None:
            return EMPTY, "", ""
        result, threshold = self.judged(checked, percent)
        probability = self.offered(checked.model).detector.probability
        words = verdict(result, threshold, probability, self.settings.max_seconds, self.settings.max_bytes)
        picture = ""
        if isinstance(result, Detection) and checked.picture is not None:
            whose = f"{result.path}, detector {checked.model}"
            picture = timeline(checked.picture, checked.windows, probability, threshold.probability, whose)
        return verdict_card(words, result, threshold), picture, trace_card(checked.trace)

    def promise(self, checked: Checked | None, model: str, percent: float) -> str:
        """What the threshold did on measured clips, with the place of a checked clip that has a verdict; HTML."""
        judged = checked is not None and checked.model == model and checked.windows
        score = checked.detection.score if judged else None
        return measured(self.offered(model).points, self.threshold(model, percent), score)

    def play(self, checked: Checked | None, number: float) -> tuple[int, np.ndarray] | None:
        """The sound of a window as the detector heard it: sampling rate and 16-bit samples `[num_samples]`."""
        window = self._window(checked, number)
        if window is None:
            return None
        samples = cut(self.uploaded(checked.upload), window.start, window.end, self.settings.limits)
        return SAMPLING_RATE, (samples * 32767).astype(np.int16)

    def inside(self, checked: Checked | None, number: float) -> str:
        """Views into the tracer from a window on, for as long as the tracer listens; HTML."""
        window = self._window(checked, number)
        if window is None:
            return ""
        seconds = self.models.tracer.window_samples / SAMPLING_RATE
        start = max(min(window.start, checked.detection.duration - seconds), 0.0)
        end = min(start + seconds, checked.detection.duration)
        samples = cut(self.uploaded(checked.upload), start, end, self.settings.limits)
        return inside_views(look_inside(self.models.tracer, samples), start, end)

    def _window(self, checked: Checked | None, number: float) -> Window | None:
        """A window of a checked clip; `None` without one. Raises `gradio.Error` for a number that it does not have."""
        if checked is None:
            return None
        windows = checked.windows
        if not isinstance(number, (int, float)) or not 0 <= number < len(windows):
            raise gr.Error(f"This clip has {len(windows)} windows.", print_exception=False)
        return windows[int(number)]

    def report(self, checked: Checked | None, percent: float) -> str | None:
        """Path of the report on a checked clip, in a folder of its own; it is deleted with the uploads."""
        if checked is None:
            return None
        result, threshold = self.judged(checked, percent)
        content = report(result, checked.trace, {"model": checked.model, **threshold.to_dict()})
        path = Path(tempfile.mkdtemp()) / report_name(result.path)
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return str(path)

    def detect_json(self, path: str | None, model: str, threshold: float, progress: Progress | None) -> str:
        """What `spooftrace detect --json --threshold` prints for one clip."""
        path = self.uploaded(path)
        if not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
            raise gr.Error(f"`threshold` is a probability between 0 and 1, got {threshold!r}.", print_exception=False)
        result = detect(self.offered(model).detector, path, progress)
        return _printed(result if isinstance(result, Failure) else Threshold(threshold).apply(result))

    def trace_json(self, path: str | None, progress: Progress | None) -> str:
        """What `spooftrace trace --json` prints for one clip."""
        return _printed(trace(self.models.tracer, self.uploaded(path), progress))


def _printed(result: Detection | Trace | Failure) -> str:
    """
    The commands' array of one object, as text.

    Gradio's clients take every object with a `path` for a file to download, so that the object itself would not arrive.
    """
    return f"[\n{json.dumps(result.to_dict(), allow_nan=False)}\n]\n"
