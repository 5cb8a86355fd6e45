"""The page of the demo, and its two endpoints for programs: `/detect` and `/trace`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from spooftrace.spaces.demo_clip import Progress
from spooftrace.spaces.demo_inside import can_look_inside
from spooftrace.spaces.demo_session import EMPTY, Checked, Visits
from spooftrace.spaces.demo_views import about
from spooftrace.spaces.demo_words import duration


FILES = resources.files("spooftrace.spaces") / "detector"
TITLE = "Is this speech genuine?"
START_PERCENT = 5  # of genuine clips that may be flagged, before a visitor moves it
STATE_SECONDS = 600

# Of everything that runs a model: these share one limit.
HEAVY = {"concurrency_id": "models", "api_visibility": "private"}
LIGHT = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class Place:
    """Where one checked clip is shown."""

    clip: gr.Audio
    model: gr.Radio
    checked: gr.State
    card: gr.HTML
    timeline: gr.HTML

    @property
    def shown(self) -> list[gr.HTML]:
        return [self.card, self.timeline]


def build_page(visits: Visits, example: Path) -> gr.Blocks:
    """
    Args:
        visits: answers.
        example: a clip to try, in the folder of uploads.
    """
    settings = visits.settings
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, settings.keep_seconds)) as blocks:
        gr.Markdown(
            f"# {TITLE}\nA detector listens for traces of synthesis, voice conversion and neural codecs. Clips of up to "
            f"{duration(settings.max_seconds)}; they are deleted after {duration(settings.keep_seconds)}."
        )
        with gr.Tab("Check a clip", elem_id="st-check"):
            _check_tab(visits, example)
        with gr.Tab("Compare two", elem_id="st-compare"):
            _compare_tab(visits)
        _endpoints(visits)
    return blocks


def _about(visits: Visits) -> gr.HTML:
    detectors = {name: offered.detector for name, offered in visits.models.detectors.items()}
    cards = {name: offered.card for name, offered in visits.models.detectors.items() if offered.card}
    return gr.HTML(about(detectors, cards, visits.models.tracer, visits.models.tracer_cards))


def _percent_slider() -> gr.Slider:
    return gr.Slider(
        1, 30, START_PERCENT, step=1, label="Of 100 genuine clips, how many may be flagged by mistake?", buttons=[]
    )


def _clip_input(label: str) -> gr.Audio:
    return gr.Audio(label=label, sources=["upload", "microphone"], type="filepath", editable=False, buttons=[])


def _model_choice(visits: Visits, label: str = "Detector") -> gr.Radio:
    names = list(visits.models.detectors)
    return gr.Radio(names, value=names[0], label=label, visible=len(names) > 1)


def _card() -> gr.HTML:
    """Where a verdict appears; it stays while its content changes, or it would not be read out."""
    return gr.HTML(EMPTY, js_on_load="element.setAttribute('role', 'status')")


def _timeline() -> gr.HTML:
    return gr.HTML(js_on_load=(FILES / "timeline.js").read_text(encoding="utf-8"), apply_default_css=False)


def _player() -> gr.Audio:
    """Hidden by its style until there is something to hear."""
    return gr.Audio(
        label="The part that was pressed",
        interactive=False,
        autoplay=True,
        type="numpy",
        buttons=[],
        elem_classes="st-player",
    )


def _reporting(progress: gr.Progress) -> Progress:
    return lambda share, words: progress(share, desc=words)


def _check_tab(visits: Visits, example: Path) -> None:
    # On a wide screen what the models cannot do stands below the clip, on a phone below the results.
    with gr.Row(elem_classes="st-layout"):
        with gr.Column(scale=2, min_width=300):
            clip = _clip_input("Clip")
            try_example = gr.Button("Try an example: synthetic speech", size="sm")
            model = _model_choice(visits)
        with gr.Column(scale=3, min_width=300, elem_classes="st-results"):
            place = Place(clip, model, gr.State(time_to_live=STATE_SECONDS), _card(), _timeline())
            with gr.Column(visible=False) as listen:
                player = _player()
                with gr.Row():
                    number = gr.Slider(1, 2, 1, step=1, label="Part of the clip", scale=3, buttons=[])
                    play = gr.Button("Play this part", scale=1, min_width=120)
                inside = _inside_views(visits, place, number)
            percent, promise = _percent_slider(), gr.HTML(visits.promise(None, model.value, START_PERCENT))
            source = gr.HTML()
            download = gr.DownloadButton("Download the report (JSON)", visible=False)
        with gr.Column(scale=2, min_width=300):
            _about(visits)
    try_example.click(lambda: str(example), None, clip, **LIGHT)
    _clear_events([clip, model], [*place.shown, source, inside, player], [listen, download])
    _check_events(visits, place, percent, promise, source, download, listen, number)
    _play_events(visits, place, player)
    place.timeline.select(_pressed, None, number, **LIGHT)
    play.click(lambda checked, chosen: visits.play(checked, chosen - 1), [place.checked, number], player, **LIGHT)


def _clear_events(given: Sequence[Component], filled: Sequence[Component], hidden: Sequence[Component]) -> None:
    """
    What was said of another clip goes in the browser, at once: the answer on the new one may be long in coming, or fail.

    Args:
        given: what the answer depends on.
        filled: with the answer; the first is where a verdict appears.
        hidden: while there is no answer.
    """
    values = [EMPTY, *[None if isinstance(part, gr.Audio) else "" for part in filled[1:]]]
    values += [{"__type__": "update", "visible": False}] * len(hidden)
    changes = [part.change for part in given]
    gr.on(changes, None, None, [*filled, *hidden], js=f"() => {json.dumps(values)}", **LIGHT)


def _inside_views(visits: Visits, place: Place, number: gr.Slider) -> gr.HTML:
    """A button for views into the tracer, where it has any, and the place for them."""
    look = gr.Button("Look inside the tracer from this part on", visible=can_look_inside(visits.models.tracer))
    inside = gr.HTML()

    def show(checked: Checked | None, chosen: float) -> str:
        return visits.inside(checked, chosen - 1)

    look.click(show, [place.checked, number], inside, **HEAVY)
    return inside


def _check_events(
    visits: Visits,
    place: Place,
    percent: gr.Slider,
    promise: gr.HTML,
    source: gr.HTML,
    download: gr.DownloadButton,
    listen: gr.Column,
    number: gr.Slider,
) -> None:
    def check(path: str | None, model: str, progress=gr.Progress()):  # noqa: B008  gradio's way
        checked = None if path is None else visits.check(path, model, _reporting(progress), traced=True)
        windows = [] if checked is None else checked.windows
        slider = gr.Slider(maximum=max(len(windows), 2), value=1, visible=len(windows) > 1)
        return checked, gr.Column(visible=len(windows) > 0), slider

    def judge(path: str | None, model: str, checked: Checked | None, share: float):
        checked = visits.current(checked, path, model)
        report = visits.report(checked, share)
        button = gr.DownloadButton(value=report, visible=report is not None)
        return *visits.show(checked, share), visits.promise(checked, model, share), button

    chosen, changes = [place.clip, place.model], [place.clip.change, place.model.change]
    answered = gr.on(changes, check, chosen, [place.checked, listen, number], show_progress_on=place.card, **HEAVY)
    judged = [*place.shown, source, promise, download]
    _judge_events(answered, percent, judge, [*chosen, place.checked, percent], judged)


def _judge_events(
    answered: Dependency,
    percent: gr.Slider,
    judge: Callable,
    inputs: Sequence[Component],
    outputs: Sequence[Component],
) -> None:
    """Judges an answer by what is chosen when it arrives, for visitors go on choosing; and anew by each other share."""
    answered.success(judge, inputs, outputs, **LIGHT)
    percent.change(judge, inputs, outputs, trigger_mode="always_last", **LIGHT)


def _play_events(visits: Visits, place: Place, player: gr.Audio) -> None:
    def play(checked: Checked | None, event: gr.EventData):
        return visits.play(checked, event._data.get("index"))

    place.timeline.select(play, place.checked, player, **LIGHT)


def _pressed(event: gr.EventData) -> int:
    """The number of the part whose bar was pressed, from 1."""
    return event._data["index"] + 1


def _compare_tab(visits: Visits) -> None:
    gr.Markdown("Two clips by one detector, or one clip by two: without a second clip the first is taken.")
    with gr.Row():
        asked = [_compare_input(visits, name) for name in ("A", "B")]
    percent = _percent_slider()
    button = gr.Button("Compare", variant="primary")
    cards, timelines = _side_by_side(_card), _side_by_side(_timeline)
    parts = zip(asked, cards, timelines, strict=True)
    places = [Place(*given, gr.State(time_to_live=STATE_SECONDS), card, timeline) for given, card, timeline in parts]
    player = _player()
    _compare_events(visits, places, percent, button)
    given = [part for place in places for part in (place.clip, place.model)]
    for place in places:
        _clear_events(given, [*place.shown, player], [])
        _play_events(visits, place, player)
    _about(visits)


def _compare_input(visits: Visits, name: str) -> tuple[gr.Audio, gr.Radio]:
    with gr.Column(min_width=300):
        model = _model_choice(visits, f"Detector {name}")
        return _clip_input(f"Clip {name}"), model


def _side_by_side(make: Callable[[], gr.HTML]) -> list[gr.HTML]:
    """Two of a kind, beside each other on a wide screen, so that they start at one height."""
    made = []
    with gr.Row():
        for _ in range(2):
            with gr.Column(min_width=300):
                made.append(make())
    return made


def _compare_events(visits: Visits, places: Sequence[Place], percent: gr.Slider, button: gr.Button) -> None:
    def pairs(path_a, model_a, path_b, model_b):
        return (path_a, model_a), (path_b or path_a, model_b)

    def compare(path_a, model_a, path_b, model_b, progress=gr.Progress()):  # noqa: B008  gradio's way
        return [
            None if path is None else visits.check(path, model, _reporting(progress), traced=False)
            for path, model in pairs(path_a, model_a, path_b, model_b)
        ]

    def judge(path_a, model_a, path_b, model_b, share, *checked):
        asked = zip(checked, pairs(path_a, model_a, path_b, model_b), strict=True)
        return [view for one, pair in asked for view in visits.show(visits.current(one, *pair), share)[:2]]

    chosen = [part for place in places for part in (place.clip, place.model)]
    checked = [place.checked for place in places]
    answered = button.click(compare, chosen, checked, show_progress_on=[place.card for place in places], **HEAVY)
    shown = [part for place in places for part in place.shown]
    _judge_events(answered, percent, judge, [*chosen, percent, *checked], shown)


def _endpoints(visits: Visits) -> None:
    """What programs call; on the page it is hidden."""

    def detect(audio: str | None, model: str, threshold: float, progress=gr.Progress()):  # noqa: B008  gradio's way
        return visits.detect_json(audio, model, threshold, _reporting(progress))

    def trace(audio: str | None, progress=gr.Progress()):  # noqa: B008  gradio's way
        return visits.trace_json(audio, _reporting(progress))

    names = list(visits.models.detectors)
    with gr.Column(visible=False):
        audio, answer = (
            gr.Audio(type="filepath", sources=["upload"], label="audio"),
            gr.Textbox(label="detection"),
        )
        model, threshold = (
            gr.Dropdown(names, value=names[0], label="model", allow_custom_value=True),
            gr.Number(0.5, label="threshold"),
        )
        shared = {"concurrency_id": "models"}
        gr.Button().click(detect, [audio, model, threshold], answer, api_name="detect", **shared)
        if visits.models.tracer is not None:
            traced = gr.Textbox(label="trace")
            gr.Button().click(trace, audio, traced, api_name="trace", **shared)
