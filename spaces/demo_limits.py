"""Pictures of a threshold: a clip's probability beside it, and the measured clips on both of its sides."""

import html

import numpy as np

from spooftrace.spaces.demo_thresholds import OperatingPoints, Threshold
from spooftrace.spaces.demo_words import percent, threshold_words


BINS = 40


def gauge(probability: float, threshold: Threshold) -> str:
    """The probability of genuine speech on a scale whose flagged end is marked; HTML."""
    limit = 100 * threshold.probability
    words = f"{percent(probability)} probability of genuine speech; the threshold is {percent(threshold.probability)}"
    return (
        f'<div class="st-gauge" role="img" aria-label="{words}" style="--st-limit:{limit:.1f}%"><div class="st-scale">'
        f'<span class="st-needle" style="left:{100 * probability:.1f}%"></span></div>'
        f'<div class="st-ends"><span>{percent(1 - probability)} fake</span><span>{percent(probability)} genuine</span>'
        f'</div><p class="st-limit">hatched: flagged, below {percent(threshold.probability)} genuine</p></div>'
    )


def measured(points: OperatingPoints | None, threshold: Threshold, score: float | None) -> str:
    """
    What the threshold did on measured clips, in a picture and in words; HTML.

    Args:
        points: of the detector, `None` where none were measured: then there is no picture.
        threshold: chosen by them.
        score: of the clip that was checked, to mark its place; `None` without a verdict.
    """
    note = f'<p class="st-note">{html.escape(threshold_words(threshold))}</p>'
    if points is None:
        return note
    return f'<figure class="st-measured">{_histogram(points, threshold, score)}{note}</figure>'


def _histogram(points: OperatingPoints, threshold: Threshold, score: float | None) -> str:
    """Genuine clips above the line, fake ones below, each bar a range of scores; flagged ones are hatched."""
    low, high = min(points.genuine[0], points.fake[0]), max(points.genuine[-1], points.fake[-1])
    width = (high - low) / BINS or 1.0
    limit = _place(threshold.point.score, low, width)
    counts = [np.histogram(scores, BINS, (low, low + BINS * width))[0] for scores in (points.genuine, points.fake)]
    tallest = max(int(part.max()) for part in counts)
    bars = "".join(
        _bars(part, tallest, kind, upwards)
        for part, kind, upwards in zip(counts, ("genuine", "fake"), (True, False), strict=True)
    )
    here = "" if score is None else f'<span class="st-here" style="left:{_place(score, low, width):.1f}%"></span>'
    return (
        '<div class="st-hills" role="img" aria-label="Scores of the measured clips, from fake on the left to genuine">'
        f'<svg viewBox="0 0 {BINS} 100" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>'
        f'<span class="st-flags" style="width:{limit:.1f}%"></span>{here}</div>{_caption(score is not None)}'
    )


def _caption(with_clip: bool) -> str:
    key = '<span class="st-key st-key-here" role="img" aria-label="The triangle"></span>'
    here = f' <span class="st-here-words">{key} is this clip.</span>' if with_clip else ""
    return (
        '<figcaption>Clips whose answer is known: <span class="st-key"></span> genuine ones above the line, '
        '<span class="st-key st-key-fake"></span> fake ones below. Left of '
        f'<span class="st-key st-key-limit" role="img" aria-label="the upright line"></span> they are flagged.{here}</figcaption>'
    )


def _place(score: float, low: float, width: float) -> float:
    """In percent of the picture's width; outside it, at its edge."""
    return min(max(100 * (score - low) / (BINS * width), 0.0), 100.0)


def _bars(counts: np.ndarray, tallest: int, kind: str, upwards: bool) -> str:
    heights = 48 * counts / tallest
    return "".join(
        f'<rect class="st-hill-{kind}" x="{place + 0.08}" width="0.84" y="{50 - height if upwards else 50:.1f}" height="{height:.1f}"/>'
        for place, height in enumerate(heights)
        if height > 0
    )
