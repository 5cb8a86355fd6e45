"""Training in processes of its own: two that work together do what one does, and one that is killed can be resumed."""

import json
import os
from pathlib import Path

import pytest
import torch
import warm_python
from distributed_jobs import STEPS, joint_run
from tracing_jobs import joint_tracing_run, with_codecs
from training_jobs import assert_same, noisy_trainer, state_of, write_corpus


TESTS = Path(__file__).resolve().parent
KINDS = ("erm", "mldg")
TRACING = ("tracing", "sastnet")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Three whole joint batches of eight."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), genuine=12)


@pytest.fixture(scope="module")
def together(tmp_path_factory, rows) -> tuple[Path, dict[str, list[dict]]]:
    """What two processes on gloo came to, one result each."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "rows.json").write_text(json.dumps(rows))
    warm_python.run_together(TESTS / "distributed_jobs.py", folder)
    results = {
        kind: [torch.load(folder / f"{kind}_{rank}.pt", weights_only=False) for rank in (0, 1)]
        for kind in (*KINDS, *TRACING)
    }
    return folder, results


@pytest.fixture(scope="module", params=KINDS)
def runs(request, tmp_path_factory, together, rows) -> tuple[dict, dict, dict, Path]:
    """Of one kind: alone with the joint batch, the first process, the second, and where these two wrote."""
    alone = joint_run(request.param, tmp_path_factory.mktemp("alone"), rows, processes=1, seed=0)
    folder, results = together
    return alone, *results[request.param], folder / request.param


def test_two_processes_come_to_the_parameters_of_one_with_the_joint_batch(runs):
    alone, first, second, _ = runs
    for name, value in alone["parameters"].items():
        assert torch.equal(first["parameters"][name], second["parameters"][name])
        torch.testing.assert_close(first["parameters"][name], value, rtol=1e-9, atol=1e-10, msg=name)
    assert alone["metrics"] == pytest.approx(first["metrics"]) == second["metrics"]


@pytest.mark.parametrize("kind", TRACING)
def test_tracers_too_come_to_the_parameters_and_logs_of_one_process(tmp_path, together, rows, kind):
    alone = joint_tracing_run(kind, tmp_path, with_codecs(rows), processes=1, seed=0)
    first, second = together[1][kind]
    for name, value in alone["parameters"].items():
        assert torch.equal(first["parameters"][name], second["parameters"][name])
        torch.testing.assert_close(first["parameters"][name], value, rtol=1e-6, atol=1e-7, msg=name)
    assert alone["metrics"] == pytest.approx(first["metrics"], rel=1e-5) == second["metrics"]
    for one, joint in zip(alone["log"], first["log"], strict=True):
        assert joint == pytest.approx(one, rel=1e-5)


def test_they_share_each_joint_batch_and_split_the_domains_alike(runs):
    alone, first, second, _ = runs
    assert len(alone["clips"]) == len(first["clips"]) == len(second["clips"]) == STEPS
    for whole, one, other in zip(alone["clips"], first["clips"], second["clips"], strict=True):
        assert sorted(whole) == sorted([*one, *other]) and len(one) == len(other)
    assert first["clips"] != second["clips"]
    assert alone["splits"] == first["splits"] == second["splits"]


def test_what_they_log_is_of_both(runs):
    alone, first, _, _ = runs
    for one, joint in zip(alone["log"], first["log"], strict=True):
        assert joint == pytest.approx(one, rel=1e-5)


def test_only_the_first_process_writes_but_for_each_one_s_randomness(runs):
    folder = runs[3]
    first, second = ({path.name for path in Path(f"{folder}_{rank}").rglob("*") if path.is_file()} for rank in (0, 1))
    assert second == {"rng_state_1.pth"}
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state_0.pth"} <= first


def test_an_interruption_of_one_process_stops_both_and_they_resume_to_the_bit(runs):
    for process in runs[1:3]:
        assert_same(*process["interrupted"])


KILLED = """
import json, multiprocessing, random, sys, time
from pathlib import Path
from spooftrace.trainers.checkpoints import last_checkpoint
from training_jobs import train_to_the_end
kind, folder, rows, workers = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
multiprocessing.set_start_method("fork")  # of those that load data, too, which then end with the one that is killed

def start(resume):
    process = multiprocessing.Process(target=train_to_the_end, args=(kind, folder, rows, workers, resume))
    process.start()
    return process

for _ in range(2):
    before = last_checkpoint(folder)
    process = start(resume=before is not None)
    while last_checkpoint(folder) == before and process.is_alive():
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.join()
process = start(resume=True)
process.join()
sys.exit(process.exitcode)
"""


# The other pairs of trainer and workers are interrupted within one process: test_{detection,mldg}_trainer.py.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(("kind", "workers"), [("erm", 0), ("mldg", 1)])
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, rows, kind, workers):
    (folder := tmp_path / "killed").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    warm_python.run("-c", KILLED, kind, folder, json.dumps(rows), workers, env=environment, check=True)
    torch.set_num_threads(1)
    whole = noisy_trainer(kind, tmp_path / "whole", rows, workers)
    whole.train()
    assert_same(torch.load(folder / "final.pt", weights_only=False), state_of(whole))
