"""Encoder behind the filter bank: local energy of two-dimensional cosine patterns, then a small residual network.

What vocoders and codecs leave in a spectrogram is texture: how sharply the harmonics stand out, how smooth or restless
the energy is from frame to frame, and how the two go together. A convolutional network has to learn, from much data,
to rectify and average its filters' outputs before it sees that. Here the first layer does so by construction, like the
second order of a scattering transform (Anden and Mallat 2014, arXiv 1304.6763): fixed filters, squared, averaged over
a few frames, and the logarithm, which weighs faint and strong patterns alike.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def cosine_patterns(size: int) -> np.ndarray:
    """The orthonormal two-dimensional cosine basis without its constant, `(size ** 2 - 1, 1, size, size)`, float32."""
    order = np.arange(size)
    basis = np.cos(np.pi * order[:, None] * (order + 0.5) / size) * np.sqrt(2 / size)
    basis[0] *= np.sqrt(0.5)
    patterns = basis[:, None, :, None] * basis[None, :, None, :]  # (frequency order, time order, size, size)
    return patterns.reshape(-1, 1, size, size)[1:].astype(np.float32)


class TextureMap(nn.Module):
    """Log energy of each cosine pattern, every second band and on average over four positions in time."""

    STRIDE = 2
    POOL = 4
    FLOOR = 1e-2

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("patterns", self.compute_patterns(), persistent=False)

    def compute_patterns(self) -> torch.Tensor:
        return torch.from_numpy(cosine_patterns(self.size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, maps, bands, frames)` -> `(batch, maps * (size ** 2 - 1), (bands - size) // 2 + 1, frames')`, where
        `frames'` is about a quarter of `frames`"""
        responses = F.conv2d(features.flatten(0, 1)[:, None], self.patterns, stride=self.STRIDE)
        # The average of four positions at every second one, from sums of two: faster than pooling on a CPU.
        energy = responses[..., : responses.shape[-1] // 2 * 2].square()
        pairs = energy[..., 0::2] + energy[..., 1::2]
        energy = (pairs[..., :-1] + pairs[..., 1:]) / self.POOL
        return (energy + self.FLOOR).log().unflatten(0, features.shape[:2]).flatten(1, 2)


class TextureBlock(GradientCheckpointingLayer):
    """Two 3 x 3 convolutions with normalisation and a skip connection; the first one may stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int], dropout: float):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        # Without padding the last argument changes nothing here; ONNX Runtime divides incomplete windows rightly by it.
        self.shortcut_pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, in_channels, height, width)` -> `(batch, out_channels, ceil(height / stride), ...)`"""
        residual = self.shortcut_norm(self.shortcut(self.shortcut_pool(hidden_states)))
        hidden_states = self.dropout(F.silu(self.norm1(self.conv1(hidden_states))))
        return F.silu(self.norm2(self.conv2(hidden_states)) + residual)


class TextureEncoder(nn.Module):
    """Filter-bank features -> texture map -> projection -> residual blocks -> map for the graph back-end."""

    def __init__(self, config):
        super().__init__()
        first, *later = config.encoder_channels
        textures = len(config.win_lengths) * (config.texture_size**2 - 1)
        self.texture = TextureMap(config.texture_size)
        self.input_norm = nn.BatchNorm2d(textures)
        self.dropout = nn.Dropout2d(config.encoder_dropout)
        self.projection = nn.Conv2d(textures, first, 1, tuple(config.encoder_pooling[0]), bias=False)
        self.projection_norm = nn.BatchNorm2d(first)
        self.blocks = nn.ModuleList(
            TextureBlock(in_channels, out_channels, tuple(stride), config.encoder_dropout)
            for in_channels, out_channels, stride in zip(
                config.encoder_channels, later, config.encoder_pooling[1:], strict=False
            )
        )
        self.output_norm = nn.BatchNorm2d(config.encoder_channels[-1])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, maps, num_filters, frames)` -> `(batch, channels, num_spectral_nodes, width)`"""
        hidden_states = self.dropout(self.input_norm(self.texture(features)))
        # With the channels last in memory, a CPU convolves these small maps 1.4 times faster.
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
        hidden_states = F.silu(self.projection_norm(self.projection(hidden_states)))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.output_norm(hidden_states)


def texture_minimum_frames(size: int) -> int:
    """Fewest frames that give the texture map a width of one."""
    return size + TextureMap.STRIDE * (TextureMap.POOL - 1)
