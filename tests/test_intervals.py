"""Bootstrap intervals and paired tests: what they equal, cover, and refuse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.intervals import (
    Resampler,
    bootstrap_interval,
    eer_interval,
    mcnemar,
    paired_test,
    pooled_and_average,
)
from spooftrace.metrics import cllr, eer


coarse = st.lists(st.integers(-8, 8).map(lambda value: value / 4), min_size=2, max_size=20).map(np.array)


def speakers_of(scores: np.ndarray, offset: int = 0) -> list[str]:
    """Four speakers in turn."""
    return [f"speaker {(number + offset) % 4}" for number in range(len(scores))]


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("method", ["asvspoof", "merged"])
@settings(max_examples=25, deadline=None)
@given(bonafide=coarse, spoof=coarse, seed=st.integers(0, 99))
def test_the_fast_path_is_the_eer_of_the_resampled_scores(method, clustered, bonafide, spoof, seed):
    options = {"rounds": 12, "seed": seed}
    if clustered:
        options |= {"bonafide_speakers": speakers_of(bonafide), "spoof_speakers": speakers_of(spoof, 1)}
    slow = bootstrap_interval(lambda *scores: eer(*scores, method=method).eer, bonafide, spoof, **options)
    assert eer_interval(bonafide, spoof, method=method, **options) == slow


def test_a_seed_gives_the_same_interval_and_another_seed_another():
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(1, 1, 50), rng.normal(-1, 1, 50)
    first, again, other = (eer_interval(bonafide, spoof, rounds=50, seed=seed) for seed in (3, 3, 4))
    assert first == again and first != other
    assert first.low < first.value == eer(bonafide, spoof).eer < first.high
    assert (first.level, first.rounds, first.clusters) == (0.95, 50, None)
    narrow = eer_interval(bonafide, spoof, rounds=50, seed=3, level=0.5)
    assert first.low < narrow.low < narrow.high < first.high


def test_intervals_of_any_statistic():
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(2, 2, 400), rng.normal(-2, 2, 400)
    gap = bootstrap_interval(lambda b, s: b.mean() - s.mean(), bonafide, spoof, rounds=400)
    error = math.sqrt(bonafide.var() / 400 + spoof.var() / 400)
    assert gap.low == pytest.approx(gap.value - 1.96 * error, abs=0.3 * error)
    assert gap.high == pytest.approx(gap.value + 1.96 * error, abs=0.3 * error)
    calibration = bootstrap_interval(cllr, bonafide, spoof, rounds=50)
    assert calibration.low < cllr(bonafide, spoof) < calibration.high


def clustered_trials(rng: np.random.Generator, speakers: int, spread: float, trials: int = 10) -> tuple:
    """Bona fide scores, spoofs and speakers, some of whom are easier to judge, which makes their trials dependent."""
    names = np.repeat(np.arange(speakers), trials)
    ease = 1 + spread * rng.normal(size=speakers)[names]
    return rng.normal(ease, 1), rng.normal(-ease, 1), names


def coverage(spread: float, clustered: bool, rate: float, repetitions: int = 120) -> float:
    rng = np.random.default_rng(7)
    inside = 0
    for seed in range(repetitions):
        bonafide, spoof, names = clustered_trials(rng, 25, spread)
        options = {"bonafide_speakers": names, "spoof_speakers": names} if clustered else {}
        interval = eer_interval(bonafide, spoof, rounds=150, level=0.9, seed=seed, **options)
        inside += interval.low <= rate <= interval.high
    return inside / repetitions


def test_nine_of_ten_intervals_hold_the_true_rate():
    """P(z < -1) for independent trials; 0.9 +- 3 standard deviations of 120 repetitions, and a small bootstrap's shortfall."""
    assert coverage(0.0, clustered=False, rate=0.158655) == pytest.approx(0.9, abs=0.09)


def test_speakers_that_differ_need_clustered_intervals():
    """With ease of variance 1, the true rate is P(z < -1 / sqrt(2)); trials taken for independent promise too much."""
    by_trials, by_speakers = (coverage(1.0, clustered, rate=0.239750) for clustered in (False, True))
    assert by_speakers > 0.78 and by_trials < by_speakers - 0.2


def test_all_trials_of_a_drawn_speaker_come_along():
    resampler = Resampler(3, 3, ["a", "b", "a"], ["b", "c", "b"])
    assert resampler.clusters == 3
    for seed in range(20):
        times = resampler.draw(np.random.default_rng(seed))
        bonafide, spoof = (count[unit] for count, unit in zip(times, resampler.units(), strict=True))
        assert bonafide[0] == bonafide[2] and spoof[0] == spoof[2] == bonafide[1]
        assert bonafide[0] + bonafide[1] + spoof[1] == 3
        assert bonafide.sum() and spoof.sum()


def test_draws_without_a_label_are_repeated_and_counted():
    bonafide, spoof = np.array([1.0, 2.0]), np.arange(-8.0, 0.0)
    interval = eer_interval(
        bonafide, spoof, bonafide_speakers=["only one", "only one"], spoof_speakers=list("abcdefgh"), rounds=100
    )
    assert interval.redrawn > 20 and interval.clusters == 9
    assert eer_interval(bonafide, spoof, rounds=100).redrawn == 0


def test_what_cannot_be_resampled_is_refused():
    two = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="two trials of each label, got 1 bona fide and 2 spoof"):
        eer_interval(two[:1], two)
    with pytest.raises(ValueError, match="for neither"):
        eer_interval(two, two, bonafide_speakers=["a", "b"])
    with pytest.raises(ValueError, match="2 spoof trials have 3 speakers"):
        eer_interval(two, two, bonafide_speakers=["a", "b"], spoof_speakers=["a", "b", "c"])
    for nothing in (None, "", math.nan, np.float32("nan"), np.datetime64("NaT")):
        with pytest.raises(ValueError, match="1 spoof trials have no speaker"):
            eer_interval(two, two, bonafide_speakers=["a", "b"], spoof_speakers=["a", nothing])
    with pytest.raises(ValueError, match="one speaker"):
        eer_interval(two, two, bonafide_speakers=["a", "a"], spoof_speakers=["a", "a"])
    with pytest.raises(ValueError, match="at least one round"):
        eer_interval(two, two, rounds=0)
    with pytest.raises(ValueError, match="level"):
        eer_interval(two, two, level=95)
    with pytest.raises(ValueError, match="go through bootstrap_interval"):
        eer_interval(two, two, method="rocch")
    with pytest.raises(ValueError, match="1 of 2 spoof scores are not finite"):
        bootstrap_interval(cllr, two, np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="no bona fide scores"):
        bootstrap_interval(cllr, [], two)


def test_the_missing_speakers_of_a_table_are_missing():
    pandas = pytest.importorskip("pandas")
    two = np.array([0.0, 1.0])
    for nothing in (pandas.NA, pandas.NaT):
        with pytest.raises(ValueError, match="1 bona fide trials have no speaker"):
            eer_interval(two, two, bonafide_speakers=["a", nothing], spoof_speakers=["a", "b"])


def test_a_paired_test_sees_what_separate_intervals_hide():
    """Two systems whose errors go together: the difference is far surer than either rate."""
    rng = np.random.default_rng(0)
    first = rng.normal(1, 1, 400), rng.normal(-1, 1, 400)
    second = first[0] - 0.15 + rng.normal(0, 0.1, 400), first[1] + 0.15 + rng.normal(0, 0.1, 400)
    test = paired_test(first, second, rounds=200)
    assert test.difference.value == pytest.approx(test.first - test.second)
    assert (test.first, test.second) == (eer(*first).eer, eer(*second).eer)
    assert test.difference.high < 0 and test.p_value < 0.05
    one, other = eer_interval(*first, rounds=200), eer_interval(*second, rounds=200)
    assert one.high > other.low
    assert test.difference.high - test.difference.low < (one.high - one.low) / 1.5
    assert test.mcnemar.only_first_wrong < test.mcnemar.only_second_wrong and test.mcnemar.p_value < 0.05
    reverse = paired_test(second, first, rounds=200)
    assert reverse.difference.value == -test.difference.value and reverse.p_value == test.p_value


def test_a_system_does_not_differ_from_itself():
    rng = np.random.default_rng(0)
    scores = rng.normal(1, 1, 40), rng.normal(-1, 1, 60)
    names = [np.arange(40) % 7, np.arange(60) % 7]
    test = paired_test(scores, scores, bonafide_speakers=names[0], spoof_speakers=names[1], rounds=30)
    assert (test.difference.low, test.difference.high, test.p_value) == (0, 0, 1)
    assert (test.difference.clusters, test.mcnemar.p_value) == (7, 1)


@pytest.mark.parametrize("rounds", [10, 99])
def test_no_p_value_is_smaller_than_the_rounds_can_tell(rounds):
    """The first system is always right and the second always wrong: no round reaches 0."""
    low, high = np.arange(-20.0, 0.0), np.arange(1.0, 21.0)
    test = paired_test((high, low), (low, high), rounds=rounds)
    assert test.difference.high < 0 and test.p_value == pytest.approx(2 / (rounds + 1))


def test_trials_at_the_threshold_are_refused():
    """The first threshold is 0, a bona fide trial's, which is an error; the second one -1, a spoof's, which is none."""
    first = np.array([0.0, 2.0, 3.0]), np.array([-2.0, -1.0, 1.0])
    second = np.array([1.0, 2.0, 3.0]), np.array([-3.0, -2.0, -1.0])
    assert [eer(*scores).threshold for scores in (first, second)] == [0, -1]
    found = paired_test(first, second, rounds=2).mcnemar
    assert (found.only_first_wrong, found.only_second_wrong, found.p_value) == (2, 0, 0.5)


def test_a_paired_test_needs_the_same_trials():
    two, three = np.array([0.0, 1.0]), np.array([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 3\)"):
        paired_test((two, two), (two, three))
    with pytest.raises(ValueError, match="second system's spoof scores are not finite"):
        paired_test((two, two), (two, np.array([0.0, np.inf])))


def test_mcnemar_is_the_binomial_test_on_disagreements():
    first = np.array([True] * 1 + [False] * 5 + [True] * 10)
    second = np.array([False] * 1 + [True] * 5 + [True] * 10)
    found = mcnemar(first, second)
    assert (found.only_first_wrong, found.only_second_wrong) == (1, 5)
    assert found.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(first, first).p_value == 1
    with pytest.raises(ValueError, match="trials"):
        mcnemar(first, second[:3])


def test_the_normal_approximation_is_corrected_for_continuity():
    """450 against 551: chi squared is (101 - 1)^2 / 1001 with one degree of freedom; uncorrected, p would be 0.00141."""
    wrong = np.arange(1001) < 450
    assert mcnemar(wrong, ~wrong).p_value == pytest.approx(0.00157391750555, rel=1e-9)


@pytest.mark.parametrize("fewer", [400, 450, 500])
def test_the_normal_approximation_continues_the_exact_test(fewer):
    p_values = []
    for total in (1000, 1001):
        wrong = np.arange(total) < fewer
        p_values.append(mcnemar(wrong, ~wrong).p_value)
    assert p_values[1] == pytest.approx(p_values[0], rel=0.2, abs=1e-4)


def test_average_and_pooled_rates_over_corpora():
    shifted = {
        "one": (np.array([1.0, 2.0]), np.array([-1.0, 0.0])),
        "two": (np.array([11.0, 12.0]), np.array([9.0, 10.0])),
    }
    result = pooled_and_average(shifted)
    assert [rate.eer for rate in result.per_corpus.values()] == [0, 0] and result.average == 0
    assert result.pooled.eer == 0.5  # no threshold serves both
    with pytest.raises(ValueError, match="no corpora"):
        pooled_and_average({})
    with pytest.raises(ValueError, match="no two spoof scores"):
        pooled_and_average({"two": (np.ones(2), np.array([]))})
