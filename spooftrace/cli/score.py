"""`spooftrace score`: the scores of a whole list of clips, in files; killed runs go on where they stopped."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spooftrace.cli._arguments import positive_int
from spooftrace.cli._model import add_batch_size, add_device_and_limit, add_model_options, load_detector
from spooftrace.cli._score_inputs import Inputs, find_inputs


if TYPE_CHECKING:
    from spooftrace.scoring import Processes, ScoreSummary

EXAMPLES = """\
examples:
  spooftrace score recordings/ --out scores/
  spooftrace score manifest.csv --split test --out scores/
  spooftrace score 'calls/2026-*.ogg' interview.mp3 --out scores/
  spooftrace score LA/ --corpus asvspoof2019-la --split test --out scores/
  spooftrace score --dataset owner/name --split test --out scores/
  spooftrace score recordings/ --out scores/ --model owner/name --revision 1a2b3c4
  accelerate launch --num_processes 4 -m spooftrace score recordings/ --out scores/    on four GPUs
  torchrun --nproc-per-node 4 -m spooftrace score recordings/ --out scores/            likewise, or without GPUs

files in DIR:
  scores.txt    a line "utterance_id score" for each clip that has a score: the log-odds of genuine speech, higher for
                genuine; written so that it reads back as the same number
  scores.jsonl  an object for each clip: score, verdict, probability, windows, SHA-256 of the audio, model; or the error
  run.json      model, list, settings and versions of the run, and digests of the other two; it is written last

utterance ids:
  of a folder: the path of a clip below it, without its ending, as in speaker1/0001
  of files and patterns: likewise, below the folder that they have in common
  of a table (.csv, .tsv, .jsonl): its column utterance_id, or else its path as for a folder; a folder that holds a
  table called metadata or manifest stands for that table
  of a corpus: those of its protocol; of a dataset: its column utterance_id, or else 0, 1, 2...
White space and % in a path are percent-encoded (a b becomes a%20b). Where two paths differ in their ending alone, it
stays. Ids with white space, and an id that is there twice, are refused before anything is scored.

A run that was interrupted or killed goes on with the same command, and its files are the same, byte for byte, as if it
had never stopped. Clips whose audio has changed since are scored again; another model, list or setting is refused.
The number of processes and threads does not matter to the files. On several machines, all need the same DIR.

exit codes: 0 every clip has a score, 3 done but some have none, 1 a failure, 2 a wrong call. A launcher reports its own.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "score",
        help="write the scores of a folder, table, corpus or dataset to files",
        description="Scores every clip of a folder, table, corpus or Hub dataset, resumably, into files for evaluation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="a folder, a table (.csv, .tsv, .jsonl), audio files and patterns, or a corpus's folder",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    _add_input_options(parser.add_argument_group("input"))
    add_model_options(parser.add_argument_group("model"))
    _add_work_options(parser.add_argument_group("work"))
    parser.set_defaults(run=run, refuse=parser.error)


def _add_input_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--split", metavar="S", help="of the table, corpus or dataset")
    group.add_argument("--corpus", metavar="NAME", help="INPUT is the folder of this corpus, such as asvspoof2019-la")
    group.add_argument("--config", metavar="C", help="of the corpus or dataset")
    group.add_argument(
        "--missing-audio",
        choices=("error", "drop"),
        default="error",
        help="for clips of a corpus's protocol that are not there: refuse to start, or leave them out (error)",
    )
    group.add_argument("--allow-outside", action="store_true", help="accept paths that leave the table's folder")
    group.add_argument("--dataset", metavar="OWNER/NAME", help="a dataset on the Hub, streamed; no INPUT then")
    group.add_argument("--dataset-revision", metavar="R", help="its branch, tag or commit")
    group.add_argument("--audio-column", default="audio", metavar="COL", help="of the dataset (audio)")
    group.add_argument("--id-column", metavar="COL", help="of the dataset (utterance_id where there is one)")


def _add_work_options(group: "argparse._ArgumentGroup") -> None:
    add_batch_size(group)
    group.add_argument(
        "--block-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="clips that are kept as a unit; take fewer for long recordings (64)",
    )
    group.add_argument(
        "--threads", type=positive_int, metavar="N", help="blocks at a time; default: one for each core on the CPU"
    )
    add_device_and_limit(group)
    group.add_argument("--overwrite", action="store_true", help="remove the results that DIR holds, and start anew")


def run(args: argparse.Namespace) -> int:
    """Scores the inputs into the folder; 3 when some clips have no score."""
    inputs = find_inputs(args)
    from spooftrace.scoring import Processes, score_clips

    processes = Processes.current()
    with _progress(inputs, args.block_size, processes) as progress:
        summary = score_clips(
            load_detector(args, _device_of(processes)),
            inputs.clips,
            args.out,
            stream=inputs.stream,
            block_size=args.block_size,
            threads=args.threads,
            overwrite=args.overwrite,
            processes=processes,
            progress=progress,
        )
    if processes.index:
        return 0  # the first process speaks for all
    print(_tell(summary, args.out))
    return 0 if summary.complete else 3


def _device_of(processes: "Processes") -> str | None:
    """Processes of one machine take its GPUs in turn."""
    import torch

    if processes.count == 1 or not torch.cuda.is_available():
        return None
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@contextmanager
def _progress(inputs: Inputs, block_size: int, processes: "Processes") -> Iterator[Callable[[int], None] | None]:
    """A progress bar over the clips of the first process, on a terminal."""
    if processes.index or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    total = None
    if inputs.total is not None:
        starts = range(0, inputs.total, block_size * processes.count)
        total = sum(min(block_size, inputs.total - start) for start in starts)
    with tqdm(total=total, unit="clip", leave=False, file=sys.stderr) as bar:
        yield bar.update


def _tell(summary: "ScoreSummary", out: str) -> str:
    clips = "1 clip" if summary.clips == 1 else f"{summary.clips} clips"
    parts = [f"{summary.scored} scored"]
    if summary.abstained:
        parts.append(f"{summary.abstained} without a verdict")
    if summary.failed:
        parts.append(f"{summary.failed} failed (under `error` in scores.jsonl)")
    text = f"{clips}: {', '.join(parts)}."
    if summary.kept == summary.clips:
        return f"{text} All of them were done before; nothing was left to score in {out}."
    before = f" {summary.kept} of them were done before." if summary.kept else ""
    return f"{text}{before} Written to {out}."
