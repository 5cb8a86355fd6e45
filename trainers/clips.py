"""Rows of a corpus as the fixed-length, labelled waveforms that a detector trains on."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from spooftrace.audio import load_audio
from spooftrace.trainers.samplers import Draw


Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class LabelError(ValueError):
    """Rows with labels that the model does not have."""


class ClipDataset(Dataset):
    """
    A map-style dataset of `{"input_values", "labels", "domain", "utterance_id", "seed"}`, the last for altered clips only.

    A bare number gives the beginning of a clip: evaluation. A [`Draw`] gives what is trained on, cropped and altered as
    its seed tells.

    Args:
        rows: a `datasets.Dataset`, or any sequence of mappings with `audio` (a path, or a mapping with `bytes` or `path`),
            `label` (a name, or its number) and `utterance_id`.
        label2id: of the model's configuration.
        label_names: what the numbers in `label` mean, where they are numbers.
        num_samples: length of a training clip, at 16 kHz; shorter ones are repeated.
        crop: of longer clips in training: from a random place, or from the beginning.
        augment: alters whole clips before they are cropped.
        augment_eval: whether it alters clips that a bare number asks for, too, each always in the same way.
        domains: number of each row's domain, if there are any.
        labels: of each row, a number or one for each of several tasks; by default what `label2id` makes of `label`.

    Raises:
        LabelError: for labels that the model does not have, with their counts, before any audio is read.
        KeyError: for rows without a label or audio.
    """

    def __init__(
        self,
        rows: Any,
        label2id: Mapping[str, int],
        *,
        label_names: Sequence[str] | None = None,
        num_samples: int = 64_600,
        crop: Literal["random", "start"] = "random",
        augment: Augmentation | None = None,
        augment_eval: bool = False,
        domains: Sequence[int] | None = None,
        labels: Sequence[int | Sequence[int]] | None = None,
    ):
        self.rows, self.num_samples, self.crop, self.domains = undecoded(rows), num_samples, crop, domains
        self.augment, self.augment_eval = augment, augment_eval
        self.labels = _label_numbers(column(rows, "label"), label2id, label_names) if labels is None else labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        index, seed = key if isinstance(key, Draw) else (key, None)
        row = self.rows[int(index)]
        waveform = load_audio(audio_source(row["audio"]))
        rng = np.random.default_rng(int(index) if seed is None else seed)
        if self.augment is not None and (seed is not None or self.augment_eval):
            waveform = self.augment(waveform, rng)
        place = rng.random() if seed is not None and self.crop == "random" else 0.0
        example = {"input_values": self.fit(waveform, place), "labels": self.labels[int(index)]}
        example["utterance_id"] = str(row.get("utterance_id") or index)
        if seed is not None or self.augment_eval:
            example["seed"] = int(index) if seed is None else seed
        if self.domains is not None:
            example["domain"] = self.domains[int(index)]
        return example

    def fit(self, waveform: np.ndarray, place: float) -> np.ndarray:
        """What of a waveform is trained on, cut from `place` in [0, 1) of where a crop may start; a shorter one is repeated."""
        return _fit(waveform, self.num_samples, place)


def column(rows: Any, name: str) -> list:
    """
    One column of a dataset or of a sequence of mappings, without reading audio.

    Raises:
        KeyError: where there is none, or not in every row.
    """
    if hasattr(rows, "column_names"):
        if name not in rows.column_names:
            raise KeyError(f"the dataset has no column {name!r}; it has {', '.join(rows.column_names)}.")
        return list(rows[name])
    lacking = sum(name not in row for row in rows)
    if lacking:
        known = ", ".join(sorted({key for row in rows for key in row}))
        raise KeyError(f"{lacking} of {len(rows)} rows have no {name!r}; there are {known}.")
    return [row[name] for row in rows]


def label_names(rows: Any) -> list[str] | None:
    """What the numbers in a dataset's label column mean; `None` where it holds the names themselves."""
    features = getattr(rows, "features", None) or {}
    return getattr(features.get("label"), "names", None)


def spelled_labels(labels: Sequence[Any], names: Sequence[str] | None) -> list:
    """Labels by their names. A number that stands for none, such as the -1 of unlabelled sets, stays as it is."""
    known = names or ()
    return [known[label] if isinstance(label, int) and 0 <= label < len(known) else label for label in labels]


def _label_numbers(labels: list, label2id: Mapping[str, int], names: Sequence[str] | None) -> list[int]:
    spelled = spelled_labels(labels, names)
    unknown = {label for label in spelled if label not in label2id}
    if unknown:
        counts = ", ".join(f"{label!r} ({spelled.count(label)} rows)" for label in sorted(unknown, key=str))
        raise LabelError(f"labels that the model does not have: {counts}; its own are {', '.join(label2id)}.")
    return [label2id[label] for label in spelled]


def undecoded(rows: Any) -> Any:
    """A dataset that hands out files instead of samples, which `load_audio` reads without torchcodec."""
    feature = (getattr(rows, "features", None) or {}).get("audio")
    if getattr(feature, "decode", False):
        return rows.cast_column("audio", type(feature)(decode=False))
    return rows


def audio_source(audio: Any) -> Any:
    """What `load_audio` takes, from the spellings of `datasets`."""
    if isinstance(audio, Mapping):
        return audio["bytes"] if audio.get("bytes") is not None else Path(audio["path"])
    return Path(audio) if isinstance(audio, (str, os.PathLike)) else audio


def _fit(waveform: np.ndarray, num_samples: int, place: float) -> np.ndarray:
    """`num_samples` of a waveform, from `place` in [0, 1) of where a crop may start; a shorter one is repeated."""
    room = len(waveform) - num_samples
    if room <= 0:
        return np.resize(waveform, num_samples).astype(np.float32)
    start = int(place * (room + 1))
    return waveform[start : start + num_samples].astype(np.float32)


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Examples of equal length as a batch: `input_values` `[batch, num_samples]`, `domain` and `labels` `[batch]`, where each
    clip has several labels `[batch, tasks]`.

    `utterance_id`, and `seed` of clips that may be altered further, are lists.
    """
    batch = {
        "input_values": torch.from_numpy(np.stack([example["input_values"] for example in examples])),
        "labels": torch.tensor([example["labels"] for example in examples]),
        "utterance_id": [example["utterance_id"] for example in examples],
    }
    if "seed" in examples[0]:
        batch["seed"] = [example["seed"] for example in examples]
    if "domain" in examples[0]:
        batch["domain"] = torch.tensor([example["domain"] for example in examples])
    return batch
