"""What the tests of source tracing run on: tracers of a few weights, voices, and open-set scores for them."""

from pathlib import Path

import numpy as np
import torch
from conftest import lively
from transformers import PreTrainedModel

from spooftrace.checkpoint import weights_file_sha256
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.open_set import METHODS, OpenSet, OpenSetScore


RATE = 16_000
WINDOW = 8_000
THREE = ("vq", "aux", "dec")


def tiny_tracer(tasks: tuple[str, ...] = THREE, seed: int = 0, **overrides) -> PreTrainedModel:
    """A model of several tasks that tells clips apart, without scalar quantisers."""
    torch.manual_seed(seed)
    labels = {"task_labels": {"vq": ["bonafide", "mvq", "svq"]}} if "vq" in tasks else {}
    config = AasistConfig(
        frontend="mel",
        num_filters=24,
        hop_length=320,
        encoder_channels=[4, 4],
        encoder_pooling=[[2, 2], [2, 4]],
        graph_dims=[8, 4],
        tasks=list(tasks),
        **{**labels, **overrides},
    )
    model = lively(AasistForAudioClassification(config))
    with torch.no_grad():
        for classifier in model.task_classifiers.values():
            classifier.weight.mul_(10)
    return model


def save_tracer(folder: Path, tasks: tuple[str, ...] = THREE, window: int = WINDOW, **options) -> Path:
    tiny_tracer(tasks, **options).save_pretrained(folder)
    AasistFeatureExtractor(window_samples=window).save_pretrained(folder)
    return folder


def fit_score(method: str, width: int, **options) -> OpenSetScore:
    """A score of features of this width, fitted on noise around two points."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    return METHODS[method].fit(generator.normal(size=(60, width)) + labels[:, None], labels, **options)


def save_open_set(folder: Path, method: str = "mahalanobis", threshold: float = 0.0, task: str = "vq") -> OpenSet:
    """Puts an open-set score for the weights of a tiny tracer of three tasks beside them."""
    scorer = fit_score(method, 3 * 20)
    open_set = OpenSet(scorer, task, threshold, 0.95, "noise", weights_file_sha256(folder))
    open_set.save(folder)
    return open_set


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Something with a pitch, pulses like those of vocal folds, and syllables, `[num_samples]`."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * generator.uniform(90, 250) * time
    tone = sum(np.cos(order * phase) / order ** generator.uniform(0.4, 1) for order in range(1, 12))
    syllables = 0.3 + np.abs(np.sin(2 * np.pi * generator.uniform(2, 4) * time))
    return (0.05 * tone * syllables + 0.001 * generator.normal(size=len(time))).astype(np.float32)
