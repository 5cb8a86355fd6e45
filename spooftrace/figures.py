"""Figures of an evaluation: DET curves, score histograms and confusion matrices, as PNG files.

matplotlib is imported by the functions, with the Agg canvas, so that no display and no global state is touched.
Colours are those of Okabe and Ito, which people with any colour vision tell apart; line styles differ as well.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from spooftrace.metrics import det_curve


if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE = "#0072B2", "#D55E00"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")

DET_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
DPI = 150


def probit(rates: np.ndarray) -> np.ndarray:
    """
    The quantile of the standard normal distribution for rates strictly between 0 and 1, element by element.

    By interpolation in a table of 4,001 exact values: more than a drawing resolves, without scipy.
    """
    deviates = np.linspace(-6, 6, 4001)
    return np.interp(rates, [NormalDist().cdf(value) for value in deviates], deviates)


def draw_det(path: str | os.PathLike, systems: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str = "") -> Path:
    """
    DET curves (Martin et al. 1997): misses over false alarms, both axes on the normal deviate scale, with the EERs.

    Args:
        path: of the PNG file.
        systems: name -> bona fide scores and spoof scores.
        title: above the axes; what data and which split.
    """
    figure, axes = new_figure(title)
    rates = [0.5]
    for index, (name, (bonafide, spoof)) in enumerate(systems.items()):
        curve = det_curve(bonafide, spoof)
        rate = curve.eer(method="merged").eer
        # 0 and 1 are infinitely far out: half a trial stands for none.
        miss = np.clip(curve.miss[curve.reachable()], 0.5 / len(bonafide), 1 - 0.5 / len(bonafide))
        false_alarm = np.clip(curve.false_alarm[curve.reachable()], 0.5 / len(spoof), 1 - 0.5 / len(spoof))
        look = {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index % len(STYLES)]}
        axes.plot(*_thin(probit(false_alarm), probit(miss)), label=f"{_plain(name)}: EER {100 * rate:.2f} %", **look)
        at = probit(np.clip(rate, 1e-5, 1 - 1e-5))
        axes.plot(at, at, marker="o", color=look["color"])
        rates += [rate, 0.5 / len(bonafide), 0.5 / len(spoof)]
    low, high = max(min(rates), 1e-5), max(0.5, *rates)
    ticks = [tick for tick in DET_TICKS if low <= tick]
    limits = probit(np.array([low, min(max(high * 1.2, 0.6), 0.99)]))
    axes.plot(limits, limits, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(probit(np.array(ticks)), [f"{100 * tick:g}" for tick in ticks])
    axes.set_xlabel("false alarms: spoofs accepted (%)")
    axes.set_ylabel("misses: bona fide refused (%)")
    axes.grid(linewidth=0.4, color="0.85")
    axes.legend(loc="upper right", fontsize="small")
    return save_figure(figure, path)


def _plain(name: str) -> str:
    """A name as it is, where matplotlib would read text between dollar signs as a formula."""
    return name.replace("$", r"\$")


def _thin(x: np.ndarray, y: np.ndarray, points: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points of a line: hundreds of thousands draw the same picture, slowly."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).astype(int))
    return x[keep], y[keep]


def draw_histogram(
    path: str | os.PathLike, bonafide: np.ndarray, spoof: np.ndarray, *, threshold: float, title: str = ""
) -> Path:
    """
    How the scores of both labels lie, each as a share of its trials, with the threshold of the EER and zero.

    Args:
        path: of the PNG file.
        bonafide, spoof: scores.
        threshold: of the EER.
        title: above the axes.
    """
    figure, axes = new_figure(title)
    edges = np.histogram_bin_edges(np.concatenate([bonafide, spoof]), bins=60)
    kinds = ((spoof, "spoof", ORANGE, "//"), (bonafide, "bona fide", BLUE, ""))
    for scores, name, colour, hatch in kinds:
        weights = np.full(len(scores), 100 / len(scores))
        look = {"color": colour, "alpha": 0.55, "hatch": hatch, "edgecolor": colour}
        axes.hist(scores, bins=edges, weights=weights, label=f"{name} ({len(scores)})", **look)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"EER threshold ({threshold:+.2f})")
    axes.axvline(0, color="0.5", linestyle=":", linewidth=1, label="0: even odds")
    axes.set_xlabel("score: log-odds of bona fide (nat)")
    axes.set_ylabel("share of the label's trials (%)")
    axes.legend(fontsize="small")
    return save_figure(figure, path)


def draw_confusion(
    path: str | os.PathLike, matrix: np.ndarray, labels: Sequence[str], *, title: str = "", decision: str = ""
) -> Path:
    """
    A confusion matrix: counts, and shares of each row.

    Args:
        path: of the PNG file.
        matrix: counts of shape `(labels, labels)`, one row for each true label.
        labels: names of rows and columns.
        title: above the axes.
        decision: how the prediction was made, below the axes.
    """
    matrix = np.asarray(matrix)
    figure, axes = new_figure(title)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.6 else "black"
        text = f"{matrix[row, column]}\n{100 * share:.1f} %"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(f"predicted {decision}".strip())
    axes.set_ylabel("true (counts, % of the row)")
    return save_figure(figure, path)


def new_figure(title: str, panels: int = 1) -> tuple["Figure", Any]:
    """
    A figure without display or global state, and its axes: one, or an array of several side by side.

    Args:
        title: above all; text between dollar signs is no formula.
        panels: number of axes.
    """
    # A Figure of its own with the Agg canvas: pyplot would keep it alive and choose a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4.6 * panels, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    heading = axes.set_title if panels == 1 else figure.suptitle
    heading(title, fontsize="medium", wrap=True, parse_math=False)
    return figure, axes


def save_figure(figure: "Figure", path: str | os.PathLike) -> Path:
    """Writes a PNG file, and the folder that it is in."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})
    return path
