"""What keeps a demo safe on the open internet: uploads alone, few routes, small requests, no files left behind.

Gradio fetches web addresses that a request names in place of an upload, and serves several routes that this demo has no use
for (a proxy, recordings, editing by prompt, links that store a session). Here both end before they begin.
"""

import atexit
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPLOADS_ONLY = "Only uploaded files are read: web addresses and files of the server are not."
_TOO_LARGE = "The request is larger than the {} bytes allowed here."
_FULL = "Too many clips wait to be deleted. Try again in some minutes."
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:/")

# Routes that pages and clients of this demo use; everything else is not found. To cancel is not among them: Gradio frees the
# place of a cancelled run at once, while its thread works on, and so many would run at the same time.
_ROUTES = re.compile(
    r"/(?:$|config/?$|theme\.css$|robots\.txt$|manifest\.json$|favicon\.ico$|pwa_icon(?:/\w+)?$|static/|assets/|svelte/)"
    r"|/gradio_api/(?:info/?$|app_id/?$|theme\.css$|startup-events$|upload/?$|upload_progress$|heartbeat/\w+$"
    r"|queue/(?:join|data)/?$|(?:call|run)/\w+(?:/\w+)?/?$|file=(?!\w+:))"
)
_UPLOAD = "/gradio_api/upload"
_REQUEST_BYTES = 2**14  # of everything but uploads; Gradio writes what it refuses to the log, as a whole
_FORM_BYTES = 2**16  # around the file in an upload
_LEAST_BYTES = 2**16  # that a stored file counts as: looking through a flood of tiny ones would keep everybody waiting

# No script, style, picture or connection from or to anywhere else. Gradio's own pages need eval and inline scripts.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Refused(Exception):
    """A request that is not passed on, with the status of the answer."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Guard:
    """
    ASGI middleware: known routes alone, requests of bounded size without addresses to fetch, and headers that keep the page
    to itself.

    Args:
        app: what is guarded.
        max_upload: bytes of one uploaded file.
        folder: that uploads are kept in until they are deleted.
        max_stored: bytes in that folder from which on uploads are refused.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], max_upload: int, folder: Path, max_stored: int
    ):
        self.app = app
        self.max_upload = max_upload
        self.folder = folder
        self.max_stored = max_stored

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not _ROUTES.match(path) or ".." in path.split("/"):
            await _answer(send, 404, "Not found.")
            return
        is_upload = path.rstrip("/") == _UPLOAD
        most = self.max_upload + _FORM_BYTES if is_upload else _REQUEST_BYTES
        sender = _Sender(send)
        try:
            _check_length(scope, most)
            if is_upload and _stored(self.folder) > self.max_stored:
                raise Refused(503, _FULL)
            counted = _counted(receive, most)
            checked = counted if is_upload or scope["method"] != "POST" else await _without_addresses(counted)
            await self.app(scope, checked, sender)
        except Refused as refusal:
            if not sender.started:
                await _answer(send, refusal.status, str(refusal))


class _Sender:
    """Sends on, with the headers of every answer; knows whether one has begun."""

    def __init__(self, send: Send):
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await self._send(message)


def _stored(folder: Path) -> int:
    """Bytes of all files below a folder; a small one counts as `_LEAST_BYTES`, so that there are never very many."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                total += max(os.path.getsize(os.path.join(parent, name)), _LEAST_BYTES)
    return total


def _check_length(scope: Scope, most: int) -> None:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > most:
        raise Refused(413, _TOO_LARGE.format(most))


def _counted(receive: Receive, most: int) -> Receive:
    """The same messages until their bodies are more than `most` bytes together."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise Refused(413, _TOO_LARGE.format(most))
        return message

    return counted


async def _without_addresses(receive: Receive) -> Receive:
    """The same request, read as a whole and known to name no address where a file should be."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    try:
        content = json.loads(body) if body else None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Refused(400, "The request is not valid JSON.") from error
    if _names_address(content):
        raise Refused(400, UPLOADS_ONLY)
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        return next(messages, None) or await receive()

    return replayed


def _names_address(content: Any) -> bool:
    """Whether any object's `path`, which Gradio takes for a file, is an address; it may lie at any depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if _ADDRESS.match(str(value.get("path", ""))):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def private_folder() -> Path:
    """A folder of this process alone for everything that is uploaded or made; it is deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    tempfile.tempdir = str(folder)
    return folder


def sweep(folder: Path, age: float, keep: Collection[Path] = ()) -> None:
    """Deletes files in a folder that are older than `age` seconds, and the folders that this leaves empty."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            with suppress(OSError):  # deleted by another meanwhile
                if path not in keep and time.time() - path.stat().st_mtime > age:
                    path.unlink()
        if Path(parent) != folder:
            with suppress(OSError):  # not empty
                os.rmdir(parent)
