"""A model on the Hub in one commit: weights, code, feature extractor, card and results, and whether a stranger can load it.

What is pushed is written to a folder first. It stays where the push fails, and nothing that lies in the model's own folder
is changed.
"""

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from spooftrace.hub import ATTEMPTS, Push, check_repo_id, push_folder
from spooftrace.hub_preview import preview_push
from spooftrace.hub_repository import HubError, require_token
from spooftrace.model_facts import WEIGHTS
from spooftrace.model_staging import RESULTS, CardChoice, PublishError, Staged, stage_model
from spooftrace.stranger import CheckError, Loaded, gated_message, require_same, stranger


# Of an earlier push: beside other weights, they would be taken for part of the model.
STALE = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "open_set.safetensors",
    "adapter/*",
)


class Published(NamedTuple):
    """
    What was published.

    Args:
        push: the commit.
        model_class: what a stranger's `from_pretrained` gave, or `None` where that was not tried.
        scores: addresses of the Arena's `scores.txt`, pinned to the commit.
        warnings: what the owner should know.
    """

    push: Push
    model_class: str | None
    scores: list[str]
    warnings: list[str]


def publish_model(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    card: CardChoice = "keep",
    license: str | None = None,
    benchmarks: Sequence[str] = (),
    staging: str | os.PathLike | None = None,
    check: bool = True,
    overwrite: bool = False,
    token: str | None = None,
    attempts: int = ATTEMPTS,
) -> Published:
    """
    Publishes a model's folder on the Hub.

    Args:
        folder: as `save_pretrained`, `spooftrace train` or `spooftrace convert` wrote it, or the name of a shipped model.
        repo_id: `owner/name`; made if it is not there.
        private: whether a new repository is private.
        revision: branch to push to; by default `main`.
        create_pr: open a pull request instead.
        message: title of the commit.
        card: `"keep"` a `README.md` that is there and complete its metadata, make a `"new"` one, or push `"none"`.
        license: identifier of the licence, such as `apache-2.0`, for the card.
        benchmarks: datasets on the Hub that the evaluation was made on, as `OWNER/NAME:TASK`, for the Hub's own results.
        staging: new folder for what is pushed; kept. By default a temporary one, kept only where something fails.
        check: load it as a stranger would, before and after the push, and compare the answers.
        overwrite: replace files there that were not published by spooftrace.
        token: by default the one of `HF_TOKEN` or `hf auth login`.
        attempts: how often to try while the Hub is busy or out of reach.

    Raises:
        PublishError: for a folder that must not be published as it is.
        HubError: where the push failed, or what was pushed does not load; says where the local copy lies.
        ForeignFilesError: where files of somebody else would be lost, and `overwrite` was not asked for.
        ValueError: for a wrong name, or a card that the Hub does not accept.
    """
    check_repo_id(repo_id)
    token = require_token(token)
    where = {"private": private, "revision": revision, "create_pr": create_pr}
    with staging_folder(staging, repo_id, **where) as target:
        staged = stage_model(folder, repo_id, target, card=card, license=license, benchmarks=benchmarks)
        options = {"replace": STALE, "overwrite": overwrite, "token": token, **where}
        if check and (seen := preview_push(target, repo_id, **options)).is_certain:
            raise seen.problem  # before a large encoder is fetched
        with stranger(token) as owner:
            weights = [path.name for path in sorted(target.glob(WEIGHTS))]
            here = _load_here(owner, staged, weights) if check else None
            message = message or f"{staged.facts.family} model, published with spooftrace"
            push = push_folder(target, repo_id, message=message, attempts=attempts, **options)
            if here is not None:
                _load_there(owner, staged, push, weights, here)
        return Published(push, here.model_class if here else None, _scores(staged, push), staged.warnings)


@contextmanager
def staging_folder(
    staging: str | os.PathLike | None,
    repo_id: str,
    repo_type: str = "model",
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> Iterator[Path]:
    """
    A new folder for what is pushed; where the block fails, the error says that it is kept, and what pushes it.

    Raises:
        PublishError: where a named one holds something.
    """
    if staging is not None and Path(staging).exists() and any(Path(staging).iterdir()):
        raise PublishError(f"{staging} holds something already: name a new folder")
    folder = Path(staging) if staging is not None else Path(tempfile.mkdtemp(prefix="spooftrace-publish-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except CheckError as error:
        raise HubError(f"{error}. The folder that was tried is kept: {folder}") from error
    except HubError as error:
        where = ["--private"] * bool(private) + ["--create-pr"] * create_pr
        where += ["--revision", revision] if revision else []
        push = shlex.join(["hf", "upload", "--repo-type", repo_type, *where, repo_id, str(folder)])
        raise HubError(
            f"{error}. What was to be pushed is kept in {folder}: publish again, or push it by `{push}`"
        ) from error
    except BaseException:
        if staging is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if staging is None:
        shutil.rmtree(folder, ignore_errors=True)


def _load_here(owner: Any, staged: Staged, weights: list[str]) -> Loaded:
    try:
        return owner.load_model(staged.folder.absolute(), None, weights)
    except CheckError as error:
        raise _explained(error, staged, "it does not load without spooftrace, so it was not pushed") from error


def _load_there(owner: Any, staged: Staged, push: Push, weights: list[str], here: Loaded) -> None:
    try:
        require_same(here, owner.load_model(push.repo_id, push.commit, weights))
    except CheckError as error:
        raise _explained(error, staged, f"it was pushed ({push.url}), but does not work for others") from error


def _explained(error: CheckError, staged: Staged, what: str) -> CheckError:
    base = staged.facts.base_model
    text = gated_message(base) if base and "gated" in str(error).lower() else str(error)
    return CheckError(f"{what}: {text}")


def _scores(staged: Staged, push: Push) -> list[str]:
    """Where the Arena finds the scores."""
    from huggingface_hub import constants

    names = [name for name in staged.files if name.startswith(f"{RESULTS}/") and name.endswith("/scores.txt")]
    return [f"{constants.ENDPOINT}/{push.repo_id}/resolve/{push.commit}/{name}" for name in names]
