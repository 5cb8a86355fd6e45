"""The default tracer's score for "none of the sources I know", and what it and others make of a corpus.

Known are genuine speech and the codecs trained on. A score is fitted to the training clips, its threshold to the valid
ones; which score ships was chosen by `spooftrace.trainers.report_tracer` without the test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spooftrace.checkpoint import weights_file_sha256
from spooftrace.open_set import METHODS, OPEN_SET_FILE, OpenSet, OpenSetScore
from spooftrace.tracer import Tracer
from spooftrace.trainers.detector_corpus import Clip, CorpusError
from spooftrace.trainers.tracer_corpus import TASKS


@dataclass(frozen=True)
class Contender:
    """A score that could ship: its method, and the task whose logits it reads; scores of embeddings read all tasks'."""

    method: str
    task: str

    @property
    def name(self) -> str:
        return f"{self.method} ({self.task})" if self.task in TASKS else self.method


ALL_TASKS = ", ".join(TASKS)
CONTENDERS = tuple(
    Contender(name, task)
    for name, score in METHODS.items()
    for task in (TASKS if score.reads == "logits" else (ALL_TASKS,))
)
SHIPPED = Contender("relative_mahalanobis", ALL_TASKS)
KNOWN_ACCEPTANCE = 0.95


@dataclass(frozen=True)
class Traced:
    """Clips, and what a tracer computed for them: logits `(clips, classes)` by task and embeddings `(clips, width)`."""

    clips: Sequence[Clip]
    logits: dict[str, np.ndarray]
    embeddings: np.ndarray

    def features(self, contender: Contender) -> np.ndarray:
        """What the score reads, `(clips, width)`."""
        is_of_logits = METHODS[contender.method].reads == "logits"
        return self.logits[contender.task] if is_of_logits else self.embeddings

    def predictions(self, task: str) -> np.ndarray:
        """The likeliest class of every clip, `(clips,)`."""
        return self.logits[task].argmax(axis=1)

    def where(self, chosen: np.ndarray) -> "Traced":
        """The clips for which a boolean array `(clips,)` holds."""
        clips = [clip for clip, keep in zip(self.clips, chosen, strict=True) if keep]
        return Traced(clips, {task: logits[chosen] for task, logits in self.logits.items()}, self.embeddings[chosen])


def trace_clips(tracer: Tracer, data: Path, clips: Sequence[Clip]) -> Traced:
    """Every clip by the path of `spooftrace trace`. Raises CorpusError for a clip that cannot be read."""
    traces, features = tracer.trace(data / clip.file for clip in clips), []
    for clip, trace in zip(clips, tqdm(traces, total=len(clips), unit="clip", mininterval=1.0), strict=True):
        if getattr(trace, "features", None) is None:
            raise CorpusError(f"{clip.file} could not be traced: {trace}")
        features.append(trace.features)
    logits = {task: np.stack([found.logits[task] for found in features]) for task in tracer.task_labels}
    return Traced(clips, logits, np.stack([found.embedding for found in features]))


def fitted(contender: Contender, train: Traced) -> OpenSetScore:
    """The score of known clips; where it needs classes, they are the combinations of the codecs' own."""
    classes = [str(tuple(getattr(clip, task) for task in TASKS)) for clip in train.clips]
    return METHODS[contender.method].fit(train.features(contender), classes)


def fit_open_set(model: Path, data: Path, train: Sequence[Clip], valid: Sequence[Clip]) -> None:
    """
    Writes `open_set.safetensors` into the model's folder; nothing where there are no valid clips for a threshold.

    Args:
        model: folder with the weights.
        data: folder of the corpus.
        train: the clips that the model was trained on.
        valid: known clips that it was not trained on.
    """
    (model / OPEN_SET_FILE).unlink(missing_ok=True)  # of other weights, it could not be loaded
    if not valid:
        return
    tracer = Tracer.from_pretrained(model, device="cpu")
    scorer = fitted(SHIPPED, trace_clips(tracer, data, train))
    OpenSet.at_acceptance(
        scorer,
        trace_clips(tracer, data, valid).features(SHIPPED),
        KNOWN_ACCEPTANCE,
        task=SHIPPED.task,
        fitted_on=f"{len(train)} clips of the train split; threshold: {len(valid)} known clips of the valid split",
        weights_sha256=weights_file_sha256(model),
    ).save(model)
