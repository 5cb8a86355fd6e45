"""The feature extractor follows the papers' cropping rules and never lets a bad clip through."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spooftrace.modeling import AasistFeatureExtractor


def extract(clips, **kwargs) -> np.ndarray:
    extractor = AasistFeatureExtractor(window_samples=10)
    return extractor(clips, sampling_rate=16_000, return_tensors="np", **kwargs)["input_values"]


def ramp(samples: int) -> np.ndarray:
    return np.arange(samples, dtype=np.float32) / 100


def test_longer_clips_give_their_first_window():
    np.testing.assert_array_equal(extract(ramp(25)), ramp(10)[None])


def test_shorter_clips_are_repeated_to_fill_the_window():
    np.testing.assert_array_equal(extract(ramp(4))[0], np.tile(ramp(4), 3)[:10])


def test_random_crops_are_parts_of_the_clip_and_reach_both_ends():
    generator = np.random.default_rng(0)
    starts = {round(float(extract(ramp(12), crop="random", generator=generator)[0, 0]) * 100) for _ in range(50)}
    assert starts == {0, 1, 2}
    window = extract(ramp(12), crop="random", generator=generator)[0]
    np.testing.assert_allclose(np.diff(window), 0.01, rtol=1e-4)


def test_full_keeps_longer_clips_whole_and_still_repeats_short_ones():
    assert extract(ramp(25), crop="full").shape == (1, 25)
    assert extract(ramp(4), crop="full").shape == (1, 10)


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_window_does_not_depend_on_its_batch(first, second):
    together = extract([ramp(first), -ramp(second)])
    np.testing.assert_array_equal(together, np.concatenate([extract(ramp(first)), extract(-ramp(second))]))


def test_the_waveform_is_left_raw_unless_asked_for():
    assert AasistFeatureExtractor().do_normalize is False
    normalised = AasistFeatureExtractor(window_samples=1000, do_normalize=True)(
        5 + np.random.default_rng(0).normal(size=1000), sampling_rate=16_000, return_tensors="np"
    )["input_values"]
    assert normalised.dtype == np.float32
    assert abs(normalised.mean()) < 1e-5 and normalised.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("clips", [[0.1, 0.2], [[0.1, 0.2]], np.array([0.1, 0.2]), np.array([[0.1, 0.2]])])
def test_one_clip_may_come_as_list_or_array(clips):
    assert extract(clips).shape == (1, 10)


@pytest.mark.parametrize(
    ("clips", "kwargs", "message"),
    [
        ([], {}, "empty"),
        ([ramp(5), ramp(0)], {}, "Clip 1 is empty"),
        (np.zeros((2, 3, 4)), {}, r"\(2, 3, 4\)"),
        ([np.zeros((2, 30))], {}, "mono"),
        (np.array([0.0, np.nan]), {}, "not finite"),
        (np.array([0.0, -np.inf]), {}, "not finite"),
        (ramp(20), {"crop": "middle"}, "'middle'"),
        ([ramp(20), ramp(30)], {"crop": "full"}, r"\[20, 30\]"),
    ],
)
def test_bad_input_is_refused_with_its_reason(clips, kwargs, message):
    with pytest.raises(ValueError, match=message):
        extract(clips, **kwargs)


def test_another_sampling_rate_is_refused():
    with pytest.raises(ValueError, match="16000 Hz, got 8000 Hz"):
        AasistFeatureExtractor()(ramp(100), sampling_rate=8000)


def test_settings_survive_saving(tmp_path):
    AasistFeatureExtractor(window_samples=123, crop="random", do_normalize=True).save_pretrained(tmp_path)
    loaded = AasistFeatureExtractor.from_pretrained(tmp_path)
    assert (loaded.window_samples, loaded.crop, loaded.do_normalize) == (123, "random", True)


@pytest.mark.parametrize("settings", [{"crop": "last"}, {"window_samples": 0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="last|0"):
        AasistFeatureExtractor(**settings)
