"""Training with `push_to_hub=True`: the Hub may fail at any moment, training ends well, and nobody is left in the dark."""

import json
import os
from pathlib import Path

import pytest
import warm_python
from small_hub import READ, WRITE, SmallHub, small_hub
from tiny_training import tiny_recipe, write_encoder, write_own_corpus


TESTS = Path(__file__).resolve().parent

# The client reads its endpoint when it is imported: all runs are made by one process of their own.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from training_jobs import tiny_aasist, trainer_of, write_corpus
from spooftrace.modeling import AasistFeatureExtractor
torch.set_num_threads(1)
root, results = Path(sys.argv[1]), {}
rows = write_corpus(root / "corpus")
for name, settings in json.loads(sys.argv[2]).items():
    pushing = {"push_to_hub": True, "hub_model_id": f"alice/{name}", "hub_strategy": "every_save", "max_steps": 2}
    saving = {"save_strategy": "steps", "save_steps": 1, "hub_always_push": True}
    try:
        trainer = trainer_of("erm", tiny_aasist(), root / name, rows, **{**pushing, **saving, **settings})
        trainer.processing_class = AasistFeatureExtractor(window_samples=2400)
        steps = trainer.train().global_step
        in_between = trainer.hub_problem
        trainer.save_model()
        results[name] = {"steps": steps, "in between": in_between, "problem": trainer.hub_problem}
    except OSError as error:
        results[name] = {"error": str(error), "kind": type(error).__name__}
print(json.dumps(results))
"""

AT_ONCE = {"Retry-After": "0"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[SmallHub, dict[str, dict], Path, str]:
    """The Hub after several runs, what each came to, their folder, and what they printed."""
    root = tmp_path_factory.mktemp("runs")
    runs = {
        "away": {},  # the first one, so that the faults of making a repository are its own
        "well": {},
        "checkpoint": {"hub_token": WRITE, "hub_strategy": "checkpoint"},
        "background": {},
        "full": {},
        "reading": {"hub_token": READ},
    }
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.fail("POST /api/repos/create", 503, times=3, **AT_ONCE)
        hub.fail("POST /api/models/alice/background/commit", 503, times=10, **AT_ONCE)  # five attempts for each
        hub.cut("POST /api/models/alice/well/commit")  # applied, but the answer is lost
        hub.fail("POST /api/models/alice/full/commit", 403, times=3)
        path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        done = warm_python.run("-c", PROGRAM, root, json.dumps(runs), env=hub.env(PYTHONPATH=path), check=True)
        yield hub, json.loads(done.stdout.strip().splitlines()[-1]), root, done.stderr


STEPS = [f"Training in progress, step {step}" for step in (1, 2)]


def test_every_save_is_one_commit_of_the_model_alone_though_an_answer_was_lost(trained):
    hub, results, root, _ = trained
    assert results["well"] == {"steps": 2, "in between": None, "problem": None}
    assert hub.titles("alice/well") == [*STEPS, "init"]  # the end of training is what the last save was
    files = hub.files("alice/well")
    assert files["model.safetensors"] == (root / "well" / "model.safetensors").read_bytes()
    assert {"README.md", "modeling_aasist.py", "preprocessor_config.json"} <= set(files)
    assert {Path(name).suffix for name in files} <= {".safetensors", ".json", ".md", ".py", ""}
    assert not any("/" in name or name.startswith(("training", "trainer_state")) for name in files)
    assert not list((root / "well").glob(".push-*"))


def test_checkpoints_go_up_where_they_are_asked_for(trained):
    hub, results, root, _ = trained
    assert results["checkpoint"]["problem"] is None and hub.titles("alice/checkpoint") == [*STEPS, "init"]
    files = hub.files("alice/checkpoint")
    beside = {name for name in files if "/" in name}
    here = {f"last-checkpoint/{path.name}" for path in (root / "checkpoint" / "checkpoint-2").iterdir()}
    assert beside == here and {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json"} <= beside
    assert json.loads(files["last-checkpoint/trainer_state.json"])["global_step"] == 2


def test_a_hub_that_is_away_at_the_start_stops_no_training_and_gets_the_model_at_the_end(trained):
    hub, results, root, output = trained
    assert results["away"]["steps"] == 2
    assert "Training goes on" in results["away"]["in between"] and "busy (503" in results["away"]["in between"]
    assert results["away"]["problem"] is None and "not pushed: the Hub at" in output
    assert hub.titles("alice/away") == ["End of training", "init"]
    assert hub.files("alice/away")["model.safetensors"] == (root / "away" / "model.safetensors").read_bytes()


def test_a_push_that_fails_in_the_background_is_told(trained):
    hub, results, _, output = trained
    assert results["background"]["steps"] == 2
    assert "Training goes on" in results["background"]["in between"]
    assert "2 of 2 pushes to alice/background failed during training" in output
    assert results["background"]["problem"] is None  # the last push brought everything
    assert hub.titles("alice/background") == ["End of training", "init"]


def test_what_the_hub_does_not_take_in_the_end_is_told_with_what_pushes_it(trained):
    hub, results, root, _ = trained
    folder = root / "full"
    assert results["full"]["steps"] == 2 and hub.titles("alice/full") == ["init"]
    assert "may not write to alice/full" in results["full"]["problem"]
    assert f"`spooftrace publish {folder} alice/full` pushes it" in results["full"]["problem"]
    assert (folder / "model.safetensors").is_file() and (folder / "checkpoint-2").is_dir()


def test_what_training_pickles_holds_no_token(trained):
    hub, _, root, _ = trained
    places = (root / "checkpoint", root / "checkpoint" / "checkpoint-2")
    pickles = [(folder / "training_args.bin").read_bytes() for folder in places]
    for pickled in (*pickles, hub.files("alice/checkpoint")["last-checkpoint/training_args.bin"]):
        assert b"hub_token" in pickled and WRITE.encode() not in pickled


def test_a_token_that_may_not_write_is_refused_before_the_work(trained):
    _, results, root, _ = trained
    assert results["reading"]["kind"] == "HubError" and "may only read" in results["reading"]["error"]
    assert not (root / "reading" / "checkpoint-1").exists()


def test_the_command_ends_with_a_failure_but_with_the_detector_where_there_is_no_hub(tmp_path):
    encoder, corpus = write_encoder(tmp_path / "encoder"), write_own_corpus(tmp_path / "corpus")
    recipe = tiny_recipe(tmp_path / "tiny.yaml", encoder, corpus, trainer="erm", max_steps=1)
    program = "import sys, time; from spooftrace.cli import main; time.sleep = int; sys.exit(main(sys.argv[1:]))"
    training = ["train", recipe, "--output-dir", tmp_path / "run"]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_any", "HF_ENDPOINT": "http://127.0.0.1:9"}
    offline = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    pushing = ["--push_to_hub", "true", "--hub_model_id", "alice/mine"]
    done = warm_python.run("-c", program, *training, *pushing, env={**os.environ, **home, **offline})
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("spooftrace: error: not pushed: the Hub at http://127.0.0.1:9 cannot be reached"), (
        done.stderr
    )
    assert f"`spooftrace publish {tmp_path / 'run'} alice/mine` pushes it" in last
    assert "EER" in done.stdout and (tmp_path / "run" / "training_result.json").is_file()
