"""Measures a detector on a corpus folder: `python -m spooftrace.trainers.report_default --data DIR --model DIR`.

Every clip goes through [`spooftrace.detector.Detector`], the path of `spooftrace detect`. Prints the tables of the
model's card, and writes their numbers to `--out`: equal error rate by split, by family of attack and by licence, each
with the number of clips and a 95 % bootstrap interval, and what the calibration is worth.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from spooftrace.classification import expected_calibration_error
from spooftrace.detector import AGGREGATIONS, Detector
from spooftrace.intervals import eer_interval
from spooftrace.metrics import cllr, eer
from spooftrace.trainers.detector_corpus import SPLITS, Clip, CorpusError, read_corpus


FAMILIES = ("codec", "tts", "vc", "vocoder", "dsp")


def detect_clips(detector: Detector, data: Path, clips: Sequence[Clip]) -> list[list[float]]:
    """The window scores of every clip. Raises CorpusError for a clip that gets no score."""
    windows = []
    detections = detector.detect([data / clip.file for clip in clips])
    for clip, detection in zip(clips, tqdm(detections, total=len(clips), unit="clip", mininterval=1.0), strict=True):
        if getattr(detection, "score", None) is None:
            raise CorpusError(f"{clip.file} got no score: {detection}")
        windows.append([window.score for window in detection.windows])
    return windows


def summary(scores: np.ndarray, spoof: np.ndarray) -> dict[str, float | int | list[float]]:
    """Clip counts; equal error rate in percent where both labels are present, its interval where each is twice."""
    counts = {"bonafide": int((~spoof).sum()), "spoof": int(spoof.sum())}
    result: dict[str, float | int | list[float]] = dict(counts)
    if min(counts.values()) > 0:
        result["eer"] = round(100 * eer(scores[~spoof], scores[spoof], method="merged").eer, 2)
    if min(counts.values()) > 1:
        interval = eer_interval(scores[~spoof], scores[spoof], method="merged", rounds=2000)
        result["interval"] = [round(100 * interval.low, 2), round(100 * interval.high, 2)]
    return result


def tables(clips: Sequence[Clip], scores: np.ndarray) -> dict[str, dict]:
    """[`summary`] of the groups of clips that the card shows."""
    spoof = np.array([clip.is_spoof for clip in clips])

    def group(chosen: Callable[[Clip], bool]) -> dict:
        members = np.array([chosen(clip) for clip in clips])
        return summary(scores[members], spoof[members])

    result = {
        "all": group(lambda clip: True),
        "without transmission coding": group(lambda clip: not clip.transmission),
        "licensed": group(lambda clip: clip.licensed),
        "licensed, without transmission coding": group(lambda clip: clip.licensed and not clip.transmission),
    }
    for family in FAMILIES:
        name = f"{family}, without transmission coding" if family == "dsp" else family
        result[name] = group(
            lambda clip, family=family: not clip.is_spoof or (clip.family == family and not clip.transmission)
        )
    return {name: table for name, table in result.items() if table["spoof"]}


def calibration_summary(clips: Sequence[Clip], scores: np.ndarray, calibration: dict) -> dict[str, float]:
    """
    CLLR in bits and expected calibration error before and after calibration, transmission-coded clips left out.

    Empty where they hold one label only.
    """
    judged = np.array([not clip.transmission for clip in clips])
    genuine = np.array([not clip.is_spoof for clip in clips])[judged]
    if genuine.all() or not genuine.any():
        return {}
    result = {}
    for name, scale, bias in (("raw", 1.0, 0.0), ("calibrated", calibration["scale"], calibration["bias"])):
        ratio = scale * scores[judged] + bias
        probability = 1 / (1 + np.exp(-ratio))
        result[f"cllr_{name}"] = round(cllr(ratio[genuine], ratio[~genuine]), 4)
        result[f"ece_{name}"] = round(expected_calibration_error(probability, genuine, balanced=True), 4)
    return result


def aggregation_table(clips: Sequence[Clip], windows: Sequence[Sequence[float]]) -> dict[str, float]:
    """
    Equal error rate in percent of every rule from window scores to a clip score, transmission coding left out.

    Empty where that leaves one label only.
    """
    judged = [not clip.transmission for clip in clips]
    spoof = np.array([clip.is_spoof for clip in clips])[judged]
    if spoof.all() or not spoof.any():
        return {}
    rates = {}
    for name, rule in AGGREGATIONS.items():
        scores = np.array([rule(list(window)) for window in windows])[judged]
        rates[name] = round(100 * eer(scores[~spoof], scores[spoof], method="merged").eer, 2)
    return rates


def measure(detector: Detector, data: Path, clips: Sequence[Clip]) -> tuple[dict[str, dict], np.ndarray]:
    """All measurements of one detector on these clips, and its calibrated clip scores."""
    windows = detect_clips(detector, data, clips)
    scores = np.array([AGGREGATIONS[detector.aggregation](window) for window in windows])
    result = {"eer": tables(clips, scores), "aggregation": aggregation_table(clips, windows)}
    if detector.calibrated:
        result["calibration"] = calibration_summary(clips, scores, detector.model.config.calibration)
    present = {name: part for name, part in result.items() if part or name == "eer"}
    return present, detector.scale * scores + detector.bias


def report(data: Path, model: Path, splits: Sequence[str]) -> dict[str, dict]:
    """The measurements of a model, by split."""
    detector = Detector.from_pretrained(model, device="cpu")
    rows = read_corpus(data)
    return {split: measure(detector, data, [clip for clip in rows if clip.split == split])[0] for split in splits}


def leave_pages_out(data: Path, models: Sequence[tuple[int, Path]]) -> dict[str, dict]:
    """Each model on the licensed clips, outside the test split, of the pages that were held out of its training.

    The last entry pools the calibrated scores of all of them.
    """
    rows, result, pooled = read_corpus(data), {}, []
    for fold, model in models:
        clips = [clip for clip in rows if clip.page_fold == fold and clip.split != "test" and clip.licensed]
        detector = Detector.from_pretrained(model, device="cpu")
        result[f"pages of fold {fold}"], scores = measure(detector, data, clips)
        record = json.loads((model / "training.json").read_text(encoding="utf-8"))
        result[f"pages of fold {fold}"]["training"] = record["options"]
        pooled.append((clips, scores))
    clips = [clip for members, _ in pooled for clip in members]
    result["held-out pages together"] = {"eer": tables(clips, np.concatenate([scores for _, scores in pooled]))}
    return result


def as_text(result: dict[str, dict]) -> str:
    """The tables in Markdown."""
    lines = []
    for name, part in result.items():
        lines += [f"**{name}**", "", "| clips | bona fide | spoof | EER % | 95 % interval |", "|---|---|---|---|---|"]
        for group, row in part["eer"].items():
            interval = " to ".join(f"{value:.1f}" for value in row.get("interval", []))
            lines.append(f"| {group} | {row['bonafide']} | {row['spoof']} | {row.get('eer', '')} | {interval} |")
        lines.append("")
        if "aggregation" in part:
            lines += [f"Clip score from windows, EER %: {part['aggregation']}", ""]
        if "calibration" in part:
            lines += [f"Calibration: {part['calibration']}", ""]
    return "\n".join(lines)


def fold_and_model(text: str) -> tuple[int, Path]:
    """`2=DIR` -> `(2, DIR)`."""
    fold, _, folder = text.partition("=")
    if not fold.isdigit() or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not FOLD=DIR, such as 2=models/without-fold-2")
    return int(fold), Path(folder)


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m spooftrace.trainers.report_default", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with metadata.csv")
    parser.add_argument("--model", type=Path, help="folder that default_detector wrote")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["valid"], help="default: valid alone")
    parser.add_argument(
        "--leave-out",
        nargs="+",
        type=fold_and_model,
        default=[],
        metavar="FOLD=DIR",
        help="models that were trained with --held-out-fold FOLD, to be measured on the pages of that fold",
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 when done, 1 with one line when the corpus is not usable."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        result = report(args.data, args.model, args.splits) if args.model else {}
        if args.leave_out:
            result.update(leave_pages_out(args.data, args.leave_out))
    except (CorpusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(as_text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
