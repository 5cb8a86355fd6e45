"""The Arena's files: the forms that its public schemas ask for, and numbers that it can recompute."""

import hashlib

import numpy as np
import pytest
import yaml

from spooftrace.arena import ArenaError, Dataset, System, arena_eer, verify_arena, write_arena
from spooftrace.metrics import eer


DATASET = Dataset("SpeechAntiSpoofingBenchmarks/InTheWild", "0a1b2c3d")
SYSTEM = System("Our detector", "our-detector", "2110.01200")
URL = "https://huggingface.co/owner/model/resolve/0123abcd/.eval_results/SpeechAntiSpoofingBenchmarks/InTheWild/scores.txt"
FOLDER = ".eval_results/SpeechAntiSpoofingBenchmarks/InTheWild"


@pytest.fixture
def trials():
    rng = np.random.default_rng(0)
    labels = {f"u{i:03}": "bonafide" if i % 3 else "spoof" for i in range(120)}
    scores = {name: float(rng.normal(1 if label == "bonafide" else -1)) for name, label in labels.items()}
    return scores, labels


@pytest.mark.parametrize(
    "bonafide, spoof, percent",
    [
        ([1, 2], [-1, 0], 0),
        ([-1, 0], [1, 2], 100),
        ([0], [0], 50),
        ([0, 2], [-1, 1], 50),  # FAR = FRR = 1/2 at threshold 1
        # Thresholds 0, 1, 2 have FAR - FRR 1, 1/3, -1/3, so the rates meet halfway between 1 and 2, at 1/2 of each sum.
        ([0, 2, 2], [0, 1, 1], 100 / 3),
    ],
)
def test_the_arenas_eer_in_closed_form(bonafide, spoof, percent):
    assert arena_eer(np.array(bonafide), np.array(spoof)) == pytest.approx(percent)


def test_the_arenas_eer_interpolates_between_thresholds():
    # At threshold 1: FAR 1/2, FRR 0; at 2: FAR 0, FRR 1/3. The line crosses at 3/5 of the way: (1/5 + 1/5) / 2.
    assert arena_eer(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0])) == pytest.approx(20)


def test_the_arenas_eer_is_close_to_the_fields():
    rng = np.random.default_rng(3)
    bonafide, spoof = rng.normal(1, 1, 2000), rng.normal(-1, 1, 3000)
    assert arena_eer(bonafide, spoof) == pytest.approx(100 * eer(bonafide, spoof).eer, abs=100 / 2000)


def test_one_class_has_no_eer():
    with pytest.raises(ValueError, match="bona fide and a spoof"):
        arena_eer(np.array([]), np.array([1.0]))


def test_before_the_upload_the_record_pins_the_scores_by_their_hash(tmp_path, trials):
    files = write_arena(tmp_path, *trials, system=SYSTEM, dataset=DATASET)
    record = yaml.safe_load((tmp_path / FOLDER / "result.yaml").read_text())
    text = (tmp_path / FOLDER / "scores.txt").read_bytes()
    assert record["schema_version"] == 4 and record["artifact"]["scores_url"] is None
    assert record["artifact"]["scores_sha256"] == hashlib.sha256(text).hexdigest() == files.scores_sha256
    assert record["artifact"]["bench_version"].startswith("spooftrace==")
    assert record["dataset"] == {"id": DATASET.id, "revision": "0a1b2c3d", "split": "test"}
    assert record["scores"] == {"eer_percent": files.eer_percent, "n_trials": 120, "n_skipped": 0}
    assert set(record) == {
        *("schema_version", "system", "dataset", "scores", "artifact"),
        *("reproduction", "submitter", "submitted_at", "notes"),
    }


def test_after_the_upload_the_result_has_exactly_the_keys_of_the_schema(tmp_path, trials):
    write_arena(tmp_path, *trials, system=SYSTEM, dataset=DATASET, scores_url=URL)
    result = yaml.safe_load((tmp_path / FOLDER / "result.yaml").read_text())
    assert set(result) == {"schema_version", "system", "dataset", "scores", "arena", "artifact"}
    assert result["schema_version"] == 1 and result["artifact"] == {"scores_url": URL}
    assert result["system"] == {
        "name": "Our detector",
        "slug": "our-detector",
        "paper": {"arxiv_id": "2110.01200"},
    }
    assert result["arena"]["system_url"] == result["arena"]["url"] + "?system=our-detector"
    assert set(result["scores"]) == {"eer_percent", "n_trials", "n_skipped"}


@pytest.mark.parametrize("url", [None, URL])
def test_what_is_written_is_what_the_scores_give(tmp_path, trials, url):
    written = write_arena(tmp_path, *trials, system=SYSTEM, dataset=DATASET, scores_url=url)
    assert verify_arena(tmp_path / FOLDER, trials[1]) == written


def test_scores_come_back_to_the_last_bit(tmp_path, trials):
    files = write_arena(tmp_path, *trials, system=SYSTEM, dataset=DATASET)
    lines = [line.split() for line in files.scores.read_text().splitlines()]
    assert {name: float(score) for name, score in lines} == trials[0]
    assert [name for name, _ in lines] == list(trials[1])


def test_trials_without_a_score_are_skipped_ones(tmp_path, trials):
    scores, labels = trials
    fewer = {name: score for name, score in scores.items() if name not in ("u001", "u002")}
    files = write_arena(tmp_path, fewer, labels, system=SYSTEM, dataset=DATASET)
    assert (files.n_trials, files.n_skipped) == (120, 2)
    assert verify_arena(tmp_path / FOLDER, labels).n_skipped == 2
    with pytest.raises(ArenaError, match="7 of 120 trials have no score"):
        write_arena(tmp_path, dict(list(scores.items())[7:]), labels, system=SYSTEM, dataset=DATASET)


def test_a_changed_score_file_is_noticed(tmp_path, trials):
    files = write_arena(tmp_path, *trials, system=SYSTEM, dataset=DATASET)
    text = files.scores.read_text()
    files.scores.write_text(text.replace(" -", " +"))
    with pytest.raises(ArenaError, match="eer_percent is .*; scores_sha256 is"):
        verify_arena(files.result.parent, trials[1])


def test_other_labels_or_a_foreign_file_are_noticed(tmp_path, trials):
    files = write_arena(tmp_path, *trials, system=SYSTEM, dataset=DATASET)
    with pytest.raises(ArenaError, match="120 trials, 0 skipped; the split has 121, 1 unscored"):
        verify_arena(files.result.parent, {**trials[1], "more": "spoof"})
    files.result.write_text("schema_version: 1\n")
    with pytest.raises(ArenaError, match="no result of the Arena"):
        verify_arena(files.result.parent, trials[1])


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda: Dataset("InTheWild", "0a1b2c3d"), "owner/name"),
        (lambda: Dataset("../etc/passwd", "0a1b2c3d"), "owner/name"),
        (lambda: Dataset("a/..", "0a1b2c3d"), "owner/name"),
        (lambda: Dataset("a/b", "main"), "commit"),
        (lambda: System("x", "Our Detector"), "dashes"),
        (lambda: System(" ", "x"), "name"),
    ],
)
def test_names_that_the_arena_refuses_are_refused(make, what):
    with pytest.raises(ArenaError, match=what):
        make()


@pytest.mark.parametrize(
    "change, what",
    [
        ({"scores_url": "https://huggingface.co/owner/model/resolve/main/scores.txt"}, "not a branch"),
        ({"scores_url": URL, "system": System("x", "x")}, "arXiv"),
    ],
)
def test_results_that_the_arena_refuses_are_refused(tmp_path, trials, change, what):
    with pytest.raises(ArenaError, match=what):
        write_arena(tmp_path, *trials, **{"system": SYSTEM, "dataset": DATASET, **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "scores, labels, what",
    [
        ({"c": 1.0}, {}, "no trial"),
        ({"a": float("nan")}, {}, "not finite"),
        ({}, {"a": "real"}, "real"),
    ],
)
def test_scores_that_do_not_fit_are_refused(tmp_path, scores, labels, what):
    given = {"a": 1.0, "b": -1.0, **scores}
    with pytest.raises(ArenaError, match=what):
        write_arena(tmp_path, given, {"a": "bonafide", "b": "spoof", **labels}, system=SYSTEM, dataset=DATASET)
