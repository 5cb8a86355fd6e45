"""The page of a metric Space: scores are pasted or uploaded, the metric and the spread of the scores come back.

The numbers are those of the metric script beside this file, loaded as `evaluate.load` loads it for anyone else.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import evaluate
import gradio as gr
import numpy as np
import pandas as pd
from gradio.components import Component


BONAFIDE, SPOOF = 0, 1
COLOURS = {"bona fide": "#2a9d8f", "spoof": "#e76f51"}
BINS = 40

# Twelve trials with a few errors, so that the page shows something at once.
EXAMPLE = ("2.1 1.7 3.0 0.4 -0.3 2.6", "-2.2 -1.1 0.6 -3.1 -0.9 -1.8")

PASTE_HELP = "Scores separated by white space, commas or semicolons. Higher means more likely genuine."
FILES_HELP = """The score file has one `utterance_id score` per line. The key names `bonafide` or `spoof` on each line,
beside the utterance id; further columns may stand between them, as in the protocols of ASVspoof."""


def parse_scores(text: str, kind: str) -> list[float]:
    """Numbers from free text; says which entry is not one."""
    entries = [entry for entry in re.split(r"[\s,;]+", text or "") if entry]
    scores = []
    for entry in entries:
        try:
            scores.append(float(entry))
        except ValueError:
            raise ValueError(f"{entry[:40]!r} among the {kind} scores is not a number") from None
    return scores


def read_lines(path: str | None, what: str) -> list[list[str]]:
    """The fields of each line that has any."""
    if not path:
        raise ValueError(f"please choose a {what}")
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    return [fields for fields in (re.split(r"[\s,;]+", line.strip()) for line in lines) if fields != [""]]


def read_scores(path: str | None) -> dict[str, float]:
    scores: dict[str, float] = {}
    for number, fields in enumerate(read_lines(path, "score file"), 1):
        try:
            name, score = fields
            value = float(score)
        except ValueError:
            raise ValueError(f"entry {number} of the score file is not an utterance id and a score") from None
        if name in scores:
            raise ValueError(f"{name[:60]} has two scores; the second is in entry {number}")
        scores[name] = value
    return scores


def match_key(scores: dict[str, float], key: list[list[str]]) -> tuple[list[float], list[float]]:
    """Scores of the bona fide and of the spoofed utterances in a key; every utterance of the key needs a score."""
    groups: dict[str, list[float]] = {"bonafide": [], "spoof": []}
    labels: dict[str, str] = {}
    unscored = []
    for number, fields in enumerate(key, 1):
        label = next((field for field in fields if field in groups), None)
        if label is None:
            raise ValueError(f"entry {number} of the key names neither bonafide nor spoof")
        name = next((field for field in fields if field in scores), None)
        if name is None:
            unscored.append(" ".join(fields)[:80])
            continue
        if name in labels:
            raise ValueError(f"{name[:60]} is in the key twice, as {labels[name]} and in entry {number} as {label}")
        labels[name] = label
        groups[label].append(scores[name])
    if unscored:
        raise ValueError(f"{len(unscored)} entries of the key have no score, such as {unscored[0]!r}")
    return groups["bonafide"], groups["spoof"]


def spread(bonafide: list[float], spoof: list[float]) -> pd.DataFrame:
    """The share of either kind of trials in each of 40 bins of the scores, as `score, share, trials`."""
    edges = np.histogram_bin_edges([*bonafide, *spoof], bins=BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    frames = [
        pd.DataFrame({"score": centres, "share": np.histogram(scores, bins=edges)[0] / len(scores), "trials": kind})
        for kind, scores in zip(COLOURS, (bonafide, spoof), strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


@contextmanager
def errors_on_the_page() -> Iterator[None]:
    """A wrong input is a message to the user, not a stack trace in the log."""
    try:
        yield
    except UnicodeDecodeError:
        raise gr.Error("the file is not plain text in UTF-8", print_exception=False) from None
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


class Report:
    """What the buttons call: scores and the metric's options -> a headline, all numbers, the spread of the scores."""

    def __init__(self, script: Path, headline: Callable[[dict], str], names: list[str]):
        self.metric = evaluate.load(str(script), keep_in_memory=True)
        self.headline, self.names = headline, names

    def of_text(self, bonafide: str, spoof: str, *options) -> tuple[str, dict, pd.DataFrame]:
        with errors_on_the_page():
            return self._measure(parse_scores(bonafide, "bona fide"), parse_scores(spoof, "spoof"), options)

    def of_files(self, scores: str | None, key: str | None, *options) -> tuple[str, dict, pd.DataFrame]:
        with errors_on_the_page():
            scored = read_scores(scores)
            headline, numbers, shares = self._measure(*match_key(scored, read_lines(key, "key")), options)
            used = numbers["bona fide trials"] + numbers["spoofs"]
            return headline, numbers | {"scores that the key leaves out": len(scored) - used}, shares

    def _measure(self, bonafide: list[float], spoof: list[float], options: tuple) -> tuple[str, dict, pd.DataFrame]:
        if not (bonafide and spoof):
            raise ValueError("the metric needs both bona fide and spoof scores")
        chosen = dict(zip(self.names, options, strict=True))
        if empty := [name for name, value in chosen.items() if value is None]:
            raise ValueError(f"please fill in {', '.join(empty)}")
        result = self.metric.compute(
            predictions=[*bonafide, *spoof],
            references=[BONAFIDE] * len(bonafide) + [SPOOF] * len(spoof),
            **chosen,
        )
        counts = {"bona fide trials": len(bonafide), "spoofs": len(spoof)}
        return f"# {self.headline(result)}", result | counts, spread(bonafide, spoof)


def build(
    script: Path, *, title: str, summary: str, headline: Callable[[dict], str], options: dict[str, Component]
) -> gr.Blocks:
    """
    The page of one metric.

    Args:
        script: the metric script.
        title, summary: of the page; the summary may hold Markdown.
        headline: what to show large, from what the metric returns.
        options: the metric's further arguments by name, as input components.
    """
    report = Report(script, headline, list(options))
    with gr.Blocks(title=title, analytics_enabled=False) as demo:
        gr.Markdown(f"# {title}\n{summary}")
        with gr.Row():
            with gr.Column():
                with gr.Tab("Paste scores"):
                    gr.Markdown(PASTE_HELP)
                    bonafide = gr.Textbox(EXAMPLE[0], label="Bona fide scores", lines=4)
                    spoof = gr.Textbox(EXAMPLE[1], label="Spoof scores", lines=4)
                    paste = gr.Button("Measure", variant="primary")
                with gr.Tab("Upload files"):
                    gr.Markdown(FILES_HELP)
                    scores, key = gr.File(label="Score file"), gr.File(label="Key")
                    upload = gr.Button("Measure", variant="primary")
                for component in options.values():
                    component.render()
            with gr.Column():
                answer = gr.Markdown()
                plot = gr.LinePlot(
                    x="score", y="share", color="trials", color_map=COLOURS, title="Spread of the scores"
                )
                with gr.Accordion("All numbers", open=False):
                    numbers = gr.JSON(show_label=False)
        # One at a time: a metric of `evaluate` collects the trials of a call in itself.
        limits = {"concurrency_limit": 1, "concurrency_id": "metric"}
        outputs, further = [answer, numbers, plot], list(options.values())
        paste.click(report.of_text, [bonafide, spoof, *further], outputs, api_name="text", **limits)
        demo.load(report.of_text, [bonafide, spoof, *further], outputs, api_visibility="private", **limits)
        upload.click(report.of_files, [scores, key, *further], outputs, api_name="files", **limits)
    return demo
