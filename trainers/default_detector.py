"""Trains the default detector: `python -m spooftrace.trainers.default_detector --data DIR --attacks DIR --out DIR`.

`DIR` is a folder with `metadata.csv` and the clips that it names; `--attacks` is what
`python -m spooftrace.trainers.make_attacks` wrote for the same folder. Trained on are the licensed rows of the train
split; the valid split serves for the calibration and for choices; rows of the test split are never opened.

The model goes to `--out`: config.json, model.safetensors, preprocessor_config.json, and training.json about its making. A
run that was stopped goes on from `--out/training_state.pt` when the command is given again, to the same weights as an
uninterrupted one.
"""

import argparse
import copy
import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from spooftrace.detector import Detector
from spooftrace.metrics import eer
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.trainers.augmentation import EnergyAugmentation, FeatureMask
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


# On the way to the classifier the published AASIST drops half of its units and more; from so little data and so few
# steps it then hardly learns.
MODEL = {
    "frontend": "mel",
    "branch_dropout": 0.1,
    "classifier_dropout": 0.2,
    "graph_dropout": 0.1,
    "pool_dropout": 0.1,
}
# Collections that the genuine speech of the licensed training rows comes from, by the pages' own account.
TRAINING_CORPORA = [
    "AISHELL-3",
    "Free Spoken Digit Dataset",
    "LJSpeech",
    "LibriSpeech",
    "LibriTTS",
    "VCTK",
    "speechocean762",
]
STATE = "training_state.pt"
# 2 s, the length of the training crops. Scored in windows of 4.04 s, the same weights do worse: the graph's maxima grow
# with the number of nodes.
WINDOW_SAMPLES = 32_000


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the corpus; two runs of one recipe and one machine agree.

    `attack_share` is the share of fakes that are attack copies at the first step; it falls linearly by `attack_decay`
    of itself until the last: copies teach what to listen to, real systems where to draw the line.
    """

    steps: int = 2400
    pairs: int = 16
    frames: int = 200
    learning_rate: float = 2e-3
    warmup: float = 0.06
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    ranking_weight: float = 0.3
    auxiliary_weight: float = 0.5
    attack_share: float = 0.5
    attack_decay: float = 0.9
    averaging: float = 0.995
    seed: int = 0
    held_out_fold: int | None = None


class AuxiliaryClassifier(nn.Module):
    """A second opinion straight from the encoder, in training alone: the graph's own gradients start out weak."""

    def __init__(self, config: AasistConfig):
        super().__init__()
        size = 2 * config.encoder_channels[-1] * config.num_spectral_nodes
        self.layers = nn.Sequential(nn.BatchNorm1d(size), nn.Dropout(0.3), nn.Linear(size, config.num_labels))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, height, width)` -> logits from the mean and deviation over time, `(batch, labels)`"""
        rows = hidden_states.flatten(1, 2)
        return self.layers(torch.cat([rows.mean(dim=2), rows.std(dim=2)], dim=1))


class Training:
    """Model, its moving average, optimiser and the step they have reached."""

    def __init__(self, recipe: Recipe, model: AasistForAudioClassification, sampler: PairSampler):
        self.recipe, self.model, self.sampler = recipe, model, sampler
        self.auxiliary = AuxiliaryClassifier(model.config)
        self.average = copy.deepcopy(model)
        self.augment, self.mask = EnergyAugmentation(), FeatureMask()
        parameters = [*model.parameters(), *self.auxiliary.parameters()]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.step = 0

    def advance(self) -> float:
        """One step; everything random in it follows from the seed and its number. Returns the cross-entropy."""
        recipe, share = self.recipe, self.step / self.recipe.steps
        rng = np.random.default_rng([recipe.seed, self.step])
        torch.manual_seed(int(rng.integers(2**62)))
        for group in self.optimizer.param_groups:
            warm = min(1.0, (self.step + 1) / (recipe.warmup * recipe.steps))
            group["lr"] = recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        attack_share = recipe.attack_share * (1 - recipe.attack_decay * share)
        energies = self.augment(self.sampler.draw(recipe.pairs, attack_share, rng))
        loss, cross_entropy = self._loss(energies)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return float(cross_entropy)

    def _loss(self, energies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        recipe, model = self.recipe, self.model
        genuine, spoof = (model.config.label2id[label] for label in ("bonafide", "spoof"))
        labels = torch.tensor([genuine, spoof] * recipe.pairs)
        hidden_states = model.aasist.encoder(self.mask(model.aasist.frontend.compress(energies)))
        logits = model.classifier(model.dropout(model.aasist.backend(hidden_states)[0]))
        scores = logits[:, genuine] - logits[:, spoof]
        cross_entropy = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        ranking = F.softplus(scores[1::2] - scores[0::2]).mean()  # each genuine clip above its own fake
        auxiliary = F.cross_entropy(self.auxiliary(hidden_states), labels, label_smoothing=recipe.label_smoothing)
        loss = cross_entropy + recipe.ranking_weight * ranking + recipe.auxiliary_weight * auxiliary
        return loss, cross_entropy.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the average towards the weights, faster in the beginning."""
        keep = min(self.recipe.averaging, 1 - 1 / (self.step / 10 + 1))
        for mean, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)

    def save(self, path: Path) -> None:
        """Writes all that the next step depends on, in one go."""
        state = {name: getattr(self, name).state_dict() for name in ("model", "auxiliary", "average", "optimizer")}
        torch.save({**state, "step": self.step, "recipe": dataclasses.asdict(self.recipe)}, f"{path}.part")
        os.replace(f"{path}.part", path)

    def restore(self, path: Path) -> None:
        """Goes back to what `save` wrote. Raises CorpusError where it was another recipe's."""
        state = torch.load(path, weights_only=True)
        if state["recipe"] != dataclasses.asdict(self.recipe):
            raise CorpusError(f"{path} belongs to another recipe ({state['recipe']}); remove it or give another --out")
        for name in ("model", "auxiliary", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


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
    torch.manual_seed(recipe.seed)
    config = AasistConfig(**MODEL, training_corpora=TRAINING_CORPORA)
    model = AasistForAudioClassification(config)
    nn.init.normal_(model.aasist.backend.position, std=0.1)  # as large as the nodes themselves, it would drown them
    frontend = model.aasist.frontend
    energies = band_energies([data / clip.file for clip in chosen], frontend, "train")
    copy_energies = band_energies([attacks / file for file, _, _ in copies], frontend, "attacks") if copies else []
    valid_energies = band_energies([data / clip.file for clip in valid], frontend, "valid")
    training = Training(recipe, model, PairSampler(chosen, energies, copies, copy_energies, recipe.frames))
    out.mkdir(parents=True, exist_ok=True)
    if (out / STATE).exists():
        training.restore(out / STATE)
    _loop(training, out, valid, valid_energies, report_every)
    window = AasistFeatureExtractor(sampling_rate=config.sampling_rate, window_samples=WINDOW_SAMPLES)
    calibrate(training.average, window, data, valid)
    save_bare(training.average, window, out)
    save_record(recipe, chosen, len(copies), out)
    (out / STATE).unlink(missing_ok=True)


def save_bare(model: AasistForAudioClassification, window: AasistFeatureExtractor, out: Path) -> None:
    """Weights and configurations alone: the package that ships a model has its code, publishing adds it again."""
    with tempfile.TemporaryDirectory(dir=out) as folder:
        saved = Path(folder)
        model.save_pretrained(saved)
        window.save_pretrained(saved)
        os.replace(saved / "model.safetensors", out / "model.safetensors")
        for name in ("config.json", "preprocessor_config.json"):
            values = json.loads((saved / name).read_text(encoding="utf-8"))
            values.pop("auto_map", None)
            (out / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_record(recipe: Recipe, clips: Sequence[Clip], copies: int, out: Path) -> None:
    """What the model was made from, in `training.json`, for its card."""
    spoof = sum(clip.is_spoof for clip in clips)
    counts = {"bonafide": len(clips) - spoof, "spoof": spoof, "attack_copies": copies}
    changed = {field.name: field.default for field in dataclasses.fields(Recipe)}
    changed = {name: value for name, value in dataclasses.asdict(recipe).items() if value != changed[name]}
    record = {"clips": counts, "options": changed, "torch": torch.__version__}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _loop(training: Training, out: Path, valid: list[Clip], energies: list, report_every: int) -> None:
    steps = training.recipe.steps
    with tqdm(total=steps, initial=training.step, desc="steps", mininterval=1.0) as bar:
        while training.step < steps:
            training.model.train()
            loss = training.advance()
            bar.update()
            if training.step % report_every == 0 or training.step == steps:
                training.save(out / STATE)
                rate = (
                    _valid_eer(window_scores(training.average, energies, training.recipe.frames), valid)
                    if valid
                    else math.nan
                )
                bar.write(f"step {training.step}: cross-entropy {loss:.3f}, valid EER {100 * rate:.1f} %")


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
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    parser.add_argument("--report-every", type=int, default=200, help="steps between reports and saved states")
    help_of = {
        "steps": "training steps",
        "pairs": "pairs of a genuine and a fake crop in a batch",
        "frames": "length of a crop in frames of 10 ms",
        "attack_share": "share of fakes that are attack copies, at the beginning",
        "seed": "of everything random",
        "held_out_fold": "leave the pages of this page_fold out of training, to measure generalisation",
    }
    for field in dataclasses.fields(Recipe):
        kind = int if field.name == "held_out_fold" else type(field.default)
        text = f"{help_of.get(field.name, 'see Recipe')} (default {field.default})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 when the model is written, 1 with one line when the corpus is not usable."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    recipe = Recipe(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)})
    try:
        train(args.data, args.out, recipe, args.attacks, args.report_every)
    except (CorpusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"model written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
