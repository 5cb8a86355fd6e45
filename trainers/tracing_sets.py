"""The test sets of codec source tracing over CodecFake+: which clips, and which class each has in every task."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spooftrace.data_scripts.corpus import Corpus
from spooftrace.data_scripts.parsers.codecfake_plus import CORS, COSG, LAST_SEEN_UTTERANCE
from spooftrace.data_scripts.registry import get_corpus
from spooftrace.data_scripts.rows import Row
from spooftrace.data_scripts.taxonomy import parse_utterance
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers.recipe_schema import RecipeError


TASKS = ("vq", "aux", "dec")
"""The tasks of source tracing."""

LISTS = {CORS: "eval", COSG: "all"}
"""The corpora, each with the configuration whose list holds all of its test clips."""

ENOUGH_SPEAKERS = 10
"""Resampling fewer speakers than these gives an interval of nothing but who they are."""

SILENCE_REMOVED = "-no-silence"
"""Ending of the names of sets whose clips are scored without their silence."""


class TracingSet(NamedTuple):
    """
    One column of a table.

    Args:
        title: as it is printed.
        corpus: whose clips these are.
        holds: which of them.
        silence_removed: whether they are scored without their silence.
    """

    title: str
    corpus: str
    holds: Callable[[Row], bool]
    silence_removed: bool = False


def _all(row: Row) -> bool:
    return True


def _known(row: Row) -> bool:
    return bool(row.extra["known_codec"])


def _seen(row: Row) -> bool:
    return row.extra["utterance_number"] <= LAST_SEEN_UTTERANCE


_AS_THEY_ARE = {
    "cors": TracingSet("CoRS", CORS, _all),
    "cosg-known": TracingSet("CoSG kn.", COSG, _known),
    "cosg-all": TracingSet("CoSG All", COSG, _all),
    "cors-seen": TracingSet("CoRS seen", CORS, _seen),
    "cors-unseen": TracingSet("CoRS unseen", CORS, lambda row: not _seen(row)),
}

SETS: Mapping[str, TracingSet] = _AS_THEY_ARE | {
    f"{name}{SILENCE_REMOVED}": found._replace(title=f"{found.title}, no silence", silence_removed=True)
    for name, found in _AS_THEY_ARE.items()
}
"""
The test sets by name. CoSG "kn." are the generators whose codec CoRS was made with; seen utterances are those up to number
250, the unseen ones those above.
"""


def read_trials(data: Path, names: Iterable[str], tell: Callable[[str], None]) -> dict[str, list[Row]]:
    """
    All test trials of the corpora that some sets are of, by corpus; what is not below `data` is told and left out.

    Args:
        data: folder of the corpora, each in a folder or link of its name.
        names: of the sets.
        tell: takes lines for the user.

    Returns:
        Rows with `audio` null where a clip is not there.

    Raises:
        RecipeError: where none of the corpora is there.
        ProtocolError, CorpusNotFoundError: for one that is there and cannot be read.
    """
    wanted = dict.fromkeys(SETS[name].corpus for name in names)
    trials = {}
    for name in wanted:
        corpus: Corpus = get_corpus(name)
        if (data / name).exists():
            trials[name] = corpus.read(data / name, LISTS[name], missing_audio="ignore")["test"]
        else:
            tell(f"absent: {corpus.title} (no {data / name})")
    if not trials:
        raise RecipeError(f"no test corpus is below {data}: expected are folders called {', '.join(wanted)}")
    return trials


def true_classes(rows: Sequence[Row], task: str) -> np.ndarray:
    """
    Index of every trial's class among `TASK_LABELS[task]`, int64 `(trials,)`.

    Raises:
        ValueError: for trials without a class in this task.
    """
    labels = [row.label if task == "bin" else getattr(row, task) for row in rows]
    without = labels.count(None)
    if without:
        raise ValueError(f"{without:,} of {len(rows):,} trials have no class in task {task!r}: leave them out")
    return np.array([TASK_LABELS[task].index(label) for label in labels], dtype=np.int64)


def source_of(row: Row) -> str | None:
    """The codec or generator that a clip is grouped by; `None` for the genuine clips of CoRS, which belong to all."""
    return row.extra.get("model") or row.attack_id


def clusters_of(rows: Sequence[Row]) -> list[str] | None:
    """
    What a bootstrap of these trials resamples: speakers where there are enough of them, or else VCTK's utterances, each
    with all versions of it; `None` for single trials.
    """
    speakers = [row.speaker_id for row in rows]
    if None not in speakers and len(set(speakers)) >= ENOUGH_SPEAKERS:
        return speakers
    if any(row.corpus != CORS for row in rows):
        return None
    utterances = [parse_utterance(row.utterance_id).source for row in rows]
    return utterances if len(set(utterances)) > 1 else None
