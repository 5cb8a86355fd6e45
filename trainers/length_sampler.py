"""Clips of like length in one step, so that little of a batch is padding; see `samplers` for why draws carry a seed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from spooftrace.audio import SAMPLING_RATE, inspect_audio
from spooftrace.trainers.clips import audio_source, column
from spooftrace.trainers.samplers import Draw


# Steps whose clips are sorted together. More make lengths in a step more alike, and steps less random.
STEPS_PER_GROUP = 50


class LengthGroupedSampler(Sampler):
    """
    All rows in random order, sorted by length within groups of some steps; the steps then come in random order.

    The one with the longest clip comes first, so that a lack of memory shows at once, and an incomplete one last.

    Args:
        lengths: of each row's clip, in any unit.
        clips_per_step: batches of all processes and of gradient accumulation together.
        seed: of the order and of the draws.
    """

    def __init__(self, lengths: Sequence[float], clips_per_step: int, seed: int = 0):
        self.lengths, self.clips_per_step = np.asarray(lengths), clips_per_step
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order, seeds = rng.permutation(len(self)), rng.integers(2**63, size=len(self))
        steps = []
        for start in range(0, len(order), self.clips_per_step * STEPS_PER_GROUP):
            group = order[start : start + self.clips_per_step * STEPS_PER_GROUP]
            group = group[np.argsort(-self.lengths[group], kind="stable")]
            steps += [group[at : at + self.clips_per_step] for at in range(0, len(group), self.clips_per_step)]
        incomplete = [steps.pop()] if steps and len(steps[-1]) < self.clips_per_step else []
        rng.shuffle(steps)
        longest = max(range(len(steps)), key=lambda place: self.lengths[steps[place]].max(), default=0)
        steps = [*steps[longest : longest + 1], *steps[:longest], *steps[longest + 1 :], *incomplete]
        indices = np.concatenate(steps) if steps else []
        return (Draw(int(index), int(seed)) for index, seed in zip(indices, seeds, strict=True))


def clip_lengths(rows: Any, num_samples: int) -> np.ndarray:
    """
    Samples at 16 kHz of each row's clip, `num_samples` at most; from a column `duration` (seconds), else from its header.

    Args:
        rows: as [`ClipDataset`] takes them.
        num_samples: where longer clips are cut.
    """
    seconds = _durations(rows)
    return np.minimum(np.asarray(seconds, dtype=np.float64) * SAMPLING_RATE, num_samples)


def _durations(rows: Any) -> list[float]:
    if hasattr(rows, "column_names"):
        given = column(rows, "duration") if "duration" in rows.column_names else [None] * len(rows)
    else:
        given = [row.get("duration") for row in rows]
    if None not in given:
        return [float(value) for value in given]
    return [_seconds(row["audio"]) for row in rows]


def _seconds(audio: Any) -> float:
    """A header that leaves the length open counts as a long clip."""
    duration = inspect_audio(audio_source(audio)).duration
    return float("inf") if duration is None else duration
