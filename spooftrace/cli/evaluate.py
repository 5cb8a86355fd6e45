"""`spooftrace evaluate`: error rates of scores on labelled trials, with intervals, tables, figures and a comparison."""

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from spooftrace.evaluation_report import Report, Settings
    from spooftrace.score_files import Joined, Trials

EXAMPLES = """\
examples:
  spooftrace score test.csv --out out/ && spooftrace evaluate out/ test.csv
  spooftrace evaluate out/ recordings.csv --split test --by attack_id codec
  spooftrace evaluate out/ /data/LA --corpus asvspoof2019-la --by attack_id --figures figures/
  spooftrace evaluate scores.txt /data/keys --corpus asvspoof2021-la --split test --by codec attack_id --out report.json
  spooftrace evaluate ours/ test.csv --compare theirs.txt
  spooftrace evaluate out/ SpeechAntiSpoofingBenchmarks/InTheWild --corpus arena --dataset-revision 0123abc
  spooftrace evaluate la/ /data/LA itw/ /data/itw --corpus asvspoof2019-la in-the-wild
  spooftrace evaluate out/ labels.csv --arena model-repo/ --dataset SpeechAntiSpoofingBenchmarks/InTheWild \\
      --dataset-revision 0123abc --system "Our detector" --slug our-detector --arxiv-id 2110.01200

SCORES is a file with `utterance_id score` per line, higher for genuine speech, or the folder that `spooftrace score`
wrote. PROTOCOL is a CSV, TSV or JSON Lines table with utterance_id (or audio) and label (bonafide, spoof), a folder
with such a table, or with --corpus your copy of that corpus; for the Arena also a dataset's name on the Hub. Trials
and scores have to match exactly: what is missing, extra, doubled or no number is an error. Where a table has no
utterance_id, its paths without their ending are the ids, so score the table itself, not the folder of its clips.
Clips that `spooftrace score` could not process are told, and make the exit code 3.

Intervals come from a bootstrap, over speakers where every trial has one, else over trials.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure scores against labels: EER and more, by attack, codec or any column",
        description="Error rates of scores on labelled trials.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pairs", nargs="+", metavar="SCORES PROTOCOL", help="scores and their labels; further pairs are pooled"
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--corpus",
        nargs="+",
        metavar="NAME",
        help="each PROTOCOL is a copy of this corpus (see `spooftrace corpus list`)",
    )
    data.add_argument("--config", metavar="C", help="configuration of the corpus; default: its first")
    data.add_argument("--split", metavar="S", help="only this split; default: test for a corpus, all of a table")
    data.add_argument(
        "--missing-audio",
        choices=["keep", "drop"],
        default="keep",
        help="trials of a corpus whose clip is not in your copy: ask for their scores all the same, or leave them out as "
        "`spooftrace score --missing-audio drop` does (keep)",
    )
    data.add_argument(
        "--by", nargs="+", default=[], metavar="COL", help="a table of error rates for each value of a column"
    )
    data.add_argument(
        "--trained-on", nargs="+", metavar="NAME", help="corpora the model was trained on, if it does not say"
    )
    statistics = parser.add_argument_group("statistics")
    statistics.add_argument(
        "--compare", metavar="SCORES", help="another system's scores of the same trials: a paired test"
    )
    statistics.add_argument(
        "--cluster", default="speaker_id", metavar="COL", help="column to resample by (speaker_id)"
    )
    statistics.add_argument("--rounds", type=_rounds, default=1000, metavar="N", help="of the bootstrap (1000)")
    statistics.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (0)")
    statistics.add_argument("--no-intervals", action="store_true", help="skip the bootstrap")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print the report as JSON, for programs")
    output.add_argument("--out", metavar="FILE", help="write the report as JSON besides")
    output.add_argument(
        "--figures", metavar="DIR", help="write a DET curve, score histograms and a confusion matrix as PNG"
    )
    _add_arena(parser)
    parser.set_defaults(run=run, wrong_call=parser.error)


def _add_arena(parser: argparse.ArgumentParser) -> None:
    arena = parser.add_argument_group("files for the Speech Anti-Spoofing Arena")
    arena.add_argument(
        "--arena", metavar="DIR", help="write .eval_results/OWNER/NAME/{scores.txt,result.yaml} in this folder"
    )
    arena.add_argument("--dataset", metavar="OWNER/NAME", help="the dataset on the Hub")
    arena.add_argument("--dataset-revision", metavar="SHA", help="its commit that was scored")
    arena.add_argument("--dataset-split", default="test", metavar="S", help="its split (test)")
    arena.add_argument("--system", metavar="NAME", help="of the system, in prose")
    arena.add_argument("--slug", metavar="SLUG", help="its short name; default: from its name")
    arena.add_argument("--arxiv-id", metavar="ID", help="of its paper; the Arena ranks no system without one")
    arena.add_argument(
        "--scores-url", metavar="URL", help="of the uploaded scores.txt, with its commit: makes the final result.yaml"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates; 3 when clips could not be scored."""
    _check_call(args)
    if args.figures:
        import matplotlib  # noqa: F401  without it, say so before the work
    from dataclasses import replace

    from spooftrace.evaluation import evaluate
    from spooftrace.evaluation_report import Settings

    settings = Settings(0 if args.no_intervals else args.rounds, seed=args.seed, cluster=args.cluster)
    parts = _load(args)
    report = evaluate(*parts, by=args.by, settings=settings)
    trained_on = args.trained_on or _declared(parts[0].source.run)
    report = replace(report, trained_on=trained_on, contamination=_contamination(trained_on, parts))
    if args.compare:
        report = replace(report, comparison=_compare(args.compare, parts[0], settings))
    written = _write(args, report, parts)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        print(report.to_text())
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
    return 3 if any(report.skipped) else 0


def _check_call(args: argparse.Namespace) -> None:
    """Leaves with 2 where options do not go together."""
    count, odd = divmod(len(args.pairs), 2)
    if odd:
        args.wrong_call(f"SCORES and PROTOCOL come in pairs, got {len(args.pairs)} arguments")
    if args.corpus and len(args.corpus) not in (1, count):
        args.wrong_call(f"--corpus takes one name, or one for each of the {count} pairs")
    if not args.corpus and (args.config or args.missing_audio == "drop"):
        args.wrong_call("--config and --missing-audio belong to --corpus")
    if count > 1 and (args.compare or args.arena):
        args.wrong_call("--compare and --arena take one pair of SCORES and PROTOCOL")
    if args.compare and args.no_intervals:
        args.wrong_call("--compare is a test by bootstrap: leave --no-intervals out")
    needed = {"--dataset": args.dataset, "--dataset-revision": args.dataset_revision, "--system": args.system}
    missing = [name for name, value in needed.items() if not value]
    if args.arena and missing:
        args.wrong_call(f"--arena needs {' and '.join(missing)}")


def _load(args: argparse.Namespace) -> list["Joined"]:
    from spooftrace.score_files import load_scores

    pairs = list(zip(args.pairs[::2], args.pairs[1::2], strict=True))
    corpora = args.corpus or [None]
    if len(corpora) < len(pairs):
        corpora *= len(pairs)
    return [
        load_scores(scores, _corpus_trials(args, name, protocol) if name else _table_trials(args, protocol))
        for (scores, protocol), name in zip(pairs, corpora, strict=True)
    ]


def _table_trials(args: argparse.Namespace, path: str) -> "Trials":
    from spooftrace.data_scripts.parsers.own import read_manifest
    from spooftrace.score_files import Trials

    # No clip is opened, so it is no matter where they lie.
    options = {"require_audio": False, "allow_outside": True}
    everything = read_manifest(path, **options)
    rows = read_manifest(path, split=args.split, **options) if args.split else everything
    names = {row.corpus for row in rows} - {"own"}
    wanted = {row.utterance_id for row in rows}
    return Trials.from_columns(
        _columns(rows),
        name=f"{path}, split {args.split}" if args.split else path,
        corpus=names.pop() if len(names) == 1 else None,
        split=args.split,
        elsewhere={row.utterance_id for row in everything} - wanted,
    )


def _corpus_trials(args: argparse.Namespace, name: str, folder: str) -> "Trials":
    from spooftrace.data_scripts.registry import get_corpus
    from spooftrace.score_files import Trials

    corpus = get_corpus(name)
    config = corpus.check_config(args.config)
    on_hub = "repo" in corpus.options and not Path(folder).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", folder)
    options = {"repo": folder, "revision": args.dataset_revision} if on_hub else {}
    splits = corpus.read(Path(folder), config, missing_audio="ignore", **options)
    split = args.split or ("test" if "test" in splits else next(iter(splits)) if len(splits) == 1 else None)
    if split not in splits:
        raise ValueError(
            f"{name} ({config}) has no split {split or 'test'!r}; --split names one of {', '.join(splits)}."
        )
    rows = splits[split]
    kept = [row for row in rows if row.audio] if args.missing_audio == "drop" and corpus.reads_audio else rows
    lost = f", without {len(rows) - len(kept)} trials whose clip is not there" if len(kept) < len(rows) else ""
    return Trials.from_columns(
        _columns(kept),
        name=f"{folder + ' of ' if on_hub else ''}{name} ({config}), split {split}{lost}",
        corpus=_known_name(name, kept),
        split=split,
        elsewhere={row.utterance_id for other, rows in splits.items() if other != split for row in rows},
    )


def _known_name(name: str, rows: Iterable[Any]) -> str:
    """The corpus, or the one of its parts that the rows are of: the Arena is many corpora, and each is known by itself."""
    from spooftrace.contamination import known_corpus

    parts = {row.subset for row in rows}
    only = parts.pop() if len(parts) == 1 else None
    return only if known_corpus(name) is None and only and known_corpus(only) else name


def _columns(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """The columns that have a value in some row."""
    from spooftrace.data_scripts.rows import to_columns

    extra = dict.fromkeys(name for row in rows for name in row.extra)
    columns = to_columns(rows, extra)
    kept = ("utterance_id", "label", "corpus")
    return {name: values for name, values in columns.items() if name in kept or any(v is not None for v in values)}


def _compare(path: str, ours: "Joined", settings: "Settings") -> Any:
    from spooftrace.evaluation import compare
    from spooftrace.score_files import load_scores, whole_trials

    return compare(ours, load_scores(path, whole_trials(ours)), settings)


def _contamination(trained_on: list[str] | None, parts: Iterable["Joined"]) -> list[str]:
    from spooftrace.contamination import contamination

    notes = (contamination(trained_on, part.trials.corpus) for part in parts)
    return list(dict.fromkeys(note for found in notes for note in found))


def _declared(run: Mapping[str, Any]) -> list[str] | None:
    """What the model of a run says it was trained on: in the run, in its configuration, on its card."""
    from spooftrace.contamination import declared_corpora

    model = run.get("model")
    if not isinstance(model, Mapping):
        return declared_corpora(run)
    files = [_model_file(model, name) for name in ("config.json", "README.md")]
    config = json.loads(files[0].read_text(encoding="utf-8")) if files[0] else None
    card = _card(files[1].read_text(encoding="utf-8")) if files[1] else None
    return declared_corpora(run, model, config, card)


def _model_file(model: Mapping[str, Any], file: str) -> Path | None:
    """A file of a model on this machine: in its folder, in the package or in the Hub's cache. Nothing is downloaded."""
    name = str(model.get("name") or "")
    if name == "default":
        # Finding the package does not import it, and torch with it.
        spec = importlib.util.find_spec("spooftrace.modeling")
        path = Path(spec.submodule_search_locations[0]) / "checkpoints" / "default" / file
        return path if path.is_file() else None
    if (Path(name) / file).is_file():
        return Path(name) / file
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=model.get("revision"))
    return Path(found) if isinstance(found, str) else None


def _card(text: str) -> dict[str, Any] | None:
    """The metadata at the head of a model card."""
    import yaml

    head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        data = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return None  # a card is prose for people; a broken one does not stop an evaluation
    return data if isinstance(data, dict) else None


def _write(args: argparse.Namespace, report: "Report", parts: Sequence["Joined"]) -> list[Path]:
    written = []
    if args.out:
        path = Path(args.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        written.append(path)
    if args.figures:
        written += _draw(args, report, parts)
    if args.arena:
        written += _write_arena(args, parts[0])
    return written


def _draw(args: argparse.Namespace, report: "Report", parts: Sequence["Joined"]) -> list[Path]:
    import numpy as np

    from spooftrace.evaluation_text import model_name
    from spooftrace.figures import draw_confusion, draw_det, draw_histogram
    from spooftrace.score_files import load_scores, whole_trials

    folder, title = Path(args.figures), " + ".join(source["data"] for source in report.sources)
    scores = np.concatenate([part.scores for part in parts])
    bonafide = np.concatenate([part.bonafide for part in parts])
    decision = "(bona fide from a score of 0 on)"
    paths = [
        draw_confusion(
            folder / "confusion.png", report.overall.confusion, ("bona fide", "spoof"), title=title, decision=decision
        )
    ]
    if report.overall.eer is None:
        return paths
    name = model_name(report.sources[0]) if report.sources[0]["model"] else Path(report.sources[0]["scores"]).name
    systems = {name: (scores[bonafide], scores[~bonafide])}
    if args.compare:
        other = load_scores(args.compare, whole_trials(parts[0]))
        systems[f"{args.compare}"] = (other.scores[other.bonafide], other.scores[~other.bonafide])
    paths.append(draw_det(folder / "det.png", systems, title=title))
    histogram = draw_histogram(
        folder / "scores.png", scores[bonafide], scores[~bonafide], threshold=report.overall.eer_threshold, title=title
    )
    return [*paths, histogram]


def _write_arena(args: argparse.Namespace, part: "Joined") -> list[Path]:
    from spooftrace.arena import Dataset, System, verify_arena, write_arena
    from spooftrace.score_files import whole_trials

    slug = args.slug or re.sub(r"[^a-z0-9]+", "-", args.system.lower()).strip("-")
    trials = whole_trials(part)
    labels = dict(zip(trials.ids, trials.labels, strict=True))
    files = write_arena(
        args.arena,
        dict(zip(part.trials.ids, part.scores.tolist(), strict=True)),
        labels,
        system=System(args.system, slug, args.arxiv_id),
        dataset=Dataset(args.dataset, args.dataset_revision, args.dataset_split),
        scores_url=args.scores_url,
    )
    verify_arena(files.result.parent, labels)
    return [files.scores, files.result]


def _rounds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be between 1 and 1000000, got {text}")
    return value
