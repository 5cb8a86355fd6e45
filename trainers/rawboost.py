"""RawBoost: augmentation of raw waveforms for telephone speech, without any recordings.

Tak et al. 2022, "RawBoost: A raw data boosting and augmentation method applied to automatic speaker verification
anti-spoofing" (arXiv 2111.04433). Three kinds of noise, alone or combined: linear and non-linear convolutive noise,
impulsive signal-dependent noise, and stationary signal-independent noise. With a `numpy.random.RandomState` the draws are
those of the public implementation, one by one; with a `Generator` they have the same laws and come faster.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft


Draws = np.random.Generator | np.random.RandomState

NYQUIST_MARGIN = 0.001  # Hz by which band edges stay inside the spectrum
RESPONSE_SIZE = 1024  # points of the frequency responses; a filter of five bands has at most 505 taps
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
        longest = self.num_bands * self.max_taps + 1
        if longest > RESPONSE_SIZE:
            raise ValueError(f"filters of up to {longest} taps are longer than {RESPONSE_SIZE}: lower `max_taps`.")

    def __call__(self, waveform: np.ndarray, rng: Draws) -> np.ndarray:
        """
        An altered copy of a whole clip; published systems crop it afterwards.

        Args:
            waveform: `[num_samples]`, in [-1, 1].
            rng: where all randomness comes from.

        Returns:
            float32 `[num_samples]`; the stationary noise may lift peaks a little above 1.
        """
        waveform = np.asarray(waveform, dtype=np.float32)
        if waveform.ndim != 1:
            raise ValueError(f"`waveform` is mono, [num_samples], got the shape {waveform.shape}.")
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
        filters = []
        low, high = self.min_gain, self.max_gain
        for harmonic in range(self.num_harmonics):
            if harmonic == 1:  # once, not for every power: as published
                low, high = low - self.min_nonlinear_loss, high - self.max_nonlinear_loss
            filters.append(self.notch_filter(rng, low, high))
        powers = [waveform]
        while len(powers) < self.num_harmonics:
            powers.append(powers[-1] * waveform)
        output = _filter_and_add(powers, filters)
        return _limited(output - output.mean(dtype=np.float64).astype(np.float32))

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
        noise = _filter_and_add([noise], [self.notch_filter(rng, self.min_gain, self.max_gain)])
        decibels = rng.uniform(self.min_snr, self.max_snr)
        energy = np.linalg.norm(noise)
        if energy == 0:  # a filter that lets nothing through
            return waveform.copy()
        return waveform + noise * np.float32(np.linalg.norm(waveform) / energy / 10 ** (decibels / 20))

    def notch_filter(self, rng: Draws, min_gain: float, max_gain: float) -> np.ndarray:
        """
        Taps of a filter with `num_bands` random notches, float64 `[num_taps]`, an odd number.

        Its largest gain, on 512 frequencies, is drawn between `min_gain` and `max_gain` dB (in either order).
        """
        bands = []
        for _ in range(self.num_bands):
            centre = rng.uniform(self.min_frequency, self.max_frequency)
            width = rng.uniform(self.min_bandwidth, self.max_bandwidth)
            taps = int(rng.uniform(self.min_taps, self.max_taps))
            bands.append((centre, width, taps + 1 - taps % 2))
        gain = min_gain + (max_gain - min_gain) * rng.uniform()
        centres, widths, taps = np.array(bands).T[:, :, None]
        response = scipy.fft.rfft(self._notches(centres, widths, taps), RESPONSE_SIZE).prod(axis=0)
        cascade = scipy.fft.irfft(response, RESPONSE_SIZE)[: int((taps - 1).sum()) + 1]
        return cascade * (10 ** (gain / 20) / np.abs(response[:-1]).max())

    def _notches(self, centres: np.ndarray, widths: np.ndarray, taps: np.ndarray) -> np.ndarray:
        """
        Band-stop filters by the window method with a gain of 1 at 0 Hz, `[num_bands, max_taps + 1]`, zeros at the end.

        Args:
            centres, widths: in Hz, `[num_bands, 1]`.
            taps: odd numbers, `[num_bands, 1]`.
        """
        nyquist = self.sampling_rate / 2
        low = (centres - widths / 2).clip(NYQUIST_MARGIN, nyquist - NYQUIST_MARGIN) / nyquist
        high = (centres + widths / 2).clip(NYQUIST_MARGIN, nyquist - NYQUIST_MARGIN) / nyquist
        place = np.arange(self.max_taps + 1)
        time = place - (taps - 1) / 2
        ideal = low * np.sinc(low * time) + (time == 0) - high * np.sinc(high * time)
        window = np.where(place < taps, 0.54 - 0.46 * np.cos(2 * np.pi * place / (taps - 1)), 0.0)  # Hamming's
        return ideal * window / (ideal * window).sum(axis=1, keepdims=True)


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


def _limited(waveform: np.ndarray) -> np.ndarray:
    """Divided by its peak, if that exceeds 1."""
    peak = np.abs(waveform).max()
    return waveform / peak if peak > 1 else waveform


def _filter_and_add(signals: list[np.ndarray], filters: list[np.ndarray]) -> np.ndarray:
    """
    Each signal through its filter, all added, float32 `[num_samples]`.

    Filters of an odd number of taps are centred one sample late, so that the output comes one sample early: as published.
    Overlap-save: blocks of the signals times the filters' responses, added before the one inverse transform.

    Args:
        signals: float32 `[num_samples]` each.
        filters: taps of each.
    """
    num_samples = len(signals[0])
    overlap = max(map(len, filters)) - 1
    step = BLOCK - overlap
    delays = [(len(taps) + 1) // 2 for taps in filters]
    shift = max(delays)
    num_blocks = -(-(num_samples + shift) // step)
    # Every filter is delayed to the longest one's, so that one crop serves all.
    aligned = np.zeros((len(filters), BLOCK), np.float32)
    for row, taps, delay in zip(aligned, filters, delays, strict=True):
        row[shift - delay : shift - delay + len(taps)] = taps
    padded = np.zeros((len(signals), num_blocks * step + overlap), np.float32)
    for row, signal in zip(padded, signals, strict=True):
        row[overlap : overlap + num_samples] = signal
    blocks = np.lib.stride_tricks.sliding_window_view(padded, BLOCK, axis=1)[:, ::step]
    spectrum = np.einsum("sbf,sf->bf", scipy.fft.rfft(blocks), scipy.fft.rfft(aligned))
    output = scipy.fft.irfft(spectrum, BLOCK)[:, overlap:].reshape(-1)
    return output[shift : shift + num_samples]
