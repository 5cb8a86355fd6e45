"""
The journal of a scoring run: finished blocks of clips, each a record with its own digest, written through to the disk.

A file of records is only ever appended to. What a crash left half written at its end is recognised and cut off, so that
a run that was killed at any moment loses the blocks it was working on and nothing else. Each process writes a file of
its own; all of them are read. Standard library only.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


try:
    import fcntl
except ImportError:  # Windows; two runs into one folder are not told apart there
    fcntl = None

Line = dict[str, Any]


class JournalBusyError(OSError):
    """Another process writes to the same journal."""


class Place(NamedTuple):
    """Where a record lies. Of two records of one block the one of the later round counts."""

    path: Path
    offset: int
    round: int


class Journal:
    """
    One process's file of records, open for appending until `close`.

    Args:
        folder: of all processes' files.
        process: index of this process.

    Raises:
        JournalBusyError: where another process has it open.
        OSError: where it cannot be written.
    """

    def __init__(self, folder: Path, process: int = 0):
        self.path = folder / f"{process}.blocks"
        with writing(self.path):
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            self._lock()
            with writing(self.path):
                os.ftruncate(self._descriptor, _intact_length(self.path))
                os.lseek(self._descriptor, 0, os.SEEK_END)
                sync_folder(folder)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        """The lock ends with the process, however that ends."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalBusyError(
                f"{self.path.parent.parent} is being written by another run: wait for it, or stop it first"
            ) from error

    def append(self, block: int, lines: list[Line], round: int = 0) -> None:
        """Adds a record; on return it is on the disk."""
        payload = f"{block} {round} {json.dumps(lines, allow_nan=False)}".encode()
        data = memoryview(hashlib.sha256(payload).hexdigest().encode() + b" " + payload + b"\n")
        with writing(self.path):
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def find_records(folder: Path) -> dict[int, Place]:
    """Where the latest record of each block lies, over the files of all processes."""
    found: dict[int, Place] = {}
    for path in sorted(folder.glob("*.blocks")):
        for offset, payload in _intact(path):
            block, round = map(int, payload.split(b" ", 2)[:2])
            if block not in found or found[block].round <= round:
                found[block] = Place(path, offset, round)
    return found


def read_record(place: Place) -> list[Line]:
    """The lines of a record that [`find_records`] found."""
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        return json.loads(file.readline().split(b" ", 3)[3])


def _intact(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and payload of the records up to the first one that is not whole."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            digest, _, payload = line.removesuffix(b"\n").partition(b" ")
            if not line.endswith(b"\n") or hashlib.sha256(payload).hexdigest().encode() != digest:
                return
            yield offset, payload
            offset += len(line)


def _intact_length(path: Path) -> int:
    return sum(len(payload) + 66 for _, payload in _intact(path))  # 64 digits, a blank, a line end


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of writing, such as a full disk, name the file and what to do."""
    try:
        yield
    except OSError as error:
        remedy = "mend that and run the same again; the blocks of clips that are done are kept"
        raise OSError(error.errno, f"{error.strerror} ({remedy})", str(path)) from error


def replace_file(path: Path, parts: Iterable[str], folder: Path) -> str:
    """
    Writes a text file so that it is there as a whole or not at all; returns its SHA-256.

    Args:
        path: the file.
        parts: its text, in pieces.
        folder: on the same disk, where it lies until it is complete.
    """
    temporary, digest = folder / f"{path.name}.part", hashlib.sha256()
    with writing(path):
        with open(temporary, "wb") as file:
            for part in parts:
                data = part.encode()
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Writes a folder's names through to the disk, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
