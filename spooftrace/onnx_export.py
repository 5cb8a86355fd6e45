"""Detectors of the AASIST family as ONNX graphs, compared with PyTorch before anything is written.

The graph takes `input_values`, `(batch, samples)` in float32, and gives `logits`, `(batch, labels)`. Any batch fits, and
any length from `minimum_samples` on unless it is fixed. Only the axis of time may vary: the learned positions of the
spectral nodes hold as many bands as the front end makes.
"""

import json
import logging
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig

from spooftrace import onnx_runner
from spooftrace._version import __version__
from spooftrace.checkpoint import (
    LoadedCheckpoint,
    bonafide_index,
    load_checkpoint,
    weights_file_sha256,
)
from spooftrace.detector import Detector
from spooftrace.modeling import AasistFeatureExtractor
from spooftrace.modeling.modeling_aasist import minimum_samples


if TYPE_CHECKING:
    import onnxruntime

TOLERANCE = 1e-4  # of a logit
OPSET = 20
OPSETS = range(18, 24)
BATCHES = (1, 2, 5)
DRIFT_WINDOWS = 16
TIMED_RUNS = 5


class ExportError(ValueError):
    """A model that has no ONNX graph, or one whose graph answers otherwise than the model."""


def export_onnx(
    model: str | os.PathLike | None,
    out_dir: str | os.PathLike,
    *,
    revision: str | None = None,
    bonafide_label: str = "bonafide",
    opset: int = OPSET,
    int8: bool = False,
    fixed_length: bool = False,
) -> dict[str, Any]:
    """
    Writes `model.onnx`, `export.json` and `score.py`, and `model.int8.onnx` where it is asked for.

    Low-rank adapters are merged into the encoder. The graph's logits are compared with PyTorch's at several batch sizes
    and lengths, and `export.json` tells the largest difference.

    Args:
        model: a folder, or a repository on the Hub; `None` is the detector that is shipped.
        out_dir: new or empty.
        revision: a branch, tag or commit on the Hub.
        bonafide_label: the label of genuine speech.
        opset: of ONNX, 18 to 23.
        int8: whether to quantise the weights of matrix products as well. What that does to scores and speed is measured
            on artificial sounds, with one thread.
        fixed_length: whether the graph takes windows of the model's length only. So it is by itself where the number of
            pooled nodes would be rounded otherwise in a graph, as with AASIST-L's ratio of 0.7.

    Returns:
        What is in `export.json`.

    Raises:
        ExportError: for another family, and where a logit differs by more than 1e-4; nothing is written then.
        CheckpointError: see [`load_checkpoint`].
        ModuleNotFoundError: without onnx, onnxruntime or onnxscript.
        ValueError: for an opset out of range, or a folder that holds something.
    """
    import onnx  # noqa: F401  all three before the work
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    if opset not in OPSETS:
        raise ValueError(f"`opset` lies between {OPSETS[0]} and {OPSETS[-1]}, got {opset}.")
    out_dir = Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(f"{out_dir} holds something already: name a new folder.")
    loaded = load_checkpoint(
        model, revision=revision, check=lambda config: _check_family(config, bonafide_label, model or "default")
    )
    loaded.model.merge_lora()
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-") as folder:
        facts = _write(loaded, Path(folder) / "export", bonafide_label, opset, int8, fixed_length)
        if out_dir.exists():
            out_dir.rmdir()
        shutil.move(Path(folder) / "export", out_dir)
    return facts


def _check_family(config: PreTrainedConfig, bonafide_label: str, name: str | os.PathLike) -> None:
    if config.model_type != "aasist":
        raise ExportError(
            f"{os.fspath(name)} is a {config.model_type!r} model: only detectors of the AASIST family ('aasist') can be "
            "exported to ONNX."
        )
    bonafide_index(config, bonafide_label)


def _write(
    loaded: LoadedCheckpoint, folder: Path, bonafide_label: str, opset: int, int8: bool, fixed_length: bool
) -> dict[str, Any]:
    """All files of an export, in a new folder."""
    facts = _facts(loaded, bonafide_label)
    window = facts["window_samples"]
    fixed_length = fixed_length or not _rounds_alike(loaded.model.config.pool_ratios)
    folder.mkdir()
    graph = folder / "model.onnx"
    wrapped = _Logits(loaded.model).eval()
    _save_graph(wrapped, window, graph, opset, fixed_length)
    cases = _compare(wrapped, session(graph), _lengths(window, facts["minimum_samples"], fixed_length))
    difference = max(case["difference"] for case in cases)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"The logits of the ONNX graph differ from PyTorch's by up to {difference:.2g}, more than {TOLERANCE}: "
            "nothing was written. Another opset or --fixed-length may help."
        )
    facts["float32"] = {
        "file": graph.name,
        "bytes": graph.stat().st_size,
        "opset": opset,
        "batch": "dynamic",
        "samples": window if fixed_length else "dynamic",
        "maximum_difference": difference,
        "tolerance": TOLERANCE,
        "compared": cases,
    }
    facts["int8"] = _quantise(graph, folder / "model.int8.onnx", window, facts["bonafide_index"]) if int8 else None
    (folder / "export.json").write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    shutil.copyfile(onnx_runner.__file__, folder / "score.py")
    return facts


def _facts(loaded: LoadedCheckpoint, bonafide_label: str) -> dict[str, Any]:
    """What scores need besides the graph, and where it came from."""
    extractor, config = loaded.feature_extractor, loaded.model.config
    if not isinstance(extractor, AasistFeatureExtractor):
        raise ExportError(
            f"{loaded.name} has a {type(extractor).__name__}: only what AasistFeatureExtractor does is known to the runner."
        )
    detector = Detector(loaded.model, extractor, device="cpu", bonafide_label=bonafide_label)
    packages = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch", "transformers")
    return {
        "model": {"name": loaded.name, "revision": loaded.revision, "sha256": weights_file_sha256(loaded.folder)},
        "labels": [config.id2label[index] for index in sorted(config.id2label)],
        "bonafide_index": bonafide_index(config, bonafide_label),
        "calibrated": detector.calibrated,
        "calibration": {"scale": detector.scale, "bias": detector.bias, "aggregation": detector.aggregation},
        "sampling_rate": extractor.sampling_rate,
        "window_samples": detector.window_samples,
        "minimum_samples": minimum_samples(config),
        "do_normalize": extractor.do_normalize,
        "versions": {
            "spooftrace": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
    }


class _Logits(nn.Module):
    """The model as a function of one tensor."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.model(input_values, return_dict=True).logits


def _save_graph(model: nn.Module, window: int, path: Path, opset: int, fixed_length: bool) -> None:
    axes = {0: "batch"} if fixed_length else {0: "batch", 1: "samples"}
    with _quiet():
        program = torch.onnx.export(
            model,
            (torch.from_numpy(sounds(3, window)),),
            dynamo=True,
            dynamic_shapes={"input_values": axes},
            input_names=["input_values"],
            output_names=["logits"],
            opset_version=opset,
            verbose=False,
        )
        if program.model.opset_imports[""] != opset:  # torch only logs that it could not convert
            raise ExportError(f"This model has no graph of opset {opset}: leave --opset out, which gives {OPSET}.")
        program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's notes on packages that are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def session(path: str | os.PathLike, threads: int = 1) -> "onnxruntime.InferenceSession":
    """A graph, ready to run on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def sounds(count: int, num_samples: int, seed: int = 0) -> np.ndarray:
    """Voices of a kind, `(count, num_samples)` in float32: harmonics of gliding pitch in syllables, and some noise."""
    generator = np.random.default_rng(seed)
    seconds = np.arange(num_samples) / 16_000
    clips = []
    for pitch, rate, level in generator.uniform((80, 2, 0.001), (250, 6, 0.05), size=(count, 3)):
        phase = 2 * np.pi * (pitch * seconds + pitch / 20 * np.sin(2 * np.pi * seconds))
        voice = sum(np.sin(order * phase) / order for order in range(1, 20))
        syllables = np.sin(np.pi * rate * seconds) ** 2
        clips.append(0.1 * voice * syllables + level * generator.standard_normal(num_samples))
    return np.stack(clips).astype(np.float32)


def _rounds_alike(ratios: Sequence[float]) -> bool:
    """Whether pooling keeps as many nodes in a graph, which multiplies in float32, as in Python, up to 10,000 of them."""
    counts = np.arange(1, 10_001)
    return all(
        np.array_equal((counts * ratio).astype(int), (counts.astype(np.float32) * np.float32(ratio)).astype(int))
        for ratio in ratios
    )


def _lengths(window: int, minimum: int, fixed_length: bool) -> list[int]:
    return [window] if fixed_length else [window, minimum, max(minimum, window * 2 // 3 + 1), window + 777]


def _compare(model: nn.Module, graph: "onnxruntime.InferenceSession", lengths: list[int]) -> list[dict[str, Any]]:
    """Largest differences of logits: all batch sizes at the first length, the middle one at the others."""
    cases = []
    for batch, length in [(batch, lengths[0]) for batch in BATCHES] + [(BATCHES[1], length) for length in lengths[1:]]:
        inputs = sounds(batch, length, seed=batch)
        with torch.inference_mode():
            expected = model(torch.from_numpy(inputs)).numpy()
        difference = np.abs(graph.run(None, {"input_values": inputs})[0] - expected).max()
        # One that is not a number compares unlike any other, and so is refused.
        cases.append({"batch": batch, "samples": length, "difference": float(np.nan_to_num(difference, nan=np.inf))})
    return cases


def _quantise(graph: Path, path: Path, window: int, bonafide: int) -> dict[str, Any]:
    """Weights of matrix products in 8 bits, activations quantised as they come, and what that does to the scores."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = onnx.load(graph)
    del plain.graph.value_info[:]  # what the exporter noted of inner shapes contradicts onnx's own inference
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # advice on pre-processing, which static quantisation needs
    try:
        # Convolutions stay: in 8 bits they are slower on most processors, and the front end's need their precision.
        quantize_dynamic(plain, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
    inputs = sounds(DRIFT_WINDOWS, window, seed=1)
    scores, seconds = {}, {}
    for name, file in (("float32", graph), ("int8", path)):
        runner = session(file)
        logits = np.concatenate([runner.run(None, {"input_values": clip[None]})[0] for clip in inputs]).astype(float)
        scores[name] = logits[:, bonafide] - np.logaddexp.reduce(np.delete(logits, bonafide, axis=1), axis=1)
        seconds[name] = _seconds(runner, inputs[:1])
    drift = np.abs(scores["int8"] - scores["float32"])
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "windows": DRIFT_WINDOWS,
        "score_drift_maximum": float(drift.max()),
        "score_drift_mean": float(drift.mean()),
        "seconds_per_window": seconds,
    }


def _seconds(runner: "onnxruntime.InferenceSession", inputs: np.ndarray) -> float:
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        runner.run(None, {"input_values": inputs})
        times.append(time.perf_counter() - start)
    return statistics.median(times)


__all__ = ["ExportError", "export_onnx", "session", "sounds"]
