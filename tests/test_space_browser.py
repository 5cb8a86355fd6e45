"""The demo in a real browser, at the width of a desk and of a phone, in light and in dark.

With `SPOOFTRACE_SHOTS=DIR` the pictures of the pages are kept in a folder, to be looked at.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import lively, tiny_config


pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")

from demo_server import DemoServer, demo_server  # noqa: E402  after the skips

from spooftrace.modeling import AasistFeatureExtractor, AasistForAudioClassification  # noqa: E402


CHROMIUM = os.environ.get("SPOOFTRACE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "synthetic_speech.flac"
CONTRAST = (Path(__file__).resolve().parent / "contrast.js").read_text(encoding="utf-8")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
WAIT = 15_000  # milliseconds

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[DemoServer]:
    """With a second detector, of a few random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny-detector"
    torch.manual_seed(0)
    lively(AasistForAudioClassification(tiny_config("mel"))).save_pretrained(folder)
    AasistFeatureExtractor(window_samples=32_000).save_pretrained(folder)
    with demo_server(tmp_path_factory.mktemp("demo"), "--model", "default", str(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[sync_api.Browser]:
    """Chromium, whose microphone hears the example."""
    heard = tmp_path_factory.mktemp("microphone") / "heard.wav"
    samples, rate = soundfile.read(EXAMPLE)
    soundfile.write(heard, samples, rate, subtype="PCM_16")
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    options = ["--no-sandbox", *microphone, f"--use-file-for-fake-audio-capture={heard}"]
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield running
        running.close()


@pytest.fixture
def shots(tmp_path) -> Path:
    folder = Path(os.environ.get("SPOOFTRACE_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Visitor:
    """Somebody at the page, who notices what the browser refuses or reports."""

    def __init__(self, browser: sync_api.Browser, server: DemoServer, size: str = "desktop", mode: str = "light"):
        width, height = SIZES[size]
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=mode)
        self.page.set_default_timeout(WAIT)
        sync_api.expect.set_options(timeout=WAIT)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", self._request)
        self.url = server.url
        self.page.goto(f"{server.url}/?__theme={mode}")
        self.page.get_by_role("button", name="Try an example").wait_for()

    def _console(self, message: sync_api.ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.problems.append(message.text)

    def _request(self, request: sync_api.Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"asked {request.url}")

    def give(self, file, tab: str = "#st-check") -> None:
        """Puts a file into the first input of a tab."""
        self.page.locator(tab).locator("input[type=file]").first.set_input_files(file)

    @property
    def verdict(self) -> sync_api.Locator:
        return self.page.locator(".st-card h2").first

    def illegible(self) -> list:
        """Texts without enough contrast, once colours have stopped changing."""
        for _ in range(10):
            if not (found := self.page.evaluate(CONTRAST)):
                break
            self.page.wait_for_timeout(200)
        return found

    def fits(self) -> bool:
        """Whether nothing sticks out at the side."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture
def visitor(browser, server) -> Iterator[Visitor]:
    found = Visitor(browser, server)
    yield found
    found.page.close()


@pytest.mark.parametrize(("size", "mode"), [("desktop", "light"), ("phone", "dark")])
def test_a_clip_is_checked_heard_judged_by_another_model_and_reported(browser, server, shots, size, mode):
    visitor = Visitor(browser, server, size, mode)
    page = visitor.page
    page.screenshot(path=shots / f"{size}-{mode}-start.png", full_page=True)
    sync_api.expect(page.get_by_text("What it was trained on, and what it cannot do").first).to_be_visible()
    visitor.give(EXAMPLE)
    sync_api.expect(visitor.verdict).to_have_text("Flagged as fake")
    windows = page.locator(".st-window")
    sync_api.expect(windows).to_have_count(9)
    with page.expect_response(lambda answer: "/gradio_api/file=" in answer.url and "audio.wav" in answer.url):
        windows.nth(2).click()
    sync_api.expect(page.locator(".st-extent").first).to_be_visible()
    part = page.get_by_role("slider", name="Part of the clip")
    sync_api.expect(part).to_have_value("3")
    page.screenshot(path=shots / f"{size}-{mode}.png", full_page=True)
    assert visitor.fits() and visitor.illegible() == []

    page.get_by_label("tiny-detector").first.check()
    sync_api.expect(page.locator(".st-clip").first).to_contain_text("tiny-detector")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the report").click()
    report = json.loads(Path(download.value.path()).read_text())
    assert report["detection"]["model"]["name"] == report["settings"]["model"] == "tiny-detector"
    assert report["detection"]["path"] == "synthetic_speech.flac" and report["trace"]["vq"]["label"]
    assert visitor.problems == []
    page.close()


@pytest.mark.parametrize("size", SIZES)
def test_two_detectors_side_by_side(browser, server, shots, size):
    visitor = Visitor(browser, server, size, "dark")
    page = visitor.page
    page.get_by_role("tab", name="Compare two").click()
    visitor.give(EXAMPLE, tab="#st-compare")
    page.locator("#st-compare").get_by_label("tiny-detector").last.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    clips = page.locator("#st-compare").locator(".st-clip")
    sync_api.expect(clips).to_have_count(2)
    sync_api.expect(clips.first).to_contain_text("default")
    sync_api.expect(clips.last).to_contain_text("tiny-detector")
    page.screenshot(path=shots / f"{size}-compare.png", full_page=True)
    assert visitor.fits() and visitor.illegible() == [] and visitor.problems == []
    page.close()


def test_an_answer_is_shown_only_for_what_is_chosen_when_it_arrives(visitor):
    page = visitor.page
    page.get_by_role("tab", name="Compare two").click()
    tab = page.locator("#st-compare")
    tab.locator("input[type=file]").last.set_input_files(EXAMPLE)  # and none for A
    tab.get_by_label("Clear").first.wait_for()
    compare = page.get_by_role("button", name="Compare", exact=True)
    compare.click()
    tab.locator(".st-window").first.click()
    sync_api.expect(tab.locator(".st-player").first).to_be_visible()

    limit = tab.locator(".st-limit")
    before, held = limit.inner_text(), []
    page.route("**/queue/join*", lambda asked: asked.continue_() if held else held.append(asked))
    with page.expect_request("**/queue/join*"):
        compare.click()
    tab.get_by_role("slider", name="Of 100 genuine clips").first.press("End")
    sync_api.expect(limit).not_to_have_text(before)
    after = limit.inner_text()
    with page.expect_request("**/queue/join*"):  # judged once more, by the share that is chosen now
        held[0].continue_()
    page.wait_for_timeout(500)
    sync_api.expect(limit).to_have_text(after)

    held.clear()
    with page.expect_request("**/queue/join*"):
        compare.click()
    tab.get_by_label("Clear").first.click()
    with page.expect_request("**/queue/join*"):
        held[0].continue_()
    page.wait_for_timeout(500)
    assert tab.locator(".st-card").count() == 0


def test_everything_works_by_keyboard(visitor):
    page = visitor.page
    page.get_by_role("button", name="Try an example").press("Enter")
    visitor.verdict.wait_for()
    windows = page.locator(".st-window")
    windows.first.focus()
    page.keyboard.press("ArrowRight")
    sync_api.expect(windows.nth(1)).to_be_focused()
    with page.expect_response(lambda answer: "audio.wav" in answer.url):
        page.keyboard.press("Enter")
    sync_api.expect(windows.nth(1)).to_have_attribute("aria-pressed", "true")
    before = page.locator(".st-note").inner_text()
    slider = page.get_by_role("slider", name="Of 100 genuine clips").first
    slider.focus()
    sync_api.expect(slider).to_have_css("outline-style", "solid")
    page.keyboard.press("ArrowRight")
    sync_api.expect(page.locator(".st-note")).not_to_have_text(before)


def test_nothing_that_was_said_of_one_clip_stays_beside_another(visitor, tmp_path):
    page = visitor.page
    visitor.give(EXAMPLE)
    visitor.verdict.wait_for()
    page.locator(".st-window").first.click()
    page.locator(".st-player").wait_for()
    page.route("**/queue/join*", lambda asked: asked.fulfill(status=503, json={"detail": "full"}))
    other = tmp_path / "silence.wav"
    soundfile.write(other, np.zeros(16_000), 16_000)
    page.locator("#st-check").get_by_label("Clear").first.click()
    # Clearing asks too, and is refused before: what counts is the answer to the new clip.
    with page.expect_response(lambda answer: answer.status == 503 and other.name in (answer.request.post_data or "")):
        visitor.give(other)
    page.get_by_text("currently busy").first.wait_for()
    for gone in (
        visitor.verdict,
        page.locator(".st-window").first,
        page.locator(".st-here"),
        page.locator(".st-player").first,
    ):
        sync_api.expect(gone).not_to_be_visible()
    page.unroute("**/queue/join*")
    page.get_by_role("slider", name="Of 100 genuine clips").first.press("ArrowRight")
    sync_api.expect(page.locator(".st-note").first).to_contain_text("of 251 genuine")
    sync_api.expect(page.locator(".st-empty").first).to_be_visible()


def test_a_recording_from_the_microphone_is_judged(visitor, shots):
    page = visitor.page
    page.locator("#st-check").get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    page.locator(".st-window").first.wait_for()
    sync_api.expect(visitor.verdict).not_to_have_text("This file could not be checked")
    page.screenshot(path=shots / "desktop-recording.png", full_page=True)


@pytest.mark.parametrize(
    ("content", "headline"), [(b"no audio\n" * 99, "This file could not be checked"), (None, "No verdict")]
)
def test_what_cannot_be_judged_says_why(visitor, shots, tmp_path, content, headline):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros(16_000), 16_000)
    if content is not None:
        path.write_bytes(content)
    visitor.give(path)
    sync_api.expect(visitor.verdict).to_have_text(headline)
    visitor.page.screenshot(path=shots / f"desktop-{headline.split()[0].lower()}.png", full_page=True)
    assert visitor.illegible() == []


def test_a_name_that_is_markup_stays_text(visitor):
    name = "<img src=x onerror=\"document.title='owned'\"><b>a.wav"
    visitor.give({"name": name, "mimeType": "audio/wav", "buffer": b"no audio" * 99})
    visitor.verdict.wait_for()
    assert visitor.page.title() != "owned"
    assert visitor.page.locator(".st-card img, .st-card b").count() == 0
