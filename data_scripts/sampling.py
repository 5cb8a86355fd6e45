"""Which trials to train on: spoofs balanced over a codec attribute, and genuine speech divided among attack domains.

Everything is drawn by a NumPy generator over sorted ids: the same seed and the same trials give the same result,
whatever their order.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from spooftrace.data_scripts.rows import Row
from spooftrace.data_scripts.taxonomy import ATTRIBUTE_LABELS, parse_utterance


Attribute = Literal["vq", "aux", "dec"]
Incomplete = Literal["error", "drop"]


def sample_balanced(
    rows: Iterable[Row], attribute: Attribute, seed: int = 0, *, incomplete: Incomplete = "error"
) -> list[Row]:
    """
    CodecFake+'s taxonomy-guided sampling: every genuine utterance with one spoof of the same utterance.

    The class of the balanced attribute is uniform over those other than bona fide: their numbers differ by at most one.
    Within a class the codec is drawn uniformly from those that re-synthesised the utterance. Spoofs whose class is not
    known are never drawn. This is the sampling of arXiv 2501.08238; the generator behind its published lists is not
    public, so theirs are other draws of the same kind.

    Args:
        rows: trials of CoRS, such as a split of the configuration `"labels"`.
        attribute: what to balance.
        seed: of the draw.
        incomplete: what to do with a genuine utterance that lacks the spoofs of a class: `"error"`, or `"drop"` it.

    Returns:
        Pairs, the genuine utterance before its spoof, in the order of the utterance ids: `2 * utterances` rows.

    Raises:
        ValueError: for an unknown attribute, an id that is given twice, or no or incomplete genuine utterances.
    """
    if attribute not in ATTRIBUTE_LABELS:
        raise ValueError(f"unknown attribute {attribute!r}: write one of {', '.join(map(repr, ATTRIBUTE_LABELS))}")
    rows = _sorted_by_id(rows)
    classes = ATTRIBUTE_LABELS[attribute][1:]
    spoofs = _spoofs_by_source(rows, attribute)
    bonafide = [row for row in rows if row.label == "bonafide"]
    complete = [row for row in bonafide if spoofs[row.utterance_id].keys() >= set(classes)]
    _check_complete(bonafide, complete, spoofs, classes, incomplete)
    generator = np.random.default_rng(seed)
    assigned = _balanced_classes(len(complete), classes, generator)
    pairs = []
    for row, name in zip(complete, assigned, strict=True):
        candidates = spoofs[row.utterance_id][name]
        pairs += [row, candidates[generator.integers(len(candidates))]]
    return pairs


def partition_bonafide(
    rows: Iterable[Row], domains: Sequence[str] | None = None, seed: int = 0, *, stratify_by_speaker: bool = False
) -> dict[str, str]:
    """
    A domain for every trial: spoofs belong to their attack's, genuine speech is divided among all of them.

    A seeded permutation of the genuine utterances is dealt round robin, so that the domains' numbers differ by at most
    one and the first domains get the remainder: 430 each for the 2,580 of ASVspoof 2019 LA train and its six attacks.

    Args:
        rows: trials of one split.
        domains: the attack ids, in the order of the domains; by default the sorted ones of `rows`.
        seed: of the permutation.
        stratify_by_speaker: deal speaker after speaker, so that also within each speaker the numbers differ by at most
            one.

    Returns:
        Utterance id -> domain, for every row, in the order of the ids.

    Raises:
        ValueError: for no or repeated domains, an id that is given twice, a row without label, a spoof of another
            attack, and, with `stratify_by_speaker`, genuine speech without a speaker.
    """
    rows = _sorted_by_id(rows)
    domains = _check_domains(rows, domains)
    generator = np.random.default_rng(seed)
    groups = defaultdict(list)
    for row in rows:
        if row.label == "bonafide":
            groups[_speaker(row) if stratify_by_speaker else ""].append(row.utterance_id)
    dealt = [ids[at] for _, ids in sorted(groups.items()) for at in generator.permutation(len(ids))]
    of_bonafide = {utterance_id: domains[turn % len(domains)] for turn, utterance_id in enumerate(dealt)}
    return {
        row.utterance_id: of_bonafide[row.utterance_id] if row.label == "bonafide" else row.attack_id for row in rows
    }


def _sorted_by_id(rows: Iterable[Row]) -> list[Row]:
    rows = sorted(rows, key=lambda row: row.utterance_id)
    for one, other in pairwise(rows):
        if one.utterance_id == other.utterance_id:
            raise ValueError(
                f"utterance id {one.utterance_id!r} is given twice: pass the rows of one split of one corpus"
            )
    return rows


def _spoofs_by_source(rows: Sequence[Row], attribute: str) -> Mapping[str, Mapping[str, list[Row]]]:
    """Genuine utterance id -> class -> its spoofs of that class, in the order of their ids."""
    found: Mapping = defaultdict(lambda: defaultdict(list))
    for row in rows:
        name = getattr(row, attribute)
        if row.label == "spoof" and name is not None:
            found[parse_utterance(row.utterance_id).source][name].append(row)
    return found


def _check_complete(
    bonafide: Sequence[Row],
    complete: Sequence[Row],
    spoofs: Mapping[str, Mapping[str, list[Row]]],
    classes: Sequence[str],
    incomplete: str,
) -> None:
    if incomplete not in ("error", "drop"):
        raise ValueError(f"incomplete is {incomplete!r}: write 'error' or 'drop'")
    if len(complete) < len(bonafide) and incomplete == "error":
        kept = {row.utterance_id for row in complete}
        first = next(row.utterance_id for row in bonafide if row.utterance_id not in kept)
        lacking = ", ".join(name for name in classes if name not in spoofs[first])
        raise ValueError(
            f"{len(bonafide) - len(complete)} of {len(bonafide)} genuine utterances lack spoofs of a class, such as "
            f'{first!r} of {lacking}: pass rows with all codecs, or incomplete="drop" to leave them out'
        )
    if not complete:
        raise ValueError("no genuine utterance has spoofs of every class: pass both kinds, as of one split of CoRS")


def _balanced_classes(count: int, classes: Sequence[str], generator: np.random.Generator) -> list[str]:
    """`count` classes in random order, the numbers of each at most one apart; chance decides who gets the remainder."""
    order = generator.permutation(len(classes))
    return [classes[order[turn % len(classes)]] for turn in generator.permutation(count)]


def _check_domains(rows: Sequence[Row], domains: Sequence[str] | None) -> list[str]:
    attacks = Counter(row.attack_id for row in rows if row.label == "spoof")
    chosen = sorted(filter(None, attacks)) if domains is None else list(domains)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"domains are {chosen}: give every attack once, and at least one")
    foreign = sorted(map(str, attacks.keys() - set(chosen)))
    if foreign:
        raise ValueError(
            f"spoofs of {', '.join(foreign)} are of none of the domains {', '.join(chosen)}: leave them out"
        )
    unlabelled = next((row.utterance_id for row in rows if row.label not in ("bonafide", "spoof")), None)
    if unlabelled is not None:
        raise ValueError(f"{unlabelled!r} has no label: domains need labelled trials")
    return chosen


def _speaker(row: Row) -> str:
    if row.speaker_id is None:
        raise ValueError(f"{row.utterance_id!r} has no speaker: leave stratify_by_speaker out")
    return row.speaker_id
