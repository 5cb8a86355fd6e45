"""The clips that recipes train on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spooftrace.data_scripts.loading import load_corpus
from spooftrace.data_scripts.parsers.own import read_manifest
from spooftrace.trainers.clips import column, label_names, spelled_labels
from spooftrace.trainers.recipe import Recipe
from spooftrace.trainers.recipe_schema import RecipeError, check_keys
from spooftrace.trainers.tracing_labels import count_classes, labels_of


@dataclass(frozen=True)
class Clips:
    """Rows to train on and to validate with, as the trainers take them."""

    train: Any
    validation: Any


def load_clips(recipe: Recipe) -> Clips:
    """
    The rows to train on and to validate with.

    Raises:
        RecipeError: without a folder, for an unknown column of the domains, and for rows that lack one of the labels, or
            of a tracer's classes all but one.
        CorpusNotFoundError, ProtocolError, ValueError: as `load_corpus` and `read_manifest` raise them.
    """
    data = recipe.data
    if data.get("dir") is None and data["corpus"] != "own" and not (data.get("options") or {}).get("repo"):
        raise RecipeError(f"data.dir is missing: the folder of your copy of {data['corpus']} (--data.dir DIR)")
    clips = Clips(*(_rows(data, data[part]) for part in ("train", "validation")))
    for part in ("train", "validation"):
        _check_labels(recipe, part, getattr(clips, part))
    if recipe.trainer == "mldg":
        _check_domains(clips.train, recipe.argument("domain_column"))
    return clips


def _rows(data: Mapping[str, Any], split: str) -> Any:
    options = data.get("options") or {}
    if data["corpus"] != "own":
        return load_corpus(
            data["corpus"],
            data.get("dir"),
            config=data.get("config"),
            split=split,
            missing_audio=data["missing_audio"],
            **options,
        )
    check_keys(options, ("allow_outside", "labels"), "data.options")
    # Without a folder, each part names a table or folder of its own.
    place, part = (split, None) if data.get("dir") is None else (data["dir"], split)
    return [{**row._asdict(), **row.extra} for row in read_manifest(place, split=part, **options)]


def _check_labels(recipe: Recipe, part: str, rows: Any) -> None:
    what = f"data.{part} {recipe.data[part]!r}"
    if not recipe.traces:
        counts = count_labels(rows)
        if not all(counts.values()):
            raise RecipeError(f"{what} has {_and(counts)}: it needs clips of both labels")
        return
    for task, counts in class_counts(recipe, rows).items():
        known = {label: count for label, count in counts.items() if label is not None}
        if len(known) < 2 and (part == "train" or not known):
            needed = "clips of two classes at least" if part == "train" else "clips whose class is known"
            raise RecipeError(f"{what} has {_and(known) or 'no known class'} in the task {task}: it needs {needed}")


def count_labels(rows: Any) -> dict[str, int]:
    """Clips of each label."""
    spelled = spelled_labels(column(rows, "label"), label_names(rows))
    return {label: spelled.count(label) for label in ("bonafide", "spoof")}


def class_counts(recipe: Recipe, rows: Any) -> dict[str, Counter]:
    """Clips of each class by the tasks of the recipe's model; `None` counts those of which it is not known."""
    return {task: count_classes(rows, task) for task in labels_of(recipe.model_config(tiny=True))}


def stand_in(recipe: Recipe) -> Sequence[Mapping[str, Any]]:
    """Rows without audio of every class, for a rehearsal without a corpus: the trainers look at their labels."""
    labels = labels_of(recipe.model_config(tiny=True)) if recipe.traces else {"bin": ["bonafide", "spoof"]}
    genuine = {"utterance_id": "bonafide", "label": "bonafide", "audio": None, **dict.fromkeys(labels, "bonafide")}
    most = max(map(len, labels.values()))
    return [
        genuine,
        *(
            {**genuine, "utterance_id": f"spoof-{number}", "label": "spoof"}
            | {task: each[min(number, len(each) - 1)] for task, each in labels.items()}
            for number in range(1, most)
        ),
    ]


def _check_domains(rows: Any, name: str) -> None:
    known = (
        rows.column_names if hasattr(rows, "column_names") else list(dict.fromkeys(key for row in rows for key in row))
    )
    if name not in known:
        raise RecipeError(f"no column {name!r} to take the domains from: domain_column is one of {', '.join(known)}")


def _and(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count:,} {label}" for label, count in counts.items())
