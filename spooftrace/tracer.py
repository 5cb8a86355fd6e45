"""Where fake speech comes from: quantiser, auxiliary objective and decoder of the codec, and whether the source is known.

Audio takes the same path as for the detector; see [`spooftrace.clip_windows`].
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

from spooftrace._version import __version__
from spooftrace.audio import AudioLimits, audio_sha256
from spooftrace.checkpoint import (
    CheckpointError,
    LoadedCheckpoint,
    find_companion,
    load_checkpoint,
    weights_file_sha256,
)
from spooftrace.clip_windows import Clip, ClipWindows, Progress, ScoreError, WindowModel
from spooftrace.modeling.source_tasks import complete_task_labels, logits_by_task
from spooftrace.open_set import OPEN_SET_FILE, OpenSet, OpenSetError
from spooftrace.results import ClipFeatures, Failure, SourceAnswer, Trace, UnknownAnswer


__all__ = [
    "TRACING_TASKS",
    "CheckpointError",
    "ClipFeatures",
    "Failure",
    "OpenSetError",
    "ScoreError",
    "SourceAnswer",
    "Trace",
    "Tracer",
    "TracingModel",
    "UnknownAnswer",
]

# The questions about a source, in the order of results. Whether speech is genuine is asked of the detector.
TRACING_TASKS = ("vq", "aux", "dec")


@dataclass(frozen=True)
class TracingModel:
    """
    A model that answers some of the questions.

    Args:
        model: an audio classifier in float32 with the tasks `config.tasks`.
        feature_extractor: its feature extractor, for 16 kHz audio.
        name: how results name it.
        revision: how results name its version.
        open_set: its score for unknown sources.
    """

    model: PreTrainedModel
    feature_extractor: FeatureExtractionMixin
    name: str | None = None
    revision: str | None = None
    open_set: OpenSet | None = None

    @property
    def tasks(self) -> list[str]:
        """The questions that it answers, in its own order."""
        return [task for task in self.model.config.tasks if task in TRACING_TASKS]

    def describe(self) -> dict[str, Any]:
        """As results name it."""
        name = self.name or self.model.config.name_or_path or type(self.model).__name__
        return {"name": name, "revision": self.revision, "tasks": self.tasks}


class WindowAnswer(NamedTuple):
    """Of one window: logits `(classes,)` of each task, and the embedding `(width,)` where the model gives one."""

    logits: dict[str, np.ndarray]
    embedding: np.ndarray | None


class Tracer(ClipWindows[WindowAnswer, Trace]):
    """
    Traces speech clips of any length to the kind of codec that made them.

    A clip's probabilities are the windows' log-probabilities averaged and normalised again, which is the softmax of the
    averaged logits; its embedding is the average too. Where a clip cannot be judged, as by the detector, the reason is set,
    labels and `is_unknown` are `None`, and the numbers stay. A clip of an unknown source keeps its labels: those of the
    known classes that it resembles most.

    ```python
    tracer = Tracer.from_pretrained()
    trace = tracer("clip.wav")
    ```

    Args:
        models: one, or several that answer different questions and read windows of the same length. Where several have an
            open-set score, that of the first one counts.
        device: `"cpu"`, `"cuda"`, `"mps"`...; by default the best one present.
        batch_size: windows per forward pass.
        limits: what audio is accepted.

    Raises:
        CheckpointError: for a model without any of the questions, a question that two models answer, windows of different
            lengths, and an open-set score of a task that its model lacks.
        ValueError: for an argument out of range.
    """

    def __init__(
        self,
        models: TracingModel | Sequence[TracingModel],
        *,
        device: str | torch.device | None = None,
        batch_size: int = 16,
        limits: AudioLimits | None = None,
    ):
        self.models = [models] if isinstance(models, TracingModel) else list(models)
        for part in self.models:
            _check_tasks(part.model.config)
        self.task_labels = _combined_labels(self.models)
        self._networks = [WindowModel(part.model, part.feature_extractor, device=device) for part in self.models]
        super().__init__(window_samples=_common_window(self._networks), batch_size=batch_size, limits=limits)
        self.device = self._networks[0].device
        self._embedder = next((index for index, part in enumerate(self.models) if part.open_set is not None), 0)
        self.open_set = self.models[self._embedder].open_set
        self._check_open_set()
        self.model_info = {
            "checkpoints": [part.describe() for part in self.models],
            "open_set": self.open_set and self.open_set.to_dict(),
            "spooftrace": __version__,
        }

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        *,
        revision: str | Sequence[str | None] | None = None,
        trust_remote_code: bool = False,
        hub_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Tracer":
        """
        Loads a tracer in float32, with the `open_set.safetensors` beside its weights where there is one.

        Args:
            model: a folder, a repository on the Hub, or several of them; `None` is the tracer that is shipped with this
                package.
            revision: a branch, tag or commit on the Hub; of several models, one for each.
            trust_remote_code: whether code from the repository may run. Not needed for the models of this package.
            hub_options: passed to all `from_pretrained`, such as `token`, `cache_dir`, `local_files_only`.
            **options: `device`, `batch_size`, `limits`; see the class.

        Raises:
            CheckpointError: for a checkpoint that does not fit, and as the class.
            OpenSetError: for an open-set score that is not valid or was fitted for other weights.
            OSError: where a model cannot be found or reached.
        """
        names = [model] if model is None or isinstance(model, (str, os.PathLike)) else list(model)
        revisions = [revision] if isinstance(revision, str) else list(revision or [None] * len(names))
        if not names or len(revisions) != len(names):
            raise ValueError(f"Give one revision for each model, got {len(revisions)} for {len(names)}.")
        pairs = zip(names, revisions, strict=True)
        parts = [_load(name, commit, trust_remote_code, hub_options or {}) for name, commit in pairs]
        return cls(parts, **options)

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> Trace:
        """
        Traces one clip.

        Args:
            audio: a path, bytes, a binary file, an array (`[num_samples]` or `[num_samples, channels]`), or a `dict` as
                `datasets` makes them: `{"path": ..., "bytes": ...}` or `{"array": ..., "sampling_rate": ...}`.
            sampling_rate: of an array, in hertz.

        Raises:
            AudioError: where the clip cannot be read, with its cause.
        """
        return self._answer_one(audio, sampling_rate)

    def trace(self, sources: Iterable[Any], *, progress: Progress | None = None) -> Iterator[Trace | Failure]:
        """
        Traces many clips, reading them one after the other as their turn comes.

        Args:
            sources: what `__call__` takes. Clips are requested as they are needed.
            progress: called with every few seconds of audio that were read.

        Yields:
            One result per source, in the order of the sources. A clip that cannot be read is a [`Failure`].
        """
        return self._answer_all(sources, progress)

    def _outputs(self, windows: list[np.ndarray]) -> list[WindowAnswer]:
        logits, embeddings = {}, None
        for index, network in enumerate(self._networks):
            output = network(windows)
            answers = logits_by_task(output, network.model.config)
            logits |= {
                task: values.cpu().double().numpy() for task, values in answers.items() if task in self.task_labels
            }
            if index == self._embedder and getattr(output, "embeddings", None) is not None:
                embeddings = output.embeddings.cpu().double().numpy()
        rows = ({task: values[row] for task, values in logits.items()} for row in range(len(windows)))
        return list(map(WindowAnswer, rows, [None] * len(windows) if embeddings is None else embeddings))

    def _flaw(self, output: WindowAnswer) -> str | None:
        values = [*output.logits.values(), *([] if output.embedding is None else [output.embedding])]
        return None if all(np.isfinite(value).all() for value in values) else "the model's answer is not finite"

    def _answer(self, clip: Clip[WindowAnswer], reason: str | None, seconds: float) -> Trace:
        features = _features(clip.outputs) if clip.outputs else None
        return Trace(
            path=clip.path,
            **{task: self._source(task, features, reason) for task in TRACING_TASKS},
            unknown=self._unknown(features, reason),
            reason=reason,
            model=self.model_info,
            duration=seconds,
            sha256=audio_sha256(clip.source, limits=self.limits),  # after decoding, which checks the limits
            features=features,
        )

    def _source(self, task: str, features: ClipFeatures | None, reason: str | None) -> SourceAnswer | None:
        if task not in self.task_labels:
            return None
        if features is None:
            return SourceAnswer(label=None, probabilities=None)
        weights = np.exp(features.logits[task] - features.logits[task].max())
        probabilities = dict(zip(self.task_labels[task], (weights / weights.sum()).tolist(), strict=True))
        return SourceAnswer(None if reason else max(probabilities, key=probabilities.get), probabilities)

    def _unknown(self, features: ClipFeatures | None, reason: str | None) -> UnknownAnswer | None:
        if self.open_set is None:
            return None
        if features is None:
            return UnknownAnswer(score=None, is_unknown=None)
        score = self.open_set.score(features.logits, features.embedding)
        return UnknownAnswer(score, None if reason else self.open_set.is_unknown(score))

    def _check_open_set(self) -> None:
        """Raises where the open-set score needs logits that its model does not give."""
        owner = self.models[self._embedder]
        if (
            self.open_set is not None
            and self.open_set.scorer.reads == "logits"
            and self.open_set.task not in owner.tasks
        ):
            raise CheckpointError(
                f"{owner.describe()['name']}: its open-set score reads the logits of {self.open_set.task!r}, but the model "
                f"answers {', '.join(owner.tasks)}. Fit it anew, or remove {OPEN_SET_FILE}."
            )


def _load(
    name: str | os.PathLike | None, revision: str | None, trust_remote_code: bool, hub_options: dict[str, Any]
) -> TracingModel:
    loaded = load_checkpoint(
        name,
        revision=revision,
        trust_remote_code=trust_remote_code,
        shipped="tracer",
        check=_check_tasks,
        **hub_options,
    )
    open_set = _load_open_set(loaded, hub_options)
    return TracingModel(loaded.model, loaded.feature_extractor, loaded.name, loaded.revision, open_set)


def _load_open_set(loaded: LoadedCheckpoint, hub_options: dict[str, Any]) -> OpenSet | None:
    path = find_companion(loaded, OPEN_SET_FILE, **hub_options)
    if path is None:
        return None
    open_set = OpenSet.load(path)
    open_set.require_weights(weights_file_sha256(loaded.folder), loaded.name)
    return open_set


def _check_tasks(config: PreTrainedConfig) -> None:
    """Raises `CheckpointError` unless a model answers at least one question about the source."""
    tasks = getattr(config, "tasks", None)
    if not isinstance(tasks, (list, tuple)) or not set(tasks) & set(TRACING_TASKS):
        name = config.name_or_path or f"this {config.model_type!r} model"
        raise CheckpointError(
            f"{name} answers none of {', '.join(TRACING_TASKS)}, so it cannot trace a source. For whether speech is genuine, "
            "use `spooftrace detect`, or Detector in Python."
        )


def _combined_labels(models: Sequence[TracingModel]) -> dict[str, list[str]]:
    """The classes of every question that is answered. Raises `CheckpointError` where two models answer the same one."""
    labels: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for part in models:
        config, name = part.model.config, part.describe()["name"]
        complete = complete_task_labels(config.tasks, getattr(config, "task_labels", None))
        for task in part.tasks:
            if task in labels:
                raise CheckpointError(f"{task!r} is answered by {owners[task]} and by {name}: give one of them.")
            labels[task], owners[task] = complete[task], name
    return labels


def _common_window(networks: Sequence[WindowModel]) -> int:
    """The length of all models' windows in samples. Raises `CheckpointError` where they differ."""
    lengths = sorted({network.window_samples for network in networks})
    if len(lengths) > 1:
        raise CheckpointError(
            f"The models read windows of {' and '.join(map(str, lengths))} samples, so that they cannot be combined: trace "
            "with one after the other."
        )
    return lengths[0]


def _features(windows: Sequence[WindowAnswer]) -> ClipFeatures:
    """Means over the windows of a clip."""
    logits = {task: np.mean([window.logits[task] for window in windows], axis=0) for task in windows[0].logits}
    has_embedding = windows[0].embedding is not None
    return ClipFeatures(logits, np.mean([window.embedding for window in windows], axis=0) if has_embedding else None)
