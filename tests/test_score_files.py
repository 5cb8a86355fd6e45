"""Score files and trials are joined strictly: nothing is guessed, nothing is dropped, everything is told at once."""

import json

import pytest
from evaluation_trials import HAND, score_folder, scores_of, trials_of, write
from tiny_runs import listed, tiny_folder, write_clips

from spooftrace.detector import Detector
from spooftrace.evaluation import evaluate
from spooftrace.evaluation_report import Settings
from spooftrace.score_files import ScoreFileError, Trials, join, load_scores, read_scores, whole_trials
from spooftrace.scoring import score_clips


NONE = Settings(rounds=0)


def test_scores_are_read_whatever_white_space_heading_or_order(tmp_path):
    plain = write(tmp_path / "a.txt", "b1 1.5", "s1 -2e-1", "", "b2 +3")
    assert read_scores(plain).values == {"b1": 1.5, "s1": -0.2, "b2": 3.0}
    other = tmp_path / "b.txt"
    other.write_bytes(b"\xef\xbb\xbffilename\tcm-score\r\nb2\t3\r\nb1  1.5\r\ns1\t-0.2")
    assert read_scores(other).values == {"b1": 1.5, "s1": -0.2, "b2": 3.0}


def test_every_problem_of_a_join_is_told_at_once_with_counts_examples_and_remedies(tmp_path):
    lines = ["b1 1 bonafide", "b2 nan", "b3 inf", "b4 one", "b5 0.5", "b5 0.6", "x1 1", "x2 2", "s1 1_0"]
    with pytest.raises(ScoreFileError) as raised:
        load_scores(write(tmp_path / "scores.txt", *lines), trials_of(HAND))
    text = str(raised.value)
    for part in (
        "1 line without exactly two columns (line 1 has 3): write two columns",
        "4 lines without a finite number (line 2: b2 nan, line 3: b3 inf, line 4: b4 one, line 9: s1 1_0)",
        "1 line for an utterance that has a score already (line 6: b5): keep one",
        "8 trials without a score (b6, s2, s3, s4, s5, ...): score the whole list",
        "2 scores of utterances that are not in the protocol (x1, x2): name the protocol",
    ):
        assert part in text
    assert raised.value.problems["missing"] == ["b6", "s2", "s3", "s4", "s5", "s6", "s7", "s8"]


def test_trials_without_a_label_or_twice_in_the_protocol_are_refused():
    rows = [*HAND[:3], ("s1", None, None, None, "x", 1.0), HAND[0]]
    with pytest.raises(
        ScoreFileError, match=r"1 trial without a label \(s1\).*1 trial that the protocol repeats \(b1\)"
    ):
        join(scores_of(rows), trials_of(rows))


def test_scores_of_other_splits_are_put_aside_and_counted():
    trials = trials_of(HAND[:8], elsewhere={row[0] for row in HAND[8:]})
    result = join(scores_of(HAND), trials)
    assert result.elsewhere == 6 and len(result.scores) == 8
    assert "Put aside         6 scores" in evaluate(result, settings=NONE).to_text()


def test_a_file_that_is_not_there_or_no_text_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="spooftrace score"):
        read_scores(tmp_path)
    (tmp_path / ".journal").mkdir()
    with pytest.raises(FileNotFoundError, match="not finished"):
        read_scores(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\xff")
    with pytest.raises(ValueError, match="no score file"):
        read_scores(tmp_path / "x.npy")


FAILURES = [
    {"utterance_id": "b6", "error": "AudioError", "message": "the file is empty"},
    {"utterance_id": "s8", "score": None, "verdict": "abstain", "reason": "not finite"},
]


def test_clips_that_failed_are_skipped_with_their_reason_and_told_first(tmp_path):
    kept = [row for row in HAND if row[0] not in ("b6", "s8")]
    folder = score_folder(tmp_path / "out", kept, FAILURES)
    for path in (folder, folder / "scores.txt"):
        result = load_scores(path, trials_of(HAND))
        assert result.skipped == {"b6": "the file is empty", "s8": "not finite"}
        report = evaluate(result, settings=NONE)
        assert report.skipped == (1, 1) and (report.overall.bonafide, report.overall.spoof) == (5, 7)
        assert "2 of 14 clips could not be scored" in report.warnings[0]
        assert "SKIPPED           1 bona fide, 1 spoof" in report.to_text().split("EER")[0]
    assert sorted(whole_trials(result).ids) == sorted(row[0] for row in HAND)


def test_a_clip_that_neither_failed_nor_has_a_score_is_missing(tmp_path):
    kept = [row for row in HAND if row[0] not in ("b6", "s8")]
    folder = score_folder(tmp_path / "out", kept, FAILURES[:1])
    with pytest.raises(ScoreFileError, match=r"1 trial without a score \(s8\)"):
        load_scores(folder, trials_of(HAND))


def test_a_clip_that_failed_and_was_scored_later_is_scored(tmp_path):
    folder = score_folder(tmp_path / "out", HAND, FAILURES)
    assert not load_scores(folder, trials_of(HAND)).skipped


def test_a_run_tells_only_of_its_own_scores(tmp_path):
    run = {"model": {"name": "owner/model", "revision": "0123456789abcdef", "spooftrace": "0.1"}}
    folder = score_folder(tmp_path / "out", HAND, [], run)
    report = evaluate(load_scores(folder, trials_of(HAND)), settings=NONE)
    assert report.sources[0]["model"] == run["model"]
    assert "Model             owner/model (0123456789abcdef, spooftrace 0.1)" in report.to_text()
    write(folder / "run.json", json.dumps({**run, "files": {"scores.txt": "0" * 64}}))
    with pytest.raises(ValueError, match="not the file that run.json tells of"):
        load_scores(folder, trials_of(HAND))


def test_what_scoring_writes_is_what_evaluation_reads(tmp_path):
    clips = write_clips(tmp_path / "clips", 4)
    (clips / "clip04.flac").write_text("no audio")
    detector = Detector.from_pretrained(tiny_folder(tmp_path / "model"), device="cpu")
    score_clips(detector, listed(clips), tmp_path / "out")
    names = [name for name, _ in listed(clips)]
    labels = ["bonafide", "spoof", "bonafide", "spoof", "bonafide"]
    trials = Trials.from_columns({"utterance_id": names, "label": labels})
    report = evaluate(load_scores(tmp_path / "out", trials), settings=NONE)
    assert (report.overall.bonafide, report.overall.spoof, report.skipped) == (2, 2, (1, 0))
    assert list(report.skipped_examples) == ["clip04"] and "clip04.flac" in report.skipped_examples["clip04"]
    assert report.sources[0]["model"]["name"] == str(tmp_path / "model")
    (tmp_path / "out" / "scores.txt").write_text("".join(f"{name} 1.0\n" for name in names))
    with pytest.raises(ValueError, match="not the file that run.json tells of"):
        load_scores(tmp_path / "out", trials)
