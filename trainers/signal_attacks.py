"""Signal-processing attacks: what vocoders, codecs and synthesisers do to speech, done to a genuine clip.

Each takes a waveform (float32 [samples], at least 8192 of them, 16 kHz) and a numpy Generator that draws its settings,
and returns the altered waveform, of about that length and level, and those settings. `spooftrace.trainers.attacks` runs
them and sees to length, level and edges.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, signal
from scipy.ndimage import gaussian_filter1d, median_filter, uniform_filter1d

from spooftrace.audio import SAMPLING_RATE
from spooftrace.trainers.spectra import (
    cepstral_envelope,
    excitation,
    griffin_lim,
    istft,
    lpc,
    mel_filterbank,
    mel_pseudo_inverse,
    minimum_phase,
    pitch,
    stft,
)


Settings = dict[str, float | int | str]
AttackFunction = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, Settings]]


@dataclass(frozen=True)
class Attack:
    """One entry of `ATTACKS`: the function and the family of spoofs that it imitates."""

    function: AttackFunction
    family: str


ATTACKS: dict[str, Attack] = {}


def register(name: str, family: str) -> Callable[[AttackFunction], AttackFunction]:
    """Adds the decorated function to `ATTACKS`."""

    def add(function: AttackFunction) -> AttackFunction:
        ATTACKS[name] = Attack(function, family)
        return function

    return add


def _pick(rng: np.random.Generator, *choices):
    return choices[int(rng.integers(len(choices)))]


def _phase_or_griffin_lim(magnitude, spectrum, n_fft: int, hop: int, length: int, rng) -> tuple[np.ndarray, Settings]:
    """Half of the copies keep the source's phase, as waveform codecs about do; the others make one up."""
    if rng.random() < 0.5:
        return istft(magnitude * np.exp(1j * np.angle(spectrum)), n_fft, hop, length), {"phase": "source"}
    iterations = int(rng.integers(4, 24))
    return griffin_lim(magnitude, n_fft, hop, length, rng, iterations), {"phase": "rebuilt", "iterations": iterations}


@register("griffin-lim", "vocoder")
def griffin_lim_copy(wave, rng):
    """Phase rebuilt from the linear magnitude (Griffin and Lim 1984; Perraudin 2013 for the fast variant)."""
    n_fft, overlap = _pick(rng, 400, 512, 640, 800, 1024), _pick(rng, 2, 4, 4)
    iterations, momentum = int(rng.integers(2, 32)), float(_pick(rng, 0.0, 0.99))
    magnitude = np.abs(stft(wave, n_fft, n_fft // overlap))
    copy = griffin_lim(magnitude, n_fft, n_fft // overlap, wave.size, rng, iterations, momentum)
    return copy, {"n_fft": n_fft, "overlap": overlap, "iterations": iterations, "momentum": momentum}


@register("mel-griffin-lim", "vocoder")
def mel_griffin_lim(wave, rng):
    """Mel spectrogram, its pseudo-inverse, Griffin-Lim: the vocoder of early neural synthesis."""
    n_fft, num_mels = _pick(rng, 640, 800, 1024), _pick(rng, 40, 64, 80, 100, 128)
    iterations = int(rng.integers(8, 40))
    mel = np.abs(stft(wave, n_fft, n_fft // 4)) @ mel_filterbank(n_fft, num_mels).T
    magnitude = np.maximum(mel @ mel_pseudo_inverse(n_fft, num_mels).T, 0.0)
    copy = griffin_lim(magnitude, n_fft, n_fft // 4, wave.size, rng, iterations, 0.99)
    return copy, {"n_fft": n_fft, "num_mels": num_mels, "iterations": iterations}


@register("source-filter", "vocoder")
def source_filter(wave, rng):
    """Smooth envelope driven by pulses and noise, F0 flattened or moved (a WORLD / STRAIGHT-like vocoder)."""
    n_fft, hop = 512, 80
    order, minimum, floor = int(rng.integers(20, 60)), bool(rng.random() < 0.6), float(rng.uniform(2000, 6000))
    f0 = pitch(wave, hop)
    mean = f0[f0 > 0].mean() if (f0 > 0).any() else 120.0
    flatness, shift = float(rng.uniform(0, 0.8)), float(rng.uniform(0.85, 1.2))
    moved = np.where(f0 > 0, shift * np.exp((1 - flatness) * np.log(np.maximum(f0, 1) / mean)) * mean, 0.0)
    envelope = cepstral_envelope(np.abs(stft(wave, n_fft, hop)), order)
    shaped = _shape(excitation(moved, hop, wave.size, floor, rng), envelope, order, n_fft, hop, minimum, rng)
    settings = {"order": order, "phase": "minimum" if minimum else "zero", "noise_above": round(floor)}
    return shaped, {**settings, "flatness": round(flatness, 2), "shift": round(shift, 2)}


def _shape(drive, envelope, order: int, n_fft: int, hop: int, minimum: bool, rng: np.random.Generator) -> np.ndarray:
    """Filters an excitation by an envelope [frames, bins] per frame, whatever its own envelope was."""
    spectrum = stft(drive, n_fft, hop)
    gain = envelope / cepstral_envelope(np.abs(spectrum), order)
    # Pulses as such are too peaky: a smooth random phase disperses them, about as a glottis does.
    spread = gaussian_filter1d(rng.standard_normal(gain.shape[1]), 4.0) * float(rng.uniform(2, 10))
    phase = minimum_phase(gain) if minimum else 1.0
    return _without_rumble(istft(spectrum * gain * phase * np.exp(1j * spread), n_fft, hop, drive.size), rng)


def _without_rumble(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sos = signal.butter(2, float(rng.uniform(25, 70)), "highpass", fs=SAMPLING_RATE, output="sos")
    return signal.sosfilt(sos, wave)


@register("lpc-vocoder", "vocoder")
def lpc_vocoder(wave, rng):
    """Linear prediction with its residual replaced by pulses and noise, or coarsened as low-rate coders do."""
    order, window, hop = int(rng.integers(8, 24)), 400, 160
    coarse, levels = bool(rng.random() < 0.5), int(rng.integers(1, 4))
    drive = excitation(pitch(wave, hop), hop, wave.size + window, float(rng.uniform(2500, 5000)), rng)
    padded, taper = np.pad(wave, (0, window)), np.hanning(window)
    copy = np.zeros(padded.size)
    for start in range(0, wave.size, hop):
        frame = padded[start : start + window] * taper
        filter_, gain = lpc(frame, order)
        residual = signal.lfilter(filter_, 1.0, frame)
        if coarse:
            step = residual.std() * 2.0 / levels + 1e-9
            drive_frame = np.clip(np.round(residual / step), -levels, levels) * step
        else:
            drive_frame = drive[start : start + window] * gain * taper
        copy[start : start + window] += signal.lfilter([1.0], filter_, drive_frame)
    mode = f"coarse-{levels}" if coarse else "pulse"
    return _without_rumble(copy[: wave.size], rng), {"order": order, "excitation": mode}


@register("phase-noise", "vocoder")
def phase_noise(wave, rng):
    """Random phase errors, everywhere or above a frequency, as vocoders show most in the high band."""
    n_fft, spread, above = _pick(rng, 320, 512, 1024), float(rng.uniform(0.4, 2.5)), float(rng.uniform(0, 3000))
    spectrum = stft(wave, n_fft, n_fft // 4)
    noise = rng.standard_normal(spectrum.shape)
    if rng.random() < 0.5:
        noise = gaussian_filter1d(noise, 2.0, axis=0) * 2.6
    noise[:, : int(above / SAMPLING_RATE * n_fft)] *= 0.1
    copy = istft(spectrum * np.exp(1j * spread * noise), n_fft, n_fft // 4, wave.size)
    return copy, {"n_fft": n_fft, "spread": round(spread, 2), "above": round(above)}


@register("phase-vocoder", "vc")
def phase_vocoder(wave, rng):
    """Stretched in time and back (Flanagan and Golden 1966): horizontal phase coherence kept, vertical lost."""
    n_fft, rate = _pick(rng, 512, 1024), float(np.exp(rng.uniform(0.05, 0.4) * _pick(rng, -1, 1)))
    hop = n_fft // 4
    stretched = istft(_stretch(stft(wave, n_fft, hop), rate, hop, n_fft), n_fft, hop, int(wave.size / rate))
    back = _stretch(stft(stretched, n_fft, hop), 1.0 / rate, hop, n_fft)
    return istft(back, n_fft, hop, wave.size), {"n_fft": n_fft, "rate": round(rate, 3)}


def _stretch(spectrum: np.ndarray, rate: float, hop: int, n_fft: int) -> np.ndarray:
    """Phase-vocoder time stretch of [frames, bins] to about frames / rate frames."""
    position = np.arange(0, len(spectrum) - 1, rate)
    left, share = position.astype(int), (position % 1)[:, None]
    magnitude = (1 - share) * np.abs(spectrum[left]) + share * np.abs(spectrum[left + 1])
    expected = 2 * np.pi * hop * np.arange(spectrum.shape[1]) / n_fft
    advance = np.angle(spectrum[left + 1]) - np.angle(spectrum[left]) - expected
    advance = expected + (advance + np.pi) % (2 * np.pi) - np.pi
    phase = np.angle(spectrum[0]) + np.concatenate([np.zeros_like(advance[:1]), advance[:-1]]).cumsum(axis=0)
    return magnitude * np.exp(1j * phase)


@register("envelope-warp", "vc")
def envelope_warp(wave, rng):
    """Formants moved along frequency under the source's own fine structure, as voice conversion does."""
    n_fft, hop, order = 1024, 256, int(rng.integers(25, 60))
    factor = float(np.exp(rng.uniform(0.06, 0.2) * _pick(rng, -1, 1)))
    spectrum = stft(wave, n_fft, hop)
    envelope = cepstral_envelope(np.abs(spectrum), order)
    bins = np.arange(envelope.shape[1])
    source = np.minimum(bins * factor, bins[-1])
    left, share = np.minimum(source.astype(int), bins[-1] - 1), source - np.minimum(source.astype(int), bins[-1] - 1)
    warped = envelope[:, left] ** (1 - share) * envelope[:, left + 1] ** share
    magnitude = np.abs(spectrum) / envelope * warped
    copy, settings = _phase_or_griffin_lim(magnitude, spectrum, n_fft, hop, wave.size, rng)
    return copy, {"order": order, "factor": round(factor, 3), **settings}


@register("over-smoothing", "tts")
def over_smoothing(wave, rng):
    """Envelope smoothed over time and its variance shrunk: the look of regression-trained acoustic models."""
    n_fft, hop = _pick(rng, 640, 1024), 160
    order, spread, shrink = int(rng.integers(30, 80)), float(rng.uniform(2, 8)), float(rng.uniform(0.7, 1.0))
    spectrum = stft(wave, n_fft, hop)
    log_envelope = np.log(cepstral_envelope(np.abs(spectrum), order))
    smooth = gaussian_filter1d(log_envelope, spread, axis=0)
    smooth = smooth.mean(axis=0) + shrink * (smooth - smooth.mean(axis=0))
    magnitude = np.abs(spectrum) * np.exp(np.clip(smooth - log_envelope, -4, 2))
    copy, settings = _phase_or_griffin_lim(magnitude, spectrum, n_fft, hop, wave.size, rng)
    return copy, {"n_fft": n_fft, "order": order, "spread": round(spread, 1), "shrink": round(shrink, 2), **settings}


@register("mel-vq", "codec")
def mel_vq(wave, rng):
    """Residual vector quantisation of log-mel frames with codebooks learned on the clip itself."""
    n_fft, hop, num_mels = 800, _pick(rng, 160, 200), _pick(rng, 64, 80, 100)
    size, stages, split = _pick(rng, 8, 16, 32, 64), int(rng.integers(1, 5)), _pick(rng, 1, 2, 4)
    spectrum = stft(wave, n_fft, hop)
    mel = np.log(np.abs(spectrum) @ mel_filterbank(n_fft, num_mels).T + 1e-5)
    coded = np.zeros_like(mel)
    for part in np.array_split(np.arange(num_mels), split):
        for _ in range(stages):
            coded[:, part] += _quantize(mel[:, part] - coded[:, part], size, rng)
    inverse = mel_pseudo_inverse(n_fft, num_mels).T
    if rng.random() < 0.5:
        magnitude, detail = np.maximum(np.exp(coded) @ inverse, 0.0), "mel"
    else:
        ratio = np.maximum(np.exp(coded) @ inverse, 1e-6) / np.maximum(np.exp(mel) @ inverse, 1e-6)
        magnitude, detail = np.abs(spectrum) * np.clip(ratio, 0.05, 8.0), "source"
    copy, settings = _phase_or_griffin_lim(magnitude, spectrum, n_fft, hop, wave.size, rng)
    return copy, {"num_mels": num_mels, "hop": hop, "size": size, "stages": stages, "detail": detail, **settings}


def _quantize(frames: np.ndarray, size: int, rng: np.random.Generator, rounds: int = 6) -> np.ndarray:
    """Every frame replaced by the nearest of `size` centroids (Lloyd's algorithm): [frames, dim] -> the same."""
    centres = frames[rng.choice(len(frames), min(size, len(frames)), replace=False)]
    for _ in range(rounds):
        nearest = (np.square(centres).sum(1) - 2 * frames @ centres.T).argmin(axis=1)
        member = np.eye(len(centres), dtype=frames.dtype)[nearest]
        count = member.sum(axis=0)[:, None]
        centres = np.where(count > 0, member.T @ frames / np.maximum(count, 1), centres)
    return centres[nearest]


@register("mdct-quantization", "codec")
def mdct_quantization(wave, rng):
    """A transform codec: MDCT, coarse steps per band, the holes left silent or filled with noise."""
    half, step = _pick(rng, 160, 256, 320, 512), float(rng.uniform(0.8, 2.5))
    fill, tilt = float(_pick(rng, 0.0, 0.3, 0.6)), float(rng.uniform(0.0, 1.0))
    basis = _mdct_basis(half)
    padded = np.pad(wave, (half, 2 * half))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)[::half]
    coefficients = frames @ basis.T
    level = np.sqrt(np.maximum(uniform_filter1d(np.square(coefficients), half // 16, axis=1), 1e-12))
    width = level * step * (1.0 + tilt * np.linspace(0, 2, half))
    coded = np.round(coefficients / width) * width
    noise = rng.uniform(-1, 1, coded.shape) * fill * np.minimum(level, width / 2)
    parts = np.where(coded == 0, noise, coded) @ basis
    copy = np.zeros((len(frames) + 1) * half)
    copy[:-half] += parts[:, :half].ravel()
    copy[half:] += parts[:, half:].ravel()
    return copy[half : half + wave.size], {"half": half, "step": round(step, 2), "fill": fill, "tilt": round(tilt, 2)}


@lru_cache(maxsize=8)
def _mdct_basis(half: int) -> np.ndarray:
    """Sine-windowed orthonormal MDCT basis [half, 2 * half]."""
    n, k = np.arange(2 * half), np.arange(half)[:, None]
    window = np.sin(np.pi * (n + 0.5) / (2 * half))
    return (np.sqrt(2.0 / half) * window * np.cos(np.pi / half * (n + 0.5 + half / 2) * (k + 0.5))).astype(np.float32)


@register("frame-rate", "codec")
def frame_rate(wave, rng):
    """Spectral frames kept at 20 to 50 Hz and interpolated between, as low-rate tokens are."""
    n_fft, hop, factor = 640, 160, _pick(rng, 2, 3, 4, 5)
    hold, num_mels = bool(rng.random() < 0.4), _pick(rng, 60, 80, 128)
    spectrum = stft(wave, n_fft, hop)
    mel = np.log(np.abs(spectrum) @ mel_filterbank(n_fft, num_mels).T + 1e-5)
    kept = np.arange(0, len(mel), factor)
    slow = uniform_filter1d(mel, factor, axis=0)[kept]
    at = np.arange(len(mel)) / factor
    at = np.minimum(np.floor(at) if hold else at, len(kept) - 1)
    left = np.minimum(at.astype(int), len(kept) - 1)
    right, share = np.minimum(left + 1, len(kept) - 1), (at % 1)[:, None]
    coarse = (1 - share) * slow[left] + share * slow[right]
    magnitude = np.maximum(np.exp(coarse) @ mel_pseudo_inverse(n_fft, num_mels).T, 0.0)
    copy, settings = _phase_or_griffin_lim(magnitude, spectrum, n_fft, hop, wave.size, rng)
    return copy, {"factor": factor, "between": "hold" if hold else "linear", "num_mels": num_mels, **settings}


@register("upsampling-images", "vocoder")
def upsampling_images(wave, rng):
    """Spectral images and tones that transposed convolutions leave (Pons et al., arXiv:2010.14356)."""
    factor, gain = _pick(rng, 2, 4, 5, 8), float(10 ** rng.uniform(-1.3, -0.2))
    low = signal.resample_poly(wave, 1, factor)
    stuffed = np.zeros(low.size * factor)
    stuffed[::factor] = low * factor
    if rng.random() < 0.5:
        stuffed = np.convolve(stuffed, np.ones(factor) / factor)
    stuffed = np.pad(stuffed, (0, max(0, wave.size - stuffed.size)))[: wave.size]
    images = stuffed - signal.resample_poly(low, factor, 1)[: wave.size]
    tone_level = float(10 ** rng.uniform(-3.5, -2.2))
    time = np.arange(wave.size) / factor
    tones = sum(np.cos(2 * np.pi * k * time + rng.uniform(0, 6.28)) for k in range(1, factor // 2 + 1))
    copy = wave + gain * images + tone_level * float(np.sqrt(np.mean(np.square(wave)))) * tones
    return copy, {"factor": factor, "gain": round(gain, 3), "tone": round(tone_level, 5)}


@register("checkerboard", "vocoder")
def checkerboard(wave, rng):
    """Gain and offset patterns that repeat at the frame rate of a generator (50 to 100 Hz)."""
    period, depth = _pick(rng, 160, 200, 256, 320), float(rng.uniform(0.04, 0.25))
    pattern = gaussian_filter1d(rng.standard_normal((2, period)), float(rng.uniform(0.5, 6)), axis=1, mode="wrap")
    pattern = (pattern - pattern.mean(1, keepdims=True)) / pattern.std(1, keepdims=True)
    pattern = np.resize(pattern[0], wave.size), np.resize(pattern[1], wave.size)
    level = float(10 ** rng.uniform(-3.0, -2.0))
    slow = np.sqrt(np.maximum(uniform_filter1d(np.square(wave, dtype=np.float64), period), 1e-12))
    copy = wave * (1 + depth * pattern[0]) + level * 3 * slow * pattern[1]
    return copy, {"period": period, "depth": round(depth, 3), "level": round(level, 4)}


@register("harmonic-noise", "vocoder")
def harmonic_noise(wave, rng):
    """Spectral peaks kept, the rest exchanged for noise of its smooth level (a sinusoids-plus-noise model)."""
    n_fft, hop, width = 1024, 256, _pick(rng, 3, 5, 9)
    share = float(rng.uniform(0.03, 0.2))
    spectrum = stft(wave, n_fft, hop)
    magnitude = np.abs(spectrum)
    peaks = magnitude == _local_maximum(magnitude)
    strong = magnitude > np.quantile(magnitude, 1 - share, axis=1, keepdims=True)
    kept = uniform_filter1d((peaks & strong).astype(np.float32), width, axis=1) > 0
    floor = np.sqrt(np.maximum(uniform_filter1d(np.where(kept, 0.3, 1.0) * magnitude**2, 17, axis=1), 0.0))
    noise = floor * np.exp(2j * np.pi * rng.random(magnitude.shape))
    return istft(np.where(kept, spectrum, noise), n_fft, hop, wave.size), {"width": width, "share": round(share, 3)}


def _local_maximum(magnitude: np.ndarray) -> np.ndarray:
    padded = np.pad(magnitude, ((0, 0), (1, 1)))
    return np.maximum(magnitude, np.maximum(padded[:, :-2], padded[:, 2:]))


@register("band-extension", "codec")
def band_extension(wave, rng):
    """The high band copied up from the low band under a coarse envelope (spectral band replication), or noise."""
    n_fft, hop, cut = 640, 160, float(rng.uniform(1800, 4500))
    mode, bands = _pick(rng, "copy", "mirror", "noise"), _pick(rng, 2, 4, 8)
    spectrum = stft(wave, n_fft, hop)
    edge, bins = int(cut / SAMPLING_RATE * n_fft), spectrum.shape[1]
    order = np.arange(edge // 3, edge)
    order = np.concatenate([order[::-1], order]) if mode == "mirror" else order
    high = spectrum[:, np.resize(order, bins - edge)]
    if mode == "noise":
        high = np.exp(2j * np.pi * rng.random(high.shape))
    for part in np.array_split(np.arange(bins - edge), bands):
        wanted = np.square(np.abs(spectrum[:, edge + part])).mean(1, keepdims=True)
        wanted = np.maximum(uniform_filter1d(wanted, 3, axis=0), 0.0)
        high[:, part] *= np.sqrt(wanted / (np.square(np.abs(high[:, part])).mean(1, keepdims=True) + 1e-12))
    copy = istft(np.concatenate([spectrum[:, :edge], high], axis=1), n_fft, hop, wave.size)
    return copy, {"cut": round(cut), "mode": mode, "bands": bands}


@register("cepstral-codec", "codec")
def cepstral_codec(wave, rng):
    """Few rounded cepstra and rounded pitch, resynthesised with minimum phase (an LPCNet-era parametric codec)."""
    n_fft, hop, order, step = 512, 160, int(rng.integers(14, 30)), float(rng.uniform(0.1, 0.6))
    cepstrum = fft.irfft(np.log(np.abs(stft(wave, n_fft, hop)) + 1e-5), axis=1)[:, :order]
    cepstrum[:, 1:] *= 2.0
    coded = np.round(median_filter(cepstrum, (3, 1)) / step) * step
    envelope = np.exp(coded @ np.cos(2 * np.pi * np.outer(np.arange(order), np.arange(n_fft // 2 + 1)) / n_fft))
    f0 = np.exp2(np.round(np.log2(np.maximum(pitch(wave, hop), 1)) * 24) / 24)
    drive = excitation(np.where(f0 > 20, f0, 0.0), hop, wave.size, float(rng.uniform(2500, 6000)), rng)
    return _shape(drive, envelope, order, n_fft, hop, True, rng), {"order": order, "step": round(step, 2)}
