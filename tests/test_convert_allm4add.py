"""What ALLM4ADD's public code saves becomes a detector: every tensor has its place, and nothing else is taken."""

import json
import os
from pathlib import Path

import pytest
import torch
from audio_llm_models import clips, write_base
from safetensors.torch import load_file, save_file

from spooftrace.cli import main
from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.modeling.convert_allm4add import PREFIX, convert_allm4add
from spooftrace.modeling.convert_common import ConversionError


TARGETS = ["c_attn", "c_proj", "w1", "w2"]
POSITIONS = "transformer.audio.positional_embedding"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "qwen-audio"
    write_base(folder, "qwen_audio")
    return folder


def published(base: Path, folder: Path, train_encoder: bool, old_files: bool = True) -> AudioLLMForAudioClassification:
    """The folder that the public code would have saved, of a detector whose parameters have moved."""
    peft = pytest.importorskip("peft")
    lora = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.05}
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base, lora=lora, train_encoder=train_encoder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=TARGETS, base_model_name_or_path="/home/someone/Qwen-Audio-Chat", **lora
    )
    settings.save_pretrained(folder)
    inner = {PREFIX + name: value for name, value in model.backbone.state_dict().items()}
    adapters = {name.replace(".default.", "."): value for name, value in inner.items() if "lora_" in name}
    torch.save(adapters, folder / "adapter_model.bin") if old_files else save_file(
        adapters, folder / "adapter_model.safetensors"
    )
    if train_encoder:
        encoder = {name: value for name, value in inner.items() if ".audio." in name and POSITIONS not in name}
        torch.save(encoder, folder / "non_lora_trainables.bin")
    return model


def logits(base: Path, model: AudioLLMForAudioClassification) -> torch.Tensor:
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(base)
    with torch.inference_mode():
        return model(**extractor(clips(1.0, 0.6), return_tensors="pt")).logits


@pytest.mark.parametrize("old_files", [False, True])
@pytest.mark.parametrize("train_encoder", [False, True])
def test_a_converted_adapter_scores_as_it_was_trained_and_loads_in_one_call(base, tmp_path, train_encoder, old_files):
    source, out = tmp_path / "checkpoint-10", tmp_path / "out"
    model = published(base, source, train_encoder, old_files)
    assert main(["convert", "allm4add", str(source), str(out), "--base", str(base)]) == 0
    found = AudioLLMForAudioClassification.from_pretrained(out)
    assert torch.equal(logits(base, found), logits(base, model))
    assert found.config.base_model_name_or_path == str(base) and found.config.train_encoder == train_encoder
    assert sorted(found.config.lora["target_modules"]) == TARGETS and found.config.lora["lora_alpha"] == 16
    report = json.loads((out / "conversion_report.json").read_text())
    trained = load_file(out / "model.safetensors")
    assert len(report["mapped"]) == len(trained) and report["dropped"] == {}
    assert report["num_parameters"] == sum(value.numel() for value in trained.values())
    assert any("Is this audio real or fake?" in note for note in report["notes"])
    assert any("calls its base model '/home/someone/Qwen-Audio-Chat'" in note for note in report["notes"])


def edited(path: Path, change) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "non_lora_trainables.bin",
            lambda state: state.update({"base_model.model.lm_head.weight": torch.ones(1)}),
            "unk",
        ),
        ("non_lora_trainables.bin", lambda state: state.popitem(), "1 missing tensors"),
        ("adapter_model.bin", lambda state: state.popitem(), "1 missing tensors"),
        ("adapter_model.bin", lambda state: state.update({f"{PREFIX}x.lora_A.weight": torch.ones(1)}), "no layers"),
        ("adapter_model.bin", lambda state: state.update({n: v[:1] for n, v in state.items()}), "of another shape"),
    ],
)
def test_a_tensor_that_is_missing_left_over_or_of_another_shape_is_refused(base, tmp_path, name, change, message):
    published(base, tmp_path, train_encoder=True)
    edited(tmp_path / name, change)
    with pytest.raises(ConversionError, match=message):
        convert_allm4add(tmp_path, base)


def test_positions_that_were_saved_with_the_encoder_are_left_to_the_base_model(base, tmp_path):
    model = published(base, tmp_path, train_encoder=True)
    edited(tmp_path / "non_lora_trainables.bin", lambda state: state.update({PREFIX + POSITIONS: torch.ones(1)}))
    found, report = convert_allm4add(tmp_path, base)
    assert list(report.dropped) == [PREFIX + POSITIONS]
    assert torch.equal(logits(base, found), logits(base, model))


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["non_lora_trainables.bin", "adapter_model.bin"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(base, tmp_path, name):
    published(base, tmp_path, train_encoder=False)
    torch.save({"weight": Bomb(tmp_path / "exploded")}, tmp_path / name)
    with pytest.raises(ConversionError, match="no checkpoint of plain tensors"):
        convert_allm4add(tmp_path, base)
    assert not (tmp_path / "exploded").exists()


def test_a_folder_without_an_adapter_and_another_base_are_named(base, tmp_path, capsys):
    assert main(["convert", "allm4add", str(tmp_path), str(tmp_path / "out"), "--base", str(base)]) == 1
    assert "it lacks adapter_config.json and adapter_model.safetensors" in capsys.readouterr().err
    published(base, tmp_path / "adapter", train_encoder=False)
    write_base(tmp_path / "other", "qwen2_audio")
    with pytest.raises(ConversionError, match=r"does not fit .*has no layers \['c_attn'"):
        convert_allm4add(tmp_path / "adapter", tmp_path / "other")
    assert not (tmp_path / "out").exists()
