"""Scores speech with an exported detector. Needs numpy and onnxruntime, and nothing of spooftrace, torch or transformers.

    python score.py clip.wav other.wav

    from score import Scorer
    scorer = Scorer("the/exported/folder")
    print(scorer(samples))  # float32 in [-1, 1], mono, at scorer.sampling_rate

The windows, their aggregation and the calibration are those of `spooftrace detect`. Unlike it, nothing here abstains:
silence and noise get a score as well.
"""

import json
import math
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


AGGREGATIONS = {"mean": np.mean, "median": np.median, "min": np.min}


class Scorer:
    """
    An exported detector.

    Args:
        folder: holds `export.json` and the graphs; by default where this file lies.
        int8: whether to run the quantised graph, where there is one.
        threads: of the processor; 0 is all of them.
        batch_size: windows per run.

    Raises:
        ValueError: where `int8` is asked for and was not exported.
    """

    def __init__(
        self, folder: str | Path = Path(__file__).parent, *, int8: bool = False, threads: int = 0, batch_size: int = 16
    ):
        folder = Path(folder)
        self.facts: dict[str, Any] = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        if int8 and self.facts["int8"] is None:
            raise ValueError(f"{folder} holds no int8 graph: export with --int8.")
        self.sampling_rate: int = self.facts["sampling_rate"]
        self.window_samples: int = self.facts["window_samples"]
        self.batch_size = batch_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = folder / self.facts["int8" if int8 else "float32"]["file"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, samples: np.ndarray, *, first_window: bool = False) -> dict[str, Any]:
        """
        Score, calibrated probability of bona fide speech, and the scores of the windows.

        Args:
            samples: `[num_samples]`, mono, in [-1, 1], at `sampling_rate`.
            first_window: whether only the first window counts, as in the published evaluations.

        Raises:
            ValueError: for anything but one channel of finite samples.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
            raise ValueError(f"One channel of finite samples is needed, got the shape {samples.shape}.")
        windows = list(self._windows(samples))[: 1 if first_window else None]
        starts = range(0, len(windows), self.batch_size)
        scores = np.concatenate([self._scores(np.stack(windows[at : at + self.batch_size])) for at in starts])
        calibration = self.facts["calibration"]
        score = float(AGGREGATIONS[calibration["aggregation"]](scores))
        logit = calibration["scale"] * score + calibration["bias"]
        probability = 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
        return {"score": score, "probability_bonafide": probability, "windows": scores.tolist()}

    def _windows(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Overlapping by half, the last one at the end of the clip; a short clip is repeated to fill one."""
        surplus = len(samples) - self.window_samples
        if surplus < 0:
            yield np.resize(samples, self.window_samples)
            return
        starts = list(range(0, surplus + 1, max(self.window_samples // 2, 1)))
        for start in starts if starts[-1] == surplus else [*starts, surplus]:
            yield samples[start : start + self.window_samples]

    def _scores(self, windows: np.ndarray) -> np.ndarray:
        """Log-odds of bona fide for windows `(batch, window_samples)`."""
        if self.facts["do_normalize"]:
            mean, variance = windows.mean(axis=1, keepdims=True), windows.var(axis=1, keepdims=True)
            windows = (windows - mean) / np.sqrt(variance + 1e-7)
        logits = self._session.run(None, {"input_values": windows})[0].astype(np.float64)
        index = self.facts["bonafide_index"]
        others = np.delete(logits, index, axis=1)
        return logits[:, index] - np.logaddexp.reduce(others, axis=1)


def read_wav(path: str, sampling_rate: int) -> np.ndarray:
    """A WAV file of 16-bit PCM as mono samples `[num_samples]` in [-1, 1).

    Raises:
        ValueError: for another width or sampling rate.
    """
    with wave.open(path, "rb") as file:
        if file.getsampwidth() != 2 or file.getframerate() != sampling_rate:
            raise ValueError(
                f"{path}: 16-bit PCM at {sampling_rate} Hz is needed, got {8 * file.getsampwidth()} bits at "
                f"{file.getframerate()} Hz: convert it first."
            )
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").reshape(-1, file.getnchannels())
    return (samples.astype(np.float32) / 32768).mean(axis=1)


def main() -> None:
    """One JSON object a line for each file."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python score.py clip.wav [clip.wav ...]")
    scorer = Scorer()
    for path in sys.argv[1:]:
        print(json.dumps({"path": path, **scorer(read_wav(path, scorer.sampling_rate))}))


if __name__ == "__main__":
    main()
