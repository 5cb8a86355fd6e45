"""The cards of the demo as HTML: the verdict, the source, and what the models know. All text from outside is escaped."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from spooftrace.detector import Detector
from spooftrace.results import Detection, Failure, SourceAnswer, Trace, UnknownAnswer, printable
from spooftrace.spaces.demo_limits import gauge
from spooftrace.spaces.demo_thresholds import Threshold
from spooftrace.spaces.demo_words import CAVEAT, CLASSES, TASKS, Verdict, duration, percent
from spooftrace.tracer import Tracer


def escaped(text: object) -> str:
    """For HTML, without control characters."""
    return html.escape(printable(str(text)))


def verdict_card(verdict: Verdict, result: Detection | Failure, threshold: Threshold) -> str:
    """The verdict on a clip, with its probability beside the threshold."""
    # A probability beside an abstention would be read as a verdict.
    judged = isinstance(result, Detection) and result.verdict != "abstain"
    scale = gauge(result.probability_bonafide, threshold) if judged else ""
    parts = f'<p class="st-parts">{escaped(verdict.parts)}</p>' if verdict.parts else ""
    caveat = f'<p class="st-quiet">{CAVEAT}</p>' if judged else ""
    return (
        f'<section class="st-card st-verdict st-{verdict.tone}"><p class="st-clip">{_clip_words(result)}</p>'
        f"<h2>{escaped(verdict.headline)}</h2>{scale}{parts}<p>{escaped(verdict.detail)}</p>{caveat}</section>"
    )


def _clip_words(result: Detection | Failure) -> str:
    name = escaped(result.path)
    if isinstance(result, Failure):
        return name
    return f"{name}, {duration(result.duration)}, detector <strong>{escaped(result.model['name'])}</strong>"


def trace_card(result: Trace | Failure | None) -> str:
    """The source of a clip, a question with its classes each, and whether it is known at all; nothing for abstentions."""
    if result is None or isinstance(result, Failure) or result.reason:
        return ""
    questions = "".join(_question(task, getattr(result, task)) for task in TASKS)
    return (
        '<section class="st-card"><h2>Where it would come from, if it is fake</h2>'
        f'{_heard(result)}{_unknown(result)}<div class="st-questions">{questions}</div>'
        '<p class="st-quiet">A trace names what fits best of what the tracer knows, and something always does. '
        "Read it only where the clip is flagged.</p></section>"
    )


def _heard(result: Trace) -> str:
    answers = [getattr(result, task) for task in TASKS]
    if any(answer is not None and answer.label != "bonafide" for answer in answers):
        return ""
    return "<p><strong>No neural codec is heard.</strong> Fake speech can be made without one.</p>"


def _question(task: str, answer: SourceAnswer | None) -> str:
    if answer is None or answer.probabilities is None:
        return ""
    rows = "".join(
        _bar(CLASSES[task].get(name, name), share, name == answer.label)
        for name, share in answer.probabilities.items()
    )
    return f'<div class="st-question"><h3>{TASKS[task]}</h3><ul>{rows}</ul></div>'


def _bar(name: str, share: float, best: bool) -> str:
    shown = escaped(name)
    text = f"<strong>{shown}</strong>" if best else shown
    return (
        f'<li><span>{text}</span><span class="st-number">{percent(share)}</span>'
        f'<span class="st-bar" aria-hidden="true"><span style="width:{100 * share:.1f}%"></span></span></li>'
    )


def _unknown(result: Trace) -> str:
    answer: UnknownAnswer | None = result.unknown
    if answer is None:
        return '<p class="st-quiet">This tracer has no score for unknown sources.</p>'
    limit = result.model["open_set"]["threshold"]
    numbers = f'<span class="st-quiet">(unknown score {_short(answer.score)}, threshold {_short(limit)})</span>'
    if answer.is_unknown:
        return (
            f"<p><strong>Unlike every source the tracer knows</strong> {numbers}. The bars show what it resembles.</p>"
        )
    return f"<p>Like what the tracer knows {numbers}.</p>"


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def about(
    names: Mapping[str, Detector], cards: Mapping[str, Path], tracer: Tracer | None, tracer_cards: Sequence[Path] = ()
) -> str:
    """
    What the models were trained on and cannot do.

    Args:
        names: detectors by the names that they are offered by.
        cards: their model cards, where they are at hand.
        tracer: where there is one.
        tracer_cards: its model cards, where they are at hand.
    """
    parts = [_about_detector(name, detector, cards.get(name)) for name, detector in names.items()]
    if tracer is not None:
        limits = "".join(map(_limits, tracer_cards))
        parts.append(f"<h3>Source tracing</h3><p>{_about_tracer(tracer)}</p>{limits}")
    return (
        f'<section class="st-about"><h2>What it was trained on, and what it cannot do</h2>{"".join(parts)}</section>'
    )


def _about_tracer(tracer: Tracer) -> str:
    missing = [
        f"“{words}” ({TASKS[task].lower()})"
        for task, labels in tracer.task_labels.items()
        for label, words in CLASSES[task].items()
        if label not in labels
    ]
    absent = f" It has no class for {' or '.join(missing)}." if missing else ""
    only = "only the score for unknown sources could tell" if tracer.open_set is not None else "it cannot tell"
    return (
        f"It names the known kind of neural codec that comes closest.{absent} Fake speech that was made "
        f"without a neural codec has no class either: {only}."
    )


def _about_detector(name: str, detector: Detector, card: Path | None) -> str:
    corpora = getattr(detector.model.config, "training_corpora", None) or []
    trained = f"Trained on speech from {', '.join(corpora)}." if corpora else "It does not say what it was trained on."
    limits = (_limits(card) if card else "") or "<p>What it cannot do is not stated here; read its model card.</p>"
    return f"<h3>Detector {escaped(name)}</h3><p>{escaped(trained)}</p>{limits}"


def _limits(card: Path) -> str:
    """What a model cannot do, as its card says; empty where it does not."""
    items = "".join(f"<li>{_inline(limit)}</li>" for limit in _bullets(_section(card, "What it cannot do")))
    return f"<ul>{items}</ul>" if items else ""


def _section(card: Path, heading: str) -> list[str]:
    """The paragraphs below a heading of a model card, each as one line; a list is one paragraph of several lines."""
    text = card.read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    paragraphs = found.group(1).strip().split("\n\n") if found else []
    return [
        " ".join(line.strip() for line in re.sub(r"\n- ", "\0- ", part).split("\n")).replace("\0", "\n")
        for part in paragraphs
    ]


def _bullets(paragraphs: Sequence[str]) -> list[str]:
    lines = (line for paragraph in paragraphs for line in paragraph.split("\n"))
    return [line.removeprefix("- ") for line in lines if line.startswith("- ")]


def _inline(text: str) -> str:
    """Bold and code of Markdown as HTML, everything else escaped."""
    safe = escaped(text)
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", bold)
