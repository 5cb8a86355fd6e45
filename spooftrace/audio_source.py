"""Where untrusted audio comes from: typed errors, limits, and the encoded bytes behind a path, a buffer or a stream.

Nothing here decodes. :mod:`spooftrace.audio` does, and re-exports what callers need from this module.
"""

import errno
import glob
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np


AudioSource = str | os.PathLike | bytes | BinaryIO | np.ndarray
"""What the audio functions take; a `str` is always the path of a local file."""

AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".wave",
        ".flac",
        ".mp3",
        ".mp2",
        ".ogg",
        ".oga",
        ".opus",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".rf64",
        ".sph",
    ]
)
"""The file name endings that `find_audio` looks for in folders (files named outright may end in anything)."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_COPY_BYTES = 1 << 20
_SPOOL_BYTES = 1 << 26
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class AudioError(ValueError):
    """What is wrong with which audio, and what to do about it.

    Attributes:
        source: the path as it was given, or a short description in angle brackets of anything that has no path.
        problem: what is wrong.
        remedy: what the caller can do.
    """

    def __init__(self, source: str, problem: str, remedy: str):
        super().__init__(source, problem, remedy)  # all three in `args`, so that the error survives pickling
        self.source, self.problem, self.remedy = source, problem, remedy

    def __str__(self) -> str:
        return f"{self.source!r}: {self.problem}; {self.remedy}"


class AudioNotFoundError(AudioError):
    """There is no such file, or a folder or pattern holds no audio."""


class UnreadableAudioError(AudioError):
    """Not audio that libsndfile decodes, cut short, corrupt, or not a regular file."""


class EmptyAudioError(AudioError):
    """Less than one sample of audio at 16 kHz."""


class UnsupportedAudioError(AudioError):
    """Sampling rate, number of channels, array layout or kind of source outside what is accepted."""


class AudioTooLongError(AudioError):
    """More seconds than `AudioLimits.max_seconds`."""


class AudioTooLargeError(AudioError):
    """More encoded bytes than `AudioLimits.max_bytes`."""


class NonFiniteAudioError(AudioError):
    """NaN or infinite samples."""


@dataclass(frozen=True)
class AudioLimits:
    """What is accepted from a stranger; every bound is the caller's to move.

    Args:
        max_seconds: longest clip, counted while decoding and not only read off the header.
        max_bytes: largest encoded file (for arrays: largest buffer).
        min_sampling_rate: lowest sampling rate in Hz.
        max_sampling_rate: highest sampling rate in Hz.
        max_channels: most channels.

    Raises:
        ValueError: for a bound that is not positive, or a lowest rate above the highest.
    """

    max_seconds: float = 7200.0
    max_bytes: int = 2**30
    min_sampling_rate: int = 4000
    max_sampling_rate: int = 192_000
    max_channels: int = 8

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"AudioLimits.{name} is {value!r}; give a positive number")
        if self.min_sampling_rate > self.max_sampling_rate:
            raise ValueError(
                f"AudioLimits.min_sampling_rate {self.min_sampling_rate} is above max_sampling_rate "
                f"{self.max_sampling_rate}; swap them"
            )


DEFAULT_LIMITS = AudioLimits()


def find_audio(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """The audio files that paths, folders and glob patterns stand for, in the order given, each once.

    A file that is named stays whatever its ending. A folder stands for the files below it that end in one of
    `AUDIO_SUFFIXES`, sorted by path, hidden files and folders left out; links are followed, each folder visited once.
    A name that does not exist and holds `*`, `?` or `[` is a pattern (`**` crosses folders), matching likewise.

    Raises:
        AudioNotFoundError: for a path that does not exist, and a folder or pattern without audio.
        UnreadableAudioError: for a folder that can't be listed.
        UnsupportedAudioError: for a URL.
    """
    entries = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: dict[Path, None] = {}
    for entry in entries:
        found.update(dict.fromkeys(_expand(os.fsdecode(entry))))
    return list(found)


def _expand(name: str) -> list[Path]:
    refuse_url(name)
    if os.path.isdir(name):
        files, problem = _walk(name), "no audio file below this folder"
    elif os.path.lexists(name):
        return [Path(name)]
    elif glob.has_magic(name) and "\0" not in name:
        files, problem = _match(name), "no audio file matches this pattern"
    else:
        files, problem = [], "no such file or folder"
    if not files:
        raise AudioNotFoundError(name, problem, f"check the path; known endings: {' '.join(sorted(AUDIO_SUFFIXES))}")
    return files


def _walk(folder: str) -> list[Path]:
    def give_up(error: OSError):
        raise UnreadableAudioError(str(error.filename), "this folder can't be listed", "check its permissions")

    files, visited = [], set()
    for parent, folders, names in os.walk(folder, onerror=give_up, followlinks=True):
        here = os.stat(parent)
        if (here.st_dev, here.st_ino) in visited:  # a link back up, or a second way in
            folders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if _is_visible_audio(parent, name)]
    return sorted(files)


def _match(pattern: str) -> list[Path]:
    files: set[Path] = set()
    for name in glob.iglob(pattern, recursive=True) if glob.has_magic(pattern) else ():
        if os.path.isdir(name):
            files.update(_walk(name))
        elif _is_visible_audio(*os.path.split(name)):
            files.add(Path(name))
    return sorted(files)


def _is_visible_audio(parent: str, name: str) -> bool:
    known = not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
    return known and os.path.isfile(os.path.join(parent, name))


def describe_source(source: AudioSource) -> str:
    """The name that errors and results carry: the path as given, or a description such as `<2048 bytes>`."""
    if isinstance(source, np.ndarray):
        return f"<array of shape {source.shape}, {source.dtype}>"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else f"<{type(source).__name__}>"


@contextmanager
def open_source(source: AudioSource, limits: AudioLimits = DEFAULT_LIMITS) -> Iterator[tuple[BinaryIO, int]]:
    """The encoded bytes of a source that is not an array, as a seekable binary stream at its start, and their number.

    A stream that the caller passed in is rewound, and left open. One that can't seek is first copied (at most
    `max_bytes`, in memory up to 64 MiB and on disk beyond).

    Raises:
        AudioNotFoundError, UnreadableAudioError, UnsupportedAudioError, EmptyAudioError, AudioTooLargeError
    """
    name = describe_source(source)
    stream = _binary_stream(source, name, limits)
    try:
        yield stream, _checked_size(stream, name, limits)
    except OSError as error:
        raise _reading_error(name, error) from error
    finally:
        if stream is not source:
            stream.close()


def _binary_stream(source: AudioSource, name: str, limits: AudioLimits) -> BinaryIO:
    if isinstance(source, (str, os.PathLike)):
        return _open_path(name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if callable(getattr(source, "read", None)):
        return reusable_source(source, limits=limits)
    raise UnsupportedAudioError(
        name,
        "not a path, bytes, a binary file object or a NumPy array",
        "pass one of these (a list or tensor: numpy.asarray(...) of it)",
    )


def reusable_source(source: AudioSource, *, limits: AudioLimits = DEFAULT_LIMITS) -> AudioSource:
    """The source itself where it can be read more than once, else (pipes, sockets) a temporary copy of its bytes.

    Callers who both hash and decode a source pass it through this first, and close a copy when done with it.

    Raises:
        UnreadableAudioError: for a stream of text, or one that fails while it is read.
        AudioTooLargeError: for more than `limits.max_bytes`.
    """
    if isinstance(source, (np.ndarray, str, os.PathLike)) or not callable(getattr(source, "read", None)):
        return source
    name = describe_source(source)
    try:
        binary = isinstance(source.read(0), bytes)
        seekable = source.seekable() if hasattr(source, "seekable") else hasattr(source, "seek")
        if binary:
            return source if seekable else _spooled(source, name, limits)
    except (OSError, ValueError) as error:  # ValueError: a closed file
        if isinstance(error, AudioError):
            raise
        raise _reading_error(name, error) from error
    raise UnreadableAudioError(name, "a stream that yields no bytes", "open the file in binary mode ('rb')")


def _spooled(stream: BinaryIO, name: str, limits: AudioLimits) -> BinaryIO:
    copy, size = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES), 0  # noqa: SIM115 - handed on open
    while block := stream.read(_COPY_BYTES):
        size += len(block)
        if size > limits.max_bytes:
            copy.close()
            raise _too_large(name, f"more than {limits.max_bytes} bytes")
        copy.write(block)
    copy.seek(0)
    return copy


def _reading_error(name: str, error: Exception) -> UnreadableAudioError:
    return UnreadableAudioError(name, f"reading failed ({error})", "pass an open, readable binary stream")


def _checked_size(stream: BinaryIO, name: str, limits: AudioLimits) -> int:
    stream.seek(0, os.SEEK_END)
    size = stream.tell()
    stream.seek(0)
    if size > limits.max_bytes:
        raise _too_large(name, f"{size} bytes, more than the {limits.max_bytes} allowed")
    if size == 0:
        raise EmptyAudioError(name, "holds 0 bytes", "record or download it again")
    return size


def _too_large(name: str, problem: str) -> AudioTooLargeError:
    return AudioTooLargeError(name, problem, "pass AudioLimits(max_bytes=...) if you trust its origin")


def _open_path(name: str) -> BinaryIO:
    """A regular file, opened without ever waiting for a FIFO's writer or touching a device."""
    refuse_url(name)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        _refuse_irregular(name, os.stat(name).st_mode)
        descriptor = os.open(name, flags)
        try:
            _refuse_irregular(name, os.fstat(descriptor).st_mode)  # it may have been replaced in between
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except AudioError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _open_error(name, error) from error


def _open_error(name: str, error: Exception) -> AudioError:
    if isinstance(error, ValueError) or error.errno in _NOT_THERE:
        return AudioNotFoundError(
            name, "no such file", "check the path (it is used literally, relative to the folder)"
        )
    return UnreadableAudioError(name, f"cannot be opened ({error.strerror})", "check its permissions")


def _refuse_irregular(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UnreadableAudioError(name, "is a folder", "pass the files in it (find_audio lists them)")
    if not stat.S_ISREG(mode):
        raise UnreadableAudioError(
            name, "is a device, pipe or socket, not a regular file", "save the audio to a file and pass that"
        )


def refuse_url(name: str) -> None:
    """Raises UnsupportedAudioError for anything of the form `scheme://...`: this package fetches nothing by itself."""
    if _URL.match(name):
        raise UnsupportedAudioError(name, "URLs are not fetched", "download the file yourself and pass its path")
