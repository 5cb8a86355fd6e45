"""AASIST-LoRA: what is trained, what is published, and that the scores come back only with the right encoder."""

import json
from pathlib import Path

import pytest
import torch
import warm_python
from conftest import TINY_GRAPH, lively, tiny_config, tiny_wav2vec2
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2Model

from spooftrace.checkpoint import CheckpointError, load_checkpoint
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.modeling.lora import encoder_digest


def clips(seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder_folder(tmp_path) -> Path:
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**tiny_wav2vec2())).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def adapted(encoder_folder: Path, **lora) -> AasistForAudioClassification:
    """A detector with adapters that say something: peft starts their B at zero."""
    torch.manual_seed(1)
    model = AasistForAudioClassification.from_wav2vec2_pretrained(encoder_folder, lora={"r": 2, **lora}, **TINY_GRAPH)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return lively(model)


@pytest.fixture
def published(encoder_folder, tmp_path) -> tuple[AasistForAudioClassification, Path]:
    model, folder = adapted(encoder_folder), tmp_path / "detector"
    model.save_pretrained(folder)
    AasistFeatureExtractor().save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize(("rank", "trainable"), [(2, 840_458), (4, 1_233_674), (8, 2_020_106), (16, 3_592_970)])
def test_the_paper_trains_exactly_so_many_parameters(rank, trainable):
    with torch.device("meta"):
        model = AasistForAudioClassification(AasistConfig(frontend="wav2vec2", lora={"r": rank}))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 315_438_720  # XLSR-53


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "v_proj"], ["k_proj", "v_proj", "out_proj"]])
def test_any_subset_of_the_projections_can_be_adapted(encoder_folder, targets):
    model = adapted(encoder_folder, target_modules=targets)
    adapters = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert {name.split(".")[-4] for name in adapters} == set(targets)
    assert len(adapters) == len(targets) * 2  # layers


def test_fresh_adapters_change_nothing(encoder_folder):
    torch.manual_seed(1)
    plain = AasistForAudioClassification.from_wav2vec2_pretrained(encoder_folder, **TINY_GRAPH).eval()
    torch.manual_seed(1)
    model = AasistForAudioClassification.from_wav2vec2_pretrained(encoder_folder, lora={}, **TINY_GRAPH).eval()
    assert torch.equal(plain.wav2vec2(clips()).last_hidden_state, model.wav2vec2(clips()).last_hidden_state)
    assert all(not p.any() for name, p in model.named_parameters() if "lora_B" in name)


def test_an_encoder_in_a_folder_is_found_from_elsewhere(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapted("encoder").save_pretrained("detector")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = AasistForAudioClassification.from_pretrained(tmp_path / "detector")
    assert loaded.config.lora["base_model_name_or_path"] == str(encoder_folder)


@pytest.mark.parametrize(("settings", "scaling"), [({"r": 8}, 2.0), ({"r": 8, "lora_alpha": 2}, 0.25)])
def test_the_scaling_factor_is_alpha_over_rank(settings, scaling):
    model = AasistForAudioClassification(tiny_config("wav2vec2", lora=settings))
    projection = model.wav2vec2.encoder.layers[0].attention.q_proj
    assert projection.scaling["default"] == scaling


def test_training_moves_adapters_and_back_end_and_nothing_else(encoder_folder):
    model = adapted(encoder_folder)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.train()  # without dropout, which would silence whole nodes
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(clips(), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        dead = ".unused_norm." in name  # in every published checkpoint, on no path to the output
        assert moved == (parameter.requires_grad and not dead), name


def test_a_repository_holds_no_encoder_and_gives_the_same_logits(published):
    model, folder = published
    names = load_file(folder / "model.safetensors").keys()
    assert not any("wav2vec2" in name and "lora_" not in name for name in names)
    assert not (folder / "adapter_config.json").exists()
    loaded = AutoModelForAudioClassification.from_pretrained(folder).eval()
    bare = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = model(clips())
        assert torch.equal(loaded(clips()).logits, expected.logits)
        assert torch.equal(bare(clips()).embeddings, expected.embeddings)
    trainable = [{name for name, p in each.named_parameters() if p.requires_grad} for each in (model, loaded)]
    assert trainable[0] == trainable[1]


@pytest.mark.filterwarnings("default:.*is_gradient_checkpointing:FutureWarning")  # of peft
def test_peft_alone_puts_the_adapters_on_the_plain_encoder(published, encoder_folder):
    peft = pytest.importorskip("peft")
    model, folder = published
    plain = Wav2Vec2Model.from_pretrained(encoder_folder, apply_spec_augment=False)
    wrapped = peft.PeftModel.from_pretrained(plain, folder, subfolder="adapter").eval()
    with torch.inference_mode():
        expected = model.wav2vec2(clips()).last_hidden_state
        assert torch.equal(wrapped(clips()).last_hidden_state, expected)


def test_merged_it_is_a_plain_detector_with_the_same_logits(published, tmp_path):
    model, _ = published
    with torch.inference_mode():
        expected = model(clips()).logits
    model.save_pretrained(tmp_path / "merged")
    model.merge_lora()
    model.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter").exists()  # those of the first save
    assert model.config.lora is None and all(p.requires_grad for p in model.parameters())
    merged = load_merged(tmp_path / "merged")
    with torch.inference_mode():
        torch.testing.assert_close(merged(clips()).logits, expected, atol=1e-5, rtol=0)
    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())


def load_merged(folder: Path) -> AasistForAudioClassification:
    model, report = AutoModelForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_another_encoder_of_the_same_size_is_an_error(published, encoder_folder):
    _, folder = published
    change_weights(encoder_folder, lambda state: state["encoder.layer_norm.weight"].mul_(1.01))
    with pytest.raises(ValueError, match="not the encoder that these adapters were trained on"):
        AutoModelForAudioClassification.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="not the encoder"):
        load_checkpoint(folder)


def test_an_incomplete_encoder_is_an_error(published, encoder_folder):
    _, folder = published
    change_weights(encoder_folder, lambda state: state.pop("encoder.layer_norm.weight"))
    with pytest.raises(ValueError, match=r"no complete wav2vec 2\.0 encoder.*encoder\.layer_norm\.weight"):
        AutoModelForAudioClassification.from_pretrained(folder)


def test_an_encoder_that_is_gone_is_named_and_can_be_given(published, encoder_folder, tmp_path):
    model, folder = published
    moved = encoder_folder.rename(tmp_path / "moved")
    with pytest.raises(OSError, match=r"encoder it was trained on, '.*encoder'.*`base_model=`"):
        AutoModelForAudioClassification.from_pretrained(folder)
    loaded = AutoModelForAudioClassification.from_pretrained(folder, base_model=moved).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(clips()).logits, model(clips()).logits)


@pytest.mark.parametrize(
    "name", ["classifier.weight", "aasist.frontend.wav2vec2.encoder.layers.1.attention.v_proj.lora_B.default.weight"]
)
def test_a_trained_tensor_that_is_missing_is_never_made_up(published, name):
    _, folder = published
    change_weights(folder, lambda state: state.pop(name))
    with pytest.raises(CheckpointError, match="missing tensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("frontend", "lora", "text"),
    [
        ("sinc", {}, "alone"),
        ("wav2vec2", {"r": 0}, "rank"),
        ("wav2vec2", {"rank": 4}, "no key"),
        ("wav2vec2", {"lora_alpha": 0}, "positive number"),
        ("wav2vec2", {"target_modules": ["fc1"]}, "fc1"),
        ("wav2vec2", {"target_modules": []}, "some of"),
    ],
)
def test_settings_that_make_no_adapter_are_refused(frontend, lora, text):
    with pytest.raises((StrictDataclassError, ValueError), match=text):
        tiny_config(frontend, lora=lora)


def test_without_a_digest_no_encoder_is_taken_and_nothing_is_saved_that_cannot_come_back(published, tmp_path):
    _, folder = published
    config = json.loads((folder / "config.json").read_text())
    config["lora"]["base_sha256"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not say the digest"):
        AutoModelForAudioClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"from_wav2vec2_pretrained.*merge_lora"):
        AasistForAudioClassification(tiny_config("wav2vec2", lora={})).save_pretrained(tmp_path / "new")


def test_options_for_the_hub_are_never_saved(encoder_folder, tmp_path):
    options = {"token": "hf_secret", "cache_dir": str(tmp_path / "cache"), "local_files_only": True}
    model = AasistForAudioClassification.from_wav2vec2_pretrained(encoder_folder, lora={}, **options, **TINY_GRAPH)
    model.save_pretrained(tmp_path / "model")
    text = (tmp_path / "model" / "config.json").read_text()
    assert "hf_secret" not in text and "cache_dir" not in text


def test_a_copy_of_the_encoder_elsewhere_does_not_change_what_is_saved(published, encoder_folder, tmp_path):
    _, folder = published
    moved = encoder_folder.rename(tmp_path / "moved")
    loaded = AutoModelForAudioClassification.from_pretrained(folder, base_model=moved)
    assert loaded.config.lora["base_model_name_or_path"] == str(encoder_folder)


def test_tensors_given_by_hand_get_their_encoder_too(published):
    model, folder = published
    config = type(model.config).from_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    loaded = AasistForAudioClassification.from_pretrained(None, config=config, state_dict=state).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(clips()).logits, model(clips()).logits)


def test_the_digest_knows_values_names_and_shapes_but_not_the_unused_vector():
    state = {"a": torch.arange(6.0).reshape(2, 3), "masked_spec_embed": torch.ones(2)}
    digest = encoder_digest(state)
    assert encoder_digest({"a": state["a"]}) == digest
    assert encoder_digest({"a": state["a"].half()}) == digest  # exactly representable
    assert encoder_digest({"b": state["a"]}) != digest
    assert encoder_digest({"a": state["a"].reshape(3, 2)}) != digest
    assert encoder_digest({"a": state["a"] + 1}) != digest


def test_it_loads_in_one_call_where_spooftrace_is_not_installed(published):
    model, folder = published
    with torch.inference_mode():
        expected = model(clips()).logits
    program = f"""
import sys, json, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "spooftrace":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from transformers import AutoModelForAudioClassification
model = AutoModelForAudioClassification.from_pretrained({str(folder)!r}, trust_remote_code=True).eval()
clips = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    print(json.dumps(model(clips).logits.tolist()))
"""
    done = warm_python.run("-c", program, check=True)
    logits = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_it_is_pushed_with_its_adapters_and_loads_from_the_hub_with_the_pinned_encoder(published, encoder_folder, hub):
    """The encoder comes from the Hub, too, at the commit that the adapters were trained on."""
    model, folder = published
    with torch.inference_mode():
        expected = model(clips()).logits
    program = f"""
import json, torch
from huggingface_hub import HfApi
import spooftrace.modeling
from transformers import AutoModelForAudioClassification, Wav2Vec2Model
from spooftrace.modeling import AasistForAudioClassification
HfApi().create_repo("alice/encoder")
HfApi().upload_folder(repo_id="alice/encoder", folder_path={str(encoder_folder)!r})
torch.manual_seed(1)
model = AasistForAudioClassification.from_wav2vec2_pretrained("alice/encoder", lora={{"r": 2}}, **{TINY_GRAPH!r})
trained = AutoModelForAudioClassification.from_pretrained({str(folder)!r})
model.load_state_dict(trained.state_dict())
model.push_to_hub("alice/detector")
print(json.dumps(model.config.lora))
"""
    done = warm_python.run("-c", program, env=hub.env(), check=True)
    lora = json.loads(done.stdout.splitlines()[-1])
    assert lora["base_model_name_or_path"] == "alice/encoder" and lora["base_revision"] == hub.head("alice/encoder")
    files = hub.files("alice/detector")
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors", "lora.py"} <= set(
        files
    )
    assert "adapter_config.json" not in files
    hub.seed("alice/encoder", {"model.safetensors": b"another one"})  # the pinned commit still counts
    load = """
import json, torch
from transformers import AutoModelForAudioClassification
model = AutoModelForAudioClassification.from_pretrained("alice/detector", trust_remote_code=True).eval()
clips = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    print(json.dumps(model(clips).logits.tolist()))
"""
    done = warm_python.run("-c", load, env=hub.env(token=None), check=True)
    logits = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
