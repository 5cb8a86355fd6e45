"""Training by a recipe, from the folder's first file to the detector that is saved at the end; and its rehearsal."""

import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import EvalPrediction

from spooftrace.data_scripts.corpus import Totals
from spooftrace.data_scripts.registry import get_corpus
from spooftrace.metrics import eer
from spooftrace.trainers.calibration import fit_calibration
from spooftrace.trainers.checkpoints import last_checkpoint
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.recipe import (
    Clips,
    Recipe,
    build_arguments,
    build_model,
    build_trainer,
    count_labels,
    count_parameters,
    detector_config,
    load_clips,
    load_recipe,
)
from spooftrace.trainers.recipe_schema import RecipeError


RECIPE_FILE, RESULT_FILE = "recipe.yaml", "training_result.json"
SAMPLING_RATE = 16_000

# A development set for a rehearsal without a corpus: the trainers want both labels in it.
STAND_IN = [{"utterance_id": label, "label": label, "audio": None} for label in ("bonafide", "spoof")]


class Trained(NamedTuple):
    """
    A detector that was trained.

    Args:
        folder: where it lies.
        eer: on the development clips, of their first window, a fraction.
        trials: the development clips that it was measured on.
        steps: that were made.
        best_step: where the parameters that were saved come from.
        hub_problem: why the Hub does not have it although `push_to_hub` was asked for.
    """

    folder: Path
    eer: float
    trials: Totals
    steps: int
    best_step: int
    hub_problem: str | None = None


def train_recipe(
    recipe: Recipe, output_dir: str | Path, *, resume: bool = False, tell: Callable[[str], None] = print
) -> Trained:
    """
    Trains, keeps the best checkpoint, calibrates it on the development clips and saves it in `output_dir`.

    Args:
        recipe: what to train.
        output_dir: for checkpoints, the log, the recipe as it was carried out, and the detector.
        resume: go on from the last checkpoint in `output_dir`, if there is one; the recipe's `resume_from_checkpoint` may
            name another. A run of the same recipe that is finished stays as it is.
        tell: takes lines for the user; called on the first process alone.

    Raises:
        RecipeError: for a folder with checkpoints of another recipe, or with any where `resume` was not asked for.
    """
    folder = Path(output_dir)
    if resume and (finished := finished_run(recipe, folder)):
        return finished
    checkpoint = _checkpoint(recipe, folder, resume)
    args = build_arguments(recipe, folder)
    with args.main_process_first(desc="reading the corpus"):
        clips = load_clips(recipe)
    trainer = build_trainer(recipe, build_model(recipe), clips, args)
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).unlink(missing_ok=True)
        (folder / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
        tell(f"resuming from {checkpoint}" if checkpoint else f"training {recipe.name} from the beginning")
    steps = trainer.train(resume_from_checkpoint=checkpoint).global_step
    rate, trials = calibrate(trainer, recipe)
    trainer.save_model(str(folder), _internal_call=True)  # it is pushed below, with its result
    trainer.save_state()
    best = trainer.state.best_global_step if args.load_best_model_at_end else None
    result = Trained(folder, rate, trials, steps, best or steps)
    if trainer.is_world_process_zero():
        _write_result(result)
        trainer.push_saved(folder)
    return result._replace(hub_problem=trainer.hub_problem)


def finished_run(recipe: Recipe, folder: Path) -> Trained | None:
    """What an earlier run of exactly this recipe came to, if it ended."""
    if not (folder / RESULT_FILE).is_file() or (folder / RECIPE_FILE).read_text(encoding="utf-8") != recipe.to_yaml():
        return None
    found = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    return Trained(folder, found["eer"], Totals(*found["trials"]), found["steps"], found["best_step"])


def _write_result(result: Trained) -> None:
    values = {name: value for name, value in result._asdict().items() if name not in ("folder", "hub_problem")}
    text = json.dumps(values, indent=2) + "\n"
    (result.folder / RESULT_FILE).write_text(text, encoding="utf-8")


def _checkpoint(recipe: Recipe, folder: Path, resume: bool) -> str | None:
    named = recipe.arguments.get("resume_from_checkpoint")
    if named and str(named).lower() != "true":
        return named
    found = last_checkpoint(folder)
    if found and not resume and not named:
        raise RecipeError(f"{folder} holds checkpoints already: pass --resume to go on, or another --output-dir")
    before = folder / RECIPE_FILE
    if found and before.is_file() and (differing := recipe.differences(load_recipe(before))):
        raise RecipeError(f"{folder} was trained with another {', '.join(differing)}: take another --output-dir")
    return found and str(found)


def calibrate(trainer: DetectionTrainer, recipe: Recipe) -> tuple[float, Totals]:
    """
    Fits the probability of bona fide on the development clips' scores, and puts it into the model's configuration.

    Returns:
        The EER of these scores, a fraction, and their numbers.
    """
    clips = copy.copy(trainer.eval_dataset)
    clips.augment_eval = False  # whatever the checkpoints were chosen by, scores are those of the clips as they are
    bonafide, spoof = trainer_scores(trainer, trainer.predict(clips))
    scale, bias = fit_calibration(bonafide, spoof)
    if scale <= 0:  # no better than chance there: a probability would say the opposite of the score
        trainer.accelerator.unwrap_model(trainer.model).config.calibration = None
        return eer(bonafide, spoof).eer, Totals(len(bonafide), len(spoof))
    seconds = trainer.args.num_samples / SAMPLING_RATE
    trainer.accelerator.unwrap_model(trainer.model).config.calibration = {
        "scale": scale,
        "bias": bias,
        "fitted_on": (
            f"{recipe.data['corpus']} {Path(recipe.data['validation']).name}, {len(bonafide)} bona fide and {len(spoof)} "
            f"spoof clips, their first {seconds:.2f} s, both labels weighted alike"
        ),
    }
    return eer(bonafide, spoof).eer, Totals(len(bonafide), len(spoof))


def trainer_scores(trainer: DetectionTrainer, prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of bona fide, of the bona fide clips and of the spoofs."""
    logits, labels = prediction.predictions.astype(np.float64), prediction.label_ids
    genuine = trainer.label2id["bonafide"]
    scores = logits[:, genuine] - np.logaddexp.reduce(np.delete(logits, genuine, axis=1), axis=1)
    return scores[labels == genuine], scores[labels != genuine]


# --- rehearsal -------------------------------------------------------------------------------------------------------


def rehearse(recipe: Recipe, output_dir: str | Path) -> list[str]:
    """
    Builds everything with a tiny random model, makes one step where there is data, and tells what would be done.

    Returns:
        Lines for the user. Nothing is written but what `datasets` keeps of a corpus.

    Raises:
        As training would before its first step.
    """
    trained, total = count_parameters(detector_config(recipe))
    lines = [
        f"recipe      {recipe.name}: {recipe.paper.get('row', recipe.trainer)}",
        f"model       {_model_text(recipe)}",
        f"parameters  {trained:,} trained of {total:,}",
    ]
    known = recipe.data.get("dir") is not None or recipe.data["corpus"] == "own"
    clips = load_clips(recipe) if known else Clips(None, STAND_IN)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(recipe, build_model(recipe, tiny=True), clips, build_arguments(recipe, folder))
    if not known:
        return [*lines, *_published(recipe), f"output      {output_dir}"]
    loader = trainer.get_train_dataloader()
    trainer.current_gradient_accumulation_steps = 1
    loss = float(trainer.training_step(trainer.model, next(iter(loader))))
    per_epoch = max(len(loader) // trainer.args.gradient_accumulation_steps, 1)
    steps = trainer.args.max_steps if trainer.args.max_steps > 0 else round(trainer.args.num_train_epochs * per_epoch)
    return [
        *lines,
        f"train       {_counts(count_labels(clips.train))}{_domains(trainer)}",
        f"validation  {_counts(count_labels(clips.validation))}",
        f"steps       {steps:,} at most, {per_epoch:,} to an epoch, {_batch(trainer, loader)}",
        f"rehearsal   one step of a tiny random model: loss {loss:.3f}",
        f"output      {output_dir}",
    ]


def _model_text(recipe: Recipe) -> str:
    base = recipe.model.get("base_model")
    text = f"AASIST behind {base}" if base else f"AASIST, front end {detector_config(recipe).frontend}"
    if recipe.lora is None:
        return f"{text}, all of it trained"
    lora = detector_config(recipe).lora
    return f"{text}, adapters of rank {lora['r']} (alpha {lora['lora_alpha']}) on {', '.join(lora['target_modules'])}"


def _published(recipe: Recipe) -> list[str]:
    corpus = get_corpus(recipe.data["corpus"])
    config = corpus.check_config(recipe.data.get("config"))
    lines = []
    for part in ("train", "validation"):
        totals = corpus.totals.get((config, recipe.data[part]))
        found = _counts(totals._asdict()) + " by what was published" if totals else "numbers not published"
        lines.append(f"{part:<10}  {corpus.title} {recipe.data[part]}: {found}")
    return [*lines, "steps       not known without the corpus: pass --data.dir DIR"]


def _counts(counts: dict[str, int]) -> str:
    return f"{counts['bonafide']:,} bona fide, {counts['spoof']:,} spoof"


def _domains(trainer: Any) -> str:
    names = getattr(trainer, "domain_names", None)
    if not names:
        return ""
    counts = Counter(trainer.train_dataset.domains)
    listed = ", ".join(f"{name} {counts[number]:,}" for number, name in enumerate(names))
    return f"; domains with their share of the bona fide: {listed}"


def _batch(trainer: DetectionTrainer, loader: Any) -> str:
    size = getattr(trainer.sampler, "batch_size", None) or trainer.args.train_batch_size * trainer.args.world_size
    return f"{size * trainer.args.gradient_accumulation_steps} clips each"
