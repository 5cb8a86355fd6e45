"""How good scores are on labelled trials: overall, by attack, codec or any other column, and against another system.

```python
joined = load_scores("out/", trials)
report = evaluate(joined, by=["attack_id"])
print(report.to_text())
```

Error rates are fractions here and in JSON, percent in text. Every report names its data, its score file and the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spooftrace.classification import confusion_matrix, expected_calibration_error, report_of
from spooftrace.evaluation_report import Comparison, Group, Measures, Report, Settings, Table
from spooftrace.intervals import Interval, eer_interval, paired_test
from spooftrace.metrics import act_dcf, auc, cllr, det_curve
from spooftrace.score_files import Joined


EXAMPLES = 10  # of skipped clips in a report
_CORPUS = "corpus"


# Trials of a label for an interval: the bootstrap of two or three hardly varies, and would look certain.
FEWEST = 5


@dataclass(frozen=True)
class _Set:
    """Scores, labels and columns of all parts together."""

    scores: np.ndarray
    bonafide: np.ndarray
    columns: Mapping[str, Sequence[Any]]
    speakers: list[tuple] | None

    def split(self, keep: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Bona fide and spoof scores, of all trials or those to keep."""
        keep = np.ones(len(self.scores), dtype=bool) if keep is None else keep
        return self.scores[keep & self.bonafide], self.scores[keep & ~self.bonafide]

    def speakers_of(self, keep: np.ndarray | None = None) -> tuple[list[tuple], list[tuple]] | tuple[None, None]:
        """Speakers of the same trials."""
        if self.speakers is None:
            return None, None
        keep = np.ones(len(self.scores), dtype=bool) if keep is None else keep
        return (
            [self.speakers[i] for i in np.flatnonzero(keep & self.bonafide)],
            [self.speakers[i] for i in np.flatnonzero(keep & ~self.bonafide)],
        )


def evaluate(*parts: Joined, by: Sequence[str] = (), settings: Settings | None = None) -> Report:
    """
    Evaluates scores.

    Args:
        parts: trials with scores, one for each corpus; all of one system.
        by: columns to make tables of.
        settings: of the intervals.

    Raises:
        ValueError: where no trial has a score, or for a column that the trials do not have, with those they have.
    """
    settings = settings or Settings()
    everything = _gather(parts, settings.cluster)
    if not everything.scores.size:
        raise ValueError("no trial has a score, so there is nothing to evaluate")
    wanted = [*by] if settings.cluster == Settings.cluster else [*by, settings.cluster]
    unknown = [column for column in wanted if column not in everything.columns]
    if unknown:
        raise ValueError(f"the trials have no column {', '.join(unknown)}; they have {', '.join(everything.columns)}.")
    overall = measure(*everything.split(), settings=settings, speakers=everything.speakers_of())
    names = {name for name in everything.columns.get(_CORPUS, ()) if name is not None}
    columns = [_CORPUS, *by] if len(names) > 1 else list(by)
    tables = [_table(everything, column, overall, settings) for column in dict.fromkeys(columns)]
    labels = [label for part in parts for label in part.skipped_labels]
    reasons = {name: reason for part in parts for name, reason in part.skipped.items()}
    sources = [describe(part) for part in parts]
    return Report(
        sources=sources,
        overall=overall,
        skipped=(labels.count("bonafide"), labels.count("spoof")),
        skipped_examples=dict(list(reasons.items())[:EXAMPLES]),
        tables=tables,
        corpora=_average(tables[0]) if len(names) > 1 else None,
        settings=settings,
        warnings=[
            *_doubts(sources, everything, len(labels), settings),
            *_warnings(overall, everything.split()),
        ],
    )


def describe(part: Joined) -> dict[str, Any]:
    """Where the numbers of a part come from."""
    model = part.source.run.get("model")
    return {
        "data": part.trials.name,
        "corpus": part.trials.corpus,
        "split": part.trials.split,
        "scores": str(part.source.path),
        "sha256": part.source.sha256,
        "model": dict(model) if isinstance(model, Mapping) else {"name": model} if model else None,
        "of_other_splits": part.elsewhere,
    }


def measure(
    bonafide: np.ndarray,
    spoof: np.ndarray,
    *,
    settings: Settings | None = None,
    speakers: tuple[Sequence, Sequence] | tuple[None, None] = (None, None),
) -> Measures:
    """
    All measures of two sets of scores, of which one may be empty.

    Args:
        bonafide, spoof: scores.
        settings: of the interval.
        speakers: of the bona fide trials and of the spoofs.
    """
    sizes = {"bonafide": len(bonafide), "spoof": len(spoof)}
    decided = _decisions(bonafide, spoof)
    if not len(bonafide) or not len(spoof):
        names = ("eer", "eer_threshold", "eer_interval", "min_dcf", "act_dcf", "cllr", "auc")
        return Measures(**sizes, **dict.fromkeys(names), **decided)
    curve = det_curve(bonafide, spoof)
    rate = curve.eer()
    return Measures(
        **sizes,
        eer=rate.eer,
        eer_threshold=rate.threshold,
        eer_interval=_interval(bonafide, spoof, settings or Settings(), speakers),
        min_dcf=curve.min_dcf().cost,
        act_dcf=float(act_dcf(bonafide, spoof).cost),
        cllr=cllr(bonafide, spoof),
        auc=auc(bonafide, spoof),
        **decided,
    )


def compare(first: Joined, second: Joined, settings: Settings | None = None) -> Comparison:
    """
    Another system against this one, on the trials that both have scored.

    Raises:
        ValueError: where the two were not asked the same trials, or have too few in common for a test.
    """
    settings = settings or Settings()
    asked = [{*part.trials.ids, *part.skipped} for part in (first, second)]
    if asked[0] != asked[1]:
        raise ValueError(f"{len(asked[0] ^ asked[1])} trials are of one system alone: evaluate both on one protocol")
    there = dict(zip(second.trials.ids, second.scores, strict=True))
    both = [k for k, name in enumerate(first.trials.ids) if name in there]
    here = _gather([_take(first, both)], settings.cluster)
    other = _Set(np.array([there[first.trials.ids[k]] for k in both]), here.bonafide, {}, None)
    speakers = _usable(here.speakers_of())
    options = {"rounds": settings.rounds, "level": settings.level, "seed": settings.seed}
    test = paired_test(
        here.split(), other.split(), bonafide_speakers=speakers[0], spoof_speakers=speakers[1], **options
    )
    sizes = (int(here.bonafide.sum()), int((~here.bonafide).sum()))
    return Comparison(describe(second), sizes, test, len(asked[0]) - len(both))


def _take(part: Joined, indices: Sequence[int]) -> Joined:
    return Joined(part.trials.take(indices), part.scores[indices], {}, (), part.source)


def _gather(parts: Sequence[Joined], cluster: str) -> _Set:
    if not parts:
        raise ValueError("there is nothing to evaluate: give at least one set of trials with scores")
    names = list(dict.fromkeys(name for part in parts for name in part.trials.columns))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for part in parts:
        for name in names:
            columns[name] += part.trials.columns.get(name, [None] * len(part.trials))
    if len(parts) > 1:  # the parts are what is pooled, whatever their rows say
        columns[_CORPUS] = [part.trials.name for part in parts for _ in part.trials.ids]
    speakers = None
    if columns.get(cluster) and None not in columns[cluster]:
        homes = columns.get(_CORPUS, [None] * len(columns[cluster]))
        speakers = list(zip(homes, columns[cluster], strict=True))
    scores = np.concatenate([part.scores for part in parts])
    return _Set(scores, np.concatenate([part.bonafide for part in parts]), columns, speakers)


def _usable(speakers: tuple[Sequence, Sequence] | tuple[None, None]) -> tuple[Sequence, Sequence] | tuple[None, None]:
    """The speakers, unless all trials are of one."""
    if speakers[0] is None or len({*speakers[0], *speakers[1]}) < 2:
        return None, None
    return speakers


def _interval(
    bonafide: np.ndarray,
    spoof: np.ndarray,
    settings: Settings,
    speakers: tuple[Sequence, Sequence] | tuple[None, None],
) -> Interval | None:
    if settings.rounds < 1 or min(len(bonafide), len(spoof)) < FEWEST:
        return None
    first, second = _usable(speakers)
    options = {"rounds": settings.rounds, "level": settings.level, "seed": settings.seed}
    return eer_interval(bonafide, spoof, bonafide_speakers=first, spoof_speakers=second, **options)


def _decisions(bonafide: np.ndarray, spoof: np.ndarray) -> dict[str, Any]:
    """What comes of taking every score from 0 on for bona fide."""
    scores = np.concatenate([bonafide, spoof])
    labels = (np.arange(len(scores)) >= len(bonafide)).astype(int)
    confusion = confusion_matrix(labels, (scores < 0).astype(int), classes=2)
    report = report_of(confusion)
    decided = {"accuracy": report.accuracy, "confusion": confusion.tolist()}
    if not len(bonafide) or not len(spoof):
        names = ("balanced_accuracy", "f1_bonafide", "f1_spoof", "f1_macro", "calibration_error")
        return {**decided, **dict.fromkeys(names)}
    probabilities = 0.5 * (1 + np.tanh(0.5 * scores))  # the sigmoid, without overflow
    return {
        **decided,
        "balanced_accuracy": report.balanced_accuracy,
        "f1_bonafide": float(report.f1[0]),
        "f1_spoof": float(report.f1[1]),
        "f1_macro": report.macro_f1,
        "calibration_error": expected_calibration_error(probabilities, labels == 0, balanced=True),
    }


def _table(everything: _Set, column: str, overall: Measures, settings: Settings) -> Table:
    values = [None if value is None else str(value) for value in everything.columns[column]]
    names = sorted({value for value in values if value is not None})
    # Numbers for names: comparing half a million strings for every group takes seconds.
    numbers = {None: -1, **{name: number for number, name in enumerate(names)}}
    codes = np.fromiter((numbers[value] for value in values), np.intp, len(values))
    only_spoofs = bool(names) and not np.any(codes[everything.bonafide] >= 0)
    groups = []
    for value in [*names, None]:
        keep = codes == numbers[value]
        if only_spoofs:
            keep &= ~everything.bonafide
        if keep.any():
            keep |= everything.bonafide & only_spoofs
            groups.append(_group(everything, value, keep, overall.eer_threshold, settings))
    return Table(column, "all bona fide" if only_spoofs else "the group's bona fide", groups)


def _group(
    everything: _Set, value: str | None, keep: np.ndarray, threshold: float | None, settings: Settings
) -> Group:
    bonafide, spoof = everything.split(keep)
    rates = [None, None]
    if threshold is not None:
        rates = [
            float(np.mean(bonafide <= threshold)) if len(bonafide) else None,
            float(np.mean(spoof > threshold)) if len(spoof) else None,
        ]
    if not len(bonafide) or not len(spoof):
        note = "only bona fide" if len(bonafide) else "only spoof"
        return Group(value, len(bonafide), len(spoof), None, None, *rates, note)
    interval = _interval(bonafide, spoof, settings, everything.speakers_of(keep))
    return Group(value, len(bonafide), len(spoof), det_curve(bonafide, spoof).eer().eer, interval, *rates)


def _average(table: Table) -> dict[str, Any]:
    rates = [group.eer for group in table.groups if group.value is not None and group.eer is not None]
    return {"count": len(rates), "average_eer": sum(rates) / len(rates) if rates else None}


def _doubts(sources: Sequence[dict[str, Any]], everything: _Set, skipped: int, settings: Settings) -> list[str]:
    """What to heed about the trials, whatever their scores are."""
    found = []
    if skipped:
        found.append(
            f"{skipped} of {skipped + len(everything.scores)} clips could not be scored and count nowhere below"
        )
    models = {(source["model"].get("name"), source["model"].get("revision")) for source in sources if source["model"]}
    if len(models) > 1:
        found.append(f"the scores that are pooled come from {len(models)} different models")
    speakers = everything.columns.get(settings.cluster, ())
    silent = sum(speaker is None for speaker in speakers)
    if settings.rounds and 0 < silent < len(speakers):
        found.append(
            f"{silent} of {len(speakers)} trials have no {settings.cluster}, so intervals are over trials and not over speakers: too narrow, "
            "where a speaker has many"
        )
    return found


def _warnings(overall: Measures, scores: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """What to heed about the scores."""
    if overall.eer is None:
        only = "bona fide" if overall.bonafide else "spoof"
        return [f"all trials are {only}: error rates of two kinds need both"]
    found = []
    # Three standard deviations of the Mann-Whitney statistic below 0.5: chance alone does that once in 700 tests.
    size = overall.bonafide * overall.spoof
    deviation = math.sqrt((overall.bonafide + overall.spoof + 1) / (12 * size))
    if overall.auc < 0.5 - 3 * deviation:
        other = det_curve(*(-values for values in scores)).eer().eer
        found.append(
            f"the scores look inverted: negated, their EER would be {100 * other:.2f} %. Higher has to mean bona fide; "
            "find out which output of the model the scores are before negating them"
        )
    merged = det_curve(*scores).eer(method="merged").eer
    if abs(merged - overall.eer) > 0.001:
        found.append(
            f"many trials have equal scores, and the EER depends on their order: {100 * overall.eer:.2f} % in the "
            f"convention of ASVspoof, {100 * merged:.2f} % with equal scores kept together"
        )
    if overall.eer == 0:
        fewest = min(overall.bonafide, overall.spoof)
        bound = min(100 * 3 / fewest, 100)
        found.append(
            f"no error in {fewest} trials of a label: an error rate up to about {bound:.2g} % could stay unseen (rule of three)"
        )
    return found
