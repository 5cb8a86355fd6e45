"""Recipes of source tracing: one for each row of the paper's tables, and each is carried out on a tiny model."""

import pytest
from corpus_trees_codecfake_plus import small_cors

from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers import write_sastnet_recipes
from spooftrace.trainers.recipe import load_recipe, shipped_recipes
from spooftrace.trainers.rehearse_recipe import rehearse
from spooftrace.trainers.write_recipes import FOLDER
from spooftrace.trainers.write_sastnet_recipes import SASTNET_F1, baseline_of


ROWS = {row.recipe: row for row in write_sastnet_recipes.rows()}


def header_of(name: str) -> str:
    return shipped_recipes()[name].read_text(encoding="utf-8").partition("\n\n")[0].replace("\n# ", " ")


def test_the_shipped_files_are_what_the_script_writes():
    files = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("sastnet-*.yaml")}
    assert files == {name: write_sastnet_recipes.recipe_text(row) for name, row in ROWS.items()}


@pytest.mark.parametrize("name", ROWS)
def test_every_recipe_is_rehearsed_on_a_tiny_model(name, tmp_path):
    row = ROWS[name]
    recipe = load_recipe(name, [("use_cpu", "true")])
    plan = "\n".join(rehearse(recipe, tmp_path / "run"))
    assert f"{row.row}\n" in plan and "trained of " in plan
    counts = "25,830 bona fide, 25,830 spoof" if row.table == 3 else "42,965 bona fide, 42,965 spoof"
    assert counts in plan
    assert recipe.data["config"] == row.training_list and set(row.tasks) <= set(TASK_LABELS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sastnet-table1-m1-vq", "sastnet-table1-sastnet-dec", "sastnet-table4-s-mae"])
def test_a_rehearsal_reads_the_corpus_and_makes_a_step(name, tmp_path):
    changes = [("data.dir", str(small_cors(tmp_path / "cors"))), ("use_cpu", "true")]
    changes += [("per_device_train_batch_size", "2")]
    plan = "\n".join(rehearse(load_recipe(name, changes), tmp_path / "run"))
    for task in ROWS[name].tasks:
        assert plan.count(f"{task}: 4 bonafide, ") == 2  # to train on and to validate with
    assert "tiny random model: loss" in plan


def test_headers_tell_the_papers_figures_or_that_there_is_none():
    for name, row in ROWS.items():
        header = header_of(name)
        figures = [value for found in row.f1.values() for value in found.values()]
        assert all(f"{value:.2f}" in header for value in figures)
        assert ("the paper's figure was not at hand" in header) == (not figures)


def test_the_figures_at_hand_are_those_of_sastnet():
    with_figures = {name: dict(row.f1) for name, row in ROWS.items() if row.f1}
    expected = {f"sastnet-table1-sastnet-{task}": {task: SASTNET_F1[task]} for task in ("vq", "aux", "dec")}
    assert with_figures == {**expected, "sastnet-table4-tuned-sastnet": {"aux": SASTNET_F1["aux"]}}
    recipe = load_recipe("sastnet-table1-sastnet-vq")
    assert recipe.paper["f1"]["vq"]["cosg-all"] == 48.17


def test_a_tuned_encoder_comes_from_a_baseline_of_the_same_task_and_list():
    tuned = [row for row in ROWS.values() if row.tuned]
    assert len(tuned) == 8
    for row in tuned:
        baseline = ROWS[baseline_of(row.recipe)]
        assert baseline.model is None and baseline.tasks == row.tasks and baseline.training_list == row.training_list
        header = header_of(row.recipe)
        assert "--model.wav2vec2 DIR, its folder" in header and f"is that of {baseline.recipe}, " in header
    assert baseline_of("sastnet-table4-sastnet") is None


def test_the_ablation_has_each_part_once():
    parts = [
        (row.tuned, *sorted(({"base": True} if row.model is None else row.model).items()))
        for row in ROWS.values()
        if row.table == 4
    ]
    assert len(parts) == len(set(parts)) == 8
