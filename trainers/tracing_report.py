"""Results of source tracing in words: ours beside the paper's, codec by codec, and what silence has to do with it."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from spooftrace.trainers.reproduce import MISSING, aligned, percent
from spooftrace.trainers.reproduce_tracing import RANDOM, TARGETS, TracingReproduction, TracingRow
from spooftrace.trainers.tracing_scores import RankCorrelation, SourceResult, TaskResult, rank_correlation
from spooftrace.trainers.tracing_sets import SETS


PAPER = "arXiv 2506.07294"

Measure = Literal["weighted_f1", "macro_f1"]

_NOTES = (
    f"F1 in %, with its 95 % bootstrap interval; {MISSING}: not at hand. Intervals resample speakers where there are ten or "
    "more, else utterances with all of their versions on CoRS, and single clips on CoSG."
)


def report(plan: TracingReproduction, done: Sequence[TracingRow]) -> str:
    """Weighted F1, ours / the paper's, then macro F1, with the numbers of trials."""
    target = TARGETS[plan.target]
    parts = [f"{target.title} ({PAPER})", *textwrap.wrap(_NOTES, 120), *textwrap.wrap(target.note, 120)]
    parts += ["", "weighted F1, ours / the paper's", *_table(done, target.sets, "weighted_f1")]
    parts += ["", "macro F1", *_table(done, target.sets, "macro_f1")]
    failed = sum(result.failed for row in done for found in row.results.values() for result in found.values())
    parts += ["", f"{failed:,} times a clip could not be read; it counts nowhere."] if failed else []
    return "\n".join(parts)


def _table(done: Sequence[TracingRow], names: Sequence[str], measure: Measure) -> list[str]:
    lines = [["row", "task", *(SETS[name].title for name in names)]]
    lines.append(["trials", "", *(_trials(done, name) for name in names)])
    for row, task in _tasks(done):
        found, paper = row.results.get(task, {}), row.paper.get(task, {})
        cells = [_cell(found.get(name), measure) for name in names]
        if measure == "weighted_f1":
            cells = [f"{cell} / {percent(paper.get(name))}" for cell, name in zip(cells, names, strict=True)]
        lines.append([row.row, task, *cells])
        if row.name == RANDOM and measure == "weighted_f1":
            expected = [percent(100 * found[name].by_chance) if name in found else MISSING for name in names]
            lines.append(["  expected of it", task, *expected])
    return aligned(lines)


def _tasks(done: Iterable[TracingRow]) -> Iterator[tuple[TracingRow, str]]:
    for row in done:
        for task in row.results or row.paper or ("",):
            yield row, task


def _trials(done: Sequence[TracingRow], name: str) -> str:
    """Bona fide and spoof trials; of the row with the most, should clips have failed in others."""
    found = [results[name] for row in done for results in row.results.values() if name in results]
    if not found:
        return MISSING
    most = max(found, key=lambda result: result.trials)
    genuine = sum(most.confusion[0])
    return f"{genuine:,} + {most.trials - genuine:,}"


def _cell(result: TaskResult | None, measure: Measure) -> str:
    if result is None:
        return MISSING
    value, interval = percent(100 * getattr(result, measure)), result.intervals.get(measure)
    return f"{value} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval else value


# --- by codec or generator -------------------------------------------------------------------------------------------


def source_tables(done: Sequence[TracingRow]) -> str:
    """For every test set, F1 and recall of every codec or generator in each row and task."""
    names = list(dict.fromkeys(name for row in done for found in row.sources.values() for name in found))
    return "\n\n".join("\n".join([SETS[name].title, *_source_table(done, name)]) for name in names)


def _source_table(done: Sequence[TracingRow], name: str) -> list[str]:
    columns = {
        f"{row.row}: {task}": {source.name: source for source in row.sources[task][name]}
        for row, task in _tasks(done)
        if name in row.sources.get(task, {})
    }
    any_of = {source: found for column in columns.values() for source, found in column.items()}
    lines = [["codec or generator", "clips", "silence %", *(f"{column}, F1 (recall) %" for column in columns)]]
    for source, found in sorted(any_of.items()):
        share = MISSING if found.silence is None else f"{100 * found.silence:.1f}"
        cells = [_source_cell(column.get(source)) for column in columns.values()]
        lines.append([source, f"{found.trials:,}", share, *cells])
    return aligned(lines)


def _source_cell(found: SourceResult | None) -> str:
    return MISSING if found is None else f"{100 * found.f1:.1f} ({100 * found.recall:.1f})"


class SilenceEffect(NamedTuple):
    """How silence and F1 go together over the codecs or generators of a set; `None` where that cannot be told."""

    row: str
    task: str
    set_name: str
    correlation: RankCorrelation | None


def silence_effects(done: Sequence[TracingRow]) -> list[SilenceEffect]:
    """Rank correlations of the mean share of silence with F1, for every row, task and set."""
    effects = []
    for row, task in _tasks(done):
        for name, sources in row.sources.get(task, {}).items():
            pairs = [(source.silence, source.f1) for source in sources if source.silence is not None]
            found = rank_correlation(*zip(*pairs, strict=True)) if pairs else None
            effects.append(SilenceEffect(row.row, task, name, found))
    return effects


def silence_text(effects: Sequence[SilenceEffect]) -> str:
    """One line for each."""
    lines = [["row", "task", "set", "rank correlation of silence and F1"]]
    for row, task, name, found in effects:
        told = f"{found.rho:+.2f} (p = {found.p_value:.3f}, {found.number} sources)" if found else MISSING
        lines.append([row, task, SETS[name].title, told])
    return "\n".join(aligned(lines))
