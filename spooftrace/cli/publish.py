"""`spooftrace publish`: a model, a dataset, a metric or a Space on the Hub, in one commit."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spooftrace.cli._arguments import positive_int


if TYPE_CHECKING:
    from spooftrace.hub import Push
    from spooftrace.hub_preview import Preview

EXAMPLES = """\
examples:
  spooftrace publish runs/mine owner/name --license apache-2.0 --dry-run
  spooftrace publish runs/mine owner/name --license apache-2.0 --private
  spooftrace publish default owner/name                      the detector that is shipped
  spooftrace publish runs/mine owner/name --card --create-pr
  spooftrace publish --type dataset la-dataset owner/name    a folder of `spooftrace corpus build`
  spooftrace publish --type metric eer owner/eer             for evaluate.load("owner/eer")
  spooftrace publish --type space detector owner/name        the demo, with the package beside it

A model gets its code, its feature extractor and a card with its error rates, made from what lies in its folder:
evaluation.json (`spooftrace evaluate --out`), training_result.json and recipe.yaml (`spooftrace train`), .eval_results
(`spooftrace evaluate --arena`). Checkpoints, optimisers and pickles stay where they are. Before and after the push it is
loaded by a process that has an empty cache and no spooftrace, and the answers are compared.

All of it is one commit, repeated while the Hub is busy, and never made twice. What is pushed is written to a folder
first, which is kept where something fails. Log in with `hf auth login`, or set HF_TOKEN.

Files in a repository that spooftrace has not published, as the tags of its card tell, are replaced with --overwrite alone.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "publish",
        help="publish a model, dataset, metric or Space on the Hub",
        description="Publishes a model, a dataset, a metric or a Space on the Hub, in one commit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, or the name of a shipped model, a metric or a Space")
    parser.add_argument("repo_id", metavar="REPO_ID", help="repository on the Hub, as owner/name")
    parser.add_argument("--type", choices=list(RUNNERS), default="model", help="what it is (model)")
    _add_push_options(parser.add_argument_group("push"))
    model = parser.add_argument_group("models")
    card = model.add_mutually_exclusive_group()
    card.add_argument(
        "--card",
        dest="card",
        action="store_const",
        const="new",
        default="keep",
        help="make a new card; by default a README.md that is there is kept, and its metadata completed",
    )
    card.add_argument(
        "--no-card",
        dest="card",
        action="store_const",
        const="none",
        help="push no README.md; the next push needs --overwrite",
    )
    model.add_argument("--license", metavar="L", help="of the model, such as apache-2.0, for the card")
    model.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="OWNER/NAME:TASK",
        help="benchmark dataset on the Hub, and its task, that evaluation.json is of; may be repeated",
    )
    parser.set_defaults(run=run, wrong_call=parser.error)


def _add_push_options(group: Any) -> None:
    group.add_argument("--private", action="store_true", help="make the repository private")
    group.add_argument("--revision", metavar="R", help="branch to push to (main)")
    group.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    group.add_argument("--message", metavar="M", help="title of the commit")
    group.add_argument("--attempts", type=positive_int, default=5, metavar="N", help="tries while the Hub is busy (5)")
    group.add_argument("--staging", metavar="DIR", help="new folder for what is pushed; it is kept")
    group.add_argument("--no-check", action="store_true", help="do not load it as a stranger would")
    group.add_argument("--overwrite", action="store_true", help="replace files there that spooftrace did not publish")
    group.add_argument("--dry-run", action="store_true", help="show what would be pushed, by whom, and what is there")
    group.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Publishes, or shows what would be."""
    if args.type != "model" and (args.card != "keep" or args.license or args.benchmark):
        args.wrong_call("--card, --no-card, --license and --benchmark belong to models")
    if args.type == "dataset" and (args.staging or args.no_check):
        args.wrong_call("a dataset is pushed from its build and read back: leave --staging and --no-check out")
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return RUNNERS[args.type](args)


def _common(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "private": args.private or None,
        "revision": args.revision,
        "create_pr": args.create_pr,
        "message": args.message,
        "staging": args.staging,
        "check": not args.no_check,
        "overwrite": args.overwrite,
        "attempts": args.attempts,
    }


def _model(args: argparse.Namespace) -> int:
    from spooftrace.hub import check_repo_id
    from spooftrace.model_staging import stage_model
    from spooftrace.publish import STALE, publish_model

    options = {"card": args.card, "license": args.license, "benchmarks": args.benchmark}
    if args.dry_run:
        check_repo_id(args.repo_id)
        with _rehearsal(args) as folder:
            staged = stage_model(args.source, args.repo_id, Path(folder), **options)
            return _plan(args, Path(folder), STALE, staged.left_out, staged.warnings)
    done = publish_model(args.source, args.repo_id, **options, **_common(args))
    facts = {"class": done.model_class, "scores": done.scores, "warnings": done.warnings}
    _warn(done.warnings)
    lines = [f"loaded by a process without spooftrace: {done.model_class}"] if done.model_class else []
    lines += [f"scores for the Arena: {address}" for address in done.scores]
    return _report(args, done.push, facts, lines)


def _metric(args: argparse.Namespace) -> int:
    from spooftrace.spaces.publish import STALE, check_metric, publish_metric, stage_metric

    if args.dry_run:
        check_metric(args.source, args.repo_id)
        with _rehearsal(args) as folder:
            return _plan(args, stage_metric(args.source, Path(folder)), STALE)
    done = publish_metric(args.source, args.repo_id, **_common(args))
    lines = [f'evaluate.load("{args.repo_id}") was tried'] if done.checked else []
    return _report(args, done.push, {"checked": done.checked}, lines)


def _space(args: argparse.Namespace) -> int:
    from spooftrace.hub import check_repo_id
    from spooftrace.spaces.publish import STALE, find_space, publish_space, stage_space

    if args.dry_run:
        check_repo_id(args.repo_id)
        with _rehearsal(args) as folder:
            return _plan(args, stage_space(find_space(args.source), Path(folder)), STALE)
    done = publish_space(args.source, args.repo_id, **_common(args))
    lines = ["downloaded again, and the package in it imported"] if done.checked else []
    return _report(args, done.push, {"checked": done.checked}, lines)


def _dataset(args: argparse.Namespace) -> int:
    """The second half of `spooftrace corpus push`: the folder is a build, so its source is not needed."""
    from spooftrace.cli.corpus import push_build
    from spooftrace.data_scripts.publish import MANIFEST, open_build
    from spooftrace.data_scripts.registry import get_corpus
    from spooftrace.data_scripts.terms import check_redistribution, describe_own
    from spooftrace.hub import check_repo_id

    check_repo_id(args.repo_id)
    manifest = Path(args.source) / MANIFEST
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
    if not isinstance(known, dict) or "corpus" not in known:
        raise ValueError(
            f"{args.source} is no build of a corpus: make one with `spooftrace corpus build`, or build and push with "
            "`spooftrace corpus push`"
        )
    corpus = get_corpus(known["corpus"])
    if corpus.name == "own":  # what its owner stated when it was built
        stated = known["license"] if known["license"] != corpus.license else None
        corpus = describe_own(corpus, license=stated, title=known["title"])
    build = open_build(args.source, corpus)
    check_redistribution(corpus, build.metadata_only)
    if args.dry_run:
        return _plan(args, build.folder, build.replaced)
    return _report(args, push_build(args, build), {}, ["read back from the Hub"])


RUNNERS = {"model": _model, "dataset": _dataset, "metric": _metric, "space": _space}


def _rehearsal(args: argparse.Namespace) -> Any:
    """A folder for a dry run: the one that was named, which stays, or one for the moment."""
    from contextlib import nullcontext

    if args.staging is None:
        return tempfile.TemporaryDirectory(prefix="spooftrace-publish-")
    folder = Path(args.staging)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something already: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    return nullcontext(str(folder))


def _plan(
    args: argparse.Namespace,
    folder: Path,
    replace: Sequence[str],
    left_out: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> int:
    """Prints what would be pushed, and what the Hub says to it; without an answer that is said, and no error."""
    from spooftrace.hub import local_files

    preview = _preview(args, folder, replace)
    warnings = [*warnings, *([f"the push would fail now: {preview.problem}"] if preview.problem else [])]
    files = {name: path.stat().st_size for name, path in local_files(folder).items()}
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else None
    if args.json:
        plan = {"repo_id": args.repo_id, "type": args.type, "files": files, "left_out": list(left_out)}
        known = {**vars(preview), "problem": preview.problem and str(preview.problem)}
        print(json.dumps({**plan, "warnings": warnings, "hub": known, "card": text}, indent=1))
        return 0
    print(f"would push to the {args.type} {args.repo_id}, as one commit:")
    width = max(map(len, files))
    for name, size in files.items():
        print(f"  {name:<{width}}  {size:>13,} bytes")
    print(f"{len(files)} files, {sum(files.values()) / 1e6:,.1f} MB")
    if left_out:
        print(f"stays here: {', '.join(left_out)}")
    print(_on_the_hub(args, preview))
    _warn(warnings)
    print(f"\n{text.rstrip()}" if text else "\nwithout a card")
    return 0


def _preview(args: argparse.Namespace, folder: Path, replace: Sequence[str]) -> "Preview":
    from spooftrace.hub_preview import preview_push

    return preview_push(
        folder,
        args.repo_id,
        repo_type="space" if args.type == "metric" else args.type,
        private=args.private or None,
        revision=args.revision,
        create_pr=args.create_pr,
        replace=replace,
        overwrite=args.overwrite,
    )


def _on_the_hub(args: argparse.Namespace, preview: "Preview") -> str:
    if preview.exists is None:
        return "on the Hub: not known"
    what = "would be made"
    if preview.exists:
        what = f"is there: {len(preview.replaced)} of its files would be replaced, {len(preview.deleted)} deleted"
    return f"on the Hub: {args.repo_id} {what}, by {preview.user}"


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"spooftrace: warning: {warning}", file=sys.stderr)


def _report(args: argparse.Namespace, push: "Push", facts: dict[str, Any], lines: list[str]) -> int:
    if args.json:
        print(json.dumps({**push._asdict(), **facts}, indent=1))
        return 0
    state = "published" if push.changed else "the Hub held all of it already"
    print(
        f"{state}: {push.url}\n{push.files} files, {push.size / 1e6:,.1f} MB, compared with the local ones by their hashes"
    )
    for line in lines:
        print(line)
    return 0
