"""SASTNet's parts give what the public implementation gives with the same weights, which are made by a formula.

The literals come from github.com/ResponsibleGenAI/CodecFake-Source-Tracing at 91516e0, in the sizes of `small_config`, on a
CPU with torch 2.12, torchaudio 2.11 and transformers 5.23. Its wav2vec 2.0 was transformers' own, and its tokens kept their
natural order. `benchmarks/sastnet.py` compares the two at full size.
"""

import math

import pytest
import torch
from conftest import formula_state, tiny_wav2vec2
from torch import nn

from spooftrace.modeling import modeling_sastnet
from spooftrace.modeling.audio_mae import MultiDecoderMAE, masked_errors, patchify
from spooftrace.modeling.configuration_sastnet import SASTNetConfig
from spooftrace.modeling.cross_modal import CrossModalTransformer
from spooftrace.modeling.kaldi_filter_bank import KaldiFilterBank
from spooftrace.modeling.modeling_sastnet import SASTNetForAudioClassification
from spooftrace.modeling.sastnet_loss import margin_reconstruction_loss
from spooftrace.modeling.whisper_semantics import WhisperSemantics


WIDTH, SAMPLES = 32, 82_200
LABELS = torch.tensor([1, 3])
LOSS_WEIGHTS = [0.8, 1.3]
NO_DROPOUT = dict.fromkeys(
    ("fusion_dropout", "graph_dropout", "pool_dropout", "branch_dropout", "classifier_dropout"), 0.0
)
VARIANTS = {
    "SASTNet": {},
    "SASTNet, three classes": {"task": "dec"},
    "W2V2 + M-MAE": {"use_semantics": False},
    "Whisper + M-MAE": {"frontend": "mel"},
    "M-MAE": {"frontend": "mel", "use_semantics": False},
    "S-MAE": {"frontend": "mel", "use_semantics": False, "num_decoders": 1},
}


def small_config(**overrides) -> SASTNetConfig:
    """The published architecture with every width and depth made small that the public code allows."""
    autoencoder = {"hidden_size": WIDTH, "num_layers": 2, "num_heads": 4, "intermediate_size": 64}
    decoder = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 32}
    sizes = {f"mae_{name}": size for name, size in autoencoder.items()}
    sizes |= {f"decoder_{name}": size for name, size in decoder.items()}
    sizes |= {"fusion_num_heads": 4, "fusion_intermediate_size": 4 * WIDTH}
    if overrides.get("frontend") != "mel":
        sizes["wav2vec2_config"] = tiny_wav2vec2()
    if overrides.get("use_semantics", True):
        whisper = {"layers": 2, "attention_heads": 2, "ffn_dim": 48}
        sizes["whisper_config"] = {"d_model": WIDTH} | {f"encoder_{name}": size for name, size in whisper.items()}
    return SASTNetConfig(**{"task": "aux", **sizes, **overrides})


def with_formula_weights(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """The module with weights that any machine reproduces, in evaluation mode; `gain` scales its matrices."""
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items() if name != "loss_weights"}
    state = {name: gain * value if value.ndim == 2 else value for name, value in formula_state(shapes).items()}
    module.load_state_dict(state, strict=False)
    return module.eval()


def small_model(**overrides) -> SASTNetForAudioClassification:
    """A whole model in double precision, with weights so large that its logits depend on the clip."""
    model = with_formula_weights(SASTNetForAudioClassification(small_config(**overrides)), gain=2.0)
    model.loss_weights.data = torch.tensor(LOSS_WEIGHTS)
    return model.double()


def formula_noise(*shape: int) -> torch.Tensor:
    """Numbers between -1 and 1 that look random and are the same on any machine."""
    index = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.frac(43758.5453 * torch.sin(12.9898 * index)).float().view(shape)


def formula_clips() -> torch.Tensor:
    """Noise, and noise that swells twice a second over a hum of 120 Hz, `(2, SAMPLES)`."""
    time = torch.arange(SAMPLES, dtype=torch.float64) / 16_000
    noise = 0.1 * formula_noise(2, SAMPLES)
    swelling = torch.sin(2 * torch.pi * time) ** 2 * noise[1] + 0.2 * torch.sin(2 * torch.pi * 120 * time)
    return torch.stack([noise[0], swelling.float()])


def formula_kept() -> torch.Tensor:
    """The 12 x 6 patches of 16 x 8 that a mask leaves, other ones in each of two clips."""
    rows = torch.tensor([[t for t in range(16) if t not in gone] for gone in ((0, 5, 6, 15), (2, 3, 9, 11))])
    columns = torch.tensor([[f for f in range(8) if f not in gone] for gone in ((1, 7), (0, 4))])
    return (rows[:, :, None] * 8 + columns[:, None]).flatten(1)


def spread(values: torch.Tensor, count: int = 8) -> torch.Tensor:
    """Numbers from all over a tensor; a step of no round length meets every place of each axis."""
    return values.flatten()[:: values.numel() // count - 1][:count]


def assert_spread(values: torch.Tensor, expected: list[float]):
    torch.testing.assert_close(spread(values), torch.tensor(expected, dtype=values.dtype), atol=2e-5, rtol=0)


# ---------------------------------------------------------------- parts

# Acoustic tokens and reconstructions of the autoencoder: nothing masked, and with the mask of `formula_kept`.
AUTOENCODER = {
    "all patches": (
        [-1.169873, -3.878681, -0.502798, 1.139983, -1.142024, -0.25407, -2.292024, -1.039113],
        [-3.903377, 0.707046, -2.119161, -1.022232, 1.289661, -1.090313, 1.94061, 1.066494],
    ),
    "masked": (
        [-1.178067, -3.886754, -0.511317, 1.13695, -1.126235, -0.25979, -2.29394, -1.027062],
        [-3.91892, 0.588717, -2.127378, -0.867613, 1.273942, -1.09604, 1.945117, 1.070885],
    ),
}
DECODER_ERRORS = [[1.8706671, 3.0203457, 3.4841974, 3.0703139], [1.9058775, 3.0739465, 3.5522969, 3.144661]]
CROSS_MODAL = [-0.90353, 0.885366, -0.844981, 0.165183, 0.6996, 0.757246, 2.087064, 1.75056]
FILTER_BANK = [-0.129904, 0.18286, 0.639669, 1.001205, 1.086654, -0.044283, 0.374441, 0.874153]
SEMANTICS = [0.205442, 0.832358, 1.753536, 1.440036, 1.367863, -0.424553, -0.887732, -1.123805]
EMBEDDINGS = [7.470662, 5.671961, 0.433149, 0.030461, 2.527032, 6.703719, 2.224606, 1.557667]


@pytest.mark.parametrize("case", list(AUTOENCODER))
def test_autoencoder_equals_the_reference(case):
    model = with_formula_weights(MultiDecoderMAE(small_config()))
    with torch.inference_mode():
        tokens, patches = model(formula_noise(2, 1, 256, 128), formula_kept() if case == "masked" else None)
    assert tokens.shape == (2, 73 if case == "masked" else 129, WIDTH) and patches.shape == (2, 4, 128, 256)
    assert_spread(tokens, AUTOENCODER[case][0])
    assert_spread(patches, AUTOENCODER[case][1])


def test_reconstruction_loss_equals_the_reference():
    image = formula_noise(2, 1, 256, 128)
    with torch.inference_mode():
        _, patches = with_formula_weights(MultiDecoderMAE(small_config()))(image, formula_kept())
        _, errors = masked_errors(patches, patchify(image, 16), formula_kept())
    torch.testing.assert_close(errors, torch.tensor(DECODER_ERRORS), atol=1e-5, rtol=0)
    assert margin_reconstruction_loss(errors, LABELS, margin=0.1).item() == pytest.approx(3.5507045, abs=1e-5)


def test_cross_modal_transformer_equals_the_reference():
    model = with_formula_weights(CrossModalTransformer(small_config()))
    with torch.inference_mode():
        states, _ = model(formula_noise(2, 5, WIDTH), formula_noise(2, 7, WIDTH))
    assert_spread(states, CROSS_MODAL)


def test_filter_bank_equals_torchaudio_as_the_reference_calls_it():
    features = KaldiFilterBank(small_config(frontend="mel"))(formula_clips()[:, :3600])
    assert features.shape == (2, 21, 128)
    assert_spread(features, FILTER_BANK)


def test_filter_bank_of_a_half_precision_model_stays_close_to_the_reference():
    """Energies span more than half precision does and are computed in single; the window is rounded with the weights."""
    features = KaldiFilterBank(small_config(frontend="mel")).to(torch.bfloat16)(formula_clips()[:, :3600])
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(spread(features.float()), torch.tensor(FILTER_BANK), atol=0.1, rtol=0)


def test_semantic_features_of_a_half_precision_model_stay_close_to_the_reference():
    model = with_formula_weights(WhisperSemantics(small_config())).to(torch.bfloat16)
    torch.testing.assert_close(spread(model(formula_clips()).float()), torch.tensor(SEMANTICS), atol=0.05, rtol=0)


def test_semantic_features_equal_the_reference():
    features = with_formula_weights(WhisperSemantics(small_config()))(formula_clips())
    assert features.shape == (2, 128, WIDTH)
    assert_spread(features, SEMANTICS)


def test_back_end_equals_the_reference():
    """Fused tokens -> clip embedding."""
    with torch.inference_mode():
        embeddings = small_model().sastnet._embed(formula_noise(2, 129, WIDTH).double())
    assert_spread(embeddings, EMBEDDINGS)


# ---------------------------------------------------------------- whole models

LOGITS = {
    "SASTNet": [[1.9757156, -1.3350845, 7.6830521, -0.4661501], [1.9727459, -1.3333269, 7.6871775, -0.4616794]],
    "SASTNet, three classes": [[-3.0068924, -1.6202892, 5.6118244], [-3.0060572, -1.6199233, 5.6121781]],
    "W2V2 + M-MAE": [
        [-170.0979809, 120.6938809, 354.7043282, 374.6847624],
        [-170.1019933, 120.6930481, 354.7050037, 374.6827988],
    ],
    "Whisper + M-MAE": [
        [0.483001, -6.5494994, -4.8543296, -23.2010341],
        [0.5844515, -6.4962455, -4.854813, -23.2680579],
    ],
    "M-MAE": [
        [-11.8509602, -11.7522536, 13.7780929, -20.5713541],
        [-12.5260996, -12.052406, 13.6910499, -20.9461057],
    ],
    "S-MAE": [[10.464004, 1.554504, 39.140666, -60.3700885], [10.5878302, 1.2361868, 38.9951062, -59.6510017]],
}
# The largest are those of the classifier and of what the wav2vec 2.0 features are projected with: the reconstruction
# target is not detached.
GRADIENT_NORMS = {
    "sastnet.feature_projection.weight": 1.6837642,
    "sastnet.wav2vec2.encoder.layers.0.attention.v_proj.weight": 0.65182265,
    "sastnet.mae.encoder.patch_projection.weight": 0.40156187,
    "sastnet.mae.decoders.1.mask_token": 0.93656464,
    "sastnet.mae.decoders.0.prediction.weight": 0.55846437,
    "sastnet.mae.decoders.2.prediction.weight": 0.64157353,
    "sastnet.mae.aggregation.key_expansion.weight": 0.80808613,
    "sastnet.semantic_to_acoustic.layers.0.attention.in_proj_weight": 0.03549598,
    "sastnet.acoustic_to_semantic.layers.1.norm1.weight": 0.0019785025,
    "sastnet.fusion.layers.1.fc1.weight": 0.5018951,
    "sastnet.backend_projection.weight": 7.3307647,
    "classifier.weight": 14.005274,
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_logits_equal_the_reference(name):
    model = small_model(**VARIANTS[name])
    with torch.inference_mode():
        logits = model(formula_clips().double()).logits
    torch.testing.assert_close(logits, torch.tensor(LOGITS[name], dtype=torch.float64), atol=1e-4, rtol=0)


def test_training_loss_and_gradients_equal_the_reference(monkeypatch):
    monkeypatch.setattr(modeling_sastnet, "draw_kept_patches", lambda *_: formula_kept())
    model = small_model(**NO_DROPOUT).train()
    output = model(formula_clips().double(), labels=LABELS)
    output.loss.backward()
    losses = [output.reconstruction_loss.item(), output.classification_loss.item(), output.loss.item()]
    assert losses == pytest.approx([13.41725698, 12.07572716, 15.53916971], abs=1e-5)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = {name: gradients[name].norm().item() for name in GRADIENT_NORMS}
    assert norms == pytest.approx(GRADIENT_NORMS, rel=1e-4)
    assert gradients["loss_weights"].tolist() == pytest.approx([-25.22997, -4.52992], rel=1e-5)
