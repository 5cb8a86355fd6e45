"""Corpora as Arrow tables: the columns' types, rows as tables, and what a corpus holds now.

Apart from the builders, whose module `datasets` patches when one is instantiated.
"""

import hashlib
import importlib.metadata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import Audio, ClassLabel, Features, Value
from datasets.table import table_cast

from spooftrace.audio import SAMPLING_RATE
from spooftrace.data_scripts.corpus import Corpus, MissingAudio, count
from spooftrace.data_scripts.protocol import CorpusNotFoundError
from spooftrace.data_scripts.rows import AUX_LABELS, COLUMNS, DEC_LABELS, LABELS, VQ_LABELS, Row, to_columns


ROWS_PER_TABLE = 1_000
CLASSES = {"label": LABELS, "vq": VQ_LABELS, "aux": AUX_LABELS, "dec": DEC_LABELS}


class Contents(NamedTuple):
    """
    What a corpus holds now.

    Args:
        pieces: for each split, what `read_piece` makes tables of.
        digest: changes whenever a row, a column or a clip's place does, and with the version of spooftrace and of the
            parser; 16 hexadecimal digits.
    """

    pieces: dict[str, list[Any]]
    digest: str


def features_of(corpus: Corpus) -> Features:
    """
    The columns of a corpus: those of `Row`, then its extra ones. All but the id may be null.

    `label`, `vq`, `aux` and `dec` are class labels with bona fide at 0; `audio` is undecoded, to be read with
    `spooftrace.audio.load_audio`.
    """
    types = {name: ClassLabel(names=list(names)) for name, names in CLASSES.items()}
    types["audio"] = Audio(sampling_rate=SAMPLING_RATE, decode=False)
    unified = {name: types.get(name, Value("string")) for name in COLUMNS}
    return Features(unified | {name: Value(kind) for name, kind in corpus.extra.items()})


def read_contents(
    corpus: Corpus, root: Path, config: str, missing_audio: MissingAudio, options: Mapping[str, Any]
) -> Contents:
    """
    Reads the protocols, and warns where numbers of trials differ from the published ones.

    Of parquet files with audio inside, all but the audio is read and checked. On the Hub that would be one request or
    more for each column of each row group, so there only the names of the files and their columns are checked here, and
    the rows when they are read: repeated ids in different row groups and the numbers of trials are not.

    Raises:
        What `Corpus.read` raises; `CorpusNotFoundError` also where no trial has a clip.
    """
    splits: dict[str, list[Row]] = {}
    if corpus.tables is None or not options.get("repo"):
        splits = corpus.read(root, config, missing_audio=missing_audio, **options)
        _warn_of_totals(corpus, config, splits, options)
    if corpus.tables is not None:
        pieces = corpus.read_pieces(root, config, **options)
    else:
        pieces = {
            split: [tuple(rows[start : start + ROWS_PER_TABLE]) for start in range(0, len(rows), ROWS_PER_TABLE)]
            for split, rows in splits.items()
        }
    pieces = {split: found for split, found in pieces.items() if found}  # `datasets` cannot load an empty split
    if not pieces:
        raise CorpusNotFoundError(f"no trial of {corpus.name} has its clip below {root}.\n{corpus.layout}")
    return Contents(pieces, _digest(corpus, pieces, splits))


def read_piece(corpus: Corpus, piece: Any) -> pa.Table:
    """One piece of a split as a table with exactly the columns and types of `features_of`."""
    features = features_of(corpus)
    if corpus.read_table is not None:
        return _conform(corpus.read_table(piece), features)
    return _conform(_rows_to_table(piece, corpus), features)


def _rows_to_table(rows: Sequence[Row], corpus: Corpus) -> pa.Table:
    return pa.table({name: pa.array(values) for name, values in to_columns(rows, corpus.extra).items()})


def _conform(table: pa.Table, features: Features) -> pa.Table:
    for name in features.keys() - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(table)))
    return table_cast(table.select(list(features)), features.arrow_schema)


def _digest(corpus: Corpus, pieces: Mapping[str, Sequence[Any]], splits: Mapping[str, Sequence[Row]]) -> str:
    made_by = (importlib.metadata.version("spooftrace"), corpus.version, features_of(corpus))
    found = hashlib.sha256(repr(made_by).encode())
    for split, parts in [*pieces.items(), *(splits.items() if corpus.tables else ())]:
        found.update(split.encode())
        for part in parts:
            found.update(repr(part).encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:16]


def _warn_of_totals(
    corpus: Corpus, config: str, splits: Mapping[str, Sequence[Row]], options: Mapping[str, Any]
) -> None:
    lines = [
        f"  {split}: {found.bonafide:,} bona fide and {found.spoof:,} spoof, "
        f"published are {expected.bonafide:,} and {expected.spoof:,}"
        for split, found, expected in count(corpus, config, splits, options)
        if expected is not None and found != expected
    ]
    if lines:
        text = "\n".join([f"{corpus.name} ({config}) has other numbers of trials than published:", *lines])
        warnings.warn(text, stacklevel=5)  # the caller of load_corpus, or of who calls the builder
