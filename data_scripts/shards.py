"""Parquet shards with the encoded audio inside, written row group by row group in bounded memory."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Features

from spooftrace.audio import SAMPLING_RATE
from spooftrace.data_scripts.arrow_tables import features_of
from spooftrace.data_scripts.corpus import Corpus


ROWS_PER_GROUP = 1_000
BYTES_PER_GROUP = 16 * 2**20
"""A row group is what a stream reads at once, and what stays in memory while it is written."""

_LARGEST_CLIP = 2**31 - 1  # Arrow's offsets have 32 bits
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class SplitSummary(NamedTuple):
    """
    What was written of one split.

    Args:
        rows: number of trials.
        nbytes: size of the tables in memory.
        labels: label -> number of trials; `None` counts those without one.
        attacks: attack -> number of trials.
        without_audio: number of trials without a clip.
        shards: names of the files.
    """

    rows: int
    nbytes: int
    labels: Counter
    attacks: Counter
    without_audio: int
    shards: list[str]


def published_features(corpus: Corpus, metadata_only: bool) -> Features:
    """The columns as published: audio that the Hub's viewer plays, or no audio."""
    features = features_of(corpus)
    if metadata_only:
        return Features({name: feature for name, feature in features.items() if name != "audio"})
    return Features({**features, "audio": Audio(sampling_rate=SAMPLING_RATE)})


def parse_size(size: int | str) -> int:
    """
    A number of bytes, from a number or a text such as `"500MB"` or `"1 GiB"`.

    Raises:
        ValueError: for anything else, and below 1.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(size))
    unit = match and _UNITS.get(match[2].upper())
    value = int(float(match[1]) * unit) if unit and match[1].count(".") <= 1 and match[1] != "." else 0
    if value < 1:
        raise ValueError(f"{size!r} is not a size: write it like 500MB or 2GiB")
    return value


def clip_bytes(clip: dict[str, Any] | None) -> bytes | None:
    """The encoded bytes of a clip, unchanged, from its value in an undecoded audio column."""
    if clip is None or (clip["bytes"] is None and clip["path"] is None):
        return None
    if clip["bytes"] is not None:
        return clip["bytes"]
    if os.path.getsize(clip["path"]) > _LARGEST_CLIP:
        raise ValueError(f"{clip['path']} is larger than 2 GiB, more than a row can hold: cut the recording")
    return Path(clip["path"]).read_bytes()


class SplitWriter:
    """
    Writes one split as `<split>-00000-of-00003.parquet` and so on.

    The same rows make the same bytes, wherever and whenever they are written.

    Args:
        folder: where the files go.
        split: its name.
        features: see [`published_features`].
        max_shard_size: bytes of content from which on a new file begins.
    """

    def __init__(self, folder: Path, split: str, features: Features, max_shard_size: int):
        self._folder, self._split, self._limit = folder, split, max_shard_size
        self._group_limit = min(BYTES_PER_GROUP, max_shard_size)
        self._schema, self._embeds = features.arrow_schema, "audio" in features
        self._names = {name: feature.names for name, feature in features.items() if hasattr(feature, "names")}
        self._writer: pq.ParquetWriter | None = None
        self._shards, self._filled = 0, 0
        self._rows = self._nbytes = self._without_audio = 0
        self._labels: Counter = Counter()
        self._attacks: Counter = Counter()

    def write(self, table: pa.Table) -> Iterator[int]:
        """Writes a table of `features_of`; yields the number of rows of each row group once it is written."""
        for group in self._groups(table):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path(self._shards), self._schema, **self._storage())
            self._writer.write_table(group, row_group_size=len(group))
            self._count(group)
            yield len(group)
            if self._filled >= self._limit:
                self._close_shard()

    def close(self) -> SplitSummary:
        """Ends the last file and gives all of them their final names."""
        self._close_shard()
        names = [f"{self._split}-{index:05d}-of-{self._shards:05d}.parquet" for index in range(self._shards)]
        for index, name in enumerate(names):
            self._path(index).rename(self._folder / name)
        return SplitSummary(self._rows, self._nbytes, self._labels, self._attacks, self._without_audio, names)

    def abort(self) -> None:
        """Lets go of the file; what was written stays as it is."""
        if self._writer is not None:
            self._writer.close()

    def _path(self, index: int) -> Path:
        return self._folder / f"{self._split}-{index:05d}.partial"

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._filled = None, 0
            self._shards += 1

    def _storage(self) -> dict[str, Any]:
        """Encoded audio does not shrink any more; the other columns do."""
        leaves = [name for name in self._schema.names if name != "audio"]
        leaves += ["audio.bytes", "audio.path"] if self._embeds else []
        compression = {name: "NONE" if name == "audio.bytes" else "SNAPPY" for name in leaves}
        dictionary = [name for name in leaves if name not in ("audio.bytes", "audio.path", "utterance_id")]
        return {"compression": compression, "use_dictionary": dictionary}

    def _groups(self, table: pa.Table) -> Iterator[pa.Table]:
        if not self._embeds:
            table = table.select(self._schema.names).cast(self._schema)
            for start in range(0, len(table), ROWS_PER_GROUP):
                yield table.slice(start, ROWS_PER_GROUP)
            return
        start, clips, size = 0, [], 0
        for index, clip in enumerate(table["audio"]):
            clip = clip.as_py()
            encoded = clip_bytes(clip)
            clips.append(None if encoded is None else {"bytes": encoded, "path": os.path.basename(clip["path"] or "")})
            size += len(encoded or b"")
            if len(clips) == ROWS_PER_GROUP or size >= self._group_limit:
                yield self._embed(table.slice(start, len(clips)), clips)
                start, clips, size = index + 1, [], 0
        if clips:
            yield self._embed(table.slice(start), clips)

    def _embed(self, table: pa.Table, clips: list[dict[str, Any] | None]) -> pa.Table:
        column = pa.array(clips, type=self._schema.field("audio").type)
        return table.set_column(table.schema.get_field_index("audio"), "audio", column).cast(self._schema)

    def _count(self, group: pa.Table) -> None:
        self._rows += len(group)
        self._nbytes += group.nbytes
        self._filled += group.nbytes
        names = self._names["label"]
        self._labels.update(None if index is None else names[index] for index in group["label"].to_pylist())
        self._attacks.update(name for name in group["attack_id"].to_pylist() if name is not None)
        if self._embeds:
            self._without_audio += group["audio"].null_count


def read_shards(paths: list[Path], columns: list[str]) -> pa.Table:
    """The named columns of a split, in the order of its rows."""
    return pa.concat_tables([pq.read_table(path, columns=columns, partitioning=None) for path in paths])


def read_clips(paths: list[Path], rows: set[int]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Number and audio value of the given rows of a split, in their order; one row group in memory at a time."""
    start = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                length = file.metadata.row_group(group).num_rows
                wanted = [row for row in range(start, start + length) if row in rows]
                if wanted:
                    column = file.read_row_group(group, columns=["audio"])["audio"]
                    for row in wanted:
                        yield row, column[row - start].as_py()
                start += length


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
