"""`spooftrace corpus`: what corpora there are, checking a copy of one, and publishing it on the Hub."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spooftrace.cli._arguments import positive_int
from spooftrace.cli._corpus_text import (
    SHOWN,
    facts_of,
    list_row,
    print_info,
    print_table,
    print_verification,
    verification_facts,
)


if TYPE_CHECKING:
    from spooftrace.data_scripts.corpus import Corpus
    from spooftrace.data_scripts.publish import Build
    from spooftrace.hub import Push

EXAMPLES = """\
examples:
  spooftrace corpus list
  spooftrace corpus info asvspoof2019-la
  spooftrace corpus verify asvspoof2019-la /data/LA --check-audio decode
  spooftrace corpus build asvspoof2019-la /data/LA --out la-dataset
  spooftrace corpus push asvspoof2019-la /data/LA owner/name --private
  spooftrace corpus push asvspoof2021-la /data/2021 owner/name --metadata-only
  spooftrace corpus push own recordings.csv owner/name --license cc-by-4.0 --title "Our recordings"
  spooftrace corpus extract-audio fakeavceleb /data/FakeAVCeleb_v1.2

`spooftrace corpus ACTION --help` explains an action.
"""

BUILD_EPILOG = """\
The folder gets parquet files with the clips inside, byte by byte as they are, and a card with the counts. Equal input
makes equal files. While it is written it has another name, so that an interrupted build leaves nothing that looks whole;
run the command again.
"""

PUSH_EPILOG = """\
The dataset is built locally first, or taken from --out if it is there and holds what the corpus holds. It is pushed as
one commit, so that nobody sees half of it; where the Hub is busy the push is repeated. Then it is read back from the
Hub. The local build always stays.

Log in with `hf auth login`, or set HF_TOKEN. Audio that may not be passed on is refused.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command and its actions."""
    parser = subparsers.add_parser(
        "corpus",
        help="list, check, build and publish corpora",
        description="Corpora of genuine and fake speech: what there is, checking a copy, publishing it on the Hub.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = _add_action(actions, "list", "show all corpora", run_list)
    listing.add_argument("--json", action="store_true", help="for programs")
    info = _add_action(actions, "info", "show one corpus: where to get it, its expected tree, its options", run_info)
    info.add_argument("name", metavar="NAME", help="as in `spooftrace corpus list`")
    _add_verify(actions)
    build = _add_action(actions, "build", "write a corpus as a dataset repository", run_build, BUILD_EPILOG)
    _add_source(build)
    build.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new")
    _add_build_options(build)
    _add_push(actions)
    extract = _add_action(actions, "extract-audio", "write the audio of a corpus of videos as FLAC", run_extract)
    extract.add_argument("name", choices=["fakeavceleb"], help="corpus")
    extract.add_argument("data_dir", metavar="DATA_DIR", help="its folder")
    extract.add_argument("--out", metavar="DIR", help="default: where the corpus is read from")
    extract.add_argument("--ffmpeg", metavar="PATH", help="default: the ffmpeg on the PATH")
    extract.add_argument(
        "--workers", type=positive_int, metavar="N", help="videos at a time; default: one per processor"
    )


def _add_action(
    actions: "argparse._SubParsersAction",
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="corpus, as in `spooftrace corpus list`")
    parser.add_argument(
        "data_dir", metavar="DATA_DIR", help="your copy of it; for `own` a folder, or a table (.csv, .tsv, .jsonl)"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="an option of this corpus, see `spooftrace corpus info NAME`; the value as text or JSON",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_verify(actions: "argparse._SubParsersAction") -> None:
    parser = _add_action(actions, "verify", "check a copy of a corpus against the published numbers", run_verify)
    _add_source(parser)
    parser.add_argument("--config", metavar="C", help="configuration; default: the first")
    parser.add_argument(
        "--check-audio",
        choices=["none", "exists", "decode"],
        default="exists",
        help="of each clip: nothing, that it is there (default), or that all of it decodes",
    )


def _add_build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", action="append", metavar="C", help="configuration; repeat for several; default: the first"
    )
    parser.add_argument("--metadata-only", action="store_true", help="leave the audio out; it need not be there")
    parser.add_argument(
        "--missing-audio",
        choices=["error", "drop", "ignore"],
        default="error",
        help="where a clip is not there: stop (default), leave its row out, or keep the row without audio",
    )
    parser.add_argument("--max-shard-size", default="500MB", metavar="SIZE", help="contents of a file (500MB)")
    parser.add_argument("--check-all", action="store_true", help="compare every clip with its source, not 100 a split")
    parser.add_argument(
        "--license", metavar="L", help="of your own data, such as cc-by-4.0; you may pass its audio on"
    )
    parser.add_argument("--title", metavar="T", help="of your own data, for the card")


def _add_push(actions: "argparse._SubParsersAction") -> None:
    parser = _add_action(actions, "push", "build a corpus and push it to the Hub", run_push, PUSH_EPILOG)
    _add_source(parser)
    parser.add_argument("repo_id", metavar="REPO_ID", help="dataset repository on the Hub, as owner/name")
    parser.add_argument("--out", metavar="DIR", help="folder of the local build (NAME-dataset)")
    _add_build_options(parser)
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", metavar="R", help="branch to push to (main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument(
        "--attempts", type=positive_int, default=5, metavar="N", help="tries while the Hub is busy (5)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files there that spooftrace did not publish")
    parser.add_argument("--dry-run", action="store_true", help="build, show what would be pushed, ask the Hub nothing")


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def run_list(args: argparse.Namespace) -> int:
    from spooftrace.data_scripts.registry import corpora

    found = list(corpora().values())
    if args.json:
        print(json.dumps([facts_of(corpus) for corpus in found], indent=1))
        return 0
    head = ("name", "configurations", "published trials", "licence", "may be pushed")
    print_table([head, *(list_row(corpus) for corpus in found)])
    print("\n`spooftrace corpus info NAME` tells where to get a corpus and how it should lie on disk.")
    return 0


def run_info(args: argparse.Namespace) -> int:
    from spooftrace.data_scripts.registry import get_corpus

    print_info(get_corpus(args.name))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """0 where all is as published, else 1."""
    from spooftrace.data_scripts.verify import verify_corpus

    found = verify_corpus(
        args.name, args.data_dir, args.config, check_audio=args.check_audio, options=dict(args.option)
    )
    if args.json:
        print(json.dumps(verification_facts(found), indent=1))
    else:
        print_verification(found)
    return 0 if found.is_whole else 1


def run_build(args: argparse.Namespace) -> int:
    build = _build(args, _corpus(args), args.out)
    if args.json:
        print(json.dumps(_build_json(build), indent=1))
    else:
        print(_summary(build))
    return 0


def run_push(args: argparse.Namespace) -> int:
    """Builds, pushes and reads back; the build stays whatever happens to the push."""
    from spooftrace.data_scripts.terms import check_redistribution
    from spooftrace.hub import check_repo_id
    from spooftrace.hub_repository import require_token

    corpus = _corpus(args)
    check_redistribution(corpus, args.metadata_only)
    check_repo_id(args.repo_id)
    if not args.dry_run:
        require_token(None)  # a build takes long
    build = _build(args, corpus, args.out or f"{corpus.name}-dataset", reuse=True)
    if args.dry_run:
        _print_plan(args, build)
        return 0
    push = push_build(args, build)
    if args.json:
        print(json.dumps({**_build_json(build), "push": push._asdict()}, indent=1))
    else:
        print(_summary(build))
        print(f"{'pushed and read back' if push.changed else 'the Hub held all of it already'}: {push.url}")
    return 0


def push_build(args: argparse.Namespace, build: "Build") -> "Push":
    """Pushes a build as the options say, and reads it back."""
    from huggingface_hub.utils import disable_progress_bars

    from spooftrace.data_scripts.publish import ReadBackError, read_hub
    from spooftrace.hub import push_folder
    from spooftrace.hub_repository import HubError

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        push = push_folder(
            build.folder,
            args.repo_id,
            repo_type="dataset",
            message=getattr(args, "message", None)
            or f"{build.corpus.title}, built with spooftrace {build.manifest['spooftrace']}",
            private=args.private or None,
            revision=args.revision,
            create_pr=args.create_pr,
            replace=build.replaced,
            overwrite=args.overwrite,
            attempts=args.attempts,
        )
    except HubError as error:
        raise HubError(f"{error}. The build is kept in {build.folder}: the same command pushes it.") from error
    try:
        read_hub(build, args.repo_id, push.commit)
    except ReadBackError:
        raise
    except Exception as error:
        raise HubError(f"pushed ({push.url}), but reading it back failed: {error}") from error
    return push


def run_extract(args: argparse.Namespace) -> int:
    """3 where the audio of some videos could not be extracted."""
    from spooftrace.data_scripts.parsers.fakeavceleb import extract_audio

    found = extract_audio(args.data_dir, args.out, args.ffmpeg, workers=args.workers)
    for video, message in list(found.failed.items())[:SHOWN]:
        print(f"{video}: {message}", file=sys.stderr)
    print(f"{found.written:,} files written, {found.kept:,} were there, {len(found.failed):,} videos without audio")
    return 3 if found.failed else 0


def _corpus(args: argparse.Namespace) -> "Corpus":
    from spooftrace.data_scripts.registry import get_corpus
    from spooftrace.data_scripts.terms import describe_own

    return describe_own(get_corpus(args.name), license=args.license, title=args.title)


def _build(args: argparse.Namespace, corpus: "Corpus", out: str | Path, *, reuse: bool = False) -> "Build":
    """A new build; with `reuse`, the one that is there if it is what was asked for and equals its source."""
    from spooftrace.data_scripts.publish import CHECKED_CLIPS, build_corpus, reuse_build

    wanted = {
        "config": args.config,
        "missing_audio": args.missing_audio,
        "metadata_only": args.metadata_only,
        "checked_clips": None if args.check_all else CHECKED_CLIPS,
        "options": dict(args.option),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if reuse and Path(out).exists():
            build = reuse_build(corpus, args.data_dir, out, **wanted)
            print(f"using the build in {out}", file=sys.stderr)
        else:
            build = build_corpus(corpus, args.data_dir, out, max_shard_size=args.max_shard_size, **wanted)
    for text in dict.fromkeys(str(found.message) for found in caught if issubclass(found.category, UserWarning)):
        print(f"spooftrace: warning: {text}", file=sys.stderr)
    return build


def _build_json(build: "Build") -> dict[str, Any]:
    return {"folder": str(build.folder), **build.manifest}


def _summary(build: "Build") -> str:
    size = sum(file["size"] for file in build.manifest["files"].values())
    kind = "metadata" if build.metadata_only else "with audio"
    return (
        f"{build.folder}: {build.rows:,} trials ({kind}), {len(build.manifest['files'])} files, {size / 1e6:,.1f} MB"
    )


def _print_plan(args: argparse.Namespace, build: "Build") -> None:
    from spooftrace.hub import local_files

    if args.json:
        print(json.dumps({**_build_json(build), "push": None}, indent=1))
        return
    print(f"would push to the dataset {args.repo_id}, as one commit:")
    print_table([(f"  {name}", f"{path.stat().st_size:,} bytes") for name, path in local_files(build.folder).items()])
    print(_summary(build))
