"""Source tracing on CodecFake+, as published: every row is trained or taken from a folder, its clips are scored once, and
what comes of them stands beside the paper's figures.

The paper is "Towards Generalized Source Tracing for Codec-Based Deepfake Speech" (arXiv 2506.07294). Its tables were not
readable as a whole where this was written: what each target holds is told by `TARGETS`, and a figure that was not at hand
is left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from spooftrace.checkpoint import load_checkpoint
from spooftrace.clip_windows import WindowModel
from spooftrace.data_scripts.rows import Row
from spooftrace.score_journal import Line
from spooftrace.trainers.recipe import load_recipe, shipped_recipes
from spooftrace.trainers.recipe_models import missing_file
from spooftrace.trainers.recipe_schema import RecipeError
from spooftrace.trainers.reproduce import choose_rows, find_checkpoint, refuse_processes
from spooftrace.trainers.trace_trials import SILENCE, ClassScorer, compute_lines, silence_shares
from spooftrace.trainers.tracing_scores import (
    SourceResult,
    TaskResult,
    by_source,
    guessed_classes,
    measure,
    predicted_classes,
)
from spooftrace.trainers.tracing_sets import SETS, SILENCE_REMOVED, TASKS, TracingSet, read_trials
from spooftrace.trainers.train_recipe import RESULT_FILE, train_recipe
from spooftrace.trainers.write_sastnet_recipes import RANDOM_F1, TRAINING_CORPUS, baseline_of


class Target(NamedTuple):
    """
    A table or figure.

    Args:
        title: what it shows.
        recipes: beginning of the names of its recipes.
        sets: the test sets, see `SETS`.
        models: beginnings of what follows in the names; all of them by default.
        note: what was published besides, or is not known.
    """

    title: str
    recipes: str
    sets: tuple[str, ...]
    models: tuple[str, ...] = ("",)
    note: str = ""


_MAIN = ("cors", "cosg-known", "cosg-all")
_BOTH = ("s-", "sastnet-")

TARGETS: Mapping[str, Target] = {
    "sastnet-table1": Target("Table I: F1 on re-synthesised and on generated speech", "sastnet-table1-", _MAIN),
    "sastnet-table2": Target(
        "Table II: F1 with and without silence",
        "sastnet-table1-",
        (*_MAIN, *(f"{name}{SILENCE_REMOVED}" for name in _MAIN)),
        _BOTH,
        "Without silence the paper has the baseline lose about 27 points and SASTNet about 9; on which set was not at hand. "
        "The models are those of Table I.",
    ),
    "sastnet-table3": Target(
        "Table III: F1 on seen and unseen content", "sastnet-table3-", ("cors-seen", "cors-unseen")
    ),
    "sastnet-table4": Target(
        "Table IV: parts of SASTNet, auxiliary objective",
        "sastnet-table4-",
        _MAIN,
        note="On CoSG All the paper's text claims 24 % over W2V2 + M-MAE; its figures there are 41.91 and 43.47.",
    ),
    "sastnet-figure2": Target("Figure 2: silence and F1 by codec", "sastnet-table1-", ("cors", "cosg-all"), _BOTH),
    "sastnet-figure3": Target("Figure 3: confusion matrices", "sastnet-table1-", ("cosg-known", "cosg-all"), _BOTH),
    "sastnet-figure4": Target("Figure 4: SASTNet on single clips", "sastnet-table1-", ("cosg-all",), ("sastnet-",)),
}
"""What is made of the paper. Which tests stand in which of Tables II and III is the reading of this project."""

RANDOM = "random"
"""The row that guesses every class alike."""


@dataclass(frozen=True)
class TracingRow:
    """
    One row of a table.

    Args:
        name: of the recipe, or `RANDOM`.
        row: in words.
        model: folder of the tracer; `None` where no checkpoint was given, and for `RANDOM`.
        paper: weighted F1 in percent that was published, by task and set.
        results: ours, by task and set.
        sources: by task and set, the codecs or generators.
    """

    name: str
    row: str
    model: str | None = None
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    results: dict[str, dict[str, TaskResult]] = field(default_factory=dict)
    sources: dict[str, dict[str, list[SourceResult]]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether it has a model and a result for every clip."""
        failed = any(result.failed for found in self.results.values() for result in found.values())
        return (self.model is not None or self.name == RANDOM) and not failed


@dataclass(frozen=True)
class TracingReproduction:
    """
    What is to be done.

    Args:
        target: one of `TARGETS`.
        data: folder of the corpora, each in a folder (or link) of its name, such as `codecfake-plus-cors`.
        out: for models, log-probabilities and results; several targets may share one, and then share their work.
        checkpoints: folder with a tracer for each row, named as the row; nothing is trained then.
        only: rows, by their names with or without the table's; all by default.
        random: no row but `RANDOM`, which needs neither audio nor a model.
        overrides: fields of the recipes to replace in training.
        device: for scoring; the best one present by default.
        batch_size: clips per forward pass in scoring.
        overwrite: score again what has log-probabilities, such as those of a tracer that was trained anew since.
    """

    target: str
    data: Path
    out: Path
    checkpoints: Path | None = None
    only: tuple[str, ...] = ()
    random: bool = False
    overrides: tuple[tuple[str, str], ...] = ()
    device: str | None = None
    batch_size: int = 16
    overwrite: bool = False

    @cached_property
    def rows(self) -> list[str]:
        """
        Names of the recipes, after `RANDOM` where that is asked for.

        Raises:
            RecipeError: for a row that the table does not have.
        """
        chosen = TARGETS[self.target]
        if self.random:
            return [RANDOM]
        beginnings = tuple(chosen.recipes + model for model in chosen.models)
        names = [name for name in shipped_recipes() if name.startswith(beginnings)]
        rows = choose_rows(self.target, names, [name for name in self.only if name != RANDOM])
        if self.only == (RANDOM,):
            return [RANDOM]
        return [RANDOM, *rows] if RANDOM in self.only or not self.only else rows

    @property
    def wants_silence(self) -> bool:
        """Whether the silence in each clip is to be measured."""
        return self.target == "sastnet-figure2"


def reproduce_tracing(plan: TracingReproduction, tell: Callable[[str], None] = print) -> list[TracingRow]:
    """
    Carries out a plan, row by row; `plan.out` holds `TARGET.json` after each.

    Raises:
        RecipeError: where nothing could be done: no row, no test corpus, no corpus to train with, or audio missing; see also
            `check_training`; for a model that answers no tracing task; and in one of several processes.
        ScoringError: where `plan.out` holds log-probabilities of another tracer, and `overwrite` was not asked for.
        ProtocolError: for a corpus that is there and cannot be read.
    """
    refuse_processes()
    names = plan.rows
    check_training(plan)
    trials = read_trials(plan.data, TARGETS[plan.target].sets, tell)
    silence = _silence(plan, trials) if plan.wants_silence and names != [RANDOM] else None
    done: list[TracingRow] = []
    for name in names:
        done.append(_guess(plan, trials) if name == RANDOM else _row(plan, name, trials, silence, tell))
        _write(plan, done)
        tell(f"{name}: {'done' if done[-1].results else 'no checkpoint was given for it'}")
    return done


def absent_sets(plan: TracingReproduction) -> list[str]:
    """Sets of the target whose corpus is not there."""
    return [name for name in TARGETS[plan.target].sets if not (plan.data / SETS[name].corpus).exists()]


def _guess(plan: TracingReproduction, trials: Mapping[str, Sequence[Row]]) -> TracingRow:
    results: dict[str, dict[str, TaskResult]] = {task: {} for task in TASKS}
    for name, rows in _present(plan, trials):
        for task in TASKS:
            results[task][name] = measure(rows, guessed_classes(rows, task), task)
    return TracingRow(RANDOM, "every class alike", None, RANDOM_F1, results)


def _row(
    plan: TracingReproduction,
    name: str,
    trials: Mapping[str, Sequence[Row]],
    silence: Mapping[str, float] | None,
    tell: Callable[[str], None],
) -> TracingRow:
    recipe = load_recipe(name)
    row, paper, folder = recipe.paper["row"], recipe.paper.get("f1", {}), model_folder(plan, name, tell)
    if folder is None:
        return TracingRow(name, row, None, paper)
    windows = load_tracer(folder, plan.device)
    tasks = [task for task in windows.model.config.tasks if task in TASKS]
    results: dict[str, dict[str, TaskResult]] = {task: {} for task in tasks}
    sources: dict[str, dict[str, list[SourceResult]]] = {task: {} for task in tasks}
    found = {kind: _lines(plan, name, windows, *kind, trials) for kind in _kinds(plan, trials)}
    for set_name, rows in _present(plan, trials):
        lines = [found[_kind(SETS[set_name])][row.utterance_id] for row in rows]
        for task in tasks:
            predicted = predicted_classes(lines, task)
            results[task][set_name] = measure(rows, predicted, task)
            sources[task][set_name] = by_source(rows, predicted, task, silence)
    return TracingRow(name, row, str(folder), paper, results, sources)


def model_folder(plan: TracingReproduction, name: str, tell: Callable[[str], None]) -> Path | None:
    """
    The folder of a row's tracer, which is trained unless checkpoints were given; `None` where none was given for it.

    Raises:
        RecipeError: where training lacks its corpus.
    """
    if plan.checkpoints is not None:
        return find_checkpoint(plan.checkpoints, name)
    corpus = plan.data / TRAINING_CORPUS
    if not corpus.exists():
        raise RecipeError(f"training needs {corpus}, which is absent; --checkpoints DIR takes trained tracers")
    overrides = _overrides(plan, name)
    baseline = baseline_of(name)
    if baseline and "model.wav2vec2" not in dict(overrides):
        tell(f"{name} begins with the encoder of {baseline}")
        overrides.append(("model.wav2vec2", str(model_folder(plan, baseline, tell))))
    recipe = load_recipe(name, [("data.dir", str(corpus)), *overrides])
    return train_recipe(recipe, plan.out / name / "model", resume=True, tell=tell).folder


def check_training(plan: TracingReproduction) -> None:
    """
    Looks at what every row will be trained with, before days are spent on the first of them.

    Raises:
        RecipeError: for a value that does not fit a row, and for AudioMAE's weights where they are needed and not there.
    """
    names = [name for name in plan.rows if name != RANDOM and not (plan.out / name / "model" / RESULT_FILE).is_file()]
    for name in names if plan.checkpoints is None else ():
        missing = missing_file(load_recipe(name, _overrides(plan, name)).model)
        if missing:
            raise RecipeError(f"{name}: {missing}")


def _overrides(plan: TracingReproduction, name: str) -> list[tuple[str, str]]:
    """Those that are for a row: pretrained parts that it does not have are for others."""
    own = load_recipe(name).model
    return [(key, text) for key, text in plan.overrides if key not in _PARTS or key.partition(".")[2] in own]


def load_tracer(folder: Path, device: str | None) -> WindowModel:
    """
    A tracer, ready to score.

    Raises:
        RecipeError: for a model that answers none of `TASKS`.
        CheckpointError: see `load_checkpoint`.
    """
    loaded = load_checkpoint(folder)
    if not set(getattr(loaded.model.config, "tasks", ())) & set(TASKS):
        raise RecipeError(f"{folder} answers none of the tasks {', '.join(TASKS)}: give a folder with a tracer")
    return WindowModel(loaded.model, loaded.feature_extractor, device=device)


# Pretrained parts of a SASTNet, of which a row has some or none.
_PARTS = ("model.wav2vec2", "model.whisper", "model.audiomae")

Kind = tuple[str, bool]  # a corpus, and whether its clips are scored without their silence


def _kind(found: TracingSet) -> Kind:
    return found.corpus, found.silence_removed


def _kinds(plan: TracingReproduction, trials: Mapping[str, Any]) -> list[Kind]:
    kinds = dict.fromkeys(_kind(SETS[name]) for name in TARGETS[plan.target].sets)
    return [kind for kind in kinds if kind[0] in trials]


def _present(plan: TracingReproduction, trials: Mapping[str, Sequence[Row]]) -> Iterable[tuple[str, list[Row]]]:
    """Names and trials of the target's sets whose corpus is there."""
    for name in TARGETS[plan.target].sets:
        found = SETS[name]
        if found.corpus in trials:
            yield name, [row for row in trials[found.corpus] if found.holds(row)]


def _lines(
    plan: TracingReproduction,
    name: str,
    windows: WindowModel,
    corpus: str,
    silence_removed: bool,
    trials: Mapping[str, Sequence[Row]],
) -> dict[str, Line]:
    """Log-probabilities of all clips of a corpus, by utterance id; those of an earlier call are not made again."""
    scorer = ClassScorer(windows, plan.batch_size, silence_removed)
    out = plan.out / name / "log-probabilities" / (corpus + SILENCE_REMOVED * silence_removed)
    clips = _clips(trials[corpus], plan.data / corpus)
    lines = compute_lines(clips, scorer, scorer.describe(), out, overwrite=plan.overwrite)
    return {line["utterance_id"]: line for line in lines}


def _silence(plan: TracingReproduction, trials: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Share of every clip without speech, by utterance id."""
    lines: list[Line] = []
    for corpus, rows in trials.items():
        lines += compute_lines(
            _clips(rows, plan.data / corpus), silence_shares, SILENCE, plan.out / "silence" / corpus
        )
    return {line["utterance_id"]: line["silence"] for line in lines if "silence" in line}


def _clips(rows: Sequence[Row], folder: Path) -> list[tuple[str, str]]:
    missing = sum(row.audio is None for row in rows)
    if missing:
        raise RecipeError(f"{missing:,} of {len(rows):,} test clips of {folder} have no audio: complete it")
    return [(row.utterance_id, str(row.audio)) for row in rows]


def _write(plan: TracingReproduction, done: Sequence[TracingRow]) -> None:
    """F1 scores are in [0, 1] here, the paper's are percent, as printed there."""
    plan.out.mkdir(parents=True, exist_ok=True)
    content = {"target": TARGETS[plan.target].title, "rows": [asdict(row) for row in done]}
    text = json.dumps(content, indent=2) + "\n"
    (plan.out / f"{plan.target}.json").write_text(text, encoding="utf-8")
