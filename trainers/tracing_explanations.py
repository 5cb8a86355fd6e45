"""What a SASTNet makes of single clips: its classes, how well each decoder reconstructs them, and where it looks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from spooftrace.audio import SAMPLING_RATE, load_audio
from spooftrace.clip_windows import WindowModel
from spooftrace.data_scripts.rows import Row
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers.recipe_schema import RecipeError
from spooftrace.trainers.reproduce import short_name
from spooftrace.trainers.reproduce_tracing import (
    RANDOM,
    TARGETS,
    TracingReproduction,
    check_training,
    load_tracer,
    model_folder,
)
from spooftrace.trainers.tracing_figures import draw_explanation
from spooftrace.trainers.tracing_sets import SETS, read_trials, true_classes


@dataclass(frozen=True)
class Explanation:
    """
    One clip in one row.

    Args:
        row: name of the recipe.
        utterance_id: of the clip.
        label: its class.
        probabilities: of the classes.
        reconstruction_errors: mean squared error over all patches, by the class of the decoder; one entry called `"all"`
            where a single decoder serves all classes.
        figure: file with these errors and the attention maps.
    """

    row: str
    utterance_id: str
    label: str
    probabilities: dict[str, float]
    reconstruction_errors: dict[str, float]
    figure: str


def explain(
    plan: TracingReproduction, clips: Sequence[str] = (), tell: Callable[[str], None] = print
) -> tuple[list[Explanation], list[str]]:
    """
    Explains clips by every row of the target, into figures and `TARGET.json` below `plan.out`.

    Args:
        plan: with the target `"sastnet-figure4"`.
        clips: utterance ids; by default the first clip of every class in the list of the row's task.
        tell: takes lines for the user.

    Returns:
        The explanations, and the rows for which no checkpoint was given.

    Raises:
        RecipeError: for a clip that is not in the list or has no audio, for a model that is no SASTNet, and where `RANDOM` is
            the only row.
    """
    if plan.rows == [RANDOM]:
        raise RecipeError(f"{plan.target} shows models, and {RANDOM} is none: name other rows")
    check_training(plan)
    names = TARGETS[plan.target].sets
    trials = read_trials(plan.data, names, tell)
    rows = [row for name in names for row in trials[SETS[name].corpus] if SETS[name].holds(row)]
    done: list[Explanation] = []
    without: list[str] = []
    for name in plan.rows:
        if name == RANDOM:
            continue
        folder = model_folder(plan, name, tell)
        if folder is None:
            without.append(name)
            continue
        windows = _load_sastnet(folder, plan.device)
        done += [_explain(plan, name, windows, row) for row in _chosen(rows, windows.model.config.task, clips)]
    plan.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(found) for found in done], indent=2) + "\n"
    (plan.out / f"{plan.target}.json").write_text(text, encoding="utf-8")
    return done, without


def _load_sastnet(folder: Path, device: str | None) -> WindowModel:
    windows = load_tracer(folder, device)
    kind = windows.model.config.model_type
    if kind != "sastnet":
        raise RecipeError(f"{folder} is a {kind} model: this figure is of SASTNet alone")
    return windows


def _chosen(rows: Sequence[Row], task: str, clips: Sequence[str]) -> list[Row]:
    by_id = {row.utterance_id: row for row in rows}
    unknown = [clip for clip in clips if clip not in by_id]
    if unknown:
        raise RecipeError(f"no test clip is called {', '.join(unknown)}: ids are such as {next(iter(by_id))}")
    if clips:
        chosen = [by_id[clip] for clip in clips]
    else:
        _, first = np.unique(true_classes(rows, task), return_index=True)
        chosen = [rows[index] for index in first]
    silent = [row.utterance_id for row in chosen if row.audio is None]
    if silent:
        raise RecipeError(f"{', '.join(silent)} have no audio: complete the corpus, or name other clips")
    return chosen


def _explain(plan: TracingReproduction, name: str, windows: WindowModel, row: Row) -> Explanation:
    config = windows.model.config
    inputs = windows.feature_extractor(
        load_audio(row.audio)[: windows.window_samples], sampling_rate=SAMPLING_RATE, return_tensors="pt"
    ).to(windows.device)
    with torch.inference_mode():
        output = windows.model(**inputs, output_attentions=True, output_reconstruction_errors=True)
    labels = config.task_labels[config.task]
    errors = output.reconstruction_errors[0].double().mean(dim=-1).tolist()
    named = dict(zip(labels if len(errors) > 1 else ["all"], errors, strict=True))
    maps = {name: found[0].mean(dim=(0, 1)).cpu().numpy() for name, found in (output.attentions or {}).items()}
    true = TASK_LABELS[config.task][int(true_classes([row], config.task)[0])]
    path = plan.out / plan.target / f"{short_name(name)}-{row.utterance_id.replace('/', '_')}.png"
    draw_explanation(path, named, maps, title=f"{row.utterance_id}: {true}")
    probabilities = torch.softmax(output.logits[0].double(), dim=-1).tolist()
    return Explanation(name, row.utterance_id, true, dict(zip(labels, probabilities, strict=True)), named, str(path))


def explanation_text(found: Explanation) -> str:
    """One line for the user."""
    best = max(found.probabilities, key=found.probabilities.__getitem__)
    nearest = min(found.reconstruction_errors, key=found.reconstruction_errors.__getitem__)
    return (
        f"{found.row} {found.utterance_id}: {found.label}, traced to {best} ({100 * found.probabilities[best]:.1f} %), best "
        f"reconstructed by the decoder {nearest}; {Path(found.figure).name}"
    )
