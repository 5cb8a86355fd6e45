"""The demo as a server: the same JSON as the command line, no file or address but uploads, hostile clips, many at once."""

import io
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import warm_python

from spooftrace.cli import main


gradio_client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

from demo_server import DemoServer, demo_server  # noqa: E402  after the skips
from gradio_client import handle_file  # noqa: E402


EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "synthetic_speech.flac"
MAX_SECONDS = 30
META = {"_type": "gradio.FileData"}
NOISE = np.random.default_rng(0).normal(scale=0.1, size=32_000).astype(np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[DemoServer]:
    with demo_server(tmp_path_factory.mktemp("demo"), "--max-duration", str(MAX_SECONDS)) as running:
        yield running
        assert any(path.is_file() for path in running.scratch.rglob("*"))
    left = [path for path in running.scratch.rglob("*") if path.is_file()]
    assert left == [], "files of visitors outlived the server"


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def call(server: DemoServer, endpoint: str, *data) -> tuple[str, str]:
    """An endpoint by plain HTTP: how its last event is called, and what it carries."""
    posted = httpx.post(f"{server.url}/gradio_api/call/{endpoint}", json={"data": list(data)})
    if posted.status_code == 400:
        return "error", posted.text
    assert posted.status_code == 200, posted.text
    events = httpx.get(f"{server.url}/gradio_api/call/{endpoint}/{posted.json()['event_id']}", timeout=60).text
    kinds = re.findall(r"^event: (\w+)\ndata: (.*)$", events, re.MULTILINE)
    return kinds[-1]


def upload(server: DemoServer, name: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}/gradio_api/upload", files={"files": (name, content)}, timeout=60)


@pytest.fixture
def printed(clips, monkeypatch, capsys) -> Callable[..., list[dict]]:
    """What the command line prints, run in the folder of the clips: there a path is a name, as an upload's is."""

    def run(*arguments: str) -> list[dict]:
        monkeypatch.chdir(clips)
        assert main(arguments) in (0, 3)
        return json.loads(capsys.readouterr().out)

    return run


def assert_same(found, expected, where="") -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(found[index], value, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5), where
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Speech, silence, and a file that is no audio."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "speech.flac").write_bytes(EXAMPLE.read_bytes())
    soundfile.write(folder / "silence.wav", np.zeros(16_000), 16_000)
    (folder / "text.wav").write_text("no audio\n" * 100)
    return folder


@pytest.mark.parametrize("threshold", [0.5, 0.001])
def test_detect_answers_what_the_command_prints(client, clips, printed, threshold):
    names = ["speech.flac", "silence.wav", "text.wav"]
    limits = ["--max-seconds", str(MAX_SECONDS), "--threshold", str(threshold)]
    expected = printed("detect", "--json", *limits, *names)
    for name, entry in zip(names, expected, strict=True):
        answer = client.predict(
            audio=handle_file(clips / name), model="default", threshold=threshold, api_name="/detect"
        )
        assert_same(json.loads(answer), [entry])


def test_trace_answers_what_the_command_prints(client, clips, printed):
    expected = printed("trace", "--json", "speech.flac", "silence.wav")
    for name, entry in zip(["speech.flac", "silence.wav"], expected, strict=True):
        assert_same(json.loads(client.predict(audio=handle_file(clips / name), api_name="/trace")), [entry])


def test_the_example_that_asks_a_demo_gets_what_the_commands_print(server, tmp_path, capsys, monkeypatch):
    asking = warm_python.run(EXAMPLE.with_name("ask_the_space.py"), EXAMPLE, "--space", server.url, cwd=tmp_path)
    assert asking.returncode == 0, asking.stderr
    monkeypatch.chdir(EXAMPLE.parent)
    parts = asking.stdout.removeprefix("/detect\n").split("/trace\n")
    for part, command in zip(parts, ("detect", "trace"), strict=True):
        assert main([command, "--json", "--device", "cpu", EXAMPLE.name]) == 0
        (expected,), answer = json.loads(capsys.readouterr().out), json.loads(part)
        assert answer.keys() == expected.keys()
        assert (answer["path"], answer["sha256"]) == (EXAMPLE.name, expected["sha256"])
        if command == "detect":
            assert answer["verdict"] == "spoof" and answer["score"] == pytest.approx(expected["score"], abs=1e-5)
        else:
            assert answer["vq"]["label"] == expected["vq"]["label"]


@pytest.mark.parametrize("threshold", [0, 1, -1, None])
def test_a_threshold_that_is_none_is_refused(client, clips, threshold):
    with pytest.raises(Exception, match="between 0 and 1"):
        client.predict(handle_file(clips / "silence.wav"), "default", threshold, api_name="/detect")


def test_only_the_models_of_the_start_are_offered(server, clips):
    path = upload(server, "a.wav", (clips / "silence.wav").read_bytes()).json()[0]
    for name in ("owner/name", "/etc", "../default", "https://example.org/model"):
        kind, answer = call(server, "detect", {"path": path, "meta": META}, name, 0.5)
        assert kind == "error" and "sha256" not in answer
        assert name not in server.log.read_text(), "the log would grow with all that is refused"


class Listener(BaseHTTPRequestHandler):
    """An address that counts who asks."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(EXAMPLE.read_bytes())

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def listener() -> Iterator[str]:
    running = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


@pytest.mark.parametrize("endpoint", ["detect", "trace"])
def test_addresses_are_not_fetched(server, listener, endpoint):
    rest = ["default", 0.5] if endpoint == "detect" else []
    Listener.asked.clear()
    address = f"{listener}/clip.wav"
    for value in (
        {"path": address, "meta": META},
        {"path": f" {address}", "meta": META},
        {"path": address.replace("http", "HTTP"), "meta": META},
        {"path": address, "url": address, "meta": META},
        {"path": "clip.wav", "url": address, "meta": META},
        {"path": address, "is_stream": True, "meta": META},
        {"path": address},
        {"meta": META, "nested": [{"path": address, "meta": META}], "path": "clip.wav"},
        {"path": "ftp://127.0.0.1/clip.wav", "meta": META},
        address,
    ):
        kind, answer = call(server, endpoint, value, *rest)
        assert kind == "error" and "sha256" not in answer, value
    for route in ("file=", "proxy=", "file/"):
        assert httpx.get(f"{server.url}/gradio_api/{route}{address}").status_code == 404
    assert Listener.asked == []


def test_a_public_address_is_refused_in_words(server):
    kind, answer = call(server, "trace", {"path": "https://example.org/clip.wav", "meta": META})
    assert kind == "error" and "Only uploaded files are read" in answer


def test_files_of_the_server_are_not_read(server, clips):
    outside = clips / "speech.flac"
    inside = upload(server, "a.wav", (clips / "silence.wav").read_bytes()).json()[0]
    up = os.path.relpath(outside, Path(inside).parent)
    link = Path(inside).parent / "link.flac"
    link.symlink_to(outside)
    for path in (str(outside), "/etc/passwd", f"file://{outside}", str(Path(inside).parent / up), up, str(link), ""):
        for value in ({"path": path, "meta": META}, {"path": path}, {"path": path, "is_stream": True, "meta": META}):
            kind, answer = call(server, "detect", value, "default", 0.5)
            assert kind == "error" and "sha256" not in answer, value
        if path.startswith("/"):
            assert httpx.get(f"{server.url}/gradio_api/file={path}").status_code in (403, 404) or path == str(link)


def test_routes_without_a_use_here_are_not_there(server):
    for route in (
        "monitoring",
        "runs",
        "gradio_api/deep_link?session_hash=a",
        "gradio_api/openapi.json",
        "gradio_api/vibe-code/",
        "gradio_api/process_recording",
        "gradio_api/cancel",
        "gradio_api/reset",
        "gradio_api/component_server",
        "gradio_api/dev/reload",
        "gradio_api/stream/a/b/c/playlist.m3u8",
        "docs",
        "openapi.json",
        "login_check",
    ):
        for method in ("GET", "POST"):
            assert httpx.request(method, f"{server.url}/{route}").status_code == 404, route


@pytest.mark.parametrize("endpoint", ["detect", "trace"])
def test_no_request_passes_the_queue_by(server, endpoint):
    answer = httpx.post(f"{server.url}/gradio_api/run/{endpoint}", json={"data": [None]})
    assert answer.status_code == 404 and "queue" in answer.text


def test_large_requests_are_refused_before_they_are_read(server):
    def endless():
        for _ in range(1000):
            yield b" " * 2**16

    answer = httpx.post(f"{server.url}/gradio_api/call/detect", content=b" " * 2**20)
    assert answer.status_code == 413
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=30) as connection:
        connection.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1099511627776\r\n\r\n")
        assert b" 413 " in connection.recv(100)
    try:
        answer = httpx.post(f"{server.url}/gradio_api/queue/join", content=endless(), timeout=30)
        assert answer.status_code in (400, 413)
    except httpx.TransportError:  # the connection was closed on the sender
        pass
    assert upload(server, "big.wav", bytes(51 * 2**20)).status_code == 413


def test_pages_load_nothing_from_elsewhere(server):
    page = httpx.get(server.url)
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?://[^\"]+)\"", page.text)
    assert [address for address in loaded if not address.startswith(server.url)] == []
    assert page.headers["x-content-type-options"] == "nosniff"


def encoded(samples: np.ndarray, rate: int = 16_000, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def header(rate: int, channels: int, data_bytes: int) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2 & 0xFFFF, 16)
    start = struct.pack("<4sI4s4sI", b"RIFF", 36 + data_bytes & 0xFFFFFFFF, b"WAVE", b"fmt ", 16)
    return start + form + struct.pack("<4sI", b"data", data_bytes)


HOSTILE = {
    "text.wav": (b"not audio at all\n" * 99, "UnreadableAudioError"),
    "archive.wav": (b"PK\x03\x04" + bytes(500), "UnreadableAudioError"),
    "page.wav": (b"<html><script>alert(1)</script></html>" * 20, "UnreadableAudioError"),
    "film.mp3": (b"\x00\x00\x00\x18ftypM4A " + bytes(500), "UnreadableAudioError"),
    "cut.wav": (encoded(NOISE)[:9000], "UnreadableAudioError"),
    "cut.flac": (encoded(NOISE, container="FLAC")[:9000], "UnreadableAudioError"),
    "cut.mp3": (encoded(NOISE, container="MP3", subtype="MPEG_LAYER_III")[:2000], "UnreadableAudioError"),
    "liar.wav": (header(16_000, 1, 960_000) + bytes(2000), "UnreadableAudioError"),
    "fast.wav": (header(2_000_000_000, 1, 2000) + bytes(2000), "UnsupportedAudioError"),
    "wide.wav": (header(16_000, 1024, 4096) + bytes(4096), "UnsupportedAudioError"),
    "loud.wav": (encoded(NOISE * 32768, subtype="FLOAT"), "UnsupportedAudioError"),
    "long.flac": (encoded(np.zeros(16_000 * 31), container="FLAC"), "AudioTooLongError"),
    "empty.wav": (encoded(NOISE[:0]), "EmptyAudioError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_clips_get_a_clear_answer_and_no_path(server, name):
    content, error = HOSTILE[name]
    path = upload(server, name, content).json()[0]
    kind, answer = call(server, "detect", {"path": path, "meta": META}, "default", 0.5)
    assert kind == "complete"
    (result,) = json.loads(json.loads(answer)[0])
    assert result["error"] == error and result["path"] == name
    assert name in result["message"] and str(server.scratch) not in answer and "/tmp" not in answer


@pytest.mark.parametrize(
    ("samples", "subtype", "reason"),
    [(NOISE[:1], "FLOAT", "too short"), (NOISE * np.inf, "FLOAT", "not finite"), (0 * NOISE, "PCM_16", "silent")],
)
def test_clips_that_cannot_be_judged_get_the_reason(server, samples, subtype, reason):
    with np.errstate(invalid="ignore"):
        path = upload(server, "clip.wav", encoded(np.asarray(samples), subtype=subtype)).json()[0]
    kind, answer = call(server, "detect", {"path": path, "meta": META}, "default", 0.5)
    (result,) = json.loads(json.loads(answer)[0])
    assert (kind, result["verdict"], result["reason"]) == ("complete", "abstain", reason)


def test_names_that_are_markup_arrive_as_a_bare_name(server):
    for name in ('<img src=x onerror="alert(1)">.wav', "../../../etc/cron.d/job.wav", "a\nb\x1b[31m.wav", "語.wav"):
        path = upload(server, name, encoded(0 * NOISE)).json()[0]
        assert Path(path).resolve().is_relative_to(server.scratch.resolve())
        _, answer = call(server, "detect", {"path": path, "meta": META}, "default", 0.5)
        (result,) = json.loads(json.loads(answer)[0])
        assert "/" not in result["path"] and "\n" not in result["path"] and "<img" not in result["path"]


def test_fifty_requests_at_once_are_all_answered_alike_in_bounded_memory(server, clips):
    client = server.client()
    expected = json.loads(client.predict(handle_file(clips / "speech.flac"), api_name="/detect"))
    before = server.memory()

    def ask(number: int) -> list[dict]:
        name = ("speech.flac", "silence.wav", "text.wav")[number % 10 // 4]
        return json.loads(client.predict(handle_file(clips / name), api_name="/detect"))

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    for number, answer in enumerate(answers):
        if number % 10 < 4:
            assert_same(answer, expected)
        else:
            assert answer[0].get("reason") == "silent" or answer[0].get("error") == "UnreadableAudioError"
    assert server.memory() - before < 200 * 2**20


def test_the_server_is_still_alive_and_its_files_lie_in_its_own_folder(server, client, clips):
    """Runs last in this file: after everything above."""
    answer = json.loads(client.predict(handle_file(clips / "speech.flac"), api_name="/detect"))
    assert answer[0]["verdict"] == "spoof" and f"listens on {server.url}" in server.log.read_text()
    outside = [path for path in server.scratch.rglob("*") if path.is_file() and not _own(path, server)]
    assert outside == []


def _own(path: Path, server: DemoServer) -> bool:
    return path.relative_to(server.scratch).parts[0].startswith("demo-")
