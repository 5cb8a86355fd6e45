"""Trains the default tracer: `python -m spooftrace.trainers.default_tracer --corpus DIR --out DIR`.

`DIR` is a folder with `metadata.csv` and the clips that it names. Trained on are the rows of the train split that have a
stated licence and are genuine or made by a known neural codec; the valid split serves for choices and for the threshold of
"none of the sources I know"; rows of the test split are never opened. The weights start at random.

The model goes to `--out`: config.json, model.safetensors, preprocessor_config.json, training.json about its making and,
unless something was left out, open_set.safetensors. A run that was stopped goes on from `--out/training_state.pt` when the command is given again, to the
same weights as an uninterrupted one.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from spooftrace.classification import classification_report
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.trainers.detector_corpus import CorpusError, band_energies, read_corpus, repeated
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
from spooftrace.trainers.tracer_corpus import (
    ALL_LABELS,
    LICENSED_LABELS,
    TracingSampler,
    class_counts,
    require_classes,
    targets_of,
    tracing_clips,
)
from spooftrace.trainers.tracer_open_set import fit_open_set
from spooftrace.trainers.tracing_labels import UNKNOWN


@dataclass(frozen=True)
class TracerRecipe(LoopRecipe):
    """Everything that decides the weights, besides the corpus.

    `class_balance` is the power of a class's share in the batches by which the class is weighed down in the loss.
    """

    steps: int = 600
    class_balance: float = 0.5
    held_out_fold: int | None = None
    system_fold: int | None = None
    all_rows: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the model is one to ship; others serve a measurement."""
        return self.held_out_fold is None and self.system_fold is None and not self.all_rows


class TracerTraining(SmallTraining):
    """A step of the tracer: cross-entropy of all tasks, weighted by class, over the clips whose class is known."""

    def __init__(self, recipe: TracerRecipe, model: AasistForAudioClassification, sampler: TracingSampler):
        self.sizes = [len(names) for names in model.config.task_labels.values()]
        super().__init__(recipe, model, classes=sum(self.sizes))
        self.sampler = sampler
        self.weights = [self._class_weights(task, size) for task, size in enumerate(self.sizes)]

    def _class_weights(self, task: int, classes: int) -> torch.Tensor:
        """A class that is absent, because what held it is left out, has no weight."""
        shares = self.sampler.class_shares(task, classes)
        weights = np.where(shares > 0, np.maximum(shares, 1e-6) ** -self.recipe.class_balance, 0.0)
        return torch.tensor(weights / (weights * shares).sum(), dtype=torch.float32)

    def batch_loss(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        energies, labels = self.sampler.draw_labelled(self.recipe.pairs, rng)
        hidden_states = self.encode(energies)
        cross_entropy = self._cross_entropy(logits_of_map(self.model, hidden_states).values(), labels)
        auxiliary = self._cross_entropy(self.auxiliary(hidden_states).split(self.sizes, dim=1), labels)
        return cross_entropy + self.recipe.auxiliary_weight * auxiliary, cross_entropy.detach()

    def _cross_entropy(self, logits: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Mean over the tasks, each `(batch, classes)`; labels `(batch, tasks)`."""
        losses = [
            F.cross_entropy(task, column, weight, ignore_index=UNKNOWN, label_smoothing=self.recipe.label_smoothing)
            for task, column, weight in zip(logits, labels.unbind(1), self.weights, strict=True)
        ]
        return torch.stack(losses).mean()


def logits_of_map(model: AasistForAudioClassification, hidden_states: torch.Tensor) -> dict[str, torch.Tensor]:
    """The encoder's map `(batch, channels, height, width)` -> logits `(batch, classes)` of every task."""
    nodes = model.aasist.backend.nodes(hidden_states)
    graphs = [model.aasist.backend.read, *model.aasist.task_graphs.values()]
    classifiers = [model.classifier, *model.task_classifiers.values()]
    logits = [classify(model.dropout(graph(*nodes)[0])) for graph, classify in zip(graphs, classifiers, strict=True)]
    return dict(zip(model.config.tasks, logits, strict=True))


def window_predictions(
    model: AasistForAudioClassification, energies: Sequence[np.ndarray], frames: int
) -> dict[str, np.ndarray]:
    """The likeliest class in the first window of every clip, `(clips,)` by task."""
    predictions: dict[str, list[np.ndarray]] = {task: [] for task in model.config.tasks}
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(energies), 32):
            window = np.stack([repeated(clip, frames) for clip in energies[start : start + 32]]).astype(np.float32)
            features = model.aasist.frontend.compress(torch.from_numpy(window).permute(0, 2, 3, 1).exp())
            for task, logits in logits_of_map(model, model.aasist.encoder(features)).items():
                predictions[task].append(logits.argmax(dim=1).numpy())
    return {task: np.concatenate(parts) for task, parts in predictions.items()}


def macro_f1(predictions: Mapping[str, np.ndarray], targets: np.ndarray, labels: Mapping[str, Sequence[str]]) -> dict:
    """Macro F1 of every task over the clips whose class is known; tasks without such a clip are left out."""
    scores = {}
    for column, (task, names) in enumerate(labels.items()):
        known = targets[:, column] != UNKNOWN
        if known.any():
            report = classification_report(targets[known, column], predictions[task][known], classes=len(names))
            scores[task] = report.macro_f1
    return scores


def train(data: Path, out: Path, recipe: TracerRecipe, report_every: int = 200) -> None:
    """Runs the recipe and writes the model to `out`. Raises CorpusError for unfit data."""
    labels = ALL_LABELS if recipe.all_rows else LICENSED_LABELS
    left_out = {"held_out_fold": recipe.held_out_fold, "system_fold": recipe.system_fold}
    clips = read_corpus(data)
    chosen = tracing_clips(clips, "train", all_rows=recipe.all_rows, **left_out)
    valid = tracing_clips(clips, "valid", all_rows=recipe.all_rows, **left_out)
    require_classes(chosen, labels, absent_is_fine=any(value is not None for value in left_out.values()))
    corpora = None if recipe.all_rows else TRAINING_CORPORA
    config = AasistConfig(**MODEL, tasks=list(labels), task_labels=labels, training_corpora=corpora)
    model = fresh_model(config, recipe.seed)
    frontend = model.aasist.frontend
    energies = band_energies([data / clip.file for clip in chosen], frontend, "train")
    valid_energies = band_energies([data / clip.file for clip in valid], frontend, "valid")
    valid_targets = targets_of(valid, labels)

    def validate(average: AasistForAudioClassification) -> str:
        if not valid:
            return "no valid clips"
        scores = macro_f1(window_predictions(average, valid_energies, recipe.frames), valid_targets, labels)
        each = ", ".join(f"{task} {100 * score:.1f}" for task, score in scores.items())
        return f"valid macro F1 {100 * np.mean(list(scores.values())):.1f} % ({each})"

    sampler = TracingSampler(chosen, energies, targets_of(chosen, labels), recipe.frames)
    training = TracerTraining(recipe, model, sampler)
    training.run(out, report_every, validate)
    window = AasistFeatureExtractor(sampling_rate=config.sampling_rate, window_samples=WINDOW_SAMPLES)
    save_bare(training.average, window, out)
    if recipe.is_whole:
        fit_open_set(out, data, chosen, valid)
    save_record(recipe, {"train": class_counts(chosen, labels), "valid": class_counts(valid, labels)}, out)
    (out / STATE).unlink(missing_ok=True)


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments; the recipe's own fields are options of the same names."""
    parser = argparse.ArgumentParser(
        prog="python -m spooftrace.trainers.default_tracer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, required=True, help="corpus folder with metadata.csv")
    parser.add_argument("--out", type=Path, required=True, help="where the model goes")
    help_of = {
        "class_balance": "power of a class's share by which it counts less in the loss",
        "system_fold": "leave the codecs of this part of SYSTEM_FOLDS out of training, for the open-set test",
        "all_rows": "train on rows without a stated licence too, with all classes of the taxonomy; not for sharing",
    }
    add_recipe_arguments(parser, TracerRecipe, help_of)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 when the model is written, 1 with one line when the corpus is not usable."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        train(args.corpus, args.out, recipe_of(args, TracerRecipe), args.report_every)
    except (CorpusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"model written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
