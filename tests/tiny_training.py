"""What the tests of training run on: a pretrained encoder of a few weights, and a small corpus of one's own."""

import csv
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from conftest import TINY_GRAPH, tiny_wav2vec2
from transformers import Wav2Vec2Config, Wav2Vec2Model


RATE = 16_000
ATTACKS = ("A01", "A02", "A03")
TRAIN, VALIDATION = 2, 3  # clips of each attack


def write_encoder(folder: Path) -> Path:
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**tiny_wav2vec2())).save_pretrained(folder)
    return folder


def write_own_corpus(folder: Path) -> Path:
    """A table with the splits train and validation; as many genuine clips as fakes, which are tones of three systems."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        for number, attack in enumerate(ATTACKS):
            for index in range(count):
                time = np.arange(RATE // 2) / RATE
                fake = 0.1 * np.sin(2 * np.pi * (200 + 150 * number + index) * time)
                for label, samples in (("spoof", fake), ("bonafide", 0.1 * rng.standard_normal(len(time)))):
                    name = f"{split}-{attack}-{index}-{label}.flac"
                    soundfile.write(folder / name, samples, RATE)
                    rows.append((name, label, attack if label == "spoof" else "", split))
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("audio", "label", "attack_id", "split"), *rows])
    return folder


def tiny_recipe(path: Path, encoder: Path, corpus: Path, **changes) -> Path:
    """A recipe of three steps of half a second, on the CPU."""
    content = {
        "model": {"base_model": str(encoder), **TINY_GRAPH},
        "lora": {"r": 2},
        "data": {"corpus": "own", "dir": str(corpus)},
        "trainer": "mldg",
        "num_samples": RATE // 2,
        "max_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    if changes.get("trainer", "mldg") == "mldg":
        content |= {"clips_per_domain": 2, "num_meta_test_domains": 1}
    else:
        content |= {"per_device_train_batch_size": 4}
    path.write_text(yaml.safe_dump({**content, **changes}), encoding="utf-8")
    return path
