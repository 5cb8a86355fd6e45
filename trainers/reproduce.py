"""Published tables, made again: every row is trained or taken from a folder, scored on the corpora at hand, and compared.

The figures of the paper are in the recipes; where one was not at hand, nothing stands beside ours. Work that is done stays:
a row that was trained is not trained again, and a clip that was scored is not scored again.
"""

import difflib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import torch
from transformers.trainer import TRAINER_STATE_NAME

from spooftrace.audio import SAMPLING_RATE, AudioError, load_audio
from spooftrace.data_scripts.registry import get_corpus
from spooftrace.data_scripts.rows import Row, to_columns
from spooftrace.detector import Detector
from spooftrace.metrics import eer
from spooftrace.score_files import Trials, load_scores
from spooftrace.scoring import score_clips
from spooftrace.trainers.recipe import Recipe, load_recipe, shipped_recipes
from spooftrace.trainers.recipe_schema import RecipeError
from spooftrace.trainers.train_recipe import train_recipe
from spooftrace.trainers.write_recipes import CORPORA, SEED_SPREAD


ScoreRule = Literal["log-odds", "bonafide-logit"]
Window = Literal["first", "whole"]

TARGETS = {
    "mldg-table3": "Table 3 of arXiv 2502.10838",
    "mldg-table4": "Table 4 of arXiv 2502.10838",
    "mldg-table5": "Table 5 of arXiv 2502.10838",
    "mldg-figure3": "the training curves of Figure 3 of arXiv 2502.10838",
}
TRAINING_CORPUS = "asvspoof2019-la"
MISSING = "-"


@dataclass(frozen=True)
class Result:
    """
    One row on one corpus.

    Args:
        eer: a fraction.
        bonafide, spoof: trials that it was measured on.
        failed: trials left out because their clip could not be scored.
    """

    eer: float
    bonafide: int
    spoof: int
    failed: int = 0


@dataclass(frozen=True)
class RowResult:
    """
    One row of a table.

    Args:
        name: of the recipe.
        row: in words.
        model: the folder of the detector; `None` where no checkpoint was given for the row.
        paper: EERs in percent that were published, by corpus.
        paper_average: their average over all corpora, where it was published.
        results: ours, by corpus.
    """

    name: str
    row: str
    model: str | None
    paper: dict[str, float] = field(default_factory=dict)
    paper_average: float | None = None
    results: dict[str, Result] = field(default_factory=dict)


@dataclass(frozen=True)
class Reproduction:
    """
    What `reproduce` is to do.

    Args:
        target: one of `TARGETS`.
        data: folder of the corpora, each in a folder (or link) of its name, such as `in-the-wild`.
        out: for models, scores and results.
        checkpoints: folder with a detector for each row, named as the row; nothing is trained then.
        only: rows, by their names with or without the target's; all by default.
        corpora: test corpora, all by default; those that are not below `data` are left out.
        rule: a clip's score, `"log-odds"`, or `"bonafide-logit"`, the bare logit, as some published EERs have it.
        window: `"first"`, the first window of a clip (64,600 samples), as papers score; `"whole"`, the mean over all.
        overrides: fields of the recipes to replace in training.
        detector: options of [`Detector`], such as `device` and `batch_size`.
        overwrite: score again what has scores, such as those of a detector that was trained anew since.
    """

    target: str
    data: Path
    out: Path
    checkpoints: Path | None = None
    only: tuple[str, ...] = ()
    corpora: tuple[str, ...] = tuple(CORPORA)
    rule: ScoreRule = "log-odds"
    window: Window = "first"
    overrides: tuple[tuple[str, str], ...] = ()
    detector: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False

    def rows(self) -> list[str]:
        """
        Names of the recipes.

        Raises:
            RecipeError: for a row that the table does not have.
        """
        prefix = ("mldg-table3" if self.target == "mldg-figure3" else self.target) + "-"
        names = [name for name in shipped_recipes() if name.startswith(prefix)]
        return choose_rows(self.target, names, self.only)

    @property
    def scoring(self) -> str:
        """How clips are scored, in words."""
        score = {"log-odds": "log-odds of bona fide", "bonafide-logit": "logit of bona fide alone"}[self.rule]
        part = {"first": "first window of a clip", "whole": "mean over a clip's windows"}[self.window]
        return f"{score}, {part}"


def reproduce(plan: Reproduction, tell: Callable[[str], None] = print) -> list[RowResult]:
    """
    Carries out a plan, row by row; `plan.out` holds `TARGET.json` after each.

    Raises:
        RecipeError: where nothing could be done: no row, no test corpus, no corpus to train with; and in one of several
            processes.
        ScoringError: where `plan.out` holds scores of another detector, and `overwrite` was not asked for.
        ProtocolError: for a corpus that is there and cannot be read.
    """
    refuse_processes()
    names = plan.rows()
    trials = {} if plan.target == "mldg-figure3" else find_trials(plan, tell)
    tell(f"score: {plan.scoring}")
    done: list[RowResult] = []
    for name in names:
        recipe = load_recipe(name)
        folder = _model_of(plan, name, tell)
        results = _evaluate(plan, name, folder, trials) if folder and trials else {}
        average = recipe.paper.get("average")
        paper = recipe.paper.get("eer", {})
        done.append(
            RowResult(name, recipe.paper["row"], None if folder is None else str(folder), paper, average, results)
        )
        _write(plan, done)
        tell(f"{name}: " + (_summary(results) if folder else "no checkpoint was given for it"))
    return done


def refuse_processes() -> None:
    """
    Raises:
        RecipeError: in one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise RecipeError(
            "reproduce runs in one process: train a row over several with `accelerate launch -m spooftrace train ROW`, and "
            "pass the folder of the models as --checkpoints"
        )


def choose_rows(target: str, names: Sequence[str], only: Sequence[str]) -> list[str]:
    """
    Those of a target's rows that were asked for, all by default.

    Args:
        target: for the message.
        names: of its recipes, such as `mldg-table3-full`.
        only: names with or without the part that tells the table, such as `full`.

    Raises:
        RecipeError: for a row that is not there.
    """
    short = {short_name(name): name for name in names}
    for name in only:
        if name not in names and name not in short:
            near = difflib.get_close_matches(name, [*short, *names], n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(short)}."
            raise RecipeError(f"{target} has no row {name!r}: {hint}")
    wanted = [short.get(name, name) for name in only] or names
    return [name for name in names if name in wanted]


def short_name(recipe: str) -> str:
    """The name of a recipe without the paper and the table."""
    return recipe.split("-", 2)[-1]


def find_checkpoint(folder: Path, recipe: str) -> Path | None:
    """The model of a row in a folder of models, called as its recipe, in full or in short; `None` where there is none."""
    folders = [folder / name for name in (recipe, short_name(recipe))]
    return next((found for found in folders if (found / "config.json").is_file()), None)


def find_trials(plan: Reproduction, tell: Callable[[str], None]) -> dict[str, list[Row]]:
    """
    The test trials of the corpora that are there, by corpus.

    Raises:
        RecipeError: where none is there, or one lacks some of its audio.
    """
    trials = {}
    for name in plan.corpora:
        folder = plan.data / name
        if not folder.exists():
            tell(f"absent: {CORPORA[name]} (no {folder})")
            continue
        rows = get_corpus(name).read(folder, missing_audio="ignore")["test"]
        missing = sum(row.audio is None for row in rows)
        if missing:
            raise RecipeError(f"{missing:,} of {len(rows):,} test clips of {folder} have no audio: complete it")
        trials[name] = rows
    if not trials:
        raise RecipeError(
            f"no test corpus is below {plan.data}: expected are folders called {', '.join(plan.corpora)}"
        )
    return trials


def _model_of(plan: Reproduction, name: str, tell: Callable[[str], None]) -> Path | None:
    """The folder of a row's detector, which is trained unless checkpoints were given."""
    if plan.checkpoints is not None:
        return find_checkpoint(plan.checkpoints, name)
    corpus = plan.data / TRAINING_CORPUS
    if not corpus.exists():
        raise RecipeError(f"training needs {corpus}, which is absent; --checkpoints DIR takes trained detectors")
    recipe: Recipe = load_recipe(name, [("data.dir", str(corpus)), *plan.overrides])
    return train_recipe(recipe, plan.out / name / "model", resume=True, tell=tell).folder


def _evaluate(plan: Reproduction, name: str, model: Path, trials: Mapping[str, Sequence[Row]]) -> dict[str, Result]:
    """Scores every corpus; clips that an earlier call has scored are not scored again."""
    detector = Detector.from_pretrained(str(model), **plan.detector)
    if plan.rule == "bonafide-logit":
        keep_bonafide_logit(detector)
    results = {}
    for corpus, rows in trials.items():
        items = [(row.utterance_id, _source(row.audio, plan.window, detector.window_samples)) for row in rows]
        out = plan.out / name / "scores" / f"{plan.rule}-{plan.window}" / corpus
        score_clips(detector, items, out, overwrite=plan.overwrite)
        asked = Trials.from_columns(to_columns(rows), name=CORPORA[corpus], corpus=corpus, split="test")
        joined = load_scores(out, asked)
        bonafide, spoof = joined.scores[joined.bonafide], joined.scores[~joined.bonafide]
        results[corpus] = Result(eer(bonafide, spoof).eer, len(bonafide), len(spoof), len(joined.skipped))
    return results


def keep_bonafide_logit(detector: Detector) -> None:
    """From now on the detector's score is the logit of bona fide alone: the other logits of its model become zero."""
    genuine = {label: int(index) for label, index in detector.model.config.label2id.items()}["bonafide"]

    def mute(module: torch.nn.Module, inputs: tuple, output: Any) -> Any:
        logits = torch.zeros_like(output.logits)
        logits[:, genuine] = output.logits[:, genuine]
        output.logits = logits
        return output

    detector.model.register_forward_hook(mute)


def _source(path: str, window: Window, samples: int) -> str | Callable[[], Any]:
    """What [`Detector`] is to read: all of a clip, or its beginning alone."""
    if window == "whole":
        return path

    def beginning() -> Any:
        try:
            waveform = load_audio(Path(path))
        except (AudioError, OSError):
            return path  # the detector tells what is wrong with it
        return {"array": waveform[:samples], "sampling_rate": SAMPLING_RATE, "path": path}

    return beginning


def _summary(results: dict[str, Result]) -> str:
    return ", ".join(f"{CORPORA[name]} {100 * result.eer:.2f} %" for name, result in results.items()) or "trained"


def _write(plan: Reproduction, done: Iterable[RowResult]) -> None:
    """EERs are fractions here, the paper's are percent, as printed there."""
    plan.out.mkdir(parents=True, exist_ok=True)
    content = {
        "target": TARGETS[plan.target],
        "score_rule": plan.rule,
        "window": plan.window,
        "rows": [asdict(row) for row in done],
    }
    (plan.out / f"{plan.target}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# --- telling ---------------------------------------------------------------------------------------------------------


def table(plan: Reproduction, done: Sequence[RowResult]) -> str:
    """Ours beside the paper's, EER in percent, with the numbers of trials."""
    corpora = list(dict.fromkeys(name for row in done for name in row.results))
    header = ["row", *(CORPORA[name] for name in corpora), f"average of {len(corpora)}"]
    lines = [header, ["trials", *(_trials(done, name) for name in corpora), ""]]
    for row in done:
        cells = [_pair(row.results.get(name), row.paper.get(name)) for name in corpora]
        lines.append([row.row, *cells, _average(row, corpora)])
    if plan.target == "mldg-table5":
        lines.append(["mean +- deviation over seeds", *(_spread(done, name) for name in corpora), ""])
    failed = sum(result.failed for row in done for result in row.results.values())
    notes = [f"EER in %, ours / the paper's; {MISSING}: not at hand. Score: {plan.scoring}."]
    notes += [f"{failed:,} clips could not be scored and count nowhere."] if failed else []
    return "\n".join([TARGETS[plan.target], *notes, "", *aligned(lines)])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of text, each column as wide as its widest cell."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _trials(done: Sequence[RowResult], name: str) -> str:
    """Bona fide and spoof trials; of the row with the most, should clips have failed in others."""
    most = max((row.results[name] for row in done if name in row.results), key=lambda result: -result.failed)
    return f"{most.bonafide:,} + {most.spoof:,}"


def _pair(ours: Result | None, paper: float | None) -> str:
    return f"{percent(ours and 100 * ours.eer)} / {percent(paper)}"


def percent(value: float | None) -> str:
    """As it stands in a table."""
    return MISSING if value is None else f"{value:.2f}"


def _average(row: RowResult, corpora: Sequence[str]) -> str:
    """The paper's average is over all of its corpora, and compares with no other."""
    rates = [100 * row.results[name].eer for name in corpora if name in row.results]
    paper = row.paper_average if set(corpora) == set(CORPORA) else None
    return f"{percent(mean(rates) if rates else None)} / {percent(paper)}"


def _spread(done: Sequence[RowResult], name: str) -> str:
    rates = [100 * row.results[name].eer for row in done if name in row.results]
    ours = f"{mean(rates):.2f} +- {stdev(rates):.2f}" if len(rates) > 1 else MISSING
    paper = SEED_SPREAD.get(name)
    return f"{ours} / {MISSING if paper is None else f'{paper[0]:.2f} +- {paper[1]:.2f}'}"


def draw_curves(done: Sequence[RowResult], path: Path) -> list[str]:
    """
    Training loss and development EER over the steps, one line for each row, as a PNG file.

    Returns:
        Names of the rows that have no training log.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes, without = figure.subplots(2, sharex=True), []
    for row in done:
        curves = read_curves(row)
        if not any(curves.values()):
            without.append(row.name)
        for axis, points in zip(axes, curves.values(), strict=True):
            axis.plot(*zip(*points, strict=True), label=row.row) if points else None
    axes[0].set_ylabel("training loss")
    axes[1].set(xlabel="step", ylabel="development EER (%)")
    axes[1].legend(fontsize="small")
    FigureCanvasAgg(figure).print_png(str(path))
    return without


def read_curves(row: RowResult) -> dict[str, list[tuple[int, float]]]:
    """`(step, value)` of the training loss and of the development EER in percent, from the trainer's log."""
    log_file = Path(row.model or "") / TRAINER_STATE_NAME
    if row.model is None or not log_file.is_file():
        return {"loss": [], "eer": []}
    entries = json.loads(log_file.read_text(encoding="utf-8"))["log_history"]
    scales = {"loss": ("loss", 1), "eer": ("eval_eer", 100)}
    return {
        name: [(entry["step"], scale * entry[key]) for entry in entries if key in entry]
        for name, (key, scale) in scales.items()
    }
