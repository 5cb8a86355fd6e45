"""Classification metrics: scikit-learn's numbers, the papers' random guesser, calibration by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.classification import (
    classification_report,
    confusion_matrix,
    expected_calibration_error,
    normalised_rows,
    random_guess,
    report_of,
)


def test_a_report_by_hand():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 3, 0])
    assert confusion_matrix(labels, predictions, classes=4).tolist() == [
        [2, 1, 0, 0],
        [0, 1, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    report = classification_report(labels, predictions, classes=4)
    assert report.accuracy == 0.5
    assert report.precision == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert report.recall == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert report.f1 == pytest.approx([2 / 3, 1 / 2, 0, 0])
    assert report.support.tolist() == [3, 2, 1, 0]
    assert report.macro_f1 == pytest.approx((2 / 3 + 1 / 2) / 4)
    assert report.weighted_f1 == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 6)
    assert report.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_rows_become_shares_and_empty_ones_zeros():
    assert normalised_rows(np.array([[1, 3], [0, 0]])).tolist() == [[0.25, 0.75], [0, 0]]


labelled = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=40).map(np.array),
    )
)


@settings(max_examples=60, deadline=None)
@given(labelled)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_numbers_are_those_of_scikit_learn(case):
    sklearn = pytest.importorskip("sklearn.metrics")
    classes, pairs = case
    labels, predictions = pairs.T
    report, every = classification_report(labels, predictions, classes=classes), list(range(classes))
    options = {"labels": every, "zero_division": 0}
    expected = sklearn.precision_recall_fscore_support(labels, predictions, **options)
    for ours, theirs in zip((report.precision, report.recall, report.f1, report.support), expected, strict=True):
        assert ours == pytest.approx(theirs)
    assert report.macro_f1 == pytest.approx(sklearn.f1_score(labels, predictions, average="macro", **options))
    assert report.weighted_f1 == pytest.approx(sklearn.f1_score(labels, predictions, average="weighted", **options))
    assert report.accuracy == pytest.approx(sklearn.accuracy_score(labels, predictions))
    assert report.balanced_accuracy == pytest.approx(sklearn.balanced_accuracy_score(labels, predictions))
    confusion = confusion_matrix(labels, predictions, classes=classes)
    assert (confusion == sklearn.confusion_matrix(labels, predictions, labels=every)).all()
    shares = sklearn.confusion_matrix(labels, predictions, labels=every, normalize="true")
    assert normalised_rows(confusion) == pytest.approx(shares)


# Class counts of CodecFake+ (bona fide first), the F1 that uniform guessing is expected to have there, and the "Random" row
# of the SASTNet paper, which is one draw of it: CoRS, then CoSG with known codecs, then all of CoSG.
RANDOM_ROW = {
    "vq": [((755, 18120, 3020, 1510), 32.30, 32.26), ((259, 249, 6, 63), 29.76, 29.21), ((866, 848, 20, 63), 31.53, 30.79)],
    "aux": [((755, 12835, 6040, 3775), 28.73, 28.78), ((259, 275, 5, 38), 30.75, 30.94), ((866, 874, 5, 52), 32.08, 31.04)],
    "dec": [((755, 13590, 9060), 38.65, 38.97), ((259, 240, 78), 35.17, 36.89), ((866, 263, 668), 35.03, 34.37)],
}  # fmt: skip


@pytest.mark.parametrize("support, expected, paper", [row for rows in RANDOM_ROW.values() for row in rows])
def test_the_weighted_f1_of_guessing_is_the_papers(support, expected, paper):
    report = report_of(random_guess(np.array(support)))
    assert 100 * report.weighted_f1 == pytest.approx(expected, abs=0.005)
    # Twice the spread of one draw; a macro average would be up to 15 percentage points away on CoRS.
    assert 100 * report.weighted_f1 == pytest.approx(paper, abs=2 * 50 / np.sqrt(sum(support)) + 0.05)


def test_the_macro_f1_of_guessing_is_not_the_papers():
    report = report_of(random_guess(np.array(RANDOM_ROW["vq"][0][0])))
    assert 100 * report.macro_f1 == pytest.approx(17.7, abs=0.05)


@pytest.mark.parametrize(
    "labels, predictions, words",
    [
        ([0, -100], [0, 0], "1 of 2 labels are not between 0 and 2, such as -100"),
        ([0, 1], [0, 3], "1 of 2 predictions are not between 0 and 2, such as 3"),
        ([0.0, 1.0], [0, 1], "integers"),
        ([], [], "at least one"),
        ([[0, 1]], [[0, 1]], r"shape \(1, 2\)"),
        ([0, 1], [0], "2 labels and 1 predictions"),
    ],
)
def test_unusable_labels_are_refused(labels, predictions, words):
    with pytest.raises(ValueError, match=words):
        confusion_matrix(np.array(labels), np.array(predictions), classes=3)


def test_a_confusion_matrix_without_trials_is_refused():
    with pytest.raises(ValueError, match="no trials"):
        report_of(np.zeros((2, 2)))


def test_calibration_errors_by_hand():
    probability, outcome = np.array([0.05, 0.95, 0.95, 1.0]), np.array([False, True, False, True])
    # First bin: gap 0.05 over one trial; last bin: stated 2.9 of three, observed 2.
    assert expected_calibration_error(probability, outcome) == pytest.approx((0.05 + 0.9) / 4)
    # Balanced, each trial of two per outcome weighs the same here.
    assert expected_calibration_error(probability, outcome, balanced=True) == pytest.approx((0.05 + 0.9) / 4)


def test_balanced_calibration_does_not_hang_on_the_mix():
    probability, outcome = np.array([0.2, 0.2, 0.8, 0.8]), np.array([False, True, True, False])
    many = np.repeat([0, 1, 2, 3], [50, 1, 1, 50])
    measure, thrice = expected_calibration_error, np.where(outcome, 1, 3)
    assert measure(probability[many], outcome[many], balanced=True) != measure(probability[many], outcome[many])
    balanced = measure(np.repeat(probability, thrice), np.repeat(outcome, thrice), balanced=True)
    assert balanced == pytest.approx(measure(probability, outcome))


def test_a_calibrated_forecast_has_no_calibration_error():
    rng = np.random.default_rng(0)
    probability = rng.random(200_000)
    outcome = rng.random(200_000) < probability
    assert expected_calibration_error(probability, outcome) < 0.01


def test_unusable_forecasts_are_refused():
    with pytest.raises(ValueError, match="2 of 3 probabilities"):
        expected_calibration_error(np.array([0.5, 1.5, np.nan]), np.ones(3, bool))
    with pytest.raises(ValueError, match="one probability and one outcome"):
        expected_calibration_error(np.array([0.5]), np.ones(3, bool))
    with pytest.raises(ValueError, match="both outcomes"):
        expected_calibration_error(np.array([0.5]), np.array([True]), balanced=True)
