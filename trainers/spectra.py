"""Spectral tools of the attacks: STFT, mel filters, envelopes, pitch, excitation, Griffin-Lim.

Waveforms are float [samples] at 16 kHz; spectrograms are [frames, bins] with bins = n_fft // 2 + 1.
"""

from functools import lru_cache

import numpy as np
from scipy import fft, linalg, signal
from scipy.ndimage import median_filter

from spooftrace.audio import SAMPLING_RATE


@lru_cache(maxsize=32)
def _window(n_fft: int) -> np.ndarray:
    return signal.get_window("hann", n_fft).astype(np.float32)


def stft(wave: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Centred Hann STFT with reflected edges: complex64 [1 + samples // hop, bins]. Needs samples > n_fft / 2."""
    padded = np.pad(np.asarray(wave, dtype=np.float32), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    return fft.rfft(frames * _window(n_fft), axis=1)


def istft(spectrum: np.ndarray, n_fft: int, hop: int, length: int) -> np.ndarray:
    """Least-squares inverse of `stft`: float32 [length], zero where no frame reaches."""
    window = _window(n_fft)
    frames = fft.irfft(spectrum.astype(np.complex64), n=n_fft, axis=1) * window
    slots = -(-n_fft // hop)
    pad = slots * hop - n_fft
    frames = np.pad(frames, ((0, 0), (0, pad))).reshape(len(frames), slots, hop)
    weight = np.pad(window**2, (0, pad)).reshape(slots, hop)
    wave = np.zeros((len(frames) + slots - 1, hop), dtype=np.float32)
    total = np.zeros_like(wave)
    for slot in range(slots):
        wave[slot : slot + len(frames)] += frames[:, slot]
        total[slot : slot + len(frames)] += weight[slot]
    wave = (wave / np.maximum(total, 1e-3)).ravel()[n_fft // 2 :]
    return np.pad(wave, (0, max(0, length - wave.size)))[:length]


@lru_cache(maxsize=32)
def mel_filterbank(n_fft: int, num_mels: int) -> np.ndarray:
    """Triangular filters on the HTK mel scale, 0 Hz to Nyquist, each summing to one: float32 [num_mels, bins]."""
    top = 2595.0 * np.log10(1.0 + SAMPLING_RATE / 2 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, num_mels + 2) / 2595.0) - 1.0)
    bins = np.linspace(0.0, SAMPLING_RATE / 2, n_fft // 2 + 1)[None]
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)), 0.0, None)
    # Low filters are narrower than a bin where there are many: each keeps at least its nearest bin.
    nearest = np.abs(bins - mid).argmin(axis=1)
    bank[np.arange(num_mels), nearest] = np.maximum(bank[np.arange(num_mels), nearest], 1e-2)
    return (bank / bank.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=32)
def mel_pseudo_inverse(n_fft: int, num_mels: int) -> np.ndarray:
    """Maps mel magnitudes back to linear ones, in the least-squares sense: float32 [bins, num_mels]."""
    return np.linalg.pinv(mel_filterbank(n_fft, num_mels).astype(np.float64), rcond=1e-3).astype(np.float32)


def griffin_lim(
    magnitude: np.ndarray,
    n_fft: int,
    hop: int,
    length: int,
    rng: np.random.Generator,
    iterations: int,
    momentum: float = 0.0,
) -> np.ndarray:
    """A waveform whose STFT magnitude is about `magnitude`; `momentum` > 0 is the fast variant."""
    phase = np.exp(2j * np.pi * rng.random(magnitude.shape)).astype(np.complex64)
    previous = np.zeros_like(phase)
    for _ in range(iterations):
        rebuilt = stft(istft(magnitude * phase, n_fft, hop, length), n_fft, hop)
        ahead = rebuilt + momentum * (rebuilt - previous)
        phase = ahead / np.maximum(np.abs(ahead), 1e-9)
        previous = rebuilt
    return istft(magnitude * phase, n_fft, hop, length)


def cepstral_envelope(magnitude: np.ndarray, order: int) -> np.ndarray:
    """Magnitude smoothed by keeping `order` cepstral coefficients: positive [frames, bins]."""
    cepstrum = fft.irfft(np.log(magnitude + 1e-5), axis=1)
    cepstrum[:, order : cepstrum.shape[1] - order + 1] = 0.0
    return np.exp(fft.rfft(cepstrum, axis=1).real)


def minimum_phase(envelope: np.ndarray) -> np.ndarray:
    """Unit phasors of the minimum-phase filter of a magnitude envelope: complex [frames, bins]."""
    cepstrum = fft.irfft(np.log(np.maximum(envelope, 1e-7)), axis=1)
    half = cepstrum.shape[1] // 2
    cepstrum[:, 1:half] *= 2.0
    cepstrum[:, half + 1 :] = 0.0
    return np.exp(1j * fft.rfft(cepstrum, axis=1).imag)


def pitch(wave: np.ndarray, hop: int, low: float = 70.0, high: float = 400.0) -> np.ndarray:
    """F0 in Hz per frame by normalised autocorrelation, 0 where unvoiced: float [1 + samples // hop]."""
    span = 800
    padded = np.pad(np.asarray(wave, dtype=np.float32), (span // 2, span // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, span)[::hop][: 1 + len(wave) // hop]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * _window(span)
    power = np.abs(fft.rfft(frames, 2 * span, axis=1)) ** 2
    lags = fft.irfft(power, axis=1)[:, :span]
    shape = fft.irfft(np.abs(fft.rfft(_window(span), 2 * span)) ** 2)[:span]
    first, last = int(SAMPLING_RATE / high), int(SAMPLING_RATE / low)
    score = lags[:, first:last] / (lags[:, :1] + 1e-9) / (shape[first:last] / shape[0])
    best = score.argmax(axis=1)
    loud = lags[:, 0] > 1e-3 * np.quantile(lags[:, 0], 0.95)
    voiced = (score.max(axis=1) > 0.5) & loud
    return median_filter(np.where(voiced, SAMPLING_RATE / (first + best), 0.0), 5)


def excitation(f0: np.ndarray, hop: int, length: int, noise_above_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Unit-power source: pulses below `noise_above_hz` where voiced, white noise elsewhere: float [length]."""
    frame = np.minimum(np.arange(length) / hop, len(f0) - 1)
    voiced = f0[frame.round().astype(int)] > 0
    filled = np.where(f0 > 0, f0, np.interp(np.arange(len(f0)), np.flatnonzero(f0), f0[f0 > 0]) if f0.any() else 120.0)
    rate = np.interp(frame, np.arange(len(f0)), filled)
    turns = np.floor(np.cumsum(rate / SAMPLING_RATE))
    pulses = np.diff(turns, prepend=0.0) * np.sqrt(SAMPLING_RATE / rate)
    noise = rng.standard_normal(length)
    low = signal.butter(4, noise_above_hz, fs=SAMPLING_RATE, output="sos")
    high = signal.butter(4, noise_above_hz, "highpass", fs=SAMPLING_RATE, output="sos")
    return np.where(voiced, signal.sosfilt(low, pulses) + signal.sosfilt(high, noise), noise)


def lpc(frame: np.ndarray, order: int) -> tuple[np.ndarray, float]:
    """Prediction-error filter [order + 1] and residual RMS of one windowed frame, by the autocorrelation method."""
    lags = signal.correlate(frame, frame, method="fft")[len(frame) - 1 :][: order + 1].astype(np.float64)
    lags[0] = lags[0] * (1.0 + 1e-4) + 1e-7
    weights = linalg.solve_toeplitz(lags[:-1], -lags[1:])
    error = max(lags[0] + float(weights @ lags[1:]), 0.0)
    return np.concatenate([[1.0], weights]), float(np.sqrt(error / np.sum(_window(len(frame)) ** 2)))
