"""What two processes do together, for `test_trainers_distributed.py`: distributed_jobs.py DIR"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from tracing_jobs import joint_tracing_run, with_codecs
from training_jobs import NO_DROPOUT, At, exact, noisy_trainer, state_of, tiny_aasist, trainer_of

from spooftrace.trainers import mldg_trainer


STEPS = 6
# Exact in binary, as the sums of the two processes are compared with those of one.
SETTINGS = {"max_steps": STEPS, "class_weights": {"bonafide": 0.75, "spoof": 0.25}}


def joint_run(kind: str, folder: Path, rows: list[dict], processes: int, seed: int) -> dict:
    """
    Six steps in double precision without dropout; the joint batch has the same size on any number of processes.

    Args:
        seed: of the model's parameters; those of the first process count.
    """
    size = {"mldg": {"clips_per_domain": 4 // processes, "batch_norm": "frozen", "balance_labels": False}}
    size["erm"] = {"per_device_train_batch_size": 8 // processes}
    settings = {**SETTINGS, **size[kind], "save_strategy": "steps", "save_steps": STEPS}
    trainer = trainer_of(kind, exact(tiny_aasist(seed, **NO_DROPOUT)), folder, rows, **settings)
    clips, splits = [], []
    step, split_domains = trainer.training_step, mldg_trainer.split_domains

    def recorded_step(model, inputs, *args, **kwargs):
        clips.append(inputs["utterance_id"])
        return step(model, inputs, *args, **kwargs)

    def recorded_split(*args):
        splits.append([part.tolist() for part in split_domains(*args)])
        return tuple(map(torch.tensor, splits[-1]))

    trainer.training_step, mldg_trainer.split_domains = recorded_step, recorded_split
    trainer.train()
    mldg_trainer.split_domains = split_domains
    return {
        "parameters": {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()},
        "clips": clips,
        "splits": splits,
        "log": [{key: entry[key] for key in entry if "loss" in key} for entry in trainer.state.log_history],
        "metrics": {
            key: value for key, value in trainer.evaluate(rows[6:17]).items() if key in ("eval_eer", "eval_loss")
        },
    }


def interrupted_runs(kind: str, folder: Path, rows: list[dict], rank: int) -> tuple[dict, dict]:
    """A whole run with all that is random, and one that an interruption of the last process alone stops on all."""
    whole = noisy_trainer(kind, folder / "whole", rows)
    whole.train()
    parts = noisy_trainer(kind, folder / "parts", rows)
    if rank == 1:
        parts.add_callback(At(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    try:
        parts.train()
    except KeyboardInterrupt:
        assert parts.state.global_step == 4
    else:
        raise AssertionError("the interruption went unheard")
    resumed = noisy_trainer(kind, folder / "parts", rows)
    resumed.train(resume_from_checkpoint=True)
    return state_of(whole), state_of(resumed)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rows, rank = json.loads((folder / "rows.json").read_text()), int(os.environ["RANK"])
    for kind in ("erm", "mldg"):
        # A folder for each process shows who writes what.
        result = joint_run(kind, folder / f"{kind}_{rank}", rows, processes=2, seed=rank)
        result["interrupted"] = interrupted_runs(kind, folder / kind, rows, rank)
        torch.save(result, folder / f"{kind}_{rank}.pt")
    for kind in ("tracing", "sastnet"):
        result = joint_tracing_run(kind, folder / f"{kind}_{rank}", with_codecs(rows), processes=2, seed=rank)
        torch.save(result, folder / f"{kind}_{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
