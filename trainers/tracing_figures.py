"""Figures 2 to 4 of the paper on source tracing, from our results, as PNG files; see `TARGETS` of `reproduce_tracing`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spooftrace.figures import COLOURS, draw_confusion, new_figure, save_figure
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers.reproduce import short_name
from spooftrace.trainers.reproduce_tracing import RANDOM, TracingRow
from spooftrace.trainers.tracing_sets import SETS


MARKERS = "osD^vP*X"


def draw_silence(path: Path, done: Sequence[TracingRow], set_name: str) -> Path:
    """
    F1 of every codec or generator of a set over the share of silence in its clips, one mark for each row and task.

    Args:
        path: of the PNG file.
        done: rows with `sources`.
        set_name: see `SETS`.
    """
    figure, axes = new_figure(SETS[set_name].title)
    series = [(row, task, found[set_name]) for row in done for task, found in row.sources.items() if set_name in found]
    for index, (row, task, sources) in enumerate(series):
        points = [(100 * source.silence, 100 * source.f1) for source in sources if source.silence is not None]
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "alpha": 0.7}
        axes.scatter(*np.array(points).reshape(-1, 2).T, label=f"{row.row}: {task}", **look)
    axes.set_xlabel("mean share of a clip without speech (%)")
    axes.set_ylabel("weighted F1 with the genuine clips (%)")
    axes.legend(fontsize="small")
    return save_figure(figure, path)


def draw_confusions(folder: Path, done: Sequence[TracingRow]) -> list[Path]:
    """A confusion matrix for every row, task and set, in files called by these."""
    paths = []
    for row in done:
        for task, found in row.results.items():
            for set_name, result in found.items():
                name = row.name if row.name == RANDOM else short_name(row.name)
                path = folder / f"{name}-{task}-{set_name}.png"
                title = f"{row.row}, {SETS[set_name].title}"
                paths.append(draw_confusion(path, np.array(result.confusion), TASK_LABELS[task], title=title))
    return paths


def draw_explanation(
    path: Path, errors: Mapping[str, float], attentions: Mapping[str, np.ndarray], *, title: str = ""
) -> Path:
    """
    What a SASTNet makes of one clip: how well each decoder reconstructs it, and where its transformers look.

    Args:
        path: of the PNG file.
        errors: mean squared error of every decoder, by its class.
        attentions: name of a transformer -> attention `(queries, keys)`, rows of which sum to 1.
        title: above all.
    """
    figure, axes = new_figure(title, panels=1 + len(attentions))
    axes[0].bar(range(len(errors)), list(errors.values()), color=COLOURS[0])
    axes[0].set_xticks(range(len(errors)), list(errors), rotation=30)
    axes[0].set_ylabel("mean squared error of the reconstruction")
    for axis, (name, weights) in zip(axes[1:], attentions.items(), strict=True):
        axis.imshow(weights, cmap="viridis", aspect="auto", vmin=0)
        axis.set_title(name.replace("_", " "), fontsize="small")
        axis.set_xlabel("key")
        axis.set_ylabel("query")
    return save_figure(figure, path)
