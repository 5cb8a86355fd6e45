"""`spooftrace train`: from a recipe to a calibrated detector, stopped and resumed, and one line for every mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest
import warm_python
from tiny_training import tiny_recipe, write_encoder, write_own_corpus

from spooftrace.checkpoint import load_checkpoint
from spooftrace.cli import main
from spooftrace.detector import Detector
from spooftrace.trainers.calibration import fit_calibration
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.recipe import shipped_recipes


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    return write_encoder(folder / "encoder"), write_own_corpus(folder / "corpus")


def refused(capsys, *arguments) -> str:
    """What a command that fails says: one line, but for progress bars."""
    assert main(["train", *map(str, arguments)]) == 1
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if "it/s]" not in line]
    assert len(lines) == 1 and lines[0].startswith("spooftrace: error: "), lines
    return lines[0]


@pytest.mark.parametrize("trainer", ["erm", "mldg"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(trainer, material, tmp_path, capsys):
    recipe = tiny_recipe(tmp_path / "tiny.yaml", *material, trainer=trainer)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert main(["train", str(recipe), "--output-dir", str(whole)]) == 0
    assert "EER" in capsys.readouterr().out

    assert main(["train", str(recipe), "--output-dir", str(resumed), "--max_steps", "2"]) == 0
    done = warm_python.run("-m", "spooftrace", "train", recipe, "--output-dir", resumed, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"resuming from {resumed / 'checkpoint-2'}" in done.stdout
    assert "3 steps, the best parameters after" in done.stdout
    assert "validation clips (9 bona fide, 9 spoof)" in done.stdout
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        paths = [folder / "checkpoint-3" / file for folder in (whole, resumed)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(("bonafide", "spoof", "is_calibrated"), [((1, 2), (-2, -1), True), ((-2, -1), (1, 2), False)])
def test_scores_that_tell_the_opposite_are_not_made_a_probability(
    material, tmp_path, monkeypatch, capsys, bonafide, spoof, is_calibrated
):
    scores = np.array(bonafide, float), np.array(spoof, float)
    monkeypatch.setattr(DetectionTrainer, "scores", lambda trainer, prediction: scores)
    out = tmp_path / "out"
    assert (
        main(["train", str(tiny_recipe(tmp_path / "t.yaml", *material)), "--output-dir", str(out), "--max_steps", "1"])
        == 0
    )
    assert ("not calibrated" in capsys.readouterr().out) != is_calibrated
    detector = Detector.from_pretrained(out)  # refuses a scale that is not positive
    assert detector.calibrated == is_calibrated and detector.scale > 0
    assert detector.probability(2.0) > detector.probability(-2.0)
    if is_calibrated:
        assert (detector.scale, detector.bias) == pytest.approx(fit_calibration(*scores))


def test_the_detector_is_saved_calibrated_with_its_recipe(material, tmp_path, capsys, monkeypatch):
    scores = np.arange(9.0), np.arange(9.0) - 3
    monkeypatch.setattr(DetectionTrainer, "scores", lambda trainer, prediction: scores)
    recipe = tiny_recipe(tmp_path / "tiny.yaml", *material)
    out = tmp_path / "out"
    assert main(["train", str(recipe), "--output-dir", str(out)]) == 0
    loaded = load_checkpoint(out)
    calibration = loaded.model.config.calibration
    assert calibration["fitted_on"].startswith("own validation, 9 bona fide and 9 spoof clips, their first 0.50 s")
    assert loaded.feature_extractor.window_samples == 8_000 and not loaded.feature_extractor.do_normalize
    result = json.loads((out / "training_result.json").read_text(encoding="utf-8"))
    assert result["steps"] == 3 and result["best_step"] in (1, 2, 3) and result["trials"] == [9, 9]

    # Finished: the same call changes nothing, and a longer one goes on.
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert main(["train", str(recipe), "--output-dir", str(out), "--resume"]) == 0
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert main(["train", str(recipe), "--output-dir", str(out), "--resume", "--max_steps", "4"]) == 0
    assert "4 steps" in capsys.readouterr().out


def test_a_folder_with_checkpoints_is_not_written_over(material, tmp_path, capsys):
    recipe = tiny_recipe(tmp_path / "tiny.yaml", *material)
    out = tmp_path / "out"
    assert main(["train", str(recipe), "--output-dir", str(out), "--max_steps", "1"]) == 0
    capsys.readouterr()
    assert "holds checkpoints already: pass --resume" in refused(capsys, recipe, "--output-dir", out)
    other = refused(capsys, recipe, "--output-dir", out, "--resume", "--lora.r", "3")
    assert "was trained with another lora" in other
    assert "was trained with another beta, seed" in refused(
        capsys, recipe, "--output-dir", out, "--resume", "--seed", "7", "--beta", "0.5"
    )


def test_a_rehearsal_tells_the_plan_and_writes_nothing(material, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe(tmp_path / "tiny.yaml", *material)
    assert main(["train", str(recipe), "--max_steps=7", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "adapters of rank 2 (alpha 4) on q_proj, k_proj, v_proj, out_proj" in plan
    assert "6 bona fide, 6 spoof; domains with their share of the bona fide: A01 4, A02 4, A03 4" in plan
    assert "7 at most" in plan and "6 clips each" in plan
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_the_list_names_every_shipped_recipe_at_once():
    program = (
        "import sys\nfrom spooftrace.cli import main\nmain(['train', '--list'])\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == sorted(shipped_recipes())
    assert "1,233,674 trained parameters" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mldg-table3-mldg-r5"], "no recipe is called 'mldg-table3-mldg-r5': did you mean mldg-table3-mldg-r"),
        (["mldg-table3-mldg-r4"], "data.dir is missing: the folder of your copy of asvspoof2019-la"),
        (["mldg-table3-mldg-r4", "--data.corpus", "nothing", "--data.dir", "/"], "no corpus is called 'nothing'"),
        (["mldg-table3-mldg-r4", "--batch_size", "3"], "no key is called batch_size: did you mean "),
        (["mldg-table3-mldg-r4", "--beta", "much"], "beta is a number, got 'much'"),
        (["mldg-table3-mldg-r4", "--beta", "-1"], "`beta`"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, message, capsys):
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "corpus, tree",
    [(["--data.dir", "/nowhere/LA"], "  LA/"), (["--data.corpus", "own", "--data.dir", "/nowhere"], "  a")],
)
def test_a_corpus_that_is_not_there_is_told_with_its_tree(corpus, tree, capsys):
    assert main(["train", "mldg-table3-mldg-r4", *corpus]) == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("spooftrace: error: ") and "/nowhere" in first
    assert any(line.startswith(tree) for line in lines)


def test_too_few_domains_end_before_the_first_step(material, tmp_path, capsys):
    recipe = tiny_recipe(tmp_path / "tiny.yaml", *material)
    line = refused(capsys, recipe, "--num_meta_test_domains", "3", "--output-dir", tmp_path / "out")
    assert "3 domains set aside leave none of 3 to train on" in line and "'A01': 4 clips" in line
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RECIPE is missing"),
        (["mldg-table3-full", "--max_steps"], "--max_steps needs a value"),
        (["mldg-table3-full", "--max_steps", "--dry-run"], "--max_steps needs a value"),
        (["mldg-table3-full", "stray"], "'stray' stands alone"),
    ],
)
def test_a_wrong_call_is_told_as_one(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
