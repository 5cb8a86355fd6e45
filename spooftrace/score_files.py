"""Reading score files and joining them with trials: nothing is dropped or guessed, every problem is told at once.

A score file has one line per utterance, `utterance_id score`, divided by white space. The folder that `spooftrace score`
writes holds it as `scores.txt`, beside `scores.jsonl`, which also names the clips that failed, and `run.json`, which says
what was run. numpy and the standard library only.
"""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


LABELS = ("bonafide", "spoof")
SHOWN = 5
"""Examples that an error lists of each kind of problem; it counts the others."""

REMEDIES = {
    "columns": "write two columns, `utterance_id score`, as `awk '{print $1, $NF}'` does for a file with more",
    "number": "a score is a finite number: mend what wrote it, or score those clips again",
    "duplicate": "keep one line for each utterance",
    "missing": "score the whole list (`spooftrace score` goes on where it stopped), or name the split that was scored",
    "extra": "name the protocol and split that the scores belong to, or remove those lines; where ids differ by a folder "
    "alone, score the table itself (`spooftrace score TABLE`), or give it a column utterance_id",
    "label": "an evaluation needs `bonafide` or `spoof` for every trial",
    "repeated": "a protocol names each utterance once",
}

# What a first line that is no score may hold in its second column: ASVspoof 5 puts a heading on its score files.
HEADINGS = ("score", "scores", "cm-score", "cm_score")


class ScoreFileError(ValueError):
    """
    Scores that cannot be evaluated as they are.

    Args:
        path: the score file.
        problems: what is wrong -> the examples of it, all of them.
    """

    def __init__(self, path: str | os.PathLike, problems: Mapping[str, Sequence[str]]):
        self.path, self.problems = Path(path), {kind: list(found) for kind, found in problems.items() if found}
        super().__init__(f"{self.path}: " + "; ".join(_describe(*item) for item in self.problems.items()))


def _describe(kind: str, found: Sequence[str]) -> str:
    what = {
        "columns": "without exactly two columns",
        "number": "without a finite number",
        "duplicate": "for an utterance that has a score already",
        "missing": "without a score",
        "extra": "of utterances that are not in the protocol",
        "label": "without a label",
        "repeated": "that the protocol repeats",
    }[kind]
    noun = "trial" if kind in ("missing", "label", "repeated") else "score" if kind == "extra" else "line"
    examples = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    return f"{len(found)} {noun}{'' if len(found) == 1 else 's'} {what} ({examples}): {REMEDIES[kind]}"


@dataclass(frozen=True)
class Trials:
    """
    What was asked: a list of trials with their labels.

    Args:
        ids: one per trial, without white space.
        labels: `"bonafide"` or `"spoof"` for each.
        columns: what else is known, one value per trial, `None` where it is not.
        name: of the data and the split, for reports.
        corpus: the name of the corpus, where it is a known one.
        split: the name of the split, where there is one.
        elsewhere: ids of the corpus's other splits. Scores of those are put aside instead of refused, because the
            evaluation packages of ASVspoof 2021 want one file with the scores of all parts.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    name: str = "trials"
    corpus: str | None = None
    split: str | None = None
    elsewhere: Collection[str] = ()

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]], **names: Any) -> "Trials":
        """Of columns of which two are `utterance_id` and `label`; `audio` is left out."""
        others = {
            key: list(values) for key, values in columns.items() if key not in ("utterance_id", "label", "audio")
        }
        return cls(tuple(columns["utterance_id"]), tuple(columns["label"]), others, **names)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int]) -> "Trials":
        """Some of the trials, in the given order."""
        columns = {key: [values[i] for i in indices] for key, values in self.columns.items()}
        ids, labels = (tuple(values[i] for i in indices) for values in (self.ids, self.labels))
        return Trials(ids, labels, columns, self.name, self.corpus, self.split, self.elsewhere)


@dataclass(frozen=True)
class Scores:
    """
    A score file.

    Args:
        path: the file.
        values: utterance id -> log-odds of bona fide, finite.
        failed: utterance id -> why it has no score, from `scores.jsonl`; empty where there is none.
        run: `run.json`; empty where there is none.
        sha256: of the file.
    """

    path: Path
    values: Mapping[str, float]
    failed: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None


@dataclass(frozen=True)
class Joined:
    """
    Trials with their scores, in the order of the protocol.

    Args:
        trials: those that have a score.
        scores: float64, of shape `(len(trials),)`.
        skipped: utterance id -> why, for trials whose clip could not be scored.
        skipped_labels: their labels, in the same order.
        source: where the scores came from.
        elsewhere: how many scores were put aside because they belong to other splits of the corpus.
    """

    trials: Trials
    scores: np.ndarray
    skipped: Mapping[str, str]
    skipped_labels: tuple[str, ...]
    source: Scores
    elsewhere: int = 0

    @property
    def bonafide(self) -> np.ndarray:
        """Whether each trial is bona fide."""
        return np.array([label == "bonafide" for label in self.trials.labels], dtype=bool)


def whole_trials(joined: Joined) -> Trials:
    """All trials that were asked for, scored or skipped; without the columns, which skipped ones no longer have."""
    trials = joined.trials
    ids, labels = (*trials.ids, *joined.skipped), (*trials.labels, *joined.skipped_labels)
    return Trials(ids, labels, {}, trials.name, trials.corpus, trials.split, trials.elsewhere)


def read_scores(path: str | os.PathLike) -> Scores:
    """
    A score file, or the folder that `spooftrace score` wrote.

    Raises:
        FileNotFoundError: where there is no such file, or no `scores.txt` in the folder.
        ScoreFileError: with all lines that are no scores.
    """
    scores, problems, _ = _read(path)
    if any(problems.values()):
        raise ScoreFileError(scores.path, problems)
    return scores


def load_scores(path: str | os.PathLike, trials: Trials) -> Joined:
    """
    The scores of a file or folder for exactly these trials.

    Raises:
        FileNotFoundError: where there is no such file.
        ScoreFileError: with all problems of the file and of the join: lines that are no scores, utterances with two
            scores, trials without one that did not fail, scores of other utterances, trials without a label.
    """
    return _join(*_read(path), trials)


def join(scores: Scores, trials: Trials) -> Joined:
    """As `load_scores`, for scores that are at hand."""
    return _join(scores, {}, set(), trials)


def _read(path: str | os.PathLike) -> tuple[Scores, dict[str, list[str]], set[str]]:
    """Scores, the problems of their lines, and the utterances of those lines."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent if path.name == "scores.txt" else None
    file = path / "scores.txt" if path.is_dir() else path
    if not file.is_file():
        unfinished = (path / ".journal").is_dir()
        remedy = "the run is not finished, so run it again" if unfinished else "`spooftrace score` writes one"
        raise FileNotFoundError(f"no score file {file}: {remedy}, or name the file itself")
    data = file.read_bytes()
    values, problems, unread = _parse(file, data)
    failed = _failures(folder / "scores.jsonl", values) if folder else {}
    digest = hashlib.sha256(data).hexdigest()
    run = _read_run(folder / "run.json", digest) if folder else {}
    return Scores(file, values, failed, run, digest), problems, unread


def _parse(path: Path, data: bytes) -> tuple[dict[str, float], dict[str, list[str]], set[str]]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text, so it is no score file: write `utterance_id score`") from error
    values: dict[str, float] = {}
    problems: dict[str, list[str]] = {"columns": [], "number": [], "duplicate": []}
    unread: set[str] = set()
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or (number == 1 and len(fields) == 2 and fields[1].lower() in HEADINGS):
            continue
        name, score = fields[0], _number(fields[-1])
        if len(fields) == 2 and score is not None and name not in values:
            values[name] = score
            continue
        unread.add(name)
        if len(fields) != 2:
            problems["columns"].append(f"line {number} has {len(fields)}")
        elif score is None:
            problems["number"].append(f"line {number}: {name} {fields[1]}")
        else:
            problems["duplicate"].append(f"line {number}: {name}")
    return values, problems, unread


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # `1_000` is a number to Python alone.
    return value if math.isfinite(value) and "_" not in text else None


def _failures(path: Path, scored: Mapping[str, float]) -> dict[str, str]:
    """Clips of `scores.jsonl` that ended without a score. A later line of the same clip replaces an earlier one."""
    failed: dict[str, str] = {}
    if not path.is_file():
        return failed
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the torn last line of a run that was stopped; its clip is missing, and is told as that
            if isinstance(record, dict) and "utterance_id" in record:
                reason = record.get("message") or record.get("reason") or record.get("error") or "no score"
                failed[record["utterance_id"]] = "" if record.get("score") is not None else str(reason)
    return {name: reason for name, reason in failed.items() if reason and name not in scored}


def _read_run(path: Path, digest: str) -> dict[str, Any]:
    """`run.json`, after a look whether it tells of the score file with this hash."""
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): write it again with `spooftrace score`") from error
    run = run if isinstance(run, dict) else {}
    recorded = (run.get("files") or {}).get("scores.txt")
    if recorded not in (None, digest):
        raise ValueError(
            f"{path.with_name('scores.txt')} is not the file that run.json tells of: it was changed since. Score again, "
            "or copy the scores elsewhere to evaluate them without their run"
        )
    return run


def _join(scores: Scores, problems: Mapping[str, list[str]], unread: Collection[str], trials: Trials) -> Joined:
    wanted = set(trials.ids)
    other = scores.values.keys() - wanted
    aside = other.intersection(trials.elsewhere)
    # A line that could not be read is told as that, not as a missing score besides.
    missing = [i for i in trials.ids if i not in scores.values and i not in scores.failed and i not in unread]
    found = {
        **problems,
        "missing": missing,
        "extra": sorted(other - aside),
        "label": [i for i, label in zip(trials.ids, trials.labels, strict=True) if label not in LABELS],
        "repeated": _repeated(trials.ids) if len(wanted) < len(trials) else [],
    }
    if any(found.values()):
        raise ScoreFileError(scores.path, found)
    have = [k for k, name in enumerate(trials.ids) if name in scores.values]
    lost = [k for k, name in enumerate(trials.ids) if name not in scores.values]
    return Joined(
        trials.take(have),
        np.array([scores.values[trials.ids[k]] for k in have], dtype=np.float64),
        {trials.ids[k]: scores.failed[trials.ids[k]] for k in lost},
        tuple(trials.labels[k] for k in lost),
        scores,
        len(aside),
    )


def _repeated(ids: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in ids if name in seen or seen.add(name)]
