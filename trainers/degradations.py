"""What rooms, noise and telephones do to speech, on any device.

Every function takes a clip, float32 `[num_samples]` at 16 kHz, and returns as many samples. What is random is drawn
elsewhere and given, so that each can be held against a formula. They need torchaudio, of the `train` extra.
"""

import math
from types import ModuleType

import scipy.fft
import torch

from spooftrace.audio import SAMPLING_RATE


NARROWBAND = 8_000  # Hz, the sampling rate of the telephone
PASS_BAND = (300.0, 3_400.0)  # Hz, of the telephone (ITU-T G.712)
BAND_REACH = 200  # taps on either side of the band-pass filter: edges of some 70 Hz
RESAMPLER_WIDTH = 64  # zero crossings of its filter; the usual 6 let mirrored speech through above 4 kHz
LEVELS = 127  # magnitudes of an eight-bit code with a sign
MU, A = 255.0, 87.6  # of the companding laws of ITU-T G.711


def require_torchaudio() -> ModuleType:
    """
    torchaudio's functions.

    Raises:
        ImportError: where torchaudio is absent, or was built for another torch.
    """
    try:
        import torchaudio.functional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "on-device augmentation needs torchaudio: pip install 'spooftrace[train]'", name="torchaudio"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            f"torchaudio does not load beside torch {torch.__version__}; `spooftrace doctor` tells the remedy ({error})."
        ) from error
    return torchaudio.functional


def with_noise(waveform: torch.Tensor, noise: torch.Tensor, snr: float) -> torch.Tensor:
    """
    Noise added at a signal-to-noise ratio over the whole clip; a silent clip stays silent, silent noise adds nothing.

    Args:
        noise: `[num_samples]`, of any loudness.
        snr: in dB.
    """
    noisy = require_torchaudio().add_noise(waveform, noise, torch.tensor(snr).to(waveform))
    return torch.where(noise.square().sum() > 0, noisy, waveform)


def coloured(white: torch.Tensor, slope: float) -> torch.Tensor:
    """White noise whose power falls with frequency as f ** -slope: 0 stays white, 1 is pink, 2 is brown."""
    spectrum = torch.fft.rfft(white)
    frequency = torch.arange(len(spectrum), device=white.device, dtype=white.dtype).clamp_min(1)
    return torch.fft.irfft(spectrum * frequency ** (-slope / 2), len(white))


def decaying(noise: torch.Tensor, reverberation_time: float, direct_ratio: float) -> torch.Tensor:
    """
    The impulse response of a made-up room: a direct path of 1, then noise that decays exponentially.

    Args:
        noise: white, `[length]`.
        reverberation_time: until the decay has reached -60 dB, in seconds.
        direct_ratio: energy of the direct path over that of all the rest, in dB.
    """
    time = torch.arange(len(noise), device=noise.device) / SAMPLING_RATE
    tail = noise * torch.exp(-3 * math.log(10) / reverberation_time * time)
    tail[0] = 0
    energy = tail.square().sum().clamp_min(torch.finfo(tail.dtype).tiny)
    tail *= 10 ** (-direct_ratio / 20) / energy.sqrt()
    tail[0] = 1
    return tail


def reverberant(waveform: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """A clip convolved with an impulse response, `[length]`; what rings on after its end is cut off."""
    return _convolved(waveform, response)[: len(waveform)]


def telephone(waveform: torch.Tensor, law: str) -> torch.Tensor:
    """
    A narrowband call: to 8 kHz and back, with band-pass filters on both sides of an eight-bit logarithmic code.

    Args:
        waveform: in [-1, 1].
        law: of the code, see `companded`.
    """
    functional, band = require_torchaudio(), _band_pass(waveform)
    narrow = functional.resample(waveform, SAMPLING_RATE, NARROWBAND, RESAMPLER_WIDTH)
    sent = _convolved(narrow, band)[BAND_REACH:-BAND_REACH]
    heard = _convolved(companded(sent, law), band)[BAND_REACH:-BAND_REACH]
    return functional.resample(heard, NARROWBAND, SAMPLING_RATE, RESAMPLER_WIDTH)[: len(waveform)]


def _band_pass(like: torch.Tensor) -> torch.Tensor:
    """Taps of a symmetric filter at 8 kHz by the window method, `[2 * BAND_REACH + 1]`."""
    time = torch.arange(-BAND_REACH, BAND_REACH + 1, dtype=torch.float64)
    low, high = (2 * edge / NARROWBAND for edge in PASS_BAND)
    ideal = high * torch.sinc(high * time) - low * torch.sinc(low * time)
    return (ideal * torch.hamming_window(len(time), periodic=False, dtype=torch.float64)).to(like)


def companded(waveform: torch.Tensor, law: str) -> torch.Tensor:
    """
    Through an eight-bit code and back, with the curves of ITU-T G.711 rather than their straight-line pieces.

    Args:
        waveform: what lies beyond [-1, 1] is clipped.
        law: `"mu"` or `"a"`.
    """
    magnitude = waveform.abs().clamp(max=1)
    if law == "mu":
        code = torch.log1p(MU * magnitude) / math.log1p(MU)
    elif law == "a":
        logarithmic = 1 + (A * magnitude).clamp_min(1).log()
        code = torch.where(magnitude < 1 / A, A * magnitude, logarithmic) / (1 + math.log(A))
    else:
        raise ValueError(f"`law` is 'mu' or 'a', got {law!r}.")
    code = (code * LEVELS).round() / LEVELS
    if law == "mu":
        magnitude = torch.expm1(code * math.log1p(MU)) / MU
    else:
        code = code * (1 + math.log(A))
        magnitude = torch.where(code < 1, code, (code - 1).exp()) / A
    return waveform.sign() * magnitude


def faster(waveform: torch.Tensor, percent: int) -> torch.Tensor:
    """
    A clip played at another speed, so that pitch changes too; cropped, or repeated, to its length.

    Args:
        percent: of the old speed.
    """
    played = require_torchaudio().resample(waveform, percent, 100)
    return played[torch.arange(len(waveform), device=played.device) % len(played)]


def _convolved(waveform: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """The whole convolution, `[num_samples + num_taps - 1]`; unlike torchaudio's, in transforms of a size that is fast."""
    length = len(waveform) + len(taps) - 1
    size = scipy.fft.next_fast_len(length, real=True)
    return torch.fft.irfft(torch.fft.rfft(waveform, size) * torch.fft.rfft(taps, size), size)[:length]


def limited(waveform: torch.Tensor) -> torch.Tensor:
    """Divided by its peak, if that exceeds 1."""
    return waveform / waveform.abs().amax().clamp_min(1)
