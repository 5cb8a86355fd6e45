"""What the ASVspoof challenges share: where their files lie, how they write labels and attacks."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from spooftrace.data_scripts.protocol import AudioFolder, CorpusNotFoundError, Problems, locate, null, parse_lines
from spooftrace.data_scripts.rows import LABELS, Row, codec_attributes


KEYS = {label: label for label in LABELS}
SPLITS = {"train": "train", "dev": "validation", "eval": "test"}
"""The challenges' own names of parts -> splits."""

ATTRIBUTES = {label: codec_attributes(label) for label in LABELS}
"""`vq`, `aux` and `dec` by label: the codecs in these corpora are those of transmission, not of codec-made speech."""

_ATTACK = re.compile(r"A\d\d")


class Trial(NamedTuple):
    """A line of a protocol: what all of them have as it is written, and further columns of [`Row`]."""

    speaker: str
    utterance: str
    attack: str
    key: str
    columns: Mapping[str, Any] = {}


def find_parts(root: Path, candidates: Mapping[str, Sequence[str]], layout: str) -> dict[str, Path]:
    """
    The protocol of each part that is there; who wants the evaluation alone need not download the rest.

    Args:
        root: the corpus's folder.
        candidates: part -> where its protocol may be, as for `locate`.
        layout: see `locate`.

    Raises:
        CorpusNotFoundError: where there is none at all.
    """
    found = {}
    for part, places in candidates.items():
        with suppress(CorpusNotFoundError):
            found[part] = locate(root, places, "protocol", layout)
    if not found:
        locate(root, [place for places in candidates.values() for place in places], "protocol", layout)
    return found


def audio_folder(root: Path, patterns: Iterable[str]) -> AudioFolder:
    """The clips in all folders below `root` that match one of the patterns, those of the first pattern preferred."""
    return AudioFolder(dict.fromkeys(folder for pattern in patterns for folder in sorted(root.glob(pattern))))


def attack(problems: Problems, line: int, text: str, label: str | None) -> str | None:
    """The attack of a spoof; genuine speech has none, written as `-` or `bonafide`. Anything else is a problem."""
    if label == "spoof":
        if _ATTACK.fullmatch(text):
            return text
        problems.add(line, f"a spoof by attack {text!r}: write the attack's name, such as 'A07'")
    elif label == "bonafide" and text not in ("-", "bonafide"):
        problems.add(line, f"genuine speech by attack {text!r}: write '-', or correct the label")
    return None


def read_part(
    path: Path, corpus: str, part: str, audio: AudioFolder, fields: str, read: Callable[[Sequence[str]], Trial]
) -> list[Row]:
    """
    The trials of one part.

    Args:
        path: its protocol.
        corpus, part: for the columns `corpus` and `subset`.
        audio: its clips.
        fields: names of the columns of a line, for messages; a line has as many.
        read: takes the columns of a line.

    Raises:
        ProtocolError: for lines that are not of this form, all of them named.
    """

    def row(problems: Problems, line: int, columns: list[str]) -> Row | None:
        trial = read(columns)
        label = problems.label(line, trial.key, KEYS)
        attack_id = attack(problems, line, trial.attack, label)
        if not problems.check_id(line, trial.utterance) or label is None:
            return None
        found = {"audio": audio.find(trial.utterance), "attack_id": attack_id, "speaker_id": null(trial.speaker)}
        return Row(
            trial.utterance, label, corpus, subset=part, line=line, **found, **ATTRIBUTES[label], **trial.columns
        )

    return parse_lines(path, row, (len(fields.split(", ")),), fields)
