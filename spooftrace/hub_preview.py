"""What the Hub would say to a push, asked before it: who pushes, whether the token may, and which files would be lost."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from spooftrace.hub import Commit, ForeignFilesError, check_repo_id, pushed_files
from spooftrace.hub_repository import HubError, Repository, status_of


@dataclass
class Preview:
    """
    What is known of a push before it.

    Args:
        user: whose token it is, or `None` where that is not known.
        exists: whether the repository is there, or `None`.
        replaced: its files that would get another content.
        deleted: its files that would go.
        problem: what the push would raise, or why the Hub could not be asked; `None` where nothing speaks against it.
    """

    user: str | None = None
    exists: bool | None = None
    replaced: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    problem: OSError | ValueError | None = None

    @property
    def is_certain(self) -> bool:
        """Whether the push would fail for sure: the token is not known, or the problem is not that a question has failed."""
        if not isinstance(self.problem, (HubError, ForeignFilesError)):
            return False
        return self.problem.__cause__ is None or status_of(self.problem) == 401


def preview_push(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    replace: Sequence[str] = (),
    overwrite: bool = False,
    token: str | None = None,
) -> Preview:
    """
    Asks the Hub, once, what would come of a push; nothing is changed, and no answer is no error.

    Args:
        folder, repo_id, repo_type, private, revision, create_pr, replace, overwrite, token: see [`push_folder`].

    Raises:
        ValueError: for a name or a folder that cannot be pushed.
    """
    check_repo_id(repo_id)
    found, paths = Preview(), pushed_files(folder)
    try:
        repository = Repository.open(repo_id, repo_type, token, attempts=1)
        _ask_rights(repository, found, create_pr)
        if found.exists and private:
            repository.require_private()
        if found.exists and (revision is None or create_pr or not repository.is_untouched(revision)):
            commit = Commit(repository, paths, "", revision, create_pr, tuple(replace), overwrite)
            _compare(commit, found)
    except (OSError, ValueError) as error:
        found.problem = error
    return found


def _ask_rights(repository: Repository, found: Preview, create_pr: bool) -> None:
    """Completes whose token it is, and whether the repository is there; raises `HubError` where it may not write."""
    user = repository.ask(repository.api.whoami)
    found.user, found.exists = user["name"], repository.exists()
    if lacking := repository.lacking_right(user, is_proposal=create_pr and found.exists):
        raise HubError(lacking)


def _compare(commit: Commit, found: Preview) -> None:
    head = commit.repository.head(commit.revision)
    remote = commit.repository.files(head)
    found.replaced, found.deleted = commit.changed(remote), commit.stale(remote)
    commit.refuse_foreign(head, remote)
