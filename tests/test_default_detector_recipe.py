"""The recipe of the default detector: what it reads, that it learns and resumes, and what it refuses."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from spooftrace.classification import expected_calibration_error
from spooftrace.detector import Detector
from spooftrace.metrics import cllr
from spooftrace.trainers import default_card, default_detector, report_default
from spooftrace.trainers.augmentation import EnergyAugmentation, FeatureMask
from spooftrace.trainers.calibration import fit_calibration
from spooftrace.trainers.detector_corpus import COLUMNS, PairSampler, read_corpus, training_clips


QUICK = ["--steps", "6", "--pairs", "2", "--frames", "50", "--report-every", "3"]


def write_corpus(folder: Path, test_audio: bool = False) -> Path:
    """Ten clips of noise (genuine) and tones (spoof), one of them unlicensed; the test rows' audio is absent."""
    rng = np.random.default_rng(0)
    rows = []
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        for number in range(count):
            for label in ("bonafide", "spoof"):
                file = f"audio/{split}-{label}-{number}.flac"
                rows.append(row(file, label, split=split, utterance=f"{split}-{number}", page_fold=str(number)))
                if split != "test" or test_audio:
                    write_clip(folder / file, label, rng)
    rows.append(row("unlicensed/a.flac", "spoof", split="train", license="no licence stated"))  # absent too
    rows.append(row("audio/coded.flac", "spoof", split="train", note="transmission codec, not synthesis"))
    write_metadata(folder, rows)
    return folder


def row(file: str, label: str, **values: str) -> dict[str, str]:
    known = {"system": "none" if label == "bonafide" else "tone", "source_repo": "a/page", "license": "CC BY 4.0"}
    family = "none" if label == "bonafide" else "codec"
    return {**dict.fromkeys(COLUMNS, ""), **known, "family": family, "file": file, "label": label, **values}


def write_metadata(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*COLUMNS, "page_fold"], restval="0")
        writer.writeheader()
        writer.writerows(rows)


def write_clip(path: Path, label: str, rng: np.random.Generator) -> None:
    time = np.arange(12_000) / 16_000
    wave = 0.05 * rng.standard_normal(len(time))
    if label == "spoof":
        wave = 0.01 * wave + 0.1 * np.sin(2 * np.pi * rng.uniform(300, 3000) * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, 16_000)


def run(data: Path, out: Path, *options: str) -> int:
    return default_detector.main(["--data", str(data), "--out", str(out), *QUICK, *options])


def test_one_command_trains_a_detector_that_scores_and_is_calibrated(tmp_path):
    data = write_corpus(tmp_path / "corpus")
    assert run(data, tmp_path / "model", "--steps", "40") == 0
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "training.json"}
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert record["clips"] == {"bonafide": 3, "spoof": 3, "attack_copies": 0} and record["options"]["steps"] == 40
    detector = Detector.from_pretrained(tmp_path / "model", device="cpu")
    assert detector.calibrated
    assert np.isfinite(detector(data / "audio/valid-spoof-0.flac").score)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    data = write_corpus(tmp_path / "corpus")
    assert run(data, tmp_path / "whole") == 0
    advance = default_detector.Training.advance

    def stop_at_five(training):
        if training.step == 5:
            raise KeyboardInterrupt
        return advance(training)

    monkeypatch.setattr(default_detector.Training, "advance", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "resumed")
    monkeypatch.setattr(default_detector.Training, "advance", advance)
    assert (tmp_path / "resumed" / default_detector.STATE).exists()
    assert run(data, tmp_path / "resumed") == 0
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_files_of_the_user_in_the_output_folder_survive(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "analysis.py").write_text("precious")
    assert run(write_corpus(tmp_path / "corpus"), tmp_path / "model") == 0
    assert (tmp_path / "model" / "analysis.py").read_text() == "precious"


def test_a_state_of_another_recipe_is_refused(tmp_path, capsys):
    data = write_corpus(tmp_path / "corpus")
    clips = training_clips(read_corpus(data))
    model = default_detector.AasistForAudioClassification(default_detector.AasistConfig(frontend="mel"))
    sampler = PairSampler(clips, [], [], [], 50)
    (tmp_path / "model").mkdir()
    other = default_detector.Training(default_detector.Recipe(seed=7), model, sampler)
    other.save(tmp_path / "model" / default_detector.STATE)
    assert run(data, tmp_path / "model") == 1
    assert "another recipe" in capsys.readouterr().err


def test_test_rows_unlicensed_rows_and_transmission_rows_are_never_trained_on(tmp_path):
    clips = read_corpus(write_corpus(tmp_path))
    chosen = training_clips(clips)
    assert {clip.file for clip in chosen} == {
        f"audio/train-{x}-{n}.flac" for x in ("bonafide", "spoof") for n in range(3)
    }
    assert {clip.page_fold for clip in training_clips(clips, held_out_fold=1)} == {0, 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("label", "lable", 1), r"lacks the column\(s\) label"),
        (lambda text: text.replace(",bonafide,", ",genuine,", 1), "label 'genuine' is none of bonafide, spoof"),
        (lambda text: text.replace(",train,", ",dev,", 1), "split 'dev' is none of train, valid, test, mixed"),
        (lambda text: text.replace(",train,", ",valid,"), "no licensed bonafide row in the train split"),
        (None, "needs a folder with metadata.csv"),
    ],
)
def test_unfit_metadata_is_refused_in_one_line(tmp_path, capsys, change, message):
    data = write_corpus(tmp_path / "corpus")
    path = data / "metadata.csv"
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    assert run(data, tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error)


def test_attack_copies_meet_their_own_source(tmp_path):
    clips = training_clips(read_corpus(write_corpus(tmp_path)))
    genuine = next(clip for clip in clips if not clip.is_spoof)
    energies = [np.full((60, 2, 4), number, np.float16) for number in range(len(clips))]
    attack = [np.full((60, 2, 4), -5, np.float16)]
    sampler = PairSampler(clips, energies, [("x.flac", genuine, "x")], attack, frames=50)
    batch = sampler.draw(3, 1.0, np.random.default_rng(0)).log()
    assert batch.shape == (6, 2, 4, 50)
    assert (batch[0::2] == clips.index(genuine)).all() and torch.allclose(batch[1::2], torch.tensor(-5.0), atol=1e-4)


def test_a_fake_often_meets_the_recording_of_its_own_utterance(tmp_path):
    clips = training_clips(read_corpus(write_corpus(tmp_path)))
    energies = [np.full((60, 2, 4), int(clip.utterance[-1]), np.float16) for clip in clips]
    sampler = PairSampler(clips, energies, [], [], frames=50)
    batch = sampler.draw(300, 0.5, np.random.default_rng(0)).log().round()[:, 0, 0, 0]
    assert (batch[0::2] == batch[1::2]).float().mean() > 0.6


def test_augmentation_alters_pairs_alike():
    torch.manual_seed(0)
    energies = torch.rand(6, 2, 12, 40).repeat_interleave(2, 0)
    altered = EnergyAugmentation(noise=1.0, equalisation=1.0, paired=1.0)(energies)
    assert torch.equal(altered[0::2], altered[1::2]) and not torch.allclose(altered, energies)
    assert (altered > 0).all()
    alone = EnergyAugmentation(noise=1.0, paired=0.0)(energies)
    assert not torch.allclose(alone[0::2], alone[1::2])
    masked = FeatureMask()(torch.ones(8, 2, 60, 200))
    assert torch.equal(masked[0::2], masked[1::2]) and 0 < (masked == 0).float().mean() < 0.4


def test_noise_has_the_asked_ratio_on_average():
    torch.manual_seed(0)
    energies = torch.ones(64, 2, 60, 100)
    augment = EnergyAugmentation(noise=1.0, lowest_snr=10.0, highest_snr=10.0, equalisation=0.0)
    added = (augment(energies) - energies).mean()
    assert added == pytest.approx(0.1, rel=0.05)


def test_calibration_recovers_the_log_likelihood_ratio():
    rng = np.random.default_rng(0)
    genuine, fake = rng.normal(3, 2, 5000), rng.normal(-1, 2, 5000)  # their ratio is score - 1
    scale, bias = fit_calibration(genuine, fake)
    assert scale == pytest.approx(1.0, abs=0.06) and bias == pytest.approx(-1.0, abs=0.08)
    assert cllr(genuine + bias, fake + bias) < cllr(genuine, fake)
    probability = 1 / (1 + np.exp(-np.concatenate([genuine, fake]) - bias))
    assert expected_calibration_error(probability, np.repeat([True, False], 5000)) < 0.02
    scale, bias = fit_calibration(np.array([2.0, 3.0]), np.array([-2.0, -3.0]))  # separable
    assert np.isfinite([scale, bias]).all() and scale > 0


def test_the_card_needs_measurements(tmp_path, capsys):
    assert default_card.main(["--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_report_counts_every_clip_and_writes_its_numbers(tmp_path, capsys):
    data = write_corpus(tmp_path / "corpus", test_audio=True)
    assert run(data, tmp_path / "model", "--steps", "40") == 0
    command = ["--data", str(data), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "results.json")]
    assert report_default.main([*command, "--splits", "valid", "test"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["valid"]["eer"]["all"]["bonafide"] == 2 and results["test"]["eer"]["codec"]["spoof"] == 1
    assert set(results["valid"]["calibration"]) == {"cllr_raw", "cllr_calibrated", "ece_raw", "ece_calibrated"}
    assert "| all | 2 | 2 |" in capsys.readouterr().out
    (tmp_path / "results.json").rename(tmp_path / "model" / "results.json")
    assert default_card.main(["--model", str(tmp_path / "model")]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "3 bona fide and 3 spoof clips" in card and "--steps 40" in card and "| all | 2 | 2 |" in card
    command = ["--data", str(data), "--out", str(tmp_path / "results.json")]
    assert report_default.main([*command, "--leave-out", f"1={tmp_path / 'model'}", f"2={tmp_path / 'model'}"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["pages of fold 1", "pages of fold 2", "held-out pages together"]
    assert results["pages of fold 2"]["eer"]["all"]["spoof"] == 1
    assert results["held-out pages together"]["eer"]["all"]["bonafide"] == 3
