"""Parquet files with audio inside, on disk or on the Hub, piece by piece: a piece is one row group."""

import hashlib
import itertools
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from spooftrace.data_scripts.protocol import SHOWN, CorpusNotFoundError, Problem, Problems, ProtocolError
from spooftrace.data_scripts.rows import Row, to_columns


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


HUB = "hf://"

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)\.parquet", re.DOTALL)


class Piece(NamedTuple):
    """
    A row group.

    Args:
        path: of the file, or its `hf://` address with the commit in it.
        group: number of the row group in the file, from 0.
        first_row: number of its first row in the file, from 1.
        state: size and digest of the file's footer, which tells where and how large every column is; empty on the
            Hub, where the commit tells.
        part: what is wanted of it, for corpora that divide one file among splits.
    """

    path: str
    group: int
    first_row: int
    state: str = ""
    part: str = ""


def parquet_files(
    root: Path, patterns: Iterable[str], layout: str, *, repo: str | None, revision: str | None, partial: bool
) -> list[str]:
    """
    The files of a data set, sorted by name, by the first pattern that finds any.

    Names such as `train-00000-of-00161.parquet` tell how many there should be.

    Args:
        root: its folder, where `repo` is not given.
        patterns: as in `Path.glob`.
        layout: the expected tree, for the message.
        repo: name of a data set on the Hub to read instead, without downloading it as a whole.
        revision: its commit, branch or tag; by default the main branch as it is now.
        partial: go on with the files that are there.

    Raises:
        CorpusNotFoundError: where there is none.
        ProtocolError: where some of them are not there.
        ValueError: for a revision without `repo`: a folder has none.
        OSError: where the Hub cannot be reached, or has no such data set.
    """
    if revision and not repo:
        raise ValueError(
            f"revision is {revision!r} without repo: a folder has none; name the data set on the Hub too."
        )
    for pattern in patterns:
        found = _on_hub(repo, revision, pattern) if repo else sorted(map(str, root.glob(pattern)))
        if found:
            if not partial:
                _check_whole(found)
            return found
    where = f"{repo} on the Hub" if repo else str(root)
    raise CorpusNotFoundError(f"no parquet file in {where}: looked for {', '.join(patterns)}.\n{layout}")


def _on_hub(repo: str, revision: str | None, pattern: str) -> list[str]:
    from huggingface_hub import HfApi, HfFileSystem

    commit = HfApi().dataset_info(repo, revision=revision).sha
    return [HUB + path for path in sorted(HfFileSystem().glob(f"datasets/{repo}@{commit}/{pattern}"))]


def _check_whole(paths: Sequence[str]) -> None:
    """Whether all files that the names tell of are there."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if match := _SHARD.fullmatch(path):
            numbers.setdefault((match["stem"], int(match["total"])), set()).add(int(match["number"]))
    problems = []
    for (stem, total), found in numbers.items():
        absent = [f"{number:05}" for number in range(total) if number not in found]
        if absent:
            shown = ", ".join(absent[:SHOWN]) + (f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else "")
            name = f"{os.path.basename(stem)}-...-of-{total:05}.parquet"
            remedy = "download them, or pass partial=True (--option partial=true) to go on without"
            problems.append(Problem(0, f"{len(absent)} of {total} files {name} are not there ({shown}): {remedy}"))
    if problems:
        raise ProtocolError(os.path.dirname(paths[0]), problems)


def open_pieces(
    paths: Iterable[str], columns: Sequence[str], part: str = ""
) -> "Iterator[tuple[Piece, pq.ParquetFile]]":
    """
    The pieces of all files, in the files' order, each with its file, which is open until the next one.

    Warns of columns that are not read.

    Args:
        paths: as `parquet_files` gives them.
        columns: what every file must have.
        part: see `Piece`.

    Raises:
        ProtocolError: for a file that is no parquet, that lacks a column, or whose `audio` is not bytes with a path.
    """
    others: dict[str, str] = {}
    for path in paths:
        first_row = 1
        with open_parquet(path) as file:
            _check_columns(path, file.schema_arrow, columns)
            others = dict.fromkeys(set(file.schema_arrow.names) - set(columns), path) | others
            state = "" if path.startswith(HUB) else _state(path)
            for group in range(file.num_row_groups):
                yield Piece(path, group, first_row, state, part), file
                first_row += file.metadata.row_group(group).num_rows
    if others:
        warnings.warn(f"{next(iter(others.values()))}: columns {', '.join(sorted(others))} are not read", stacklevel=3)


def pieces_of(paths: Iterable[str], columns: Sequence[str], part: str = "") -> list[Piece]:
    """The pieces alone, see `open_pieces`."""
    return [piece for piece, _ in open_pieces(paths, columns, part)]


def _state(path: str) -> str:
    """Size and digest of the end of a parquet file: footer, its length in four bytes, and `PAR1`."""
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(size - 8)
        stream.seek(size - 8 - int.from_bytes(stream.read(4), "little"))
        return f"{size} {hashlib.sha256(stream.read()).hexdigest()}"


def _check_columns(path: str, schema: "pa.Schema", required: Sequence[str]) -> None:
    problems = [
        Problem(0, f"no column {name!r}, only {', '.join(schema.names)}: download it again")
        for name in required
        if name not in schema.names
    ]
    if "audio" in schema.names and not _is_audio(schema.field("audio").type):
        problems.append(Problem(0, f"column 'audio' is {schema.field('audio').type}, expected bytes and path"))
    if problems:
        raise ProtocolError(path, problems)


def _is_audio(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind.fields}


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


def read_piece(file: "pq.ParquetFile", piece: Piece, columns: Sequence[str]) -> "pa.Table":
    """
    Columns of one piece of an open file; `audio.path` stands for that field alone, so that no audio is read for it.

    Raises:
        ProtocolError: for a file that is damaged.
        OSError: where the Hub fails.
    """
    import pyarrow as pa

    try:
        return file.read_row_group(piece.group, columns=list(columns))
    except (pa.ArrowInvalid, OSError) as error:  # OSError is also what pyarrow raises for damaged pages
        if piece.path.startswith(HUB) and isinstance(error, OSError):
            raise
        raise _broken(piece.path, error) from error


def _broken(path: str, error: Exception) -> ProtocolError:
    return ProtocolError(path, [Problem(0, f"not a whole parquet file ({error}): download it again")])


def class_names(table: "pa.Table", column: str) -> list[str] | None:
    """The names behind a column of class numbers, as `datasets` notes them in a file; `None` where it does not."""
    metadata = table.schema.metadata or {}
    try:
        return json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None


Numbered = list[tuple[int, Row]]
"""Rows with their numbers in the file, from 1."""

Reader = Callable[[Problems, "pq.ParquetFile", Piece], Numbered]
"""Gives the wanted rows of a piece of an open file without their audio, and adds what is wrong with them."""


def rows_of(paths: Iterable[str], columns: Sequence[str], read: Reader, part: str = "") -> list[Row]:
    """
    The rows of all files without their audio, each id once.

    Args:
        paths, columns, part: as for `open_pieces`.
        read: makes the rows.

    Raises:
        ProtocolError: with all problems of the first file that has any; its lines are numbers of rows.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for path, group in itertools.groupby(open_pieces(paths, columns, part), key=lambda pair: pair[0].path):
        problems = Problems(path)
        for number, row in itertools.chain.from_iterable(read(problems, file, piece) for piece, file in group):
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
    with open_parquet(piece.path) as file:
        numbered = read(problems, file, piece)
        problems.raise_any()
        audio = _audio(problems, file, piece, [number - piece.first_row for number, _ in numbered])
    problems.raise_any()
    columns = to_columns([row for _, row in numbered], extra)
    del columns["audio"]
    return pa.table({name: pa.array(values) for name, values in columns.items()}).append_column("audio", audio)


def _audio(problems: Problems, file: "pq.ParquetFile", piece: Piece, wanted: Sequence[int]) -> "pa.ChunkedArray":
    """Bytes and file name of the clips at the wanted places of a piece."""
    import pyarrow as pa

    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    audio = read_piece(file, piece, ["audio"])["audio"]
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
