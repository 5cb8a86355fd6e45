"""The detector that a command scores with: its options, and how it is loaded."""

import argparse
from typing import TYPE_CHECKING

from spooftrace.cli._arguments import positive, positive_int, probability


if TYPE_CHECKING:
    from spooftrace.audio import AudioLimits
    from spooftrace.detector import Detector


def add_model_options(group: "argparse._ArgumentGroup") -> None:
    """Which detector, and how its scores become verdicts."""
    group.add_argument(
        "--model", metavar="ID", help="folder or Hub repository; default: the detector shipped with spooftrace"
    )
    group.add_argument("--revision", metavar="R", help="branch, tag or commit of the model on the Hub")
    group.add_argument(
        "--bonafide-label", default="bonafide", metavar="LABEL", help="what the model calls genuine speech (bonafide)"
    )
    group.add_argument(
        "--threshold", type=probability, default=0.5, metavar="P", help="genuine from this probability on (0.5)"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the weights; 16 bits halve a large model's memory and move its scores (float32)",
    )


def add_batch_size(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--batch-size", type=positive_int, default=16, metavar="N", help="windows per forward pass (16)"
    )


def add_device_and_limit(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--device", metavar="D", help="cpu, cuda, mps...; default: the best one present")
    group.add_argument("--max-seconds", type=positive, metavar="S", help="refuse longer clips (7200)")


def limits_of(args: argparse.Namespace) -> "AudioLimits":
    from spooftrace.audio import AudioLimits

    return AudioLimits() if args.max_seconds is None else AudioLimits(max_seconds=args.max_seconds)


def load_detector(args: argparse.Namespace, device: str | None = None) -> "Detector":
    """The detector of the options above, on `device` where `--device` names none."""
    from spooftrace.detector import Detector

    return Detector.from_pretrained(
        args.model,
        revision=args.revision,
        bonafide_label=args.bonafide_label,
        threshold=args.threshold,
        dtype=args.dtype,
        batch_size=args.batch_size,
        device=args.device or device,
        limits=limits_of(args),
    )
