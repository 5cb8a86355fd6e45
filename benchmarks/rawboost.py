"""RawBoost in clips per second, beside the public implementation; outputs are compared first.

python benchmarks/rawboost.py --reference path/to/SSL_Anti-spoofing
"""

import argparse
import contextlib
import os
import types
from collections.abc import Callable
from functools import partial

import numpy as np
from common import CLOCKS, cpu_name, import_reference, medians

from spooftrace.trainers.rawboost import RawBoost


TOLERANCE = 1e-5
Function = Callable[[], np.ndarray]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", metavar="DIR", help="a checkout of github.com/TakHemlata/SSL_Anti-spoofing")
    parser.add_argument("--algorithms", type=int, nargs="+", default=[3, 4, 5], help="of 1 to 8 (default: 3 4 5)")
    parser.add_argument("--num-samples", type=int, default=64_600, help="of the clip (default: 64600)")
    parser.add_argument("--repeats", type=int, default=31, help="timed runs of each side (default: 31)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="time passed or processor time")
    parser.add_argument("--seed", type=int, default=0, help="of the clip and the draws (default: 0)")
    return parser.parse_args()


def make_clip(num_samples: int, seed: int) -> np.ndarray:
    """A noisy tone whose loudness rises and falls, float32 in [-1, 1]."""
    time = np.arange(num_samples) / 16_000
    tone = np.sin(2 * np.pi * 220 * time) * np.sin(2 * np.pi * 1.5 * time) ** 2
    noise = np.random.default_rng(seed).normal(0, 0.05, num_samples)
    return np.clip(0.7 * tone + noise, -1, 1).astype(np.float32)


def load_reference(folder: str) -> types.ModuleType:
    """Its RawBoost.py. Where it calls `int` and `float` on arrays of one number, which numpy 2 refuses, it gets the number."""
    module = import_reference(folder, "RawBoost.py")

    def draw(low: float, high: float, integer: bool) -> float:
        number = np.random.uniform(low, high, size=(1,))[0]
        return int(number) if integer else float(number)

    module.randRange = draw
    return module


def reference_function(module: types.ModuleType, clip: np.ndarray, settings: RawBoost) -> Function:
    """The published algorithm on the clip, in the order of its training script, with the same parameters as ours."""
    s = settings
    notches = (s.num_bands, s.min_frequency, s.max_frequency, s.min_bandwidth, s.max_bandwidth)
    notches += (s.min_taps, s.max_taps, s.min_gain, s.max_gain)
    losses = (s.min_nonlinear_loss, s.max_nonlinear_loss)

    def convolutive(x: np.ndarray) -> np.ndarray:
        return module.LnL_convolutive_noise(x, s.num_harmonics, *notches, *losses, s.sampling_rate)

    def impulsive(x: np.ndarray) -> np.ndarray:
        return module.ISD_additive_noise(x, s.max_impulses, s.impulse_gain)

    def stationary(x: np.ndarray) -> np.ndarray:
        return module.SSI_additive_noise(x, s.min_snr, s.max_snr, *notches, s.sampling_rate)

    def function() -> np.ndarray:
        if s.algorithm == 8:
            return module.normWav(convolutive(clip) + impulsive(clip), 0)
        output = clip
        for letter in {1: "c", 2: "i", 3: "s", 4: "cis", 5: "ci", 6: "cs", 7: "is"}[s.algorithm]:
            output = {"c": convolutive, "i": impulsive, "s": stationary}[letter](output)
        return output

    return function


def compare(algorithm: int, clip: np.ndarray, reference: Function, seed: int):
    """Stops unless both sides give the same clip for the same draws."""
    np.random.seed(seed)
    expected = reference()
    difference = np.abs(RawBoost(algorithm)(clip, np.random.RandomState(seed)) - expected).max()
    print(f"  algorithm {algorithm}: largest difference {difference:.1e}")
    if not difference <= TOLERANCE:
        raise SystemExit(f"algorithm {algorithm} differs: the times below would compare different things.")


def main():
    arguments = parse_arguments()
    print(f"{cpu_name()}, one thread, {arguments.clock} time, numpy {np.__version__}")
    with contextlib.suppress(AttributeError):
        print(f"Load at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    clip = make_clip(arguments.num_samples, arguments.seed)
    references = {}
    if arguments.reference:
        module = load_reference(arguments.reference)
        print("Same draws, same clips:")
        for algorithm in arguments.algorithms:
            references[algorithm] = reference_function(module, clip, RawBoost(algorithm))
            compare(algorithm, clip, references[algorithm], arguments.seed)
    print(f"Clips of {arguments.num_samples:,} samples a second, medians of {arguments.repeats} runs:")
    for algorithm in arguments.algorithms:
        ours = RawBoost(algorithm)
        sides = {
            "spooftrace": partial(ours, clip, np.random.default_rng(arguments.seed)),
            "spooftrace, same draws": partial(ours, clip, np.random.RandomState(arguments.seed)),
        }
        if algorithm in references:
            sides["reference"] = references[algorithm]
        times = medians(sides, arguments.repeats, CLOCKS[arguments.clock])
        row = "  ".join(f"{name} {1 / seconds:6.0f}" for name, seconds in times.items())
        if "reference" in times:
            row += f"  ratio {times['reference'] / times['spooftrace']:.1f}"
        print(f"  algorithm {algorithm}  {row}", flush=True)


if __name__ == "__main__":
    main()
