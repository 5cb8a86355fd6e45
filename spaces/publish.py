"""Spaces on the Hub in one commit: the metrics that `evaluate.load` reads, and apps with the package beside them."""

import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from spooftrace.hub import ATTEMPTS, Push, check_repo_id, local_files, push_folder
from spooftrace.hub_repository import TAG, require_token
from spooftrace.model_facts import CARD, split_card
from spooftrace.publish import PublishError, staging_folder
from spooftrace.spaces.metric_spaces import SLUGS, write_metric_space
from spooftrace.stranger import CheckError, Stranger, stranger


PACKAGE = "spooftrace"
SUBPACKAGES = ("modeling", "data_scripts", "trainers", "spaces")
IMPORTED = (PACKAGE, f"{PACKAGE}.modeling", f"{PACKAGE}.spaces")  # by an app; the others need more than core packages
NOT_VENDORED = ("*.py[cod]", "*.pyi", ".*")

HUB_FILES = (".gitattributes", ".gitignore")
STALE = ("[!.]*",)  # all but the Hub's own files: what the folder no longer has must not be imported
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
TITLE_LIMIT, TEXT_LIMIT = 64, 60

# A requirement with its one version: `torch==2.12.1`, extras and a marker allowed.
_PINNED = re.compile(r"[\w.-]+(\[[\w,.-]+\])?\s*==\s*[\w.!+-]+\s*(;.*)?")


class PublishedSpace(NamedTuple):
    """
    A Space that was published.

    Args:
        push: the commit.
        checked: whether it was downloaded and imported, or, for a metric, loaded and used, by a stranger.
    """

    push: Push
    checked: bool


def publish_metric(
    slug: str,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    staging: str | os.PathLike | None = None,
    check: bool = True,
    overwrite: bool = False,
    token: str | None = None,
    attempts: int = ATTEMPTS,
) -> PublishedSpace:
    """
    Publishes a metric as the Space that `evaluate.load(repo_id)` reads.

    Args:
        slug: `"eer"`, `"min_dcf"`, `"min_tdcf"` or `"cllr"`.
        repo_id: `owner/slug`; `evaluate` looks for a script of the repository's name.
        check: load it as a stranger would, and use it; needs `evaluate`.
        private, revision, create_pr, message, staging, overwrite, token, attempts: see `spooftrace.publish_model`.

    Raises:
        PublishError: for another slug, or another name of the repository.
        HubError: where the push or the check failed.
        ForeignFilesError: as `spooftrace.publish_model`.
    """
    check_metric(slug, repo_id)
    if check and importlib.util.find_spec("evaluate") is None:  # say so before the push
        raise ModuleNotFoundError("to try the metric, evaluate has to be installed", name="evaluate")
    token = require_token(token)
    where = {"private": private, "revision": revision, "create_pr": create_pr}
    with staging_folder(staging, repo_id, "space", **where) as target:
        stage_metric(slug, target)
        message = message or f"The metric {slug}, published with spooftrace"
        options = {"message": message, "overwrite": overwrite, "token": token, "attempts": attempts, **where}
        return _push_space(target, repo_id, _use if check else None, **options)


def publish_space(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    vendored: bool = True,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    staging: str | os.PathLike | None = None,
    check: bool = True,
    overwrite: bool = False,
    token: str | None = None,
    attempts: int = ATTEMPTS,
) -> PublishedSpace:
    """
    Publishes a Gradio app as a Space.

    Args:
        folder: with `app.py`, `README.md` and `requirements.txt`, or the name of one in `spaces/`.
        repo_id: `owner/name`.
        vendored: put the package `spooftrace` beside the app, so that it runs without an index that has it.
        check: download the Space as a stranger would, and import what it brought.
        private, revision, create_pr, message, staging, overwrite, token, attempts: see `spooftrace.publish_model`.

    Raises:
        PublishError: for a folder that is no such app, see [`check_space`].
        HubError: where the push or the check failed.
        ForeignFilesError: as `spooftrace.publish_model`.
    """
    check_repo_id(repo_id)
    source = find_space(folder)
    token = require_token(token)
    where = {"private": private, "revision": revision, "create_pr": create_pr}
    with staging_folder(staging, repo_id, "space", **where) as target:
        stage_space(source, target, vendored=vendored)
        visit = partial(_import, modules=list(IMPORTED if vendored else ()))
        message = message or f"{source.name}, published with spooftrace"
        options = {"message": message, "overwrite": overwrite, "token": token, "attempts": attempts, **where}
        return _push_space(target, repo_id, visit if check else None, **options)


def _push_space(
    folder: Path, repo_id: str, visit: Callable[[Stranger, Push], object] | None, **options: Any
) -> PublishedSpace:
    """Pushes a Space, and lets a stranger visit it; `options` are those of `push_folder`."""
    push = push_folder(folder, repo_id, repo_type="space", replace=STALE, **options)
    if visit is not None:
        with stranger(options["token"]) as visitor:
            try:
                visit(visitor, push)
            except CheckError as error:
                raise CheckError(f"it was pushed ({push.url}), but does not work elsewhere: {error}") from error
    return PublishedSpace(push, visit is not None)


def _use(visitor: Stranger, push: Push) -> None:
    visitor.load_metric(push.repo_id, push.commit)


def _import(visitor: Stranger, push: Push, modules: list[str]) -> None:
    visitor.load_space(push.repo_id, push.commit, modules)


def check_metric(slug: str, repo_id: str) -> None:
    """Raises `PublishError` for another slug than one of `SLUGS`, or a repository of another name."""
    check_repo_id(repo_id)
    if slug not in SLUGS:
        raise PublishError(f"there is no metric {slug!r}: name one of {', '.join(SLUGS)}")
    if repo_id.partition("/")[2] != slug:
        raise PublishError(
            f"the metric {slug} can be loaded from a repository of this name alone: push to OWNER/{slug}"
        )


def stage_metric(slug: str, target: Path) -> Path:
    """Writes a metric as it is pushed; no network is asked."""
    write_metric_space(slug, target)
    _tag_card(target)
    return target


def find_space(name: str | os.PathLike) -> Path:
    """
    The folder of an app, or of one that comes with spooftrace by its name.

    Raises:
        PublishError: where there is none.
    """
    folder, root = Path(name), Path(__file__).resolve().parent
    if folder.is_dir():
        return folder
    own = {path.name: path for path in sorted(root.iterdir()) if (path / "app.py").is_file()}
    if os.fspath(name) in own:
        return own[os.fspath(name)]
    raise PublishError(
        f"{os.fspath(name)!r} is neither a folder nor a Space of spooftrace ({', '.join(own) or 'none'})"
    )


def stage_space(folder: Path, target: Path, *, vendored: bool = True) -> Path:
    """
    Writes a Space as it is pushed, without hidden files such as `.env`; no network is asked.

    Raises:
        PublishError: for a folder that is no such app, see [`check_space`].
        ValueError: for a link that leads out of it.
    """
    check_space(folder, vendored=vendored)
    for name, path in local_files(folder, skip=partial(_stays, vendored=vendored)).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    _tag_card(target)
    if vendored:
        vendor_package(target / PACKAGE)
    return target


def _stays(name: str, *, vendored: bool) -> bool:
    """Whether a file of an app is not pushed: a hidden one, a compiled one, or one that the package's copy replaces."""
    if name.endswith((".pyc", ".pyo")) or (vendored and name.partition("/")[0] == PACKAGE):
        return True
    # Secrets in .env, environments, the settings of editors.
    return any(part.startswith(".") for part in name.split("/")) and name not in HUB_FILES


def _tag_card(folder: Path) -> None:
    """Puts the tag into the header of `README.md` by which a later push knows that the Space came from here."""
    import yaml

    path = folder / CARD
    header, body = split_card(path.read_text(encoding="utf-8"))
    tags = header.get("tags") or []
    tags = [*(tags if isinstance(tags, list) else [tags]), TAG]
    header = yaml.safe_dump({**header, "tags": list(dict.fromkeys(tags))}, sort_keys=False, allow_unicode=True)
    path.write_text(f"---\n{header}---\n\n{body}", encoding="utf-8", newline="\n")


def vendor_package(target: Path) -> Path:
    """Copies the package as `import spooftrace` finds it: one tree, wherever its parts lie in an installation or a clone."""
    for name in (PACKAGE, *(f"{PACKAGE}.{part}" for part in SUBPACKAGES)):
        spec = importlib.util.find_spec(name)
        source = Path(spec.submodule_search_locations[0])
        parts = SUBPACKAGES if name == PACKAGE else ()
        for path in sorted(source.rglob("*")):
            inner = path.relative_to(source)
            if inner.parts[0] in parts or "__pycache__" in inner.parts or not path.is_file():
                continue
            if not any(fnmatchcase(path.name, pattern) for pattern in NOT_VENDORED):
                place = target.joinpath(*name.split(".")[1:], inner)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
    return target


def check_space(folder: Path, *, vendored: bool = True) -> None:
    """
    Whether the Hub would take and build a folder as a Space of Gradio that gives the same app in a year.

    Raises:
        PublishError: with all that is wrong: a missing file, the header of `README.md`, a version that is not pinned.
    """
    missing = [name for name in ("app.py", "README.md", "requirements.txt") if not (folder / name).is_file()]
    if missing:
        raise PublishError(f"{folder} is no Space: {', '.join(missing)} missing")
    try:
        header, _ = split_card((folder / "README.md").read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError(f"{folder}: {error}") from error
    problems = [*_header_problems(folder, header), *_requirement_problems(folder, vendored)]
    if problems:
        raise PublishError(f"{folder} is no valid Space: {'; '.join(problems)}")


def _header_problems(folder: Path, header: dict) -> list[str]:
    found = [
        f"README.md has no {name}" for name in ("title", "sdk", "sdk_version", "app_file") if not header.get(name)
    ]
    found += [] if header.get("sdk", "gradio") == "gradio" else [f"sdk is {header['sdk']!r}, not gradio"]
    if header.get("sdk_version") and not re.fullmatch(r"\d+\.\d+\.\d+", str(header["sdk_version"])):
        found.append(f"sdk_version {header['sdk_version']} is not pinned, as in 6.31.0")
    if header.get("app_file") and not (folder / str(header["app_file"])).is_file():
        found.append(f"app_file {header['app_file']!r} is not there")
    for name in ("colorFrom", "colorTo"):
        if header.get(name, "gray") not in COLOURS:
            found.append(f"{name} {header[name]!r} is none of {', '.join(COLOURS)}")
    for name, limit in (("title", TITLE_LIMIT), ("short_description", TEXT_LIMIT)):
        if len(str(header.get(name) or "")) > limit:
            found.append(f"{name} has more than {limit} characters")
    return found


def _requirement_problems(folder: Path, vendored: bool) -> list[str]:
    found = []
    for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition(" #")[0].strip()
        if re.search(r"://[^/\s]*@", text):
            found.append("requirements.txt shows everybody the login in an address: take it out")
            continue
        if not text or text.startswith(("#", "--extra-index-url", "--index-url")):
            continue
        if vendored and re.match(rf"{PACKAGE}\b", text):
            found.append("requirements.txt asks for spooftrace, which lies beside the app")
        elif not _PINNED.fullmatch(text):
            found.append(f"requirements.txt does not pin {text!r}, as in numpy==2.4.0")
    return found
