"""Pictures of a clip as HTML that needs nothing from elsewhere: waveform, spectrogram, and its windows as buttons."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from spooftrace.results import Window, printable
from spooftrace.spaces.demo_clip import Picture
from spooftrace.spaces.demo_words import clock, percent, stretch


# More buttons than this are too narrow to hit; a long clip has several windows to a button.
MAX_BUTTONS = 60

# Dark violet over red to light yellow: lightness grows evenly, so that it reads in grey and with any colour vision.
_HEAT = np.array([(13, 8, 45), (78, 20, 110), (156, 41, 99), (222, 83, 55), (250, 158, 30), (252, 240, 165)], float)


@dataclass(frozen=True)
class Slot:
    """
    A button of the timeline.

    Args:
        window: the number of the window that it plays, the least genuine one of those it stands for.
        count: how many it stands for.
        left, right: its edges in seconds; slots cover the clip without gaps.
    """

    window: int
    count: int
    left: float
    right: float


def slots(windows: Sequence[Window], seconds: float, most: int = MAX_BUTTONS) -> list[Slot]:
    """
    The buttons for windows that overlap: each reaches to the middle between its centre and the next.

    Args:
        windows: in order of time.
        seconds: length of the clip.
        most: buttons at most.
    """
    centres = [(window.start + window.end) / 2 for window in windows]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(centres)), seconds]
    per_slot = -(-len(windows) // most) or 1
    found = []
    for first in range(0, len(windows), per_slot):
        last = min(first + per_slot, len(windows))
        lowest = min(range(first, last), key=lambda index: windows[index].score)
        found.append(Slot(lowest, last - first, edges[first], edges[last]))
    return found


def timeline(
    picture: Picture, windows: Sequence[Window], probability: Callable[[float], float], threshold: float, whose: str
) -> str:
    """
    Waveform, spectrogram and windows of a clip above each other, on one axis of time.

    Args:
        picture: of the clip.
        windows: of the detection; none where there is no verdict to explain.
        probability: of genuine speech, for a window's score.
        threshold: probability from which on a clip passes; drawn as a line.
        whose: the clip and the detector, in words.

    Returns:
        HTML. Buttons carry `data-window`, the number of the window to play.
    """
    name = html.escape(printable(whose))
    return (
        f'<figure class="st-figure" aria-label="Timeline of {name}"><p class="st-whose">{name}</p>'
        f'<div class="st-lane st-wave" role="img" aria-label="Waveform">{_waveform(picture)}{_tag("loudness")}'
        '<div class="st-extent" hidden></div></div>'
        f'<div class="st-lane st-mel"><img alt="Log-mel spectrogram, 0 to 8 kHz" src="{heat_map(picture.mel)}">'
        f'{_tag("frequencies, 0 to 8 kHz")}<div class="st-extent" hidden></div></div>'
        f"{_buttons(windows, picture.seconds, probability, threshold)}{_axis(picture.seconds)}"
        f"<figcaption>{_legend(windows)}</figcaption></figure>"
    )


def _waveform(picture: Picture) -> str:
    """The envelope, scaled to the loudest sample."""
    peak = max(float(np.abs(picture.low).max()), float(picture.high.max()), 1e-4)
    upper = [f"{x},{50 - 48 * y / peak:.1f}" for x, y in enumerate(picture.high)]
    lower = [f"{x},{50 - 48 * y / peak:.1f}" for x, y in reversed(list(enumerate(picture.low)))]
    width = max(len(picture.low) - 1, 1)
    points = " ".join(upper + lower)
    return (
        f'<svg viewBox="0 0 {width} 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<line x1="0" y1="50" x2="{width}" y2="50"/><polygon points="{points}"/></svg>'
    )


def heat_map(values: np.ndarray) -> str:
    """`[rows, columns]`, the first row at the bottom -> a PNG as a data URI; dark is low, light is high."""
    low, high = float(values.min()), float(values.max())
    share = (values[::-1].astype(float) - low) / max(high - low, 1e-9)
    anchors = np.linspace(0, 1, len(_HEAT))
    pixels = np.stack([np.interp(share, anchors, channel) for channel in _HEAT.T], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _buttons(
    windows: Sequence[Window], seconds: float, probability: Callable[[float], float], threshold: float
) -> str:
    buttons = []
    for number, slot in enumerate(slots(windows, seconds)):
        window = windows[slot.window]
        genuine = probability(window.score)
        # One stop for the tab key; the arrow keys move between the windows.
        stop = 'tabindex="0"' if number == 0 else 'tabindex="-1"'
        label = html.escape(_window_words(window, slot, len(windows), genuine))
        buttons.append(
            f'<button type="button" class="st-window{" st-flagged" if genuine < threshold else ""}" {stop} '
            f'data-window="{slot.window}" data-left="{_share(window.start, seconds)}" '
            f'data-width="{_share(window.end - window.start, seconds)}" title="{label}" aria-label="{label}" '
            f'style="left:{_share(slot.left, seconds)};width:{_share(slot.right - slot.left, seconds)}">'
            f'<span style="height:{100 * (1 - genuine):.1f}%"></span></button>'
        )
    if not windows:
        return ""
    line = f'<div class="st-line" style="bottom:{100 * (1 - threshold):.1f}%"></div>'
    lane = '<div class="st-lane st-windows" role="group" aria-label="Parts of the clip">'
    return f"{lane}{''.join(buttons)}{line}{_tag('how fake')}</div>"


def _tag(words: str) -> str:
    """What a lane shows, in its corner."""
    return f'<span class="st-tag" aria-hidden="true">{words}</span>'


def _window_words(window: Window, slot: Slot, total: int, genuine: float) -> str:
    least = f", the least genuine of {slot.count}" if slot.count > 1 else ""
    times = stretch(window.start, window.end)
    return f"Play part {slot.window + 1} of {total}{least}: {times}, {percent(1 - genuine)} fake"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3f}%"


def _axis(seconds: float) -> str:
    """Five times below the lanes."""
    marks = (
        f"<span>{clock(seconds * step / 4)}{' s' if step == 4 and seconds < 60 else ''}</span>" for step in range(5)
    )
    return f'<div class="st-axis" aria-hidden="true">{"".join(marks)}</div>'


def _legend(windows: Sequence[Window]) -> str:
    if not windows:
        return "Loud parts are tall above, and bright below."
    merged = len(windows) > MAX_BUTTONS
    return (
        f"Press a bar to hear that part; arrow keys move. {'A bar stands for several parts, by the most fake. ' * merged}"
        "The taller, the more fake: "
        '<span class="st-key st-key-flagged" role="img" aria-label="hatched"></span> beyond the threshold '
        '<span class="st-key st-key-line" role="img" aria-label="dashed line"></span>, '
        '<span class="st-key" role="img" aria-label="plain"></span> within.'
    )
