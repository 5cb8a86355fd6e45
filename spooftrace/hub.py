"""Pushing a folder to the Hub as one commit, so that a half push never looks whole, and checking what arrived.

The Hub is sometimes busy, and an answer can be lost when its commit was not. A push is therefore repeated with growing
pauses, and before each repetition the head is compared with the folder: what already arrived is not committed twice.
"""

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spooftrace.hub_repository import TAG, Repository, same_file
from spooftrace.model_facts import CARD, split_card


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.hf_api import RepoFile

ATTEMPTS = 5
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_TEXT_BYTES = 2**22  # a longer file is data
_NOT_PUSHED = {".git", ".cache", "__pycache__", ".DS_Store"}
_HUB_FILE = ".gitattributes"  # in every new repository; where a licence was chosen, and in a Space, a card is, too


class ForeignFilesError(ValueError):
    """A push would replace files that were not published from here; one line that names them, and the remedy."""


class Push(NamedTuple):
    """
    What a push did.

    Args:
        repo_id: `owner/name`.
        commit: of 40 hex digits; it holds the whole folder.
        url: of the commit or, where there is one, the pull request.
        pull_request: its number, or `None`.
        files: number of files of the folder.
        size: of all of them, in bytes.
        changed: `False` where the head held all of it already, so that no commit was made.
    """

    repo_id: str
    commit: str
    url: str
    pull_request: int | None
    files: int
    size: int
    changed: bool


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    repo_type: str = "model",
    message: str,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    replace: Sequence[str] = (),
    overwrite: bool = False,
    token: str | None = None,
    attempts: int = ATTEMPTS,
) -> Push:
    """
    Makes a repository hold a folder, by one commit, and compares every file at that commit with the local one.

    The local folder is only read.

    Args:
        folder: all its files are pushed but those of version control and caches.
        repo_id: `owner/name`; made if it is not there.
        repo_type: `"model"`, `"dataset"` or `"space"`; a new Space is one of Gradio.
        message: title of the commit.
        private: whether a new repository is private; an existing public one is refused with `True`.
        revision: branch to push to, made if it is not there; by default `main`.
        create_pr: open a pull request instead of changing the branch.
        replace: patterns of remote paths, such as `"data/*.parquet"`, that are deleted where the folder lacks them.
        overwrite: replace files there that were not published from here, by the tags of the card beside them.
        token: by default the one of `HF_TOKEN` or `hf auth login`.
        attempts: how often to try while the Hub is busy or out of reach.

    Raises:
        HubError: where it did not work out.
        ForeignFilesError: where files of somebody else would be lost, and `overwrite` was not asked for.
        ValueError: for an invalid name, an empty folder, a link that leads out of it, a file with a token, or a card that
            the Hub does not accept.
    """
    check_repo_id(repo_id)
    paths = pushed_files(folder)
    repository = Repository.open(repo_id, repo_type, token, attempts)
    repository.create(private)
    if revision and not create_pr and repository.is_untouched(revision):
        repository.ask(lambda: repository.call("create_branch", branch=revision, exist_ok=True))
        overwrite = True  # `main` holds all that the branch does
    found = Commit(repository, paths, message, revision, create_pr, tuple(replace), overwrite).push()
    repository.require(found.commit, paths)
    return found


def check_repo_id(repo_id: str) -> str:
    """
    A repository's name, if it is one.

    Raises:
        ValueError: for a name without owner, or with characters that the Hub does not take.
    """
    from huggingface_hub.utils import validate_repo_id

    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is not a repository on the Hub: write owner/name")
    validate_repo_id(repo_id)
    return repo_id


def local_files(folder: str | os.PathLike, skip: Callable[[str], bool] | None = None) -> dict[str, Path]:
    """
    What a push of a folder takes along: path in the repository -> file, in order of the names.

    Args:
        folder: where they lie.
        skip: tells by its name which file to leave out.

    Raises:
        ValueError: where there is nothing, or a link to a folder, or out of this one.
    """
    folder, files = Path(folder), {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _NOT_PUSHED & set(name.split("/")) or (skip is not None and skip(name)):
            continue
        check_link(path, folder)
        if path.is_symlink() and path.is_dir():
            raise ValueError(f"{path} is a link to a folder, which is not followed: put the folder in its place")
        if path.is_file():
            files[name] = path
    if not files:
        raise ValueError(f"{folder} holds no files: give the folder that is to be pushed")
    return files


def check_link(path: Path, folder: Path) -> None:
    """
    Raises `ValueError` for a link out of a folder, which would make public what lies elsewhere on this machine.

    In the cache of the Hub all files of a snapshot are links to the blobs of the same repository; they are fine.
    """
    if not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(folder.resolve()):
        return
    target = (path.parent / os.readlink(path)).parent.resolve()
    snapshot = next((above for above in path.parent.resolve().parents if above.name == "snapshots"), None)
    if snapshot is None or target != (snapshot.parent / "blobs").resolve():
        raise ValueError(f"{path} is a link that leads out of {folder}: put what it points to in its place")


def pushed_files(folder: str | os.PathLike) -> dict[str, Path]:
    """
    As [`local_files`].

    Raises:
        ValueError: besides, where a file that may be text holds a token of the Hub, which a history would keep for good.
    """
    paths = local_files(folder)
    for name, path in paths.items():
        if path.stat().st_size <= _TEXT_BYTES and _TOKEN.search(path.read_bytes()):
            raise ValueError(
                f"{name} holds what looks like a token of the Hub, so nothing was pushed: remove it there"
            )
    return paths


@dataclass(frozen=True)
class Commit:
    """The commit that makes a branch, or a pull request, hold the files."""

    repository: Repository
    paths: dict[str, Path]
    message: str
    revision: str | None
    create_pr: bool
    replace: tuple[str, ...]
    overwrite: bool

    def push(self) -> Push:
        """Commits, unless the head is already as wanted."""
        repository = self.repository
        known = repository.pull_requests() if self.create_pr else set()
        additions: list[CommitOperationAdd] = []
        base = None
        for attempt in range(repository.attempts):
            head = repository.head(self.revision)
            remote = repository.files(head)
            if self.is_held(remote):
                return self._result(head, changed=attempt > 0)
            if attempt and self.create_pr and (number := self._proposed(known)):
                return self._result(repository.head(f"refs/pr/{number}"), changed=True, number=number)
            self.refuse_foreign(head, remote)
            if head != base:  # the client remembers in them what a head held
                additions, base = self._additions(), head
            try:
                info = self._send(additions, head, remote)
                return self._result(info.oid, changed=True, number=int(info.pr_num) if info.pr_num else None)
            except Exception as error:  # noqa: BLE001  the client raises errors of many kinds
                repository.wait_or_raise(error, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _proposed(self, known: set[int]) -> int | None:
        """The pull request of an attempt whose answer was lost; `known` were there before."""
        numbers = sorted(self.repository.pull_requests() - known)
        return next((number for number in numbers if self.is_held(self.repository.files(f"refs/pr/{number}"))), None)

    def is_held(self, remote: "Mapping[str, RepoFile]") -> bool:
        """Whether a revision with these files holds all of it."""
        return self.paths.keys() <= remote.keys() and not self.changed(remote) and not self.stale(remote)

    def changed(self, remote: "Mapping[str, RepoFile]") -> list[str]:
        """Remote files that this push replaces by others."""
        return [name for name, path in self.paths.items() if name in remote and not same_file(path, remote[name])]

    def stale(self, remote: Iterable[str]) -> list[str]:
        """Remote files that this push replaces by nothing."""
        return sorted(
            name
            for name in remote
            if name not in self.paths and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.replace)
        )

    def refuse_foreign(self, head: str, remote: "Mapping[str, RepoFile]") -> None:
        """Raises `ForeignFilesError` where files would be lost that were not published from here."""
        if self.overwrite or self.create_pr:
            return
        lost = [name for name in (*self.changed(remote), *self.stale(remote)) if name != _HUB_FILE]
        if not lost or (CARD in remote and self._may_replace(self.repository.card(head), remote)):
            return
        names = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        raise ForeignFilesError(
            f"{self.repository.repo_id} holds files that were not published by spooftrace (no card there has the tag "
            f"{TAG}), of which {len(lost)} would be replaced or deleted ({names}): publish under another name, or pass "
            "--overwrite (`overwrite=True` in Python)"
        )

    def _may_replace(self, card: str, remote: "Mapping[str, RepoFile]") -> bool:
        """Whether the files beside a card were published from here, by its tags, or came with a new repository."""
        try:
            header, text = split_card(card)
        except ValueError:  # somebody else's, then
            return False
        tags = header.get("tags")
        if TAG in (tags if isinstance(tags, list) else [tags]):
            return True
        if not remote.keys() <= {_HUB_FILE, CARD}:
            return False
        own = split_card(self.paths[CARD].read_text(encoding="utf-8"))[0] if CARD in self.paths else {}
        return self.repository.repo_type == "space" or (not text.strip() and header.items() <= own.items())

    def _additions(self) -> "list[CommitOperationAdd]":
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(name, str(path)) for name, path in self.paths.items()]

    def _send(self, additions: "list[CommitOperationAdd]", head: str, remote: Iterable[str]) -> Any:
        from huggingface_hub import CommitOperationDelete

        deletions = [CommitOperationDelete(name) for name in self.stale(remote)]
        return self.repository.call(
            "create_commit",
            operations=[*additions, *deletions],
            commit_message=self.message,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=head,  # the Hub refuses the commit where the head has moved on
        )

    def _result(self, commit: str, *, changed: bool, number: int | None = None) -> Push:
        repository = self.repository
        kind = "" if repository.repo_type == "model" else f"{repository.repo_type}s/"
        page = f"{repository.api.endpoint}/{kind}{repository.repo_id}"
        url = f"{page}/commit/{commit}" if number is None else f"{page}/discussions/{number}"
        size = sum(path.stat().st_size for path in self.paths.values())
        return Push(repository.repo_id, commit, url, number, len(self.paths), size, changed)
