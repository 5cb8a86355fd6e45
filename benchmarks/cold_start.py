"""Time and peak memory of the command line in a new process: help, and the verdict on one clip.

python benchmarks/cold_start.py CLIP [--model FOLDER]

Works on Linux and macOS, whose kernels report the peak memory of a process that ended.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time


MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


def run_once(command: list[str], quiet: bool = True) -> tuple[float, float]:
    """
    Seconds until the process ended, and its peak resident memory in MB; `quiet` hides what it prints.

    Raises:
        `SystemExit`: if the command fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}.")
    return time.perf_counter() - start, usage.ru_maxrss * MAXRSS_UNIT / 1e6


def report(label: str, command: list[str], repeats: int):
    first, *others = [run_once(command) for _ in range(repeats + 1)]
    seconds, memory = (statistics.median(values) for values in zip(*others, strict=True))
    print(f"{label:<22} first {first[0]:6.2f} s  then {seconds:6.2f} s  peak {memory:6.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="an audio file")
    parser.add_argument("--model", help="Hub id or folder (default: the detector in the package)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs after the first, of which the median (default: 5)"
    )
    arguments = parser.parse_args()
    spooftrace = [sys.executable, "-m", "spooftrace"]
    detect = [*spooftrace, "detect", arguments.clip, *(["--model", arguments.model] if arguments.model else [])]
    report("bare Python", [sys.executable, "-c", "pass"], arguments.repeats)
    report("spooftrace --help", [*spooftrace, "--help"], arguments.repeats)
    report("spooftrace detect CLIP", detect, arguments.repeats)


if __name__ == "__main__":
    main()
