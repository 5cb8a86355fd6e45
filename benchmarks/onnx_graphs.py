"""Exported graphs beside PyTorch: time of one batch, and how far the 8-bit graph's scores drift.

python benchmarks/onnx_graphs.py                                the detector that is shipped
python benchmarks/onnx_graphs.py --full-size                    W2V2-AASIST at the size of XLSR-53, random weights
python benchmarks/onnx_graphs.py --clips path/to/recordings     drift on speech instead of artificial sounds
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import CLOCKS, medians, print_machine

from spooftrace import Detector
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.onnx_export import export_onnx, session, sounds
from spooftrace.onnx_runner import Scorer


GRAPHS = {"onnx float32": "model", "onnx int8": "model.int8"}
AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".opus"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true", help="W2V2-AASIST; takes 5 GB of disk for the moment")
    parser.add_argument("--clips", metavar="DIR", help="recordings for the drift")
    parser.add_argument("--max-clips", type=int, default=200, help="of them (default: 200)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes to time")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each side (default: 7)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="see the other benchmarks")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments


def full_size(folder: Path) -> Path:
    torch.manual_seed(0)
    AasistForAudioClassification(AasistConfig(frontend="wav2vec2")).save_pretrained(folder)
    AasistFeatureExtractor().save_pretrained(folder)
    return folder


def run_torch(model: torch.nn.Module, inputs: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.from_numpy(inputs)).logits


def print_times(detector: Detector, folder: Path, arguments: argparse.Namespace):
    graphs = {name: session(folder / f"{file}.onnx", arguments.threads) for name, file in GRAPHS.items()}
    for batch in arguments.batches:
        inputs = sounds(batch, detector.window_samples)
        runs = {name: partial(graph.run, None, {"input_values": inputs}) for name, graph in graphs.items()}
        runs["torch"] = partial(run_torch, detector.model, inputs)
        times = medians(runs, arguments.repeats, CLOCKS[arguments.clock])
        for name, seconds in times.items():
            print(f"batch {batch:>2}  {name:<13} {1e3 * seconds:8.1f} ms  {times['torch'] / seconds:5.2f} x torch")


def print_drift(detector: Detector, folder: Path, clips: Path, most: int):
    """Scores of recordings by the graphs, minus those of the detector."""
    from spooftrace.audio import load_audio

    paths = sorted(path for path in clips.rglob("*") if path.suffix in AUDIO)[:most]
    expected = np.array([detector(path).score for path in paths])
    for name, int8 in zip(GRAPHS, (False, True), strict=True):
        scorer = Scorer(folder, int8=int8, threads=1)
        drift = np.abs([scorer(load_audio(path))["score"] for path in paths] - expected)
        print(f"{len(paths)} clips  {name:<13} drift {drift.mean():.2g} on average, {drift.max():.2g} at most")


def main():
    arguments = parse_arguments()
    print_machine(arguments)
    with tempfile.TemporaryDirectory(prefix="spooftrace-onnx-") as scratch:
        model = full_size(Path(scratch) / "model") if arguments.full_size else None
        facts = export_onnx(model, Path(scratch) / "onnx", int8=True, fixed_length=arguments.full_size)
        print(f"largest difference of a logit: {facts['float32']['maximum_difference']:.1e}; int8: {facts['int8']}")
        detector = Detector.from_pretrained(model, device="cpu")
        print_times(detector, Path(scratch) / "onnx", arguments)
        if arguments.clips:
            print_drift(detector, Path(scratch) / "onnx", Path(arguments.clips), arguments.max_clips)


if __name__ == "__main__":
    main()
