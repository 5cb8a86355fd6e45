"""Class log-probabilities of test clips, kept clip by clip, so that a run that was stopped goes on where it was.

A folder of results holds `run.json`, which says what was run, and a journal of finished blocks of clips. It serves again
for the same model, list and settings alone.
"""

import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from spooftrace.audio import AudioError, audio_sha256, load_audio
from spooftrace.clip_windows import WindowModel
from spooftrace.data_scripts.silence import remove_silence
from spooftrace.modeling.source_tasks import logits_by_task
from spooftrace.score_identity import (
    ScoringError,
    list_sha256,
    read_run,
    require_same,
    run_text,
    settings_sha256,
    weights_sha256,
)
from spooftrace.score_journal import Journal, Line, find_records, read_record, replace_file
from spooftrace.trainers.tracing_sets import TASKS


RUN = "run.json"
BLOCK_SIZE = 64

Clip = tuple[str, str]
"""An utterance id and the path of its audio."""


def compute_lines(
    clips: Sequence[Clip],
    compute: Callable[[Sequence[Clip]], list[dict[str, Any]]],
    description: dict[str, Any],
    out: Path,
    *,
    overwrite: bool = False,
) -> list[Line]:
    """
    One line for every clip, of which those that an earlier call has finished are read.

    Args:
        clips: ids and paths.
        compute: takes up to `BLOCK_SIZE` clips and returns an object for each.
        description: everything else that the lines depend on.
        out: folder of `run.json` and the journal.
        overwrite: removes lines of another description first.

    Returns:
        What `compute` gave, with `utterance_id` and the `sha256` of the encoded audio, in the order of the clips.

    Raises:
        ScoringError: where `out` holds lines of another description, or files that are none of ours.
        OSError: where it cannot be written.
    """
    _open(out, {**description, "clips": {"number": len(clips), "sha256": list_sha256(clips)}}, overwrite)
    done, lines = find_records(out), []
    bar = tqdm(total=len(clips), desc=out.name, unit="clip", disable=None)  # on a terminal alone
    with closing(Journal(out)) as journal, bar:
        for index, block in enumerate(_blocks(clips)):
            digests, place = [_sha256(path) for _, path in block], done.get(index)
            known = read_record(place) if place else []
            if [line["sha256"] for line in known] != digests:
                known = [
                    {"utterance_id": name, "sha256": digest, **found}
                    for (name, _), digest, found in zip(block, digests, compute(block), strict=True)
                ]
                journal.append(index, known, place.round + 1 if place else 0)
            lines += known
            bar.update(len(block))
    return lines


def _open(out: Path, description: dict[str, Any], overwrite: bool) -> None:
    """The description comes first: a journal without one is of nobody knows what."""
    if out.exists():
        _refuse_strangers(out)
        if not overwrite and (out / RUN).exists():
            require_same(read_run(out / RUN), description, out)
            return
        shutil.rmtree(out)
    out.mkdir(parents=True)
    replace_file(out / RUN, [run_text(description)], out)


def _refuse_strangers(out: Path) -> None:
    """What is not of an earlier call must not be removed with it."""
    foreign = [path.name for path in out.iterdir() if not path.name.startswith(RUN) and path.suffix != ".blocks"]
    if foreign:
        raise ScoringError(f"{out} holds {min(foreign)}, which is no result of a run: pass another --out")


def _blocks(clips: Sequence[Clip]) -> list[Sequence[Clip]]:
    return [clips[start : start + BLOCK_SIZE] for start in range(0, len(clips), BLOCK_SIZE)]


def _sha256(path: str) -> str | None:
    try:
        return audio_sha256(path)
    except (AudioError, OSError):
        return None


# --- a tracer --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassScorer:
    """
    Gives the classes of every tracing task a log-probability, by the first window of a clip.

    Args:
        windows: a model of the AASIST or SASTNet family that answers at least one of `TASKS`.
        batch_size: clips per forward pass.
        silence_removed: whether frames without speech are left out of a clip before its first window is taken.
    """

    windows: WindowModel
    batch_size: int = 16
    silence_removed: bool = False

    def describe(self) -> dict[str, Any]:
        """What the log-probabilities depend on besides the clips."""
        model = self.windows.model
        return {
            "model": {
                "weights_sha256": weights_sha256(model),
                "settings_sha256": settings_sha256(model.config, self.windows.feature_extractor),
            },
            "options": {
                "batch_size": self.batch_size,
                "device": self.windows.device.type,
                "silence_removed": self.silence_removed,
                "window_samples": self.windows.window_samples,
            },
            "versions": {"numpy": np.__version__, "torch": torch.__version__},
        }

    def __call__(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """
        `{"log_probabilities": {task: {label: value}}}` for each clip, or `{"error", "message"}` for one that cannot be read.

        Raises:
            ValueError: for a clip that the model gives no finite log-probabilities.
        """
        loaded = [self._load(path) for _, path in clips]
        waveforms = iter([found for found in loaded if isinstance(found, np.ndarray)])
        scores: list[dict[str, Any]] = []
        while batch := list(itertools.islice(waveforms, self.batch_size)):
            scores += self._forward(batch)
        scored = iter(scores)
        lines = [next(scored) if isinstance(found, np.ndarray) else found for found in loaded]
        for (name, _), line in zip(clips, lines, strict=True):
            _check_finite(name, line)
        return lines

    def _load(self, path: str) -> np.ndarray | dict[str, str]:
        try:
            waveform = load_audio(path)
        except (AudioError, OSError) as error:
            return {"error": type(error).__name__, "message": str(error)}
        if self.silence_removed:
            waveform = remove_silence(waveform).waveform
        return waveform[: self.windows.window_samples].copy()  # a view would keep all of the clip

    def _forward(self, waveforms: list[np.ndarray]) -> list[dict[str, Any]]:
        config, output = self.windows.model.config, self.windows(waveforms)
        scores: list[dict[str, Any]] = [{"log_probabilities": {}} for _ in waveforms]
        for task, logits in logits_by_task(output, config).items():
            if task not in TASKS:
                continue
            values = torch.log_softmax(logits.double(), dim=-1).tolist()
            for score, row in zip(scores, values, strict=True):
                score["log_probabilities"][task] = dict(zip(config.task_labels[task], row, strict=True))
        return scores


def _check_finite(name: str, line: dict[str, Any]) -> None:
    values = [value for scores in line.get("log_probabilities", {}).values() for value in scores.values()]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"the model gives {name!r} log-probabilities that are not finite: it cannot be evaluated")


# --- silence ---------------------------------------------------------------------------------------------------------

SILENCE = {"what": "share of a clip without speech", "detector": "webrtcvad", "aggressiveness": 3}
"""Description of what `silence_shares` computes."""


def silence_shares(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """
    `{"silence": share}` for each clip: samples without speech by all, in [0, 1], or `{"error", "message"}`.

    Where the detector hears no speech at all, the share is 1.
    """
    shares = []
    for _, path in clips:
        try:
            trimmed = remove_silence(load_audio(path))
            shares.append({"silence": trimmed.fraction_removed if trimmed.voiced else 1.0})
        except (AudioError, OSError) as error:
            shares.append({"error": type(error).__name__, "message": str(error)})
    return shares
