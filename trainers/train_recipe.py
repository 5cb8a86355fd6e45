"""Training by a recipe, from the folder's first file to the detector or tracer that is saved at the end."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import EvalPrediction, PreTrainedModel

from spooftrace.audio import SAMPLING_RATE
from spooftrace.data_scripts.corpus import Totals
from spooftrace.metrics import eer
from spooftrace.trainers.calibration import fit_calibration
from spooftrace.trainers.checkpoints import last_checkpoint
from spooftrace.trainers.detection_config import DetectionConfig
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.recipe import TRAINERS, Recipe, load_recipe
from spooftrace.trainers.recipe_data import Clips, load_clips
from spooftrace.trainers.recipe_models import build_model, trainer_parts
from spooftrace.trainers.recipe_schema import RecipeError


RECIPE_FILE, RESULT_FILE = "recipe.yaml", "training_result.json"


class Trained(NamedTuple):
    """
    A detector or a source tracer that was trained.

    Args:
        folder: where it lies.
        steps: that were made.
        best_step: where the parameters that were saved come from.
        eer: of a detector, on the first window of the development clips, a fraction.
        trials: of a detector, the development clips that it was measured on.
        tasks: of a tracer, on the first window of the development clips whose class is known: by task, `accuracy`,
            `weighted_f1` and `macro_f1` as fractions, `loss`, of `"bin"` also `eer`, and `trials`, the clips of each class.
        hub_problem: why the Hub does not have it although `push_to_hub` was asked for.
    """

    folder: Path
    steps: int
    best_step: int
    eer: float | None = None
    trials: Totals | None = None
    tasks: Mapping[str, Mapping[str, Any]] | None = None
    hub_problem: str | None = None

    @property
    def summary(self) -> str:
        """How good it is, in lines for the user."""
        text = f"{self.steps:,} steps, the best parameters after {self.best_step:,}: "
        if self.tasks is None:
            trials = f"{self.trials.bonafide:,} bona fide, {self.trials.spoof:,} spoof"
            return f"{text}EER {100 * self.eer:.2f} % on the validation clips ({trials})"
        lines = [f"{text}on the validation clips,"]
        for task, found in self.tasks.items():
            trials = ", ".join(f"{count:,} {label}" for label, count in found["trials"].items())
            rate = f", EER {100 * found['eer']:.2f} %" if "eer" in found else ""
            lines.append(
                f"  {task:<3}  weighted F1 {100 * found['weighted_f1']:.2f} %, macro F1 {100 * found['macro_f1']:.2f} %, "
                f"accuracy {100 * found['accuracy']:.2f} %{rate} ({trials})"
            )
        return "\n".join(lines)


def train_recipe(
    recipe: Recipe, output_dir: str | Path, *, resume: bool = False, tell: Callable[[str], None] = print
) -> Trained:
    """
    Trains, keeps the best checkpoint, measures it on the development clips and saves it in `output_dir`.

    A detector, and a tracer with the task `"bin"`, is calibrated on them as well.

    Args:
        recipe: what to train.
        output_dir: for checkpoints, the log, the recipe as it was carried out, and the model.
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
    model = build_model(recipe.model, recipe.lora, recipe.argument("seed"))
    trainer = build_trainer(recipe, model, clips, args)
    if not trainer.is_world_process_zero():
        tell = _say_nothing
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).unlink(missing_ok=True)
        (folder / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
    tell(f"resuming from {checkpoint}" if checkpoint else f"training {recipe.name} from the beginning")
    steps = trainer.train(resume_from_checkpoint=checkpoint).global_step
    found = measure(trainer, recipe, tell)
    trainer.save_model(str(folder), _internal_call=True)  # it is pushed below, with its result
    trainer.save_state()
    best = trainer.state.best_global_step if args.load_best_model_at_end else None
    result = Trained(folder, steps, best or steps, **found)
    if trainer.is_world_process_zero():
        _write_result(result)
        trainer.push_saved(folder)
    return result._replace(hub_problem=trainer.hub_problem)


def _say_nothing(line: str) -> None:
    """What the other processes tell the user."""


def build_arguments(recipe: Recipe, output_dir: str | Path) -> DetectionConfig:
    """
    The trainer's configuration.

    Raises:
        ValueError: for values out of range, or that this machine cannot serve.
    """
    return TRAINERS[recipe.trainer][0](**{**recipe.arguments, "output_dir": str(output_dir)})


def build_trainer(recipe: Recipe, model: PreTrainedModel, clips: Clips, args: DetectionConfig) -> DetectionTrainer:
    """
    The trainer that the recipe names, ready to start.

    Raises:
        DomainError, LabelError, ValueError: for rows or arguments that cannot be trained with.
    """
    return TRAINERS[recipe.trainer][1](
        model,
        args,
        train_dataset=clips.train,
        eval_dataset=clips.validation,
        **trainer_parts(recipe.model, model, args.num_samples),
    )


def finished_run(recipe: Recipe, folder: Path) -> Trained | None:
    """What an earlier run of exactly this recipe came to, if it ended."""
    if not (folder / RESULT_FILE).is_file() or (folder / RECIPE_FILE).read_text(encoding="utf-8") != recipe.to_yaml():
        return None
    found = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    if "trials" in found:
        found["trials"] = Totals(*found["trials"])
    return Trained(folder, **found)


def _write_result(result: Trained) -> None:
    found = result._asdict().items()
    values = {name: value for name, value in found if name not in ("folder", "hub_problem") and value is not None}
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


def measure(
    trainer: DetectionTrainer, recipe: Recipe, tell: Callable[[str], None]
) -> dict[str, float | Totals | dict[str, dict]]:
    """
    What [`Trained`] says of the development clips, and the calibration of a model that tells genuine from fake.

    Scores are those of the clips as they are, whatever the checkpoints were chosen by.
    """
    clips = copy.copy(trainer.eval_dataset)
    clips.augment_eval = False
    prediction = trainer.predict(clips)
    if not recipe.traces:
        bonafide, spoof = trainer.scores(prediction)
        _calibrate(trainer, recipe, prediction, tell)
        return {"eer": eer(bonafide, spoof).eer, "trials": Totals(len(bonafide), len(spoof))}
    tasks = trainer.task_results(prediction)
    if "eer" in tasks.get("bin", {}):
        _calibrate(trainer, recipe, prediction, tell)
    return {"tasks": tasks}


def _calibrate(
    trainer: DetectionTrainer, recipe: Recipe, prediction: EvalPrediction, tell: Callable[[str], None]
) -> None:
    """Fits the probability of bona fide on the clips' scores, and puts it into the model's configuration."""
    bonafide, spoof = trainer.scores(prediction)
    scale, bias = fit_calibration(bonafide, spoof)
    calibration = None
    if scale <= 0:  # a probability would say the opposite of the score
        tell(
            "not calibrated: on the validation clips, higher scores are not the more genuine ones, so that no probability of "
            "bona fide follows from them; the model gives scores without one"
        )
    else:
        seconds = trainer.args.num_samples / SAMPLING_RATE
        fitted_on = (
            f"{recipe.data['corpus']} {Path(recipe.data['validation']).name}, {len(bonafide)} bona fide and {len(spoof)} "
            f"spoof clips, their first {seconds:.2f} s, both labels weighted alike"
        )
        calibration = {"scale": scale, "bias": bias, "fitted_on": fitted_on}
    trainer.accelerator.unwrap_model(trainer.model).config.calibration = calibration
