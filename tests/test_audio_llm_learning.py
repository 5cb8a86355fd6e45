"""A tiny audio language model learns from real speech what holds for speakers that it has not heard."""

import csv
from pathlib import Path

import numpy as np
import torch
from audio_llm_jobs import QUIET
from audio_llm_models import tiny_processor, tiny_qwen2_audio

from spooftrace.intervals import bootstrap_interval
from spooftrace.metrics import auc
from spooftrace.modeling import AudioLLMDetectorConfig, AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.modeling.audio_llm_prompts import read_prompt
from spooftrace.trainers.audio_llm_config import AudioLLMTrainingConfig
from spooftrace.trainers.audio_llm_trainer import AudioLLMTrainer


TRAIN_CLIPS = 1_000
SECONDS, BANDS = 2, 80
SIZES = {
    "audio": {"d_model": 48, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 96},
    "text": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4},
}


def clips_of(corpus: Path, split: str, count: int | None = None) -> list[dict]:
    """Clips with a stated licence, of both labels alike where there is a count."""
    found: dict[str, list[dict]] = {"bonafide": [], "spoof": []}
    with open(corpus / "metadata.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == split and row["file"].startswith("audio/"):
                names = {"utterance_id": Path(row["file"]).stem, "audio": str(corpus / row["file"])}
                found[row["label"]].append(
                    {**names, "label": row["label"], "speaker": row["speaker"], "duration": float(row["duration"])}
                )
    rng = np.random.default_rng(0)
    return [
        row
        for rows in found.values()
        for row in (rows if count is None else [rows[index] for index in rng.permutation(len(rows))[: count // 2]])
    ]


def untrained(processor) -> AudioLLMForAudioClassification:
    """Qwen2-Audio of one layer each, all of which is trained."""
    backbone = tiny_qwen2_audio(processor).config
    for part, sizes in (("audio_config", SIZES["audio"]), ("text_config", SIZES["text"])):
        vars(getattr(backbone, part)).update({**sizes, "initializer_range": 0.1})
    backbone.audio_config.num_mel_bins, backbone.audio_config.max_source_positions = BANDS, 200
    backbone.text_config.num_key_value_heads = 4
    backbone.initializer_range = 0.1
    words = {"bonafide": "Real", "spoof": "Fake"}
    prompt = read_prompt(processor, "Is this audio real or fake?", None, words)
    torch.manual_seed(1)
    return AudioLLMForAudioClassification(AudioLLMDetectorConfig(backbone_config=backbone, **prompt))


def test_a_tiny_model_tells_fakes_of_unheard_speakers_from_genuine_speech(corpus_dir, tmp_path):
    train, test = clips_of(corpus_dir, "train", TRAIN_CLIPS), clips_of(corpus_dir, "test")
    assert len(test) > 400 and not {row["speaker"] for row in train} & {row["speaker"] for row in test}
    processor = tiny_processor("qwen2_audio")
    arguments = AudioLLMTrainingConfig(
        str(tmp_path),
        **{**QUIET, "logging_steps": 50},
        num_samples=16_000 * SECONDS,
        crop="random",
        per_device_train_batch_size=16,
        per_device_eval_batch_size=32,
        num_train_epochs=8,
        learning_rate=3e-3,
        warmup_steps=0.1,
        weight_decay=0.01,
    )
    trainer = AudioLLMTrainer(
        untrained(processor),
        arguments,
        train_dataset=train,
        processing_class=AudioLLMFeatureExtractor(feature_size=BANDS, chunk_length=4),
        processor=processor,
    )
    trainer.train()
    bonafide, spoof = trainer.scores(trainer.predict(test))
    speakers = {
        f"{label}_speakers": [row["speaker"] for row in test if row["label"] == label]
        for label in ("bonafide", "spoof")
    }
    interval = bootstrap_interval(auc, bonafide, spoof, **speakers)
    print(
        f"AUC {interval.value:.3f}, 95 % interval over {interval.clusters} speakers {interval.low:.3f}-{interval.high:.3f}"
    )
    assert interval.low > 0.5
