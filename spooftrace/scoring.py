"""
Batch scoring: a list of clips -> `scores.txt`, `scores.jsonl` and `run.json`, resumable after a crash at any moment.

The list is cut into blocks of a fixed number of clips. Each block is scored by itself, so that which windows share a
forward pass follows from the list alone, and torch computes it on one thread, since the last bits of its results change
with their number. The files are therefore the same, byte for byte, whether a run is killed and resumed, and whether one
process scores the blocks or several do. This holds on machines of one kind: another processor or a GPU may move the
last digits of a score.

Each line is keyed by the SHA-256 of its clip and the model's revision. A resumed run reads the clips again, scores those
blocks anew whose audio has changed, and refuses to go on with another model, other settings or another list.
"""

import itertools
import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from spooftrace.audio import AudioError, AudioLimits, audio_sha256
from spooftrace.detector import Detector
from spooftrace.results import Detection, Failure
from spooftrace.score_identity import (
    Clip,
    Ids,
    ScoringError,
    checked_list,
    describe_run,
    read_run,
    require_same,
    run_text,
)
from spooftrace.score_journal import (
    Journal,
    Line,
    Place,
    find_records,
    read_record,
    replace_file,
    sync_folder,
    writing,
)


__all__ = ["BLOCK_SIZE", "LINES", "RUN", "SCORES", "Processes", "ScoreSummary", "ScoringError", "score_clips"]


SCORES, LINES, RUN = "scores.txt", "scores.jsonl", "run.json"
JOURNAL = ".journal"
BLOCK_SIZE = 64

Block = tuple[Clip, ...]

# A process that is done waits for the slowest one. One that died is noticed at once, by its closed connection.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class ScoreSummary:
    """
    How a run went.

    Args:
        clips: in the list.
        scored: with a line in `scores.txt`.
        abstained: without a verdict, for a reason such as silence. They have a score, but for samples that are not finite.
        failed: that could not be read or scored.
        kept: clips that this process found done by an earlier run.
    """

    clips: int
    scored: int
    abstained: int
    failed: int
    kept: int = 0

    @property
    def complete(self) -> bool:
        """Whether every clip has a score."""
        return self.scored == self.clips


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work: its `index` of `count`, and how it waits for the others."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    @classmethod
    def current(cls) -> "Processes":
        """As `accelerate launch` or `torchrun` started them; one process where neither did."""
        if int(os.environ.get("WORLD_SIZE") or 1) < 2:
            return cls()
        from accelerate import PartialState

        # They exchange nothing but "done", which goes over gloo on any machine: cpu=True chooses that and no device.
        state = PartialState(cpu=True, timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes, state.wait_for_everyone)


def score_clips(
    detector: Detector,
    items: Iterable[Clip],
    out_dir: str | os.PathLike,
    *,
    stream: str | None = None,
    block_size: int = BLOCK_SIZE,
    threads: int | None = None,
    overwrite: bool = False,
    processes: Processes | None = None,
    progress: Callable[[int], None] | None = None,
) -> ScoreSummary:
    """
    Scores a list of clips into a folder, or goes on where an earlier run of the same call stopped.

    ```python
    summary = score_clips(Detector.from_pretrained(), [("a", "a.flac"), ("b", "b.flac")], "scores")
    ```

    `scores.txt` has a line `utterance_id score` for every clip with a finite score, in the order of the list; a score is
    the shortest decimal that reads back as the same float64. `scores.jsonl` has one object per clip: `utterance_id`,
    `score`, `verdict`, `probability_bonafide`, `reason`, `duration`, `windows`, `sha256` and `model`, or for a clip that
    could not be processed `utterance_id`, `error`, `message`, `sha256` and `model`. `run.json` says what was run, and
    appears last. The folder `.journal` is there while the run is not finished.

    Args:
        detector: what scores.
        items: `(utterance_id, source)` pairs. A source is what [`Detector`] takes, and can be read twice; or a function
            without arguments that returns it, called when its turn comes. Errors of the function end the run.
        out_dir: created if need be.
        stream: names a list that is too large to be held, such as a data set and its commit. It is read one block at a
            time, and on resuming its audio is taken to be what that name has always stood for.
        block_size: clips that are scored and kept as a unit. A crash costs the blocks in work. Part of the settings.
        threads: blocks scored at the same time, on one torch thread each; no matter to the result. By default as many as
            torch would use, and one beside an accelerator.
        overwrite: removes the results of another run, or of an unfinished one, first.
        processes: those that share the work, by default as `accelerate launch` or `torchrun` started them. All are given
            the same list and folder; the first one writes the files.
        progress: called with 1 for every clip that is done, in any thread, once at a time.

    Raises:
        ScoringError: for utterance ids that cannot stand in a score file, an empty list, and a folder with the results
            of another run.
        ValueError: for an argument out of range.
        OSError: where the folder cannot be written.
    """
    for name, value in (("block_size", block_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    items = items if stream else checked_list(items)
    run = _Run(detector, Path(out_dir), processes or Processes.current(), block_size, _counter(progress))
    return run(items, stream, overwrite, threads or _default_threads(detector.device))


def _counter(progress: Callable[[int], None] | None) -> Callable[[int], None]:
    lock = threading.Lock()

    def count(clips: int) -> None:
        if progress is not None:
            with lock:
                progress(clips)

    return count


def _default_threads(device: torch.device) -> int:
    return torch.get_num_threads() if device.type == "cpu" else 1


class _Run:
    """One call of `score_clips`."""

    def __init__(
        self, detector: Detector, out: Path, processes: Processes, block_size: int, advance: Callable[[int], None]
    ):
        self.detector, self.out, self.processes = detector, out, processes
        self.block_size, self.advance = block_size, advance
        self.journal = out / JOURNAL
        self.kept = 0

    def __call__(self, items: Iterable[Clip], stream: str | None, overwrite: bool, threads: int) -> ScoreSummary:
        description = describe_run(self.detector, self.block_size, items, stream)
        if self.processes.index == 0:
            self._open(description, items, stream, overwrite)
        self.processes.wait()
        if (self.out / RUN).exists() and not self.journal.exists():
            return replace(summary := self._summary(description), kept=summary.clips)
        require_same(read_run(self.journal / RUN), description, self.out)
        count = self._score(self._blocks(items, stream), stream, threads)
        self.processes.wait()
        if self.processes.index == 0:
            self._finish(description, count)
        self.processes.wait()
        return self._summary(description)

    # --- the folder --------------------------------------------------------------------------------------------------

    def _open(self, description: dict, items: Iterable[Clip], stream: str | None, overwrite: bool) -> None:
        """Makes the folder ready: new, to go on with, or finished already."""
        if overwrite:
            _remove_results(self.out)
        if (self.out / RUN).exists():
            self._reopen(description, items, stream)
        elif not (self.journal / RUN).exists():
            _refuse_strangers(self.out)
            self._begin(description)

    def _begin(self, description: dict) -> None:
        if self.journal.exists():  # without a description: what it holds may be of any model
            shutil.rmtree(self.journal)
        with writing(self.journal):
            self.journal.mkdir(parents=True)
        replace_file(self.journal / RUN, [run_text(description)], self.journal)

    def _reopen(self, description: dict, items: Iterable[Clip], stream: str | None) -> None:
        """A finished run stays as it is, but for blocks whose audio has changed: they go back to work."""
        recorded = read_run(self.out / RUN)
        require_same(recorded, description, self.out)
        for name, digest in recorded["files"].items():
            if not (self.out / name).is_file() or audio_sha256(self.out / name) != digest:
                raise ScoringError(
                    f"{self.out / name} is not the file that {RUN} tells of: pass another --out, or --overwrite"
                )
        if self.journal.exists():  # of a run that was stopped after its last file
            shutil.rmtree(self.journal)
        if stream or all(same for *_, same in self._finished(items)):
            return
        self._begin(description)
        with closing(Journal(self.journal)) as journal:
            for index, lines, same in self._finished(items):
                if same:
                    journal.append(index, lines)
        os.remove(self.out / RUN)
        sync_folder(self.out)

    def _finished(self, items: Iterable[Clip]) -> Iterator[tuple[int, list[Line], bool]]:
        """The blocks of a finished run, and whether their audio is still what it was."""
        with open(self.out / LINES, encoding="utf-8") as file:
            for index, block in enumerate(self._blocks(items, None)):
                lines = [json.loads(line) for line in itertools.islice(file, len(block))]
                yield index, lines, self._unchanged(lines, block, None)

    # --- the work ----------------------------------------------------------------------------------------------------

    def _blocks(self, items: Iterable[Clip], stream: str | None) -> Iterator[Block]:
        ids, iterator = Ids(), iter(items)
        while block := tuple(itertools.islice(iterator, self.block_size)):
            for problem in (ids.problem(utterance_id) for utterance_id, _ in block if stream):
                if problem:
                    raise ScoringError(f"utterance id {problem}: name another column, or leave it out to number them")
            yield block

    def _score(self, blocks: Iterable[Block], stream: str | None, threads: int) -> int:
        """Every block that is this process's and not done yet; returns the number of all blocks."""
        pool = ThreadPoolExecutor(threads, "score", torch.set_num_threads, (1,))
        torch_threads, count = torch.get_num_threads(), 0
        done, working = find_records(self.journal), deque()
        try:
            with closing(Journal(self.journal, self.processes.index)) as journal:
                for count, block in enumerate(blocks, start=1):
                    if (count - 1) % self.processes.count != self.processes.index:
                        continue
                    place = done.get(count - 1)
                    if place and self._unchanged(read_record(place), block, stream):
                        self._keep(block)
                        continue
                    working.append((count - 1, place, pool.submit(self._score_block, block)))
                    if len(working) > threads:  # one more than can be in work, so that no thread waits
                        _record(journal, *working.popleft())
                while working:
                    _record(journal, *working.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(torch_threads)
        return count

    def _keep(self, block: Block) -> None:
        self.kept += len(block)
        self.advance(len(block))

    def _unchanged(self, lines: list[Line], block: Block, stream: str | None) -> bool:
        """Whether the lines of an earlier run tell of these clips, with the audio that they have now."""
        if [line["utterance_id"] for line in lines] != [utterance_id for utterance_id, _ in block]:
            return False
        return bool(stream) or all(
            line["sha256"] == _sha256(_loaded(source), self.detector.limits)
            for line, (_, source) in zip(lines, block, strict=True)
        )

    def _score_block(self, block: Block) -> list[Line]:
        sources = [_loaded(source) for _, source in block]
        lines = []
        for (utterance_id, _), source, result in zip(block, sources, self.detector.detect(sources), strict=True):
            lines.append(_line(utterance_id, result, source, self.detector))
            self.advance(1)
        return lines

    # --- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, description: dict, blocks: int) -> None:
        """The files, from the journals of all processes; `run.json` comes last and the journal goes."""
        found = find_records(self.journal)
        missing = [index for index in range(blocks) if index not in found]
        if missing:
            raise ScoringError(
                f"{len(missing)} of {blocks} blocks are in no journal below {self.out}: all processes must see the same "
                "folder; run the same again to score what is missing"
            )
        counts = {"clips": 0, "scored": 0, "abstained": 0, "failed": 0}
        for line in _lines(found):
            counts["clips"] += 1
            counts["scored"] += line.get("score") is not None
            counts["abstained"] += line.get("verdict") == "abstain"
            counts["failed"] += "error" in line
        texts = {
            SCORES: (f"{line['utterance_id']} {line['score']!r}\n" for line in _scored(found)),
            LINES: (json.dumps(line, allow_nan=False) + "\n" for line in _lines(found)),
        }
        files = {name: replace_file(self.out / name, text, self.journal) for name, text in texts.items()}
        recorded = {**description, "results": counts, "files": files}
        replace_file(self.out / RUN, [run_text(recorded)], self.journal)
        shutil.rmtree(self.journal)

    def _summary(self, description: dict) -> ScoreSummary:
        recorded = read_run(self.out / RUN)
        require_same(recorded, description, self.out)
        return ScoreSummary(**recorded["results"], kept=self.kept)


def _record(journal: Journal, index: int, place: Place | None, lines: Future) -> None:
    journal.append(index, lines.result(), place.round + 1 if place else 0)


def _lines(found: dict[int, Place]) -> Iterator[Line]:
    for index in sorted(found):
        yield from read_record(found[index])


def _scored(found: dict[int, Place]) -> Iterator[Line]:
    return (line for line in _lines(found) if line.get("score") is not None)


def _loaded(source: Any) -> Any:
    return source() if callable(source) else source


def _line(utterance_id: str, result: Detection | Failure, source: Any, detector: Detector) -> Line:
    if isinstance(result, Failure):
        failure = {"utterance_id": utterance_id, "error": result.error, "message": result.message}
        return {**failure, "sha256": _sha256(source, detector.limits), "model": detector.model_info}
    names = ("score", "verdict", "probability_bonafide", "reason", "duration")
    known = {name: getattr(result, name) for name in names}
    windows = [asdict(window) for window in result.windows]
    return {"utterance_id": utterance_id, **known, "windows": windows, "sha256": result.sha256, "model": result.model}


def _sha256(source: Any, limits: AudioLimits) -> str | None:
    """Of a clip's encoded bytes, as in its detection; `None` where they cannot be had."""
    if isinstance(source, dict):
        source = next((source[key] for key in ("array", "bytes", "path") if source.get(key) is not None), None)
    try:
        return audio_sha256(source, limits=limits)
    except (AudioError, OSError):
        return None


def _refuse_strangers(out: Path) -> None:
    found = [name for name in (SCORES, LINES) if (out / name).exists()]
    if found:
        raise ScoringError(
            f"{out} holds {' and '.join(found)} without {RUN}: score into another --out, or pass --overwrite to remove it"
        )


def _remove_results(out: Path) -> None:
    """`run.json` goes first: without it nothing passes for a finished run."""
    for name in (RUN, SCORES, LINES):
        (out / name).unlink(missing_ok=True)
    if (out / JOURNAL).exists():
        shutil.rmtree(out / JOURNAL)
