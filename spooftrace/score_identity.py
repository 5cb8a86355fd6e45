"""
What a scoring run is made of: the list of clips, and everything else that the bytes of its results depend on.

The description is kept in `run.json`. Two runs may share a folder only where their descriptions are equal.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import FeatureExtractionMixin, PreTrainedConfig

from spooftrace.detector import Detector


Clip = tuple[str, Any]
"""An utterance id, and where its audio comes from."""

SHOWN = 5
"""Differences and problems that an error lists."""

_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


class ScoringError(ValueError):
    """A run that must not start, or must not go on in the folder that was named."""


def checked_list(items: Iterable[Clip]) -> list[Clip]:
    """
    The whole list.

    Raises:
        ScoringError: for an empty one, and with the utterance ids that cannot stand in a score file.
    """
    items, ids = list(items), Ids()
    problems = [problem for utterance_id, _ in items if (problem := ids.problem(utterance_id))]
    if problems:
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ScoringError(
            f"utterance ids must be unique and without white space: {', '.join(problems[:SHOWN])}{more}"
        )
    if not items:
        raise ScoringError("there is no clip to score: the list is empty")
    return items


class Ids:
    """What is wrong with the utterance ids of a list, one after the other."""

    def __init__(self):
        self._seen: set[str] = set()

    def problem(self, utterance_id: Any) -> str | None:
        """Why the next id cannot stand in a score file, or `None`."""
        if not isinstance(utterance_id, str) or not utterance_id or _BLANK.search(utterance_id):
            return f"{utterance_id!r} is no text, empty, or holds white space"
        if utterance_id.encode("utf-8", "replace").decode() != utterance_id:
            return f"{utterance_id!r} is not Unicode"
        if utterance_id in self._seen:
            return f"{utterance_id!r} is there twice"
        self._seen.add(utterance_id)
        return None


def describe_run(
    detector: Detector, block_size: int, items: Sequence[Clip], stream: str | None = None
) -> dict[str, Any]:
    """
    The model, the list, the settings and the versions of what computes, as plain values.

    Args:
        detector: what scores.
        block_size: clips in a block.
        items: the list of clips; not touched where `stream` names it.
        stream: the name of a list that is not held.
    """
    model = {
        "weights_sha256": weights_sha256(detector.model),
        "settings_sha256": settings_sha256(detector.model.config, detector.feature_extractor),
        "calibration": {"scale": detector.scale, "bias": detector.bias},
    }
    return {
        "model": {**detector.model_info, **model},
        "inputs": {"stream": stream} if stream else {"clips": len(items), "sha256": list_sha256(items)},
        "options": {
            "aggregation": detector.aggregation,
            "batch_size": detector.batch_size,
            "block_size": block_size,
            "bonafide_label": detector.bonafide_label,
            "device": detector.device.type,
            "limits": asdict(detector.limits),
            "threshold": detector.threshold,
            "window_samples": detector.window_samples,
        },
        "versions": {"numpy": np.__version__, "torch": torch.__version__},
    }


def weights_sha256(model: torch.nn.Module) -> str:
    """Of all tensors by name: a revision names the files of a model, this the numbers that scored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def settings_sha256(config: PreTrainedConfig, feature_extractor: FeatureExtractionMixin) -> str:
    """Of both configurations, but for where they were loaded from and which version of transformers wrote them."""
    digest = hashlib.sha256()
    for settings in (config, feature_extractor):
        values = json.loads(settings.to_json_string())
        kept = {name: values[name] for name in values if name not in ("_name_or_path", "transformers_version")}
        digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()


def list_sha256(items: Sequence[Clip]) -> str:
    """Of the ids and file names, in their order. Folders are left out, so that a data set may move."""
    digest = hashlib.sha256()
    for utterance_id, source in items:
        path = source.get("path") if isinstance(source, dict) else source
        name = os.path.basename(os.fsdecode(path)) if isinstance(path, (str, os.PathLike)) else None
        digest.update(json.dumps([utterance_id, name]).encode() + b"\n")
    return digest.hexdigest()


def require_same(recorded: dict, wanted: dict, out: Path) -> None:
    """
    Raises:
        ScoringError: where a folder holds a run of something else; names what differs, on both sides.
    """
    there, here = (dict(_flat({name: run.get(name) for name in wanted})) for run in (recorded, wanted))
    differing = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if differing:
        pairs = [f"{name} {there.get(name)!r} (now {here.get(name)!r})" for name in differing[:SHOWN]]
        raise ScoringError(
            f"{out} holds a run with {', '.join(pairs)}: score into another --out, or pass --overwrite to remove it"
        )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        yield from _flat(part, f"{name}.{key}" if name else key)


def read_run(path: Path) -> dict[str, Any]:
    """
    Raises:
        ScoringError: where the file is not there, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ScoringError(
            f"{path} cannot be read ({error}): score into another --out, or pass --overwrite"
        ) from error


def run_text(description: dict) -> str:
    """The text of `run.json`."""
    return json.dumps(description, indent=2, allow_nan=False) + "\n"
