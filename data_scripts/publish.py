"""A corpus as a dataset repository: parquet shards with playable audio, a card with the counts, and a check of both.

Building is local. It goes to a folder beside the final one that is renamed at the end, so that an interrupted build
leaves nothing that looks whole.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset_builder
from filelock import FileLock, Timeout
from huggingface_hub import HfFileSystem
from tqdm import tqdm

from spooftrace.data_scripts.arrow_tables import Contents, features_of, read_contents, read_piece
from spooftrace.data_scripts.card import make_card
from spooftrace.data_scripts.corpus import Corpus, MissingAudio
from spooftrace.data_scripts.registry import get_corpus
from spooftrace.data_scripts.shards import (
    SplitSummary,
    SplitWriter,
    clip_bytes,
    parse_size,
    published_features,
    read_clips,
    read_shards,
    sha256_of,
)


MANIFEST = "build.json"
CHECKED_CLIPS = 100
"""Clips of each split whose bytes are compared with the source after a build, spread evenly."""

_LOCK = ".lock"


class ReadBackError(ValueError):
    """A build differs from its source."""


class Build(NamedTuple):
    """
    A finished build.

    Args:
        folder: holds `README.md`, `build.json` and one folder of shards for each configuration.
        corpus: what was built.
        manifest: the contents of `build.json`: how it was built, and each shard with its size, rows and SHA-256.
    """

    folder: Path
    corpus: Corpus
    manifest: dict[str, Any]

    @property
    def metadata_only(self) -> bool:
        return self.manifest["metadata_only"]

    @property
    def configs(self) -> list[str]:
        return self.manifest["configs"]

    @property
    def rows(self) -> int:
        return sum(split["rows"] for splits in self.manifest["splits"].values() for split in splits.values())

    @property
    def replaced(self) -> list[str]:
        """Patterns of what a push of this build replaces: shards of an earlier one, which may have been more."""
        return [f"{config}/*.parquet" for config in self.configs]

    def shards(self, config: str, split: str) -> list[Path]:
        return [self.folder / config / name for name in self.manifest["splits"][config][split]["shards"]]


def build_corpus(
    corpus: str | Corpus,
    data_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    config: str | Sequence[str] | None = None,
    missing_audio: MissingAudio = "error",
    max_shard_size: int | str = "500MB",
    metadata_only: bool = False,
    checked_clips: int | None = CHECKED_CLIPS,
    options: Mapping[str, Any] | None = None,
) -> Build:
    """
    Writes a corpus as a dataset repository and compares it with its source.

    The clips are embedded byte by byte as they are. Equal input makes equal output, to the byte.

    Args:
        corpus: its name, or the corpus itself.
        data_dir: the folder of the corpus.
        output_dir: must not exist yet.
        config: one or several configurations; by default the corpus's first.
        missing_audio: `"error"` for a clip that is not there, `"drop"` its row, or `"ignore"` and keep the row.
        max_shard_size: contents of a file, in bytes or as in `"500MB"`.
        metadata_only: leave the audio out; then it need not be there.
        checked_clips: clips of each split that are compared with the source; `None` for all.
        options: the corpus's own.

    Raises:
        FileExistsError: where `output_dir` is there already.
        ReadBackError: where what was written differs from the source.
        What `Corpus.read` raises.
    """
    corpus = get_corpus(corpus) if isinstance(corpus, str) else corpus
    options, limit = dict(options or {}), parse_size(max_shard_size)
    request = _request(corpus, config, missing_audio, metadata_only, options)
    output_dir = Path(output_dir).expanduser().absolute()
    with _unfinished(output_dir) as folder:
        made = {
            "spooftrace": version("spooftrace"),
            "protocols": {name: _protocol_digests(corpus, Path(data_dir), name) for name in request["configs"]},
        }
        corpus = _source(corpus, metadata_only)
        contents = _read(corpus, data_dir, request, options)
        summaries = _write_shards(corpus, contents, folder, metadata_only, limit)
        build = Build(folder, corpus, {**request, **made, **_describe(folder, summaries)})
        _write(folder / "README.md", make_card(corpus, build.manifest, summaries))
        _compare(build, contents, checked_clips)
        _write(folder / MANIFEST, json.dumps(build.manifest, indent=1, sort_keys=True) + "\n")
    return build._replace(folder=output_dir)


def reuse_build(
    corpus: str | Corpus,
    data_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    config: str | Sequence[str] | None = None,
    missing_audio: MissingAudio = "error",
    metadata_only: bool = False,
    checked_clips: int | None = CHECKED_CLIPS,
    options: Mapping[str, Any] | None = None,
) -> Build:
    """
    A build that is there already, if it was made with these arguments and equals its source as it is now.

    The arguments are those of [`build_corpus`].

    Raises:
        ValueError: where the folder holds something else.
        ReadBackError: where its files were changed, or the source was.
        What `Corpus.read` raises.
    """
    build, options = open_build(output_dir, corpus), dict(options or {})
    request = _request(build.corpus, config, missing_audio, metadata_only, options)
    for name, wanted in request.items():
        if build.manifest.get(name) != wanted:
            raise ValueError(
                f"{build.folder} was built with {name} {build.manifest.get(name)!r}, not {wanted!r}: remove it, or give "
                "another folder"
            )
    source = build._replace(corpus=_source(build.corpus, metadata_only))
    _compare(source, _read(source.corpus, data_dir, request, options), checked_clips)
    return build


def open_build(folder: str | os.PathLike, corpus: str | Corpus) -> Build:
    """
    A finished build, with the digests of all its shards checked.

    Raises:
        ValueError: where the folder is no build of this corpus.
        ReadBackError: where a file is missing or was changed.
    """
    corpus = get_corpus(corpus) if isinstance(corpus, str) else corpus
    folder = Path(folder).expanduser().absolute()
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} is no finished build (no readable {MANIFEST}): give another folder") from error
    if manifest.get("corpus") != corpus.name:
        raise ValueError(f"{folder} is a build of {manifest.get('corpus')}, not of {corpus.name}: give another folder")
    for name, known in manifest["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != known["sha256"]:
            raise ReadBackError(f"{folder / name} is missing or was changed: remove the folder and build again")
    return Build(folder, corpus, manifest)


def read_hub(build: Build, repo_id: str, revision: str, *, token: str | None = None, rows: int = 3) -> None:
    """
    Resolves a pushed dataset as `load_dataset` does, and compares its columns, its splits and the first rows of each.

    Args:
        build: what was pushed.
        repo_id: where to.
        revision: the commit.
        token: for a private repository; by default the one of `HF_TOKEN` or `hf auth login`.
        rows: how many of each split.

    Raises:
        ReadBackError: where something differs.
    """
    features = published_features(build.corpus, build.metadata_only)
    for config, splits in build.manifest["splits"].items():
        remote = load_dataset_builder(repo_id, config, revision=revision, token=token)
        sizes = {split: info.num_examples for split, info in (remote.info.splits or {}).items()}
        if remote.info.features != features or sizes != {split: known["rows"] for split, known in splits.items()}:
            raise ReadBackError(f"{repo_id} at {revision[:7]} has other columns or splits in {config} than the build")
        for split, files in remote.config.data_files.items():
            here = build.shards(config, split)
            with HfFileSystem(token=token).open(files[0], "rb") as there:
                same = len(files) == len(here) and _head(there, rows).equals(_head(here[0], rows))
            if not same:
                raise ReadBackError(
                    f"{repo_id} at {revision[:7]} gives other rows for {config}/{split} than the build"
                )


def _head(source: Any, rows: int) -> pa.Table:
    """
    The first rows of a parquet file, read in this thread alone.

    Streaming by `datasets` reads ahead in threads, which sometimes abort the process when it ends before they do.
    """
    with pq.ParquetFile(source, pre_buffer=False) as file:
        return file.read_row_group(0, use_threads=False).slice(0, rows)


@contextmanager
def _unfinished(output_dir: Path) -> Iterator[Path]:
    """A folder beside the final one that takes its name when the block ends well, and is removed otherwise."""
    if output_dir.exists():
        raise FileExistsError(f"{output_dir} is there already: remove it, or give another folder")
    folder = output_dir.with_name(f".{output_dir.name}.partial")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise FileExistsError(f"{folder} is needed for the build but holds other files: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(f"another process is building {output_dir}: wait for it") from error
    try:
        _clear(folder)  # what a killed build left
        yield folder
    except BaseException:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    lock.release()
    (folder / _LOCK).unlink(missing_ok=True)
    folder.rename(output_dir)


def _request(
    corpus: Corpus,
    config: str | Sequence[str] | None,
    missing_audio: MissingAudio,
    metadata_only: bool,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What was asked for, as `build.json` keeps it."""
    configs = [config] if config is None or isinstance(config, str) else config
    return {
        "corpus": corpus.name,
        "title": corpus.title,
        "license": corpus.license,
        "configs": list(dict.fromkeys(corpus.check_config(name) for name in configs)),
        "metadata_only": metadata_only,
        "missing_audio": "ignore" if metadata_only else missing_audio,
        "options": {name: _without_folders(value) for name, value in options.items()},
    }


def _source(corpus: Corpus, metadata_only: bool) -> Corpus:
    """The corpus as it is read: its rows alone, without opening the tables that hold audio, where that is left out."""
    return replace(corpus, tables=None, read_table=None) if metadata_only else corpus


def _read(
    corpus: Corpus, data_dir: str | os.PathLike, request: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Contents]:
    how = request["missing_audio"]
    return {name: read_contents(corpus, Path(data_dir), name, how, options) for name in request["configs"]}


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _write_shards(
    corpus: Corpus, contents: Mapping[str, Contents], folder: Path, metadata_only: bool, limit: int
) -> dict[str, dict[str, SplitSummary]]:
    features = published_features(corpus, metadata_only)
    found: dict[str, dict[str, SplitSummary]] = {}
    with tqdm(unit=" rows", desc=f"building {corpus.name}", disable=None, leave=False) as bar:
        for config, content in contents.items():
            (folder / config).mkdir()
            found[config] = {}
            for split, pieces in content.pieces.items():
                writer = SplitWriter(folder / config, split, features, limit)
                try:
                    for piece in pieces:
                        for rows in writer.write(read_piece(corpus, piece)):
                            bar.update(rows)
                except BaseException:
                    writer.abort()
                    raise
                found[config][split] = writer.close()
    return found


def _describe(folder: Path, summaries: Mapping[str, Mapping[str, SplitSummary]]) -> dict[str, Any]:
    splits: dict[str, dict[str, Any]] = {}
    files: dict[str, dict[str, Any]] = {}
    for config, parts in summaries.items():
        splits[config] = {}
        for split, summary in parts.items():
            labels = {str(label): number for label, number in summary.labels.items() if label is not None}
            splits[config][split] = {"rows": summary.rows, "labels": labels, "shards": summary.shards}
            for name in summary.shards:
                path = folder / config / name
                files[f"{config}/{name}"] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    return {"splits": splits, "files": files}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")  # the same bytes on every system


def _without_folders(value: Any) -> Any:
    """An option as it may be published: a file by its name, not by where it lies on this machine."""
    return Path(value).name if isinstance(value, (str, os.PathLike)) and os.path.exists(value) else value


def _protocol_digests(corpus: Corpus, root: Path, config: str) -> dict[str, str]:
    """SHA-256 of the protocol files by name; none where the rows come from the audio files themselves."""
    if corpus.tables is not None:
        return {}
    files = corpus.find(root.expanduser().absolute(), config)
    return {path.name: sha256_of(path) for path in sorted(files.values()) if path.is_file()}


def _compare(build: Build, contents: Mapping[str, Contents], checked_clips: int | None) -> None:
    for config, content in contents.items():
        written = build.manifest["splits"].get(config, {})
        if written.keys() != content.pieces.keys():
            raise ReadBackError(f"{build.folder} has the splits {list(written)}, the source {list(content.pieces)}")
        for split, pieces in content.pieces.items():
            _compare_split(build, config, split, pieces, checked_clips)


def _compare_split(build: Build, config: str, split: str, pieces: Sequence[Any], checked_clips: int | None) -> None:
    """One pass over the source, which may be large."""
    place, shards = f"{build.folder.name}: {config}/{split}", build.shards(config, split)
    written = read_shards(shards, [name for name in features_of(build.corpus) if name != "audio"])
    chosen = set() if build.metadata_only else _spread(len(written), checked_clips)
    clips, start = read_clips(shards, chosen), 0
    for piece in pieces:
        source = read_piece(build.corpus, piece)
        _compare_rows(written.slice(start, len(source)), source, f"{place}, rows from {start} on")
        for row in sorted(chosen & set(range(start, start + len(source)))):
            _, clip = next(clips)
            if (clip or {}).get("bytes") != clip_bytes(source["audio"][row - start].as_py()):
                raise ReadBackError(f"{place}: the audio of row {row} differs from the source")
        start += len(source)
    if start != len(written):
        raise ReadBackError(f"{place} has {len(written)} rows, the source {start}")


def _compare_rows(written: pa.Table, source: pa.Table, place: str) -> None:
    if len(written) != len(source):
        raise ReadBackError(f"{place}: {len(written)} rows instead of the {len(source)} of the source")
    for name in written.column_names:
        if not written[name].equals(source[name]):
            pairs = zip(written[name].to_pylist(), source[name].to_pylist(), strict=True)
            row, (here, there) = next((row, pair) for row, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ReadBackError(f"{place}: {name} of row {row} is {here!r}, in the source {there!r}")


def _spread(rows: int, number: int | None) -> set[int]:
    """So many rows out of all, evenly spread; `None` for all."""
    if number is None or number >= rows:
        return set(range(rows))
    return {round(index * (rows - 1) / max(number - 1, 1)) for index in range(number)}
