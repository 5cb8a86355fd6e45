"""Published SASTNet checkpoints keep every number, account for every key, and carry the licence they inherit."""

import json
import re

import pytest
import torch
import warm_python
from conftest import lively, tiny_wav2vec2
from published_layout import sastnet_extras, sastnet_state
from safetensors.torch import save_file
from transformers import AutoModelForAudioClassification, Wav2Vec2Config, WhisperConfig

from spooftrace.cli import main
from spooftrace.modeling import SASTNetConfig, SASTNetFeatureExtractor, SASTNetForAudioClassification
from spooftrace.modeling.convert_common import ConversionError, ConversionReport
from spooftrace.modeling.convert_sastnet import convert_sastnet, find_task, rename_key, sastnet_card


WHISPER = {
    "d_model": 48,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "encoder_layers": 2,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
# No tensor tells the autoencoder's heads, so these widths suit the published ones.
SIZES = {
    "feature_size": 32,
    "mae_hidden_size": 48,
    "mae_intermediate_size": 40,
    "mae_num_layers": 2,
    "decoder_hidden_size": 16,
    "decoder_intermediate_size": 24,
    "decoder_num_layers": 1,
    "fusion_num_layers": 1,
    "fusion_intermediate_size": 56,
}
VARIANTS = {
    "SASTNet": {},
    "W2V2 + M-MAE": {"use_semantics": False},
    "Whisper + M-MAE": {"frontend": "mel", "feature_size": 128},
    "M-MAE": {"frontend": "mel", "feature_size": 128, "use_semantics": False},
    "S-MAE": {"frontend": "mel", "feature_size": 128, "use_semantics": False, "num_decoders": 1},
}


def build(**fields) -> SASTNetForAudioClassification:
    torch.manual_seed(0)
    submodels = {}
    if fields.get("frontend") != "mel":
        submodels["wav2vec2_config"] = tiny_wav2vec2()
    if fields.get("use_semantics", True):
        submodels["whisper_config"] = WHISPER
    return lively(SASTNetForAudioClassification(SASTNetConfig(**{"task": "aux", **SIZES, **submodels, **fields})))


def encoders(model: SASTNetForAudioClassification, folder) -> dict[str, str]:
    """Options that name the configurations of the sub-models that are there, written to `folder`."""
    options = {}
    if model.config.frontend == "wav2vec2":
        Wav2Vec2Config(**tiny_wav2vec2(layerdrop=0.1)).save_pretrained(folder / "wav2vec2")
        options["wav2vec2_config"] = str(folder / "wav2vec2")
    if model.config.use_semantics:
        WhisperConfig(**WHISPER).save_pretrained(folder / "whisper")
        options["whisper_config"] = str(folder / "whisper" / "config.json")
    return options


# ---------------------------------------------------------------- every number


@pytest.mark.parametrize("name", VARIANTS)
def test_every_number_of_every_variant_is_kept(name, tmp_path):
    original = build(**VARIANTS[name])
    torch.save(sastnet_state(original), tmp_path / "SAST_Net_AUX.pth")
    model, report = convert_sastnet(tmp_path / "SAST_Net_AUX.pth", **encoders(original, tmp_path))
    own = original.state_dict()
    assert set(report.mapped.values()) == set(own) - {"loss_weights"}
    for tensor, value in own.items():
        assert torch.equal(model.state_dict()[tensor], value), tensor
    for field in ("task", "frontend", "use_semantics", "num_decoders", *SIZES):
        if field.startswith("fusion") and not original.config.use_semantics:
            continue
        assert getattr(model.config, field) == getattr(original.config, field), field
    assert model.config.weight_licenses == {"AudioMAE": "cc-by-nc-4.0"}
    assert report.num_parameters == sum(parameter.numel() for parameter in original.parameters())


def test_logits_are_those_of_the_original(tmp_path):
    original = build()
    state = {f"module.{name}": value for name, value in sastnet_state(original).items()}
    torch.save(state, tmp_path / "model.pth")
    model, _ = convert_sastnet(tmp_path / "model.pth", "aux", **encoders(original, tmp_path))
    waveforms = 0.1 * torch.randn(2, 82_200, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, logits = original(waveforms).logits, model(waveforms).logits
    assert expected[0].sub(expected[1]).abs().max() > 1e-3
    torch.testing.assert_close(logits, expected)


def test_what_is_left_out_has_its_reason(tmp_path):
    original = build()
    torch.save(sastnet_state(original), tmp_path / "SAST_Net_AUX.pth")
    _, report = convert_sastnet(tmp_path / "SAST_Net_AUX.pth", **encoders(original, tmp_path))
    reasons = {re.sub(r"\d+", "0", key): reason for key, reason in report.dropped.items()}
    assert "only its encoder" in reasons["whisper.model.decoder.embed_tokens.weight"]
    assert "never used" in reasons["MAE.projection_head.fc0.weight"]
    assert "dummy" in reasons["at_ta_transformer.embed_positions._float_tensor"]
    assert "agree" in reasons["MAE.all_decoders.0.decoder_pos_embed"]
    assert "pretraining" in reasons["SSL_model.model.quantizer.vars"]
    assert set(report.dropped) == set(sastnet_extras(original.config)) | {
        f"SSL_model.model.{name}" for name in ("quantizer.vars", "project_q.weight", "final_proj.bias")
    }


def test_wav2vec2_is_quiet_whatever_its_configuration_says(tmp_path):
    original = build(use_semantics=False)
    torch.save(sastnet_state(original), tmp_path / "SAST_Net_AUX.pth")
    model, _ = convert_sastnet(tmp_path / "SAST_Net_AUX.pth", **encoders(original, tmp_path))
    assert model.config.wav2vec2_config.layerdrop == 0 and not model.config.wav2vec2_config.apply_spec_augment


# ---------------------------------------------------------------- the task


@pytest.mark.parametrize(
    ("classes", "name", "asked", "task"),
    [
        (4, "SAST_Net_VQ.pth", None, "vq"),
        (4, "SAST_Net_AUX.pth", None, "aux"),
        (4, "SAST_Net_VQ.pth", "aux", "aux"),
        (3, "SAST_Net_DEC.pth", None, "dec"),
        (3, "epoch_39.pth", None, "dec"),
        (2, "SAST_Net_BIN_VQ_bal.pth", None, "bin"),
        (2, "epoch_39.pth", None, "bin"),
    ],
)
def test_task_follows_from_classes_and_name(classes, name, asked, task):
    report = ConversionReport(name, "")
    assert find_task(classes, name, asked, report) == task
    assert f"Task '{task}', " in report.notes[0]


@pytest.mark.parametrize(
    ("classes", "name", "asked", "message"),
    [
        (4, "epoch_39.pth", None, "does not tell its task by its name 'epoch_39.pth'.*--task.*among vq, aux"),
        (4, "VQ_or_AUX.pth", None, "does not tell"),
        (4, "SAST_Net_VQ.pth", "dec", "is not of the task 'dec'"),
        (3, "SAST_Net_VQ.pth", None, "has 3 classes and is not of the task 'vq'.*among dec"),
        (4, "SAST_Net_BIN_VQ_bal.pth", None, "is not of the task 'bin'"),
        (5, "SAST_Net_VQ.pth", None, "no task has so many"),
    ],
)
def test_contradictions_and_riddles_are_refused(classes, name, asked, message):
    with pytest.raises(ConversionError, match=message):
        find_task(classes, name, asked, ConversionReport(name, ""))


# ---------------------------------------------------------------- what does not fit


def without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"MAE.encoder.blocks.0.attn.tau": torch.ones(1)}, r"unknown tensors: .*attn\.tau"),
        (lambda state: state | {"fusion.weight": torch.ones(1)}, r"unknown tensors: fusion\.weight"),
        (lambda state: without(state, "MAE.attn.in_proj_bias"), r"missing sastnet\.mae\.aggregation\.attention"),
        (lambda state: without(state, "MAE.encoder.cls_token"), "lacks the tensor that becomes .*cls_token"),
        (lambda state: without(state, "multiclass_branch.out_layer.bias"), "lacks .*classifier.bias"),
        (lambda state: without(state, "MAE.encoder.pos_embed"), "lacks .*pos_embed"),
        (lambda state: state | {"MAE.encoder.cls_token": torch.tensor(1.0)}, "lacks .*cls_token"),
        (
            lambda state: state | {"any_transformer.version": torch.ones(1)},
            r"unknown tensors: any_transformer\.version",
        ),
        (
            lambda state: state | {"MAE.encoder.cls_token": torch.zeros(1, 1, 100_001)},
            "make no SASTNet: .*mae_hidden_size=100001",
        ),
        (
            lambda state: state | {"MAE.encoder.blocks.0.mlp.fc1.bias": torch.zeros(1_000_000)},
            r"of another shape .*fc1\.weight: \(40, 48\) instead of \(1000000, 48\)",
        ),
        (
            lambda state: state | {"MAE.proj_k.weight": torch.zeros(1).expand(768, 256)},
            r"does not hold all numbers of MAE\.proj_k\.weight",
        ),
        (
            lambda state: state | {"MAE.encoder.pos_embed": state["MAE.encoder.pos_embed"] + 2e-5},
            "another table than the model computes: it differs by 2.0e-05, allowed are 1e-05",
        ),
        (
            lambda state: state | {"MAE.all_decoders.3.decoder_pos_embed": torch.zeros(1, 17, 16)},
            r"decoder_pos_embed' has the shape \(1, 17, 16\) instead of \(1, 257, 16\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    original = build(**VARIANTS["M-MAE"])
    torch.save(change(sastnet_state(original)), tmp_path / "SAST_Net_AUX.pth")
    with pytest.raises(ConversionError, match=message):
        convert_sastnet(tmp_path / "SAST_Net_AUX.pth")


@pytest.mark.parametrize("option", ["wav2vec2_config", "whisper_config"])
def test_configuration_of_an_absent_sub_model_is_refused(option, tmp_path):
    torch.save(sastnet_state(build(**VARIANTS["M-MAE"])), tmp_path / "SAST_Net_AUX.pth")
    with pytest.raises(ConversionError, match=f"`{option}` is 'here', but the checkpoint holds no such sub-model"):
        convert_sastnet(tmp_path / "SAST_Net_AUX.pth", **{option: "here"})


# ---------------------------------------------------------------- the command and the card


def test_command_writes_a_folder_that_loads(tmp_path, capsys):
    original = build(task="vq")
    save_file(sastnet_state(original), tmp_path / "weights.safetensors")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in encoders(original, tmp_path).items()]
    command = ["convert", "sastnet", str(tmp_path / "weights.safetensors"), str(tmp_path / "out"), *options]
    assert main(command) == 1 and "--task" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--task", "vq"]) == 0
    printed = capsys.readouterr().out
    assert "Task 'vq', as asked" in printed and "CC BY-NC 4.0" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "conversion_report.json", "model.safetensors", "preprocessor_config.json"} <= names
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "out").eval()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in original.state_dict().items())
    extractor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert extractor["window_samples"] == 82_200


SCORE_WITHOUT_SPOOFTRACE = """
import sys
sys.modules["spooftrace"] = None  # any import of it now fails
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
model = AutoModelForAudioClassification.from_pretrained("alice/sastnet", trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained("alice/sastnet", trust_remote_code=True)
inputs = extractor(torch.sin(torch.arange(24_000) * 0.05).numpy(), sampling_rate=16_000, return_tensors="pt")
with torch.inference_mode():
    print(*model(**inputs).logits[0].tolist())
"""


def test_converted_folder_scores_from_the_hub_without_spooftrace(hub, tmp_path):
    original = build(task="dec")
    torch.save(sastnet_state(original), tmp_path / "SAST_Net_DEC.pth")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in encoders(original, tmp_path).items()]
    assert main(["convert", "sastnet", str(tmp_path / "SAST_Net_DEC.pth"), str(tmp_path / "out"), *options]) == 0
    hub.seed("alice/sastnet", tmp_path / "out")
    done = warm_python.run("-c", SCORE_WITHOUT_SPOOFTRACE, cwd=tmp_path, env=hub.env(token=None))
    assert done.returncode == 0, done.stderr
    clip = SASTNetFeatureExtractor()(torch.sin(torch.arange(24_000) * 0.05).numpy(), return_tensors="pt")
    with torch.inference_mode():
        expected = original(**clip).logits[0]
    answer = torch.tensor([*map(float, done.stdout.split())])
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=1e-4)


def test_card_states_the_licence_that_the_weights_inherit():
    from huggingface_hub import ModelCard

    report = ConversionReport("SAST_Net_VQ.pth", "SASTNet", num_parameters=637_926_902)
    card = ModelCard(sastnet_card(SASTNetConfig(task="vq"), report))
    assert card.data.license == "cc-by-nc-4.0" and card.data.pipeline_tag == "audio-classification"
    assert card.data.base_model == ["facebook/wav2vec2-xls-r-300m", "openai/whisper-small"]
    assert "AudioMAE" in card.text and "637,926,902" in card.text and "`svq`" in card.text
    mel = sastnet_card(SASTNetConfig(task="dec", frontend="mel", use_semantics=False), report)
    assert ModelCard(mel).data.base_model is None and ModelCard(mel).data.license == "cc-by-nc-4.0"


# ---------------------------------------------------------------- the reference's own names


def test_all_keys_of_the_full_model_are_accounted_for(golden_dir):
    with torch.device("meta"):
        model = SASTNetForAudioClassification(SASTNetConfig(task="aux"))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name != "loss_weights"}
    renamed, dropped = {}, {}
    for line in (golden_dir / "sastnet_aux.keys.txt").read_text().splitlines():
        name, shape, _ = line.split("\t")
        size = tuple(int(number) for number in shape.strip("()").split(",") if number)
        if name.startswith("SSL_model.model.hf."):  # listed under transformers' names
            renamed[name.replace("SSL_model.model.hf.", "sastnet.wav2vec2.")] = size
            continue
        ours, reason = rename_key(name)
        assert (ours is None) != (reason is None), name
        (renamed if ours else dropped)[ours or name] = size
    assert renamed == expected
    assert {re.split(r"\.\d|\.fc|\.embed_|\.layer", name)[0] for name in dropped} == {
        "MAE.all_decoders",
        "MAE.encoder.pos_embed",
        "MAE.projection_head",
        "at_ta_transformer",
        "at_ta_transformer.version",
        "at_transformer",
        "at_transformer.version",
        "ta_transformer",
        "ta_transformer.version",
        "whisper.model.decoder",
    }
