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
        height = len(self.filters) // 3
        # The nine values of a pooling window, three filters at three samples, become neighbouring channels: each filter
        # is applied at every third sample, and again shifted by one and by two.
        shifted = torch.stack([F.pad(self.filters[: 3 * height], (shift, 2 - shift)) for shift in range(3)], dim=1)
        shifted = shifted.view(9 * height, 1, -1)
        if torch.compiler.is_exporting():  # the graph would hold the number of clips
            return self._filter(input_values, shifted)
        # One clip at a time: 4 s already take 18 MB before pooling.
        return torch.cat([self._filter(clip, shifted) for clip in input_values.split(1)])

    @staticmethod
    def _filter(input_values: torch.Tensor, shifted: torch.Tensor) -> torch.Tensor:
        magnitude = F.conv1d(input_values[:, None], shifted, stride=3).abs_()
        return magnitude.unflatten(1, (-1, 9)).amax(dim=2)[:, None]


class MelFrontend(nn.Module):
    """Waveform at unit level -> power spectrograms -> filter bank -> logarithm -> mean of each band removed.

    A long window tells harmonics apart, an optional short one shows glottal pulses and onsets; both use one filter bank.
    The level goes first so that the floor under the logarithm, which hides what is 40 dB and more below the clip,
    means the same in quiet and in loud recordings.
    """

    FLOOR = 1e-4

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.register_buffer("filters", self.compute_filters(), persistent=False)
        self.register_buffer("windows", self.compute_windows(), persistent=False)

    def compute_filters(self) -> torch.Tensor:
        """Every filter sums to 1, so that band energies are weighted means of the power spectrum."""
        config = self.config
        edges = config.min_frequency, config.max_frequency, config.filter_scale
        filters = triangular_filter_bank(config.num_filters, config.n_fft, config.sampling_rate, *edges)
        return torch.from_numpy(filters / filters.sum(axis=0).clip(min=1e-8))

    def compute_windows(self) -> torch.Tensor:
        """Hann windows of equal energy in the middle of zeros, `(num_windows, n_fft)`."""
        windows = torch.zeros(len(self.config.win_lengths), self.config.n_fft, device="cpu")
        for row, length in zip(windows, self.config.win_lengths, strict=True):
            start = (self.config.n_fft - length) // 2
            row[start : start + length] = torch.hann_window(length, device="cpu") * (self.config.n_fft / length) ** 0.5
        return windows

    def energies(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, num_windows, num_filters, num_samples // hop_length + 1)`, none below the
        floor"""
        centred = input_values - input_values.mean(dim=1, keepdim=True)
        waveform = centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + 1e-6)
        powers = torch.stack([self._power(waveform, window) for window in self.windows], dim=1)
        return torch.einsum("bwft,fm->bwmt", powers, self.filters) + self.FLOOR

    def _power(self, waveform: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, n_fft // 2 + 1, frames)`"""
        if torch.compiler.is_exporting():
            return self._power_of_matrix(waveform, window)
        spectrum = torch.stft(
            waveform,
            self.config.n_fft,
            self.config.hop_length,
            window=window,
            pad_mode="constant",  # unlike "reflect", takes inputs shorter than half a window
            return_complex=True,
        )
        return spectrum.real.square() + spectrum.imag.square()

    def _power_of_matrix(self, waveform: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        """The same as one convolution: Fourier transforms in exported graphs are slow, and less exact."""
        size = self.config.n_fft
        phase = 2 * np.pi * (np.arange(size // 2 + 1)[:, None] * np.arange(size) % size) / size
        waves = torch.from_numpy(np.concatenate((np.cos(phase), np.sin(phase))).astype(np.float32))
        padded = F.pad(waveform, (size // 2, size // 2))[:, None]
        real, imaginary = F.conv1d(padded, (waves * window)[:, None], stride=self.config.hop_length).chunk(2, dim=1)
        return real.square() + imaginary.square()

    def compress(self, energies: torch.Tensor) -> torch.Tensor:
        """Band energies -> features, both `(batch, num_windows, num_filters, frames)`"""
        features = energies.log()
        return features - features.mean(dim=-1, keepdim=True)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, num_windows, num_filters, num_samples // hop_length + 1)`"""
        return self.compress(self.energies(input_values))
