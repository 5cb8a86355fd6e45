"""The one scoring path: audio of any length -> windows -> scores -> a calibrated probability -> a verdict.

The command line, the demo, batch scoring and evaluation all go through [`Detector`], so a clip has one score.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from spooftrace._version import __version__
from spooftrace.audio import (
    SAMPLING_RATE,
    AudioError,
    AudioLimits,
    NonFiniteAudioError,
    audio_sha256,
    describe_source,
    inspect_audio,
    iter_audio,
    reusable_source,
)
from spooftrace.checkpoint import CheckpointError, bonafide_index, load_checkpoint
from spooftrace.results import Detection, Failure, Window
from spooftrace.windows import Material, cut_windows


__all__ = ["AGGREGATIONS", "CheckpointError", "Detection", "Detector", "Failure", "ScoreError", "Window"]

# Window of models whose feature extractor names none: 64,600 samples at 16 kHz, as in the AASIST recipe.
WINDOW_SECONDS = 4.0375

# Window scores -> clip score.
AGGREGATIONS: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "median": lambda scores: float(np.median(scores)),
    "min": min,
}


class ScoreError(ValueError):
    """The model gave a score that is not finite for a finite clip."""


@dataclass
class _Clip:
    """A clip on its way: the bounds of its windows so far, and the scores of the first of them."""

    path: str
    source: Any
    sampling_rate: int | None
    material: Material = field(default_factory=lambda: Material(SAMPLING_RATE))
    bounds: list[tuple[float, float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    error: Exception | None = None


class Detector:
    """
    Scores speech clips of any length with a bona fide / spoof classifier.

    Windows of the feature extractor's length overlap by half, the last one ends with the clip; a clip shorter than one
    window is repeated to fill it. The clip's score is the mean of its windows' log-odds, unless the model's calibration
    or `aggregation` names another rule. Windows of all clips share batches, and a clip scores the same in any of them.

    ```python
    detector = Detector.from_pretrained()
    detection = detector("clip.wav")
    ```

    Args:
        model: an audio classifier in float32; it is put into evaluation mode on `device`.
        feature_extractor: its feature extractor, for 16 kHz audio.
        model_name: how results name the model.
        revision: how results name its version.
        device: `"cpu"`, `"cuda"`, `"mps"`...; by default the best one present.
        batch_size: windows per forward pass.
        limits: what audio is accepted.
        threshold: probability from which on the verdict is bona fide.
        aggregation: `"mean"`, `"median"` or `"min"` of the window scores.
        bonafide_label: the label of genuine speech in `config.label2id`.
        window_seconds: length of a window where the feature extractor names none (`window_samples`).

    Raises:
        ValueError: for an argument out of range, or labels without `bonafide_label`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        feature_extractor: FeatureExtractionMixin,
        *,
        model_name: str | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        limits: AudioLimits | None = None,
        threshold: float = 0.5,
        aggregation: str | None = None,
        bonafide_label: str = "bonafide",
        window_seconds: float = WINDOW_SECONDS,
    ):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` is a probability between 0 and 1, got {threshold}.")
        if feature_extractor.sampling_rate != SAMPLING_RATE:
            raise ValueError(
                f"The model takes {feature_extractor.sampling_rate} Hz audio, but {SAMPLING_RATE} is needed."
            )
        self.device = _pick_device(device)
        self.model = model.to(self.device).eval()
        self.feature_extractor = feature_extractor
        self.batch_size, self.threshold, self.limits = batch_size, threshold, limits or AudioLimits()
        self._bonafide = bonafide_index(model.config, bonafide_label)
        self.bonafide_label = bonafide_label
        self._set_calibration(getattr(model.config, "calibration", None) or {}, aggregation)
        # Our extractor repeats short clips to its window; others do not, so the detector does it for them.
        self._repeats = isinstance(getattr(feature_extractor, "window_samples", None), int)
        self.window_samples = (
            feature_extractor.window_samples if self._repeats else round(window_seconds * SAMPLING_RATE)
        )
        if not 0.1 <= self.window_samples / SAMPLING_RATE <= 60:
            raise ValueError(f"Windows last 0.1 to 60 seconds, got {self.window_samples / SAMPLING_RATE}.")
        self.model_info = {
            "name": model_name or model.config.name_or_path or type(model).__name__,
            "revision": revision,
            "calibrated": self.calibrated,
            "spooftrace": __version__,
        }

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        bonafide_label: str = "bonafide",
        hub_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Detector":
        """
        Loads a detector in float32. Only safetensors are read, and every tensor has to be there and fit.

        Args:
            model: a folder, or a repository on the Hub; `None` is the detector that is shipped with this package.
            revision: a branch, tag or commit on the Hub.
            trust_remote_code: whether code from the repository may run. Not needed for the models of this package.
            bonafide_label: the label of genuine speech, where a model calls it otherwise.
            hub_options: passed to all three `from_pretrained`, such as `token`, `cache_dir`, `local_files_only`.
            **options: `device`, `batch_size`, `limits`, `threshold`, `aggregation`, `window_seconds`; see the class.

        Raises:
            CheckpointError: for missing, unexpected or ill-fitting tensors, and anything that is no audio classifier.
            OSError: where the model cannot be found or reached.
        """
        loaded = load_checkpoint(
            model,
            revision=revision,
            trust_remote_code=trust_remote_code,
            bonafide_label=bonafide_label,
            **(hub_options or {}),
        )
        return cls(
            loaded.model,
            loaded.feature_extractor,
            model_name=loaded.name,
            revision=loaded.revision,
            bonafide_label=bonafide_label,
            **options,
        )

    def _set_calibration(self, calibration: dict, aggregation: str | None) -> None:
        self.calibrated = bool(calibration)
        scale, bias = calibration.get("scale", 1.0), calibration.get("bias", 0.0)
        numbers = all(isinstance(value, (int, float)) and math.isfinite(value) for value in (scale, bias))
        if not (numbers and scale > 0):
            raise CheckpointError(
                f"A calibration needs a positive scale and a finite bias, got {scale!r} and {bias!r}."
            )
        self.scale, self.bias = float(scale), float(bias)
        self.aggregation = aggregation or calibration.get("aggregation", "mean")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"`aggregation` must be one of {', '.join(AGGREGATIONS)}, got {self.aggregation!r}.")

    def probability(self, score: float) -> float:
        """Calibrated probability of bona fide speech, for a clip's log-odds."""
        logit = self.scale * score + self.bias
        return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> Detection:
        """
        Scores one clip.

        Args:
            audio: a path, bytes, a binary file, an array (`[num_samples]` or `[num_samples, channels]`), or a `dict` as
                `datasets` makes them: `{"path": ..., "bytes": ...}` or `{"array": ..., "sampling_rate": ...}`.
            sampling_rate: of an array, in hertz.

        Raises:
            AudioError: where the clip cannot be read, with its cause.
        """
        source = {"array": audio, "sampling_rate": sampling_rate} if sampling_rate is not None else audio
        return self._finish(next(self._clips([source])))

    def detect(
        self, sources: Iterable[Any], *, progress: Callable[[float], None] | None = None
    ) -> Iterator[Detection | Failure]:
        """
        Scores many clips, reading them one after the other as their turn comes.

        Args:
            sources: what `__call__` takes. Clips are requested as they are needed.
            progress: called with every few seconds of audio that were read.

        Yields:
            One result per source, in the order of the sources. A clip that cannot be read is a [`Failure`].
        """
        for clip in self._clips(sources, progress):
            try:
                result = self._finish(clip)
            except (AudioError, OSError, ScoreError) as error:
                result = Failure.of(clip.path, error)
            yield result

    def _clips(self, sources: Iterable[Any], progress: Callable[[float], None] | None = None) -> Iterator[_Clip]:
        """Clips in the order of their sources, once all their windows are scored or an error ended them."""
        clips: deque[_Clip] = deque()
        batch: list[tuple[_Clip, np.ndarray]] = []
        for source in sources:
            clip = _unpack(source)
            clips.append(clip)
            for samples in self._read(clip, progress):
                batch.append((clip, samples))
                if len(batch) == self.batch_size:
                    self._score(batch)
                    batch.clear()
            while clips and (clips[0].error or len(clips[0].scores) == len(clips[0].bounds)):
                yield clips.popleft()
        if batch:
            self._score(batch)
        yield from clips

    def _read(self, clip: _Clip, progress: Callable[[float], None] | None) -> Iterator[np.ndarray]:
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
                yield samples if self._repeats else np.resize(samples, self.window_samples)
        except (AudioError, OSError) as error:
            clip.error = error

    def _score(self, batch: list[tuple[_Clip, np.ndarray]]) -> None:
        """One forward pass over windows of equal length; the scores go to the windows' clips."""
        inputs = self.feature_extractor(
            [samples for _, samples in batch], sampling_rate=SAMPLING_RATE, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode(), _without_tf32():
            logits = self.model(**inputs).logits.cpu().double()
        others = torch.cat((logits[:, : self._bonafide], logits[:, self._bonafide + 1 :]), dim=1)
        scores = (logits[:, self._bonafide] - others.logsumexp(dim=1)).tolist()
        for (clip, _), score in zip(batch, scores, strict=True):
            clip.scores.append(score)
            if not math.isfinite(score):
                clip.error = clip.error or ScoreError(f"{clip.path}: the model's score is {score}; it is not usable.")

    def _finish(self, clip: _Clip) -> Detection:
        """The answer for a clip that is through; raises what went wrong on its way."""
        if isinstance(clip.error, NonFiniteAudioError):
            info = inspect_audio(clip.source, sampling_rate=clip.sampling_rate, limits=self.limits)
            return self._detection(clip, None, "not finite", info.duration or clip.material.seconds, [])
        if clip.error is not None:
            raise clip.error
        windows = [Window(start, end, score) for (start, end), score in zip(clip.bounds, clip.scores, strict=True)]
        score = AGGREGATIONS[self.aggregation](clip.scores)
        return self._detection(clip, score, clip.material.abstention(), clip.material.seconds, windows)

    def _detection(
        self, clip: _Clip, score: float | None, reason: str | None, seconds: float, windows: list[Window]
    ) -> Detection:
        probability = None if score is None else self.probability(score)
        verdict = "abstain" if reason else "bonafide" if probability >= self.threshold else "spoof"
        return Detection(
            path=clip.path,
            score=score,
            probability_bonafide=probability,
            verdict=verdict,
            reason=reason,
            duration=seconds,
            windows=windows,
            model=self.model_info,
            sha256=audio_sha256(clip.source, limits=self.limits),  # after decoding, which checks the limits
        )


def _pick_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:  # torch raises either, by its build
        raise ValueError(f"There is no device {str(device)!r} here: pass 'cpu', 'cuda', 'cuda:1' or 'mps'.") from error


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Convolutions on CUDA in full float32: by default they keep 10 bits, and a score would depend on its batch."""
    convolution = torch.backends.cudnn.conv
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


def _unpack(source: Any) -> _Clip:
    """A source in any of its spellings -> its name, what to read, and the sampling rate of an array."""
    if not isinstance(source, dict):
        return _Clip(describe_source(source), source, None)
    found = next((source[key] for key in ("array", "bytes", "path") if source.get(key) is not None), None)
    return _Clip(str(source.get("path") or describe_source(found)), found, source.get("sampling_rate"))
