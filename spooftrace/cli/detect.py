"""`spooftrace detect`: a verdict on audio files, folders and patterns."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
from spooftrace.cli._model import add_batch_size, add_device_and_limit, add_model_options, limits_of, load_detector
from spooftrace.results import Detection, Failure, printable


if TYPE_CHECKING:
    from spooftrace.detector import Detector

EXAMPLES = """\
examples:
  spooftrace detect clip.wav
  spooftrace detect interview.mp3 recordings/ 'calls/2026-*.ogg'
  spooftrace detect --timeline talk.flac
  spooftrace detect --json clip.wav | python -m json.tool
  spooftrace detect ./-odd-name.wav          a name with a dash in front would be an option
  spooftrace detect --model owner/name --revision 1a2b3c4 clip.wav

The score is the log-odds of genuine speech: above 0 leans to genuine, below 0 to fake. The verdict compares the
calibrated probability with the threshold, or abstains with a reason. A score is evidence, not proof.
"""

CAVEAT = "A score is evidence, not proof: new generators, codecs and edited recordings can mislead it."

TIMELINE_ROWS = 40
TIMELINE_WIDTH = 30


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "detect",
        help="tell genuine from synthetic speech in audio files",
        description="Scores audio files, folders and patterns with a speech deepfake detector.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio file, folder (searched through) or pattern")
    add_model_options(parser.add_argument_group("model"))
    output = parser.add_argument_group("output").add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one array of objects, for programs")
    output.add_argument("--timeline", action="store_true", help="show the windows of each clip")
    work = parser.add_argument_group("work")
    add_batch_size(work)
    add_device_and_limit(work)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Scores the inputs in their order; 3 when some could not be processed."""
    limits = limits_of(args)
    inputs = find_clips(args.paths)
    paths = [entry for entry in inputs if isinstance(entry, Path)]
    detector = load_detector(args) if paths else None
    with progress_bar(paths, limits) as (advance, write):
        results = in_order(inputs, detector.detect(paths, progress=advance) if detector else iter(()))
        counts = write_json(results, _kind) if args.json else _write_table(results, inputs, args, detector, write)
    if not args.json:
        print(_summary(counts, detector))
    return 3 if counts["failed"] else 0


def _kind(result: Detection | Failure) -> str:
    return "failed" if isinstance(result, Failure) else result.verdict


def _write_table(
    results: Iterable[Detection | Failure],
    inputs: list[Path | Failure],
    args: argparse.Namespace,
    detector: "Detector | None",
    write: Callable[[str], None],
) -> Counter:
    counts: Counter = Counter()
    width = column_width(inputs)
    write(f"{'path':<{width}}  {'verdict':<8}  {'P(bona fide)':>12}  {'score':>8}  {'duration':>9}  note".rstrip())
    for result in results:
        write(_row(result, width))
        if args.timeline and isinstance(result, Detection):
            for line in timeline(result, detector.probability):
                write(line)
        counts[_kind(result)] += 1
    return counts


def _row(result: Detection | Failure, width: int) -> str:
    path = printable(result.path)
    if isinstance(result, Failure):
        return f"{path:<{width}}  {'error':<8}  {'-':>12}  {'-':>8}  {'-':>9}  {error_note(result)}"
    # A probability beside an abstention would be read as a verdict.
    abstained = result.verdict == "abstain"
    probability = "-" if abstained else f"{100 * result.probability_bonafide:.1f} %"
    score = "-" if result.score is None else f"{result.score:+.2f}"
    row = f"{path:<{width}}  {result.verdict:<8}  {probability:>12}  {score:>8}  {result.duration:>7.2f} s"
    return f"{row}  {result.reason}" if abstained else row


def timeline(detection: Detection, probability: Callable[[float], float]) -> Iterator[str]:
    """
    The windows as lines of `start - end`, score, and a bar whose length is the probability of genuine speech.

    A long recording has several windows to a line, of which the least genuine one is shown.
    """
    windows = detection.windows
    per_row = -(-len(windows) // TIMELINE_ROWS) or 1
    for first in range(0, len(windows), per_row):
        group = windows[first : first + per_row]
        lowest = min(window.score for window in group)
        filled = round(TIMELINE_WIDTH * probability(lowest))
        bar = "#" * filled + "." * (TIMELINE_WIDTH - filled)
        yield f"  {group[0].start:8.2f} - {group[-1].end:8.2f} s  {lowest:+7.2f}  |{bar}|"


def _summary(counts: Counter, detector: "Detector | None") -> str:
    words = {"bonafide": "bona fide", "spoof": "spoof", "abstain": "abstained", "failed": "failed"}
    clips = count_clips(counts, words)
    if detector is None:
        return f"\n{clips}"
    info = detector.model_info
    warning = "" if info["calibrated"] else " Its probabilities are not calibrated."
    return f"\n{clips} Model: {model_name(info)}.{warning} {CAVEAT}"
