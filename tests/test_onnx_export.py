"""Export to ONNX: the graph answers as the model does, wherever it runs, and nothing else is written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY_GRAPH, lively
from tiny_runs import RATE, tiny_folder
from tiny_sastnet import tiny_sastnet
from tiny_training import write_encoder


pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from spooftrace import Detector, onnx_export, onnx_runner  # noqa: E402
from spooftrace.cli import main  # noqa: E402
from spooftrace.modeling import AasistFeatureExtractor, AasistForAudioClassification  # noqa: E402
from spooftrace.onnx_export import ExportError, export_onnx, sounds  # noqa: E402


# Runs score.py where none of these can be imported.
WITHOUT_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "spooftrace", "soundfile", "onnx"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The shipped detector, in both precisions."""
    folder = tmp_path_factory.mktemp("onnx") / "default"
    export_onnx(None, folder, int8=True)
    return folder


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    """WAV files shorter than a window, of one and a half windows, of two and a half, and of five and a bit."""
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{index}.wav" for index in range(4)]
    for index, (path, seconds) in enumerate(zip(paths, (0.9, 3, 5, 10.3), strict=True)):
        soundfile.write(path, sounds(1, round(seconds * RATE), seed=index)[0], RATE, subtype="PCM_16")
    return paths


def score_in_another_process(script: Path, clips: list[Path]) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    call = [sys.executable, "-c", WITHOUT_TORCH, str(script), *map(str, clips)]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_runner_scores_as_the_detector_does_without_torch(exported, detector, clips):
    for answer, expected in zip(
        score_in_another_process(exported / "score.py", clips), detector.detect(clips), strict=True
    ):
        assert answer["windows"] == pytest.approx([window.score for window in expected.windows], abs=1e-4)
        assert answer["score"] == pytest.approx(expected.score, abs=1e-4)
        assert answer["probability_bonafide"] == pytest.approx(expected.probability_bonafide, abs=1e-4)


def test_the_first_window_is_that_of_the_detector(exported, detector, clips):
    scorer = onnx_runner.Scorer(exported, threads=1)
    answer = scorer(onnx_runner.read_wav(str(clips[-1]), RATE), first_window=True)
    assert len(answer["windows"]) == 1
    assert answer["score"] == pytest.approx(detector(clips[-1]).windows[0].score, abs=1e-4)


@pytest.mark.parametrize("samples", [1920, 16_000, 31_999, 48_160])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_and_length_gives_the_logits_of_torch(exported, detector, batch, samples):
    inputs = sounds(batch, samples, seed=samples)
    with torch.inference_mode():
        expected = detector.model(torch.from_numpy(inputs)).logits
    graph = onnx_export.session(exported / "model.onnx")
    np.testing.assert_allclose(graph.run(None, {"input_values": inputs})[0], expected, atol=1e-4)


def test_the_facts_tell_where_the_graph_comes_from_and_how_far_it_is_off(exported, detector):
    facts = json.loads((exported / "export.json").read_text())
    assert facts["model"]["name"] == "default"
    assert facts["model"]["revision"] == detector.model_info["revision"] == f"sha256:{facts['model']['sha256']}"
    assert facts["calibration"] == {"scale": detector.scale, "bias": detector.bias, "aggregation": "mean"}
    assert (facts["labels"], facts["bonafide_index"]) == (["bonafide", "spoof"], 0)
    assert (facts["sampling_rate"], facts["window_samples"]) == (16_000, detector.window_samples)
    assert facts["float32"]["maximum_difference"] == max(case["difference"] for case in facts["float32"]["compared"])
    assert {case["batch"] for case in facts["float32"]["compared"]} == {1, 2, 5}
    assert {"onnx", "onnxruntime", "torch", "spooftrace"} <= set(facts["versions"])


def test_the_drift_of_int8_is_what_was_measured(exported):
    facts = json.loads((exported / "export.json").read_text())["int8"]
    runners = [onnx_runner.Scorer(exported, int8=int8, threads=1, batch_size=1) for int8 in (False, True)]
    inputs = sounds(onnx_export.DRIFT_WINDOWS, runners[0].window_samples, seed=1)
    before, after = (np.array([runner(clip)["score"] for clip in inputs]) for runner in runners)
    assert np.abs(after - before).max() == pytest.approx(facts["score_drift_maximum"], abs=1e-4)
    assert np.abs(after - before).mean() == pytest.approx(facts["score_drift_mean"], abs=1e-4)
    assert 0 < facts["score_drift_mean"] < 0.2
    assert facts["bytes"] < (exported / "model.onnx").stat().st_size


@pytest.fixture
def adapted_folder(tmp_path) -> Path:
    """A small W2V2-AASIST with adapters, and a calibration of its own."""
    pytest.importorskip("peft")
    torch.manual_seed(1)
    encoder = write_encoder(tmp_path / "encoder")
    model = AasistForAudioClassification.from_wav2vec2_pretrained(encoder, lora={"r": 2}, **TINY_GRAPH)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.config.calibration = {"scale": 2.0, "bias": 0.5, "aggregation": "min"}
    lively(model).save_pretrained(tmp_path / "adapted")
    AasistFeatureExtractor(window_samples=RATE, do_normalize=True).save_pretrained(tmp_path / "adapted")
    return tmp_path / "adapted"


def test_adapters_are_merged_and_the_length_can_be_fixed(adapted_folder, clips, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(adapted_folder), str(out), "--fixed-length", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads((out / "export.json").read_text())
    assert facts["float32"]["samples"] == RATE and facts["int8"] is None
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "model.onnx", "score.py"]
    expected = Detector.from_pretrained(adapted_folder, device="cpu")(clips[1])
    answer = onnx_runner.Scorer(out, threads=1)(onnx_runner.read_wav(str(clips[1]), RATE))
    assert answer["windows"] == pytest.approx([window.score for window in expected.windows], abs=1e-4)
    assert answer["probability_bonafide"] == pytest.approx(expected.probability_bonafide, abs=1e-4)
    with pytest.raises(ValueError, match="--int8"):
        onnx_runner.Scorer(out, int8=True)


def test_a_graph_that_answers_otherwise_is_not_written(exported, tmp_path, monkeypatch):
    model = tiny_folder(tmp_path / "model")  # whose graph is not the one that is saved
    monkeypatch.setattr(
        onnx_export, "_save_graph", lambda _model, _window, path, *_: shutil.copy(exported / "model.onnx", path)
    )
    with pytest.raises(ExportError, match="nothing was written"):
        export_onnx(model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_other_families_are_refused(tmp_path):
    tiny_sastnet().save_pretrained(tmp_path / "sastnet")
    with pytest.raises(ExportError, match=r"'sastnet' model: only detectors of the AASIST family"):
        export_onnx(tmp_path / "sastnet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_call_is_refused_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="between 18 and 23, got 9"):
        export_onnx(None, tmp_path / "out", opset=9)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something already"):
        export_onnx(None, tmp_path / "full")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_a_ratio_that_rounds_otherwise_in_a_graph_fixes_the_length():
    assert onnx_export._rounds_alike([0.5, 0.5, 0.5]) and onnx_export._rounds_alike([0.4, 0.5])
    assert not onnx_export._rounds_alike([0.4, 0.5, 0.7])  # int(90 * 0.7) is 62, in float32 63


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_remedy(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and missing in error and 'pip install "spooftrace[export]"' in error


@pytest.mark.parametrize(("subtype", "rate"), [("PCM_16", 8000), ("PCM_24", 16_000)])
def test_the_runner_refuses_files_it_cannot_read(subtype, rate, tmp_path):
    soundfile.write(tmp_path / "clip.wav", np.zeros(100), rate, subtype=subtype)
    with pytest.raises(ValueError, match="16-bit PCM at 16000 Hz is needed"):
        onnx_runner.read_wav(str(tmp_path / "clip.wav"), RATE)


def test_the_runner_names_what_it_cannot_score(exported):
    scorer = onnx_runner.Scorer(exported, threads=1)
    for samples in (np.zeros((2, 10)), np.zeros(0), np.array([np.nan])):
        with pytest.raises(ValueError, match="One channel of finite samples"):
            scorer(samples)


def test_the_runner_is_one_file_of_numpy_and_onnxruntime(exported):
    assert (exported / "score.py").read_bytes() == Path(onnx_runner.__file__).read_bytes()
