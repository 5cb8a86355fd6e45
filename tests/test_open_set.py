"""The scores for unknown sources against closed forms, their thresholds and metrics, and the file that holds one."""

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_tracers import fit_score

from spooftrace.intervals import bootstrap_interval
from spooftrace.open_set import (
    METHODS,
    OPEN_SET_FILE,
    Energy,
    Mahalanobis,
    MaximumSoftmax,
    NearestNeighbours,
    OpenSet,
    OpenSetError,
    RelativeMahalanobis,
    acceptance_threshold,
    auroc,
    fpr_at_tpr,
)
from spooftrace.open_set_scores import shrunk_covariance


LOG_ODDS = np.array([[0.0, math.log(3)], [math.log(9), 0.0], [5.0, 5.0]])  # probabilities 3/4, 9/10 and 1/2
CROSS = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_maximum_softmax_is_minus_the_log_of_the_largest_probability():
    scorer = MaximumSoftmax.fit(LOG_ODDS)
    assert scorer.score(LOG_ODDS) == pytest.approx([math.log(4 / 3), math.log(10 / 9), math.log(2)])


def test_maximum_softmax_tells_very_sure_answers_apart():
    assert MaximumSoftmax().score(np.array([[0.0, 50.0], [60.0, 0.0]])) == pytest.approx(
        [math.exp(-50), math.exp(-60)]
    )


def test_energy_is_minus_the_log_of_the_summed_exponentials():
    assert Energy.fit(LOG_ODDS).score(LOG_ODDS) == pytest.approx([-math.log(4), -math.log(10), -5 - math.log(2)])
    assert Energy().score(np.array([[1000.0, 1000.0]])) == pytest.approx([-1000 - math.log(2)])


@pytest.mark.parametrize("labels", [[0] * 4 + [1] * 4, ["encodec"] * 4 + ["dac"] * 4], ids=["numbers", "names"])
def test_mahalanobis_is_the_distance_to_the_nearest_class_mean_by_the_shared_covariance(labels):
    # Each class is a cross around its mean: the covariance within is half the identity, which shrinking keeps.
    scorer = Mahalanobis.fit(np.concatenate([CROSS + [2, 0], CROSS - [2, 0]]), labels)
    assert scorer.score(np.array([[0.0, 0.0], [2.0, 0.0], [-2.0, 3.0]])) == pytest.approx([8, 0, 18], abs=1e-5)


def test_the_relative_distance_leaves_out_that_to_all_clips_together():
    # In one dimension: variance 1 within the classes around +-2, and 5 around their common mean 0.
    known = np.array([[-3.0], [-1.0], [1.0], [3.0]])
    scorer = RelativeMahalanobis.fit(known, [0, 0, 1, 1])
    assert scorer.score(np.array([[0.0], [2.0], [10.0]])) == pytest.approx([4, -4 / 5, 64 - 20], abs=1e-4)


def test_nearest_neighbours_is_the_distance_to_the_kth_between_vectors_of_length_one():
    known = np.array([[3.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    query = np.array([[2.0, 0.0]])
    for k, distance in ((1, 0), (2, math.sqrt(2)), (3, 2)):
        assert NearestNeighbours.fit(known, neighbours=k).score(query) == pytest.approx([distance], abs=1e-7)


def test_nearest_neighbours_of_many_clips_are_those_of_each():
    generator = np.random.default_rng(0)
    scorer, clips = fit_score("nearest_neighbours", 3), generator.normal(size=(2500, 3))
    rows = [0, 1023, 1024, 2499]
    assert scorer.score(clips)[rows] == pytest.approx(
        np.concatenate([scorer.score(clips[row : row + 1]) for row in rows])
    )


def test_the_covariance_is_shrunk_by_the_rule_of_ledoit_and_wolf():
    covariance = pytest.importorskip("sklearn.covariance")
    clips = np.random.default_rng(0).normal(size=(40, 12)) @ np.diag(np.arange(1.0, 13))
    expected = covariance.LedoitWolf(assume_centered=True).fit(clips).covariance_
    assert shrunk_covariance(clips) == pytest.approx(expected)


def test_fewer_clips_than_dimensions_still_give_finite_distances():
    generator = np.random.default_rng(0)
    scorer = Mahalanobis.fit(generator.normal(size=(10, 50)), np.arange(10) % 2)
    assert np.isfinite(scorer.score(generator.normal(size=(3, 50)))).all()


@pytest.mark.parametrize("method", METHODS)
def test_clips_far_from_all_known_ones_score_higher(method):
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    centres = np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]])
    known = centres[labels] + generator.normal(size=(200, 3))
    unknown = np.array([0.0, 0.0, -9.0]) + generator.normal(size=(50, 3)) * [1, 1, 3]
    scorer = METHODS[method].fit(known[:100], labels[:100])
    assert auroc(scorer.score(known[100:]), scorer.score(unknown)) > 0.95


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Energy().score(np.zeros(3)), r"\(clips, width\)"),
        (lambda: MaximumSoftmax().score(np.zeros((0, 3))), r"\(clips, width\)"),
        (lambda: Energy().score(np.array([[0.0, np.nan]])), "not finite"),
        (lambda: fit_score("mahalanobis", 4).score(np.zeros((2, 5))), r"\(clips, 4\)"),
        (lambda: Mahalanobis.fit(np.zeros((3, 2))), "3 embeddings need as many labels"),
        (lambda: Mahalanobis.fit(np.ones((6, 2)), [0, 1] * 3), "do not vary"),
        (lambda: RelativeMahalanobis.fit(CROSS, [1] * 4), "two classes"),
        (lambda: NearestNeighbours.fit(CROSS, neighbours=5), "1 to 4"),
        (lambda: NearestNeighbours.fit(CROSS, neighbours=0), "1 to 4"),
        (lambda: OpenSet(Energy(), "vq", math.inf, 0.95, "", ""), "finite"),
        (lambda: acceptance_threshold(np.zeros(3), 1.5), "1.5"),
        (lambda: auroc(np.zeros(3), np.array([np.nan])), "unknown scores are not finite"),
        (lambda: fpr_at_tpr(np.zeros(0), np.zeros(1)), "no known scores"),
    ],
)
def test_what_cannot_be_computed_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- metrics ---------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(known=scores, unknown=scores)
def test_auroc_counts_pairs_in_the_right_order(known, unknown):
    pairs = [(new > old) + (new == old) / 2 for new in unknown for old in known]
    assert auroc(np.array(known), np.array(unknown)) == pytest.approx(np.mean(pairs))


@settings(max_examples=80, deadline=None)
@given(known=scores, unknown=scores, tpr=st.integers(1, 100).map(lambda percent: percent / 100))
def test_the_threshold_is_the_lowest_that_accepts_enough_known_clips(known, unknown, tpr):
    enough = [value for value in known if sum(other <= value for other in known) >= tpr * len(known) - 1e-9]
    assert acceptance_threshold(np.array(known), tpr) == min(enough)
    passed = np.mean([value <= min(enough) for value in unknown])
    assert fpr_at_tpr(np.array(known), np.array(unknown), tpr) == pytest.approx(passed)


def test_fpr_at_95_percent_by_hand():
    known = np.arange(1.0, 21)  # 19 of 20 are at most 19
    assert fpr_at_tpr(known, np.array([18.5, 19.0, 19.5, 40.0])) == 0.5


@pytest.mark.parametrize("metric", [auroc, fpr_at_tpr])
def test_metrics_have_bootstrap_intervals_over_clips_and_over_speakers(metric):
    generator = np.random.default_rng(0)
    known, unknown = generator.normal(size=60), generator.normal(1.5, 1, size=40)
    speakers = {"bonafide_speakers": np.arange(60) % 7, "spoof_speakers": np.arange(40) % 7}
    for options in ({}, speakers):
        interval = bootstrap_interval(metric, known, unknown, rounds=200, **options)
        assert interval.value == metric(known, unknown) and interval.low < interval.value < interval.high


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_score_gives_the_same_numbers_and_says_what_it_is(method, tmp_path):
    generator = np.random.default_rng(1)
    features = generator.normal(size=(30, 4))
    saved = OpenSet.at_acceptance(
        fit_score(method, 4), features, 0.9, task="vq", fitted_on="30 clips", weights_sha256="a" * 64
    )
    path = saved.save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [OPEN_SET_FILE]
    loaded = OpenSet.load(path)
    assert np.array_equal(loaded.scorer.score(features), saved.scorer.score(features))
    assert sum(loaded.is_unknown(score) for score in loaded.scorer.score(features)) == 3  # at 0.9, of 30
    for name in ("task", "threshold", "known_acceptance", "fitted_on", "weights_sha256"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.to_dict() == {"method": method, "task": "vq", "threshold": saved.threshold, "known_acceptance": 0.9}


def test_a_score_is_refused_for_other_weights(tmp_path):
    open_set = OpenSet(Energy(), "vq", 0.0, 0.95, "", "a" * 64)
    open_set.require_weights("a" * 64, "owner/name")
    with pytest.raises(OpenSetError, match="owner/name.*aaaaaaaaaaaa.*bbbbbbbbbbbb.*fit it anew"):
        open_set.require_weights("b" * 64, "owner/name")


def rewrite(path, metadata=None, **tensors):
    """The file with other metadata or tensors; `None` removes one."""
    old = OpenSet.load(path)
    known = {"format": "spooftrace open set 1", "method": old.scorer.method, "threshold": "0.5"}
    texts = {**known, "known_acceptance": "0.95", **(metadata or {})}
    changed = {**load_file(path), **tensors}
    save_file({name: value for name, value in changed.items() if value is not None}, path, metadata=texts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({"method": "energy"})),
        lambda path: save_file({}, path),
        lambda path: rewrite(path, {"format": "of the future"}),
        lambda path: rewrite(path, {"method": "astrology"}),
        lambda path: rewrite(path, {"method": "energy"}),
        lambda path: rewrite(path, {"threshold": "nan"}),
        lambda path: rewrite(path, {"threshold": "low"}),
        lambda path: rewrite(path, {"known_acceptance": "1.5"}),
        lambda path: rewrite(path, whitening=None),
        lambda path: rewrite(path, whitening=np.eye(3, dtype=np.float32)),
        lambda path: rewrite(path, means=np.zeros(4, dtype=np.float32)),
        lambda path: rewrite(path, means=np.full((2, 4), np.nan, dtype=np.float32)),
    ],
    ids=[
        "cut short",
        "empty",
        "pickle",
        "bare",
        "other format",
        "other method",
        "too many tensors",
        "nan threshold",
        "no number",
        "share above 1",
        "no whitening",
        "another width",
        "one dimension",
        "not finite",
    ],
)
def test_a_broken_file_is_refused_in_one_line(damage, tmp_path):
    path = OpenSet(fit_score("mahalanobis", 4), "vq", 0.5, 0.95, "", "").save(tmp_path)
    damage(path)
    with pytest.raises(OpenSetError, match=OPEN_SET_FILE) as error:
        OpenSet.load(path)
    assert "\n" not in str(error.value)


def test_scores_need_no_torch(tmp_path):
    OpenSet(fit_score("nearest_neighbours", 2), "vq", 0.5, 0.95, "", "").save(tmp_path)
    program = f"""
import sys
from spooftrace.open_set import OpenSet
print(OpenSet.load({str(tmp_path / OPEN_SET_FILE)!r}).scorer.score([[1.0, 2.0]]))
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
