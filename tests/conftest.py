"""Fixtures shared by all tests.

Two folders of reference material are optional: tests that read them skip where they are absent.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as processors: one thread each, before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from small_hub import SmallHub, small_hub

from spooftrace.modeling import AasistConfig, AasistForAudioClassification


ROOT = Path(__file__).resolve().parent.parent


# What takes longest is handed out first, so that no worker is left with it in the end: files by their time, from 45 s on.
SLOW_FILES = (
    "test_onnx_export.py",
    "test_trainers_distributed.py",
    "test_space_browser.py",
    "test_cli_score.py",
    "test_publish.py",
    "test_scoring.py",
    "test_audio_llm_learning.py",
    "test_detection_trainer.py",
    "test_audio_llm_trainer.py",
    "test_metric_spaces.py",
    "test_space_server.py",
    "test_cli_publish.py",
    "test_mldg_trainer.py",
    "test_corpora_codecfake_plus.py",
    "test_hub_trainer.py",
    "test_detector.py",
    "test_modeling_aasist.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish() -> None:
    """Leaves what is imported by now out of further garbage collections: transformers asks for one at every training."""
    gc.collect()
    gc.freeze()


def _optional_folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here (set {variable} to point to it)")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers made by running the public reference implementations."""
    return _optional_folder("SPOOFTRACE_GOLDEN", ROOT.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def corpus_dir() -> Path:
    """A small corpus of genuine and fake speech, described by its `metadata.csv`."""
    return _optional_folder("SPOOFTRACE_CORPUS", ROOT.parent / "shared" / "corpus")


@pytest.fixture
def hub(tmp_path) -> Iterator[SmallHub]:
    """A Hub of this test's own; see `small_hub.py`."""
    with small_hub(tmp_path / "hub") as running:
        yield running


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """A fresh model made sensitive to its input: random batch-norm statistics, a strong classifier; in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.2, 2, generator=generator)
    with torch.no_grad():
        model.classifier.weight.mul_(10)
    return model.eval()


def tiny_wav2vec2(**overrides) -> dict:
    """A wav2vec 2.0 of the XLSR-53 kind with two layers of width 16; 320 samples to a frame as in the real one."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    positional = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    kind = {"conv_bias": True, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
    return {**sizes, **positional, **kind, "conv_dim": [8] * 7, **overrides}


TINY_GRAPH = {"encoder_channels": [4, 4, 6, 6, 6, 6], "graph_dims": [6, 4]}


def tiny_config(frontend: str, **overrides) -> AasistConfig:
    if frontend == "wav2vec2":
        overrides.setdefault("wav2vec2_config", tiny_wav2vec2())
    if frontend == "mel":  # one projection and two blocks instead of six blocks
        overrides.setdefault("encoder_channels", [4, 4, 6])
    return AasistConfig(**{"frontend": frontend, **TINY_GRAPH, **overrides})


@pytest.fixture(params=["sinc", "mel", "wav2vec2"])
def tiny_model(request) -> AasistForAudioClassification:
    """A small model of each front end, in evaluation mode."""
    torch.manual_seed(0)
    return lively(AasistForAudioClassification(tiny_config(request.param)))


def formula_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A state dict that any machine reproduces from names and shapes alone: scaled sines, positive variances."""
    state = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        size = int(torch.tensor(shape).prod()) if shape else 1
        wave = torch.sin(0.37 * torch.arange(size, dtype=torch.float64) ** 1.1 + index)
        fan_in = size // shape[0] if len(shape) > 1 else 1
        values = 1 + 0.5 * wave if name.endswith("running_var") else 1.25 * wave / fan_in**0.5
        is_counter = name.endswith("num_batches_tracked")
        state[name] = torch.zeros((), dtype=torch.long) if is_counter else values.float().reshape(shape)
    return state


def formula_clips(samples: int) -> torch.Tensor:
    """Two clips, a chirp and a beating tone, of shape `(2, samples)`."""
    time = torch.arange(samples, dtype=torch.float64) / 16_000
    chirp = torch.sin(2 * torch.pi * (200 + 1500 * time) * time)
    beat = torch.sin(2 * torch.pi * 440 * time) * torch.sin(2 * torch.pi * 7 * time)
    return 0.3 * torch.stack([chirp, beat]).float()
