"""Audio language models on the Hub: the adapter in one repository, its base in another, and all of it without spooftrace."""

import json
from pathlib import Path

import pytest
import torch
import warm_python
from audio_llm_models import write_base
from tiny_qwen_audio import publish, tiny_model
from tiny_runs import write_clip
from transformers import AutoProcessor

from spooftrace.detector import Detector
from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.modeling.convert_qwen_audio import convert_qwen_audio


# Publishes a detector, keeps it in a folder too, scores with it and asks it otherwise.
PUBLISH = """
import json, sys, torch
from spooftrace.cli import main
from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification
kept, clips, out = sys.argv[1:]
model = AudioLLMForAudioClassification.from_backbone_pretrained("alice/base", lora={"r": 2})
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.1)
model.save_pretrained(kept)
model.push_to_hub("alice/detector")
AudioLLMFeatureExtractor.from_backbone_pretrained("alice/base").push_to_hub("alice/detector")
print(json.dumps([model.config.base_model_name_or_path, model.config.base_revision]))
assert main(["score", clips, "--model", "alice/detector", "--out", out, "--device", "cpu"]) == 0
words = ["--data", clips, "--split", "train", "--prompt", "Real or fake?", "--no-intervals", "--json"]
assert main(["prompts", "--model", "alice/detector", "--device", "cpu", *words]) == 0
"""

# As where spooftrace is not installed: what two detectors and two language models make of a second of a chirp.
WITHOUT_SPOOFTRACE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "spooftrace":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import json, numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, AutoModelForMultimodalLM, AutoProcessor
time = np.arange(16_000) / 16_000
wave = (0.3 * np.sin(2 * np.pi * (200 + 900 * time) * time)).astype(np.float32)
torch.set_grad_enabled(False)
for name in sys.argv[1:3]:
    model = AutoModelForAudioClassification.from_pretrained(name, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
    assert "spooftrace" not in type(model).__module__, type(model).__module__
    print(json.dumps(model(**extractor(wave, sampling_rate=16_000, return_tensors="pt")).logits[0].tolist()))
for folder in sys.argv[3:]:
    model, info = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(text=processor.build_prompt("Real?"), audio=wave, sampling_rate=16_000, return_tensors="pt")
    bare = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    logits = model.eval()(**inputs).logits[0, -1]
    assert torch.allclose(model.lm_head(bare(**inputs).last_hidden_state)[0, -1], logits, atol=1e-5)
    print(json.dumps(logits[:8].tolist()))
"""


def chirp():
    time = torch.arange(16_000, dtype=torch.float64) / 16_000
    return (0.3 * torch.sin(2 * torch.pi * (200 + 900 * time) * time)).float().numpy()


@torch.inference_mode()
def chirp_logits(model: torch.nn.Module, extractor) -> list[float]:
    return model(**extractor(chirp(), sampling_rate=16_000, return_tensors="pt")).logits[0].tolist()


def save_detector(base: Path, folder: Path) -> list[float]:
    """A detector with adapters that say something; returns what it makes of the chirp."""
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base, lora={"r": 2}, train_encoder=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(base)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return chirp_logits(model, extractor)


def save_language_models(folder: Path) -> list[float]:
    """Qwen-Audio v1 as `save_pretrained` leaves it and as it is converted; returns what both make of the chirp."""
    model = tiny_model()
    convert_qwen_audio(publish(model, folder / "source"), folder / "converted")
    processor = AutoProcessor.from_pretrained(folder / "converted")
    for part in (model, processor):
        part.save_pretrained(folder / "saved")
    inputs = processor(text=processor.build_prompt("Real?"), audio=chirp(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits[0, -1, :8].tolist()


def labelled(folder: Path) -> Path:
    folder.mkdir()
    names = [write_clip(folder / f"clip{index}.flac", index).name for index in range(4)]
    lines = [f"{name},{('spoof', 'bonafide')[index % 2]}" for index, name in enumerate(names)]
    (folder / "list.csv").write_text("\n".join(["audio,label", *lines]))
    return folder / "list.csv"


def run(program: str, *arguments: object, env: dict) -> str:
    done = warm_python.run("-c", program, *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_adapter_and_base_of_two_repositories_are_published_scored_with_and_loaded_without_spooftrace(tmp_path, hub):
    """The base at the pinned commit; and Qwen-Audio v1, which transformers does not know by itself, from folders."""
    write_base(tmp_path / "v1_base", "qwen_audio")
    of_v1 = save_detector(tmp_path / "v1_base", tmp_path / "v1")
    of_language_model = save_language_models(tmp_path)
    write_base(tmp_path / "base")
    pinned, table = hub.seed("alice/base", tmp_path / "base"), labelled(tmp_path / "clips")
    printed = run(PUBLISH, tmp_path / "kept", table, tmp_path / "out", env=hub.env())
    assert json.loads(printed.splitlines()[0]) == ["alice/base", pinned]
    files = hub.files("alice/detector")
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= set(files)
    assert "adapter_config.json" not in files and len(files["model.safetensors"]) < 100_000
    adapter = json.loads(files["adapter/adapter_config.json"])
    named = [adapter[name] for name in ("base_model_name_or_path", "revision", "task_type")]
    assert named == ["alice/base", pinned, "CAUSAL_LM"]

    model = AudioLLMForAudioClassification.from_pretrained(tmp_path / "kept", base_model=tmp_path / "base")
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(tmp_path / "base")
    detector = Detector(model, extractor, device="cpu")
    for line in (tmp_path / "out" / "scores.txt").read_text().splitlines():
        name, value = line.split()
        assert detector(table.parent / f"{name}.flac").score == pytest.approx(float(value), abs=1e-5)
    study = json.loads(printed[printed.index("{") :])
    assert study["model"]["revision"] == hub.head("alice/detector") and len(study["wordings"]) == 2

    hub.seed("alice/base", {"model.safetensors": b"another one"})  # the pinned commit still counts
    names = ["alice/detector", tmp_path / "v1", tmp_path / "saved", tmp_path / "converted"]
    found = run(WITHOUT_SPOOFTRACE, *names, env=hub.env(token=None))
    expected = [chirp_logits(model, extractor), of_v1, of_language_model, of_language_model]
    for line, logits in zip(filter(lambda line: line.startswith("["), found.splitlines()), expected, strict=True):
        assert json.loads(line) == pytest.approx(logits, abs=1e-5)
