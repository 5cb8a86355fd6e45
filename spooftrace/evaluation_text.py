"""An evaluation as text for people: what was measured on what first, then the numbers, then the tables."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from spooftrace.evaluation_report import Comparison, Group, Measures, Report, Settings, Table
from spooftrace.intervals import Interval
from spooftrace.results import printable


MAX_GROUPS = 60
"""Rows of a table; beyond that the groups with the highest error rates are shown."""

LABEL_WIDTH = 18


def render(report: Report) -> str:
    """The whole report, without a line break at its end."""
    blocks = [
        _sources(report),
        [f"WARNING   {text}" for text in report.warnings],
        _overall(report.overall, report.settings, pooled=report.corpora is not None),
        _decisions(report.overall),
        *(_table(table, report) for table in report.tables),
        _comparison(report.comparison, report.sources[0]) if report.comparison else [],
        [f"{'Shared speech':<{LABEL_WIDTH}}{printable(text)}" for text in report.contamination],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def model_name(source: dict[str, Any]) -> str:
    """The model of a source with its revision and the version of spooftrace."""
    model = source["model"]
    if not model:
        return "unknown (the scores have no run.json beside them)"
    revision = model.get("revision")
    details = [str(revision)[:19]] if revision else []
    details += [f"spooftrace {model['spooftrace']}"] if model.get("spooftrace") else []
    return printable(f"{model.get('name', 'without a name')}" + (f" ({', '.join(details)})" if details else ""))


def _sources(report: Report) -> list[str]:
    lines = []
    for source in report.sources:
        digest = f" (sha256 {source['sha256'][:12]})" if source["sha256"] else ""
        pairs = [("Data", source["data"]), ("Scores", source["scores"] + digest), ("Model", model_name(source))]
        if source["of_other_splits"]:
            pairs.append(("Put aside", f"{source['of_other_splits']} scores of the corpus's other splits"))
        lines += [f"{name:<{LABEL_WIDTH}}{printable(value)}" for name, value in pairs]
    lines.append(f"{'Trials':<{LABEL_WIDTH}}{report.overall.bonafide} bona fide, {report.overall.spoof} spoof")
    if any(report.skipped):
        bonafide, spoof = report.skipped
        lines.append(f"{'SKIPPED':<{LABEL_WIDTH}}{bonafide} bona fide, {spoof} spoof could not be scored:")
        lines += [
            f"{'':<{LABEL_WIDTH}}{printable(f'{name}: {reason}')}" for name, reason in report.skipped_examples.items()
        ]
        more = sum(report.skipped) - len(report.skipped_examples)
        lines += [f"{'':<{LABEL_WIDTH}}and {more} more"] if more else []
    return lines


def _overall(overall: Measures, settings: Settings, *, pooled: bool) -> list[str]:
    if overall.eer is None:
        return []
    name = "Pooled EER" if pooled else "EER"
    return [
        f"{name:<{LABEL_WIDTH}}{100 * overall.eer:6.2f} %   {_interval(overall.eer_interval, settings)}".rstrip(),
        f"{'EER threshold':<{LABEL_WIDTH}}{overall.eer_threshold:+8.4f}   scores above it count as bona fide",
        f"{'minDCF':<{LABEL_WIDTH}}{overall.min_dcf:8.4f}   spoof prior 0.05, costs 1 and 10",
        f"{'actDCF':<{LABEL_WIDTH}}{overall.act_dcf:8.4f}   the same, deciding by the scores as they are",
        f"{'CLLR':<{LABEL_WIDTH}}{overall.cllr:8.4f}   bits; 1 says nothing",
        f"{'AUC':<{LABEL_WIDTH}}{overall.auc:8.4f}",
        f"{'Calibration error':<{LABEL_WIDTH}}{overall.calibration_error:8.4f}   of sigmoid(score), both labels alike",
    ]


def _interval(interval: Interval | None, settings: Settings) -> str:
    if interval is None:
        return "no interval: too few trials" if settings.rounds else ""
    what = f"{interval.clusters} speakers" if interval.clusters is not None else "trials"
    text = f"{100 * interval.level:g} % interval {100 * interval.low:.2f} to {100 * interval.high:.2f} %"
    redrawn = f", {interval.redrawn} draws without a label repeated" if interval.redrawn else ""
    return f"{text} (bootstrap over {what}, {interval.rounds} rounds{redrawn})"


def _decisions(overall: Measures) -> list[str]:
    shares = [("accuracy", overall.accuracy), ("balanced", overall.balanced_accuracy)]
    scores = [("macro", overall.f1_macro), ("bona fide", overall.f1_bonafide), ("spoof", overall.f1_spoof)]
    texts = [f"{name} {100 * value:.2f} %" for name, value in shares if value is not None]
    f1 = [f"{name} {value:.4f}" for name, value in scores if value is not None]
    rows = [("true", "called bona fide", "called spoof")]
    names = ("bona fide", "spoof")
    rows += [(name, *map(str, counts)) for name, counts in zip(names, overall.confusion, strict=True)]
    return [
        "Calling a clip bona fide from a score of 0 on: " + ", ".join(texts),
        *(["F1: " + ", ".join(f1)] if f1 else []),
        *_columns(rows),
    ]


def _table(table: Table, report: Report) -> list[str]:
    groups = table.groups
    lines = [f"By {table.column}: the spoofs of each group against {table.against}"]
    if len(groups) > MAX_GROUPS:
        groups = sorted(groups, key=lambda group: -1 if group.eer is None else group.eer, reverse=True)[:MAX_GROUPS]
        lines[0] += f" (the {MAX_GROUPS} highest of {len(table.groups)}; JSON has all)"
    with_interval = any(group.eer_interval for group in groups)
    heading = [table.column, "bona fide", "spoof", "EER %"] + ["interval"] * with_interval
    # Against all bona fide trials, the share of refused ones is the same for every group.
    own_bonafide = table.against != "all bona fide"
    rows = [(*heading, *["refused %"] * own_bonafide, "accepted %")]
    rows += [_row(group, with_interval, own_bonafide) for group in groups]
    lines += _columns(rows)
    if report.overall.eer is not None:
        refused = "refused bona fide and " * own_bonafide
        lines.append(f"{refused}accepted spoofs: at the overall EER threshold")
    if table.column == "corpus" and report.corpora and report.corpora["average_eer"] is not None:
        average, count = 100 * report.corpora["average_eer"], report.corpora["count"]
        lines.append(f"Average EER over {count} corpora {average:.2f} %, each with a threshold of its own")
    return lines


def _row(group: Group, with_interval: bool, own_bonafide: bool) -> tuple[str, ...]:
    rate = group.note if group.eer is None else f"{100 * group.eer:.2f}"
    found = group.eer_interval
    interval = [f"{100 * found.low:.2f} to {100 * found.high:.2f}" if found else "-"] * with_interval
    rates = [group.refused_bonafide] * own_bonafide + [group.accepted_spoof]
    shares = ("-" if share is None else f"{100 * share:.2f}" for share in rates)
    return (
        "(none)" if group.value is None else group.value,
        str(group.bonafide),
        str(group.spoof),
        rate,
        *interval,
        *shares,
    )


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines, the first column to the left, the others to the right."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells: Iterable[str] = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  " + "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()


def _comparison(comparison: Comparison, source: dict[str, Any]) -> list[str]:
    test, difference = comparison.test, comparison.test.difference
    what = f"{difference.clusters} speakers" if difference.clusters is not None else "trials"
    ends = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
    mcnemar = test.mcnemar
    lines = [f"Compared on the same {comparison.trials[0]} bona fide and {comparison.trials[1]} spoof trials"]
    for rate, system in ((test.first, source), (test.second, comparison.other)):
        lines.append(f"  {100 * rate:6.2f} %  {printable(system['scores'])}, model {model_name(system)}")
    lines.append(
        f"  {100 * difference.value:+6.2f} points of EER, {100 * difference.level:g} % interval {ends}, "
        f"p = {test.p_value:.3g} (paired bootstrap over {what}, {difference.rounds} rounds)"
    )
    lines.append(
        f"  McNemar p = {mcnemar.p_value:.3g}: wrong only here {mcnemar.only_first_wrong}, "
        f"only there {mcnemar.only_second_wrong}, each at its own EER threshold"
    )
    if comparison.unpaired:
        lines.append(f"  {comparison.unpaired} trials left out, which one of the two could not score")
    return lines
