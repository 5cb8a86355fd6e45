"""The one path from audio to what models say about it: sources -> windows -> batches -> each clip's outputs, in order.

[`spooftrace.detector.Detector`] and [`spooftrace.tracer.Tracer`] say what to make of a batch and of a clip's outputs;
everything before that is here, so that both read, cut, batch and fail alike.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from spooftrace.audio import (
    SAMPLING_RATE,
    AudioError,
    AudioLimits,
    NonFiniteAudioError,
    describe_source,
    inspect_audio,
    iter_audio,
    reusable_source,
)
from spooftrace.exact_convolutions import exact_convolutions
from spooftrace.results import Failure
from spooftrace.windows import Material, cut_windows


# Window of models whose feature extractor names none: 64,600 samples at 16 kHz, as in the AASIST recipe.
WINDOW_SECONDS = 4.0375

# Batches that are gathered and sorted by length where models take windows of any length.
POOL = 4

Output = TypeVar("Output")  # what is kept of a model's answer for one window
Result = TypeVar("Result")  # the answer for a clip
Progress = Callable[[float], None]


class ScoreError(ValueError):
    """The model gave a score that is not finite for a finite clip."""


@dataclass
class Clip(Generic[Output]):
    """
    A clip on its way.

    Args:
        path: the file as it was named, or a stand-in for bytes, streams and arrays.
        source: what is read.
        sampling_rate: of an array, in hertz.
        material: how much speech-like material was seen so far.
        bounds: of the windows so far, in seconds.
        outputs: of the first of these windows.
        error: what went wrong.
    """

    path: str
    source: Any
    sampling_rate: int | None
    material: Material = field(default_factory=lambda: Material(SAMPLING_RATE))
    bounds: list[tuple[float, float]] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    error: Exception | None = None


class WindowModel:
    """
    A model in evaluation mode on its device, and the feature extractor that prepares windows for it.

    Args:
        model: takes what the feature extractor makes, in the model's own precision.
        feature_extractor: for 16 kHz audio.
        device: `"cpu"`, `"cuda"`, `"mps"`...; by default the best one present.
        window_seconds: length of a window where the feature extractor names none (`window_samples`).

    Raises:
        ValueError: for another sampling rate, a device that is not here, and windows outside 0.1 to 60 seconds.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        feature_extractor: FeatureExtractionMixin,
        *,
        device: str | torch.device | None = None,
        window_seconds: float = WINDOW_SECONDS,
    ):
        if feature_extractor.sampling_rate != SAMPLING_RATE:
            raise ValueError(
                f"The model takes {feature_extractor.sampling_rate} Hz audio, but {SAMPLING_RATE} is needed."
            )
        self.device = _pick_device(device)
        self.model = model.to(self.device).eval()
        self.feature_extractor = feature_extractor
        # Our extractors repeat or mask short clips themselves; for others they are repeated here.
        self._knows_window = isinstance(getattr(feature_extractor, "window_samples", None), int)
        self.window_samples = (
            feature_extractor.window_samples if self._knows_window else round(window_seconds * SAMPLING_RATE)
        )
        # With a mask, a short window costs less beside others of its length.
        takes_lengths = self._knows_window and "feature_attention_mask" in feature_extractor.model_input_names
        self.pool = POOL if takes_lengths else 1
        if not 0.1 <= self.window_samples / SAMPLING_RATE <= 60:
            raise ValueError(f"Windows last 0.1 to 60 seconds, got {self.window_samples / SAMPLING_RATE}.")

    def __call__(self, windows: list[np.ndarray], function: Callable[..., Any] | None = None) -> Any:
        """
        One forward pass over windows `[window_samples]`, or `[num_samples]` of clips that are shorter.

        Args:
            function: what takes the prepared windows instead of the model, such as a part of it.
        """
        if not self._knows_window:
            windows = [np.resize(window, self.window_samples) for window in windows]
        inputs = self.feature_extractor(windows, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        inputs = inputs.to(self.device, dtype=self.model.dtype)
        precision = exact_convolutions if self.device.type == "cuda" else nullcontext()
        with torch.inference_mode(), precision, _precision_named(self.model):
            return (function or self.model)(**inputs)


class ClipWindows(ABC, Generic[Output, Result]):
    """
    Reads clips one after the other, runs their windows in shared batches, and answers for each clip in order.

    Args:
        window_samples: length of a window; they overlap by half, and the last one ends with the clip.
        batch_size: windows per forward pass.
        limits: what audio is accepted.
        pool: batches that are gathered before they run, so that each has windows of like length. No matter to the answers.

    Raises:
        ValueError: for a batch without windows.
    """

    def __init__(self, *, window_samples: int, batch_size: int, limits: AudioLimits | None, pool: int = 1):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        self.window_samples, self.batch_size, self._pool = window_samples, batch_size, pool
        self.limits = limits or AudioLimits()

    @abstractmethod
    def _outputs(self, windows: list[np.ndarray]) -> list[Output]:
        """What the model says about each window of a batch; `[window_samples]`, or shorter where the clip is."""

    @abstractmethod
    def _flaw(self, output: Output) -> str | None:
        """Why an output cannot be used, or `None` where it can."""

    @abstractmethod
    def _answer(self, clip: Clip[Output], reason: str | None, seconds: float) -> Result:
        """The answer for a clip, from the outputs of all its windows; there is none where its samples are not finite."""

    def _answer_one(self, audio: Any, sampling_rate: int | None) -> Result:
        """The answer for one clip; raises what went wrong."""
        source = {"array": audio, "sampling_rate": sampling_rate} if sampling_rate is not None else audio
        return self._finish(next(self._clips([source], None)))

    def _answer_all(self, sources: Iterable[Any], progress: Progress | None) -> Iterator[Result | Failure]:
        """One answer per source, in their order; what went wrong with a clip becomes a [`Failure`]."""
        for clip in self._clips(sources, progress):
            try:
                result = self._finish(clip)
            except (AudioError, OSError, ScoreError) as error:
                result = Failure.of(clip.path, error)
            yield result

    def _clips(self, sources: Iterable[Any], progress: Progress | None) -> Iterator[Clip[Output]]:
        """Clips in the order of their sources, once all their windows are through or an error ended them."""
        clips: deque[Clip[Output]] = deque()
        gathered: list[tuple[Clip[Output], np.ndarray]] = []
        for source in sources:
            clip = _unpack(source)
            clips.append(clip)
            for samples in self._read(clip, progress):
                gathered.append((clip, samples))
                if len(gathered) == self.batch_size * self._pool:
                    self._run(gathered)
                    gathered.clear()
            while clips and (clips[0].error or len(clips[0].outputs) == len(clips[0].bounds)):
                yield clips.popleft()
        if gathered:
            self._run(gathered)
        yield from clips

    def _read(self, clip: Clip[Output], progress: Progress | None) -> Iterator[np.ndarray]:
        """Windows of one clip, `[num_samples]` each; what goes wrong is kept in the clip."""

        def blocks() -> Iterator[np.ndarray]:
            for block in iter_audio(clip.source, sampling_rate=clip.sampling_rate, limits=self.limits):
                clip.material.add(block)
                yield block
                if progress is not None:
                    progress(len(block) / SAMPLING_RATE)

        try:
            clip.source = reusable_source(clip.source, limits=self.limits)  # it is read again for its digest
            for start, samples in cut_windows(blocks(), self.window_samples):
                clip.bounds.append((start / SAMPLING_RATE, (start + len(samples)) / SAMPLING_RATE))
                yield samples
        except (AudioError, OSError) as error:
            clip.error = error

    def _run(self, gathered: list[tuple[Clip[Output], np.ndarray]]) -> None:
        """Runs windows in batches of like length, and hands the outputs to their clips in the order of the windows."""
        order = sorted(range(len(gathered)), key=lambda index: len(gathered[index][1]))
        outputs: dict[int, Output] = {}
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            outputs.update(zip(batch, self._outputs([gathered[index][1] for index in batch]), strict=True))
        for index, (clip, _) in enumerate(gathered):
            output = outputs[index]
            clip.outputs.append(output)
            if flaw := self._flaw(output):
                clip.error = clip.error or ScoreError(f"{clip.path}: {flaw}; it is not usable.")

    def _finish(self, clip: Clip[Output]) -> Result:
        """The answer for a clip that is through; raises what went wrong on its way."""
        if isinstance(clip.error, NonFiniteAudioError):
            info = inspect_audio(clip.source, sampling_rate=clip.sampling_rate, limits=self.limits)
            clip.bounds, clip.outputs = [], []  # of the finite part before
            return self._answer(clip, "not finite", info.duration or clip.material.seconds)
        if clip.error is not None:
            raise clip.error
        return self._answer(clip, clip.material.abstention(), clip.material.seconds)


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:  # torch raises either, by its build
        raise ValueError(f"There is no device {str(device)!r} here: pass 'cpu', 'cuda', 'cuda:1' or 'mps'.") from error


@contextmanager
def _precision_named(model: PreTrainedModel) -> Iterator[None]:
    """
    Raises:
        ValueError: where a model fails in another precision than float32, which is most likely why.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if model.dtype == torch.float32:
            raise
        raise ValueError(
            f"{type(model).__name__} does not run in {model.dtype} on {model.device}: {error}. Use float32."
        ) from error


def _unpack(source: Any) -> Clip:
    """A source in any of its spellings -> its name, what to read, and the sampling rate of an array."""
    if not isinstance(source, dict):
        return Clip(describe_source(source), source, None)
    found = next((source[key] for key in ("array", "bytes", "path") if source.get(key) is not None), None)
    return Clip(str(source.get("path") or describe_source(found)), found, source.get("sampling_rate"))
