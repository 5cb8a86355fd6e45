"""Checking a user's copy of a corpus: counts beside the published ones, missing clips, clips that do not decode."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from spooftrace.audio import AudioError, iter_audio
from spooftrace.data_scripts.corpus import Corpus, Count, count
from spooftrace.data_scripts.registry import get_corpus
from spooftrace.data_scripts.rows import Row


CheckAudio = Literal["none", "exists", "decode"]
NO_AUDIO = "no audio"


class Flaw(NamedTuple):
    """One trial whose clip is missing or unreadable, and why."""

    split: str
    utterance_id: str
    message: str


class Verification(NamedTuple):
    """
    What a copy of a corpus holds.

    Args:
        corpus, config: names.
        counts: trials of each split beside the published numbers.
        attacks: for each split, attack -> number of trials.
        missing: trials without a clip.
        unreadable: trials whose clip does not decode.
        decoded: number of clips that were decoded without fault.
    """

    corpus: str
    config: str
    counts: list[Count]
    attacks: dict[str, Counter]
    missing: list[Flaw]
    unreadable: list[Flaw]
    decoded: int

    @property
    def is_whole(self) -> bool:
        """Whether all numbers are the published ones and no clip is amiss."""
        return all(found.matches for found in self.counts) and not self.missing and not self.unreadable


def verify_corpus(
    corpus: str | Corpus,
    data_dir: str | os.PathLike,
    config: str | None = None,
    *,
    check_audio: CheckAudio = "exists",
    options: Mapping[str, Any] | None = None,
) -> Verification:
    """
    Compares a copy of a corpus with what was published of it.

    Args:
        corpus: its name, or the corpus itself.
        data_dir: the folder of the corpus.
        config: one configuration; by default the first.
        check_audio: `"none"`, whether each clip `"exists"`, or `"decode"` all of every clip.
        options: the corpus's own.

    Raises:
        What `Corpus.read` raises.
    """
    corpus = get_corpus(corpus) if isinstance(corpus, str) else corpus
    config, options = corpus.check_config(config), dict(options or {})
    splits = corpus.read(Path(data_dir), config, missing_audio="ignore", **options)
    missing = _missing(splits) if check_audio != "none" and corpus.reads_audio else []
    clips = _clips(corpus, Path(data_dir), config, splits, options) if check_audio == "decode" else iter(())
    decoded, absent, unreadable = _decode(clips, sum(map(len, splits.values())))
    attacks = {
        split: Counter(row.attack_id for row in rows if row.attack_id is not None) for split, rows in splits.items()
    }
    counts = count(corpus, config, splits, options)
    return Verification(corpus.name, config, counts, attacks, missing or absent, unreadable, decoded)


def _missing(splits: Mapping[str, Sequence[Row]]) -> list[Flaw]:
    return [
        Flaw(split, row.utterance_id, NO_AUDIO) for split, rows in splits.items() for row in rows if row.audio is None
    ]


def _clips(
    corpus: Corpus, root: Path, config: str, splits: Mapping[str, Sequence[Row]], options: Mapping[str, Any]
) -> Iterator[tuple[str, str, str | bytes | None]]:
    """Split, utterance and clip of every trial; the clip as a path or, from parquet files, as bytes."""
    if corpus.tables is None:
        for split, rows in splits.items():
            yield from ((split, row.utterance_id, row.audio) for row in rows)
        return
    for split, pieces in corpus.read_pieces(root, config, **options).items():
        for piece in pieces:
            table = corpus.read_table(piece)
            for name, clip in zip(table["utterance_id"].to_pylist(), table["audio"], strict=True):
                value = clip.as_py()
                yield split, name, value["bytes"] or value["path"] if isinstance(value, dict) else value


def _decode(clips: Iterator[tuple[str, str, str | bytes | None]], total: int) -> tuple[int, list[Flaw], list[Flaw]]:
    """Number of clips that decode, trials without a clip, and clips that do not decode."""
    decoded, absent, unreadable = 0, [], []
    for split, name, clip in tqdm(clips, total=total, unit=" clips", desc="decoding", disable=None, leave=False):
        if clip is None:
            absent.append(Flaw(split, name, NO_AUDIO))
            continue
        try:
            for _ in iter_audio(clip):
                pass
            decoded += 1
        except (AudioError, OSError) as error:
            unreadable.append(Flaw(split, name, " ".join(str(error).split())))
    return decoded, absent, unreadable
