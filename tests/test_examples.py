"""The examples run as their docstrings say, each as a program of its own, and answer what the package answers."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from safetensors.torch import load_file
from tiny_training import write_own_corpus

from spooftrace import Detector
from spooftrace.checkpoint import default_folder
from spooftrace.cli import main


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CLIP = EXAMPLES / "synthetic_speech.flac"


@pytest.fixture
def run_example(tmp_path):
    """Runs an example in an empty folder, with caches of its own and no network; returns what it prints."""
    home = tmp_path / "home"
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(name: str, *arguments: object) -> str:
        command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained(device="cpu")


def test_the_pipeline_answers_what_the_detector_says_of_the_first_window(run_example, detector):
    answers = dict(line.split() for line in run_example("pipeline.py", CLIP).splitlines())
    spoof = 1 / (1 + math.exp(detector(CLIP).windows[0].score))
    assert list(answers) == ["spoof", "bonafide"]
    assert float(answers["spoof"]) == pytest.approx(spoof, abs=1e-4)
    assert float(answers["bonafide"]) == pytest.approx(1 - spoof, abs=1e-4)


def test_a_stream_is_scored_in_order_and_a_damaged_clip_stops_nothing(run_example, detector, tmp_path):
    whole = CLIP.read_bytes()
    clips = [("a.flac", whole), ("cut.flac", whole[:5000]), ("b.flac", whole), ("beyond the limit", b"")]
    (tmp_path / "data").mkdir()
    rows = pyarrow.table({"audio": [{"bytes": content, "path": name} for name, content in clips]})
    pyarrow.parquet.write_table(rows, tmp_path / "data" / "train-00000-of-00001.parquet")
    lines = [line.split("\t") for line in run_example("stream_and_score.py", "data", "--limit", 3).splitlines()]
    assert [line[:2] for line in lines] == [["a.flac", "spoof"], ["cut.flac", "failure"], ["b.flac", "spoof"]]
    for line in (lines[0], lines[2]):
        assert float(line[2]) == pytest.approx(detector(CLIP).score, abs=1e-5)


def test_a_fine_tuned_detector_is_loaded_as_any_other_and_claims_no_calibration(run_example, tmp_path):
    write_own_corpus(tmp_path / "own")
    printed = run_example("finetune_on_a_folder.py", "own", "mine", "--epochs", 1)
    assert "EER on 18 validation clips:" in printed
    tuned = Detector.from_pretrained(tmp_path / "mine", device="cpu")
    assert tuned(CLIP).score is not None and not tuned.calibrated
    before, after = (load_file(folder / "model.safetensors") for folder in (default_folder(), tmp_path / "mine"))
    assert before.keys() == after.keys()
    assert not before["classifier.weight"].equal(after["classifier.weight"])


def test_a_running_demo_answers_what_the_commands_print(run_example, tmp_path, capsys, monkeypatch):
    pytest.importorskip("gradio")
    from demo_server import demo_server

    with demo_server(tmp_path / "demo") as server:
        printed = run_example("ask_the_space.py", CLIP, "--space", server.url)
    monkeypatch.chdir(EXAMPLES)
    for part, command in zip(printed.removeprefix("/detect\n").split("/trace\n"), ("detect", "trace"), strict=True):
        assert main([command, "--json", "--device", "cpu", CLIP.name]) == 0
        (expected,), answer = json.loads(capsys.readouterr().out), json.loads(part)
        assert answer.keys() == expected.keys()
        assert (answer["path"], answer["sha256"]) == (CLIP.name, expected["sha256"])
        if command == "detect":
            assert answer["verdict"] == "spoof" and answer["score"] == pytest.approx(expected["score"], abs=1e-5)
        else:
            assert answer["vq"]["label"] == expected["vq"]["label"]


def test_the_guide_tells_of_every_example():
    guide = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in guide] == []
