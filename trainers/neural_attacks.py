"""Small neural vocoders and codecs, trained from scratch on genuine clips, whose copies of those clips are spoof.

Each `NeuralConfig` is one attack system, after the families that spoken deepfakes come from: log-mel frames, ConvNeXt
blocks, and an inverse-STFT head (Vocos, arXiv:2306.00814); for codecs, residual vector quantisation (SoundStream,
EnCodec, DAC) or finite scalar quantisation (arXiv:2309.15505) between two such stacks, as in WavTokenizer; and, where
`upsampling` is given, transposed convolutions before a head of short frames (HiFi-GAN by way of iSTFTNet,
arXiv:2203.02395).

All are trained with a multi-resolution STFT loss and, after a first share of the steps, a least-squares GAN on
compressed complex spectrograms. They are meant to be trained for minutes on one CPU core: their artefacts, not their
fidelity, are the product. Waveforms are float32 [batch, samples] at 16 kHz in [-1, 1].
"""

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from spooftrace.trainers.spectra import mel_filterbank


SEGMENT_SAMPLES = 8000
WORKING_RMS = 0.06
GAN_START = 0.35
LOSS_RESOLUTIONS = ((1024, 256), (512, 128), (256, 64), (2048, 512))
CRITIC_RESOLUTIONS = ((1024, 256), (400, 100))


@dataclass(frozen=True)
class NeuralConfig:
    """One attack system. `hop` and `n_fft` are of its mel frames; `quantizer` makes it a codec.

    `upsampling` are factors, whose product divides `hop`, from the rate of the mel frames to that of the head's.
    `bitrates` are the numbers of residual quantisers it is run with (0: its only setting).
    """

    name: str
    quantizer: str = "none"
    hop: int = 160
    n_fft: int = 640
    num_mels: int = 80
    dim: int = 192
    layers: int = 6
    upsampling: tuple[int, ...] = ()
    stages: int = 8
    codebook_size: int = 256
    bitrates: tuple[int, ...] = (0,)
    seed: int = 0


NEURAL_ATTACKS: dict[str, NeuralConfig] = {
    config.name: config
    for config in (
        NeuralConfig("istft-vocoder"),
        NeuralConfig("fsq-codec", "scalar", hop=320, n_fft=1280, num_mels=100, layers=4, seed=3),
        NeuralConfig("rvq-codec", "residual", hop=200, n_fft=800, num_mels=100, layers=4, bitrates=(2, 8), seed=1),
        NeuralConfig("upsampling-vocoder", n_fft=1024, layers=3, upsampling=(5, 4), seed=2),
    )
}


class LogMel(nn.Module):
    """Natural-log mel spectrogram: [batch, samples] -> [batch, mels, samples // hop]."""

    def __init__(self, n_fft: int, hop: int, num_mels: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bank = torch.from_numpy(mel_filterbank(n_fft, num_mels).astype(np.float32))
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        margin = (self.n_fft - self.hop) // 2
        padded = F.pad(wave[:, None], (margin, margin), mode="reflect")[:, 0]
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        return (self.bank @ spectrum.abs()).clamp_min(1e-4).log()


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution and a point-wise bottleneck over [batch, dim, frames]."""

    def __init__(self, dim: int):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(3 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.2))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        update = self.norm(self.depthwise(hidden).transpose(1, 2))
        update = self.project(F.gelu(self.expand(update))) * self.scale
        return hidden + update.transpose(1, 2)


def convnext(in_dim: int, dim: int, layers: int) -> nn.Sequential:
    """[batch, in_dim, frames] -> [batch, dim, frames]."""
    return nn.Sequential(nn.Conv1d(in_dim, dim, 7, padding=3), *(ConvNeXtBlock(dim) for _ in range(layers)))


class IstftHead(nn.Module):
    """Predicts magnitude and phase per frame and overlap-adds: [batch, dim, frames] -> [batch, frames * hop]."""

    def __init__(self, dim: int, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, n_fft + 2)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        log_magnitude, phase = self.project(self.norm(hidden.transpose(1, 2))).chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.clamp(max=5.0).exp(), phase)
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        envelope = self._overlap_add(self.window.square().expand(1, frames.shape[1], -1))
        return self._overlap_add(frames) / envelope.clamp_min(1e-3)

    def _overlap_add(self, frames: torch.Tensor) -> torch.Tensor:
        batch, count, _ = frames.shape
        overlap = self.n_fft // self.hop
        chunks = frames.view(batch, count, overlap, self.hop)
        total = sum(F.pad(chunks[:, :, k], (0, 0, k, overlap - 1 - k)) for k in range(overlap))
        margin = (self.n_fft - self.hop) // 2
        return total.flatten(1)[:, margin : margin + count * self.hop]


class ResidualUnit(nn.Module):
    """Two dilated convolutions with a skip, over [batch, dim, samples]."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.first = nn.Conv1d(dim, dim, kernel, padding=kernel // 2)
        self.second = nn.Conv1d(dim, dim, kernel, padding=3 * (kernel // 2), dilation=3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.second(F.leaky_relu(self.first(F.leaky_relu(hidden, 0.1)), 0.1))


def upsampler(dim: int, factors: Sequence[int]) -> nn.Sequential:
    """Transposed convolutions, each halving the width: [batch, dim, frames] -> [batch, dim / 2^n, frames * product]."""
    layers: list[nn.Module] = []
    for factor in factors:
        padding, extra = (factor + 1) // 2, factor % 2
        up = nn.ConvTranspose1d(dim, dim // 2, 2 * factor, factor, padding=padding, output_padding=extra)
        layers += [nn.LeakyReLU(0.1), up, ResidualUnit(dim // 2, 3), ResidualUnit(dim // 2, 7)]
        dim //= 2
    return nn.Sequential(*layers)


class ResidualQuantizer(nn.Module):
    """Residual VQ in a small normalised space (as in DAC); trained with a random number of stages per clip."""

    def __init__(self, dim: int, stages: int, codebook_size: int, code_dim: int = 8):
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(dim, code_dim) for _ in range(stages))
        self.up = nn.ModuleList(nn.Linear(code_dim, dim) for _ in range(stages))
        self.codebooks = nn.ParameterList(torch.randn(codebook_size, code_dim) for _ in range(stages))

    def forward(self, hidden: torch.Tensor, stages: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden [batch, frames, dim], stages (0: all, or a random number while training) -> quantised, loss."""
        batch, count = hidden.shape[0], stages or len(self.codebooks)
        kept = torch.full((batch,), count)
        if self.training and not stages:
            kept = torch.randint(1, count + 1, (batch,))
        total, loss = torch.zeros_like(hidden), hidden.new_zeros(())
        for stage in range(count):
            low = F.normalize(self.down[stage](hidden - total.detach()), dim=-1)
            table = F.normalize(self.codebooks[stage], dim=-1)
            code = table[(low.detach() @ table.detach().T).argmax(-1)]
            used = (kept > stage).to(hidden.dtype)[:, None, None]
            distance = (code - low.detach()).square() + 0.25 * (low - code.detach()).square()
            loss = loss + (distance * used).sum(-1).mean()
            total = total + self.up[stage](low + (code - low).detach()) * used
        return total, loss


class ScalarQuantizer(nn.Module):
    """Finite scalar quantisation: `code_dim` numbers per frame, rounded to five levels each (2.3 bits)."""

    def __init__(self, dim: int, code_dim: int = 12):
        super().__init__()
        self.down, self.up = nn.Linear(dim, code_dim), nn.Linear(code_dim, dim)

    def forward(self, hidden: torch.Tensor, stages: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        low = 2.0 * torch.tanh(self.down(hidden))
        return self.up(low + (low.round() - low).detach()), hidden.new_zeros(())


class NeuralCopier(nn.Module):
    """Encodes a waveform and decodes it again: forward(wave [batch, samples], stages) -> (copy, quantiser loss).

    `samples` must be a multiple of `config.hop`. Raises ValueError for an unknown `config.quantizer`.
    """

    def __init__(self, config: NeuralConfig):
        super().__init__()
        self.config, dim = config, config.dim
        self.encoder: nn.Module = LogMel(config.n_fft, config.hop, config.num_mels)
        self.quantizer = _quantizer(config)
        if self.quantizer is not None:
            self.encoder = nn.Sequential(self.encoder, convnext(config.num_mels, dim, config.layers))
        trunk = convnext(config.num_mels if self.quantizer is None else dim, dim, config.layers)
        hop = config.hop // math.prod(config.upsampling)
        n_fft = 4 * hop if config.upsampling else config.n_fft
        head = IstftHead(dim // 2 ** len(config.upsampling), n_fft, hop)
        self.decoder = nn.Sequential(trunk, *upsampler(dim, config.upsampling), head)

    def forward(self, wave: torch.Tensor, stages: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, loss = self.encoder(wave), wave.new_zeros(())
        if self.quantizer is not None:
            hidden, loss = self.quantizer(hidden.transpose(1, 2), stages)
            hidden = hidden.transpose(1, 2)
        return self.decoder(hidden), loss


def _quantizer(config: NeuralConfig) -> nn.Module | None:
    if config.quantizer == "residual":
        return ResidualQuantizer(config.dim, config.stages, config.codebook_size)
    if config.quantizer == "scalar":
        return ScalarQuantizer(config.dim)
    if config.quantizer != "none":
        raise ValueError(f"quantizer {config.quantizer!r} is unknown; choose none, residual or scalar")
    return None


class SpectrogramCritic(nn.Module):
    """Judges compressed complex spectrograms: [batch, samples] -> [batch, 1, frames, bins / 8]."""

    def __init__(self, n_fft: int, hop: int, channels: int = 12):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        dims = (2, channels, channels, channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, (3, 5), (1, 2), (1, 2)) for before, after in pairwise(dims)
        )
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(wave, self.n_fft, self.hop, window=self.window, return_complex=True).transpose(1, 2)
        parts = torch.view_as_real(spectrum)
        power = parts.square().sum(-1, keepdim=True) + 1e-6
        hidden = (parts * power.pow(-0.35)).permute(0, 3, 1, 2)
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.1)
        return self.head(hidden)


def spectral_loss(copy: torch.Tensor, wave: torch.Tensor) -> torch.Tensor:
    """Multi-resolution STFT loss (arXiv:1910.11480): log-magnitude distance and spectral convergence, averaged."""
    total = wave.new_zeros(())
    for n_fft, hop in LOSS_RESOLUTIONS:
        window = torch.hann_window(n_fft)
        stacked = torch.stft(torch.cat([copy, wave]), n_fft, hop, window=window, return_complex=True)
        fake, real = (torch.view_as_real(stacked).square().sum(-1) + 1e-6).sqrt().chunk(2)
        convergence = (fake - real).norm() / real.norm()
        total = total + (fake.log() - real.log()).abs().mean() + convergence
    return total / len(LOSS_RESOLUTIONS)


def _segments(clips: Sequence[np.ndarray], batch: int, generator: np.random.Generator) -> torch.Tensor:
    """A random batch [batch, SEGMENT_SAMPLES], each at about the working level, varied by +-6 dB."""
    rows = np.zeros((batch, SEGMENT_SAMPLES), dtype=np.float32)
    for row in rows:
        clip = clips[int(generator.integers(len(clips)))]
        start = int(generator.integers(max(1, len(clip) - SEGMENT_SAMPLES + 1)))
        piece = clip[start : start + SEGMENT_SAMPLES]
        row[: len(piece)] = piece * (WORKING_RMS / (_rms(clip) + 1e-9)) * 10 ** generator.uniform(-0.3, 0.3)
    return torch.from_numpy(rows.clip(-1, 1))


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if wave.size else 0.0


def _progress(steps: int | None, minutes: float | None) -> Iterator[float]:
    """Yields the share of the training done, once per step, by count (repeatable) or by the clock."""
    if (steps is None) == (minutes is None):
        raise ValueError(f"give either steps or minutes, got steps={steps} and minutes={minutes}")
    begun, done = time.monotonic(), 0
    while True:
        share = done / steps if minutes is None else (time.monotonic() - begun) / (60.0 * minutes)
        if share >= 1.0:
            return
        yield share
        done += 1


def train_copier(
    config: NeuralConfig,
    clips: Sequence[np.ndarray],
    *,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    batch: int = 10,
    report: Callable[[float, float], None] | None = None,
) -> NeuralCopier:
    """Trains one system on `clips` (float32 [samples]) for `steps` (repeatable for a seed) or for `minutes`.

    `report(share of training done, loss)` is called after every step. Raises ValueError without clips.
    """
    if not clips:
        raise ValueError(f"no clips to train {config.name} on; give at least one genuine training clip")
    mixed = zlib.crc32(f"{seed}:{config.name}:{config.seed}".encode())
    generator = np.random.default_rng(mixed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed)
        model = NeuralCopier(config).train()
        critics = nn.ModuleList(SpectrogramCritic(*size) for size in CRITIC_RESOLUTIONS)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.8, 0.99), weight_decay=0.01)
        critic_optimizer = torch.optim.AdamW(critics.parameters(), lr=5e-4, betas=(0.5, 0.99))
        for share in _progress(steps, minutes):
            wave = _segments(clips, batch, generator)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (0.05 + 0.95 * np.cos(0.5 * np.pi * share))
            loss = _step(model, critics, optimizer, critic_optimizer, wave, adversarial=share >= GAN_START)
            if report is not None:
                report(share, loss)
    return model.eval()


def _step(
    model: NeuralCopier,
    critics: nn.ModuleList,
    optimizer: torch.optim.Optimizer,
    critic_optimizer: torch.optim.Optimizer,
    wave: torch.Tensor,
    *,
    adversarial: bool,
) -> float:
    """One update of the copier, and of the critics once the adversarial phase has begun. Returns the STFT loss."""
    copy, quantizer_loss = model(wave)
    if adversarial:
        pairs = [(critic(wave), critic(copy.detach())) for critic in critics]
        critic_loss = sum((real - 1).square().mean() + fake.square().mean() for real, fake in pairs)
        critic_optimizer.zero_grad(set_to_none=True)
        critic_loss.backward()
        critic_optimizer.step()
    spectral = spectral_loss(copy, wave)
    loss = spectral + 0.1 * quantizer_loss
    if adversarial:
        critics.requires_grad_(False)
        loss = loss + 0.2 * sum((critic(copy) - 1).square().mean() for critic in critics)
        critics.requires_grad_(True)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    return float(spectral.detach())


@torch.inference_mode()
def copy_clip(model: NeuralCopier, wave: np.ndarray, stages: int = 0) -> np.ndarray:
    """The system's copy of one clip: float32 [samples] -> float32 [samples], at the clip's level."""
    level = _rms(wave)
    if level < 1e-6:
        return wave.astype(np.float32).copy()
    hop, n_fft = model.config.hop, model.config.n_fft
    samples = -(-max(n_fft, len(wave)) // hop) * hop
    padded = np.zeros(samples, dtype=np.float32)
    padded[: len(wave)] = wave * (WORKING_RMS / level)
    copy, _ = model(torch.from_numpy(padded)[None], stages)
    return (copy[0, : len(wave)].numpy() * (level / WORKING_RMS)).astype(np.float32)
