"""The AASIST family keeps its published sizes, its reference outputs, and the manners of a transformers model."""

import numpy as np
import pytest
import torch
import warm_python
from conftest import lively, tiny_config, tiny_wav2vec2
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2Model,
    pipeline,
)

from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification, AasistModel
from spooftrace.modeling.frontends import band_edges, sinc_band_pass, triangular_filter_bank
from spooftrace.modeling.modeling_aasist import minimum_samples


AASIST_L = {"encoder_channels": [32, 32, 24, 24, 24, 24], "graph_dims": [24, 32], "pool_ratios": [0.4, 0.5, 0.7]}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def clips(batch: int = 3, samples: int = 24_000) -> torch.Tensor:
    """Noise with a tone, of another level and pitch in every clip."""
    noise = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
    level = torch.logspace(-3, -0.5, batch)[:, None]
    tone = torch.sin(torch.arange(samples) * torch.linspace(0.05, 1.5, batch)[:, None])
    return level * noise + 0.2 * tone


# ---------------------------------------------------------------- sizes


def test_published_parameter_counts_are_exact():
    with torch.device("meta"):
        assert count(AasistForAudioClassification(AasistConfig())) == 297_866
        assert count(AasistForAudioClassification(AasistConfig(**AASIST_L))) == 85_306
        model = AasistForAudioClassification(AasistConfig(frontend="wav2vec2"))
    # The papers' 317.8 M count fairseq's pretraining heads too; transformers' encoder has none of those 1,951,872.
    assert count(model) == 315_885_962
    assert count(model) - count(model.aasist.frontend.wav2vec2) == 447_242


def test_wav2vec2_front_end_is_quiet_by_default():
    config = AasistConfig(frontend="wav2vec2").wav2vec2_config
    noise = ("activation_dropout", "attention_dropout", "feat_proj_dropout", "hidden_dropout", "layerdrop")
    assert [getattr(config, name) for name in noise] == [0.0] * 5
    assert config.apply_spec_augment is False and config.mask_time_prob > 0
    assert AasistConfig(frontend="wav2vec2", wav2vec2_config=tiny_wav2vec2()).wav2vec2_config.layerdrop == 0.0


# ---------------------------------------------------------------- filters


def test_sinc_filters_follow_their_closed_form():
    bank = sinc_band_pass(70, 129, 16_000)
    edges = band_edges(71, 0, 8000, "mel")
    np.testing.assert_allclose(edges[[0, 1, 2, 69, 70]], [0, 25.659, 52.259, 7692.37, 8000], rtol=1e-4)
    # At the centre tap, a band-pass filter is twice its relative bandwidth and the Hamming window is 1.
    np.testing.assert_allclose(bank[:, 64], 2 * np.diff(edges) / 16_000, rtol=1e-6)
    np.testing.assert_allclose(bank, bank[:, ::-1], atol=1e-8)


@pytest.mark.parametrize("scale", ["mel", "linear"])
def test_triangular_filters_cover_the_band_evenly(scale):
    bank = triangular_filter_bank(20, 1024, 16_000, 100, 7000, scale)
    assert bank.shape == (513, 20) and bank.min() == 0 and bank.max() <= 1
    edges = band_edges(22, 100, 7000, scale)
    bins = np.linspace(0, 8000, 513)
    inside = (bins > edges[1]) & (bins < edges[-2])
    np.testing.assert_allclose(bank[inside].sum(1), 1, rtol=1e-6)
    assert bank[(bins < 100) | (bins > 7000)].sum() == 0


# ---------------------------------------------------------------- reference numbers


@pytest.mark.parametrize("name", ["AASIST", "AASIST-L"])
def test_published_weights_give_the_reference_outputs(name, golden_dir):
    from spooftrace.modeling.convert_aasist import convert_standalone

    model, _ = convert_standalone(golden_dir / f"{name}.pth")
    expected = load_file(golden_dir / "aasist_outputs.safetensors")
    for kind, waveforms in load_file(golden_dir / "aasist_inputs.safetensors").items():
        with torch.inference_mode():
            output = model(waveforms)
        torch.testing.assert_close(output.logits.flip(1), expected[f"{name}.{kind}.logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(output.embeddings, expected[f"{name}.{kind}.last_hidden"], atol=1e-4, rtol=0)


# ---------------------------------------------------------------- behaviour of every front end


def test_a_clip_scores_the_same_alone_and_in_any_batch(tiny_model):
    batch = clips(5)
    with torch.inference_mode():
        together = tiny_model(batch).logits
        alone = torch.cat([tiny_model(clip[None]).logits for clip in batch])
        reversed_order = tiny_model(batch.flip(0)).logits.flip(0)
    assert together.std(dim=0).min() > 1e-3, "the clips must differ for this to mean anything"
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, reversed_order, atol=1e-5, rtol=0)


def test_saved_model_loads_equal_to_the_bit(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    loaded, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert isinstance(loaded, AasistForAudioClassification)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in tiny_model.state_dict().items())
    with torch.inference_mode():  # kernels may round otherwise for weights that lie elsewhere in memory
        torch.testing.assert_close(loaded.eval()(clips()).logits, tiny_model(clips()).logits, atol=1e-5, rtol=0)


def test_auto_model_loads_the_bare_model_from_a_detector(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(bare, AasistModel)
    with torch.inference_mode():
        torch.testing.assert_close(bare(clips()).embeddings, tiny_model(clips()).embeddings, atol=1e-5, rtol=0)


def test_outputs_have_their_documented_shapes(tiny_model):
    config = tiny_model.config
    output = tiny_model(clips(), labels=torch.tensor([0, 1, 1]), output_node_scores=True)
    assert output.loss.shape == () and output.logits.shape == (3, 2)
    assert output.embeddings.shape == (3, config.hidden_size) == (3, 20)
    assert output.spectral_scores.shape == (3, config.num_spectral_nodes)
    assert (
        output.temporal_scores.shape[0] == 3 and 0 < output.temporal_scores.min() <= output.temporal_scores.max() < 1
    )
    assert tiny_model(clips()).spectral_scores is None
    as_tuple = tiny_model(clips(), return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], tiny_model(clips()).logits)


def test_loss_is_the_mean_cross_entropy(tiny_model):
    labels = torch.tensor([0, 1, 1])
    output = tiny_model(clips(), labels=labels)
    by_hand = -output.logits.log_softmax(1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(output.loss, by_hand)


def test_shortest_input_is_accepted_and_one_sample_less_is_refused(tiny_model):
    minimum = minimum_samples(tiny_model.config)
    assert tiny_model(clips(1, minimum)).logits.isfinite().all()
    with pytest.raises(ValueError, match=f"it needs {minimum} "):
        tiny_model(clips(1, minimum - 1))


@pytest.mark.parametrize("shape", [(24_000,), (1, 2, 24_000)])
def test_anything_but_mono_batches_is_refused(tiny_model, shape):
    with pytest.raises(ValueError, match=r"\(batch_size, num_samples\)"):
        tiny_model(torch.zeros(shape))


def test_gradient_checkpointing_changes_nothing_but_memory(tiny_model):
    def gradients() -> dict[str, torch.Tensor]:
        tiny_model.zero_grad()
        torch.manual_seed(0)
        tiny_model(clips(), labels=torch.tensor([0, 1, 1])).loss.backward()
        return {name: p.grad.clone() for name, p in tiny_model.named_parameters() if p.grad is not None}

    tiny_model.train()
    plain = gradients()
    tiny_model.activation_checkpointing_enable()
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_every_trainable_tensor_learns_except_the_dead_norms(tiny_model):
    tiny_model.train()(clips(), labels=torch.tensor([0, 1, 1])).loss.backward()
    idle = {name for name, parameter in tiny_model.named_parameters() if parameter.grad is None}
    blocks = range(1, 6) if tiny_model.config.frontend != "mel" else ()
    dead = {f"aasist.encoder.blocks.{i}.unused_norm.{part}" for i in blocks for part in ("weight", "bias")}
    assert idle - {"aasist.frontend.wav2vec2.masked_spec_embed"} == dead


def test_freezing_the_front_end_leaves_the_back_end_trainable():
    model = AasistForAudioClassification(tiny_config("wav2vec2"))
    model.freeze_frontend()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".wav2vec2." in name}


def test_sdpa_and_eager_attention_agree():
    config = tiny_config("wav2vec2").to_dict()
    outputs = []
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = AasistForAudioClassification._from_config(AasistConfig(**config), attn_implementation=implementation)
        assert model.aasist.frontend.wav2vec2.config._attn_implementation == implementation
        with torch.inference_mode():
            outputs.append(lively(model)(clips()).logits)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)


def test_fresh_weights_follow_the_reference_initialisation():
    torch.manual_seed(0)
    model = AasistForAudioClassification(AasistConfig(frontend="mel"))
    backend = model.aasist.backend
    assert backend.position.std().item() == pytest.approx(1, rel=0.1)
    layer = backend.temporal_layer
    # torch's own Linear is uniform in +-1/sqrt(fan_in), whose deviation is that over sqrt(3).
    assert layer.own_projection.weight.std().item() == pytest.approx(1 / (64 * 3) ** 0.5, rel=0.05)
    assert layer.pair_weight.std().item() == pytest.approx((2 / 65) ** 0.5, rel=0.3)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frontend": "lfcc"}, "lfcc"),
        ({"encoder_channels": [32, 32]}, "one entry per residual block, got 2 and 6"),
        ({"graph_dims": [64]}, "needs 2 values"),
        ({"pool_ratios": [0.5, 0.0, 0.5]}, r"kept shares in \(0, 1\]"),
        ({"sinc_kernel_size": 128}, "must be odd, got 128"),
        ({"frontend": "mel", "max_frequency": 9000}, "half of the sampling rate"),
        ({"frontend": "mel", "win_lengths": [800]}, "must lie in 1 to `n_fft=512`"),
        ({"frontend": "sinc", "wav2vec2_config": {}}, "goes with"),
        ({"num_filters": 2}, "no spectral node"),
        ({"calibration": {"scale": 1.0}}, "'scale' and 'bias'"),
        ({"graph_dropout": "a lot"}, "graph_dropout"),
    ],
)
def test_wrong_configurations_name_the_value(fields, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        AasistConfig(**fields)


def test_configuration_round_trips(tmp_path):
    config = tiny_config("wav2vec2", calibration={"scale": 1.5, "bias": -0.25, "fitted_on": "somewhere"})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, AasistConfig) and {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert loaded.label2id == {"bonafide": 0, "spoof": 1}
    assert isinstance(loaded.wav2vec2_config, Wav2Vec2Config) and loaded.wav2vec2_config.hidden_size == 16


def test_other_labels_keep_their_order():
    config = AasistConfig(id2label={0: "bonafide", 1: "mvq", 2: "svq", 3: "sq"})
    assert config.label2id["sq"] == 3 and config.num_labels == 4
    assert AasistForAudioClassification(config).classifier.out_features == 4


# ---------------------------------------------------------------- pretrained front ends


def test_pretrained_front_end_is_loaded_whole(tmp_path):
    encoder = Wav2Vec2Model(Wav2Vec2Config(**tiny_wav2vec2(layerdrop=0.1)))
    encoder.save_pretrained(tmp_path)
    model = AasistForAudioClassification.from_wav2vec2_pretrained(tmp_path, classifier_dropout=0.1)
    assert model.config.wav2vec2_config.layerdrop == 0.0 and model.config.classifier_dropout == 0.1
    with pytest.raises(TypeError, match="there is no option classifier_dropuot"):
        AasistForAudioClassification.from_wav2vec2_pretrained(tmp_path, classifier_dropuot=0.1)
    loaded = model.aasist.frontend.wav2vec2.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in encoder.state_dict().items())


def test_incomplete_pretrained_front_end_is_refused(tmp_path):
    from safetensors.torch import save_file

    Wav2Vec2Model(Wav2Vec2Config(**tiny_wav2vec2())).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layers.1.attention.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.layers\.1\.attention\.q_proj\.weight"):
        AasistForAudioClassification.from_wav2vec2_pretrained(tmp_path)


# ---------------------------------------------------------------- the ecosystem


def test_audio_classification_pipeline_names_both_classes(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    AasistFeatureExtractor(window_samples=16_000).save_pretrained(tmp_path)
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), AasistFeatureExtractor)
    classify = pipeline("audio-classification", model=str(tmp_path), feature_extractor=str(tmp_path))
    waveform = clips(1)[0].numpy()
    answer = {entry["label"]: entry["score"] for entry in classify(waveform)}
    with torch.inference_mode():
        expected = tiny_model(torch.from_numpy(waveform[None, :16_000])).logits.softmax(1)[0]
    assert answer == {"bonafide": pytest.approx(expected[0].item()), "spoof": pytest.approx(expected[1].item())}


LOAD_WITHOUT_SPOOFTRACE = """
import sys
sys.modules["spooftrace"] = None  # any import of it now fails
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, pipeline
waveform = torch.sin(torch.arange(24000) * 0.05).numpy()
for folder in sys.argv[1:]:
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
    bare = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs)
        assert torch.allclose(bare(**inputs).embeddings, output.embeddings, atol=1e-5)
    classify = pipeline("audio-classification", model=folder, feature_extractor=folder, trust_remote_code=True)
    assert {entry["label"] for entry in classify(waveform)} == {"bonafide", "spoof"}
    print("logits", *output.logits[0].tolist())
"""


def test_published_folders_load_without_spooftrace(tmp_path):
    extractor, models = AasistFeatureExtractor(window_samples=16_000), {}
    for frontend in ("sinc", "mel", "wav2vec2"):
        torch.manual_seed(0)
        models[frontend] = lively(AasistForAudioClassification(tiny_config(frontend)))
        for part in (models[frontend], extractor):
            part.save_pretrained(tmp_path / frontend)
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    folders = [tmp_path / frontend for frontend in models]
    done = warm_python.run("-c", LOAD_WITHOUT_SPOOFTRACE, *folders, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    answers = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("logits")]
    inputs = extractor(torch.sin(torch.arange(24_000) * 0.05).numpy(), sampling_rate=16_000, return_tensors="pt")
    for logits, model in zip(answers, models.values(), strict=True):
        with torch.inference_mode():
            expected = model(**inputs).logits[0]
        torch.testing.assert_close(torch.tensor([*map(float, logits)]), expected, atol=1e-5, rtol=0)
