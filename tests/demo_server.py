"""The demo as a process of its own on a free port, for tests that talk to it as browsers and programs do."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from gradio_client import Client


@dataclass(frozen=True)
class DemoServer:
    """
    A running demo.

    Args:
        url: of its page.
        pid: of its process.
        scratch: the folder that holds everything it writes.
        log: what it prints.
    """

    url: str
    pid: int
    scratch: Path
    log: Path

    def client(self) -> Client:
        return Client(self.url, verbose=False)

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise OSError(f"process {self.pid} is gone")


@contextmanager
def demo_server(folder: Path, *options: str) -> Iterator[DemoServer]:
    """`spooftrace demo` with these options, ready to answer; stopped as by Ctrl-C."""
    scratch, log = folder / "scratch", folder / "demo.log"
    scratch.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "spooftrace", "demo", "--port", str(port), *options]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
        server = DemoServer(f"http://127.0.0.1:{port}", process.pid, scratch, log)
        try:
            _wait(server, process)
            yield server
        finally:
            process.send_signal(2)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(server: DemoServer, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(server.url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"the demo does not answer: {server.log.read_text()[-2000:]}")
