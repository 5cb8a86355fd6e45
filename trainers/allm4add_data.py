"""ALLM4ADD's lists of questions and answers about clips: as rows to train on, and back.

One object to a line, of two messages: the user's, with `audio` and a question, and the assistant's, `Real.` or `Fake.`
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spooftrace.data_scripts.parsers.allm4add import PROMPT, write_allm4add
from spooftrace.data_scripts.registry import get_corpus
from spooftrace.data_scripts.rows import Row
from spooftrace.trainers.clips import column, label_names, spelled_labels, undecoded


QUESTION_COLUMN = "prompt"


def read_questions(path: str | os.PathLike, audio_dir: str | os.PathLike | None = None) -> list[dict[str, str]]:
    """
    The rows of one list: `utterance_id`, `audio` (an absolute path), `label` (`"bonafide"` or `"spoof"`) and `prompt`.

    Args:
        path: a `.jsonl` file. Relative paths of clips in it are relative to its folder.
        audio_dir: where to find the clips by name instead.

    Raises:
        ProtocolError: with the number and the fault of every bad line, or the first lines whose clips are missing.
        CorpusNotFoundError: for a file or folder that is not there.
    """
    rows = get_corpus("allm4add").read(Path(path), audio_dir=audio_dir)["train"]
    return [{"utterance_id": row.utterance_id, "audio": row.audio, "label": row.label, **row.extra} for row in rows]


def write_questions(rows: Any, path: str | os.PathLike, question: str = PROMPT) -> int:
    """
    Writes rows as such a list, whole or not at all, with one question about each clip; returns the number of lines.

    Args:
        rows: a `datasets.Dataset` or mappings, with `utterance_id`, `label` and `audio`, a path or a mapping with one.

    Raises:
        ProtocolError: with the numbers of the rows that lack a label or a file.
    """
    labels = spelled_labels(column(rows, "label"), label_names(rows))
    trials = [
        Row(str(row["utterance_id"]), label if label in ("bonafide", "spoof") else None, "own", _path(row["audio"]))
        for row, label in zip(undecoded(rows), labels, strict=True)
    ]
    return write_allm4add(trials, path, prompt=question)


def _path(audio: Any) -> str | None:
    found = audio.get("path") if isinstance(audio, Mapping) else audio
    return os.fspath(found) if isinstance(found, (str, os.PathLike)) and os.path.isfile(found) else None


def check_questions(rows: Any, question: str) -> None:
    """
    A detector asks one question; rows of a list may bring their own.

    Raises:
        ValueError: where they ask another one than the detector, with the counts.
    """
    foreign = Counter(asked for asked in _questions(rows) if asked is not None and asked != question)
    if foreign:
        counts = ", ".join(f"{asked!r} ({count} rows)" for asked, count in foreign.most_common(3))
        raise ValueError(
            f"the list asks {counts}, and the detector {question!r}: build it with `prompt=` as in the list, or leave the "
            f"column {QUESTION_COLUMN!r} out to ask the detector's question about these clips."
        )


def _questions(rows: Any) -> Iterable[str | None]:
    if hasattr(rows, "column_names"):
        return rows[QUESTION_COLUMN] if QUESTION_COLUMN in rows.column_names else ()
    return (row.get(QUESTION_COLUMN) for row in rows)
