"""Pushing a folder to the Hub as one commit, so that a half push never looks whole, and checking what arrived.

The Hub is sometimes busy, and an answer can be lost when its commit was not. A push is therefore repeated with growing
pauses, and before each repetition the head is compared with the folder: what already arrived is not committed twice.
"""

import fnmatch
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")

ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds
_CONFLICT = (409, 412)  # somebody else committed in between
_BUSY = (408, 425, 429)  # and everything from 500 on
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_TEXTS = {".cfg", ".env", ".ini", ".ipynb", ".json", ".jsonl", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
_TEXT_BYTES = 2**22  # a longer one is data
_NOT_PUSHED = {".git", ".cache", "__pycache__", ".DS_Store"}


class HubError(OSError):
    """The Hub refused or cannot be reached; one line that says why and what to do."""


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
        token: by default the one of `HF_TOKEN` or `hf auth login`.
        attempts: how often to try while the Hub is busy or out of reach.

    Raises:
        HubError: where it did not work out.
        ValueError: for an invalid name, an empty folder, a file with a token, or a card that the Hub does not accept.
    """
    check_repo_id(repo_id)
    paths = local_files(folder)
    _refuse_tokens(paths)
    repository = _Repository.open(repo_id, repo_type, token, attempts)
    repository.create(private)
    if revision and not create_pr:
        repository.ask(lambda: repository.call("create_branch", branch=revision, exist_ok=True))
    found = _Commit(repository, paths, message, revision, create_pr, tuple(replace)).push()
    repository.require(found.commit, paths)
    return found


def ask_hub(question: Callable[[], T], repo_id: str, *, token: str | None = None, attempts: int = ATTEMPTS) -> T:
    """
    The answer to a question about a model repository that may be put twice; repeated while the Hub is busy.

    Raises:
        HubError: where it did not work out; its cause tells whether it may work later, see [`is_transient`].
    """
    from huggingface_hub import HfApi

    return _Repository(HfApi(token=token), repo_id, "model", attempts).ask(question)


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


def local_files(folder: str | os.PathLike) -> dict[str, Path]:
    """
    What a push of a folder takes along: path in the repository -> file, in order of the names.

    Raises:
        ValueError: where there is nothing.
    """
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _NOT_PUSHED & set(path.relative_to(folder).parts)
    }
    if not files:
        raise ValueError(f"{folder} holds no files: give the folder that is to be pushed")
    return files


def _refuse_tokens(paths: dict[str, Path]) -> None:
    """Raises `ValueError` where a text holds a token of the Hub, which a history would keep for good."""
    for name, path in paths.items():
        is_text = path.suffix in _TEXTS or path.name.startswith(".env")
        if not is_text or path.stat().st_size > _TEXT_BYTES:
            continue
        if _TOKEN.search(path.read_text(encoding="utf-8", errors="replace")):
            raise ValueError(
                f"{name} holds what looks like a token of the Hub, so nothing was pushed: remove it there"
            )


def same_file(path: Path, remote: "RepoFile") -> bool:
    """Whether a local file has the content of a remote one: by SHA-256 where the Hub knows it, else by git's object id."""
    status = path.stat()
    if remote.size != status.st_size:
        return False
    known = (str(path), status.st_size, status.st_mtime_ns)
    return _sha256(*known) == remote.lfs.sha256 if remote.lfs is not None else _git_id(*known) == remote.blob_id


# A push compares several times; size and time of change tell that a file is still the same.
@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    return _digest(path, hashlib.sha256())


@lru_cache(maxsize=4096)
def _git_id(path: str, size: int, mtime_ns: int) -> str:
    return _digest(path, hashlib.sha1(b"blob %d\0" % size))


def _digest(path: str, digest: Any) -> str:
    with open(path, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Repository:
    """One repository; questions to it are repeated while the Hub is busy."""

    api: "HfApi"
    repo_id: str
    repo_type: str
    attempts: int

    @classmethod
    def open(cls, repo_id: str, repo_type: str, token: str | None, attempts: int) -> "_Repository":
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it")
        token = token or get_token()
        if not token:
            raise HubError("no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write")
        return cls(HfApi(token=token), repo_id, repo_type, attempts)

    def call(self, method: str, **arguments: Any) -> Any:
        return getattr(self.api, method)(repo_id=self.repo_id, repo_type=self.repo_type, **arguments)

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to a question that may be put twice."""
        for attempt in range(self.attempts):
            try:
                return question()
            except Exception as error:  # noqa: BLE001  the client raises errors of many kinds
                self.wait_or_raise(error, attempt)
        raise AssertionError("the last attempt returns or raises")

    def wait_or_raise(self, error: Exception, attempt: int) -> None:
        """Waits before the next attempt; raises `HubError` after the last one, or where none would help."""
        if not is_transient(error) or attempt + 1 >= self.attempts:
            raise self.explain(error) from error
        time.sleep(_pause(error, attempt))

    def create(self, private: bool | None) -> None:
        sdk = {"space_sdk": "gradio"} if self.repo_type == "space" else {}
        self.ask(lambda: self.call("create_repo", private=private, exist_ok=True, **sdk))
        if private and not self.ask(lambda: self.call("repo_info")).private:
            raise HubError(
                f"{self.repo_id} exists and is public, but a private one was asked for: make it private in its settings,"
                " or push to another name"
            )

    def head(self, revision: str | None) -> str:
        return self.ask(lambda: self.call("repo_info", revision=revision)).sha

    def files(self, revision: str) -> dict[str, "RepoFile"]:
        from huggingface_hub.hf_api import RepoFile

        entries = self.ask(lambda: list(self.call("list_repo_tree", recursive=True, revision=revision)))
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def pull_requests(self) -> set[int]:
        def numbers() -> set[int]:
            found = self.call("get_repo_discussions", discussion_type="pull_request")
            return {discussion.num for discussion in found}

        return self.ask(numbers)

    def require(self, commit: str, paths: dict[str, Path]) -> None:
        """Raises `HubError` unless a commit holds all files as they are here."""
        different = [name for name, file in self.compare(commit, paths).items() if not file]
        if different:
            raise HubError(
                f"{self.repo_id} at {commit[:7]} differs from what was pushed in {', '.join(different[:5])}"
                f" ({len(different)} of {len(paths)} files): push again"
            )

    def compare(self, revision: str, paths: dict[str, Path]) -> dict[str, bool]:
        """For each local file, whether a revision holds it as it is here."""
        remote = self.files(revision)
        return {name: name in remote and same_file(path, remote[name]) for name, path in paths.items()}

    def explain(self, error: Exception) -> Exception:
        """An error of the client as one line with its remedy; errors in what was given stay what they are."""
        from huggingface_hub import constants
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

        status, words = _status(error), _words(error)
        if isinstance(error, OfflineModeIsEnabled):
            return HubError("offline mode is on, so that nothing can be pushed: unset HF_HUB_OFFLINE")
        if status == 401:
            return HubError("the Hub does not know this token: run `hf auth login`, or set HF_TOKEN to a valid one")
        if status == 403:
            return HubError(self._forbidden(words))
        if status == 404:
            return HubError(f"the Hub has no {self.repo_type} {self.repo_id}, or not for this token: {words}")
        if status is not None and is_transient(error):
            return HubError(f"the Hub at {constants.ENDPOINT} is busy ({status}: {words}): try again later")
        if isinstance(error, (HTTPError, ConnectionError, TimeoutError)) and status is None:
            return HubError(f"the Hub at {constants.ENDPOINT} cannot be reached ({words}): check the network")
        return error if isinstance(error, ValueError) else HubError(f"the Hub refused: {words}")

    def _forbidden(self, words: str) -> str:
        try:
            user = self.api.whoami()
        except Exception:  # noqa: BLE001  it only makes the message better
            return f"this token may not write to {self.repo_id}: {words}"
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            return f"the token of {user['name']} may only read: make one that may write, and run `hf auth login`"
        return f"{user['name']} may not write to {self.repo_id} ({words}): push to a repository of {user['name']}"


@dataclass(frozen=True)
class _Commit:
    """The commit that makes a branch, or a pull request, hold the files."""

    repository: _Repository
    paths: dict[str, Path]
    message: str
    revision: str | None
    create_pr: bool
    replace: tuple[str, ...]

    def push(self) -> Push:
        """Commits, unless the head is already as wanted."""
        repository = self.repository
        known = repository.pull_requests() if self.create_pr else set()
        additions: list[CommitOperationAdd] = []
        for attempt in range(repository.attempts):
            head = repository.head(self.revision)
            if self.holds(head):
                return self._result(head, changed=attempt > 0)
            for number in sorted(repository.pull_requests() - known) if attempt and self.create_pr else ():
                if self.holds(f"refs/pr/{number}"):
                    return self._result(repository.head(f"refs/pr/{number}"), changed=True, number=number)
            additions = additions or self._additions()
            try:
                info = self._send(additions, head)
                return self._result(info.oid, changed=True, number=int(info.pr_num) if info.pr_num else None)
            except Exception as error:  # noqa: BLE001  as above
                repository.wait_or_raise(error, attempt)
                if _status(error) in _CONFLICT:
                    additions = []  # they remember what the head was
        raise AssertionError("the last attempt returns or raises")

    def holds(self, revision: str) -> bool:
        remote = self.repository.files(revision)
        if self.stale(remote) or not self.paths.keys() <= remote.keys():
            return False
        return all(same_file(path, remote[name]) for name, path in self.paths.items())

    def stale(self, remote: Iterable[str]) -> list[str]:
        """Remote files that this push replaces by nothing."""
        return sorted(
            name
            for name in remote
            if name not in self.paths and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.replace)
        )

    def _additions(self) -> "list[CommitOperationAdd]":
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(name, str(path)) for name, path in self.paths.items()]

    def _send(self, additions: "list[CommitOperationAdd]", head: str) -> Any:
        from huggingface_hub import CommitOperationDelete

        deletions = [CommitOperationDelete(name) for name in self.stale(self.repository.files(head))]
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


def is_transient(error: BaseException) -> bool:
    """Whether the same request may work later: the Hub is busy, somebody else committed, or the connection was lost."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _BUSY or status in _CONFLICT
    # The uploaders of the client report what they met as plain RuntimeError and ConnectionError.
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError, RuntimeError))


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, its own or that of its cause."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__ or error.__context__
    return None


def _words(error: Exception) -> str:
    """What the Hub said, or the first line of the error."""
    text = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return " ".join(text.strip().partition("\n")[0].split())


def _pause(error: BaseException, attempt: int) -> float:
    """Seconds to wait: what the Hub asks for, else twice as long each time."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    wanted = float(asked) if asked.isdigit() else FIRST_WAIT * 2**attempt
    return min(wanted, LONGEST_WAIT)
