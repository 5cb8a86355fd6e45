"""Parquet files with audio inside, on disk or on the Hub, piece by piece: a piece is one row group."""

import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from spooftrace.data_scripts.protocol import CorpusNotFoundError, Problem, Problems, ProtocolError
from spooftrace.data_scripts.rows import Row, to_columns


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


HUB = "hf://"


class Piece(NamedTuple):
    """
    A row group.

    Args:
        path: of the file, or its `hf://` address with the commit in it.
        group: number of the row group in the file, from 0.
        first_row: number of its first row in the file, from 1.
        size: of the file in bytes.
        changed: time of the file's last change in nanoseconds; 0 on the Hub, where the commit tells.
        part: what is wanted of it, for corpora that divide one file among splits.
    """

    path: str
    group: int
    first_row: int
    size: int
    changed: int = 0
    part: str = ""


def parquet_files(
    root: Path, patterns: Iterable[str], layout: str, repo: str | None, revision: str | None
) -> list[str]:
    """
    The files of a data set, sorted by name, by the first pattern that finds any.

    Args:
        root: its folder, where `repo` is not given.
        patterns: as in `Path.glob`.
        layout: the expected tree, for the message.
        repo: name of a data set on the Hub to read instead, without downloading it as a whole.
        revision: its commit, branch or tag; by default the main branch as it is now.

    Raises:
        CorpusNotFoundError: where there is none.
        OSError: where the Hub cannot be reached, or has no such data set.
    """
    for pattern in patterns:
        found = _on_hub(repo, revision, pattern) if repo else sorted(map(str, root.glob(pattern)))
        if found:
            return found
    where = f"{repo} on the Hub" if repo else str(root)
    raise CorpusNotFoundError(f"no parquet file in {where}: looked for {', '.join(patterns)}.\n{layout}")


def _on_hub(repo: str, revision: str | None, pattern: str) -> list[str]:
    from huggingface_hub import HfApi, HfFileSystem

    commit = HfApi().dataset_info(repo, revision=revision).sha
    return [HUB + path for path in sorted(HfFileSystem().glob(f"datasets/{repo}@{commit}/{pattern}"))]


def pieces_of(paths: Iterable[str], part: str = "") -> list[Piece]:
    """The pieces of all files, in the files' order."""
    found: list[Piece] = []
    for path in paths:
        size, changed = _state(path)
        first_row = 1
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                found.append(Piece(path, group, first_row, size, changed, part))
                first_row += file.metadata.row_group(group).num_rows
    return found


def _state(path: str) -> tuple[int, int]:
    if path.startswith(HUB):
        from huggingface_hub import HfFileSystem

        return HfFileSystem().info(path)["size"], 0
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def open_parquet(path: str) -> "pq.ParquetFile":
    """
    Opens a file on disk or on the Hub.

    Raises:
        ProtocolError: for a file that is no parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.startswith(HUB):
            from huggingface_hub import HfFileSystem

            return pq.ParquetFile(HfFileSystem().open(path))
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise _broken(path, error) from error


def read_piece(piece: Piece, columns: Sequence[str]) -> "pa.Table":
    """
    Columns of one piece; `audio.path` stands for that field alone, so that no audio is read for it.

    Raises:
        ProtocolError: for a file that is no parquet, or is damaged.
        OSError: where the Hub fails.
    """
    import pyarrow as pa

    with open_parquet(piece.path) as file:
        try:
            return file.read_row_group(piece.group, columns=list(columns))
        except (pa.ArrowInvalid, OSError) as error:  # OSError is also what pyarrow raises for damaged pages
            if piece.path.startswith(HUB) and isinstance(error, OSError):
                raise
            raise _broken(piece.path, error) from error


def _broken(path: str, error: Exception) -> ProtocolError:
    return ProtocolError(path, [Problem(0, f"not a whole parquet file ({error}): download it again")])


def check_columns(path: str, required: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    """
    The names of a file's columns; warns of those that are not read.

    Raises:
        ProtocolError: where required ones are missing, or `audio` is not bytes with a path.
    """
    with open_parquet(path) as file:
        schema = file.schema_arrow
    problems = [Problem(0, f"no column {name!r}, only {', '.join(schema.names)}") for name in required]
    problems = [problem for name, problem in zip(required, problems, strict=True) if name not in schema.names]
    if "audio" in schema.names and not _is_audio(schema.field("audio").type):
        problems.append(Problem(0, f"column 'audio' is {schema.field('audio').type}, expected bytes and path"))
    if problems:
        raise ProtocolError(path, problems)
    others = [name for name in schema.names if name not in (*required, *known)]
    if others:
        warnings.warn(f"{path}: columns {', '.join(others)} are not read", stacklevel=2)
    return schema.names


def _is_audio(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind.fields}


def class_names(table: "pa.Table", column: str) -> list[str] | None:
    """The names behind a column of class numbers, as `datasets` notes them in a file; `None` where it does not."""
    metadata = table.schema.metadata or {}
    try:
        return json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None


Numbered = list[tuple[int, Row]]
"""Rows with their numbers in the file, from 1."""

Reader = Callable[[Problems, Piece], Numbered]
"""Gives the wanted rows of a piece without their audio, and adds what is wrong with them."""


def rows_of(pieces: Iterable[Piece], read: Reader) -> list[Row]:
    """
    The rows of all pieces without their audio, each id once.

    Raises:
        ProtocolError: with all problems of the first file that has any; its lines are numbers of rows.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for path, group in itertools.groupby(pieces, key=lambda piece: piece.path):
        problems = Problems(path)
        for number, row in itertools.chain.from_iterable(read(problems, piece) for piece in group):
            if row.utterance_id in seen:
                problems.add(number, f"utterance id {row.utterance_id!r} is there twice: remove one of the two")
            seen.add(row.utterance_id)
            rows.append(row)
        problems.raise_any()
    return rows


def table_of(piece: Piece, read: Reader, extra: Iterable[str] = ()) -> "pa.Table":
    """
    A piece as a table: the unified columns and `extra`, and the encoded audio with its file name.

    Raises:
        ProtocolError: with all problems of the piece.
    """
    import pyarrow as pa

    problems = Problems(piece.path)
    numbered = read(problems, piece)
    problems.raise_any()
    columns = to_columns([row for _, row in numbered], extra)
    del columns["audio"]
    audio = _audio(problems, piece, [number - piece.first_row for number, _ in numbered])
    problems.raise_any()
    return pa.table({name: pa.array(values) for name, values in columns.items()}).append_column("audio", audio)


def _audio(problems: Problems, piece: Piece, wanted: Sequence[int]) -> "pa.ChunkedArray":
    """Bytes and file name of the clips at the wanted places of a piece."""
    import pyarrow as pa

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    audio = read_piece(piece, ["audio"])["audio"]
    if len(wanted) < len(audio):
        keep = set(wanted)
        audio = audio.filter(pa.array([place in keep for place in range(len(audio))]))
    chunks = [_bytes_and_name(chunk, kind) for chunk in audio.chunks]
    empty = [chunk.field("bytes").is_null() for chunk in chunks]
    for place, missing in zip(wanted, itertools.chain.from_iterable(part.to_pylist() for part in empty), strict=True):
        if missing:
            problems.add(piece.first_row + place, "no audio: download the file again")
    return pa.chunked_array(chunks, type=kind)


def _bytes_and_name(audio: "pa.StructArray", kind: "pa.StructType") -> "pa.StructArray":
    import pyarrow as pa

    fields = dict(zip((field.name for field in audio.type.fields), audio.flatten(), strict=True))
    names = [path and os.path.basename(path) for path in fields["path"].to_pylist()]
    return pa.StructArray.from_arrays(
        [fields["bytes"].cast(pa.binary()), pa.array(names, pa.string())], fields=list(kind.fields)
    )
