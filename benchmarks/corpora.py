"""From a protocol to the first batch, and decoding: a made-up corpus of the size of ASVspoof 2019 LA.

python benchmarks/corpora.py

121,461 trials in the real layout, whose clips are links to a few FLACs of noise. Needs the `data` extra, and a file
system with hard links.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import soundfile
from common import cpu_name

from spooftrace.audio import load_audio
from spooftrace.data_scripts import get_corpus, load_corpus


NAME = "asvspoof2019-la"
SAMPLING_RATE = 16_000
PARTS = {"train": ("train.trn", 2_580, 22_800), "dev": ("dev.trl", 2_548, 22_296), "eval": ("eval.trl", 7_355, 63_882)}
MEAN_SECONDS, SPREAD = 3.7, 1.5
LINKS = 16_000  # per clip; ext4 allows 65,000


def write_clips(folder: Path, clips: int, seed: int) -> list[Path]:
    """FLACs of noise in speech's dynamic range, of 1 s and more; they compress about as little as noisy speech."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    paths = []
    for number in range(clips):
        samples = round(SAMPLING_RATE * max(1.0, random.normal(MEAN_SECONDS, SPREAD)))
        envelope = np.abs(np.sin(np.arange(samples) * 2 * np.pi * 3 / SAMPLING_RATE))
        paths.append(folder / f"{number}.flac")
        soundfile.write(paths[-1], 0.1 * envelope * random.standard_normal(samples), SAMPLING_RATE)
    return paths


def lines_of(part: str) -> Iterator[tuple[str, str]]:
    """Utterance and line of every trial."""
    _, bonafide, spoof = PARTS[part]
    for number in range(bonafide + spoof):
        utterance = f"LA_{part[0].upper()}_{1_000_000 + number}"
        system = "- bonafide" if number < bonafide else f"A{1 + number % 6:02} spoof"
        yield utterance, f"LA_0001 {utterance} - {system}\n"


def write_corpus(root: Path, clips: list[Path]) -> None:
    protocols = root / "ASVspoof2019_LA_cm_protocols"
    protocols.mkdir(parents=True)
    for part, (ending, *_) in PARTS.items():
        folder = root / f"ASVspoof2019_LA_{part}" / "flac"
        folder.mkdir(parents=True)
        trials = list(lines_of(part))
        (protocols / f"ASVspoof2019.LA.cm.{ending}.txt").write_text("".join(line for _, line in trials))
        for number, (utterance, _) in enumerate(trials):
            os.link(clips[number % len(clips)], folder / f"{utterance}.flac")


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def first_batch(root: Path, cache: Path, size: int, streaming: bool) -> list[np.ndarray]:
    """Every part is read and checked, then the first trials of the training part are decoded."""
    train = load_corpus(NAME, root, split="train", cache_dir=cache, streaming=streaming)
    return [load_audio(row["audio"]["path"]) for row in train.take(size)]


def time_corpus(root: Path, scratch: Path, repeats: int, batch: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"parse and check": [], "first batch, built": [], "again, from the cache": []}
    times["first batch, streamed"] = []
    for run in range(repeats):
        cache = scratch / f"cache{run}"
        times["parse and check"].append(seconds(lambda: get_corpus(NAME).read(root)))
        for label in ("first batch, built", "again, from the cache"):
            times[label].append(seconds(lambda cache=cache: first_batch(root, cache, batch, False)))
        times["first batch, streamed"].append(seconds(lambda cache=cache: first_batch(root, cache, batch, True)))
    return times


def time_decoding(clips: list[Path], repeats: int) -> None:
    length = sum(soundfile.info(path).duration for path in clips)
    size = sum(path.stat().st_size for path in clips) / len(clips) / 1e3
    taken = statistics.median(seconds(lambda: [load_audio(path) for path in clips]) for _ in range(repeats))
    print(
        f"load_audio: {len(clips)} FLACs, {length / len(clips):.2f} s and {size:.0f} kB each: "
        f"{taken / len(clips) * 1e3:.2f} ms a clip, {len(clips) / taken:.0f} clips/s, {length / taken:.0f} x real time"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500, help="FLACs to decode (default: 500)")
    parser.add_argument("--batch", type=int, default=24, help="trials in the first batch (default: 24)")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the median (default: 5)")
    parser.add_argument("--folder", help="where to write the corpus (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0, help="of the clips (default: 0)")
    arguments = parser.parse_args()
    if arguments.clips * LINKS < sum(bonafide + spoof for _, bonafide, spoof in PARTS.values()):
        raise SystemExit(f"{arguments.clips} clips would have too many links: use 10 or more.")
    datasets.disable_progress_bars()
    print(f"{cpu_name()}, datasets {datasets.__version__}")
    print(f"Load at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        scratch = Path(folder)
        clips = write_clips(scratch / "clips", arguments.clips, arguments.seed)
        write_corpus(scratch / "LA", clips)
        for label, times in time_corpus(scratch / "LA", scratch, arguments.repeats, arguments.batch).items():
            print(f"{label:<24} first {times[0]:6.2f} s  median {statistics.median(times):6.2f} s", flush=True)
        time_decoding(clips, arguments.repeats)


if __name__ == "__main__":
    main()
