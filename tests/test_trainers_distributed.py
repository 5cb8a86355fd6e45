"""Training in processes of its own: two that work together do what one does, and one that is killed can be resumed."""

import json
import multiprocessing.forkserver
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from distributed_jobs import STEPS, joint_run
from tracing_jobs import joint_tracing_run, with_codecs
from training_jobs import assert_same, noisy_trainer, state_of, train_to_the_end, write_corpus

from spooftrace.trainers.checkpoints import last_checkpoint


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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(TESTS / "distributed_jobs.py"), str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
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


@pytest.fixture(scope="module")
def processes():
    """Forked from a server that has imported everything, so that each one starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_jobs"])
    with pytest.MonkeyPatch.context() as patch:  # the server does not take over `sys.path` in all versions of Python
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        multiprocessing.forkserver.ensure_running()
    return context


# The other pairs of trainer and workers are interrupted within one process: test_{detection,mldg}_trainer.py.
@pytest.mark.parametrize(("kind", "workers"), [("erm", 0), ("mldg", 1)])
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, rows, processes, kind, workers):
    chance, folder = random.Random(), tmp_path / "killed"
    folder.mkdir()
    for _ in range(2):
        before = last_checkpoint(folder)
        process = processes.Process(target=train_to_the_end, args=(kind, folder, rows, workers, before is not None))
        process.start()
        while last_checkpoint(folder) == before and process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        process.join()
    process = processes.Process(target=train_to_the_end, args=(kind, folder, rows, workers, True))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    torch.set_num_threads(1)
    whole = noisy_trainer(kind, tmp_path / "whole", rows, workers)
    whole.train()
    assert_same(torch.load(folder / "final.pt", weights_only=False), state_of(whole))
