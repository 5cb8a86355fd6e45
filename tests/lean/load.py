"""Loads published detectors where spooftrace is not installed, and checks that they score as they did at home.

python tests/lean/load.py FOLDER
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline


def check(folder: Path) -> None:
    expected = np.load(folder / "expected.npz")
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    inputs = extractor(expected["waveform"], sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
    np.testing.assert_allclose(output.logits.numpy(), expected["logits"], atol=1e-4)
    if "AutoModel" in model.config.auto_map:  # a language model's detector has no headless form
        bare = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        with torch.inference_mode():
            torch.testing.assert_close(bare(**inputs).embeddings, output.embeddings, atol=1e-4, rtol=0)
    classify = pipeline(
        "audio-classification", model=str(folder), feature_extractor=str(folder), trust_remote_code=True
    )
    probabilities = {entry["label"]: entry["score"] for entry in classify(expected["waveform"])}
    softmax = output.logits.softmax(1)[0]
    assert abs(probabilities["bonafide"] - softmax[model.config.label2id["bonafide"]]) < 1e-5
    print(f"{folder.name}: logits {output.logits.tolist()[0]} as published")


def main(folder: Path) -> None:
    for module in ("spooftrace", "torchaudio"):
        assert importlib.util.find_spec(module) is None, f"{module} is installed; this check needs a lean environment"
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert folders, f"nothing was published to {folder}"
    for path in folders:
        check(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
