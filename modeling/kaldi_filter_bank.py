"""Kaldi's log filter-bank energies from the waveform, in torch alone."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .configuration_sastnet import FRAME_LENGTH, FRAME_SHIFT


N_FFT = 512
LOW_FREQUENCY = 20.0
PREEMPHASIS = 0.97
ENERGY_FLOOR = float(np.finfo(np.float32).eps)


def kaldi_mel_filters(num_bands: int, sampling_rate: int) -> np.ndarray:
    """
    Triangles of equal width in mel over the FFT bins, `(n_fft // 2 + 1, num_bands)`, float32.

    Kaldi draws them in mel, 1127 ln(1 + f / 700), between 20 Hz and half of the sampling rate, whose own bin it leaves out.
    """
    edges = np.linspace(_mel(LOW_FREQUENCY), _mel(sampling_rate / 2), num_bands + 2)
    bins = _mel(np.arange(N_FFT // 2 + 1) * sampling_rate / N_FFT)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.minimum(rising, falling).clip(min=0)
    filters[-1] = 0
    return filters.astype(np.float32)


def _mel(frequency: float | np.ndarray) -> float | np.ndarray:
    return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)


class KaldiFilterBank(nn.Module):
    """
    Waveform -> log energies of mel bands, normalised to zero mean and a standard deviation of one half.

    Kaldi's `compute-fbank-feats` without dither: mean removed from each frame, pre-emphasis, a Hann window, power spectrum;
    frames lie wholly within the clip.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.register_buffer("filters", self.compute_filters(), persistent=False)
        self.register_buffer("window", self.compute_window(), persistent=False)

    def compute_filters(self) -> torch.Tensor:
        return torch.from_numpy(kaldi_mel_filters(self.config.feature_size, self.config.sampling_rate))

    def compute_window(self) -> torch.Tensor:
        steps = torch.arange(FRAME_LENGTH, dtype=torch.float64, device="cpu")
        return (0.5 - 0.5 * torch.cos(2 * math.pi * steps / (FRAME_LENGTH - 1))).float()

    def energies(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> log energies `(batch, frames, bands)`, before normalisation, in single precision or
        better whatever the weights have"""
        precision = torch.promote_types(self.filters.dtype, torch.float32)
        filters, window = self.filters.to(precision), self.window.to(precision)
        frames = input_values.to(precision).unfold(1, FRAME_LENGTH, FRAME_SHIFT)  # (batch, frames, FRAME_LENGTH)
        frames = frames - frames.mean(dim=2, keepdim=True)
        previous = F.pad(frames, (1, 0), mode="replicate")[..., :-1]
        with torch.autocast(input_values.device.type, enabled=False):
            spectrum = torch.fft.rfft((frames - PREEMPHASIS * previous) * window, N_FFT)
            return (spectrum.abs().square() @ filters).clamp(min=ENERGY_FLOOR).log()

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, frames, bands)`"""
        features = (self.energies(input_values) - self.config.fbank_mean) / (2 * self.config.fbank_std)
        return features.to(self.filters.dtype)
