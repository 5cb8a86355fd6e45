"""Shared by the benchmarks: the public reference code, imported from the user's own checkout, and fair timing.

Nothing of the reference is copied here. Its module files are executed from the folder given on the command line.
"""

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from spooftrace.modeling.convert_aasist import rename_backend_key
from spooftrace.modeling.modeling_aasist import AasistForAudioClassification


TOLERANCE = 1e-4
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FEATURE_SIZE = 1024  # of XLSR-53 and XLS-R 300M


class _Features(nn.Module):
    """Stands in for the reference's wav2vec 2.0, so that its model starts from features."""

    out_dim = FEATURE_SIZE

    def __init__(self, device):
        super().__init__()

    def extract_feat(self, features: torch.Tensor) -> torch.Tensor:
        return features


def parse_arguments(description: str, repository: str, batches: list[int]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", metavar="DIR", help=f"a checkout of github.com/{repository} to compare with")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--batches", type=int, nargs="+", default=batches, help="batch sizes to time")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each side (default: 7)")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="time that passed, or processor time, which other jobs on a shared machine disturb less (default: wall)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: 0)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    return arguments


def import_reference(folder: str, file: str) -> types.ModuleType:
    """
    Executes one module of a checkout. fairseq, which the module may import, is not needed and replaced by nothing.

    Raises:
        `SystemExit`: if the checkout has no such file.
    """
    path = Path(folder) / file
    if not path.is_file():
        raise SystemExit(f"{folder} has no {file}: give the root of a checkout of the reference repository.")
    sys.modules.setdefault("fairseq", types.ModuleType("fairseq"))
    spec = importlib.util.spec_from_file_location(f"reference_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference_backend(folder: str) -> nn.Module:
    """SSL_Anti-spoofing's model without its wav2vec 2.0: features `(batch, frames, 1024)` -> logits."""
    module = import_reference(folder, "model.py")
    module.SSLModel = _Features
    return module.Model(args=None, device="cpu")


def copy_weights(reference: nn.Module, ours: AasistForAudioClassification):
    """Gives `ours` the back-end of `reference`; the classes are swapped, as ours has bona fide at index 0."""
    state = {rename_backend_key(key): value for key, value in reference.state_dict().items()}
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].flip(0)
    missing, unexpected = ours.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("aasist.frontend.wav2vec2.")]
    if missing or unexpected:
        raise SystemExit(f"The reference has other tensors than ours: missing {missing}, unexpected {unexpected}.")


def settle_batch_norm(model: nn.Module, inputs: torch.Tensor):
    """One pass in training mode, so that running statistics are those of real activations."""
    model.train()
    with torch.no_grad():
        model(inputs)


@contextmanager
def no_dropout(*models: nn.Module) -> Iterator[None]:
    layers = [layer for model in models for layer in model.modules() if isinstance(layer, nn.Dropout)]
    rates = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    yield
    for layer, rate in zip(layers, rates, strict=True):
        layer.p = rate


def medians(functions: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each function on `clock`. The runs are interleaved (A B A B ...), so that all see the same machine load."""
    times = {name: [] for name in functions}
    for run in range(repeats + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if run > 0:  # the first run warms caches and allocator
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def require_equal(what: str, ours: torch.Tensor, reference: torch.Tensor):
    """
    Prints the largest difference relative to the largest magnitude.

    Raises:
        `SystemExit`: if it exceeds `TOLERANCE`.
    """
    difference = ((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-12)).item()
    print(f"  {what}: largest difference {difference:.1e} of the largest magnitude")
    if not difference <= TOLERANCE:
        raise SystemExit(f"{what} differ by more than {TOLERANCE}: the times below would compare different things.")


def print_machine(arguments: argparse.Namespace):
    print(f"{cpu_name()}, {arguments.threads} thread(s), {arguments.clock} time, torch {torch.__version__}")
    if hasattr(os, "getloadavg"):
        print(f"Load at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def print_row(label: str, batch: int, times: dict[str, float]):
    ours = times["spooftrace"]
    row = f"{label:<22} batch {batch:>3}  spooftrace {ours * 1e3:9.1f} ms ({batch / ours:7.2f} clips/s)"
    if "reference" in times:
        reference = times["reference"]
        row += (
            f"  reference {reference * 1e3:9.1f} ms ({batch / reference:7.2f} clips/s)  ratio {reference / ours:.2f}"
        )
    print(row, flush=True)
