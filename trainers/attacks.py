"""Makes a spoof copy of a genuine clip by signal processing, with nothing but the artefact to tell the two apart.

`apply_attack` runs one attack of `ATTACKS` by name, and `finish` gives the copy the level, band limit, fades and dither
of its source. `attack_clip` is all of it, for use while training.
"""

from functools import lru_cache

import numpy as np
from scipy import fft, signal

from spooftrace.audio import SAMPLING_RATE
from spooftrace.trainers.signal_attacks import ATTACKS, Settings, register


SHORTEST = 4096
MARGIN = 2048
BAND_LIMIT_HZ = 7150.0


def apply_attack(name: str, wave: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Settings]:
    """Runs one attack on float32 [samples] and returns a copy of equal length and level, and its settings.

    Clips shorter than `SHORTEST` samples are tiled for the attack; silence comes back unchanged.
    Raises ValueError for an unknown name or samples that are not a finite vector.
    """
    if name not in ATTACKS:
        raise ValueError(f"attack {name!r} is unknown; choose one of {', '.join(ATTACKS)}")
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise ValueError(f"expected finite samples [samples], got shape {wave.shape}; decode and downmix first")
    if np.abs(wave).max(initial=0.0) < 1e-6:
        return wave.copy(), {}
    tiled = np.resize(wave, SHORTEST) if wave.size < SHORTEST else wave
    # Attacks lose a frame or so at either edge: they get a reflected margin to lose.
    copy, settings = ATTACKS[name].function(np.pad(tiled, MARGIN, mode="reflect"), rng)
    copy = copy[MARGIN : MARGIN + wave.size].astype(np.float32)
    return copy * np.float32(_rms(wave) / max(_rms(copy), 1e-9)), settings


def restore_band(wave: np.ndarray, band_limit: float = BAND_LIMIT_HZ) -> np.ndarray:
    """Fills the band above `band_limit` Hz by mirroring what lies below it: float32 [samples] -> the same.

    A band-limited source would otherwise be limited twice, once before and once after the attack, and the steeper edge
    would give the copy away. Time envelope and spectral tilt go on above the edge. Under 100 samples nothing is done.
    """
    if wave.size < 100:
        return wave.astype(np.float32)
    spectrum = fft.rfft(wave.astype(np.float64))
    edge = int((band_limit - 90.0) / SAMPLING_RATE * wave.size)
    mirrored = np.conj(spectrum[edge - np.arange(spectrum.size - edge)])
    return fft.irfft(np.concatenate([spectrum[:edge], mirrored]), n=wave.size).astype(np.float32)


def finish(
    copy: np.ndarray, source: np.ndarray, rng: np.random.Generator, band_limit: float = BAND_LIMIT_HZ
) -> np.ndarray:
    """Gives a copy its source's level, band limit, 5 ms fades and one-bit triangular dither; 16-bit values in [-1, 1].

    The low-pass has 401 taps (Kaiser, 8); `band_limit` 0 leaves it out. Silence comes back as it is.
    """
    if np.abs(source).max(initial=0.0) < 1e-6:
        return source.astype(np.float32).copy()
    copy = copy.astype(np.float64)
    if band_limit:
        copy = signal.fftconvolve(copy, _low_pass(band_limit), mode="full")[200:][: copy.size]
    copy *= _rms(source) / max(_rms(copy), 1e-9)
    ramp = np.minimum(1.0, (np.arange(copy.size) + 0.5) / (0.005 * SAMPLING_RATE))
    copy *= np.minimum(ramp, ramp[::-1])
    copy *= min(1.0, 0.97 / max(np.abs(copy).max(), 1e-9))
    dither = rng.uniform(-0.5, 0.5, (2, copy.size)).sum(axis=0)
    return (np.clip(np.round(copy * 32768.0 + dither), -32768, 32767) / 32768.0).astype(np.float32)


def attack_clip(
    name: str, wave: np.ndarray, rng: np.random.Generator, band_limit: float = BAND_LIMIT_HZ
) -> tuple[np.ndarray, Settings]:
    """`restore_band`, `apply_attack` and `finish` in one, for a clip low-passed at `band_limit` Hz (0: not)."""
    copy, settings = apply_attack(name, restore_band(wave, band_limit) if band_limit else wave, rng)
    return finish(copy, wave, rng, band_limit), settings


@lru_cache(maxsize=4)
def _low_pass(cut_hz: float) -> np.ndarray:
    return signal.firwin(401, cut_hz, window=("kaiser", 8.0), fs=SAMPLING_RATE)


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


@register("mix", "vocoder")
def mix(wave, rng):
    """Two other attacks, averaged or joined at a frequency, so that neither shows its full signature."""
    names = [str(name) for name in rng.choice([name for name in ATTACKS if name != "mix"], 2, replace=False)]
    first, second = (apply_attack(name, wave, rng)[0] for name in names)
    settings: Settings = {"first": names[0], "second": names[1]}
    if rng.random() < 0.5:
        share = float(rng.uniform(0.3, 0.7))
        return share * first + (1 - share) * second, {**settings, "share": round(share, 2)}
    cut = float(rng.uniform(800, 4000))
    low = signal.butter(4, cut, fs=SAMPLING_RATE, output="sos")
    high = signal.butter(4, cut, "highpass", fs=SAMPLING_RATE, output="sos")
    return signal.sosfilt(low, first) + signal.sosfilt(high, second), {**settings, "cut": round(cut)}
