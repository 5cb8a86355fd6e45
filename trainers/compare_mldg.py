"""ERM and MLDG on attack systems never heard: `python -m spooftrace.trainers.compare_mldg --data DIR --out DIR`.

The default detector's architecture, from scratch, on the corpus that `spooftrace.trainers.detector_corpus` reads. The
systems are divided in three by a hash of their names; each run leaves one third out of training and is tested on it, with
genuine and fake speech of speakers outside the training split. The families of the other systems are the domains. ERM
and MLDG get the same batches, the same number of clips per step, the same steps and the same schedule: what differs is the
step alone. Nothing is chosen by what is measured here; the weights of the last step are scored.

Every run leaves a file in `--out`, and one that is there is not repeated, so the command can be stopped and given again.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from spooftrace.detector import Detector
from spooftrace.metrics import eer
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.trainers.default_detector import MODEL, WINDOW_SAMPLES
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.detector_corpus import Clip, read_corpus
from spooftrace.trainers.mldg_config import MLDGConfig
from spooftrace.trainers.mldg_trainer import MLDGTrainer


THIRDS = 3
METHODS = ("erm", "mldg")
SETTINGS = ("steps", "clips_per_domain", "beta", "learning_rate", "inner_learning_rate")


class BalancedERMTrainer(MLDGTrainer):
    """ERM on the batches that meta-learning gets: all domains and both labels alike."""

    training_step = DetectionTrainer.training_step


TRAINERS = {"erm": BalancedERMTrainer, "mldg": MLDGTrainer}


def third_of(system: str) -> int:
    """Which third of the systems a system is in."""
    return int(hashlib.sha256(system.encode()).hexdigest(), 16) % THIRDS


def divide(clips: Sequence[Clip], held_out: int) -> tuple[list[Clip], list[Clip]]:
    """Licensed clips to train on and to test on; what was only coded for transmission is in neither."""
    usable = [clip for clip in clips if clip.licensed and not clip.transmission]
    train = [c for c in usable if c.split == "train" and not (c.is_spoof and third_of(c.system) == held_out)]
    families = Counter(clip.family for clip in train if clip.is_spoof)
    # A family of a few clips is no domain.
    train = [clip for clip in train if not clip.is_spoof or families[clip.family] >= 8]
    test = [c for c in usable if c.split in ("valid", "test") and not (c.is_spoof and third_of(c.system) != held_out)]
    return train, test


def rows_of(clips: Sequence[Clip], data: Path) -> list[dict[str, Any]]:
    return [
        {
            "audio": str(data / clip.file),
            "label": clip.label,
            "utterance_id": clip.file,
            "family": clip.family if clip.is_spoof else None,
        }
        for clip in clips
    ]


def run(method: str, seed: int, held_out: int, clips: Sequence[Clip], args: argparse.Namespace) -> dict[str, Any]:
    """Trains one detector and scores the clips it is tested on."""
    train, test = divide(clips, held_out)
    torch.manual_seed(seed)
    model = AasistForAudioClassification(AasistConfig(**MODEL))
    torch.nn.init.normal_(model.aasist.backend.position, std=0.1)  # as in the default detector's recipe
    extractor = AasistFeatureExtractor(window_samples=WINDOW_SAMPLES)
    config = MLDGConfig(
        output_dir=str(args.out / "work"),
        domain_column="family",
        clips_per_domain=args.clips_per_domain,
        num_meta_test_domains=1,
        beta=args.beta,
        inner_learning_rate=args.inner_learning_rate,
        learning_rate=args.learning_rate,
        minimum_learning_rate=args.learning_rate / 100,
        cycle_steps=args.steps,
        weight_decay=0.02,
        max_grad_norm=5.0,
        max_steps=args.steps,
        num_samples=WINDOW_SAMPLES,
        seed=seed,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        early_stopping_patience=None,
        logging_steps=args.steps,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = TRAINERS[method](model, config, train_dataset=rows_of(train, args.data), processing_class=extractor)
    loss = trainer.train().training_loss
    results = Detector(model, extractor, device="cpu").detect([args.data / clip.file for clip in test])
    scores = {clip.file: result.score for clip, result in zip(test, results, strict=True)}
    counts = {"train": dict(Counter(c.family for c in train)), "domains": trainer.domain_names}
    run_of = {"method": method, "seed": seed, "held_out": held_out, "settings": settings_of(args)}
    return {**run_of, "loss": loss, "scores": scores, **counts}


def settings_of(args: argparse.Namespace) -> dict[str, float]:
    """What a run depends on besides its method, seed and third."""
    return {name: getattr(args, name) for name in SETTINGS}


def table(results: Sequence[dict[str, Any]], clips: Sequence[Clip]) -> str:
    """EER by method and third: mean and deviation over the seeds; the paired difference with its interval."""
    spoof = {clip.file: clip.is_spoof for clip in clips}
    lines = ["| systems held out | bona fide / spoof | seeds | ERM | MLDG | difference |", "|---|---|---|---|---|---|"]
    differences: list[float] = []
    for held_out in range(THIRDS):
        mine = [result for result in results if result["held_out"] == held_out]
        rates = {m: {r["seed"]: _eer(r["scores"], spoof) for r in mine if r["method"] == m} for m in METHODS}
        seeds = sorted(rates["erm"].keys() & rates["mldg"].keys())
        if not seeds:
            continue
        pairs = np.array([[rates[method][seed] for method in METHODS] for seed in seeds]) * 100
        gaps = pairs[:, 1] - pairs[:, 0]
        differences += gaps.tolist()
        counts = Counter(spoof[file] for file in mine[0]["scores"])
        cells = [f"{values.mean():.1f} ± {_deviation(values):.1f}" for values in pairs.T]
        lines.append(
            f"| third {held_out} | {counts[False]} / {counts[True]} | {len(seeds)} | {cells[0]} | {cells[1]} | "
            f"{gaps.mean():+.1f} ± {_deviation(gaps):.1f} |"
        )
    if len(differences) > 1:
        low, high = _interval(differences)
        lines.append(
            f"\nMLDG less ERM over {len(differences)} pairs of runs: {np.mean(differences):+.2f} points of EER, 95 % interval "
            f"{low:+.2f} to {high:+.2f} (bootstrap over the pairs), MLDG better in {sum(d < 0 for d in differences)}."
        )
    return "\n".join(lines)


def _eer(scores: dict[str, float], spoof: dict[str, bool]) -> float:
    groups = [np.array([score for file, score in scores.items() if spoof[file] == kind]) for kind in (False, True)]
    return eer(*groups).eer


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    rng, values = np.random.default_rng(0), np.array(differences)
    means = [rng.choice(values, len(values)).mean() for _ in range(10_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m spooftrace.trainers.compare_mldg",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with metadata.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for a file per run, and results.md")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method and third (default %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of each run (default %(default)s)")
    parser.add_argument(
        "--clips-per-domain", type=int, default=4, help="per step, half of them bona fide (%(default)s)"
    )
    parser.add_argument("--beta", type=float, default=1.0, help="weight of the meta-test gradient (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak of the one cycle (%(default)s)")
    parser.add_argument("--inner-learning-rate", type=float, default=1e-3, help="of the inner step (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    clips = read_corpus(args.data)
    results = []
    plan = [(seed, third, method) for seed in range(args.seeds) for third in range(THIRDS) for method in METHODS]
    for seed, third, method in tqdm(plan, desc="runs"):
        path = args.out / f"{method}-third{third}-seed{seed}.json"
        if not path.exists():
            result = run(method, seed, third, clips, args)
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
            os.replace(partial, path)
        results.append(json.loads(path.read_text(encoding="utf-8")))
        if results[-1]["settings"] != settings_of(args):
            print(
                f"error: {path} is of other settings, {results[-1]['settings']}: give another --out", file=sys.stderr
            )
            return 1
        (args.out / "results.md").write_text(table(results, clips) + "\n", encoding="utf-8")
    print(table(results, clips))
    return 0


if __name__ == "__main__":
    sys.exit(main())
