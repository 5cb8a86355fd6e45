"""What `spooftrace score` is given -> pairs of utterance id and audio. Slow packages are imported when they are needed."""

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from spooftrace.data_scripts.rows import Row


class Inputs(NamedTuple):
    """
    The clips to score.

    Args:
        clips: `(utterance_id, source)` pairs, as `score_clips` takes them.
        total: their number, where it is known.
        stream: what names the list, where it is read as it goes.
    """

    clips: Iterable[tuple[str, Any]]
    total: int | None
    stream: str | None = None


def find_inputs(args: argparse.Namespace) -> Inputs:
    """
    The clips that the arguments name; a wrong combination of them leaves through `args.refuse`.

    Raises:
        AudioError: for a file, folder or pattern without audio.
        CorpusNotFoundError, ProtocolError: for a table or corpus that cannot be used as it is.
        OSError, ValueError: for an unknown corpus, dataset, configuration, split or column.
    """
    _check(args)
    if args.dataset:
        return _hub_dataset(args)
    if args.corpus:
        clips = _corpus(args)
    elif len(args.inputs) == 1 and _is_table_or_folder(args.inputs[0]):
        clips = _table_or_folder(args)
    else:
        if args.split:
            args.refuse("--split is for a table, --corpus or --dataset: files have none")
        clips = _files(args.inputs)
    return Inputs(clips, len(clips))


def _check(args: argparse.Namespace) -> None:
    if os.path.isfile(args.out):
        args.refuse(f"--out names a folder for the results, but {args.out!r} is a file")
    if args.corpus and args.dataset:
        args.refuse("--corpus and --dataset exclude each other: a corpus is on the disk, a dataset on the Hub")
    if args.dataset and args.inputs:
        args.refuse(f"--dataset takes no INPUT, but there is {args.inputs[0]!r}")
    if not args.dataset and not args.inputs:
        args.refuse("an INPUT is needed, or --dataset")
    if args.corpus and len(args.inputs) > 1:
        args.refuse("--corpus takes one INPUT, its folder")
    if args.config and not (args.corpus or args.dataset):
        args.refuse("--config is for --corpus and --dataset")
    if not args.dataset and (args.dataset_revision or args.id_column):
        args.refuse("--dataset-revision and --id-column are for --dataset")
    tables = [name for name in args.inputs if len(args.inputs) > 1 and _is_table(name)]
    if tables:
        args.refuse(f"{tables[0]!r} is a table, which is the only INPUT where there is one")


def _is_table(name: str) -> bool:
    from spooftrace.data_scripts.records import TABLE_SUFFIXES

    return Path(name).suffix.lower() in TABLE_SUFFIXES and os.path.isfile(name)


def _is_table_or_folder(name: str) -> bool:
    return os.path.isdir(name) or _is_table(name)


def _table_or_folder(args: argparse.Namespace) -> list[tuple[str, str]]:
    from spooftrace.data_scripts.parsers.own import read_manifest

    rows = read_manifest(args.inputs[0], split=args.split, require_labels=False, allow_outside=args.allow_outside)
    return _pairs(rows)


def _pairs(rows: Iterable["Row"]) -> list[tuple[str, str]]:
    return [(row.utterance_id, row.audio) for row in rows]


def _files(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Files, patterns and several folders; ids below the folder that all of them have in common."""
    from spooftrace.audio import find_audio
    from spooftrace.data_scripts.protocol import escape_id

    paths = list(dict.fromkeys(os.path.abspath(path) for path in find_audio(arguments)))
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [Path(path).relative_to(root).as_posix() for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    shared = Counter([*stems, *names])
    ids = [stem if shared[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
    return list(zip(map(escape_id, ids), paths, strict=True))


def _corpus(args: argparse.Namespace) -> list[tuple[str, Any]]:
    from spooftrace.data_scripts.registry import get_corpus

    corpus, root = get_corpus(args.corpus), Path(args.inputs[0])
    if corpus.reads_audio:
        return _pairs(_pick(corpus.read(root, args.config, missing_audio=args.missing_audio), args))
    from spooftrace.data_scripts.loading import load_corpus

    rows = _pick(load_corpus(args.corpus, root, config=args.config, missing_audio=args.missing_audio), args)
    return [(utterance_id, partial(_cell, rows, index)) for index, utterance_id in enumerate(rows["utterance_id"])]


def _pick(splits: Mapping[str, Any], args: argparse.Namespace) -> Any:
    if args.split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if args.split not in splits:
        problem = "has several splits" if args.split is None else f"has no split {args.split!r}"
        raise ValueError(f"{args.corpus} {problem}: pass --split {' or '.join(splits)}.")
    return splits[args.split]


def _cell(rows: "Dataset", index: int) -> Mapping[str, Any]:
    return rows[index]["audio"]


def _hub_dataset(args: argparse.Namespace) -> Inputs:
    """A dataset at one commit, read as a stream."""
    from datasets import Audio, load_dataset
    from huggingface_hub import HfApi

    if args.split is None:
        args.refuse("--dataset needs --split")
    commit = HfApi().dataset_info(args.dataset, revision=args.dataset_revision).sha
    rows = load_dataset(args.dataset, args.config, split=args.split, revision=commit, streaming=True)
    columns = rows.column_names
    if columns is None:  # a format that tells its columns only with the first row
        columns = list(next(iter(rows.take(1)), ()))
    id_column = args.id_column or ("utterance_id" if "utterance_id" in columns else None)
    for column in filter(None, (args.audio_column, id_column)):
        if column not in columns:
            raise ValueError(f"{args.dataset} has no column {column!r}; it has {', '.join(columns)}.")
    rows = rows.cast_column(args.audio_column, Audio(decode=False))
    wanted = ("config", "split", "audio_column")
    name = " ".join([args.dataset, commit, *(str(getattr(args, option)) for option in wanted), str(id_column)])
    info = (rows.info.splits or {}).get(args.split)
    return Inputs(_streamed(rows, args.audio_column, id_column), info.num_examples if info else None, name)


def _streamed(rows: "IterableDataset", audio_column: str, id_column: str | None) -> Iterator[tuple[str, Any]]:
    for index, row in enumerate(rows):
        yield (str(index) if id_column is None else row[id_column]), _bytes_of(row[audio_column])


def _bytes_of(audio: Mapping[str, Any] | None) -> Any:
    """What the detector reads; a file of the Hub, which a dataset of files only names, is fetched."""
    path = (audio or {}).get("path") or ""
    if audio and audio.get("bytes") is None and path.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        return {"path": path, "bytes": HfFileSystem().read_bytes(path)}
    return audio
