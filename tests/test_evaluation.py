"""Evaluation: numbers that can be done by hand, tables by column, warnings, comparison, figures."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_trials import HAND, joined, score_folder, scores_of, trials_of
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.evaluation import compare, evaluate, measure
from spooftrace.evaluation_report import Settings
from spooftrace.metrics import act_dcf, auc, cllr, eer, min_dcf
from spooftrace.results import printable
from spooftrace.score_files import Scores, join, load_scores


QUICK = Settings(rounds=50)
NONE = Settings(rounds=0)


def gaussian(count=300, seed=0, **columns):
    """Trials of two labels, with scores at a distance of two standard deviations, and ten speakers."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        bonafide = index % 2 == 0
        score = float(rng.normal(1 if bonafide else -1))
        attack = None if bonafide else f"A{index % 3}"
        rows.append((f"u{index}", "bonafide" if bonafide else "spoof", attack, "x", f"s{index % 10}", score))
    return rows


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_metrics():
    report = evaluate(joined(), settings=NONE)
    bonafide = np.array([row[5] for row in HAND[:6]])
    spoof = np.array([row[5] for row in HAND[6:]])
    found = report.overall
    assert (found.eer, found.eer_threshold) == eer(bonafide, spoof)
    assert (found.min_dcf, found.act_dcf) == (min_dcf(bonafide, spoof).cost, act_dcf(bonafide, spoof).cost)
    assert (found.cllr, found.auc) == (cllr(bonafide, spoof), auc(bonafide, spoof))


def test_decisions_at_zero_by_hand():
    found = evaluate(joined(), settings=NONE).overall
    assert found.confusion == [[4, 2], [3, 5]]
    assert found.accuracy == 9 / 14 and found.balanced_accuracy == pytest.approx((4 / 6 + 5 / 8) / 2)
    assert found.f1_bonafide == pytest.approx(8 / 13) and found.f1_spoof == pytest.approx(10 / 15)
    assert found.f1_macro == pytest.approx((8 / 13 + 10 / 15) / 2)


def test_a_score_of_zero_is_called_bona_fide():
    assert measure(np.array([0.0]), np.array([0.0])).confusion == [[1, 0], [1, 0]]


def test_calibrated_scores_have_no_calibration_error_and_shouted_ones_do():
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(2, 2, 20_000), rng.normal(-2, 2, 20_000)  # exact log-likelihood ratios
    honest, loud = (measure(bonafide * k, spoof * k, settings=NONE).calibration_error for k in (1, 20))
    assert honest < 0.01 and loud > 0.1
    assert measure(bonafide * 1e6, spoof * 1e6, settings=NONE).cllr < math.inf


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_trials_and_lines_is_no_matter(random):
    rows = gaussian(40)
    expected = evaluate(join(scores_of(rows), trials_of(rows)), by=["attack_id"], settings=NONE).to_dict()
    order, lines = random.sample(rows, len(rows)), random.sample(rows, len(rows))
    found = evaluate(join(scores_of(lines), trials_of(order)), by=["attack_id"], settings=NONE).to_dict()
    assert found["tables"] == expected["tables"]
    assert found["overall"].pop("confusion") == expected["overall"].pop("confusion")
    assert found["overall"] == pytest.approx(expected["overall"])


def test_nothing_to_evaluate_and_unknown_columns_are_errors():
    with pytest.raises(ValueError, match="no column codek; they have attack_id, codec, speaker_id"):
        evaluate(joined(), by=["codek"], settings=NONE)
    with pytest.raises(ValueError, match="no column singer"):
        evaluate(joined(), settings=Settings(rounds=0, cluster="singer"))
    with pytest.raises(ValueError, match="no trial has a score"):
        evaluate(join(Scores("x", {}, failed={"b1": "empty"}), trials_of(HAND[:1])), settings=NONE)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_attacks_meet_all_bona_fide_trials():
    (table,) = evaluate(joined(), by=["attack_id"], settings=NONE).tables
    assert (table.column, table.against) == ("attack_id", "all bona fide")
    assert [(g.value, g.bonafide, g.spoof) for g in table.groups] == [("A07", 6, 4), ("A08", 6, 4)]
    bonafide = np.array([row[5] for row in HAND[:6]])
    for group, attack in zip(table.groups, ("A07", "A08"), strict=True):
        assert group.eer == eer(bonafide, np.array([row[5] for row in HAND if row[2] == attack])).eer


def test_codecs_are_evaluated_within_and_one_label_says_so_instead_of_a_number():
    (table,) = evaluate(joined(), by=["codec"], settings=NONE).tables
    assert table.against == "the group's bona fide"
    found = {group.value: group for group in table.groups}
    assert [(g.bonafide, g.spoof) for g in found.values()] == [(3, 4), (3, 3), (0, 1)]
    alaw = [
        np.array([row[5] for row in HAND if row[3] == "alaw" and row[1] == label]) for label in ("bonafide", "spoof")
    ]
    assert found["alaw"].eer == eer(*alaw).eer
    assert (found["opus"].eer, found["opus"].note) == (None, "only spoof")
    assert "only spoof" in evaluate(joined(), by=["codec"], settings=NONE).to_text()


def test_rates_of_a_group_are_at_the_overall_threshold():
    report = evaluate(joined(), by=["codec"], settings=NONE)
    threshold = report.overall.eer_threshold
    for group in report.tables[0].groups:
        rows = [row for row in HAND if row[3] == group.value]
        spoofs = [row[5] for row in rows if row[1] == "spoof"]
        assert group.accepted_spoof == sum(score > threshold for score in spoofs) / len(spoofs)


def test_trials_without_a_value_are_a_group_of_their_own_at_the_end():
    rows = [(*row[:3], None if row[0] in ("b1", "s1") else row[3], *row[4:]) for row in HAND]
    (table,) = evaluate(joined(rows), by=["codec"], settings=NONE).tables
    assert [group.value for group in table.groups] == ["alaw", "gsm", "opus", None]
    assert (table.groups[-1].bonafide, table.groups[-1].spoof) == (1, 1)


def test_groups_hold_every_trial_once():
    report = evaluate(joined(), by=["codec", "speaker_id"], settings=NONE)
    for table in report.tables:
        assert sum(group.bonafide for group in table.groups) == 6 and sum(group.spoof for group in table.groups) == 8


def test_several_corpora_give_a_pooled_rate_and_an_average():
    low = [(*row[:5], row[5] - 10) for row in gaussian(200, seed=1)]
    parts = [joined(gaussian(200, seed=0), name="first"), joined(low, name="second")]
    report = evaluate(*parts, settings=NONE)
    assert [table.column for table in report.tables] == ["corpus"]
    rates = [group.eer for group in report.tables[0].groups]
    alone = [evaluate(part, settings=NONE).overall.eer for part in parts]
    assert rates == alone
    assert report.corpora == {"count": 2, "average_eer": pytest.approx(sum(alone) / 2)}
    assert report.overall.eer > 2 * report.corpora["average_eer"]  # one threshold cannot serve both
    text = report.to_text()
    assert "Pooled EER" in text and "Average EER over 2 corpora" in text


# --- intervals -------------------------------------------------------------------------------------------------------


def test_intervals_say_whether_speakers_or_trials_were_drawn():
    report = evaluate(joined(gaussian()), settings=QUICK)
    assert report.overall.eer_interval.clusters == 10
    assert "bootstrap over 10 speakers, 50 rounds" in report.to_text()
    rows = gaussian()
    rows[0] = (*rows[0][:4], None, rows[0][5])
    report = evaluate(joined(rows), settings=QUICK)
    assert report.overall.eer_interval.clusters is None and "bootstrap over trials" in report.to_text()
    assert any("1 of 300 trials have no speaker_id" in text for text in report.warnings)
    assert evaluate(joined(gaussian()), settings=NONE).overall.eer_interval is None


def test_the_same_seed_gives_the_same_report():
    first, second = (evaluate(joined(gaussian()), by=["attack_id"], settings=QUICK).to_dict() for _ in range(2))
    assert first == second
    other = evaluate(joined(gaussian()), settings=replace(QUICK, seed=1))
    assert other.overall.eer_interval != evaluate(joined(gaussian()), settings=QUICK).overall.eer_interval


def test_an_interval_holds_the_rate_and_groups_have_their_own():
    report = evaluate(joined(gaussian()), by=["attack_id"], settings=QUICK)
    interval = report.overall.eer_interval
    assert interval.low <= report.overall.eer <= interval.high
    assert all(group.eer_interval for group in report.tables[0].groups)


# --- warnings --------------------------------------------------------------------------------------------------------


def test_a_handful_of_trials_has_no_interval():
    """By hand: six bona fide trials meet four spoofs of A07, which are too few, and all eight."""
    report = evaluate(joined(), by=["attack_id"], settings=QUICK)
    assert report.overall.eer_interval is not None
    assert [group.eer_interval for group in report.tables[0].groups] == [None, None]


def test_inverted_scores_are_noticed_and_what_negation_would_give():
    rows = [(*row[:5], -row[5]) for row in gaussian()]
    report = evaluate(joined(rows), settings=NONE)
    right = evaluate(joined(gaussian()), settings=NONE).overall.eer
    (warning,) = report.warnings
    assert "look inverted" in warning and f"{100 * right:.2f} %" in warning
    assert "WARNING   the scores look inverted" in report.to_text()


def test_scores_by_chance_are_not_called_inverted():
    rng = np.random.default_rng(0)
    rows = [(*row[:5], float(rng.normal())) for row in gaussian()]
    assert not any("inverted" in text for text in evaluate(joined(rows), settings=NONE).warnings)
    assert not any("inverted" in text for text in evaluate(joined(gaussian()), settings=NONE).warnings)


def test_no_error_at_all_is_put_in_proportion():
    rows = [(*row[:5], 5.0 if row[1] == "bonafide" else -5.0) for row in gaussian(40)]
    (warning,) = evaluate(joined(rows), settings=NONE).warnings
    assert "no error in 20 trials" in warning and "15 %" in warning


def test_equal_scores_are_told_where_they_matter():
    rows = [(*row[:5], float(round(row[5]))) for row in gaussian()]
    assert any("equal scores" in text for text in evaluate(joined(rows), settings=NONE).warnings)


def test_one_label_alone_says_so_and_keeps_what_can_be_said():
    report = evaluate(joined(HAND[6:]), by=["attack_id"], settings=QUICK)
    assert report.overall.eer is None and report.overall.accuracy == 5 / 8
    assert any("all trials are spoof" in text for text in report.warnings)
    json.dumps(report.to_dict(), allow_nan=False)
    assert "EER threshold" not in report.to_text()


def test_scores_of_two_models_are_not_pooled_in_silence():
    first, second = joined(gaussian(), name="a"), joined(gaussian(), name="b")
    runs = [{"model": {"name": name, "revision": "1"}} for name in ("x", "y")]
    parts = [
        replace(part, source=replace(part.source, run=run)) for part, run in zip((first, second), runs, strict=True)
    ]
    assert any("2 different models" in text for text in evaluate(*parts, settings=NONE).warnings)
    assert not evaluate(parts[0], parts[0], settings=NONE).warnings


# --- JSON ------------------------------------------------------------------------------------------------------------

KEYS = [
    *("schema_version", "spooftrace", "sources", "overall", "skipped", "skipped_examples", "tables"),
    *("corpora", "settings", "comparison", "trained_on", "contamination", "warnings"),
]


@pytest.mark.parametrize("rows", [HAND, HAND[:6], HAND[6:], HAND[5:7]], ids=["all", "bonafide", "spoof", "one each"])
def test_json_has_a_fixed_set_of_keys_and_no_nan(rows):
    report = evaluate(joined(rows), by=["attack_id", "codec"], settings=QUICK)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(found) == KEYS and found["schema_version"] == 1
    whole = json.loads(json.dumps(evaluate(joined(), by=["codec"], settings=QUICK).to_dict()))
    assert list(found["overall"]) == list(whole["overall"])
    assert list(found["sources"][0]) == list(whole["sources"][0])
    groups = [group for report in (found, whole) for table in report["tables"] for group in table["groups"]]
    assert len({tuple(group) for group in groups}) == 1
    report.to_text()


def test_a_report_names_data_scores_and_model_before_any_number():
    text = evaluate(joined(name="my corpus, split test"), settings=NONE).to_text()
    head = text.split("EER")[0]
    assert "Data              my corpus, split test" in head and "Scores            scores.txt" in head
    assert "Model             unknown" in head and "6 bona fide, 8 spoof" in head


def test_names_from_files_cannot_forge_a_line():
    rows = [(*row[:2], row[2] and "A\nEER 0.00 %\x1b[2J", *row[3:]) for row in HAND]
    text = evaluate(joined(rows, name="x\ny"), by=["attack_id"], settings=NONE).to_text()
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith("EER 0.00") for line in text.split("\n"))
    assert printable("a\tb") == "a\\tb"


# --- comparison ------------------------------------------------------------------------------------------------------


def noisy(rows, seed=5, scale=2.0):
    rng = np.random.default_rng(seed)
    return [(*row[:5], row[5] + float(rng.normal(0, scale))) for row in rows]


def test_a_comparison_is_symmetric():
    first, second = joined(gaussian()), joined(noisy(gaussian()))
    there, back = compare(first, second, QUICK), compare(second, first, QUICK)
    assert there.test.first == back.test.second == evaluate(first, settings=NONE).overall.eer
    assert there.test.difference.value == -back.test.difference.value < 0
    assert (there.test.difference.low, there.test.difference.high) == pytest.approx(
        (-back.test.difference.high, -back.test.difference.low)
    )
    assert there.test.p_value == back.test.p_value < 0.1


def test_a_system_does_not_differ_from_itself():
    found = compare(joined(gaussian()), joined(gaussian()), QUICK)
    assert found.test.difference.value == 0 and found.test.p_value == 1


def test_a_comparison_is_of_the_trials_that_both_scored(tmp_path):
    rows = gaussian()
    failed = {"utterance_id": rows[0][0], "error": "AudioError", "message": "empty"}
    part = load_scores(score_folder(tmp_path / "out", rows[1:], [failed]), trials_of(rows))
    found = compare(part, joined(noisy(rows)), QUICK)
    assert found.unpaired == 1 and sum(found.trials) == len(rows) - 1
    assert found.test.second == evaluate(joined(noisy(rows)[1:]), settings=NONE).overall.eer
    text = replace(evaluate(part, settings=QUICK), comparison=found).to_text()
    assert "1 trials left out" in text and "points of EER" in text


def test_other_trials_are_no_comparison():
    with pytest.raises(ValueError, match="one protocol"):
        compare(joined(gaussian(100)), joined(gaussian(90)), QUICK)


# --- figures ---------------------------------------------------------------------------------------------------------


def size_of_png(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


@pytest.fixture(scope="module")
def figures():
    pytest.importorskip("matplotlib")
    from spooftrace import figures

    return figures


@pytest.mark.parametrize("distance", [0.0, 1.0, 50.0, -50.0], ids=["chance", "usual", "perfect", "inverted"])
def test_figures_are_drawn_for_any_system(figures, tmp_path, distance):
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(distance, 1, 60), rng.normal(-distance, 1, 7)
    det = figures.draw_det(tmp_path / "deep" / "det.png", {"a $x": (bonafide, spoof), "b $": (-bonafide, spoof)}, "t")
    histogram = figures.draw_histogram(tmp_path / "h.png", bonafide, spoof, threshold=0.1, title="t")
    confusion = figures.draw_confusion(tmp_path / "c.png", np.array([[3, 1], [0, 0]]), ("bona fide", "spoof"))
    for path in (det, histogram, confusion):
        width, height = size_of_png(path)
        assert width > 600 and height > 600


def test_equal_input_draws_equal_files(figures, tmp_path):
    scores = (np.array([1.0, 2.0]), np.array([0.0, 1.5]))
    first, second = (figures.draw_det(tmp_path / name, {"a": scores}).read_bytes() for name in ("1.png", "2.png"))
    assert first == second


def test_the_probit_is_that_of_the_normal_distribution(figures):
    found = figures.probit(np.array([0.0013498980316, 0.5, 0.8413447460685429]))
    assert found == pytest.approx([-3, 0, 1], abs=1e-5)
