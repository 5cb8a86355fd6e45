"""`spooftrace trace`: which kind of codec made the speech in audio files, folders and patterns."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from spooftrace.cli._clips import (
    column_width,
    count_clips,
    error_note,
    find_clips,
    in_order,
    model_name,
    progress_bar,
    write_json,
)
from spooftrace.cli._model import add_batch_size, add_device_and_limit, limits_of
from spooftrace.results import Failure, SourceAnswer, Trace, UnknownAnswer, printable


if TYPE_CHECKING:
    from spooftrace.tracer import Tracer

EXAMPLES = """\
examples:
  spooftrace trace clip.wav
  spooftrace trace interview.mp3 recordings/ 'calls/2026-*.ogg'
  spooftrace trace --json clip.wav | python -m json.tool
  spooftrace trace clip.wav --model owner/name --revision 1a2b3c4
  spooftrace trace clip.wav --model owner/vq owner/aux owner/dec

Three questions about the neural codec behind fake speech, each with its most probable answer:
  vq   quantiser:           mvq several codebooks, svq one codebook, sq scalar
  aux  auxiliary objective: semantic, disentanglement, none
  dec  decoder:             time (waveform), frequency (spectrum)
`bonafide` in an answer says that no codec of a known kind was heard. Tracers learn it from genuine speech, and fakes that no
codec made get it too: whether speech is genuine is `spooftrace detect`'s question. A question that no model answers is `-`, and null with --json.

`unknown` scores how unlike all known sources a clip is: YES above the model's threshold. The answers then name the known
classes that it resembles most. The score lies beside a model's weights; converted and newly trained models have none until
one is fitted, as `python -m pydoc spooftrace.open_set.OpenSet` shows. Clips that `detect` would not judge get no answer here
but the reason why; --json keeps their probabilities.

A model may have fewer classes than these; its card says which. Several models answer one question each, as published ones
do. Put the paths first, since --model takes all names behind it.
"""

CAVEAT = (
    "A trace is evidence, not proof: it names the known class that fits best, and a new codec fits one too. `bonafide` means "
    "that no codec was heard, not that the clip is genuine: ask `spooftrace detect`."
)

TASKS = ("vq", "aux", "dec")


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "trace",
        help="tell which kind of codec made the speech in audio files",
        description="Traces audio files, folders and patterns to the kind of neural codec that made the speech.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio file, folder (searched through) or pattern")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="ID",
        help="folders or Hub repositories; default: the tracer shipped with spooftrace",
    )
    model.add_argument(
        "--revision", nargs="+", action="extend", metavar="R", help="branch, tag or commit on the Hub, of each model"
    )
    parser.add_argument_group("output").add_argument(
        "--json", action="store_true", help="one array of objects, for programs"
    )
    work = parser.add_argument_group("work")
    add_batch_size(work)
    add_device_and_limit(work)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Traces the inputs in their order; 3 when some could not be processed."""
    inputs = find_clips(args.paths)
    paths = [entry for entry in inputs if isinstance(entry, Path)]
    tracer = _load_tracer(args) if paths else None
    with progress_bar(paths, limits_of(args)) as (advance, write):
        results = in_order(inputs, tracer.trace(paths, progress=advance) if tracer else iter(()))
        counts = write_json(results, _kind) if args.json else _write_table(results, inputs, tracer, write)
    if not args.json:
        print(_summary(counts, tracer))
    return 3 if counts["failed"] else 0


def _load_tracer(args: argparse.Namespace) -> "Tracer":
    from spooftrace.tracer import Tracer

    return Tracer.from_pretrained(
        args.model,
        revision=args.revision,
        batch_size=args.batch_size,
        device=args.device,
        limits=limits_of(args),
    )


def _kind(result: Trace | Failure) -> str:
    if isinstance(result, Failure):
        return "failed"
    if result.reason:
        return "abstain"
    return "unknown" if result.unknown and result.unknown.is_unknown else "traced"


def _write_table(
    results: Iterable[Trace | Failure],
    inputs: list[Path | Failure],
    tracer: "Tracer | None",
    write: Callable[[str], None],
) -> Counter:
    counts: Counter = Counter()
    labels = tracer.task_labels if tracer else {}
    widths = [max(map(len, labels.get(task, [""]))) + len(" 100.0 %") for task in TASKS]
    layout = f"{{:<{column_width(inputs)}}}  {{:<{widths[0]}}}  {{:<{widths[1]}}}  {{:<{widths[2]}}}  {{:>12}}  {{:>9}}  {{}}"
    write(layout.format("path", *TASKS, "unknown", "duration", "note").rstrip())
    for result in results:
        write(layout.format(*_cells(result)).rstrip())
        counts[_kind(result)] += 1
    return counts


def _cells(result: Trace | Failure) -> tuple[str, ...]:
    path = printable(result.path)
    if isinstance(result, Failure):
        return (path, "error", "-", "-", "-", "-", error_note(result))
    answers = (_answer(getattr(result, task)) for task in TASKS)
    note = f"abstained: {result.reason}" if result.reason else ""
    return (path, *answers, _unknown(result.unknown), f"{result.duration:.2f} s", note)


def _answer(answer: SourceAnswer | None) -> str:
    """Class and probability; neither beside an abstention, where it would be read as an answer."""
    if answer is None or answer.label is None:
        return "-"
    return f"{printable(answer.label)} {100 * answer.probabilities[answer.label]:.1f} %"


def _unknown(answer: UnknownAnswer | None) -> str:
    if answer is None or answer.is_unknown is None:
        return "-"
    return f"{'YES' if answer.is_unknown else 'no'} {answer.score:.3g}"


def _summary(counts: Counter, tracer: "Tracer | None") -> str:
    words = {"traced": "traced", "unknown": "of unknown source", "abstain": "abstained", "failed": "failed"}
    clips = count_clips(counts, words)
    if tracer is None:
        return f"\n{clips}"
    checkpoints = tracer.model_info["checkpoints"]
    names = ", ".join(map(model_name, checkpoints))
    warning = "" if tracer.open_set else " There is no score for unknown sources beside the weights."
    return f"\n{clips} {'Model' if len(checkpoints) == 1 else 'Models'}: {names}.{warning} {CAVEAT}"
