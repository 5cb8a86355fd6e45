"""The one scoring path: audio of any length -> windows -> scores -> a calibrated probability -> a verdict.

The command line, the demo, batch scoring and evaluation all go through [`Detector`], so a clip has one score.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedModel

from spooftrace._version import __version__
from spooftrace.audio import AudioLimits, audio_sha256
from spooftrace.checkpoint import CheckpointError, bonafide_index, load_checkpoint
from spooftrace.clip_windows import WINDOW_SECONDS, Clip, ClipWindows, Progress, ScoreError, WindowModel
from spooftrace.results import Detection, Failure, Window


__all__ = ["AGGREGATIONS", "CheckpointError", "Detection", "Detector", "Failure", "ScoreError", "Window"]

DTYPES = ("float32", "bfloat16", "float16")

# Window scores -> clip score.
AGGREGATIONS: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "median": lambda scores: float(np.median(scores)),
    "min": min,
}


class Detector(ClipWindows[float, Detection]):
    """
    Scores speech clips of any length with a bona fide / spoof classifier.

    Windows of the feature extractor's length overlap by half, the last one ends with the clip; a clip shorter than one
    window is repeated to fill it, or masked where the model takes a mask. The clip's score is the mean of its windows' log-odds, unless the model's calibration
    or `aggregation` names another rule. Windows of all clips share batches, and a clip scores the same in any of them.

    ```python
    detector = Detector.from_pretrained()
    detection = detector("clip.wav")
    ```

    Args:
        model: an audio classifier; it is put into evaluation mode on `device`. Results name its precision where that is
            not float32, since other precisions give other scores.
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
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` is a probability between 0 and 1, got {threshold}.")
        self._network = WindowModel(model, feature_extractor, device=device, window_seconds=window_seconds)
        super().__init__(
            window_samples=self._network.window_samples, batch_size=batch_size, limits=limits, pool=self._network.pool
        )
        self.device, self.model, self.feature_extractor = self._network.device, self._network.model, feature_extractor
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.threshold = threshold
        self._bonafide = bonafide_index(model.config, bonafide_label)
        self.bonafide_label = bonafide_label
        self._set_calibration(getattr(model.config, "calibration", None) or {}, aggregation)
        self.model_info = {
            "name": model_name or model.config.name_or_path or type(model).__name__,
            "revision": revision,
            "calibrated": self.calibrated,
            "spooftrace": __version__,
            **({} if self.dtype == "float32" else {"dtype": self.dtype}),
        }

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        bonafide_label: str = "bonafide",
        dtype: str = "float32",
        hub_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Detector":
        """
        Loads a detector. Only safetensors are read, and every tensor has to be there and fit.

        Args:
            model: a folder, or a repository on the Hub; `None` is the detector that is shipped with this package.
            revision: a branch, tag or commit on the Hub.
            trust_remote_code: whether code from the repository may run. Not needed for the models of this package.
            bonafide_label: the label of genuine speech, where a model calls it otherwise.
            dtype: of the weights, `"float32"`, `"bfloat16"` or `"float16"`. The latter two halve the memory of large models,
                and move scores: a clip's last digits then depend on its batch too.
            hub_options: passed to all three `from_pretrained`, such as `token`, `cache_dir`, `local_files_only`.
            **options: `device`, `batch_size`, `limits`, `threshold`, `aggregation`, `window_seconds`; see the class.

        Raises:
            CheckpointError: for missing, unexpected or ill-fitting tensors, and anything that is no audio classifier.
            OSError: where the model cannot be found or reached.
            ValueError: for an argument out of range.
        """
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}.")
        loaded = load_checkpoint(
            model,
            dtype=getattr(torch, dtype),
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
        return self._answer_one(audio, sampling_rate)

    def detect(self, sources: Iterable[Any], *, progress: Progress | None = None) -> Iterator[Detection | Failure]:
        """
        Scores many clips, reading them one after the other as their turn comes.

        Args:
            sources: what `__call__` takes. Clips are requested as they are needed.
            progress: called with every few seconds of audio that were read.

        Yields:
            One result per source, in the order of the sources. A clip that cannot be read is a [`Failure`].
        """
        return self._answer_all(sources, progress)

    def _outputs(self, windows: list[np.ndarray]) -> list[float]:
        logits = self._network(windows).logits.cpu().double()
        others = torch.cat((logits[:, : self._bonafide], logits[:, self._bonafide + 1 :]), dim=1)
        return (logits[:, self._bonafide] - others.logsumexp(dim=1)).tolist()

    def _flaw(self, output: float) -> str | None:
        return None if math.isfinite(output) else f"the model's score is {output}"

    def _answer(self, clip: Clip[float], reason: str | None, seconds: float) -> Detection:
        score = AGGREGATIONS[self.aggregation](clip.outputs) if clip.outputs else None
        probability = None if score is None else self.probability(score)
        return Detection(
            path=clip.path,
            score=score,
            probability_bonafide=probability,
            verdict="abstain" if reason else "bonafide" if probability >= self.threshold else "spoof",
            reason=reason,
            duration=seconds,
            windows=[Window(start, end, value) for (start, end), value in zip(clip.bounds, clip.outputs, strict=True)],
            model=self.model_info,
            sha256=audio_sha256(clip.source, limits=self.limits),  # after decoding, which checks the limits
        )
