"""`spooftrace reproduce`: ours beside the paper's, by a stated rule, and no work done twice."""

import json

import pytest
import torch
from conftest import lively
from corpus_trees import write_asvspoof2019, write_protocol
from tiny_runs import tiny_folder, write_clip
from tiny_training import TINY_GRAPH, write_encoder

from spooftrace.audio import load_audio
from spooftrace.checkpoint import load_checkpoint
from spooftrace.cli import main
from spooftrace.cli.reproduce import CORPORA, DETECTION_TARGETS
from spooftrace.modeling import AasistForAudioClassification
from spooftrace.score_files import read_scores
from spooftrace.trainers import reproduce, write_recipes


ROWS = ("erm-r4", "mldg-r4")


def write_in_the_wild(folder, count: int = 6):
    """A copy of In-the-Wild's layout with clips longer than a window of half a second."""
    folder.mkdir(parents=True)
    lines = ["file,speaker,label"]
    for index in range(count):
        write_clip(folder / f"{index}.wav", index)
        lines.append(f"{index}.wav,Someone,{('bona-fide', 'spoof')[index % 2]}")
    write_protocol(folder / "meta.csv", lines)
    return folder


@pytest.fixture
def place(tmp_path):
    """Corpora, and detectors for two rows of Table 3."""
    write_in_the_wild(tmp_path / "data" / "in-the-wild")
    for seed, row in enumerate(ROWS):
        folder = tiny_folder(tmp_path / "detectors" / f"mldg-table3-{row}", seed)
        model = lively(AasistForAudioClassification.from_pretrained(folder))
        model.save_pretrained(folder)
    return tmp_path


def run(place, *arguments, code: int = 0, target: str = "mldg-table3"):
    data, out, given = (str(place / name) for name in ("data", "out", "detectors"))
    options = ["--data", data, "--out", out, "--checkpoints", given, "--device", "cpu", "--only", *ROWS]
    assert main(["reproduce", target, *options, *arguments]) == code


def scores(place, row: str, kind: str = "log-odds-first") -> dict[str, float]:
    return read_scores(place / "out" / f"mldg-table3-{row}" / "scores" / kind / "in-the-wild").values


def test_ours_stand_beside_the_papers_with_counts(place, capsys):
    run(place)
    text = capsys.readouterr().out
    assert "absent: ASVspoof 5" in text and "absent: 2021 LA" in text
    assert "score: log-odds of bona fide, first window of a clip" in text
    assert "3 + 3" in text
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "/ 8.53" in lines["MLDG, LoRA of rank 4"] and "/ -" in lines["ERM, LoRA of rank 4"]
    stored = json.loads((place / "out" / "mldg-table3.json").read_text(encoding="utf-8"))
    result = stored["rows"][1]["results"]["in-the-wild"]
    assert (result["bonafide"], result["spoof"], result["failed"]) == (3, 3, 0)
    assert f"{100 * result['eer']:.2f} / 8.53" in lines["MLDG, LoRA of rank 4"]


def test_the_first_window_is_scored_unless_the_whole_clip_is_wanted(place):
    run(place)
    run(place, "--window", "whole")
    loaded = load_checkpoint(place / "detectors" / "mldg-table3-mldg-r4")
    beginning = load_audio(place / "data" / "in-the-wild" / "1.wav")[:8_000]
    inputs = loaded.feature_extractor(beginning, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        logits = loaded.model(**inputs).logits[0]
    first, whole = scores(place, "mldg-r4"), scores(place, "mldg-r4", "log-odds-whole")
    assert first["1"] == pytest.approx(float(logits[0] - logits[1]), abs=1e-4)
    assert first != whole and first.keys() == whole.keys()


def test_the_rule_of_published_scores_is_the_bare_logit(place, capsys):
    run(place, "--score-rule", "bonafide-logit")
    assert "score: logit of bona fide alone" in capsys.readouterr().out
    loaded = load_checkpoint(place / "detectors" / "mldg-table3-erm-r4")
    found = scores(place, "erm-r4", "bonafide-logit-first")
    for name, score in found.items():
        clip = load_audio(place / "data" / "in-the-wild" / f"{name}.wav")
        inputs = loaded.feature_extractor(clip, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            assert score == pytest.approx(float(loaded.model(**inputs).logits[0, 0]), abs=1e-4)


def test_scores_that_are_there_are_not_made_again(place, monkeypatch):
    run(place)
    files = sorted((place / "out").rglob("scores.txt"))
    before = [file.stat().st_mtime_ns for file in files]
    run(place)
    assert [file.stat().st_mtime_ns for file in files] == before and len(files) == len(ROWS)


def test_scores_of_another_detector_are_kept_unless_told(place, capsys):
    run(place)
    before = scores(place, "mldg-r4")
    tiny_folder(place / "detectors" / "mldg-table3-mldg-r4", seed=9)
    run(place, code=1)
    assert "pass --overwrite" in " ".join(capsys.readouterr().err.split())
    assert scores(place, "mldg-r4") == before
    run(place, "--overwrite")
    assert scores(place, "mldg-r4") != before


def test_several_processes_are_refused(place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    run(place, code=1)
    assert "reproduce runs in one process" in capsys.readouterr().err


def test_a_row_without_a_checkpoint_is_told_and_not_trained(place, capsys):
    run(place, "--only", "mldg-r4", "mldg-r8", code=3)
    text = capsys.readouterr().out
    assert "mldg-table3-mldg-r8: no checkpoint was given for it" in text
    assert not (place / "out" / "mldg-table3-mldg-r8").exists()


def test_a_clip_that_cannot_be_read_counts_nowhere_and_is_told(place, capsys):
    (place / "data" / "in-the-wild" / "0.wav").write_bytes(b"not audio")
    run(place, code=3)
    text = capsys.readouterr().out
    assert "2 clips could not be scored" in text and "2 + 3" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mldg-r5"], "mldg-table3 has no row 'mldg-r5': did you mean mldg-r"),
        (["--corpora", "asvspoof5"], "no test corpus is below"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(place, arguments, message, capsys):
    run(place, *arguments, code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_training_needs_its_corpus(place, capsys):
    options = ["--data", str(place / "data"), "--out", str(place / "out")]
    assert main(["reproduce", "mldg-table3", *options]) == 1
    assert "training needs" in capsys.readouterr().err


def test_missing_audio_of_the_test_trials_is_refused(place, capsys):
    (place / "data" / "in-the-wild" / "3.wav").unlink()
    run(place, code=1)
    assert "1 of 6 test clips" in capsys.readouterr().err


def test_a_row_is_trained_once_and_its_curves_are_drawn(tmp_path, capsys):
    write_asvspoof2019(tmp_path / "data" / "asvspoof2019-la")
    encoder = write_encoder(tmp_path / "encoder")
    out = tmp_path / "out"
    changes = {
        "model.base_model": encoder,
        "model.encoder_channels": TINY_GRAPH["encoder_channels"],
        "model.graph_dims": TINY_GRAPH["graph_dims"],
        "num_samples": 8000,
        "clips_per_domain": 2,
        "num_meta_test_domains": 1,
        "max_steps": 2,
        "logging_steps": 1,
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    options = ["--data", str(tmp_path / "data"), "--out", str(out), "--only", "mldg-r4", "--device", "cpu"]
    options += [text for key, value in changes.items() for text in (f"--{key}", str(value))]
    assert main(["reproduce", "mldg-figure3", *options]) == 0
    model = out / "mldg-table3-mldg-r4" / "model"
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert (out / "mldg-figure3.png").read_bytes().startswith(b"\x89PNG")
    assert main(["reproduce", "mldg-table3", *options]) == 0
    assert (model / "model.safetensors").stat().st_mtime_ns == before
    assert "2019 LA" in capsys.readouterr().out
    curves = reproduce.read_curves(reproduce.RowResult("a", "a", str(model)))
    assert [step for step, _ in curves["loss"]] == [1, 2] and all(0 <= value <= 100 for _, value in curves["eer"])


def test_seeds_are_summed_up_beside_the_papers(tmp_path):
    results = [{"fakeavceleb": reproduce.Result(rate, 10, 20)} for rate in (0.02, 0.04)]
    done = [reproduce.RowResult(f"s{k}", f"seed {k}", "m", results=result) for k, result in enumerate(results)]
    plan = reproduce.Reproduction("mldg-table5", tmp_path, tmp_path)
    assert "3.00 +- 1.41 / 5.38 +- 4.61" in reproduce.table(plan, done)


def test_the_papers_average_stands_beside_an_average_of_all_corpora_alone(tmp_path):
    def row(names):
        return reproduce.RowResult("r", "a row", "m", {}, 5.54, {name: reproduce.Result(0.1, 1, 1) for name in names})

    plan = reproduce.Reproduction("mldg-table3", tmp_path, tmp_path)
    assert "10.00 / 5.54" in reproduce.table(plan, [row(write_recipes.CORPORA)])
    assert "5.54" not in reproduce.table(plan, [row(["asvspoof5"])])


def test_the_command_names_what_there_is():
    assert tuple(reproduce.TARGETS) == DETECTION_TARGETS and tuple(write_recipes.CORPORA) == CORPORA
    assert (
        reproduce.Reproduction("mldg-figure3", None, None).rows()
        == reproduce.Reproduction("mldg-table3", None, None).rows()
    )
