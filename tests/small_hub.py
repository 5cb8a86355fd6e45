"""A small Hugging Face Hub on 127.0.0.1, for tests that push and pull with the stock client.

    with small_hub(tmp_path) as hub:
        warm_python.run("-c", program, env=hub.env(token=WRITE), check=True)

It knows models, datasets and Spaces: create, upload (git-LFS, not Xet), commit, branches, open a pull request, info, tree,
the list of an owner's models, resolve with ranges, pinned commits, private repositories, read-only tokens. It knows no merging, tags, organisations, gating or
redirects.
The client reads its endpoint when it is imported, so what talks to the Hub runs in processes of its own.
"""

import json
import os
import re
import secrets
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import warm_python
from small_hub_answers import ROUTES, Answer, Call, Refusal, Store, is_lfs, json_answer


# Bearer token -> its user, and whether it may write.
TOKENS = {"hf_alice_write": ("alice", True), "hf_alice_read": ("alice", False), "hf_bob_write": ("bob", True)}
WRITE, READ = "hf_alice_write", "hf_alice_read"


class Request(NamedTuple):
    """One line of the Hub's log; `status` is `None` where the connection was cut."""

    method: str
    path: str
    status: int | None
    user: str | None
    range: str | None


class Fault(NamedTuple):
    """What goes wrong on requests whose `METHOD path` matches."""

    match: re.Pattern
    status: int | None
    after: int
    applied: bool
    headers: dict[str, str]


class SmallHub:
    """A running Hub; see [`small_hub`]."""

    def __init__(self, root: Path):
        self.store = Store(root / "hub")
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._homes = root / "homes"
        hub = self
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def env(self, token: str | None = WRITE, home: Path | str | None = None, **variables: str) -> dict[str, str]:
        """The environment of a process that talks to this Hub; an empty `HF_HOME` each time, unless `home` names one."""
        dropped = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        home = Path(home) if home else self._homes / secrets.token_hex(4)
        home.mkdir(parents=True, exist_ok=True)
        switches = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_EVALUATE_OFFLINE": "0"}
        switches |= {f"HF_HUB_DISABLE_{what}": "1" for what in ("TELEMETRY", "XET", "UPDATE_CHECK", "PROGRESS_BARS")}
        where = {"HF_ENDPOINT": self.url, "HF_HOME": str(home)} | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
        return inherited | switches | where | ({"HF_TOKEN": token} if token else {}) | variables

    def seed(self, name: str, files: Path | dict[str, bytes], *, kind: str = "model", private: bool = False) -> str:
        """Commits the files of a folder, or of a `dict`, past all tokens; returns the commit."""
        if isinstance(files, Path):
            paths = [path for path in sorted(files.rglob("*")) if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        with self.store.lock:
            repo = self.store.find(kind, name) or self.store.create(kind, name, private=private)
            entries = dict(self.store.commit_of(repo, repo["branches"]["main"])["files"])
            entries |= {path: self.store.entry(data, lfs=is_lfs(path, len(data))) for path, data in files.items()}
            return self.store.commit(repo, "main", entries, "seed")

    def files(self, name: str, *, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, for assertions; `KeyError` for a repository that is not there."""
        repo = self.store.find(kind, name)
        if repo is None:
            raise KeyError(f"{kind} {name}")
        entries = self.store.commit_of(repo, self.store.resolve(repo, revision))["files"]
        return {path: self.store.blob(entry["sha256"]).read_bytes() for path, entry in entries.items()}

    def head(self, name: str, *, kind: str = "model") -> str:
        """The newest commit of the branch `main`."""
        return self.store.find(kind, name)["branches"]["main"]

    def titles(self, name: str, *, kind: str = "model") -> list[str]:
        """Titles of all commits of a repository, sorted; the first one, which makes it, is called `init`."""
        paths = self.store.root.glob(f"{kind}/{name}/commits/*")
        return sorted(json.loads(path.read_text())["title"] for path in paths)

    def spooftrace(self, *arguments: Any, **options: Any) -> subprocess.CompletedProcess:
        """Runs the command in a process of its own, with this Hub; `options` are those of `env`."""
        return warm_python.run("-m", "spooftrace", *arguments, env=self.env(**options))

    def fail(self, match: str, status: int = 503, times: int = 1, **headers: str) -> None:
        """Answers the next `times` requests whose `METHOD path` matches with an error, and does nothing else."""
        self._faults += [Fault(re.compile(match), status, 0, False, headers)] * times

    def cut(self, match: str, after: int = 0, times: int = 1, *, applied: bool = True) -> None:
        """Closes the connection after so many bytes of the body; with `applied=False`, before any work is done."""
        self._faults += [Fault(re.compile(match), None, after, applied, {})] * times

    def next_fault(self, line: str) -> Fault | None:
        with self.store.lock:
            fault = next((fault for fault in self._faults if fault.match.search(line)), None)
            if fault:
                self._faults.remove(fault)
            return fault


@contextmanager
def small_hub(root: Path) -> Iterator[SmallHub]:
    """A Hub that keeps its data in `root` and answers on a free port until the block ends."""
    hub = SmallHub(Path(root))
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        body = self._read_body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        user, may_write = TOKENS.get(token, (None, False))
        fault = self.hub.next_fault(f"{self.command} {self.path}")
        try:
            if fault and fault.status:
                raise Refusal(fault.status, "a fault was asked for", **fault.headers)
            if token and user is None:
                raise Refusal(401, "Invalid credentials in Authorization header")
            answer = self._answer(body, user, may_write) if fault is None or fault.applied else None
        except Refusal as refusal:
            answer = json_answer(refusal.body, **refusal.headers)._replace(status=refusal.status)
        cut = fault is not None and fault.status is None
        status = None if cut else answer.status
        self.hub.requests.append(Request(self.command, self.path, status, user, self.headers.get("Range")))
        self._send(answer, fault.after if cut else None)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, answer: Answer | None, cut_after: int | None) -> None:
        if answer is not None and cut_after != 0:
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[:cut_after])
        self.close_connection = self.close_connection or cut_after is not None

    def _answer(self, body: bytes, user: str | None, may_write: bool) -> Answer:
        target = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        call = Call(self.hub.url, self.hub.store, self.headers, query, body, user, may_write)
        method = "GET" if self.command == "HEAD" else self.command
        for route_method, pattern, handle in ROUTES:
            found = re.fullmatch(pattern, target.path)  # on the raw path: a revision may hold a quoted slash
            if found and route_method == method:
                groups = {name: unquote(value or "") for name, value in found.groupdict().items()}
                with self.hub.store.lock:
                    return handle(call, **groups)
        raise Refusal(404, f"This Hub does not know {self.command} {target.path}")
