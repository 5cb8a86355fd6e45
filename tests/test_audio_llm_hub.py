"""Detectors around an audio language model on the Hub: the adapter in one repository, its base in another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from audio_llm_models import write_base

from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification


# Makes spooftrace impossible to import, as where it is not installed.
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "spooftrace":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""

# Scores a second of a chirp by every detector that is named.
SCORE = """
import json, sys, numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
time = np.arange(16_000) / 16_000
wave = (0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time)).astype(np.float32)
for name in sys.argv[1:]:
    model = AutoModelForAudioClassification.from_pretrained(name, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
    assert "spooftrace" not in type(model).__module__, type(model).__module__
    with torch.inference_mode():
        print(json.dumps(model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).logits.tolist()))
"""


def chirp_logits(model: torch.nn.Module, extractor) -> list[list[float]]:
    time = torch.arange(16_000, dtype=torch.float64) / 16_000
    wave = (0.3 * torch.sin(2 * torch.pi * (200 + 900 * time) * time)).float().numpy()
    with torch.inference_mode():
        return model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).logits.tolist()


def save_detector(base: Path, folder: Path) -> list[list[float]]:
    """A detector with adapters that say something; returns what it makes of the chirp."""
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base, lora={"r": 2}, train_encoder=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(base)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return chirp_logits(model, extractor)


def run(program: str, *arguments: str, env: dict | None = None) -> list:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_adapter_and_base_come_from_two_repositories_and_from_folders_where_spooftrace_is_not_installed(tmp_path, hub):
    """The base at the pinned commit; and Qwen-Audio v1, which transformers does not know by itself, from a folder."""
    write_base(tmp_path / "v1_base", "qwen_audio")
    of_v1 = save_detector(tmp_path / "v1_base", tmp_path / "v1")
    write_base(tmp_path / "base")
    pinned = hub.seed("alice/base", tmp_path / "base")
    publish = f"""
import json, torch
from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification
model = AudioLLMForAudioClassification.from_backbone_pretrained("alice/base", lora={{"r": 2}})
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.1)
model.save_pretrained({str(tmp_path / "kept")!r})
model.push_to_hub("alice/detector")
AudioLLMFeatureExtractor.from_backbone_pretrained("alice/base").push_to_hub("alice/detector")
print(json.dumps([model.config.base_model_name_or_path, model.config.base_revision]))
"""
    assert run(publish, env=hub.env()) == [["alice/base", pinned]]
    files = hub.files("alice/detector")
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= set(files)
    assert "adapter_config.json" not in files and len(files["model.safetensors"]) < 100_000
    adapter = json.loads(files["adapter/adapter_config.json"])
    assert (adapter["base_model_name_or_path"], adapter["revision"], adapter["task_type"]) == (
        "alice/base",
        pinned,
        "CAUSAL_LM",
    )

    hub.seed("alice/base", {"model.safetensors": b"another one"})  # the pinned commit still counts
    kept = AudioLLMForAudioClassification.from_pretrained(tmp_path / "kept", base_model=tmp_path / "base")
    expected = chirp_logits(kept, AudioLLMFeatureExtractor.from_backbone_pretrained(tmp_path / "base"))
    found = run(ABSENT + SCORE, "alice/detector", str(tmp_path / "v1"), env=hub.env(token=None))
    assert found[0][0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1][0] == pytest.approx(of_v1[0], abs=1e-5)
