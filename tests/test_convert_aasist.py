"""Converting a published checkpoint keeps every number, accounts for every key, and never runs code."""

import json
import pickle

import pytest
import torch
from conftest import TINY_GRAPH, formula_clips, formula_state, lively, tiny_config, tiny_wav2vec2
from published_layout import fairseq_state, published_name
from safetensors.torch import load_file, save_file
from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2Model

from spooftrace.cli import main
from spooftrace.modeling import AasistConfig, AasistForAudioClassification
from spooftrace.modeling.configuration_aasist import XLSR_300M
from spooftrace.modeling.convert_aasist import (
    convert_ssl_antispoofing,
    convert_standalone,
    rename_backend_key,
    rename_key,
)
from spooftrace.modeling.convert_common import ConversionError, ConversionReport, load_exactly, rename_state_dict
from spooftrace.modeling.convert_names import rename_fairseq_key


def published_state(model: AasistForAudioClassification) -> dict[str, torch.Tensor]:
    """The state dict that the reference would have saved: its names, and bona fide at index 1."""
    state = {published_name(name): value for name, value in model.state_dict().items() if ".wav2vec2." not in name}
    return {name: value.flip(0) if name.startswith("out_layer") else value.clone() for name, value in state.items()}


@pytest.fixture
def standalone() -> AasistForAudioClassification:
    torch.manual_seed(0)
    return lively(AasistForAudioClassification(tiny_config("sinc")))


@pytest.fixture
def checkpoint(standalone, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(published_state(standalone), path)
    return path


RATIOS = [0.5, 0.7, 0.5]


def test_stand_alone_checkpoint_keeps_every_number_and_swaps_the_classes(standalone, checkpoint):
    model, report = convert_standalone(checkpoint, RATIOS)
    assert model.config.graph_dims == TINY_GRAPH["graph_dims"]
    for name, value in standalone.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert len(report.mapped) == len(standalone.state_dict()) and not report.dropped
    assert any("bona fide" in note for note in report.notes)


def test_dataparallel_prefix_is_removed(standalone, tmp_path):
    path = tmp_path / "parallel.pth"
    torch.save({f"module.{name}": value for name, value in published_state(standalone).items()}, path)
    model, report = convert_standalone(path, RATIOS)
    assert torch.equal(model.classifier.weight, standalone.classifier.weight)
    assert any("module." in note for note in report.notes)


def test_strangers_are_listed(standalone, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(
        {**published_state(standalone), "encoder.0.0.extra.weight": torch.ones(1), "vit.x": torch.ones(1)}, path
    )
    with pytest.raises(ConversionError, match=r"encoder\.0\.0\.extra\.weight.*vit\.x"):
        convert_standalone(path, RATIOS)


@pytest.mark.parametrize("missing", ["pos_S", "encoder.3.0.bn1.weight", "pool_hT2.proj.bias", "out_layer.bias"])
def test_missing_tensors_are_listed(missing, standalone, tmp_path):
    state = published_state(standalone)
    del state[missing]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ConversionError):
        convert_standalone(tmp_path / "model.pth", RATIOS)


def test_tensors_of_another_shape_are_listed(standalone, tmp_path):
    state = published_state(standalone)
    state["pos_S"] = torch.zeros(1, 5, 6)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ConversionError, match=r"position: \(1, 5, 6\) instead of \(1, 23, 6\)"):
        convert_standalone(tmp_path / "model.pth", RATIOS)


def test_unknown_sizes_ask_for_the_pooling_ratios(checkpoint):
    with pytest.raises(ConversionError, match="pooling ratios"):
        convert_standalone(checkpoint)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"pos_S": torch.zeros(1), "x": bomb}])
def test_booby_trapped_pickle_runs_nothing(wrap, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(wrap(Bomb(tmp_path / "boom")), path)
    with pytest.raises(ConversionError, match="runs code"):
        convert_standalone(path)
    path.write_bytes(pickle.dumps(wrap(Bomb(tmp_path / "boom"))))
    with pytest.raises(ConversionError, match="runs code"):
        convert_standalone(path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip", b"RIFF$\x00\x00\x00WAVEfmt "])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(content, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match="no checkpoint"):
        convert_standalone(path)
    with pytest.raises(ConversionError, match="not a file"):
        convert_standalone(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("state", [[torch.ones(1)], {1: torch.ones(1)}, {"a": 1}, torch.ones(1)])
def test_anything_but_named_tensors_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(ConversionError, match="named tensors"):
        convert_standalone(tmp_path / "model.pth")


def test_long_lists_of_strangers_are_cut(standalone, tmp_path):
    strangers = {f"vit.{index}": torch.ones(1) for index in range(100)}
    torch.save(published_state(standalone) | strangers, tmp_path / "model.pth")
    with pytest.raises(ConversionError, match="100, among them vit.0, ") as caught:
        convert_standalone(tmp_path / "model.pth", RATIOS)
    assert len(str(caught.value)) < 400


# ---------------------------------------------------------------- wav2vec 2.0 under fairseq's names


def ssl_state(model: AasistForAudioClassification) -> dict[str, torch.Tensor]:
    return published_state(model) | fairseq_state(model.aasist.frontend.wav2vec2, "ssl_model.model.")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("parametrized", [False, True])
def test_ssl_checkpoint_keeps_every_number(prefix, parametrized, tmp_path):
    torch.manual_seed(0)
    config = tiny_wav2vec2()
    model = lively(AasistForAudioClassification(AasistConfig(frontend="wav2vec2", wav2vec2_config=config)))
    state = {prefix + name: value for name, value in ssl_state(model).items()}
    if parametrized:  # torch's newer spelling of weight normalisation
        state = {
            name.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): value
            for name, value in state.items()
        }
    torch.save(state, tmp_path / "model.pth")
    Wav2Vec2Config(**config).save_pretrained(tmp_path)
    converted, report = convert_ssl_antispoofing(tmp_path / "model.pth", tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name
    assert {key.split(".")[2] for key in report.dropped} == {"quantizer", "project_q", "final_proj"}
    assert all(report.dropped.values())


def test_ssl_checkpoint_of_another_size_does_not_fit_the_default_configuration(tmp_path):
    model = AasistForAudioClassification(AasistConfig(frontend="wav2vec2", wav2vec2_config=tiny_wav2vec2()))
    torch.save(ssl_state(model), tmp_path / "model.pth")
    with torch.device("meta"), pytest.raises(ConversionError, match="missing"):
        convert_ssl_antispoofing(tmp_path / "model.pth")


# ---------------------------------------------------------------- against numbers from the reference implementation

# Logits of the public implementations (spoof first), run with the weights of `formula_state` on `formula_clips`.
REFERENCE_LOGITS = {
    "AASIST": [[3.287541, 4.323472], [3.052531, 4.225425]],
    "AASIST-L": [[3.757244, 3.774967], [3.830302, 3.846853]],
    "SSL 60 frames": [[-4.951649, -5.318006], [-4.955254, -5.054132]],
    "SSL 31 frames": [[-5.268383, -4.482165], [-5.736841, -4.543282]],
}
SMALL_FRONT_END = {**XLSR_300M, "num_hidden_layers": 1, "intermediate_size": 8, "conv_dim": [8] * 7}


def formula_checkpoint(model: AasistForAudioClassification) -> dict[str, torch.Tensor]:
    return formula_state({name: tuple(value.shape) for name, value in published_state(model).items()})


def backend_logits(model: AasistForAudioClassification, features: torch.Tensor) -> torch.Tensor:
    hidden_states = model.aasist.encoder(model.aasist.frontend.pool(features))
    return model.classifier(model.dropout(model.aasist.backend(hidden_states)[0]))


@pytest.mark.parametrize("name", ["AASIST", "AASIST-L"])
def test_stand_alone_models_equal_the_reference(name, tmp_path):
    sizes = {"encoder_channels": [32, 32, 24, 24, 24, 24], "graph_dims": [24, 32], "pool_ratios": [0.4, 0.5, 0.7]}
    config = AasistConfig(**(sizes if name == "AASIST-L" else {}))
    torch.save(formula_checkpoint(AasistForAudioClassification(config)), tmp_path / "model.pth")
    model, _ = convert_standalone(tmp_path / "model.pth")
    assert model.config.encoder_channels == list(config.encoder_channels)
    with torch.inference_mode():
        logits = model(formula_clips(32_000)).logits
    torch.testing.assert_close(logits.flip(1), torch.tensor(REFERENCE_LOGITS[name]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("frames", [60, 31])
def test_ssl_back_end_equals_the_reference(frames):
    model = AasistForAudioClassification(AasistConfig(frontend="wav2vec2", wav2vec2_config=SMALL_FRONT_END)).eval()
    renamed = rename_state_dict(formula_checkpoint(model), rename_key, ConversionReport("", ""))
    load_exactly(model, model.state_dict() | renamed)
    with torch.inference_mode():
        logits = backend_logits(model, formula_clips(frames * 1024).view(2, frames, 1024))
    expected = torch.tensor(REFERENCE_LOGITS[f"SSL {frames} frames"])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- against the reference's own files


def test_all_keys_of_the_real_300m_front_end_are_accounted_for(golden_dir):
    published = json.loads((golden_dir / "fairseq_xlsr300m.keys.json").read_text())
    prefixed = {key if key.startswith("ssl_model.") else f"ssl_model.model.{key}" for key in published}
    report = ConversionReport(source="", model="")
    renamed = rename_state_dict(dict.fromkeys(prefixed, torch.zeros(())), rename_key, report)
    with torch.device("meta"):
        own = Wav2Vec2Model(Wav2Vec2Config(**XLSR_300M)).state_dict()
    assert {name.removeprefix("aasist.frontend.wav2vec2.") for name in renamed} == set(own)
    assert len(renamed) == 422 and len(report.dropped) == 7


def test_fairseq_front_end_gives_the_reference_features(golden_dir):
    published = load_file(golden_dir / "fairseq_tiny_ckpt.safetensors")
    state = rename_state_dict(published, rename_key, ConversionReport("", ""))
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 128, "num_attention_heads": 4}
    config = AasistConfig(frontend="wav2vec2", wav2vec2_config={**XLSR_300M, **sizes, "conv_dim": [32] * 7})
    encoder = Wav2Vec2Model(config.wav2vec2_config).eval()
    load_exactly(encoder, {name.removeprefix("aasist.frontend.wav2vec2."): value for name, value in state.items()})
    golden = load_file(golden_dir / "fairseq_tiny_io.safetensors")
    with torch.inference_mode():
        features = encoder(golden["wav"]).last_hidden_state
    torch.testing.assert_close(features, golden["features"], atol=1e-4, rtol=0)


@pytest.fixture
def ssl_backend(golden_dir) -> AasistForAudioClassification:
    """The seeded reference back-end behind a front end of the right width that these tests do not use."""
    model = AasistForAudioClassification(AasistConfig(frontend="wav2vec2", wav2vec2_config=SMALL_FRONT_END))
    published = load_file(golden_dir / "ssl_backend_seed20240501.safetensors")
    state = rename_state_dict(published, rename_key, ConversionReport("", ""))
    own = model.state_dict()
    assert set(state) == {name for name in own if ".wav2vec2." not in name}
    load_exactly(model, own | state)
    return model.eval()


@pytest.mark.parametrize("name", ["feats_201", "feats_99"])
def test_ssl_back_end_gives_the_reference_logits(name, ssl_backend, golden_dir):
    features = load_file(golden_dir / "ssl_backend_inputs.safetensors")[name]
    with torch.inference_mode():
        logits = backend_logits(ssl_backend, features)
    expected = load_file(golden_dir / "ssl_backend_outputs.safetensors")[f"{name}.logits"]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_ssl_back_end_gives_the_reference_gradients(ssl_backend, golden_dir):
    golden = load_file(golden_dir / "ssl_backend_outputs.safetensors")
    features = load_file(golden_dir / "ssl_backend_inputs.safetensors")["feats_201"].requires_grad_()
    for module in ssl_backend.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    logits = backend_logits(ssl_backend, features)
    torch.testing.assert_close(logits, golden["train_nodrop.logits"], atol=1e-4, rtol=0)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 0]), weight=torch.tensor([0.1, 0.9]))
    loss.backward()
    torch.testing.assert_close(loss[None], golden["train_nodrop.loss"])
    torch.testing.assert_close(
        features.grad.abs().sum()[None], golden["train_nodrop.x_grad_abs_sum"], rtol=1e-4, atol=0
    )
    parameters = dict(ssl_backend.named_parameters())
    prefix = "train_nodrop.grad."
    for key in (key for key in golden if key.startswith(prefix)):
        gradient = parameters[rename_backend_key(key.removeprefix(prefix))].grad
        # In norm, not by element: SELU has a kink at 0, and rounding may put one activation on its other side.
        assert (gradient - golden[key]).norm() < 5e-3 * golden[key].norm(), key


def test_names_of_strangers_are_no_names():
    assert rename_backend_key("encoder.0.0.se.weight") is None
    assert rename_backend_key("GAT_layer_S.gate.weight") is None
    assert rename_fairseq_key("encoder.layers.0.self_attn.rel_pos.weight") is None


# ---------------------------------------------------------------- the command


def test_convert_command_writes_a_folder_that_loads(standalone, checkpoint, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert main(["convert", "aasist", str(checkpoint), str(out), "--pool-ratios", *map(str, RATIOS)]) == 0
    assert "bona fide" in capsys.readouterr().out
    report = json.loads((out / "conversion_report.json").read_text())
    assert report["num_parameters"] == sum(parameter.numel() for parameter in standalone.parameters())
    loaded = AutoModelForAudioClassification.from_pretrained(out).eval()
    for name, value in standalone.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_convert_command_never_overwrites_unasked(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    command = ["convert", "aasist", str(checkpoint), str(out), "--pool-ratios", *map(str, RATIOS)]
    assert main(command) == 1
    assert "not empty" in capsys.readouterr().err and (out / "thesis.txt").read_text() == "precious"
    assert main([*command, "--overwrite"]) == 0
    assert (out / "model.safetensors").exists()


def test_failed_conversion_leaves_nothing_behind(tmp_path, capsys):
    save_file({"vit.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    assert main(["convert", "aasist", str(tmp_path / "model.safetensors"), str(tmp_path / "out")]) == 1
    assert "vit.weight" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]
