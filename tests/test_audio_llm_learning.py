"""A tiny audio language model learns from real speech what holds for speakers that it has not heard.

The corpus's own splits are disjoint in speakers, as far as its pages name them. The setting was chosen with `train` and
`valid` alone (391 clips of 104 speakers): fifteen settings of the whole model, with an AUC of 0.50 to 0.70 there, and readouts
of the encoder's features alone. A frozen encoder, differences of bands in its first convolution, 128 bands and a learning rate
of 3e-3 came out best (0.70; 0.69 with 1e-3); with seeds 1, 2 and 3, fixed beforehand, this setting has 0.69, 0.61 and 0.69.

Only then was `test` (438 clips of 125 speakers) scored, once with each seed: 0.576 (95 % interval over speakers 0.520 to
0.627), 0.618 (0.554 to 0.672) and 0.645 (0.594 to 0.692). Nothing was changed after it; the test below is seed 1. The split
was not wholly fresh: an earlier setting, all of a smaller model trained at the same rate, had been chosen on these clips.
"""

import csv
import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from audio_llm_jobs import QUIET
from audio_llm_models import tiny_processor, tiny_qwen2_audio

from spooftrace.intervals import Interval, bootstrap_interval
from spooftrace.metrics import auc
from spooftrace.modeling import AudioLLMDetectorConfig, AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.modeling.audio_llm_prompts import read_prompt
from spooftrace.trainers import clips
from spooftrace.trainers.audio_llm_config import AudioLLMTrainingConfig
from spooftrace.trainers.audio_llm_trainer import AudioLLMTrainer


SECONDS, BANDS = 2, 128
AUDIO = {"d_model": 128, "encoder_layers": 0, "num_mel_bins": BANDS, "max_source_positions": 200}
TEXT = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_key_value_heads": 4}
TRAINING = {
    "num_samples": 16_000 * SECONDS,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "num_train_epochs": 3,
    "learning_rate": 3e-3,
    "warmup_steps": 0.05,
    "weight_decay": 0.01,
}


@pytest.fixture(autouse=True)
def each_file_is_decoded_once(monkeypatch):
    monkeypatch.setattr(clips, "load_audio", functools.cache(clips.load_audio))


def rows_of(corpus: Path, split: str, shortest: float = 0.0) -> list[dict]:
    """Clips with a stated licence and at least this many seconds."""
    with open(corpus / "metadata.csv", encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["split"] == split and row["file"].startswith("audio/")]
    return [
        {
            "utterance_id": Path(row["file"]).stem,
            "audio": str(corpus / row["file"]),
            "label": row["label"],
            "speaker": row["speaker"],
            "duration": float(row["duration"]),
        }
        for row in found
        if float(row["duration"]) >= shortest
    ]


def untrained(processor, seed: int) -> AudioLLMForAudioClassification:
    """
    Qwen2-Audio of two frozen convolutions and one layer of the language model.

    The first convolution is random second differences of neighbouring bands, without which the average spectrum, and so the
    speaker, drowns what a fake differs in.
    """
    backbone = tiny_qwen2_audio(processor).config
    for part, sizes in ((backbone.audio_config, AUDIO), (backbone.text_config, TEXT)):
        vars(part).update({**sizes, "initializer_range": 0.1})
    backbone.initializer_range = 0.1
    words = {"bonafide": "Real", "spoof": "Fake"}
    prompt = read_prompt(processor, "Is this audio real or fake?", None, words)
    torch.manual_seed(seed)
    model = AudioLLMForAudioClassification(AudioLLMDetectorConfig(backbone_config=backbone, **prompt))
    encoder = model.backbone.model.audio_tower.requires_grad_(False)
    noise = torch.randn(AUDIO["d_model"], BANDS - 2, 3)
    encoder.conv1.weight.copy_(0.3 * torch.diff(F.pad(noise, (0, 0, 2, 2)), n=2, dim=1))
    return model


def fine_tuned(train: list[dict], folder: Path, seed: int) -> AudioLLMTrainer:
    processor = tiny_processor("qwen2_audio")
    trainer = AudioLLMTrainer(
        untrained(processor, seed),
        AudioLLMTrainingConfig(str(folder), **{**QUIET, "logging_steps": 50}, **TRAINING, seed=seed),
        train_dataset=train,
        processing_class=AudioLLMFeatureExtractor(feature_size=BANDS, chunk_length=4),
        processor=processor,
    )
    trainer.train()
    return trainer


def area(trainer: AudioLLMTrainer, rows: list[dict]) -> Interval:
    """The area under the ROC curve, with its interval over speakers."""
    bonafide, spoof = trainer.scores(trainer.predict(rows))
    speakers = {
        f"{label}_speakers": [row["speaker"] for row in rows if row["label"] == label]
        for label in ("bonafide", "spoof")
    }
    return bootstrap_interval(auc, bonafide, spoof, **speakers)


def test_a_tiny_model_tells_fakes_of_unheard_speakers_from_genuine_speech(corpus_dir, tmp_path):
    train, test = rows_of(corpus_dir, "train", shortest=SECONDS), rows_of(corpus_dir, "test")
    assert len(test) > 400 and not {row["speaker"] for row in train} & {row["speaker"] for row in test}
    found = area(fine_tuned(train, tmp_path, seed=1), test)
    print(f"AUC {found.value:.3f}, 95 % interval over {found.clusters} speakers {found.low:.3f}-{found.high:.3f}")
    assert found.low > 0.5
