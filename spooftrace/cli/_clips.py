"""What the commands that answer clip by clip share: finding the clips, a progress bar, JSON, and parts of their tables."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spooftrace.results import Failure, printable


if TYPE_CHECKING:
    from spooftrace.audio import AudioLimits

Result = TypeVar("Result")

# A progress bar is worth its line from this much work on.
MANY_FILES = 5
LONG_SECONDS = 60.0

MAX_PATH_WIDTH = 60


def find_clips(arguments: list[str]) -> list[Path | Failure]:
    """The files behind the arguments, each once; an argument without any is a failure in its place."""
    from spooftrace.audio import AudioError, find_audio

    found: dict[Path | Failure, None] = {}
    for argument in arguments:
        try:
            found.update(dict.fromkeys(find_audio([argument])))
        except AudioError as error:
            found[Failure.of(argument, error)] = None
    return list(found)


def in_order(inputs: list[Path | Failure], results: Iterator[Result]) -> Iterator[Result | Failure]:
    """The results of the files that were found, and between them the failures, in the order of the inputs."""
    for entry in inputs:
        yield entry if isinstance(entry, Failure) else next(results)


@contextmanager
def progress_bar(
    paths: list[Path], limits: "AudioLimits"
) -> Iterator[tuple[Callable[[float], None] | None, Callable[[str], None]]]:
    """A progress bar over seconds of audio where there is more than a little to do, and what prints past it."""
    total = _total_seconds(paths, limits) if sys.stderr.isatty() else 0.0
    if total == 0 or (len(paths) < MANY_FILES and total < LONG_SECONDS):
        yield None, print
        return
    from tqdm import tqdm

    layout = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
    with tqdm(total=total, bar_format=layout, leave=False, file=sys.stderr) as bar:
        yield bar.update, lambda line: bar.write(line, file=sys.stdout)


def _total_seconds(paths: list[Path], limits: "AudioLimits") -> float:
    from spooftrace.audio import AudioError, inspect_audio

    total = 0.0
    for path in paths:
        try:
            total += inspect_audio(path, limits=limits).duration or 0.0
        except (AudioError, OSError):
            continue  # reported when its turn comes
    return total


def write_json(results: Iterable[Any], kind: Callable[[Any], str]) -> Counter:
    """
    One object a line as they come; the array is closed even when the work is interrupted.

    Args:
        results: with `to_dict`.
        kind: of a result.

    Returns:
        How many results of each kind there were.
    """
    counts: Counter = Counter()
    print("[", end="")
    try:
        for result in results:
            line = json.dumps(result.to_dict(), allow_nan=False)
            print(",\n" if counts else "\n", line, sep="", end="", flush=True)
            counts[kind(result)] += 1
    finally:
        print("\n]")
    return counts


def column_width(inputs: list[Path | Failure]) -> int:
    """Width of the column of paths."""
    names = [printable(entry.path if isinstance(entry, Failure) else str(entry)) for entry in inputs]
    return min(max(map(len, names)), MAX_PATH_WIDTH)


def error_note(failure: Failure) -> str:
    """The message of a failure beside its path."""
    return printable(failure.message.removeprefix(f"{failure.path!r}: "))


def count_clips(counts: Counter, words: dict[str, str]) -> str:
    """Such as `3 clips: 2 bona fide, 1 failed.`, for counts by kind and a word for each kind."""
    kinds = ", ".join(f"{counts[kind]} {word}" for kind, word in words.items() if counts[kind])
    clips = "1 clip" if counts.total() == 1 else f"{counts.total()} clips"
    return f"{clips}: {kinds}."


def model_name(info: dict[str, Any]) -> str:
    """A model's name, with its revision in short."""
    return f"{printable(info['name'])} ({info['revision'][:19]})" if info["revision"] else printable(info["name"])
