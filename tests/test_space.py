"""What the demo says and draws, without a server: thresholds, words, pictures, the report, and what is refused."""

import asyncio
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sastnet import WINDOW, tiny_sastnet


gr = pytest.importorskip("gradio")

from spooftrace.audio import AudioError, AudioLimits  # noqa: E402  after the skip
from spooftrace.checkpoint import default_folder  # noqa: E402
from spooftrace.cli import main  # noqa: E402
from spooftrace.detector import Detector  # noqa: E402
from spooftrace.metrics import eer  # noqa: E402
from spooftrace.modeling import SASTNetFeatureExtractor  # noqa: E402
from spooftrace.results import Detection, Failure, SourceAnswer, Trace, UnknownAnswer, Window  # noqa: E402
from spooftrace.spaces import (  # noqa: E402
    demo_app,
    demo_clip,
    demo_guard,
    demo_inside,
    demo_limits,
    demo_pictures,
    demo_views,
    demo_words,
)
from spooftrace.spaces.demo_models import DemoModels, DemoSettings, public_name  # noqa: E402
from spooftrace.spaces.demo_session import Visits  # noqa: E402
from spooftrace.spaces.demo_thresholds import OperatingPoints, Threshold, measure  # noqa: E402
from spooftrace.tracer import Tracer  # noqa: E402


ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "synthetic_speech.flac"
SPACE = ROOT / "spaces" / "detector"
SCORES = st.lists(st.floats(-20, 20), min_size=1, max_size=60)
POINTS = OperatingPoints("sha256:a", "ten clips of each kind", tuple(range(10)), tuple(range(-10, 0)))
DETECTION = Detection(
    "a.wav", 1.0, 0.7, "bonafide", None, 4.0, [Window(0, 2, 1.0)], {"name": "m", "calibrated": True}, "0"
)


@pytest.fixture(scope="module")
def visits(tmp_path_factory) -> Visits:
    """The shipped models, without a page."""
    settings = DemoSettings()
    return Visits(DemoModels.load(settings), settings, tmp_path_factory.mktemp("uploads"))


@pytest.fixture
def uploaded(visits) -> str:
    path = visits.folder / EXAMPLE.name
    path.write_bytes(EXAMPLE.read_bytes())
    return str(path)


@settings(max_examples=100, deadline=None)
@given(SCORES, SCORES, st.floats(0, 0.99))
def test_a_threshold_never_flags_more_genuine_clips_than_was_asked_for(genuine, fake, share):
    point = OperatingPoints("r", "these", genuine, fake).at(share)
    assert sum(score < point.score for score in genuine) == point.flagged_genuine <= share * len(genuine) + 1e-6
    assert sum(score < point.score for score in fake) == point.flagged_fake
    higher = [score for score in genuine if score > point.score]
    if higher:  # and none that flags more would do
        assert sum(score < min(higher) for score in genuine) > share * len(genuine) - 1e-6


def test_a_threshold_is_applied_as_the_command_applies_it():
    threshold = Threshold.for_share(0.2, POINTS, lambda score: score / 10)
    assert (threshold.probability, threshold.point.flagged_genuine) == (0.2, 2)
    assert threshold.apply(replace(DETECTION, probability_bonafide=0.2)).verdict == "bonafide"
    assert threshold.apply(replace(DETECTION, probability_bonafide=0.19)).verdict == "spoof"
    abstention = replace(DETECTION, verdict="abstain", reason="silent", probability_bonafide=0.9)
    assert threshold.apply(abstention) == abstention


def test_without_measured_scores_no_rate_is_promised():
    threshold = Threshold.for_share(0.01, None, float)
    assert (threshold.probability, threshold.share) == (0.5, None)
    assert "no rate of false alarms" in demo_words.threshold_words(threshold)
    details = [
        demo_words.verdict(DETECTION, at, float, 600, 1).detail
        for at in (threshold, Threshold(0.5, 0.1, POINTS.at(0.1)))
    ]
    assert ["No rate of false alarms" in detail for detail in details] == [True, False]


def test_the_page_says_all_that_the_cards_say_the_models_cannot_do(visits):
    offered, models = visits.models.detectors["default"], visits.models
    page = demo_views.about(
        {"default": offered.detector}, {"default": offered.card}, models.tracer, models.tracer_cards
    )
    sections = [card.read_text().partition("## What it cannot do")[2] for card in (offered.card, *models.tracer_cards)]
    told = [len(re.findall("^- ", section.partition("\n## ")[0], re.MULTILINE)) for section in sections]
    assert len(told) == 2 and min(told) > 3 and page.count("<li>") == sum(told)


@pytest.mark.parametrize("share", [-0.1, 1, 2])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        POINTS.at(share)


def test_the_shipped_points_are_of_the_shipped_detector_and_of_the_clips_in_its_card():
    points = OperatingPoints.find(Detector.from_pretrained().model_info["revision"])
    assert points is not None, "measure them anew: python -m spooftrace.spaces.demo_thresholds"
    results = json.loads((default_folder("default") / "results.json").read_text())
    reported = results["test"]["eer"]["without transmission coding"]
    assert (len(points.genuine), len(points.fake)) == (reported["bonafide"], reported["spoof"])
    assert 100 * eer(points.genuine, points.fake).eer == pytest.approx(reported["eer"], abs=0.01)
    assert OperatingPoints.find("sha256:other") is None


def test_points_are_measured_from_scores_and_labels(tmp_path):
    (tmp_path / "scores.txt").write_text("a 2.5\nb -1.0\nc 0.5\n")
    (tmp_path / "run.json").write_text('{"model": {"revision": "sha256:x"}}')
    (tmp_path / "labels.csv").write_text("utterance_id,label\na,bonafide\nb,spoof\nc,bonafide\n")
    points = measure(tmp_path, tmp_path / "labels.csv", None, "three clips")
    assert points == OperatingPoints("sha256:x", "three clips", (0.5, 2.5), (-1.0,))
    points.save(tmp_path)
    assert OperatingPoints.find("sha256:x", tmp_path) == points


def test_the_report_holds_what_the_commands_print(visits, uploaded, monkeypatch, capsys):
    checked = visits.check(uploaded, "default", None, traced=True)
    threshold = visits.threshold("default", 5)
    written = json.loads(Path(visits.report(checked, 5)).read_text())
    monkeypatch.chdir(visits.folder)
    assert main(["detect", "--json", "--threshold", str(threshold.probability), EXAMPLE.name]) == 0
    assert [written["detection"]] == json.loads(capsys.readouterr().out)
    assert main(["trace", "--json", EXAMPLE.name]) == 0
    assert [written["trace"]] == json.loads(capsys.readouterr().out)
    assert written["settings"]["measured"]["flagged_genuine"] == 12


def test_a_report_is_named_after_its_clip_in_plain_letters(visits, uploaded):
    assert (
        Path(visits.report(visits.check(uploaded, "default", None, False), 5)).name
        == "spooftrace-synthetic-speech.json"
    )
    assert demo_clip.report_name('../<b>"語".wav') == "spooftrace-b.json"


def test_every_reason_and_failure_has_plain_words():
    source = (ROOT / "spooftrace" / "windows.py").read_text()
    reasons = set(re.findall(r'return "([a-z ,]+)"', source)) | {"clipped, or a steady tone", "not finite"}
    assert reasons == set(demo_words.REASONS)
    failures = {kind.__name__ for kind in AudioError.__subclasses__()} - {"AudioNotFoundError"}
    assert failures == set(demo_words.FAILURES)


def test_a_failure_names_the_limits_and_no_python():
    failure = Failure("a.wav", "AudioTooLongError", "'a.wav': 900.0 s by its header, more than; pass AudioLimits(...)")
    words = demo_words.verdict(failure, Threshold(0.5), float, 600, 2**20)
    assert "10 min" in words.detail and "AudioLimits" not in words.detail


@pytest.mark.parametrize(
    ("verdict", "probability", "headline", "tone"),
    [
        ("spoof", 0.1, "Flagged as fake", "fake"),
        ("bonafide", 0.3, "leans fake", "none"),
        ("spoof", 0.6, "leans genuine", "fake"),
    ],
)
def test_a_verdict_against_the_odds_says_so(verdict, probability, headline, tone):
    detection = replace(DETECTION, verdict=verdict, probability_bonafide=probability)
    found = demo_words.verdict(detection, Threshold(0.5), float, 600, 1)
    assert headline in found.headline and found.tone == tone


def test_a_part_that_sounds_otherwise_than_the_whole_is_named():
    windows = [Window(0, 2, 0.9), Window(60, 62, 0.1), Window(61, 63, 0.2)]
    found = demo_words.verdict(replace(DETECTION, windows=windows), Threshold(0.5), float, 600, 1)
    assert found.headline == "Sounds genuine as a whole"
    assert found.parts.startswith("2 of its 3 parts sound fake, most of all 1:00.0 to 1:02.0.")
    assert demo_words.verdict(DETECTION, Threshold(0.5), float, 600, 1).parts == ""
    flagged = replace(DETECTION, windows=windows[1:], verdict="spoof", probability_bonafide=0.1)
    assert demo_words.verdict(flagged, Threshold(0.5), float, 600, 1).parts == ""


@pytest.mark.parametrize(("seconds", "words"), [(4.21, "4.2 s"), (600, "10 min"), (560.2, "9 min 20 s")])
def test_durations_are_read_as_they_are_said(seconds, words):
    assert demo_words.duration(seconds) == words


def test_the_measured_clips_are_drawn_on_both_sides_of_the_threshold():
    points = replace(POINTS, measured_on="<b>these</b>")
    page = demo_limits.measured(points, Threshold.for_share(0.5, points, float), -100.0)
    drawn = Counter(re.findall(r'st-hill-(\w+)" x="(\S+)"', page))
    assert Counter(kind for kind, _ in drawn) == {"genuine": 10, "fake": 10}
    flagged = 100 * (5 + 10) / (9 + 10)  # scores from -10 to 9
    assert f'st-flags" style="width:{flagged:.1f}%' in page and 'st-here" style="left:0.0%' in page
    assert "<b>" not in page and "st-here" not in demo_limits.measured(
        POINTS, Threshold(0.5, 0.5, POINTS.at(0.5)), None
    )
    assert "<svg" not in demo_limits.measured(None, Threshold(0.5), 1.0)


def test_equal_scores_can_be_drawn():
    points = OperatingPoints("r", "these", (1.0,), (1.0,))
    assert "nan" not in demo_limits.measured(points, Threshold.for_share(0.1, points, float), 1.0)


class Tags(HTMLParser):
    """Names of the elements in a piece of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)


MARKUP = '<script>alert(1)</script><img src=x onerror="alert(1)">\x1b[31m'


def test_nothing_from_outside_becomes_markup():
    model = {"name": MARKUP, "calibrated": True, "open_set": {"threshold": 1.0}}
    detection = replace(DETECTION, path=MARKUP, model=model)
    failure = Failure(MARKUP, "UnreadableAudioError", f"{MARKUP!r}: {MARKUP}; {MARKUP}")
    answer = SourceAnswer(MARKUP, {MARKUP: 1.0})
    traced = Trace(MARKUP, answer, answer, answer, UnknownAnswer(2.0, True), None, model, 4.0, "0")
    pages = [demo_views.trace_card(traced)]
    assert demo_views.trace_card(replace(traced, reason="silent")) == ""
    for result in (detection, failure, replace(detection, verdict="abstain", reason=MARKUP)):
        words = demo_words.verdict(result, Threshold(0.5), float, 600, 1)
        pages.append(demo_views.verdict_card(words, result, Threshold(0.5)))
    empty = demo_clip.Picture(1.0, np.zeros(1), np.zeros(1), np.zeros((1, 1)))
    pages.append(demo_pictures.timeline(empty, [], float, 0.5, MARKUP).replace("<img alt=", "<p "))  # the spectrogram
    for page in pages:
        assert not {"script", "img"} & set(Tags(page).found) and "\x1b" not in page


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 80))
def test_the_buttons_cover_the_clip_and_stand_for_every_window(count, most):
    windows = [Window(float(i), float(i + 2), float(-i % 7)) for i in range(count)]
    found = demo_pictures.slots(windows, count + 1.0, most)
    assert len(found) <= most and sum(slot.count for slot in found) == count
    assert found[0].left == 0 and found[-1].right == count + 1
    assert all(a.right == b.left for a, b in pairwise(found))
    assert all(slot.left <= windows[slot.window].end and slot.right >= windows[slot.window].start for slot in found)


def test_the_timeline_needs_nothing_from_elsewhere(visits, uploaded):
    _, picture, _ = visits.show(visits.check(uploaded, "default", None, False), 5)
    assert picture.count("<button") == 9 and picture.count("aria-label") >= 11
    assert not re.search(r'(?:src|href)="(?!data:)', picture)


def test_a_picture_shows_where_the_sound_is(tmp_path):
    rate, time = 16_000, np.arange(32_000) / 16_000
    tone = np.where(time < 1, 0, 0.5 * np.sin(2 * np.pi * 1000 * time))
    soundfile.write(tmp_path / "tone.wav", tone, rate)
    picture = demo_clip.draw(str(tmp_path / "tone.wav"), AudioLimits())
    columns = picture.mel.shape[1]
    assert (picture.seconds, columns, picture.mel.shape[0]) == (2.0, 200, 64)
    assert picture.high[: columns // 2 - 1].max() == 0 and picture.high[columns // 2 + 1 :].min() > 0.4
    assert picture.mel[:, : columns // 2 - 2].max() == 0
    # 1000 Hz are 1000 mel, of 2840 up to 8 kHz, in 64 bands
    assert abs(picture.mel[:, -20].argmax() - 1000 / 2840 * 65) <= 1.5


@pytest.mark.parametrize("samples", [1, 100, 159, 161, 16_000 * 65])
def test_clips_of_any_length_can_be_drawn(tmp_path, samples):
    soundfile.write(tmp_path / "clip.wav", np.full(samples, 0.1), 16_000)
    picture = demo_clip.draw(str(tmp_path / "clip.wav"), AudioLimits())
    assert 1 <= len(picture.low) == picture.mel.shape[1] <= demo_clip.COLUMNS
    assert "<svg" in demo_pictures.timeline(picture, [], float, 0.5, "a.wav")


def test_a_window_is_heard_as_the_detector_heard_it(visits, uploaded):
    checked = visits.check(uploaded, "default", None, False)
    rate, samples = visits.play(checked, 3)
    window = checked.detection.windows[3]
    assert (rate, samples.dtype, len(samples)) == (16_000, np.int16, round((window.end - window.start) * rate))
    for number in (-1, 9, None, "0", float("nan")):
        with pytest.raises(gr.Error, match="9 windows"):
            visits.play(checked, number)


def test_files_elsewhere_are_refused(visits, uploaded, tmp_path):
    link = visits.folder / "link.flac"
    link.symlink_to(EXAMPLE)
    for path in (str(EXAMPLE), str(link), f"{visits.folder}/../x", str(visits.folder), "https://example.org/a", ""):
        with pytest.raises(gr.Error, match="Only uploaded files"):
            visits.check(path, "default", None, False)
        with pytest.raises(gr.Error, match="Only uploaded files"):
            visits.trace_json(path, None)


def test_results_and_errors_carry_no_folder(visits):
    path = visits.folder / "broken.wav"
    path.write_bytes(b"no audio" * 99)
    (answer,) = json.loads(visits.detect_json(str(path), "default", 0.5, None))
    assert answer["path"] == "broken.wav" and str(visits.folder) not in json.dumps(answer)


def test_local_models_are_offered_by_their_last_name(tmp_path):
    (tmp_path / "mine").mkdir()
    assert public_name(str(tmp_path / "mine")) == "mine"
    assert public_name("owner/name") == "owner/name"


def test_progress_reaches_the_end(visits, uploaded):
    seen = []
    visits.check(uploaded, "default", lambda share, words: seen.append((share, words)), traced=True)
    assert {words for _, words in seen} == {"Listening", "Tracing the source"}
    assert all(0 <= share <= 1 for share, _ in seen) and seen[-1][0] == pytest.approx(1, abs=1e-3)


def ask(
    body: bytes, path: str = "/gradio_api/call/detect", pieces: int = 1, folder: Path = ROOT / "absent"
) -> tuple[int, bytes]:
    """What the guard lets through to an application that echoes: status and body."""
    size = -(-len(body) // pieces) or 1
    parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": i < len(parts) - 1} for i, part in enumerate(parts)
    ]
    sent = []

    async def application(scope, receive, send):
        received, more = b"", True
        while more:
            message = await receive()
            received, more = received + message["body"], message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": received})

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": "POST", "headers": []}
    asyncio.run(demo_guard.Guard(application, 1000, folder, max_stored=100)(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_the_guard_hands_on_what_it_has_read():
    body = json.dumps({"data": [{"path": "/tmp/demo-1/a.wav", "url": "http://here/file=a"}, 0.5]}).encode()
    assert ask(body, pieces=7) == (200, body)
    assert ask(b"\x00\xff" * 400, "/gradio_api/upload", pieces=5) == (200, b"\x00\xff" * 400)


@pytest.mark.parametrize(
    ("body", "path", "status"),
    [
        (b'{"data": [[{"a": {"path": "https://x/a"}}]]}', "/gradio_api/queue/join", 400),
        (b'{"data": [{"path": " gopher://x"}]}', "/gradio_api/run/detect", 400),
        (b"[" * 16_000, "/gradio_api/queue/join", 400),
        (b"\xff", "/gradio_api/queue/join", 400),
        (b" " * 20_000, "/gradio_api/queue/join", 413),
        (b" " * 100_000, "/gradio_api/upload", 413),
        (b"{}", "/gradio_api/cancel", 404),  # it would free the place of a run that works on
        (b"", "/gradio_api/vibe-edit", 404),
        (b"", "/static/../../etc/passwd", 404),
        (b"", "/gradio_api/file=http://x", 404),
    ],
)
def test_the_guard_refuses(body, path, status):
    assert ask(body, path, pieces=3)[0] == status


@pytest.mark.parametrize("size", [101, 0])  # a flood of empty files is one, too
def test_the_guard_refuses_uploads_while_too_much_waits_to_be_deleted(tmp_path, size):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "waiting.wav").write_bytes(bytes(size))
    status, words = ask(b"x", "/gradio_api/upload", folder=tmp_path)
    assert status == 503 and b"Try again" in words
    assert ask(b'{"data": []}', folder=tmp_path)[0] == 200


def test_old_files_are_swept_and_young_and_kept_ones_stay(tmp_path):
    for name in ("a/old.wav", "a/young.wav", "b/old.wav", "kept.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        if "young" not in name:
            os.utime(tmp_path / name, (0, 0))
    demo_guard.sweep(tmp_path, 60, keep={tmp_path / "kept.wav"})
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/young.wav", "kept.wav"]


def test_the_example_lasts_though_its_copies_take_over_its_age(tmp_path):
    example = demo_app._lasting_copy(EXAMPLE, tmp_path / "example.flac")
    copy = Path(shutil.copy2(example, tmp_path / "copy.flac"))  # as Gradio makes it
    demo_guard.sweep(tmp_path, 0)
    assert example.is_file() and copy.is_file()


def test_the_space_has_a_valid_header_and_pins_what_it_runs_on():
    from huggingface_hub import SpaceCardData
    from huggingface_hub.repocard import RepoCard

    card = RepoCard.load(SPACE / "README.md", ignore_metadata_errors=False)
    header = SpaceCardData(**card.data.to_dict())
    pins = dict(line.split("==") for line in (SPACE / "requirements.txt").read_text().splitlines() if "==" in line)
    assert (header.sdk, header.app_file) == ("gradio", "app.py") and (SPACE / header.app_file).is_file()
    assert header.sdk_version == pins["gradio"] and tuple(map(int, pins["gradio"].split("."))) >= (6, 20, 0)
    assert {"torch", "transformers", "soundfile", "soxr", "numpy"} <= set(pins)
    assert len(header.short_description) <= 60


@pytest.fixture(params=[True, False], ids=["with semantics", "without"])
def sastnet_visits(request, visits, tmp_path) -> Visits:
    """The same with a tiny SASTNet for a tracer."""
    parts = {} if request.param else {"frontend": "mel", "use_semantics": False, "num_decoders": 1}
    tiny_sastnet(**parts).save_pretrained(tmp_path / "tiny")
    SASTNetFeatureExtractor(window_samples=WINDOW).save_pretrained(tmp_path / "tiny")
    tracer = Tracer.from_pretrained(tmp_path / "tiny")
    return Visits(replace(visits.models, tracer=tracer), visits.settings, visits.folder)


def test_a_sastnet_shows_what_it_rebuilt_and_attended_to(sastnet_visits, uploaded):
    tracer = sastnet_visits.models.tracer
    config = tracer.models[0].model.config
    assert demo_inside.can_look_inside(tracer)
    (found,) = demo_inside.look_inside(tracer, np.full(WINDOW, 0.1, np.float32))
    steps, features = config.grid_size
    assert found.errors.shape == (config.num_decoders, features, steps)
    assert len(found.attentions) == (3 if config.use_semantics else 0)
    for attention in found.attentions.values():
        assert attention.shape == (config.semantic_frames // 2, steps)
    page = sastnet_visits.inside(sastnet_visits.check(uploaded, "default", None, False), 8)
    assert page.count("<img") == config.num_decoders + len(found.attentions)
    assert "7.8 to 8.8 s" in page


def test_attention_is_laid_out_with_meaning_upwards_and_sound_to_the_right():
    sound, meaning, features = 6, 4, 2
    weights = np.arange(meaning * sound, dtype=float).reshape(meaning, sound)
    expected = weights.reshape(meaning, 3, features).mean(axis=2)
    with_token = np.concatenate([np.full((meaning, 1), 9.0), weights], axis=1)
    for name, given_weights in (("semantic_to_acoustic", with_token), ("fusion", with_token.T)):
        np.testing.assert_array_equal(demo_inside._by_time(name, given_weights, features, True), expected)


def test_other_tracers_have_no_inside(visits):
    assert not demo_inside.can_look_inside(visits.models.tracer) and not demo_inside.can_look_inside(None)
