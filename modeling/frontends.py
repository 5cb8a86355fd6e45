"""Fixed front ends: waveform -> map of filters over time. Nothing here is learned or stored in a checkpoint.

The tables are made on the CPU also where a model is built on another device (transformers builds on "meta"), and made
again by `_init_weights` once the model has real memory.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def band_edges(num_edges: int, low: float, high: float, scale: str) -> np.ndarray:
    """`num_edges` frequencies in hertz, equally spaced between `low` and `high` on the `scale` ("mel" or "linear").

    Mel is O'Shaughnessy's, 2595 log10(1 + f / 700).
    """
    if scale == "linear":
        return np.linspace(low, high, num_edges)
    mel_low, mel_high = (2595.0 * np.log10(1.0 + frequency / 700.0) for frequency in (low, high))
    return 700.0 * (10.0 ** (np.linspace(mel_low, mel_high, num_edges) / 2595.0) - 1.0)


def sinc_band_pass(num_filters: int, kernel_size: int, sampling_rate: int) -> np.ndarray:
    """Band-pass filters of AASIST, of shape `(num_filters, kernel_size)`, float32.

    Each is the difference of two ideal low-pass filters under a Hamming window; the edges are equally spaced in mel
    from 0 to half of the sampling rate (RawNet2 anti-spoofing, Tak et al. 2021, arXiv 2011.01108).
    """
    edges = band_edges(num_filters + 1, 0.0, sampling_rate / 2, "mel")[:, None] / sampling_rate  # cycles per sample
    time = np.arange(kernel_size) - (kernel_size - 1) / 2
    low_pass = 2 * edges * np.sinc(2 * edges * time)  # (num_filters + 1, kernel_size)
    return (np.diff(low_pass, axis=0) * np.hamming(kernel_size)).astype(np.float32)


def triangular_filter_bank(
    num_filters: int, n_fft: int, sampling_rate: int, low: float, high: float, scale: str
) -> np.ndarray:
    """Triangular filters over FFT bins, of shape `(n_fft // 2 + 1, num_filters)`, float32; each has a peak of 1."""
    edges = band_edges(num_filters + 2, low, high, scale)
    bins = np.linspace(0, sampling_rate / 2, n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.minimum(rising, falling).clip(min=0).astype(np.float32)


class SincFrontend(nn.Module):
    """Waveform -> band-pass filters -> magnitude -> 3 x 3 max-pooling."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.register_buffer("filters", self.compute_filters(), persistent=False)

    def compute_filters(self) -> torch.Tensor:
        config = self.config
        return torch.from_numpy(sinc_band_pass(config.num_filters, config.sinc_kernel_size, config.sampling_rate))

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, 1, num_filters // 3, (num_samples - kernel_size + 1) // 3)`"""
        bands = F.conv1d(input_values[:, None], self.filters[:, None])  # (batch, num_filters, time)
        return F.max_pool2d(bands.abs()[:, None], 3)


class MelFrontend(nn.Module):
    """Waveform -> power spectrogram -> filter bank -> logarithm -> mean of each band removed."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.register_buffer("filters", self.compute_filters(), persistent=False)
        self.register_buffer("window", self.compute_window(), persistent=False)

    def compute_filters(self) -> torch.Tensor:
        config = self.config
        edges = config.min_frequency, config.max_frequency, config.filter_scale
        return torch.from_numpy(triangular_filter_bank(config.num_filters, config.n_fft, config.sampling_rate, *edges))

    def compute_window(self) -> torch.Tensor:
        return torch.hann_window(self.config.win_length, device="cpu")

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, 1, num_filters, num_samples // hop_length + 1)`"""
        config = self.config
        spectrum = torch.stft(
            input_values,
            config.n_fft,
            config.hop_length,
            config.win_length,
            self.window,
            pad_mode="constant",  # unlike "reflect", takes inputs shorter than half a window
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()  # (batch, n_fft // 2 + 1, time)
        energies = torch.log(torch.einsum("bft,fm->bmt", power, self.filters) + 1e-6)
        return (energies - energies.mean(dim=-1, keepdim=True))[:, None]
