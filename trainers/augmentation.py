"""Augmentation in the filter bank's domain, for small corpora on a CPU.

Band energies of all clips are computed once and kept; every training step then draws crops of them and alters these, at
a small fraction of the cost of altering and analysing waveforms. Energies of speech and of independent noise add up but
for a cross term, which is left out. A *pair* is a genuine clip and a fake that follow one another in the batch; altered
alike, they differ in nothing but what the fake's maker did to it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class EnergyAugmentation:
    """Random equalisation and coloured noise on band energies.

    Args:
        noise: share of clips that get noise.
        lowest_snr, highest_snr: signal-to-noise ratio, uniform, in dB.
        equalisation: standard deviation of the gain at eight frequencies, in nepers of energy (1 is 4.3 dB).
        paired: share of batches whose pairs are altered alike.
    """

    noise: float = 0.3
    lowest_snr: float = 8.0
    highest_snr: float = 45.0
    equalisation: float = 0.3
    paired: float = 0.5

    def __call__(self, energies: torch.Tensor) -> torch.Tensor:
        """`(2 * pairs, maps, bands, frames)` -> the same shape; draws from torch's global generator."""
        paired = torch.rand(()) < self.paired
        count, maps, bands, frames = energies.shape
        count = count // 2 if paired else count
        gain = F.interpolate(torch.randn(count, 1, 8), size=bands, mode="linear", align_corners=True)
        noise = self._noise(count, maps, bands, frames)
        gain = (self.equalisation * gain).exp()[..., None]  # (count, 1, bands, 1)
        if paired:
            gain, noise = gain.repeat_interleave(2, 0), noise.repeat_interleave(2, 0)
        energies = energies * gain
        return energies + noise * energies.mean(dim=(2, 3), keepdim=True)

    def _noise(self, count: int, maps: int, bands: int, frames: int) -> torch.Tensor:
        """Noise for speech of unit energy: `(count, maps, bands, frames)`, zeros for clips that get none."""
        # Energy of Gaussian noise in a band of two independent bins: a sum of two exponential variables.
        grain = -torch.log(torch.rand(2, count, maps, bands, frames).clamp_min(1e-9)).mean(dim=0)
        slope = torch.empty(count, 1, 1, 1).uniform_(-6.0, 2.0) * torch.linspace(0, 1, bands)[:, None]
        colour = slope.softmax(dim=2) * bands
        snr = torch.empty(count, 1, 1, 1).uniform_(self.lowest_snr, self.highest_snr)
        chosen = torch.rand(count, 1, 1, 1) < self.noise
        return chosen * grain * colour * 10 ** (-snr / 10)


@dataclass(frozen=True)
class FeatureMask:
    """SpecAugment (Park et al. 2019, arXiv 1904.08779) with the same masks for both clips of a pair.

    Args:
        bands: how many runs of bands are masked in each pair.
        band_share: longest run, as a share of all bands.
        frame_share: longest run of frames, one for each pair, as a share of all frames.
    """

    bands: int = 2
    band_share: float = 0.12
    frame_share: float = 0.1

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """`(2 * pairs, maps, bands, frames)` with zero mean in each band -> the same shape."""
        pairs = features.shape[0] // 2
        keep = torch.ones(pairs, 1, *features.shape[2:])
        for _ in range(self.bands):
            keep *= ~_runs(pairs, features.shape[2], self.band_share)[:, None, :, None]
        keep *= ~_runs(pairs, features.shape[3], self.frame_share)[:, None, None, :]
        return features * keep.repeat_interleave(2, 0)


def _runs(count: int, length: int, share: float) -> torch.Tensor:
    """`(count, length)`, true in one run of random place and size in each row."""
    size = (torch.rand(count, 1) * (int(share * length) + 1)).floor()
    start = (torch.rand(count, 1) * (length - size + 1)).floor()
    position = torch.arange(length)
    return (position >= start) & (position < start + size)
