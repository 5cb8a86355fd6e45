"""RawBoost gives what the public implementation gives for the same draws, and bears any clip."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from spooftrace.trainers.rawboost import RawBoost


ALGORITHMS = range(1, 9)
PEAK_LIMITED = (1, 2, 5, 8)  # the others add noise last

# Samples 0, 1, 400, 1093, 1089 and 1999 of what RawBoost.py of github.com/TakHemlata/SSL_Anti-spoofing makes of
# `formula_clip()` after `numpy.random.seed(20220131)`, in double precision, with the parameters of its scripts.
# `randRange` was made to return floats, which numpy 2 demands. In the fourth sample only the impulses of 2, 7 and 8
# struck, in the fifth only those of 5.
PLACES = [0, 1, 400, 1093, 1089, 1999]
PUBLISHED = {
    1: [-0.1694023, -0.1799742, -0.1542298, -0.1411695, -0.1795823, -0.3038597],
    2: [0.0000000, 0.0270354, -0.2734306, 0.2162952, 0.0925166, -0.1177718],
    3: [0.0129897, 0.0367924, -0.2261620, 0.3496112, 0.1295248, -0.1268852],
    4: [-0.2215408, -0.0710913, -0.1872927, -0.1333034, -0.1693245, -0.3062548],
    5: [-0.1694023, -0.1799742, -0.1542298, -0.1411695, -0.2151157, -0.3038597],
    6: [-0.2069698, -0.2140058, -0.1216030, -0.1890767, -0.1788660, -0.3093509],
    7: [0.0152786, 0.0399651, -0.2840613, 0.2112335, 0.0765218, -0.1252358],
    8: [-0.1014419, -0.0886216, -0.2860454, 0.0686808, -0.0290349, -0.2653836],
}


def formula_clip(num_samples: int = 2000) -> np.ndarray:
    """A beating chirp of float32, up to 0.95."""
    time = np.arange(num_samples) / 16_000
    chirp = np.sin(2 * np.pi * (200 + 1500 * time) * time)
    return (0.95 * chirp * np.sin(2 * np.pi * 7 * time + 0.5)).astype(np.float32)


def full_length(half: np.ndarray) -> np.ndarray:
    """All taps of a symmetric filter from the half that begins in its middle."""
    return np.concatenate([half[:0:-1], half])


@pytest.mark.parametrize("algorithm", [0, 1, 2, 3, 5, 7])
def test_whole_clips_equal_the_published_implementation(golden_dir, algorithm):
    golden = load_file(golden_dir / "rawboost.safetensors")
    output = RawBoost(algorithm)(golden["input"], np.random.RandomState(1234))
    np.testing.assert_allclose(output, golden[f"algo{algorithm}.seed1234"], rtol=0, atol=1e-5)


def test_filters_equal_the_published_implementation(golden_dir):
    taps = load_file(golden_dir / "rawboost.safetensors")["notch_coeffs.seed77"]
    (half,) = RawBoost().notch_filters(np.random.RandomState(77), [(0, 0)])
    np.testing.assert_allclose(full_length(half), taps, rtol=0, atol=1e-10)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_samples_equal_the_published_implementation(algorithm):
    output = RawBoost(algorithm)(formula_clip(), np.random.RandomState(20220131))
    np.testing.assert_allclose(output[PLACES], PUBLISHED[algorithm], rtol=0, atol=1e-6)


def test_filters_are_cascades_of_band_stops_scaled_to_the_gain_drawn():
    """Against scipy's own window method, for draws that are repeated here one by one."""
    from scipy.signal import firwin, freqz

    rng, cascade = np.random.RandomState(5), np.ones(1)
    for _ in range(5):
        centre, width, taps = rng.uniform(20, 8000), rng.uniform(100, 1000), int(rng.uniform(10, 100))
        edges = np.clip([centre - width / 2, centre + width / 2], 0.001, 7999.999)
        cascade = np.convolve(cascade, firwin(taps + 1 - taps % 2, edges, window="hamming", fs=16_000))
    gain = rng.uniform(0, 1) * -15 - 5
    cascade *= 10 ** (gain / 20) / np.abs(freqz(cascade, 1, worN=512)[1]).max()
    (half,) = RawBoost().notch_filters(np.random.RandomState(5), [(-5, -20)])
    np.testing.assert_allclose(full_length(half), cascade, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 50, 150, 3000, 4096, 9000])
def test_filtering_in_blocks_equals_direct_convolution(size):
    """Also for clips shorter than a filter, and where blocks meet."""
    rng = np.random.RandomState(size)
    clip = rng.uniform(-1, 1, size).astype(np.float32)
    settings = RawBoost(1)
    filters = settings.notch_filters(np.random.RandomState(1), [(0, 0)] + [(-5, -20)] * 4)
    reach = filters.shape[1] - 1
    expected = sum(
        np.convolve(clip.astype(np.float64) ** (power + 1), full_length(half)) for power, half in enumerate(filters)
    )
    expected = np.append(expected, 0)[reach + 1 : reach + 1 + size]  # one sample early, as published
    expected -= expected.mean()
    expected /= max(1, np.abs(expected).max())
    np.testing.assert_allclose(settings(clip, np.random.RandomState(1)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("algorithm", [3, 6])
@pytest.mark.parametrize("snr", [10, 25])
def test_stationary_noise_has_the_ratio_asked_for(algorithm, snr):
    clip, both = formula_clip(), RawBoost(algorithm, min_snr=snr, max_snr=snr)
    before = clip if algorithm == 3 else RawBoost(1)(clip, np.random.default_rng(8))
    noise = both(clip, np.random.default_rng(8)) - before
    assert 20 * np.log10(np.linalg.norm(before) / np.linalg.norm(noise)) == pytest.approx(snr, abs=1e-3)


@given(
    algorithm=st.integers(0, 8),
    size=st.one_of(st.integers(1, 700), st.integers(4000, 9000)),
    scale=st.floats(0, 1, width=32),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    legacy=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_clip_keeps_its_length_and_stays_finite(algorithm, size, scale, dtype, legacy, seed):
    clip = (scale * np.random.default_rng(seed).uniform(-1, 1, size)).astype(dtype)
    kept = clip.copy()
    make = np.random.RandomState if legacy else np.random.default_rng
    output = RawBoost(algorithm)(clip, make(seed))
    assert output.shape == (size,) and output.dtype == np.float32 and np.isfinite(output).all()
    assert np.array_equal(clip, kept)  # the input is left alone
    assert output is not clip and not np.shares_memory(output, clip)
    if algorithm in PEAK_LIMITED:
        assert np.abs(output).max() <= 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, 20, 5000])
def test_silence_stays_silence(algorithm, size):
    output = RawBoost(algorithm)(np.zeros(size, np.float32), np.random.default_rng(0))
    assert output.shape == (size,) and output.dtype == np.float32 and not output.any()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_the_seed_decides(algorithm, make):
    clip, augment = formula_clip(), RawBoost(algorithm)
    first = augment(clip, make(3))
    assert np.array_equal(first, augment(clip, make(3)))
    assert not np.array_equal(first, augment(clip, make(4)))


def test_the_global_generator_plays_no_part():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = RawBoost(4)(formula_clip(), np.random.default_rng(3))
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    assert np.array_equal(first, RawBoost(4)(formula_clip(), np.random.default_rng(3)))


def test_a_new_process_makes_the_same_of_a_seed():
    program = """
import sys
import numpy as np
from spooftrace.trainers.rawboost import RawBoost
clip = np.frombuffer(sys.stdin.buffer.read(), np.float32)
sys.stdout.buffer.write(RawBoost(4)(clip, np.random.default_rng(5)).tobytes())
"""
    clip = formula_clip()
    done = subprocess.run([sys.executable, "-c", program], input=clip.tobytes(), check=True, capture_output=True)
    assert np.array_equal(np.frombuffer(done.stdout, np.float32), RawBoost(4)(clip, np.random.default_rng(5)))


def test_probability_is_the_share_of_clips_that_are_altered():
    clip, rng = formula_clip(200), np.random.default_rng(0)
    altered = [not np.array_equal(RawBoost(3, probability=0.3)(clip, rng), clip) for _ in range(1000)]
    assert np.mean(altered) == pytest.approx(0.3, abs=0.05)
    assert np.array_equal(RawBoost(5, probability=0)(clip, rng), clip)


def test_impulses_hit_the_share_of_samples_that_was_drawn():
    clip = np.ones(1000, np.float32) * 0.1
    output = RawBoost(2)(clip, np.random.RandomState(9))
    expected = int(1000 * np.random.RandomState(9).uniform(0, 10) / 100)
    assert np.count_nonzero(output != clip) == expected > 0
    assert np.abs(output - clip).max() <= 0.2 + 1e-6  # at most twice the sample itself


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((2, 100), np.float32), r"mono.*\(2, 100\)"),
        (np.float32(0), "mono"),
        (np.ones(10, np.int16), "int16: divide by its full scale"),
        (np.array([0, np.nan, np.inf, 0], np.float32), "2 samples that are not finite"),
    ],
)
@pytest.mark.parametrize("algorithm", [0, 5])
def test_what_is_no_clip_is_refused(clip, message, algorithm):
    with pytest.raises(ValueError, match=message):
        RawBoost(algorithm)(clip, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithm": 9}, "0 to 8, got 9"),
        ({"algorithm": -1}, "0 to 8"),
        ({"algorithm": "5"}, "0 to 8, got '5'"),
        ({"probability": 1.5}, r"\[0, 1\], got 1.5"),
        ({"probability": float("nan")}, r"\[0, 1\]"),
        ({"max_impulses": 101}, "percentage"),
        ({"num_bands": 0}, "without bands"),
        ({"num_harmonics": 0}, "without bands and harmonics"),
        ({"min_taps": 1}, "2 taps or more"),
        ({"min_taps": 50, "max_taps": 40}, "got 50 and 40"),
        ({"max_taps": 300}, "lower `max_taps`"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RawBoost(**arguments)


def test_settings_cannot_change_under_way():
    with pytest.raises(FrozenInstanceError):
        RawBoost().algorithm = 3
