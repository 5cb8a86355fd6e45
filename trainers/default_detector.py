"""Trains the default detector: `python -m spooftrace.trainers.default_detector --data DIR --attacks DIR --out DIR`.

`DIR` is a folder with `metadata.csv` and the clips that it names; `--attacks` is what
`python -m spooftrace.trainers.make_attacks` wrote for the same folder. Trained on are the licensed rows of the train
split; the valid split serves for the calibration and for choices; rows of the test split are never opened.

The model goes to `--out`: config.json, model.safetensors, preprocessor_config.json, and training.json about its making. A
run that was stopped goes on from `--out/training_state.pt` when the command is given again, to the same weights as an
uninterrupted one.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from spooftrace.detector import Detector
from spooftrace.metrics import eer
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.trainers.calibration import fit_calibration
from spooftrace.trainers.detector_corpus import (
    Clip,
    CorpusError,
    PairSampler,
    band_energies,
    read_attacks,
    read_corpus,
    repeated,
    training_clips,
    validation_clips,
)
from spooftrace.trainers.small_training import (
    MODEL,
    STATE,
    TRAINING_CORPORA,
    WINDOW_SAMPLES,
    LoopRecipe,
    SmallTraining,
    add_recipe_arguments,
    fresh_model,
    recipe_of,
    save_bare,
    save_record,
)


@dataclass(frozen=True)
class Recipe(LoopRecipe):
    """Everything that decides the weights, besides the corpus; two runs of one recipe and one machine agree.

    `attack_share` is the share of fakes that are attack copies at the first step; it falls linearly by `attack_decay`
    of itself until the last: copies teach what to listen to, real systems where to draw the line.
    """

    ranking_weight: float = 0.3
    attack_share: float = 0.5
    attack_decay: float = 0.9
    held_out_fold: int | None = None


class Training(SmallTraining):
    """A step of the detector: cross-entropy of pairs, and their ranking."""

    def __init__(self, recipe: Recipe, model: AasistForAudioClassification, sampler: PairSampler):
        super().__init__(recipe, model, classes=model.config.num_labels)
        self.sampler = sampler

    def batch_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        recipe, model = self.recipe, self.model
        attack_share = recipe.attack_share * (1 - recipe.attack_decay * self.step / recipe.steps)
        hidden_states = self.encode(self.sampler.draw(recipe.pairs, attack_share, rng))
        genuine, spoof = (model.config.label2id[label] for label in ("bonafide", "spoof"))
        labels = torch.tensor([genuine, spoof] * recipe.pairs)
        logits = model.classifier(model.dropout(model.aasist.backend(hidden_states)[0]))
        scores = logits[:, genuine] - logits[:, spoof]
        cross_entropy = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        ranking = F.softplus(scores[1::2] - scores[0::2]).mean()  # each genuine clip above its own fake
        auxiliary = F.cross_entropy(self.auxiliary(hidden_states), labels, label_smoothing=recipe.label_smoothing)
        loss = cross_entropy + recipe.ranking_weight * ranking + recipe.auxiliary_weight * auxiliary
        return loss, cross_entropy.detach()


def window_scores(model: AasistForAudioClassification, energies: Sequence[np.ndarray], frames: int) -> np.ndarray:
    """Log-odds of bona fide of the first window of every clip, `[clips]`."""
    genuine, spoof = (model.config.label2id[label] for label in ("bonafide", "spoof"))
    scores = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(energies), 32):
            window = np.stack([repeated(clip, frames) for clip in energies[start : start + 32]]).astype(np.float32)
            features = model.aasist.frontend.compress(torch.from_numpy(window).permute(0, 2, 3, 1).exp())
            logits = model.classifier(model.aasist.backend(model.aasist.encoder(features))[0])
            scores.append((logits[:, genuine] - logits[:, spoof]).numpy())
    return np.concatenate(scores)


def train(data: Path, out: Path, recipe: Recipe, attacks: Path | None = None, report_every: int = 200) -> None:
    """Runs the recipe and writes the model with its calibration to `out`. Raises CorpusError for unfit data."""
    clips = read_corpus(data)
    chosen = training_clips(clips, recipe.held_out_fold)
    valid = validation_clips(clips, recipe.held_out_fold)
    copies = read_attacks(attacks, chosen) if attacks else []
    config = AasistConfig(**MODEL, training_corpora=TRAINING_CORPORA)
    model = fresh_model(config, recipe.seed)
    frontend = model.aasist.frontend
    energies = band_energies([data / clip.file for clip in chosen], frontend, "train")
    copy_energies = band_energies([attacks / file for file, _, _ in copies], frontend, "attacks") if copies else []
    valid_energies = band_energies([data / clip.file for clip in valid], frontend, "valid")
    training = Training(recipe, model, PairSampler(chosen, energies, copies, copy_energies, recipe.frames))

    def validate(average: AasistForAudioClassification) -> str:
        rate = _valid_eer(window_scores(average, valid_energies, recipe.frames), valid) if valid else math.nan
        return f"valid EER {100 * rate:.1f} %"

    training.run(out, report_every, validate)
    window = AasistFeatureExtractor(sampling_rate=config.sampling_rate, window_samples=WINDOW_SAMPLES)
    calibrate(training.average, window, data, valid)
    save_bare(training.average, window, out)
    spoof = sum(clip.is_spoof for clip in chosen)
    save_record(recipe, {"bonafide": len(chosen) - spoof, "spoof": spoof, "attack_copies": len(copies)}, out)
    (out / STATE).unlink(missing_ok=True)


def _valid_eer(scores: np.ndarray, clips: Sequence[Clip]) -> float:
    spoof = np.array([clip.is_spoof for clip in clips])
    return math.nan if spoof.all() or not spoof.any() else eer(scores[~spoof], scores[spoof], method="merged").eer


def calibrate(
    model: AasistForAudioClassification, window: AasistFeatureExtractor, data: Path, valid: Sequence[Clip]
) -> None:
    """Sets `config.calibration` from the clip scores of the valid split, if they tell its labels apart."""
    spoof = np.array([clip.is_spoof for clip in valid], dtype=bool)
    if not spoof.any() or spoof.all():
        return
    detections = Detector(model, window, device="cpu").detect([data / clip.file for clip in valid])
    scores = np.array([detection.score for detection in detections])
    scale, bias = fit_calibration(scores[~spoof], scores[spoof])
    if scale > 0:
        model.config.calibration = {
            "scale": round(scale, 4),
            "bias": round(bias, 4),
            "aggregation": "mean",
            "fitted_on": f"valid split, {int((~spoof).sum())} bona fide and {int(spoof.sum())} spoof clips, "
            "both labels weighted alike",
        }


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments; the recipe's own fields are options of the same names."""
    parser = argparse.ArgumentParser(
        prog="python -m spooftrace.trainers.default_detector",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with metadata.csv")
    parser.add_argument("--attacks", type=Path, help="folder that make_attacks wrote for --data (default: none)")
    parser.add_argument("--out", type=Path, required=True, help="where the model goes")
    help_of = {"attack_share": "share of fakes that are attack copies, at the beginning"}
    add_recipe_arguments(parser, Recipe, help_of)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 when the model is written, 1 with one line when the corpus is not usable."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    recipe = recipe_of(args, Recipe)
    try:
        train(args.data, args.out, recipe, args.attacks, args.report_every)
    except (CorpusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"model written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
