"""
A test set of the Speech Anti-Spoofing Arena: any data set of the organisation `SpeechAntiSpoofingBenchmarks` on the Hub.

All have the same four columns in `data/test-*.parquet`: `path`, `audio` (16 kHz mono), `label` (class numbers, 0 is
`bonafide`) and `notes`, a JSON object with a unique `utterance_id`, which is the id that score files for the Arena name.
What else is in `notes` differs: `speaker_id` (or `speaker`), `attack_id` and `codec` are used, and the whole of it is
kept. The form is that of the Arena's own guide and validator; no published file of it was read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spooftrace.data_scripts.corpus import Corpus
from spooftrace.data_scripts.parquet_files import (
    Numbered,
    Piece,
    class_names,
    parquet_files,
    pieces_of,
    read_piece,
    rows_of,
    table_of,
)
from spooftrace.data_scripts.protocol import Problems, null
from spooftrace.data_scripts.records import parse_json
from spooftrace.data_scripts.rows import LABELS, Row, codec_attributes


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


_NAME = "arena"
_COLUMNS = ("path", "audio", "label", "notes")
_WITHOUT_AUDIO = ("path", "label", "notes")
_EXTRA = ("path", "notes")
_LABELS = {name: name for name in LABELS}
_CACHES = "datasets--"

LAYOUT = """Expected, as the Hub has it:
  <folder>/data/test-00000-of-00008.parquet ...
The test sets are at https://huggingface.co/SpeechAntiSpoofingBenchmarks:
  hf download SpeechAntiSpoofingBenchmarks/InTheWild --repo-type dataset --include "data/*" --local-dir <folder>/InTheWild
or read one from there with repo="SpeechAntiSpoofingBenchmarks/InTheWild"."""


def find(root: Path, config: str) -> dict[str, Path]:
    return {}  # the files are listed by `tables`, which knows whether they are on the Hub


def _paths(root: Path, options: Mapping[str, Any]) -> tuple[list[str], str]:
    """The files, and the data set's name."""
    paths = parquet_files(root, ["data/test-*.parquet", "test-*.parquet"], LAYOUT, **options)
    return paths, options["repo"].split("/")[-1] if options["repo"] else _name_of(root)


def tables(root: Path, config: str, files: Mapping[str, Path], **options: Any) -> dict[str, list[Piece]]:
    paths, name = _paths(root, options)
    return {"test": pieces_of(paths, _COLUMNS, name)}


def _name_of(root: Path) -> str:
    """The data set's name: that of its folder, or of the repository that a folder of the Hub's cache belongs to."""
    cached = [part for part in root.parts if part.startswith(_CACHES)]
    return cached[-1].split("--")[-1] if cached else root.name


def parse(root: Path, config: str, files: Mapping[str, Path], **options: Any) -> dict[str, list[Row]]:
    paths, name = _paths(root, options)
    return {"test": rows_of(paths, _COLUMNS, _read, name)}


def read_table(piece: Piece) -> "pa.Table":
    return table_of(piece, _read, _EXTRA)


def _read(problems: Problems, file: "pq.ParquetFile", piece: Piece) -> Numbered:
    table = read_piece(file, piece, _WITHOUT_AUDIO)
    names = class_names(table, "label") or list(LABELS)
    return [
        (number, _row(problems, number, record, names, piece.part))
        for number, record in enumerate(table.to_pylist(), start=piece.first_row)
    ]


def _row(problems: Problems, number: int, record: Mapping[str, Any], names: list[str], part: str) -> Row:
    notes = _notes(problems, number, record["notes"])
    label = problems.label(number, _text_label(record["label"], names), _LABELS)
    utterance_id = notes.get("utterance_id", "")
    problems.check_id(number, utterance_id)
    attack = null(notes.get("attack_id", ""), "bonafide")
    return Row(
        utterance_id=utterance_id,
        label=label,
        corpus=_NAME,
        attack_id=attack if label == "spoof" else None,
        speaker_id=null(notes.get("speaker_id") or notes.get("speaker", "")),
        subset=part,
        codec=null(notes.get("codec", ""), "none"),
        extra={"path": record["path"], "notes": record["notes"]},
        **codec_attributes(label),
    )


def _text_label(value: int | str | None, names: list[str]) -> str:
    """A label's name; a number that stands for none stays a number, to be reported."""
    is_class = isinstance(value, int) and 0 <= value < len(names)
    return names[value] if is_class else str(value)


def _notes(problems: Problems, number: int, text: str | None) -> dict[str, str]:
    try:
        notes = parse_json(text or "")
    except ValueError as error:
        problems.add(number, f"notes {text!r} are not JSON ({error})")
        return {}
    if not isinstance(notes, dict):
        problems.add(number, f"notes {text!r} are no object with an utterance_id")
        return {}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in notes.items()
        if value is not None
    }


CORPORA = (
    Corpus(
        name=_NAME,
        title="Speech Anti-Spoofing Arena",
        homepage="https://huggingface.co/SpeechAntiSpoofingBenchmarks",
        license="other",
        license_note="Each test set has the licence of its source, as its card says; some are for non-commercial use.",
        citation="lab260. Speech Anti-Spoofing Arena. https://huggingface.co/SpeechAntiSpoofingBenchmarks.",
        description=(
            "One test set of the Arena, at your choice, from the Hub or a download of it. Score files for the Arena use "
            "its utterance ids."
        ),
        layout=LAYOUT,
        configs={"default": "the test split"},
        find=find,
        parse=parse,
        tables=tables,
        read_table=read_table,
        extra=dict.fromkeys(_EXTRA, "string"),
        options={"repo": None, "revision": None, "partial": False},
        redistribution="metadata",
        reads_audio=False,
    ),
)
