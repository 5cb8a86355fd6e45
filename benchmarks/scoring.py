"""Clips per second of decoding alone and of `spooftrace score`, with one process and several, on clips made for it.

python benchmarks/scoring.py [--clips 2000] [--seconds 4] [--model FOLDER]

Every row is a run of its own into a new folder. The start of Python, torch and the model is timed with a run over one
clip, and taken off. The script stops unless all runs write the same bytes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from common import cpu_name

from spooftrace.audio import audio_sha256, load_audio


RATE = 16_000
FILES = ("scores.txt", "scores.jsonl", "run.json")


def make_clips(folder: Path, count: int, seconds: float) -> list[Path]:
    """16-bit FLAC files at 16 kHz, of noise and a voiced sound; their lengths lie around `seconds`."""
    generator, paths = np.random.default_rng(0), []
    folder.mkdir()
    for index in range(count):
        moments = np.arange(round(generator.uniform(0.5, 1.5) * seconds * RATE)) / RATE
        pitch = generator.uniform(90, 220)
        voice = sum(np.sin(2 * np.pi * pitch * order * moments) / order for order in range(1, 10))
        paths.append(folder / f"{index:06}.flac")
        soundfile.write(paths[-1], 0.1 * voice + 0.01 * generator.standard_normal(len(moments)), RATE)
    return paths


def decode(paths: list[Path]) -> tuple[float, float]:
    """Seconds to decode and to hash all clips, on one core."""
    start = time.perf_counter()
    for path in paths:
        load_audio(path)
    middle = time.perf_counter()
    for path in paths:
        audio_sha256(path)
    return middle - start, time.perf_counter() - middle


def score(clips: Path, out: Path, launcher: list[str], options: list[str]) -> float:
    """
    Seconds of one run of the command.

    Raises:
        `SystemExit`: if it fails.
    """
    command = [sys.executable, "-m", *launcher, "spooftrace", "score", str(clips), "--out", str(out), *options]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000, help="number of clips (default: 2000)")
    parser.add_argument("--seconds", type=float, default=4.0, help="their mean length (default: 4)")
    parser.add_argument("--processes", type=int, default=2, help="of the last row (default: 2)")
    parser.add_argument("--model", help="Hub id or folder (default: the detector in the package)")
    arguments = parser.parse_args()
    model = ["--model", arguments.model] if arguments.model else []
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(arguments.processes), "-m"]
    rows = {
        "score, 1 thread": ([], ["--threads", "1"]),
        "score, 2 threads": ([], ["--threads", "2"]),
        f"score, {arguments.processes} processes": (launch, ["--threads", "1"]),
    }
    print(f"{cpu_name()}, {os.cpu_count()} cores, {arguments.clips} clips of {arguments.seconds:g} s in the mean")
    if hasattr(os, "getloadavg"):
        print(f"Load at the start: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        paths = make_clips(work / "clips", arguments.clips, arguments.seconds)
        make_clips(work / "one", 1, arguments.seconds)
        for label, seconds in zip(("decode", "SHA-256"), decode(paths), strict=True):
            print(f"{label:<20} {seconds:7.1f} s  {len(paths) / seconds:8.1f} clips/s", flush=True)
        results = set()
        for index, (label, (launcher, options)) in enumerate(rows.items()):
            start = score(work / "one", work / f"one{index}", launcher, [*model, *options])
            whole = score(work / "clips", work / f"out{index}", launcher, [*model, *options])
            results.add(tuple((work / f"out{index}" / file).read_bytes() for file in FILES))
            rate = len(paths) / max(whole - start, 1e-9)
            print(f"{label:<20} {whole:7.1f} s  {rate:8.1f} clips/s without the start of {start:.1f} s", flush=True)
        again = score(work / "clips", work / "out0", [], model)
        print(f"{'finished already':<20} {again:7.1f} s")
        if len(results) > 1:
            raise SystemExit("The runs wrote different bytes.")


if __name__ == "__main__":
    main()
