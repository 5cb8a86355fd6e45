"""The loop that trains the shipped models: small ones, on a CPU, from band energies that are held in memory.

Everything random in a step follows from the seed and the step's number, so a stopped run goes on to the same weights.
"""

import argparse
import copy
import dataclasses
import json
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.trainers.augmentation import EnergyAugmentation, FeatureMask
from spooftrace.trainers.detector_corpus import CorpusError


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
class LoopRecipe:
    """What every recipe of the loop decides: two runs of one recipe on one corpus and machine agree."""

    steps: int = 2400
    pairs: int = 16
    frames: int = 200
    learning_rate: float = 2e-3
    warmup: float = 0.06
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    auxiliary_weight: float = 0.5
    averaging: float = 0.995
    seed: int = 0

    def changed(self) -> dict[str, Any]:
        """The fields that are not at their defaults."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in dataclasses.asdict(self).items() if value != defaults[name]}


class AuxiliaryClassifier(nn.Module):
    """A second opinion straight from the encoder, in training alone: the graph's own gradients start out weak."""

    def __init__(self, config: AasistConfig, classes: int):
        super().__init__()
        size = 2 * config.encoder_channels[-1] * config.num_spectral_nodes
        self.layers = nn.Sequential(nn.BatchNorm1d(size), nn.Dropout(0.3), nn.Linear(size, classes))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, height, width)` -> logits from the mean and deviation over time, `(batch, classes)`"""
        rows = hidden_states.flatten(1, 2)
        return self.layers(torch.cat([rows.mean(dim=2), rows.std(dim=2)], dim=1))


class SmallTraining(ABC):
    """Model, its moving average, optimiser and the step they have reached; a subclass says what a step learns.

    Args:
        recipe: of the run.
        model: starts from the weights that it has.
        classes: of the auxiliary classifier.
    """

    def __init__(self, recipe: LoopRecipe, model: AasistForAudioClassification, classes: int):
        self.recipe, self.model = recipe, model
        self.auxiliary = AuxiliaryClassifier(model.config, classes)
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

    @abstractmethod
    def batch_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a newly drawn batch, and its cross-entropy for the log."""

    def advance(self) -> float:
        """One step; everything random in it follows from the seed and its number. Returns the cross-entropy."""
        recipe, share = self.recipe, self.step / self.recipe.steps
        rng = np.random.default_rng([recipe.seed, self.step])
        torch.manual_seed(int(rng.integers(2**62)))
        for group in self.optimizer.param_groups:
            warm = min(1.0, (self.step + 1) / (recipe.warmup * recipe.steps))
            group["lr"] = recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        loss, cross_entropy = self.batch_loss(rng)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return float(cross_entropy)

    def encode(self, energies: torch.Tensor) -> torch.Tensor:
        """Band energies of pairs, altered and masked -> the encoder's map `(batch, channels, height, width)`"""
        model = self.model.aasist
        return model.encoder(self.mask(model.frontend.compress(self.augment(energies))))

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

    def run(self, out: Path, report_every: int, validate: Callable[[AasistForAudioClassification], str]) -> None:
        """
        Goes on from `out/training_state.pt`, if there is one, to the last step.

        Args:
            out: folder of the state, made where it is missing.
            report_every: steps between saved states.
            validate: says how good the averaged model is, for the log.
        """
        out.mkdir(parents=True, exist_ok=True)
        if (out / STATE).exists():
            self.restore(out / STATE)
        steps = self.recipe.steps
        with tqdm(total=steps, initial=self.step, desc="steps", mininterval=1.0) as bar:
            while self.step < steps:
                self.model.train()
                loss = self.advance()
                bar.update()
                if self.step % report_every == 0 or self.step == steps:
                    self.save(out / STATE)
                    bar.write(f"step {self.step}: cross-entropy {loss:.3f}, {validate(self.average)}")


def fresh_model(config: AasistConfig, seed: int) -> AasistForAudioClassification:
    """A model with random weights that follow from the seed."""
    torch.manual_seed(seed)
    model = AasistForAudioClassification(config)
    for graph in (model.aasist.backend, *model.aasist.task_graphs.values()):
        nn.init.normal_(graph.position, std=0.1)  # as large as the nodes themselves, it would drown them
    return model


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


def save_record(recipe: LoopRecipe, clips: Mapping[str, Any], out: Path) -> None:
    """What the model was made from, in `training.json`, for its card."""
    record = {"clips": clips, "options": recipe.changed(), "torch": torch.__version__}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


HELP = {
    "steps": "training steps",
    "pairs": "pairs of a genuine and a fake crop in a batch",
    "frames": "length of a crop in frames of 10 ms",
    "seed": "of everything random",
    "held_out_fold": "leave the pages of this page_fold out of training, to measure generalisation",
}


def add_recipe_arguments(
    parser: argparse.ArgumentParser, recipe: type[LoopRecipe], help_of: Mapping[str, str]
) -> None:
    """An option for every field of the recipe; one whose default is `None` takes an integer, a boolean one is a flag."""
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    parser.add_argument("--report-every", type=int, default=200, help="steps between reports and saved states")
    for field in dataclasses.fields(recipe):
        text = f"{ {**HELP, **help_of}.get(field.name, 'see ' + recipe.__name__) } (default {field.default})"
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=text)
        else:
            kind = int if field.default is None else type(field.default)
            parser.add_argument(name, type=kind, default=field.default, help=text)


def recipe_of(args: argparse.Namespace, recipe: type[LoopRecipe]) -> LoopRecipe:
    """The recipe that the options of `add_recipe_arguments` ask for."""
    return recipe(**{field.name: getattr(args, field.name) for field in dataclasses.fields(recipe)})
