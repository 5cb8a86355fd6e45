"""The examples run as their docstrings say, each as a program of its own, and answer what the package answers.

test_space_server.py runs the one that asks a demo.
"""

import math
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import warm_python
from safetensors.torch import load_file
from tiny_training import write_own_corpus

from spooftrace import Detector
from spooftrace.checkpoint import default_folder


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CLIP = EXAMPLES / "synthetic_speech.flac"


@pytest.fixture
def run_example(tmp_path):
    """Runs an example in an empty folder, with caches of its own and no network; returns what it prints."""
    home = tmp_path / "home"
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(name: str, *arguments: object) -> str:
        done = warm_python.run(EXAMPLES / name, *arguments, cwd=tmp_path, env=environment)
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


def test_the_guide_tells_of_every_example():
    guide = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in guide] == []
