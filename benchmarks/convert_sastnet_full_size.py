"""A SASTNet of full size, from the public code's own layout to the score of one clip.

python benchmarks/convert_sastnet_full_size.py [--task aux] [--folder DIR]

Writes random weights as the public code saves them (3.2 GB), converts them with `spooftrace convert sastnet`, loads the
result and scores a clip; each step in a process of its own, whose time and peak memory are printed. Stops unless the score is
that of the model the weights were taken from. Needs 6 GB of disk, which are freed at the end.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from cold_start import run_once


SAMPLES = 82_200
# Of the public model for the task "aux", counted by running it: transformers' wav2vec 2.0 in place of fairseq's.
REFERENCE_PARAMETERS = 792_068_044
# The half of whisper-small that the public checkpoints carry along.
WHISPER_DECODER = {"decoder_attention_heads": 12, "decoder_ffn_dim": 3072, "decoder_layers": 12}
TOLERANCE = 1e-4


def clip() -> torch.Tensor:
    """A chirp, `(SAMPLES,)`."""
    time = torch.arange(SAMPLES) / 16_000
    return 0.1 * torch.sin(2 * torch.pi * (200 + 400 * time) * time)


def write(path: Path, task: str):
    """Random weights in the public layout, and beside them the score of the model they were taken from."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from published_layout import sastnet_state

    from spooftrace.modeling.configuration_sastnet import WHISPER_SMALL, SASTNetConfig
    from spooftrace.modeling.modeling_sastnet import SASTNetForAudioClassification

    torch.manual_seed(0)
    config = SASTNetConfig(task=task, whisper_config={**WHISPER_SMALL, **WHISPER_DECODER})
    model = SASTNetForAudioClassification(config).eval()
    state = sastnet_state(model)
    buffers = ("running_mean", "running_var", "num_batches_tracked", ".version", "_float_tensor")
    pretraining = ("SSL_model.model.quantizer", "SSL_model.model.project_q", "SSL_model.model.final_proj")
    counted = sum(
        v.numel() for name, v in state.items() if not name.endswith(buffers) and not name.startswith(pretraining)
    )
    print(f"{len(state):,} tensors, {counted:,} parameters", flush=True)
    if task == "aux" and counted != REFERENCE_PARAMETERS:
        raise SystemExit(f"The layout has {counted:,} parameters, the public model {REFERENCE_PARAMETERS:,}.")
    torch.save(state, path)
    with torch.inference_mode():
        logits = model(clip()[None]).logits[0]
    score = logits[0] - logits[1:].logsumexp(0)
    path.with_suffix(".score").write_text(str(score.item()), encoding="utf-8")


def score(folder: str, expected: float):
    """Loads the converted model and scores the clip."""
    from spooftrace.detector import Detector

    found = Detector.from_pretrained(folder, device="cpu")(clip().numpy(), sampling_rate=16_000).score
    print(f"score {found:.6f}, of the original {expected:.6f}", flush=True)
    if abs(found - expected) > TOLERANCE:
        raise SystemExit(f"The scores differ by {abs(found - expected):.1e}, allowed are {TOLERANCE:.0e}.")


def step(label: str, *command: str):
    seconds, memory = run_once([sys.executable, *command], quiet=False)
    print(f"{label:<30} {seconds:6.1f} s  peak {memory:7,.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("bin", "vq", "aux", "dec"), default="aux")
    parser.add_argument("--folder", help="where to put the files (default: the system's temporary folder)")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--score", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write is not None:
        write(arguments.write, arguments.task)
    elif arguments.score is not None:
        score(arguments.score[0], float(arguments.score[1]))
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            measure(Path(folder), arguments.task)


def measure(folder: Path, task: str):
    checkpoint, converted = folder / "epoch_39.pth", str(folder / "converted")
    step("write, public layout", __file__, "--write", str(checkpoint), "--task", task)
    print(f"{checkpoint.stat().st_size / 1e9:.2f} GB")
    step(
        "spooftrace convert sastnet",
        "-m",
        "spooftrace",
        "convert",
        "sastnet",
        str(checkpoint),
        converted,
        "--task",
        task,
    )
    expected = checkpoint.with_suffix(".score").read_text(encoding="utf-8")
    checkpoint.unlink()
    step("load and score one clip", __file__, "--score", converted, expected)


if __name__ == "__main__":
    main()
