"""Publishes one detector of each kind to a folder, with a clip and the logits it must give elsewhere.

    python tests/lean/publish.py FOLDER

`load.py` beside this file reads the result in an environment that does not know spooftrace.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from spooftrace.checkpoint import default_folder
from spooftrace.modeling import (
    AasistConfig,
    AasistFeatureExtractor,
    AasistForAudioClassification,
    SASTNetConfig,
    SASTNetFeatureExtractor,
    SASTNetForAudioClassification,
)


def publish(model: PreTrainedModel, extractor: AasistFeatureExtractor, folder: Path) -> None:
    waveform = np.sin(np.arange(40_000) * 0.05).astype(np.float32) * 0.3
    with torch.inference_mode():
        output = model.eval()(**extractor(waveform, sampling_rate=16_000, return_tensors="pt"))
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    np.savez(folder / "expected.npz", waveform=waveform, logits=output.logits.numpy())


def adapted(encoder_folder: Path) -> AasistForAudioClassification:
    """A detector with low-rank adapters, whose repository leaves the encoder out."""
    Wav2Vec2Model(Wav2Vec2Config(hidden_size=48, num_hidden_layers=2)).save_pretrained(encoder_folder)
    model = AasistForAudioClassification.from_wav2vec2_pretrained(encoder_folder, lora={"r": 2})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first
            torch.nn.init.normal_(parameter)
    return model


def tracer() -> SASTNetForAudioClassification:
    """All parts of SASTNet, smaller."""
    whisper = {
        "d_model": 48,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
    }
    config = SASTNetConfig(
        wav2vec2_config={"hidden_size": 48, "num_hidden_layers": 2},
        whisper_config=whisper,
        mae_hidden_size=48,
        mae_num_layers=2,
        mae_intermediate_size=64,
        decoder_hidden_size=64,
        decoder_num_layers=2,
        decoder_intermediate_size=64,
        fusion_intermediate_size=64,
    )
    return SASTNetForAudioClassification(config)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    default = default_folder()
    models = {
        "default": AutoModelForAudioClassification.from_pretrained(default),
        "sinc": AasistForAudioClassification(AasistConfig()),
        "wav2vec2": AasistForAudioClassification(
            AasistConfig(frontend="wav2vec2", wav2vec2_config={"hidden_size": 48, "num_hidden_layers": 2})
        ),
    }
    models["tasks"] = AasistForAudioClassification(AasistConfig(tasks=["bin", "vq", "aux", "dec"]))
    models["lora"] = adapted(folder / "_encoder")
    models["sastnet"] = tracer()
    extractors = {"default": AutoFeatureExtractor.from_pretrained(default), "sastnet": SASTNetFeatureExtractor()}
    for name, model in models.items():
        publish(model, extractors.get(name, AasistFeatureExtractor()), folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
