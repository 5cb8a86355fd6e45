"""What the tests of batch scoring run on: a model of a few weights, short clips, and the files of a run."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification


RATE = 16_000


def tiny_folder(folder: Path, seed: int = 0, **overrides) -> Path:
    """A checkpoint whose windows last half a second; with fields of its configuration."""
    torch.manual_seed(seed)
    config = AasistConfig(
        frontend="mel",
        num_filters=24,
        hop_length=320,
        encoder_channels=[4, 4],
        encoder_pooling=[[2, 2], [2, 4]],
        graph_dims=[8, 4],
        **overrides,
    )
    AasistForAudioClassification(config).save_pretrained(folder)
    AasistFeatureExtractor(window_samples=RATE // 2).save_pretrained(folder)
    return folder


def write_clip(path: Path, seed: int) -> Path:
    """A voiced sound, half a second to a second and a half long, of its own pitch."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(generator.uniform(0.55, 1.5) * RATE)) / RATE
    pitch = generator.uniform(90, 220)
    voice = sum(np.sin(2 * np.pi * pitch * order * time) / order for order in range(1, 10))
    soundfile.write(path, 0.1 * voice + 0.005 * generator.standard_normal(len(time)), RATE)
    return path


def write_clips(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_clip(folder / f"clip{index:02}.flac", index)
    return folder


def listed(folder: Path) -> list[tuple[str, str]]:
    """Name without its ending, and path, of every file."""
    return [(path.stem, str(path)) for path in sorted(folder.iterdir())]


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}
