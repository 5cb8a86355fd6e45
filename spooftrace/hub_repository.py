"""One repository on the Hub: questions that are repeated while it is busy, and errors in one line with their remedy."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spooftrace.model_facts import CARD


if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")

TAG = "spooftrace"
"""Among the tags of every card that is published from here: by it a later push knows what it may replace."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds
CONFLICT = (409, 412)  # somebody else committed in between
_BUSY = (408, 425, 429)  # and everything from 500 on
_LONG_WAIT = 5.0  # seconds, after which a wait is told

logger = logging.getLogger(__name__)


class HubError(OSError):
    """The Hub refused or cannot be reached; one line that says why and what to do."""


def require_token(token: str | None) -> str:
    """
    A token: the one that was given, or that of `HF_TOKEN` or `hf auth login`.

    Raises:
        HubError: where there is none, or offline mode is on.
    """
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it")
    if not (token := token or get_token()):
        raise HubError("no token for the Hub: run `hf auth login`, or set HF_TOKEN to a token that may write")
    return token


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
class Repository:
    """One repository; questions to it are repeated while the Hub is busy."""

    api: "HfApi"
    repo_id: str
    repo_type: str
    attempts: int

    @classmethod
    def open(cls, repo_id: str, repo_type: str, token: str | None, attempts: int) -> "Repository":
        from huggingface_hub import HfApi

        return cls(HfApi(token=require_token(token)), repo_id, repo_type, attempts)

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
            explained = self.explain(error)
            raise explained from (None if explained is error else error)
        pause = _pause(error, attempt)
        if pause >= _LONG_WAIT:
            logger.warning(f"{self.explain(error)}. The next attempt follows in {pause:.0f} s")
        time.sleep(pause)

    def create(self, private: bool | None) -> None:
        sdk = {"space_sdk": "gradio"} if self.repo_type == "space" else {}
        self.ask(lambda: self.call("create_repo", private=private, exist_ok=True, **sdk))
        if private:
            self.require_private()

    def exists(self) -> bool:
        return self.ask(lambda: self.call("repo_exists"))

    def require_private(self) -> None:
        if not self.ask(lambda: self.call("repo_info")).private:
            raise HubError(
                f"{self.repo_id} exists and is public, but a private one was asked for: make it private in its settings,"
                " or push to another name"
            )

    def is_untouched(self, branch: str) -> bool:
        """Whether a branch has nothing of its own: it is not there, or equals `main`, as where a first push has failed."""
        refs = self.ask(lambda: self.call("list_repo_refs"))
        heads = {found.name: found.target_commit for found in refs.branches}
        return branch not in heads or (branch != "main" and heads[branch] == heads.get("main"))

    def head(self, revision: str | None) -> str:
        return self.ask(lambda: self.call("repo_info", revision=revision)).sha

    def files(self, revision: str) -> dict[str, "RepoFile"]:
        from huggingface_hub.hf_api import RepoFile

        entries = self.ask(lambda: list(self.call("list_repo_tree", recursive=True, revision=revision)))
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def card(self, revision: str) -> str:
        """The text of `README.md` at a revision that has one."""
        return self.ask(lambda: self._card(revision))

    def _card(self, revision: str) -> str:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        where = {"repo_type": self.repo_type, "revision": revision, "endpoint": self.api.endpoint}
        address, headers = hf_hub_url(self.repo_id, CARD, **where), build_hf_headers(token=self.api.token)
        answer = get_session().get(address, headers=headers, follow_redirects=True)
        hf_raise_for_status(answer)
        return answer.text

    def pull_requests(self) -> set[int]:
        def numbers() -> set[int]:
            found = self.call("get_repo_discussions", discussion_type="pull_request")
            return {discussion.num for discussion in found}

        return self.ask(numbers)

    def require(self, commit: str, paths: dict[str, Path]) -> None:
        """Raises `HubError` unless a commit holds all files as they are here."""
        remote = self.files(commit)
        different = [name for name, path in paths.items() if name not in remote or not same_file(path, remote[name])]
        if different:
            raise HubError(
                f"{self.repo_id} at {commit[:7]} differs from what was pushed in {', '.join(different[:5])}"
                f" ({len(different)} of {len(paths)} files): push again"
            )

    def explain(self, error: Exception) -> Exception:
        """An error of the client as one line with its remedy; errors in what was given stay what they are."""
        from huggingface_hub import constants
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

        status, words = status_of(error), _words(error)
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
        if isinstance(error, (OSError, ValueError)) and not isinstance(error, HTTPError):
            return error  # of a file here, or of what was given
        return HubError(f"the Hub refused: {words}")

    def _forbidden(self, words: str) -> str:
        try:
            user = self.api.whoami()
        except Exception:  # noqa: BLE001  it only makes the message better
            return f"this token may not write to {self.repo_id}: {words}"
        return self.lacking_right(user, words=words) or (
            f"the token of {user['name']} may not write to {self.repo_id} ({words}): give it that right in its settings"
        )

    def lacking_right(
        self, user: Mapping[str, Any], *, is_proposal: bool = False, words: str = "it belongs to somebody else"
    ) -> str | None:
        """
        Why the token of a user may not write here, with the remedy; `None` where nothing speaks against it.

        Args:
            user: as `whoami` gives it. It does not tell all rights of a fine-grained token, so those are not judged.
            is_proposal: a pull request, which anybody may open.
            words: what the Hub said.
        """
        owner, name = self.repo_id.partition("/")[0], user["name"]
        role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            return f"the token of {name} may only read: make one that may write, and run `hf auth login`"
        organisations = user.get("orgs") or []
        owners = (name, *(org.get("name") for org in organisations if org.get("roleInOrg") != "read"))
        if is_proposal or role == "fineGrained" or owner in owners:
            return None
        return f"{name} may not write to {self.repo_id} ({words}): push to a repository of {name}"


def is_transient(error: BaseException) -> bool:
    """Whether the same request may work later: the Hub is busy, somebody else committed, or the connection was lost."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _BUSY or status in CONFLICT
    # The uploaders of the client report what they met as plain RuntimeError and ConnectionError.
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError, RuntimeError))


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, its own or that of its cause."""
    response = _response(error)
    return None if response is None else response.status_code


def _response(error: BaseException | None) -> Any:
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response
        error = error.__cause__ or error.__context__
    return None


def _words(error: Exception) -> str:
    """What the Hub said, or the first line of the error."""
    text = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return " ".join(text.strip().partition("\n")[0].split())


def _pause(error: BaseException, attempt: int) -> float:
    """Seconds to wait: what the Hub asks for, else twice as long each time."""
    response = _response(error)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    wanted = float(asked) if asked.isdigit() else FIRST_WAIT * 2**attempt
    return min(wanted, LONGEST_WAIT)
