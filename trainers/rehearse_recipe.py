"""Rehearsal of a recipe: everything that training does before its second step, with a tiny model."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from spooftrace.data_scripts.registry import get_corpus
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.recipe import Recipe
from spooftrace.trainers.recipe_data import Clips, class_counts, count_labels, load_clips, stand_in
from spooftrace.trainers.recipe_models import build_model, count_parameters, missing_file, model_text
from spooftrace.trainers.train_recipe import build_arguments, build_trainer


# A cache would be written to, and half precision is for large models on a GPU, which a rehearsal may have to do without.
LEFT_OUT = ("feature_cache", "bf16", "fp16")


def rehearse(recipe: Recipe, output_dir: str | Path) -> list[str]:
    """
    Builds everything with a tiny random model, makes one step where there is data, and tells what would be done.

    Returns:
        Lines for the user. Nothing is written but what `datasets` keeps of a corpus.

    Raises:
        As training would before its first step.
    """
    lines = _model_lines(recipe)
    known = recipe.data.get("dir") is not None or recipe.data["corpus"] == "own"
    clips = load_clips(recipe) if known else Clips(None, stand_in(recipe))
    model = build_model(recipe.model, recipe.lora, recipe.argument("seed"), tiny=True)
    kept = {name: value for name, value in recipe.arguments.items() if name not in LEFT_OUT}
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(recipe, model, clips, build_arguments(replace(recipe, arguments=kept), folder))
    if not known:
        return [*lines, *_published(recipe), f"output      {output_dir}"]
    return [
        *lines,
        f"train       {_clips_text(recipe, clips.train)}{_domains(trainer)}",
        f"validation  {_clips_text(recipe, clips.validation)}",
        *_one_step(trainer),
        f"output      {output_dir}",
    ]


def _model_lines(recipe: Recipe) -> list[str]:
    trained, total = count_parameters(recipe.model_config())
    missing = missing_file(recipe.model)
    return [
        f"recipe      {recipe.name}: {recipe.paper.get('row', recipe.trainer)}",
        f"model       {model_text(recipe.model, recipe.lora)}",
        f"parameters  {trained:,} trained of {total:,}",
        *([f"not here    {missing}"] if missing else []),
    ]


def _one_step(trainer: DetectionTrainer) -> list[str]:
    loader = trainer.get_train_dataloader()
    trainer.current_gradient_accumulation_steps = 1
    loss = float(trainer.training_step(trainer.model, next(iter(loader))))
    per_epoch = max(len(loader) // trainer.args.gradient_accumulation_steps, 1)
    steps = trainer.args.max_steps if trainer.args.max_steps > 0 else round(trainer.args.num_train_epochs * per_epoch)
    return [
        f"steps       {steps:,} at most, {per_epoch:,} to an epoch, {_batch(trainer, loader)}",
        f"rehearsal   one step of a tiny random model: loss {loss:.3f}",
    ]


def _published(recipe: Recipe) -> list[str]:
    corpus = get_corpus(recipe.data["corpus"])
    config = corpus.check_config(recipe.data.get("config"))
    lines = []
    for part in ("train", "validation"):
        totals = corpus.published(config, recipe.data.get("options")).get(recipe.data[part])
        found = _counts(totals._asdict()) + " by what was published" if totals else "numbers not published"
        lines.append(f"{part:<10}  {corpus.title} {recipe.data[part]}: {found}")
    return [*lines, "steps       not known without the corpus: pass --data.dir DIR"]


def _clips_text(recipe: Recipe, rows: Any) -> str:
    if not recipe.traces:
        return _counts(count_labels(rows))
    tasks = class_counts(recipe, rows)
    return "; ".join(f"{task}: {_classes(counts)}" for task, counts in tasks.items())


def _classes(counts: Mapping[str | None, int]) -> str:
    return ", ".join(f"{count:,} {'not known' if label is None else label}" for label, count in counts.items())


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
