"""Detectors around an audio language model: what is trained, what is saved, and that only the right base completes it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from audio_llm_models import KINDS, clips, write_base
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, AutoProcessor

from spooftrace.checkpoint import CheckpointError, load_checkpoint
from spooftrace.modeling import AudioLLMDetectorConfig, AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.modeling.audio_llm_adapters import weights_digest
from spooftrace.modeling.audio_llm_prompts import render_prompt


LENGTHS = (1.0, 2.3, 0.7)


def adapted(base: Path, **settings) -> AudioLLMForAudioClassification:
    """A detector whose trained parameters have moved: peft starts the adapters' B at zero."""
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def trainable(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def kind_folder(kind, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / kind
    write_base(folder, kind)
    return folder


@pytest.fixture
def base(tmp_path) -> Path:
    write_base(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def published(base, tmp_path) -> tuple[AudioLLMForAudioClassification, Path]:
    model, folder = adapted(base, lora={"r": 2}), tmp_path / "detector"
    model.save_pretrained(folder)
    AudioLLMFeatureExtractor.from_backbone_pretrained(base).save_pretrained(folder)
    return model, folder


def inputs(base: Path) -> dict[str, torch.Tensor]:
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(base)
    return dict(extractor(clips(*LENGTHS), sampling_rate=16_000, return_tensors="pt"))


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("train_encoder", [False, True])
@pytest.mark.filterwarnings("default:.*is_gradient_checkpointing:FutureWarning")  # of peft
def test_what_was_trained_comes_back_on_its_base_in_one_call_and_by_peft_alone(kind_folder, tmp_path, train_encoder):
    peft = pytest.importorskip("peft")
    model = adapted(kind_folder, lora={"r": 2}, train_encoder=train_encoder)
    expected = model(**inputs(kind_folder)).logits
    model.save_pretrained(tmp_path)
    AudioLLMFeatureExtractor.from_backbone_pretrained(kind_folder).save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == trainable(model)
    assert not (tmp_path / "adapter_config.json").exists()

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    features = extractor(clips(*LENGTHS), sampling_rate=16_000, return_tensors="pt")
    assert torch.equal(loaded(**features).logits, expected)
    assert trainable(loaded) == trainable(model) and not loaded.training

    plain = type(model.backbone).from_pretrained(kind_folder)
    wrapped = peft.PeftModel.from_pretrained(plain, tmp_path, subfolder="adapter").eval()
    processor = AutoProcessor.from_pretrained(kind_folder)
    processor.tokenizer.padding_side = "left"
    texts = [render_prompt(processor, model.config.prompt)] * len(LENGTHS)
    asked = processor(text=texts, audio=clips(*LENGTHS), sampling_rate=16_000, padding=True, return_tensors="pt")
    close(wrapped(**asked).logits[:, -1, model.config.label_ids], expected)


@torch.inference_mode()
@pytest.mark.parametrize("train_encoder", [False, True])
def test_adapters_that_peft_has_saved_become_detectors(kind_folder, tmp_path, train_encoder):
    model = adapted(kind_folder, lora={"r": 2, "lora_alpha": 3}, train_encoder=train_encoder)
    model.save_pretrained(tmp_path)
    found = AudioLLMForAudioClassification.from_adapter_pretrained(tmp_path / "adapter")
    assert {**found.config.lora, "target_modules": None} == {**model.config.lora, "target_modules": None}
    assert torch.equal(found(**inputs(kind_folder)).logits, model(**inputs(kind_folder)).logits)


@torch.inference_mode()
def test_adapters_with_the_names_of_older_releases_and_an_encoder_apart_become_detectors(base, tmp_path):
    """As transformers 4 named them; the encoder as ALLM4ADD saves it."""
    model = adapted(base, lora={"r": 2}, train_encoder=True)
    model.save_pretrained(tmp_path / "new")
    path, encoder, adapters = tmp_path / "new" / "adapter" / "adapter_model.safetensors", {}, {}
    for name, tensor in load_file(path).items():
        name = name.removeprefix("base_model.model.")
        if "lora_" in name:
            old = name.replace("model.language_model.", "language_model.model.")
            adapters[f"base_model.model.{old}"] = tensor
        else:
            encoder[name.removeprefix("model.")] = tensor
    save_file(adapters, path)
    found = AudioLLMForAudioClassification.from_adapter_pretrained(path.parent, encoder_state=encoder)
    assert torch.equal(found(**inputs(base)).logits, model(**inputs(base)).logits)


def test_an_adapter_for_another_base_or_of_another_kind_is_refused(base, tmp_path):
    adapted(base, lora={"r": 2}).save_pretrained(tmp_path)
    write_base(tmp_path / "other", "qwen_audio")
    with pytest.raises(ValueError, match=r"has no layers \['down_proj'"):
        AudioLLMForAudioClassification.from_adapter_pretrained(tmp_path / "adapter", base_model=tmp_path / "other")
    change = {"use_dora": True, "init_lora_weights": "pissa", "base_model_name_or_path": None}
    path = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    for name, text in (
        ("base_model_name_or_path", "does not name its base"),
        ("use_dora", "no plain low-rank adapter"),
        ("init_lora_weights", "a base model as published"),
    ):
        path.write_text(json.dumps({**settings, name: change[name]}))
        with pytest.raises(ValueError, match=text):
            AudioLLMForAudioClassification.from_adapter_pretrained(tmp_path / "adapter")


@torch.inference_mode()
def test_merged_it_is_a_whole_model_with_the_same_scores(kind_folder, tmp_path):
    model = adapted(kind_folder, lora={"r": 2}, train_encoder=True)
    expected = model(**inputs(kind_folder)).logits
    model.save_pretrained(tmp_path)
    model.merge_lora()
    model.save_pretrained(tmp_path)
    merged, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    close(merged(**inputs(kind_folder)).logits, expected)
    assert merged.config.base_model_name_or_path is None and not (tmp_path / "adapter").exists()
    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())


def test_a_detector_is_not_saved_into_an_adapter_that_would_be_put_on_it(base, tmp_path):
    adapted(base, lora={"r": 2}).save_pretrained(tmp_path)
    model = AudioLLMForAudioClassification.from_pretrained(tmp_path)
    model.merge_lora()
    with pytest.raises(ValueError, match="holds an adapter of peft's .* save it into another folder"):
        model.save_pretrained(tmp_path / "adapter")


def test_adapters_stand_in_the_language_model_alone(kind_folder):
    """Layers of the same names in the audio encoder stay as they are."""
    model = AudioLLMForAudioClassification.from_backbone_pretrained(kind_folder, lora={"r": 2})
    targets = {name.split(".lora_A")[0] for name in trainable(model) if ".lora_A." in name}
    layers = [name for name, part in model.backbone.named_modules() if type(part).__name__ == "Linear"]
    per_layer = 5 if "qwen_audio" in kind_folder.name else 7
    assert len(targets) == 2 * per_layer and len(layers) > len(targets)
    assert not any("audio" in name or "visual" in name for name in targets)
    assert {"r": 2, "lora_alpha": 16, "lora_dropout": 0.05}.items() <= model.config.lora.items()


def test_fresh_adapters_change_nothing(base):
    plain = AudioLLMForAudioClassification.from_backbone_pretrained(base)
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base, lora={})
    with torch.inference_mode():
        assert torch.equal(plain(**inputs(base)).logits, model(**inputs(base)).logits)


def test_training_moves_what_is_saved_and_nothing_else(kind_folder):
    model = adapted(kind_folder, lora={"r": 2}, train_encoder=True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**inputs(kind_folder), labels=torch.tensor([0, 1, 1])).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    # One row of Omni's has no path to the output, and a key's bias cancels in the softmax but for rounding.
    rest = {name for name in trainable(model) - moved if "audio_bos_eos_token" not in name}
    assert moved <= trainable(model) and not rest
    assert not any("embed_positions" in name or "positional_embedding" in name for name in moved)


def test_a_published_model_scores_before_any_training_too(base, tmp_path):
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base)
    assert not trainable(model)
    model.save_pretrained(tmp_path / "zero")
    AudioLLMFeatureExtractor.from_backbone_pretrained(base).save_pretrained(tmp_path / "zero")
    assert not load_file(tmp_path / "zero" / "model.safetensors")
    with torch.inference_mode():
        loaded = load_checkpoint(tmp_path / "zero").model
        assert torch.equal(loaded(**inputs(base)).logits, model(**inputs(base)).logits)


def test_an_encoder_can_be_trained_without_adapters(base, tmp_path):
    model = adapted(base, train_encoder=True)
    assert trainable(model) and all("audio_tower" in name or "projector" in name for name in trainable(model))
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs(base)).logits, model(**inputs(base)).logits)
    assert not (tmp_path / "model" / "adapter").exists()


def test_adapters_keep_float32_on_a_smaller_base(base):
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base, lora={"r": 2}, dtype=torch.bfloat16)
    kinds = {parameter.dtype for name, parameter in model.named_parameters() if "lora_" in name}
    assert kinds == {torch.float32} and model.backbone.lm_head.weight.dtype == torch.bfloat16
    output = model(**inputs(base), labels=torch.tensor([0, 1, 1]))
    output.loss.backward()
    assert output.logits.dtype == torch.float32


# --- the wrong files ---------------------------------------------------------------------------------------------------


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_another_base_of_the_same_size_is_an_error(published, base):
    _, folder = published
    change_weights(base, lambda state: state["language_model.lm_head.weight"].mul_(1.01))
    with pytest.raises(ValueError, match="not the model that this detector was trained on"):
        AutoModelForAudioClassification.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="not the model"):
        load_checkpoint(folder)


def test_an_incomplete_base_is_an_error(base):
    change_weights(base, lambda state: state.pop("language_model.lm_head.weight"))
    with pytest.raises(ValueError, match=r"no complete qwen2_audio of this size: missing \['lm_head\.weight'\]"):
        AudioLLMForAudioClassification.from_backbone_pretrained(base)


def test_weights_that_the_digest_does_not_cover_are_never_loaded(published, base):
    """An index beside the whole file is passed over, as transformers does; what lies elsewhere is refused."""
    model, folder = published
    state = {name: value + 1 for name, value in load_file(base / "model.safetensors").items()}
    save_file(state, base / "other.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, "other.safetensors")}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = AutoModelForAudioClassification.from_pretrained(folder)
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs(base)).logits, model(**inputs(base)).logits)
    shutil.copy(folder / "adapter" / "adapter_config.json", base)
    with pytest.raises(ValueError, match="would load an adapter besides"):
        AutoModelForAudioClassification.from_pretrained(folder)
    (base / "adapter_config.json").unlink()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    with pytest.raises(ValueError, match=r"would load other\.safetensors besides"):
        AudioLLMForAudioClassification.from_backbone_pretrained(base)


def test_a_whole_detector_that_lacks_a_tensor_is_an_error(published):
    model, folder = published
    model.merge_lora()
    model.save_pretrained(folder)
    change_weights(folder, lambda state: state.pop("backbone.lm_head.weight"))
    with pytest.raises(ValueError, match=r"missing_keys.*backbone\.lm_head\.weight"):
        AutoModelForAudioClassification.from_pretrained(folder)


def test_a_type_has_two_names_and_unknown_options_are_refused(base):
    for options in ({"torch_dtype": torch.bfloat16}, {"dtype": "bfloat16"}):
        model = AudioLLMForAudioClassification.from_backbone_pretrained(base, **options)
        assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    with pytest.raises(TypeError, match="no option load_in_4bit"):
        AudioLLMForAudioClassification.from_backbone_pretrained(base, load_in_4bit=True)


def test_a_base_that_is_gone_is_named_and_can_be_given(published, base, tmp_path):
    model, folder = published
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(OSError, match=r"the model it was trained on, '.*base'.*`base_model=`"):
        AutoModelForAudioClassification.from_pretrained(folder)
    loaded = AutoModelForAudioClassification.from_pretrained(folder, base_model=moved)
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs(moved)).logits, model(**inputs(moved)).logits)
    assert loaded.config.base_model_name_or_path == str(base)  # what is saved still names the original


def test_a_trained_tensor_that_is_missing_left_over_or_of_another_shape_is_never_made_up(published):
    _, folder = published
    state = load_file(folder / "model.safetensors")
    name = min(state)
    for change, text in (
        ({name: None}, "1 missing tensors"),
        ({"backbone.other": torch.zeros(1)}, "1 unexpected tensors"),
        ({name: torch.zeros(1, 2)}, "1 tensors of another shape"),
    ):
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=text):
            AutoModelForAudioClassification.from_pretrained(folder)
        with pytest.raises(CheckpointError, match=text):
            load_checkpoint(folder)


def test_a_base_may_be_sharded_otherwise_but_not_changed(base, tmp_path):
    whole = load_file(base / "model.safetensors")
    half = dict(sorted(whole.items())[: len(whole) // 2])
    rest = {name: value for name, value in whole.items() if name not in half}
    for name, part in (("one", half), ("two", rest)):
        save_file(part, tmp_path / name, metadata={"format": "pt"})
    digest = weights_digest([base / "model.safetensors"])
    assert weights_digest([tmp_path / "two", tmp_path / "one"]) == digest
    save_file({**rest, "more": torch.zeros(1)}, tmp_path / "two")
    assert weights_digest([tmp_path / "one", tmp_path / "two"]) != digest


@pytest.mark.parametrize(
    ("lora", "text"),
    [
        ({"r": 0}, "rank"),
        ({"rank": 4}, "no key"),
        ({"lora_alpha": 0}, "positive number"),
        ({"target_modules": []}, "list of layer names"),
        ({"target_modules": "all-linear"}, "list of layer names"),
    ],
)
def test_settings_that_make_no_adapter_are_refused(lora, text):
    with pytest.raises((StrictDataclassError, ValueError), match=text):
        AudioLLMDetectorConfig(lora=lora)


def test_a_layer_that_the_language_model_lacks_is_named(base):
    """`out_proj` is in the audio encoder alone."""
    with pytest.raises(ValueError, match=r"has no layers \['out_proj'\]"):
        AudioLLMForAudioClassification.from_backbone_pretrained(base, lora={"target_modules": ["q_proj", "out_proj"]})


def test_a_base_that_was_trained_on_in_4_bits_is_looked_for_as_it_was_published(published):
    model, folder = published
    model.config.backbone_config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    model.save_pretrained(folder)
    assert "quantization_config" not in (folder / "config.json").read_text()
    AutoModelForAudioClassification.from_pretrained(folder)
    model.backbone.is_quantized = True
    with pytest.raises(ValueError, match="not merged into a base model of 4 or 8 bits"):
        model.merge_lora()


def test_a_base_in_a_folder_is_found_from_elsewhere(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = AudioLLMForAudioClassification.from_backbone_pretrained(base.name, lora={"r": 2})
    model.save_pretrained("detector")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "detector")
    assert loaded.config.base_model_name_or_path == str(base)


def test_options_for_the_hub_are_never_saved(base, tmp_path):
    options = {"token": "hf_secret", "cache_dir": str(tmp_path / "cache"), "local_files_only": True}
    AudioLLMForAudioClassification.from_backbone_pretrained(base, lora={}, **options).save_pretrained(tmp_path / "it")
    text = (tmp_path / "it" / "config.json").read_text()
    assert "hf_secret" not in text and "cache_dir" not in text
