"""What the ASVspoof challenges share: where their files lie, how they write labels and attacks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from spooftrace.data_scripts.protocol import AudioFolder, CorpusNotFoundError, Problems, locate
from spooftrace.data_scripts.rows import LABELS, codec_attributes


KEYS = {label: label for label in LABELS}
SPLITS = {"train": "train", "dev": "validation", "eval": "test"}
"""The challenges' own names of parts -> splits."""

ATTRIBUTES = {label: codec_attributes(label) for label in LABELS}
"""`vq`, `aux` and `dec` by label: the codecs in these corpora are those of transmission, not of codec-made speech."""

_ATTACK = re.compile(r"A\d\d")


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
