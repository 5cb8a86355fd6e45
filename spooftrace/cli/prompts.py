"""`spooftrace prompts`: several wordings of the question to an audio language model, compared on a validation set."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spooftrace.cli._arguments import positive_int
from spooftrace.cli._clips import model_name
from spooftrace.cli._model import add_batch_size, add_device_and_limit, add_model_options, load_detector
from spooftrace.results import Failure, printable


if TYPE_CHECKING:
    from spooftrace.data_scripts.rows import Row
    from spooftrace.prompt_report import PromptReport, WordingMeasures
    from spooftrace.prompt_study import Question, Wording

EXAMPLES = """\
examples:
  spooftrace prompts --model my-detector --data recordings.csv --prompt "Is this speech genuine or spoofed?"
  spooftrace prompts --model my-detector --data recordings.csv --label-words Real Fake --label-words Yes No
  spooftrace prompts --model my-detector --data /data/LA --corpus asvspoof2019-la --prompts wordings.yaml
  spooftrace prompts --model my-detector --data recordings.csv --prompts wordings.yaml --json > study.json

The model's own wording comes first. Every --prompt is asked with every pair of --label-words, the model's own where there
is none. A file holds a list:
  - prompt: Is this speech genuine or spoofed?
    label_words: [Real, Fake]
    system_prompt: You are a forensic examiner.
each key optional, the words bona fide first. Words have to be single tokens of the model's tokenizer.

shift is the mean difference in log-odds from the model's own wording: it moves a threshold, not the EER. CLLR' is what
remains of the CLLR after a scale and a bias were fitted to the very clips; of wordings with a positive scale the lowest one
is named the best. agree and rank compare the calibrated decisions and the order of the clips with the model's own wording;
--json has all pairs.

A detector that was fine-tuned knows its own wording best; of others it was taught nothing.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "prompts",
        help="compare wordings of the question to an audio language model",
        description="Asks an audio language model in several wordings about labelled clips, in one pass, and compares them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser.add_argument_group("model"))
    _add_wordings(parser.add_argument_group("wordings"))
    _add_data(parser.add_argument_group("data"))
    statistics = parser.add_argument_group("statistics")
    statistics.add_argument("--rounds", type=positive_int, default=1000, metavar="N", help="of the bootstrap (1000)")
    statistics.add_argument("--no-intervals", action="store_true", help="skip the bootstrap")
    parser.add_argument_group("output").add_argument("--json", action="store_true", help="one object, for programs")
    work = parser.add_argument_group("work")
    add_batch_size(work)
    add_device_and_limit(work)
    parser.set_defaults(run=run, refuse=parser.error)


def _add_wordings(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a question; may be repeated")
    group.add_argument(
        "--label-words",
        action="append",
        default=[],
        nargs=2,
        metavar=("GENUINE", "FAKE"),
        help="the answers for genuine and fake speech; may be repeated",
    )
    group.add_argument("--prompts", metavar="FILE", help="wordings in a YAML or JSON file, see below")
    group.add_argument(
        "--processor", metavar="ID", help="of the base model, where the detector names none: folder or Hub repository"
    )


def _add_data(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--data", required=True, metavar="PATH", help="a labelled table or folder, or a corpus's folder"
    )
    group.add_argument("--corpus", metavar="NAME", help="PATH is the folder of this corpus, such as asvspoof2019-la")
    group.add_argument("--config", metavar="C", help="of the corpus")
    group.add_argument(
        "--split", default="validation", metavar="S", help="of table or corpus (validation); none is chosen on test"
    )
    group.add_argument(
        "--missing-audio",
        choices=("error", "drop"),
        default="error",
        help="for clips of a corpus's protocol that are not there: refuse to start, or leave them out (error)",
    )
    group.add_argument("--allow-outside", action="store_true", help="accept paths that leave the table's folder")


def run(args: argparse.Namespace) -> int:
    """Asks, compares and prints; 3 when some clips could not be processed."""
    if not (args.prompt or args.label_words or args.prompts):
        args.refuse("there is nothing to compare: pass --prompt, --label-words or --prompts")
    wordings, rows = list(_wordings(args)), _rows(args)
    from spooftrace.prompt_study import PromptStudy, check_kind, find_questions

    detector = load_detector(args)
    check_kind(detector)
    questions = find_questions(detector.model.config, wordings, args.processor)
    answers = list(PromptStudy(detector, questions).ask(row.audio for row in rows))
    report = _compare(questions, rows, answers, args)
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    if args.json:
        print(json.dumps(_object(report, failed, detector.model_info, args), indent=2, allow_nan=False))
        return 3 if failed else 0
    print("\n".join(_text(report, detector.model_info, args)))
    for failure in failed:
        print(f"spooftrace: {failure.error}: {printable(failure.message)}", file=sys.stderr)
    return 3 if failed else 0


def _wordings(args: argparse.Namespace) -> "Iterator[Wording]":
    from spooftrace.prompt_study import Wording, read_wordings

    if args.prompt or args.label_words:
        for prompt, words in itertools.product(args.prompt or [None], args.label_words or [None]):
            yield Wording(prompt, words and tuple(words))
    if args.prompts:
        yield from read_wordings(args.prompts)


def _rows(args: argparse.Namespace) -> "list[Row]":
    if args.corpus is None:
        from spooftrace.data_scripts.parsers.own import read_manifest

        return read_manifest(args.data, split=args.split, allow_outside=args.allow_outside)
    from spooftrace.data_scripts.registry import get_corpus

    corpus = get_corpus(args.corpus)
    if not corpus.reads_audio:
        raise ValueError(
            f"{args.corpus} keeps its audio in other files than clips: export its {args.split} split first."
        )
    splits = corpus.read(Path(args.data), args.config, missing_audio=args.missing_audio)
    if args.split not in splits:
        raise ValueError(f"{args.corpus} has no split {args.split!r}: pass --split {' or '.join(splits)}.")
    return [row for row in splits[args.split] if row.label]


def _compare(
    questions: "Sequence[Question]", rows: "Sequence[Row]", answers: Sequence[Any], args: argparse.Namespace
) -> "PromptReport":
    import numpy as np

    from spooftrace.evaluation_report import Settings
    from spooftrace.prompt_report import compare_wordings
    from spooftrace.trainers.calibration import fit_calibration

    usable = [
        (row, answer.scores)
        for row, answer in zip(rows, answers, strict=True)
        if not isinstance(answer, Failure) and answer.scores is not None
    ]
    if not usable:
        reason = answers[0] if answers else f"the split {args.split!r} has none with a label"
        raise ValueError(f"no clip of {args.data} could be scored: {reason}")
    return compare_wordings(
        questions,
        np.stack([scores for _, scores in usable]),
        np.array([row.label == "bonafide" for row, _ in usable]),
        calibrate=fit_calibration,
        split=args.split,
        speakers=[row.speaker_id for row, _ in usable],
        settings=Settings(0 if args.no_intervals else args.rounds),
    )


def _object(
    report: "PromptReport", failed: Sequence[Failure], model: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    data = {"path": args.data, "corpus": args.corpus, "config": args.config, "split": args.split}
    return {"model": model, "data": data, **report.to_dict(), "failed": [failure.to_dict() for failure in failed]}


def _text(report: "PromptReport", model: dict[str, Any], args: argparse.Namespace) -> Iterator[str]:
    bonafide, spoof = report.clips
    yield f"{model_name(model)} on {printable(args.data)}, split {printable(args.split)}: {bonafide} bona fide, {spoof} spoof"
    if report.warning:
        yield f"WARNING: {report.warning}"
    yield ""
    yield from _table(report)
    yield ""
    for number, wording in enumerate(report.wordings, start=1):
        question = wording.question
        system = f" after {question.system_prompt!r}" if question.system_prompt is not None else ""
        own = " (the model's own)" if number == 1 else ""
        yield f"{number:>3}  {question.prompt!r} {' / '.join(map(printable, question.label_words))}{system}{own}"
    yield ""
    if report.best is not None:
        yield (
            f"Lowest CLLR after calibration by a positive scale: {report.best + 1}. Scale, bias and CLLR' were fitted to these "
            "clips."
        )


def _table(report: "PromptReport") -> Iterator[str]:
    names = ("EER", "interval", "AUC", "CLLR", "CLLR'", "scale", "bias", "shift", "agree", "rank")
    layout = "{:>3}  {:>7}  {:>15}  {:>6}  {:>7}  {:>6}  {:>7}  {:>7}  {:>7}  {:>7}  {:>6}"
    yield layout.format("", *names)
    for index, wording in enumerate(report.wordings):
        agreement, correlation = report.agreement[index][0], report.rank_correlation[index][0]
        yield layout.format(index + 1, *_cells(wording), f"{100 * agreement:.1f} %", _number(correlation, "+.3f"))


def _cells(wording: "WordingMeasures") -> Iterator[str]:
    measures = wording.measures
    yield f"{100 * measures.eer:.2f} %"
    interval = measures.eer_interval
    yield f"{100 * interval.low:.2f} to {100 * interval.high:.2f}" if interval else "-"
    yield f"{measures.auc:.3f}"
    yield f"{measures.cllr:.3f}"
    yield f"{wording.cllr_calibrated:.3f}"
    yield from (f"{value:+.2f}" for value in (wording.scale, wording.bias, wording.shift))


def _number(value: float | None, layout: str) -> str:
    return "-" if value is None else format(value, layout)
