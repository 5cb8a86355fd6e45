"""Two processes that fine-tune an audio language model together do what one does."""

import json
from pathlib import Path

import pytest
import torch
import warm_python
from audio_llm_jobs import base_of, joint_run
from training_jobs import write_corpus


def test_two_processes_come_to_the_parameters_of_one_with_the_joint_batch(tmp_path):
    rows = write_corpus(tmp_path / "corpus", genuine=12)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    base_of(tmp_path)
    alone = joint_run(tmp_path, rows, processes=1, name="alone")
    warm_python.run_together(Path(__file__).with_name("audio_llm_jobs.py"), tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    for name, value in alone["parameters"].items():
        assert torch.equal(first["parameters"][name], second["parameters"][name])
        torch.testing.assert_close(first["parameters"][name], value, rtol=0, atol=1e-8, msg=name)
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for metric in ("eval_eer", "eval_loss"):
        assert first["metrics"][metric] == pytest.approx(alone["metrics"][metric], rel=1e-6)
