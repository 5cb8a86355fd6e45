"""Time from the start of the demo to its page, and from there to the first verdicts; its memory after fifty at once.

python benchmarks/demo_start.py CLIP [--no-tracer]

Clips go through the endpoint `/detect`, as a program's do: upload, queue, answer.
"""

import argparse
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from gradio_client import Client, handle_file


AT_ONCE = 50


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen):
    while process.poll() is None:
        try:
            httpx.get(url, timeout=5).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.05)
    raise SystemExit(f"The demo ended with exit code {process.returncode}.")


def megabytes(process: subprocess.Popen) -> float:
    """Resident memory of a process, on Linux."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024


def measure(url: str, clip: str, process: subprocess.Popen):
    client = Client(url, verbose=False)

    def ask(_=None) -> float:
        start = time.perf_counter()
        client.predict(handle_file(clip), api_name="/detect")
        return time.perf_counter() - start

    print(f"first verdict        {ask():6.2f} s")
    print(
        f"then (median of 10)  {statistics.median(ask() for _ in range(10)):6.2f} s   {megabytes(process):6.0f} MB",
        flush=True,
    )
    start = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        slowest = max(pool.map(ask, range(AT_ONCE)))
    total = time.perf_counter() - start
    print(f"{AT_ONCE} at once           {total:6.2f} s   {megabytes(process):6.0f} MB   slowest {slowest:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="an audio file")
    parser.add_argument("--no-tracer", action="store_true", help="without source tracing")
    arguments = parser.parse_args()
    port = free_port()
    options = ["--no-tracer"] if arguments.no_tracer else []
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "spooftrace", "demo", "--port", str(port), *options])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process)
        print(f"page after           {time.perf_counter() - start:6.2f} s   {megabytes(process):6.0f} MB", flush=True)
        measure(url, arguments.clip, process)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
