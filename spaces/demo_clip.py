"""One uploaded clip: what detector and tracer say about it, and what is needed to draw it."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spooftrace.audio import SAMPLING_RATE, AudioError, AudioLimits, inspect_audio, iter_audio
from spooftrace.detector import Detector
from spooftrace.results import Detection, Failure, Trace
from spooftrace.tracer import Tracer


# A picture's columns; more than a screen shows are not worth their bytes.
COLUMNS = 600
_STEP = 160  # samples between the frames of a picture: 10 ms
_FRAME = 512
_MEL_BANDS = 64

Progress = Callable[[float, str], None]


class Upload(io.BufferedReader):
    """An uploaded file, open for reading, that answers by its last name alone: results and errors show no folders."""

    def __init__(self, path: str | os.PathLike):
        self._base = os.path.basename(path)
        super().__init__(io.FileIO(path))

    @property
    def name(self) -> str:
        return self._base


@dataclass(frozen=True)
class Picture:
    """
    What is drawn of a clip.

    Args:
        seconds: its length.
        low, high: the waveform's extremes in each column, `[columns]`, at most `COLUMNS` of them.
        mel: level in decibels, 80 for the loudest, nothing below 0: `[bands, columns]`, low frequencies first.
    """

    seconds: float
    low: np.ndarray
    high: np.ndarray
    mel: np.ndarray


def detect(detector: Detector, path: str, progress: Progress | None = None) -> Detection | Failure:
    """What `spooftrace detect --json` says about the file, under its last name."""
    with Upload(path) as upload:
        return next(detector.detect([upload], progress=_share(upload, detector.limits, progress, "Listening")))


def trace(tracer: Tracer, path: str, progress: Progress | None = None) -> Trace | Failure:
    """What `spooftrace trace --json` says about the file, under its last name."""
    with Upload(path) as upload:
        return next(tracer.trace([upload], progress=_share(upload, tracer.limits, progress, "Tracing the source")))


def _share(
    upload: Upload, limits: AudioLimits, progress: Progress | None, words: str
) -> Callable[[float], None] | None:
    """Seconds that were read -> the share of the file, for a progress bar."""
    if progress is None:
        return None
    try:
        total = inspect_audio(upload, limits=limits).duration or limits.max_seconds
    except AudioError:  # the detector will say so
        return None
    done = 0.0

    def advance(seconds: float) -> None:
        nonlocal done
        done += seconds
        progress(min(done / total, 1.0), words)

    return advance


def cut(path: str, start: float, end: float, limits: AudioLimits) -> np.ndarray:
    """
    A part of a file as the models hear it, mono at 16 kHz.

    Args:
        path: of the file.
        start, end: in seconds.
        limits: what is accepted.

    Returns:
        float32 `[num_samples]` in [-1, 1], at most `end - start` seconds long.
    """
    first, last = round(start * SAMPLING_RATE), round(end * SAMPLING_RATE)
    parts, position = [], 0
    with Upload(path) as upload:
        for block in iter_audio(upload, limits=limits):
            parts.append(block[max(first - position, 0) : max(last - position, 0)])
            position += len(block)
            if position >= last:
                break
    return np.clip(np.concatenate(parts), -1.0, 1.0)


def draw(path: str, limits: AudioLimits) -> Picture:
    """
    Reads a file block by block for its picture.

    Raises:
        AudioError: where it cannot be read; what has samples that are not finite cannot be drawn.
    """
    columns, length = [], 0
    rest = np.empty(0, np.float32)
    with Upload(path) as upload:
        for block in iter_audio(upload, limits=limits):
            length += len(block)
            samples = np.concatenate((rest, block))
            rest = samples[len(samples) // _STEP * _STEP :]
            columns.append(_columns(samples[: len(samples) - len(rest)]))
    columns.append(_columns(np.pad(rest, (0, -len(rest) % _STEP))))
    low, high, mel = map(np.concatenate, zip(*columns, strict=True))
    edges = _edges(len(low))
    level = 10 * np.log10(np.add.reduceat(mel, edges, axis=0) / _sizes(edges, len(low))[:, None] + 1e-10)
    return Picture(
        seconds=length / SAMPLING_RATE,
        low=np.minimum.reduceat(low, edges),
        high=np.maximum.reduceat(high, edges),
        mel=np.clip(level - level.max() + 80, 0, 80).round().astype(np.uint8).T,
    )


def _edges(steps: int) -> np.ndarray:
    """First step of each column."""
    columns = max(min(steps, COLUMNS), 1)
    return np.arange(columns) * steps // columns


def _sizes(edges: np.ndarray, steps: int) -> np.ndarray:
    return np.diff(np.append(edges, steps))


def _columns(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`[steps * 160]` -> lowest and highest sample `[steps]`, and power in mel bands `[steps, bands]`, of each step."""
    steps = samples.reshape(-1, _STEP)
    padded = np.pad(samples, ((_FRAME - _STEP) // 2, _FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_STEP][: len(steps)]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(_FRAME).astype(np.float32), axis=1)) ** 2
    mel = (spectrum @ _mel_bands().T).astype(np.float32)
    return steps.min(axis=1, initial=0.0), steps.max(axis=1, initial=0.0), mel


def _mel_bands() -> np.ndarray:
    """Triangles that are equally wide in mel (2595 log10(1 + f / 700)), 0 to 8 kHz: `[bands, _FRAME // 2 + 1]`."""
    top = 2595 * np.log10(1 + SAMPLING_RATE / 2 / 700)
    points = 700 * (10 ** (np.linspace(0, top, _MEL_BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(_FRAME, 1 / SAMPLING_RATE)
    rising = (frequencies - points[:-2, None]) / (points[1:-1] - points[:-2])[:, None]
    falling = (points[2:, None] - frequencies) / (points[2:] - points[1:-1])[:, None]
    return np.maximum(np.minimum(rising, falling), 0.0)


def report(detection: Detection | Failure, traced: Trace | Failure | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The downloadable report: both answers as the commands give them with `--json`, and what they were asked with."""
    return {
        "schema_version": 1,
        "detection": detection.to_dict(),
        "trace": traced and traced.to_dict(),
        "settings": settings,
    }


def report_name(path: str) -> str:
    """Name of the report on a clip; letters, digits and dashes alone."""
    stem = "".join(c if c.isalnum() and c.isascii() else "-" for c in Path(path).stem).strip("-")[:60]
    return f"spooftrace-{stem or 'clip'}.json"
