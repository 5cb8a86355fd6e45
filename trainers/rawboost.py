"""RawBoost: augmentation of raw waveforms for telephone speech, without any recordings.

Tak et al. 2022, "RawBoost: A raw data boosting and augmentation method applied to automatic speaker verification
anti-spoofing" (arXiv 2111.04433). Three kinds of noise, alone or combined: linear and non-linear convolutive noise,
impulsive signal-dependent noise, and stationary signal-independent noise. With a `numpy.random.RandomState` the draws are
those of the public implementation, one by one; with a `Generator` they have the same laws and come faster.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft


Draws = np.random.Generator | np.random.RandomState

NYQUIST_MARGIN = 0.001  # Hz by which band edges stay inside the spectrum
FREQUENCIES = 512  # from 0 Hz on, below half the sampling rate, on which a filter's gain is measured
BLOCK = 4096  # of the overlap-save convolution, which stays in the processor's cache


@dataclass(frozen=True)
class RawBoost:
    """
    Augments clips with one of the nine published algorithms.

    0: none. 1: convolutive (linear and non-linear). 2: impulsive. 3: stationary coloured noise. 4: 1, 2 and 3 one after the
    other. 5: 1, then 2. 6: 1, then 3. 7: 2, then 3. 8: 1 and 2 side by side, added.

    Args:
        algorithm: see above. Published systems train with 5 for telephone and 3 for compressed speech.
        probability: share of clips that are altered at all; the published recipe alters each.
        num_harmonics: powers of the waveform that are filtered and added, the first of them linear.
        num_bands: notches of each filter.
        min_frequency, max_frequency: centre of a notch, in Hz.
        min_bandwidth, max_bandwidth: of a notch, in Hz.
        min_taps, max_taps: of a notch.
        min_gain, max_gain: of the linear filter, in dB.
        min_nonlinear_loss, max_nonlinear_loss: by how much the gains of the higher powers lie lower, in dB.
        max_impulses: largest share of samples that get an impulse, in percent.
        impulse_gain: strength of the impulses.
        min_snr, max_snr: of the stationary noise, in dB.
        sampling_rate: in Hz.

    Raises:
        ValueError: for an unknown algorithm or a probability outside [0, 1].
    """

    algorithm: int = 5
    probability: float = 1.0
    num_harmonics: int = 5
    num_bands: int = 5
    min_frequency: float = 20.0
    max_frequency: float = 8000.0
    min_bandwidth: float = 100.0
    max_bandwidth: float = 1000.0
    min_taps: int = 10
    max_taps: int = 100
    min_gain: float = 0.0
    max_gain: float = 0.0
    min_nonlinear_loss: float = 5.0
    max_nonlinear_loss: float = 20.0
    max_impulses: float = 10.0
    impulse_gain: float = 2.0
    min_snr: float = 10.0
    max_snr: float = 40.0
    sampling_rate: int = 16_000

    def __post_init__(self):
        if self.algorithm not in range(9):
            raise ValueError(f"`algorithm` is 0 to 8, got {self.algorithm!r}.")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"`probability` lies in [0, 1], got {self.probability!r}.")
        if not 0 <= self.max_impulses <= 100:
            raise ValueError(f"`max_impulses` is a percentage, 0 to 100, got {self.max_impulses!r}.")
        if self.num_bands < 1 or self.num_harmonics < 1:
            raise ValueError(f"no filter without bands and harmonics, got {self.num_bands} and {self.num_harmonics}.")
        if not 2 <= self.min_taps <= self.max_taps:
            raise ValueError(
                f"a notch has 2 taps or more, `max_taps` at most: got {self.min_taps} and {self.max_taps}."
            )
        longest = self.num_bands * self.max_taps + 1
        if longest > 2 * FREQUENCIES:
            raise ValueError(f"filters of up to {longest} taps are longer than {2 * FREQUENCIES}: lower `max_taps`.")

    def __call__(self, waveform: np.ndarray, rng: Draws) -> np.ndarray:
        """
        An altered copy of a whole clip; published systems crop it afterwards.

        Args:
            waveform: floating-point `[num_samples]`, in [-1, 1].
            rng: where all randomness comes from.

        Returns:
            float32 `[num_samples]`; the stationary noise may lift peaks a little above 1.

        Raises:
            ValueError: for more than one channel, integers, or samples that are not finite.
        """
        waveform = _checked(waveform)
        if self.algorithm == 0 or not len(waveform):
            return waveform.copy()
        if self.probability < 1 and rng.uniform() >= self.probability:
            return waveform.copy()
        if self.algorithm == 8:
            return _limited(self.convolutive(waveform, rng) + self.impulsive(waveform, rng))
        for step in _SERIES[self.algorithm]:
            waveform = getattr(self, step)(waveform, rng)
        return waveform

    def convolutive(self, waveform: np.ndarray, rng: Draws) -> np.ndarray:
        """Powers of the waveform, each through a random notch filter; the higher ones lie lower."""
        linear = (self.min_gain, self.max_gain)
        # The losses count once, not for every power: as published.
        higher = (self.min_gain - self.min_nonlinear_loss, self.max_gain - self.max_nonlinear_loss)
        filters = self.notch_filters(rng, [linear] + [higher] * (self.num_harmonics - 1))
        output = _powers_filtered(waveform, filters)
        output -= output.mean(dtype=np.float64)
        return _limited(output)

    def impulsive(self, waveform: np.ndarray, rng: Draws) -> np.ndarray:
        """Impulses at random samples, in proportion to the waveform there."""
        share = rng.uniform(0, self.max_impulses)
        places = rng.choice(len(waveform), size=int(len(waveform) * (share / 100)), replace=False)
        height = rng.uniform(-1, 1, len(places)) * rng.uniform(-1, 1, len(places))
        output = waveform.copy()
        output[places] += (self.impulse_gain * waveform[places] * height).astype(np.float32)
        return _limited(output)

    def stationary(self, waveform: np.ndarray, rng: Draws) -> np.ndarray:
        """White noise through a random notch filter, added at a random signal-to-noise ratio."""
        if _is_legacy(rng):
            noise = rng.normal(0, 1, len(waveform)).astype(np.float32)
        else:
            noise = rng.standard_normal(len(waveform), dtype=np.float32)
        noise = _powers_filtered(noise, self.notch_filters(rng, [(self.min_gain, self.max_gain)]))
        decibels = rng.uniform(self.min_snr, self.max_snr)
        energy = np.linalg.norm(noise)
        if energy == 0:  # a filter that lets nothing through
            return waveform.copy()
        return waveform + noise * np.float32(np.linalg.norm(waveform) / energy / 10 ** (decibels / 20))

    def notch_filters(self, rng: Draws, gains: Sequence[tuple[float, float]]) -> np.ndarray:
        """
        Filters with `num_bands` random notches each.

        They are symmetric, and held by the half that begins in their middle, `[len(gains), longest_half]` in float64, where
        shorter ones end in zeros. The largest gain of each, on `FREQUENCIES` frequencies, is drawn between the two of
        `gains`, in dB and in either order.
        """
        draws = rng.uniform(size=(len(gains), 3 * self.num_bands + 1))
        low, high = np.array(gains, dtype=np.float64).T
        gain = low + (high - low) * draws[:, -1]
        centre, width, taps = draws[:, :-1].reshape(len(gains), self.num_bands, 3).transpose(2, 0, 1)
        centre = self.min_frequency + (self.max_frequency - self.min_frequency) * centre
        width = self.min_bandwidth + (self.max_bandwidth - self.min_bandwidth) * width
        taps = (self.min_taps + (self.max_taps - self.min_taps) * taps).astype(int)
        reach = taps // 2  # on either side of the middle: an even number of taps becomes odd by one more
        response = _responses(self._notches(centre, width, reach), FREQUENCIES).prod(axis=1)
        response *= (10 ** (gain / 20) / np.abs(response[:, :-1]).max(axis=1))[:, None]
        return scipy.fft.idct(response, type=1)[:, : reach.sum(axis=1).max() + 1]

    def _notches(self, centre: np.ndarray, width: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """
        Halves of band-stop filters by the window method with a gain of 1 at 0 Hz, `[..., max_taps // 2 + 1]`.

        Args:
            centre, width: in Hz, `[...]`.
            reach: taps on either side of the middle, `[...]`.
        """
        nyquist = self.sampling_rate / 2
        edges = np.stack([centre - width / 2, centre + width / 2])
        low, high = edges.clip(NYQUIST_MARGIN, nyquist - NYQUIST_MARGIN)[..., None] / nyquist
        time, reach = np.arange(1, self.max_taps // 2 + 1), reach[..., None]
        side = (np.sin(np.pi * low * time) - np.sin(np.pi * high * time)) / (np.pi * time)
        side *= np.where(time <= reach, 0.54 + 0.46 * np.cos(np.pi * time / reach), 0.0)  # Hamming's window
        half = np.concatenate([1 + low - high, side], axis=-1)
        return half / (half[..., :1] + 2 * side.sum(axis=-1, keepdims=True))


_SERIES = {
    1: ("convolutive",),
    2: ("impulsive",),
    3: ("stationary",),
    4: ("convolutive", "impulsive", "stationary"),
    5: ("convolutive", "impulsive"),
    6: ("convolutive", "stationary"),
    7: ("impulsive", "stationary"),
}


def _is_legacy(rng: Draws) -> bool:
    return isinstance(rng, np.random.RandomState)


def _checked(waveform: np.ndarray) -> np.ndarray:
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"`waveform` is mono, [num_samples], got the shape {waveform.shape}: mix its channels first.")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(f"`waveform` holds floats in [-1, 1], got {waveform.dtype}: divide by its full scale.")
    if not np.isfinite(waveform).all():
        raise ValueError(f"`waveform` holds {np.count_nonzero(~np.isfinite(waveform))} samples that are not finite.")
    return waveform.astype(np.float32, copy=False)


def _limited(waveform: np.ndarray) -> np.ndarray:
    """Divided by its peak, if that exceeds 1."""
    peak = np.abs(waveform).max()
    return waveform / peak if peak > 1 else waveform


def _responses(halves: np.ndarray, size: int) -> np.ndarray:
    """Real responses of symmetric filters at `size + 1` frequencies from 0 Hz to half the sampling rate, both included."""
    return scipy.fft.dct(halves, type=1, n=size + 1)


def _powers_filtered(waveform: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """
    The waveform through the first filter, its square through the second, and so on; all added, float32 `[num_samples]`.

    The output comes one sample earlier than from filters without delay: as published. Overlap-save, with one inverse
    transform for all: symmetric filters have real responses, which need no alignment before they are added.

    Args:
        waveform: float32 `[num_samples]`.
        filters: as `notch_filters` gives them.
    """
    num_samples, reach = len(waveform), filters.shape[1] - 1
    step = BLOCK - 2 * reach
    num_blocks = -(-num_samples // step)
    powers = np.zeros((len(filters), num_blocks * step + 2 * reach), np.float32)
    powers[0, reach - 1 : reach - 1 + num_samples] = waveform  # one sample early
    for lower, power in itertools.pairwise(powers):
        np.multiply(lower, powers[0], out=power)
    blocks = np.lib.stride_tricks.sliding_window_view(powers, BLOCK, axis=1)[:, ::step]
    spectrum = np.zeros((num_blocks, BLOCK // 2 + 1), np.complex64)
    # One power after the other: the spectra of all at once would leave the cache.
    for power, response in zip(blocks, _responses(filters.astype(np.float32), BLOCK // 2), strict=True):
        filtered = scipy.fft.rfft(power)
        filtered *= response
        spectrum += filtered
    return scipy.fft.irfft(spectrum, BLOCK)[:, reach : reach + step].reshape(-1)[:num_samples]
