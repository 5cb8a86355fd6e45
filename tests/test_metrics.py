"""Detection metrics: the evaluation packages' numbers, closed forms, properties, and what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from spooftrace import metrics
from spooftrace.metrics import (
    A_DCF_PACKAGE_COSTS,
    ASVSPOOF5_ASV,
    AsvErrorRates,
    Costs,
    a_dcf,
    act_dcf,
    asv_error_rates,
    auc,
    cllr,
    det_curve,
    eer,
    min_dcf,
    min_tdcf,
    rates_at,
    t_eer,
)


def close(value: float):
    return pytest.approx(value, abs=1e-9)


def wave(trials: int, step: float, mean: float) -> np.ndarray:
    return mean + 2 * np.sin(step * np.arange(trials))


def formula_scores(decimals: int | None) -> dict[str, np.ndarray]:
    """Scores that any machine reproduces; many are equal where they are rounded."""
    scores = {
        "bonafide": wave(60, 0.7, 1.2),
        "spoof": wave(110, 1.3, -0.9),
        "asv_target": wave(50, 0.9, 1.6),
        "asv_nontarget": wave(70, 1.1, -1.4),
        "asv_spoof": wave(90, 0.37, 0.4),
    }
    return scores if decimals is None else {name: np.round(values, decimals) for name, values in scores.items()}


# By the functions of the ASVspoof 5 evaluation package (t-DCF of 2019: its legacy function), for formula_scores.
PACKAGE = {
    None: {
        "eer": (0.3, 0.3110797394392021),
        "min_dcf": (0.4909090909090909, -0.8946710647704791),
        "act_dcf": 0.6445454545454545,
        "cllr": 0.685874787363057,
        "asv": (0.2, 0.22857142857142856, 0.5555555555555556, 0.12044282984421328),
        "2019": (0.49090909090909096, -0.8946710647704791),
        "2021": (0.7099744807137468, -0.8946710647704791),
        "asvspoof5": (0.5305844208256857, -0.8946710647704791),
        "a_dcf": (0.6126850740296118, -0.43803271304820124),
        "a_dcf_package": (0.68, 2.3967833794385665),
        "t_eer": (0.2545454545454546, -0.06253327574464329, -0.37897416650907023),
    },
    1: {
        "eer": (0.31287878787878787, 0.3),
        "min_dcf": (0.4909090909090909, -0.9),
        "act_dcf": 0.6445454545454545,
        "cllr": 0.6870315349669751,
        "asv": (0.14, 0.22857142857142856, 0.5555555555555556, 0.1),
        "2019": (0.49090909090909096, -0.9),
        "2021": (0.6720162709381214, -0.9),
        "asvspoof5": (0.5305844208256857, -0.9),
        "a_dcf": (0.6149659863945578, -0.5),
        "a_dcf_package": (0.7, 2.4),
        "t_eer": (0.28484848484848485, -0.5, -0.4),
    },
}


@pytest.mark.parametrize("decimals", [None, 1])
def test_numbers_are_those_of_the_evaluation_package(decimals):
    scores, expected = formula_scores(decimals), PACKAGE[decimals]
    cm = scores["bonafide"], scores["spoof"]
    asv = scores["asv_target"], scores["asv_nontarget"], scores["asv_spoof"]
    assert eer(*cm) == close(expected["eer"])
    assert min_dcf(*cm) == close(expected["min_dcf"])
    assert act_dcf(*cm) == close((expected["act_dcf"], -0.6418538861723947))
    assert cllr(*cm) == close(expected["cllr"])
    rates = asv_error_rates(*asv)
    assert (rates.miss, rates.false_alarm, rates.spoof_false_alarm, rates.threshold) == close(expected["asv"])
    for version in ("2019", "2021"):
        assert min_tdcf(*cm, rates, version=version) == close(expected[version])
    assert min_tdcf(*cm, ASVSPOOF5_ASV) == close(expected["asvspoof5"])
    assert a_dcf(*asv) == close(expected["a_dcf"])
    assert a_dcf(*asv, costs=A_DCF_PACKAGE_COSTS) == close(expected["a_dcf_package"])
    assert t_eer(*cm, *asv) == close(expected["t_eer"])


@pytest.mark.parametrize("name", ["small", "separable"])
def test_golden_numbers(golden_dir, name):
    expected = json.loads((golden_dir / "metrics_values.json").read_text())["values"][name]
    tensors = load_file(golden_dir / "metrics_inputs.safetensors")
    scores = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    cm = scores["bonafide"], scores["spoof"]
    rates = asv_error_rates(scores["asv_target"], scores["asv_nontarget"], scores["asv_spoof"])
    sasv = scores["sasv_target"], scores["sasv_nontarget"], scores["sasv_spoof"]
    found = {
        "eer": eer(*cm).eer,
        "eer_threshold": eer(*cm).threshold,
        "minDCF": min_dcf(*cm).cost,
        "minDCF_threshold": min_dcf(*cm).threshold,
        "actDCF": act_dcf(*cm).cost,
        "actDCF_threshold": act_dcf(*cm).threshold,
        "CLLR_bits": cllr(*cm),
        "asv_eer": eer(scores["asv_target"], scores["asv_nontarget"]).eer,
        "asv_threshold": rates.threshold,
        "Pfa_asv": rates.false_alarm,
        "Pmiss_asv": rates.miss,
        "Pmiss_spoof_asv": rates.spoof_miss,
        "Pfa_spoof_asv": rates.spoof_false_alarm,
        "min_tDCF_2019_legacy": min_tdcf(*cm, rates, version="2019").cost,
        "min_tDCF_2019_threshold": min_tdcf(*cm, rates, version="2019").threshold,
        "min_tDCF_2021": min_tdcf(*cm, rates).cost,
        "min_tDCF_2021_threshold": min_tdcf(*cm, rates).threshold,
        "min_tDCF_asvspoof5_default_asv": min_tdcf(*cm, ASVSPOOF5_ASV).cost,
        "a_dcf_asvspoof5": a_dcf(*sasv).cost,
        "a_dcf_threshold": a_dcf(*sasv).threshold,
        "a_dcf_package_default": a_dcf(*sasv, costs=A_DCF_PACKAGE_COSTS).cost,
    }
    assert found == close(expected)


def test_the_curve_passes_equal_scores_one_by_one_bona_fide_first():
    curve = det_curve(np.array([1.0, 0.0]), np.array([0.0, -1.0, -1.0]))
    assert curve.miss.tolist() == [0, 0, 0, 0.5, 0.5, 1]
    assert curve.false_alarm == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 0, 0])
    assert curve.thresholds.tolist() == [-1.001, -1, -1, 0, 0, 1]
    assert curve.reachable().tolist() == [True, False, True, False, True, True]


def test_the_first_threshold_accepts_everything_however_large_the_scores():
    assert det_curve(np.array([-1e300, 1.0]), np.array([0.0])).thresholds[0] < -1e300


def test_the_definitions_of_the_eer_differ_where_they_should():
    constant = np.zeros(4), np.zeros(6)
    assert [eer(*constant, method=method).eer for method in ("asvspoof", "merged", "rocch")] == [1, 0.5, 0.5]
    inverted = np.array([-2.0, -1.0]), np.array([1.0, 2.0])
    assert [eer(*inverted, method=method).eer for method in ("asvspoof", "merged", "rocch")] == [1, 1, 0.5]
    # Corners of the hull: (miss, false alarm) = (0, 1/3) and (1/2, 0); miss / (1/2) + false alarm / (1/3) = 1 on the diagonal.
    uneven = np.array([0.0, 3.0]), np.array([-2.0, -1.0, 2.0])
    assert eer(*uneven, method="rocch").eer == pytest.approx(1 / 5)
    assert eer(*uneven) == (pytest.approx(5 / 12), 0.0)


def test_the_threshold_of_the_hull_is_that_of_the_corner_nearer_to_the_diagonal():
    """Corners (0, 1/3), where -1 was passed last, and (miss, 0), where 2 was: the rates differ by 1/3 there, and by miss."""
    spoof = np.array([-2.0, -1.0, 2.0])
    for bonafide, miss, threshold in (([0.0, 3.0], 1 / 2, -1.0), ([0.0, 3.0, 4.0, 5.0], 1 / 4, 2.0)):
        found = eer(np.array(bonafide), spoof, method="rocch")
        assert found == (pytest.approx(miss / 3 / (miss + 1 / 3)), threshold)


def test_closed_forms_for_normal_scores():
    """For log-likelihood ratios of two normal distributions 2 apart, the EER is P(z < -1) and the AUC P(z < sqrt(2))."""
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(2, 2, 20_000), rng.normal(-2, 2, 30_000)
    for method in ("asvspoof", "merged", "rocch"):
        assert eer(bonafide, spoof, method=method).eer == pytest.approx(0.158655, abs=0.005)
    assert auc(bonafide, spoof) == pytest.approx(0.921350, abs=0.003)
    grid = np.linspace(-30, 30, 60_001)
    density = np.exp(-((grid - 2) ** 2) / 8) / math.sqrt(8 * math.pi)
    expected = (density * np.log2(1 + np.exp(-grid))).sum() * 0.001
    assert cllr(bonafide, spoof) == pytest.approx(expected, abs=0.01)
    # Calibrated scores lose nothing by Bayes's threshold.
    assert act_dcf(bonafide, spoof).cost == pytest.approx(min_dcf(bonafide, spoof).cost, abs=0.01)


def test_costs_by_hand():
    bonafide, spoof = np.array([-1.0, 0.5, 2.0, 3.0]), np.array([-3.0, -2.0, 0.0, 1.0])
    # At -2, half of the spoofs pass and nothing is missed: 0.5 * 0.5; at 0, a quarter each: 0.25 * (0.95 + 0.5), dearer.
    assert min_dcf(bonafide, spoof) == (pytest.approx(0.5 * 0.5 / min(0.95, 0.5)), -2.0)
    assert act_dcf(bonafide, spoof).cost == pytest.approx((0.95 * 0.25 + 0.5 * 0.5) / 0.5)
    assert cllr(np.array([0.0]), np.array([0.0])) == pytest.approx(1)
    assert cllr(np.array([math.log(3)]), np.array([0.0])) == pytest.approx((math.log2(4 / 3) + 1) / 2)
    assert auc(np.array([1.0, 2.0]), np.array([0.0, 1.0])) == 3.5 / 4


def test_a_score_equal_to_a_fixed_threshold_is_accepted():
    assert rates_at(np.array([0.0, 1.0]), np.array([0.0, -1.0]), threshold=0.0) == (0, 0.5)
    assert rates_at(np.array([0.0, 1.0]), np.array([0.0, -1.0]), threshold=1e-9) == (0.5, 0)


def test_cllr_of_huge_scores_is_finite():
    with np.errstate(all="raise", under="ignore"):
        assert cllr(np.array([-1e5]), np.array([1e5])) == pytest.approx(1e5 / math.log(2))
        assert cllr(np.array([1e5]), np.array([-1e5])) == 0


def test_a_perfect_countermeasure_pays_for_the_speaker_verification_behind_it():
    perfect = np.array([1.0, 2.0]), np.array([-1.0, -2.0])
    asv = AsvErrorRates(miss=0.1, false_alarm=0.2, spoof_false_alarm=0.5)
    floor = 0.9405 * 0.1 + 0.0095 * 10 * 0.2
    assert min_tdcf(*perfect, asv, version="2019").cost == 0
    assert min_tdcf(*perfect, asv).cost == pytest.approx(floor / (floor + min(0.9405 - floor, 0.05 * 10 * 0.5)))
    # Refusing everyone is never dearer than the reference.
    assert min_tdcf(np.zeros(3), np.ones(3), asv).cost == pytest.approx(1)


def test_the_tdcf_takes_the_share_of_spoofs_that_were_accepted():
    """The evaluation package of ASVspoof 5 takes the share refused when it is given ASV scores."""
    rates = asv_error_rates(np.array([3.0, 4.0, 5.0]), np.array([0.0, 1.0, 2.0]), np.array([0.0, 9.0, 9.0, 9.0]))
    assert (rates.spoof_false_alarm, rates.spoof_miss) == (0.75, 0.25)
    half = np.array([0.0, 2.0]), np.array([1.0, -1.0])  # best: all bona fide and half of the spoofs pass
    assert min_tdcf(*half, rates, version="2019").cost == pytest.approx(0.5)


def test_the_tdcf_refuses_useless_speaker_verification():
    scores = np.ones(2), np.zeros(2)
    with pytest.raises(ValueError, match="refusing everyone"):
        min_tdcf(*scores, AsvErrorRates(1.0, 0.1, 0.5))
    no_spoof_passes = AsvErrorRates(0.1, 0.1, 0.0)
    with pytest.raises(ValueError, match="stops every spoof"):
        min_tdcf(*scores, no_spoof_passes, version="2019")
    assert min_tdcf(*scores, no_spoof_passes).cost == 1  # nothing for a countermeasure to gain


def brute_t_eer(bonafide, spoof, target, nontarget, asv_spoof) -> float:
    """The search of [`t_eer`] over every pair of thresholds, one at a time."""

    def points(first, *others):
        pooled = sorted((score, kind) for kind, group in enumerate((first, *others)) for score in group)
        counts = [np.zeros(1 + len(others))]
        for _, kind in pooled:
            counts.append(counts[-1] + (np.arange(1 + len(others)) == kind))
        return np.array(counts) / [len(first), *map(len, others)]

    nearest, rate = math.inf, math.nan
    cm = points(bonafide, spoof)
    for miss, refused, spoof_refused in points(target, nontarget, asv_spoof):
        if not miss < 1 - (refused + spoof_refused) / 2 or spoof_refused == 1:
            continue
        passed, passed_spoofs = 1 - cm[:, 0], 1 - cm[:, 1]
        misses = 1 - passed * (1 - miss)
        alarms = (passed * (1 - refused) + passed_spoofs * (1 - spoof_refused)) / 2
        best = np.argmin(np.round(np.abs(misses - alarms), 12))
        distance = abs((1 - refused) / (1 - spoof_refused) - passed_spoofs[best] / max(passed[best], 1e-300))
        if distance < nearest - 1e-12:
            nearest, rate = distance, (1 - spoof_refused) * passed_spoofs[best]
    return rate


@pytest.mark.parametrize("seed", range(8))
def test_the_fast_search_for_the_t_eer_finds_what_the_full_one_finds(seed):
    rng = np.random.default_rng(seed)
    means = (1, -1, 1.5, -1, 0.5)
    scores = [np.round(rng.normal(mean, 1, rng.integers(20, 40)), 2 - seed % 2) for mean in means]
    assert t_eer(*scores).t_eer == pytest.approx(brute_t_eer(*scores), abs=1e-9)


def test_the_t_eer_is_where_all_three_error_rates_meet():
    """To this ASV system, spoofs sound like the target speaker."""
    rng = np.random.default_rng(1)
    trials = 20_000
    cm = rng.normal(3, 1, trials), rng.normal(0, 1, trials)
    asv = rng.normal(3, 1, trials), rng.normal(0, 1, trials), rng.normal(3, 1, trials)
    rate, cm_threshold, asv_threshold = t_eer(*cm, *asv)
    miss_cm, fa_cm = rates_at(*cm, threshold=cm_threshold)
    miss_asv, fa_asv = rates_at(asv[0], asv[1], threshold=asv_threshold)
    spoofs = np.mean(asv[2] >= asv_threshold)
    for found in (1 - (1 - miss_cm) * (1 - miss_asv), (1 - miss_cm) * fa_asv, fa_cm * spoofs):
        assert found == pytest.approx(rate, abs=2e-3)


def test_the_t_eer_of_perfect_systems_is_zero_and_of_one_trial_each_is_refused():
    ones, zeros = np.arange(5.0) + 10, np.arange(5.0)
    assert t_eer(ones, zeros, ones, zeros, ones).t_eer == 0
    with pytest.raises(ValueError, match="too few trials"):
        t_eer(np.zeros(1), np.ones(1), np.zeros(1), np.ones(1), np.ones(1))


ONE_EACH = {
    "eer": 2,
    "min_dcf": 2,
    "act_dcf": 2,
    "cllr": 2,
    "auc": 2,
    "det_curve": 2,
    "asv_error_rates": 3,
    "a_dcf": 3,
    "t_eer": 5,
}


@pytest.mark.parametrize("name", ONE_EACH)
def test_unusable_scores_are_refused_by_name(name):
    function = getattr(metrics, name)
    for place in range(ONE_EACH[name]):
        for bad, words in (
            (np.array([]), r"there are no .* scores"),
            (np.array([1.0, np.nan, np.inf]), r"2 of 3 .* scores are not finite"),
            ([None, 1.0], r"1 of 2 .* scores are not finite"),
            (np.ones((2, 1)), r"shape \(2, 1\)"),
        ):
            sets = [np.arange(4.0) for _ in range(ONE_EACH[name])]
            sets[place] = bad
            with pytest.raises(ValueError, match=words):
                function(*sets)


def test_the_refused_set_is_named():
    with pytest.raises(ValueError, match="no bona fide scores"):
        eer([], [1.0])
    with pytest.raises(ValueError, match="no spoof scores"):
        eer([1.0], [])
    with pytest.raises(ValueError, match="no ASV non-target scores"):
        asv_error_rates([1.0], [], [1.0])


def test_wrong_options_are_refused():
    scores = np.array([1.0]), np.array([0.0])
    with pytest.raises(ValueError, match="method"):
        eer(*scores, method="interpolated")
    with pytest.raises(ValueError, match="version"):
        min_tdcf(*scores, ASVSPOOF5_ASV, version="2020")
    for options in ({"p_spoof": 1.0}, {"c_miss": 0.0}, {"c_fa": -1.0}):
        with pytest.raises(ValueError, match="p_spoof lies"):
            min_dcf(*scores, **options)
        with pytest.raises(ValueError, match="p_spoof lies"):
            act_dcf(*scores, **options)
    with pytest.raises(ValueError, match="sum to 1"):
        Costs(0.9, 0.1, 0.1, 1, 1, 1)
    with pytest.raises(ValueError, match="not be negative"):
        Costs(0.9, 0.05, 0.05, 1, -1, 1)
    with pytest.raises(ValueError, match="costs nothing"):
        a_dcf(*scores, scores[1], costs=Costs(0.9, 0.05, 0.05, 1, 0, 0))
    with pytest.raises(ValueError, match="share between 0 and 1"):
        AsvErrorRates(miss=0.1, false_alarm=18.8, spoof_false_alarm=0.5)


# Coarse values make equal scores common; all are exact in binary, so that maps keep them apart or equal.
coarse = st.lists(st.integers(-8, 8).map(lambda value: value / 4), min_size=1, max_size=25).map(np.array)
METHODS = ("asvspoof", "merged", "rocch")


@settings(max_examples=60, deadline=None)
@given(coarse, coarse)
def test_rates_and_costs_stay_in_their_range(bonafide, spoof):
    for method in METHODS:
        rate = eer(bonafide, spoof, method=method).eer
        assert 0 <= rate <= (0.5 if method == "rocch" else 1)
    assert 0 <= min_dcf(bonafide, spoof).cost <= 1
    assert 0 <= a_dcf(bonafide, spoof, spoof[:1]).cost <= 1
    assert 0 <= min_tdcf(bonafide, spoof, ASVSPOOF5_ASV).cost <= 1 + 1e-12
    assert min_dcf(bonafide, spoof).cost <= act_dcf(bonafide, spoof).cost + 1e-12
    assert cllr(bonafide, spoof) >= 0


@settings(max_examples=60, deadline=None)
@given(coarse, coarse, st.randoms(use_true_random=False))
def test_order_and_rising_maps_of_scores_change_nothing(bonafide, spoof, random):
    shuffled = [np.array(random.sample(list(scores), len(scores))) for scores in (bonafide, spoof)]
    mapped = [np.exp(scores) * 3 - 7 for scores in (bonafide, spoof)]
    for method in METHODS:
        rate = eer(bonafide, spoof, method=method)
        assert eer(*shuffled, method=method) == rate
        assert eer(*mapped, method=method).eer == rate.eer
    assert auc(*mapped) == auc(bonafide, spoof)
    assert min_dcf(*mapped).cost == min_dcf(bonafide, spoof).cost == min_dcf(*shuffled).cost


@settings(max_examples=60, deadline=None)
@given(coarse, coarse)
def test_negated_scores_get_the_complement(bonafide, spoof):
    curve = det_curve(bonafide, spoof)
    gaps = np.round(np.abs(curve.miss - curve.false_alarm), 12)[curve.reachable()]
    assume(np.count_nonzero(gaps == gaps.min()) == 1)  # of two points equally near, both take the first
    assert eer(-bonafide, -spoof, method="merged").eer == close(1 - eer(bonafide, spoof, method="merged").eer)
    assert auc(-bonafide, -spoof) == close(1 - auc(bonafide, spoof))


@settings(max_examples=60, deadline=None)
@given(coarse, coarse)
def test_the_hull_is_the_lowest_line_between_two_points(bonafide, spoof):
    curve = det_curve(bonafide, spoof)
    below = curve.miss - curve.false_alarm
    lowest = 1.0
    for left in np.flatnonzero(below <= 0):
        for right in np.flatnonzero(below > 0):
            share = -below[left] / (below[right] - below[left])
            lowest = min(lowest, curve.miss[left] + share * (curve.miss[right] - curve.miss[left]))
    assert eer(bonafide, spoof, method="rocch").eer == close(lowest)


@settings(max_examples=60, deadline=None)
@given(coarse, coarse)
def test_areas_and_merged_rates_are_those_of_counting(bonafide, spoof):
    wins = (bonafide[:, None] > spoof) + 0.5 * (bonafide[:, None] == spoof)
    assert auc(bonafide, spoof) == close(wins.mean())
    thresholds = np.unique(np.concatenate([bonafide, spoof]))
    rates = [(0.0, 1.0)] + [(np.mean(bonafide <= t), np.mean(spoof > t)) for t in thresholds]
    smallest = min(abs(miss - alarm) for miss, alarm in rates)
    allowed = [(miss + alarm) / 2 for miss, alarm in rates if abs(miss - alarm) < smallest + 1e-12]
    assert min(abs(eer(bonafide, spoof, method="merged").eer - rate) for rate in allowed) < 1e-12
