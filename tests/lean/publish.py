"""Publishes one detector of each kind to a folder, with a clip and the logits it must give elsewhere.

    python tests/lean/publish.py FOLDER

`load.py` beside this file reads the result in an environment that does not know spooftrace.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2Model

from spooftrace.checkpoint import default_folder
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification


def publish(model: AasistForAudioClassification, extractor: AasistFeatureExtractor, folder: Path) -> None:
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
    models["lora"] = adapted(folder / "_encoder")
    for name, model in models.items():
        extractor = AutoFeatureExtractor.from_pretrained(default) if name == "default" else AasistFeatureExtractor()
        publish(model, extractor, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
