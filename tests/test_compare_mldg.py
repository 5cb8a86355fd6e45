"""ERM beside MLDG: the systems that are tested on are never trained on, and the table is what the runs say."""

import argparse
import json

import numpy as np
import pytest
import soundfile

from spooftrace.trainers import compare_mldg
from spooftrace.trainers.compare_mldg import THIRDS, divide, main, table, third_of
from spooftrace.trainers.detector_corpus import read_corpus


HEAD = "file,label,system,family,source_repo,license,utterance,crop_start,note,split,speaker"
SYSTEMS = [f"system{number}" for number in range(12)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve systems of two families, speakers of both splits."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "audio").mkdir()
    rng, lines = np.random.default_rng(0), [HEAD]
    kinds = [("bonafide", "", "none")] * 12 + [
        ("spoof", s, ("codec", "tts")[i % 2]) for i, s in enumerate(SYSTEMS * 4)
    ]
    for number, (label, system, family) in enumerate(kinds):
        name = f"audio/{number}.flac"
        soundfile.write(folder / name, 0.1 * rng.standard_normal(16_000), 16_000)
        split = "test" if number % 3 == 0 else "train"
        lines.append(f"{name},{label},{system},{family},page,MIT,u{number},0,,{split},s{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_what_is_tested_on_is_never_trained_on(data):
    clips = read_corpus(data)
    for held_out in range(THIRDS):
        train, test = divide(clips, held_out)
        heard = {clip.system for clip in train if clip.is_spoof}
        unheard = {clip.system for clip in test if clip.is_spoof}
        assert not heard & unheard and not {clip.file for clip in train} & {clip.file for clip in test}
        assert all(third_of(system) == held_out for system in unheard)
    assert {third_of(system) for system in SYSTEMS} == set(range(THIRDS))


def test_a_run_is_not_repeated_and_both_methods_meet_the_same_clips(data, tmp_path, monkeypatch, capsys):
    command = ["--data", str(data), "--out", str(tmp_path), "--seeds", "1", "--steps", "2", "--clips-per-domain", "2"]
    assert main(command) == 0
    files = sorted(tmp_path.glob("*-third*.json"))
    assert len(files) == 2 * THIRDS
    first, second = (json.loads((tmp_path / f"{method}-third0-seed0.json").read_text()) for method in ("erm", "mldg"))
    assert first["scores"].keys() == second["scores"].keys() and first["scores"] != second["scores"]
    assert first["domains"] == second["domains"] == ["codec", "tts"]
    before = (tmp_path / "results.md").read_text()

    def fail(*args: argparse.Namespace):
        raise AssertionError("a run that is there was repeated")

    monkeypatch.setattr(compare_mldg, "run", fail)
    assert main(command) == 0
    assert (tmp_path / "results.md").read_text() == before
    assert main([*command, "--beta", "2"]) == 1
    assert "other settings" in capsys.readouterr().err


def test_the_table_is_the_mean_over_seeds_and_the_paired_difference(data):
    clips = read_corpus(data)
    _, test = divide(clips, 0)
    names = {kind: [clip.file for clip in test if clip.is_spoof == kind] for kind in (False, True)}
    good = {file: 1.0 + index for index, file in enumerate(names[False])} | {
        file: -1.0 - i for i, file in enumerate(names[True])
    }
    bad = {file: -score for file, score in good.items()}
    runs = [
        {"method": method, "seed": seed, "held_out": 0, "scores": scores}
        for seed in range(2)
        for method, scores in (("erm", good), ("mldg", bad))
    ]
    text = table(runs, clips)
    assert (
        f"| third 0 | {len(names[False])} / {len(names[True])} | 2 | 0.0 ± 0.0 | 100.0 ± 0.0 | +100.0 ± 0.0 |" in text
    )
    assert "+100.00 points of EER, 95 % interval +100.00 to +100.00" in text and "MLDG better in 0" in text
