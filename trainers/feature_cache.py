"""What a frozen encoder makes of a clip, kept on disk from one epoch to the next.

An entry's name is a digest of all that decides it: the clip's samples, the encoder's weights and its settings. So nothing
has to be invalidated, and clips that are augmented anew in every epoch never meet their entries again: the cache serves
evaluation sets, and training without augmentation.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn


DIGEST_SIZE = 32
FILLED = 0.9  # of the space, what is left after the oldest entries made room
_ENTRY, _UNFINISHED = ".features", ".part"


class FeatureCache:
    """
    Tensors by key in a folder of bounded size; the entries that were not read for the longest time make room.

    Several processes may share the folder. A file appears whole or not at all, and one that does not hold what was written,
    by its checksum, is as good as missing. The folder is the cache's own: anything may be deleted in it at any time.

    Args:
        folder: where the entries lie; made if needed.
        max_bytes: of all files together. An entry that is larger than that by itself is not kept.

    Raises:
        ValueError: for no space at all.
    """

    def __init__(self, folder: str | os.PathLike, max_bytes: int):
        if max_bytes < 1:
            raise ValueError(f"`max_bytes` is the space for features, at least 1 byte, got {max_bytes}.")
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._size = FileLock(self.folder / "lock"), self.folder / "size"
        self.found, self.computed = 0, 0  # entries, of this process

    def rows(
        self, keys: Sequence[str], compute: Callable[[list[int]], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """
        The tensors of some keys, stacked: `[len(keys), ...]` each, on the CPU.

        Args:
            keys: hexadecimal digests, see `content_key`.
            compute: takes the places of the keys that are missing, and gives their tensors, `[len(places), ...]` each.
        """
        entries = {place: self.get(key) for place, key in enumerate(keys)}
        missing = [place for place, entry in entries.items() if entry is None]
        if missing:
            tensors = {name: tensor.detach().cpu() for name, tensor in compute(missing).items()}
            for index, place in enumerate(missing):
                entries[place] = {name: tensor[index].contiguous() for name, tensor in tensors.items()}
                self.put(keys[place], entries[place])
        self.found, self.computed = self.found + len(keys) - len(missing), self.computed + len(missing)
        return {name: torch.stack([entries[place][name] for place in range(len(keys))]) for name in entries[0]}

    def get(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors of a key; `None` where they are not there, or damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:  # absent, or not to be read now, as on a network that fails
            return None
        digest, body = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
        try:
            entry = load(body) if hashlib.sha256(body).digest() == digest else None
        except SafetensorError:
            entry = None
        if entry is not None:
            self._touch(path)
        return entry

    def put(self, key: str, entry: dict[str, torch.Tensor]) -> None:
        """Keeps tensors under a key, unless the folder cannot be written to or they need more than the whole space."""
        body = save(entry)
        content = hashlib.sha256(body).digest() + body
        if len(content) > self.max_bytes:
            return
        path = self._path(key)
        try:
            with self._lock:
                self._reserve(len(content))
                _write(path, content)
        except OSError:  # a cache that cannot be written is no reason to end a training
            return

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}{_ENTRY}"

    @staticmethod
    def _touch(path: Path) -> None:
        try:
            os.utime(path)  # read now: not among the oldest
        except OSError:  # another process has made room
            pass

    # Space, under the lock. A file counts what all processes wrote since the folder was last looked through; that is more
    # than there is where an entry was written twice or deleted, and never less.

    def _reserve(self, size: int) -> None:
        used = self._read_size() + size
        if used > self.max_bytes:
            used = self._make_room(size) + size
        self._size.write_text(json.dumps(used), encoding="utf-8")

    def _read_size(self) -> int:
        try:
            return int(json.loads(self._size.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return sum(size for _, size, _ in self._files())

    def _make_room(self, size: int) -> int:
        """Deletes the oldest entries, if need be, so that `size` bytes more fit in; returns the bytes that are left."""
        files = sorted(self._files())
        used = sum(file_size for _, file_size, _ in files)
        bound = used if used + size <= self.max_bytes else FILLED * self.max_bytes - size
        for _, file_size, path in files:
            if used > bound or path.suffix == _UNFINISHED:  # by a process that ended: the lock is here
                path.unlink(missing_ok=True)
                used -= file_size
        return used

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of the last reading, bytes and path of every file."""
        found = []
        for path in self.folder.glob("*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found


def _write(path: Path, content: bytes) -> None:
    """A file that appears whole or not at all."""
    part = path.with_suffix(_UNFINISHED)
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def encoder_digest(encoder: nn.Module, **settings: Any) -> str:
    """What decides an encoder's output besides its input: a digest of its tensors, and of settings that JSON can spell."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def content_key(digest: str, content: torch.Tensor) -> str:
    """The key of a tensor, such as a waveform `[samples]`, for the encoder of that digest."""
    content = content.detach().cpu().contiguous()
    header = f"{digest} {content.dtype} {tuple(content.shape)} ".encode()
    return hashlib.sha256(header + content.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
