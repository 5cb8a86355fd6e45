"""Reading protocol files of doubtful quality: every problem of a file at once, with its line and the remedy."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from spooftrace.audio import AUDIO_SUFFIXES


SHOWN = 10
"""Problems and examples that an error lists; it counts the others."""

_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_ESCAPED = re.compile(r"[\s\x00-\x1f\x7f%]")


class Problem(NamedTuple):
    """What is wrong with one line, and what to do about it. Lines count from 1; 0 is the file as a whole."""

    line: int
    message: str


class ProtocolError(ValueError):
    """
    A protocol that cannot be used as it is.

    Args:
        path: the file.
        problems: all that is wrong with it.
    """

    keeps_lines = True  # one problem to a line: a command prints them so

    def __init__(self, path: str | os.PathLike, problems: Sequence[Problem]):
        self.path, self.problems = Path(path), list(problems)
        shown = [f"line {line}: {text}" if line else text for line, text in self.problems[:SHOWN]]
        rest = len(self.problems) - len(shown)
        more = [f"and {rest} more"] if rest else []
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{self.path}: {count}\n  " + "\n  ".join(shown + more))

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), (self.path, self.problems)  # for errors that come from another process


class CorpusNotFoundError(FileNotFoundError):
    """A file or folder of a corpus is not where it should be; the message shows the expected tree."""

    keeps_lines = True


class Problems:
    """
    Collects what is wrong with a file while it is read.

    ```python
    problems = Problems(path)
    for line, fields in read_fields(path):
        problems.check_id(line, fields[1])
    problems.raise_any()
    ```
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._found: list[Problem] = []
        self._lines: dict[str, int] = {}

    def raise_any(self) -> None:
        """Raises a `ProtocolError` with everything that was found, if anything was."""
        if self._found:
            raise ProtocolError(self.path, sorted(self._found, key=lambda problem: problem.line))

    def add(self, line: int, message: str) -> None:
        self._found.append(Problem(line, message))

    def check_fields(self, line: int, fields: Sequence[str], expected: Sequence[int], names: str) -> bool:
        """Whether a line has one of the `expected` numbers of fields; `names` tells the user which they are."""
        if len(fields) in expected:
            return True
        wanted = " or ".join(map(str, expected))
        self.add(line, f"{len(fields)} fields, expected {wanted} ({names})")
        return False

    def check_id(self, line: int, utterance_id: str) -> bool:
        """Whether an utterance id is new and can stand in a score file."""
        if not utterance_id or _BLANK.search(utterance_id):
            self.add(line, f"utterance id {utterance_id!r} is empty or holds white space: rename it, as in `a_b`")
            return False
        first = self._lines.setdefault(utterance_id, line)
        if first != line:
            self.add(line, f"utterance id {utterance_id!r} is already in line {first}: remove one of the two")
            return False
        return True

    def check_path(self, line: int, name: str) -> bool:
        """Whether a file name stays inside its folder."""
        if is_inside(name):
            return True
        self.add(line, f"path {name!r} is absolute or leaves the corpus: give it relative to the corpus's folder")
        return False

    def label(self, line: int, text: str, known: Mapping[str, str]) -> str | None:
        """The label for what a protocol writes, exactly as `known` spells it; anything else is a problem."""
        if text in known:
            return known[text]
        self.add(line, f"unknown label {text!r}: write {' or '.join(repr(name) for name in known)}")
        return None


def is_inside(name: str) -> bool:
    """Whether a relative path has no part that leaves its folder, on any system."""
    parts = re.split(r"[/\\]", name)
    return bool(name) and ".." not in parts and "\0" not in name and parts[0] != "" and ":" not in parts[0]


def escape_id(text: str) -> str:
    """
    A text without white space or control characters: each of them, and `%`, percent-encoded as UTF-8.

    `urllib.parse.unquote` undoes it.
    """
    return _ESCAPED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8")), text)


def read_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """
    Number and text of every line that is not blank; a byte order mark and Windows line ends are no matter.

    Raises:
        ProtocolError: for a file that is not UTF-8 text.
    """
    with open(path, encoding="utf-8-sig") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise not_utf8(path, error) from error


def not_utf8(path: str | os.PathLike, error: UnicodeDecodeError) -> ProtocolError:
    """The error for a file that is no UTF-8 text, with the first line that is none: text is decoded in larger blocks."""
    problem = f"not UTF-8 text ({error.reason}): save it as UTF-8"
    with open(path, "rb") as stream:
        bad = (number for number, line in enumerate(stream, start=1) if not _is_utf8(line))
        return ProtocolError(path, [Problem(next(bad, 0), problem)])


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_fields(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Number and fields, divided by white space, of every line that is not blank."""
    for number, line in read_lines(path):
        yield number, line.split()


def null(text: str, *placeholders: str) -> str | None:
    """`None` for `-`, for nothing and for the given placeholders."""
    return None if text in ("", "-", *placeholders) else text


class AudioFolder:
    """
    The audio files of a folder, listed once instead of asked for one by one. Empty files and broken links are none.

    Args:
        folders: searched in this order, not deeper.
        suffixes: accepted file name endings, the preferred one first.
    """

    def __init__(self, folders: Iterable[Path], suffixes: Sequence[str] = (".flac", ".wav", ".mp3")):
        self.folders = [Path(folder) for folder in folders]
        self.suffixes = tuple(suffixes)
        unknown = set(self.suffixes) - set(AUDIO_SUFFIXES)
        if unknown:
            raise ValueError(f"suffixes {sorted(unknown)} are not audio that is read here")
        self._paths: dict[str, str] = {}
        for folder in reversed(self.folders):
            self._paths |= _names(folder, self.suffixes)

    def find(self, name: str) -> str | None:
        """Absolute path of the clip called `name` without its ending, or `None`."""
        return self._paths.get(name)

    def __len__(self) -> int:
        return len(self._paths)


def _names(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Name without its ending -> path of each clip in a folder, by the first of the suffixes that it has."""
    if not folder.is_dir():
        return {}
    found: dict[str, dict[str, str]] = {suffix: {} for suffix in reversed(suffixes)}
    with os.scandir(os.path.abspath(folder)) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in found and entry.is_file() and entry.stat().st_size:
                found[suffix.lower()][stem] = entry.path
    return {stem: path for paths in found.values() for stem, path in paths.items()}


def is_clip(path: str | os.PathLike) -> bool:
    """Whether there is a file with anything in it."""
    return os.path.isfile(path) and os.path.getsize(path) > 0


def locate(root: Path, candidates: Iterable[str], what: str, layout: str) -> Path:
    """
    The first of the candidate files below `root` that exists.

    Args:
        root: the folder that the user gave.
        candidates: relative paths; `*` and `**` as in `Path.glob`.
        what: what is looked for, for the message.
        layout: the expected tree and where to get it, for the message.

    Raises:
        CorpusNotFoundError: where there is none.
        ProtocolError: where there is a folder of that name instead.
    """
    tried = list(candidates)
    folders: list[Path] = []
    for candidate in tried:
        for path in sorted(Path(root).glob(candidate)):
            if path.is_file():
                return path
            folders.append(path)
    if folders:
        raise ProtocolError(folders[0], [Problem(0, f"a folder in the place of the {what}: put the file there")])
    state = "is not a folder" if not Path(root).is_dir() else f"holds none of {', '.join(tried)}"
    raise CorpusNotFoundError(f"no {what}: {root} {state}.\n{layout}")


def parse_lines(
    path: Path, parse: Callable[[Problems, int, list[str]], object | None], fields: Sequence[int], names: str
) -> list:
    """
    Every line of a white-space separated protocol through `parse`, which returns a row, or `None` after a problem.

    Raises:
        ProtocolError: with all problems of the file; also for a file without a line.
    """
    rows, problems = [], Problems(path)
    for number, values in read_fields(path):
        if problems.check_fields(number, values, fields, names):
            row = parse(problems, number, values)
            if row is not None:
                rows.append(row)
    problems.raise_any()
    if not rows:
        raise ProtocolError(path, [Problem(0, "no trial in it: is it the right file, and whole?")])
    return rows
