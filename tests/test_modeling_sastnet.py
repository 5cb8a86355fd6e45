"""SASTNet keeps its published sizes, answers for a clip alone, and has the manners of a transformers model."""

import argparse
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import tiny_config, tiny_wav2vec2
from huggingface_hub.errors import StrictDataclassError
from tiny_sastnet import TINY_MAE, TINY_REST, TINY_WHISPER, WINDOW, tiny_sastnet, tiny_sastnet_config
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
    pipeline,
)

from spooftrace.detector import Detector
from spooftrace.modeling import (
    AasistForAudioClassification,
    SASTNetConfig,
    SASTNetFeatureExtractor,
    SASTNetForAudioClassification,
    SASTNetModel,
)
from spooftrace.modeling.audio_mae import PatchDecoder, draw_kept_patches, masked_errors, patchify
from spooftrace.modeling.kaldi_filter_bank import KaldiFilterBank
from spooftrace.modeling.packed_attention import PackedAttention, grid_positions, step_positions
from spooftrace.modeling.sastnet_loss import automatic_weighted_loss, margin_reconstruction_loss
from spooftrace.modeling.source_tasks import logits_by_task


MEL = {"frontend": "mel", "use_semantics": False}
VARIANTS = {
    "SASTNet": {},
    "W2V2 + M-MAE": {"use_semantics": False},
    "Whisper + M-MAE": {"frontend": "mel"},
    "M-MAE": MEL,
    "S-MAE": {**MEL, "num_decoders": 1},
    "paper's readings": {
        "keep_cls_token": False,
        "feature_size": None,
        "margin_reading": "mean",
        "detach_target": True,
    },
}


def count(model: torch.nn.Module, trained: bool = False) -> int:
    return sum(each.numel() for each in model.parameters() if each.requires_grad or not trained)


def clips(batch: int = 3, samples: int = WINDOW) -> torch.Tensor:
    noise = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
    tone = torch.sin(torch.arange(samples) * torch.linspace(0.05, 1.5, batch)[:, None])
    return torch.logspace(-2, -0.5, batch)[:, None] * noise + 0.2 * tone


# ---------------------------------------------------------------- sizes


def test_parameter_counts_are_the_published_ones_but_for_what_is_never_used():
    with torch.device("meta"):
        model = SASTNetForAudioClassification(SASTNetConfig(task="aux"))
        smaller = SASTNetForAudioClassification(SASTNetConfig(task="dec"))
    whisper_decoder, projection_head = 241_734_912 - 88_154_112, 459_392
    tables, loss_weights = 129 * 768 + 4 * 129 * 512, 2
    assert count(model) == 792_068_044 - whisper_decoder - projection_head - tables + loss_weights == 637_664_590
    assert count(model, trained=True) == 549_969_868 - projection_head + loss_weights == 549_510_478
    assert f"{count(model):,}" in SASTNetModel.__doc__ and f"{count(model, trained=True):,}" in SASTNetModel.__doc__
    assert count(model) - count(smaller) == 25_811_712 - 129 * 512 + 161


@pytest.mark.parametrize(
    ("block", "parameters"),
    [
        ("wav2vec2", 315_438_720),
        ("feature_projection", 131_200),
        ("semantics", 88_154_112),
        ("mae.encoder", 85_353_216 - 129 * 768),
        ("mae.decoders.0", 25_811_712 - 129 * 512),
        ("mae.aggregation", 197_376 + 197_376 + 2_362_368),
        ("fusion", 14_177_280),
        ("backend_projection", 98_432),
        ("encoder", 211_072 + 2),  # the norm before it is counted apart there
    ],
)
def test_blocks_have_their_published_sizes(block, parameters):
    with torch.device("meta"):
        model = SASTNetModel(SASTNetConfig(task="aux"))
    assert count(model.get_submodule(block)) == parameters


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        (MEL, 192_591_820 - 257 * 768 - 4 * 257 * 512),
        ({**MEL, "num_decoders": 1}, 114_960_076 - 257 * 768 - 257 * 512),
        ({"frontend": "mel"}, 235_123_660 + 88_154_112 - 257 * 768 - 4 * 257 * 512),
        ({"use_semantics": False}, 192_362_572 + 315_438_720 - 129 * 768 - 4 * 129 * 512),
    ],
)
def test_ablations_have_their_published_sizes(fields, parameters):
    with torch.device("meta"):
        model = SASTNetForAudioClassification(SASTNetConfig(task="aux", **fields))
    assert count(model) == parameters - 459_392 + 2


def test_the_masked_image_is_16_by_8_patches_of_which_12_by_6_stay():
    config = SASTNetConfig()
    assert config.grid_size == (16, 8) and SASTNetConfig(**MEL).grid_size == (32, 8)
    kept = draw_kept_patches(config, 4, 16, torch.device("cpu"))
    assert kept.shape == (4, 72)
    for row in kept:
        assert row.equal(row.sort().values)
        times, features = (row // 8).unique(), (row % 8).unique()
        assert len(times) == 12 and len(features) == 6 and len(row.unique()) == 72
    assert draw_kept_patches(SASTNetConfig(**MEL), 1, 32, torch.device("cpu")).shape == (1, 150)
    single = draw_kept_patches(SASTNetConfig(mask_mode="random"), 2, 16, torch.device("cpu"))
    assert single.shape == (2, 76) and not single[0].equal(single[1])


# ---------------------------------------------------------------- losses


def test_margin_loss_is_as_computed_by_hand_in_both_readings():
    errors = torch.tensor([[0.20, 0.25, 0.50], [0.40, 0.30, 0.10]])
    labels = torch.tensor([0, 1])
    # clip 0: 0.20 + (0.05 + 0) / 2; clip 1: 0.30 + (0 + 0.30) / 2
    assert margin_reconstruction_loss(errors, labels, 0.1).item() == pytest.approx((0.225 + 0.45) / 2)
    # clip 0: 0.20 + max(0, 0.30 - 0.375); clip 1: 0.30 + (0.40 - 0.25)
    assert margin_reconstruction_loss(errors, labels, 0.1, "mean").item() == pytest.approx((0.20 + 0.45) / 2)
    assert margin_reconstruction_loss(errors[:, :1], labels, 0.1).item() == pytest.approx(0.30)


def test_automatic_weighting_starts_at_the_mean_and_has_its_minimum_where_the_formula_says():
    losses = torch.tensor([0.8, 2.0])
    assert automatic_weighted_loss(losses, torch.ones(2)).item() == pytest.approx(1.4 + 2 * math.log(2))
    assert automatic_weighted_loss(losses, torch.tensor([2.0, 1.0])).item() == pytest.approx(
        0.1 + math.log(5) + 1.0 + math.log(2)
    )


def test_errors_count_masked_patches_alone():
    image = torch.arange(32.0).view(1, 1, 4, 8)
    target = patchify(image, 4)
    assert target.shape == (1, 2, 16) and target[0, 1, :4].tolist() == [4, 5, 6, 7]
    patches = torch.stack([target + torch.tensor([1.0, 2.0]).view(2, 1), target], dim=1)
    errors, means = masked_errors(patches, target, torch.tensor([[0]]))
    assert errors.tolist() == [[[1, 4], [0, 0]]] and means.tolist() == [[4, 0]]
    assert masked_errors(patches, target)[1].tolist() == [[2.5, 0]]


def test_training_loss_is_put_together_from_its_parts():
    model = tiny_sastnet(task="dec").train()
    with torch.no_grad():
        model.loss_weights.copy_(torch.tensor([0.7, 1.3]))
    labels = torch.tensor([0, 2, 1])
    output = model(clips(), labels=labels)
    weights = torch.tensor([0.2, 0.4, 0.4])
    own = -output.logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(output.classification_loss, (weights[labels] * own).sum() / weights[labels].sum())
    torch.testing.assert_close(
        output.reconstruction_loss, margin_reconstruction_loss(output.decoder_errors, labels, 0.1)
    )
    expected = sum(
        0.5 * part / weight**2 + torch.log(1 + weight**2)
        for part, weight in zip((output.reconstruction_loss, output.classification_loss), (0.7, 1.3), strict=True)
        for weight in [torch.tensor(weight)]
    )
    torch.testing.assert_close(output.loss, expected)
    model.eval()
    evaluated = model(clips(), labels=labels)
    assert evaluated.loss.equal(evaluated.classification_loss) and evaluated.reconstruction_loss is None


def test_whisper_and_dead_norms_alone_get_no_gradient_and_the_target_trains_the_front_end():
    model = tiny_sastnet().train()
    output = model(clips(), labels=torch.tensor([0, 1, 3]))
    output.loss.backward()
    idle = {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()}
    expected = {name for name, _ in model.named_parameters() if ".semantics." in name or "unused_norm" in name}
    assert idle - expected <= {"sastnet.wav2vec2.masked_spec_embed"} and expected <= idle
    assert model.loss_weights.grad.all()


@pytest.mark.parametrize("detach", [False, True])
def test_the_reconstruction_target_trains_the_front_end_unless_it_is_detached(detach):
    model = tiny_sastnet(use_semantics=False, detach_target=detach, mask_ratio=0.9, mask_mode="random").train()
    for parameter in model.sastnet.mae.parameters():
        parameter.requires_grad_(False)
    # What the encoder sees is cut off here, so that the only way left to the projection is through the target.
    model.sastnet.mae.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(), *inputs[1:]))
    output = model(clips(), labels=torch.tensor([0, 1, 3]))
    if detach:
        assert not output.reconstruction_loss.requires_grad
    else:
        output.reconstruction_loss.backward()
        assert model.sastnet.feature_projection.weight.grad.any()


# ---------------------------------------------------------------- behaviour


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_member_of_the_family_trains_and_scores(variant):
    model = tiny_sastnet(**VARIANTS[variant])
    waveforms = clips()
    with torch.no_grad():
        together = model(waveforms).logits
        alone = torch.cat([model(clip[None]).logits for clip in waveforms])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.std(dim=0).max() > 1e-4, "the logits do not depend on the clip"
    model.train()(waveforms, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert model.classifier.weight.grad.any()


def test_inference_is_deterministic_whatever_the_random_numbers():
    model = tiny_sastnet()
    logits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            logits.append(model(clips()).logits)
    assert logits[0].equal(logits[1])


def test_masks_follow_the_seed_in_training():
    model = tiny_sastnet().train()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(clips(), labels=torch.tensor([0, 1, 2])).reconstruction_loss.item())
    assert losses[0] == losses[1] != losses[2]


def test_what_was_asked_for_comes_out_in_its_documented_shape():
    model = tiny_sastnet(semantic_frames=40)
    plain = model(clips())
    assert plain.embeddings.shape == (3, 20)
    assert plain.attentions is None and plain.decoder_errors is None and plain.reconstruction_errors is None
    output = model(clips(), output_attentions=True, output_reconstruction_errors=True)
    assert output.reconstruction_errors.shape == (3, 4, 24)
    torch.testing.assert_close(output.decoder_errors, output.reconstruction_errors.mean(dim=2))
    shapes = {name: tuple(each.shape) for name, each in output.attentions.items()}
    assert shapes == {
        "acoustic_to_semantic": (3, 2, 4, 25, 20),
        "semantic_to_acoustic": (3, 2, 4, 20, 25),
        "fusion": (3, 2, 4, 25, 20),
    }
    for attention in output.attentions.values():
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
    torch.testing.assert_close(output.logits, plain.logits, atol=1e-5, rtol=0)
    assert logits_by_task(output, model.config).keys() == {"vq"}


def test_kept_semantic_features_give_the_same_logits():
    model = tiny_sastnet()
    features = model.semantic_features(clips())
    assert features.shape == (3, 25, 32)
    with torch.no_grad():
        assert model(clips(), semantic_features=features).logits.equal(model(clips()).logits)
    with pytest.raises(ValueError, match=r"semantic_features.*\(3, 25, 32\), got \(3, 24, 32\)"):
        model(clips(), semantic_features=features[:, :-1])
    with pytest.raises(ValueError, match="no Whisper encoder"):
        tiny_sastnet(use_semantics=False).semantic_features(clips())


def kept_for_backward(run: Callable[[], object]) -> int:
    """Numbers that the pass kept outside of what is computed again."""
    sizes = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(sizes)


def test_gradient_checkpointing_changes_nothing_but_memory():
    gradients, memory = [], []
    for checkpointing in (False, True):
        model = tiny_sastnet().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(3)
        model(clips(), labels=torch.tensor([0, 1, 3]), output_attentions=True).loss.backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
        decoder, tokens = model.sastnet.mae.decoders[0], torch.randn(3, 25, 32)
        memory.append(kept_for_backward(lambda decoder=decoder, tokens=tokens: decoder(tokens)))
    assert memory[1] < 0.25 * memory[0], "a decoder keeps more than the inputs of its layers"
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-3)


def test_frozen_whisper_has_no_dropout_in_training():
    model = tiny_sastnet(whisper_config={**TINY_WHISPER, "dropout": 0.5, "attention_dropout": 0.5}).eval()
    features = model.semantic_features(clips())
    assert model.train().semantic_features(clips()).equal(features)


@pytest.mark.parametrize("variant", ["SASTNet", "M-MAE"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_waveforms_in_single_precision(variant, dtype):
    model, half = tiny_sastnet(**VARIANTS[variant]), tiny_sastnet(**VARIANTS[variant]).to(dtype)
    with torch.no_grad():
        expected, logits = model(clips()).logits, half(clips()).logits
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, atol=0.03 * expected.abs().max().item(), rtol=0)


def test_losses_are_in_single_precision_under_autocast():
    model = tiny_sastnet().train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(clips(), labels=torch.tensor([0, 1, 2]))
    assert output.logits.dtype == torch.bfloat16
    assert {each.dtype for each in (output.loss, output.decoder_errors, output.classification_loss)} == {torch.float32}


# ---------------------------------------------------------------- signal processing and positions


def test_whisper_is_heard_as_transformers_hears_it():
    model = tiny_sastnet()
    encoder, config = model.sastnet.semantics.encoder, model.config.whisper_config
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=4)
    features = extractor(list(clips().numpy()), sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        states = encoder(features).last_hidden_state[:, :50]
    expected = states.unflatten(1, (25, 2)).mean(dim=2)
    torch.testing.assert_close(model.semantic_features(clips()), expected, atol=1e-4, rtol=0)


def test_a_shorter_context_gives_other_features_of_the_same_shape():
    model, shorter = tiny_sastnet(), tiny_sastnet(whisper_context=60)
    shorter.load_state_dict(model.state_dict())
    features, approximate = model.semantic_features(clips()), shorter.semantic_features(clips())
    assert features.shape == approximate.shape and not torch.allclose(features, approximate)


def test_filter_bank_is_kaldis():
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    config = SASTNetConfig(**MEL)
    bank, waveforms = KaldiFilterBank(config), clips(2, 82_200)
    options = {"htk_compat": True, "window_type": "hanning", "num_mel_bins": 128, "dither": 0.0, "use_energy": False}
    expected = torch.stack([kaldi.fbank(wave[None], sample_frequency=16_000.0, **options) for wave in waveforms])
    energies = bank.energies(waveforms)
    assert energies.shape == expected.shape == (2, 512, 128)
    torch.testing.assert_close(energies, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(bank(waveforms), (energies + 8.7086) / (2 * 4.4163))


def test_positions_follow_their_formulas():
    grid = grid_positions(3, 4, 16)
    patch = grid[2 * 4 + 3]  # row 2, column 3
    rate = 1 / 10_000 ** (np.arange(4) / 4)
    expected = np.concatenate([np.sin(3 * rate), np.cos(3 * rate), np.sin(2 * rate), np.cos(2 * rate)])
    np.testing.assert_allclose(patch.numpy(), expected, atol=1e-6)
    steps = step_positions(5, 8)
    rate = np.exp(-np.log(10_000) / 3 * np.arange(4))
    np.testing.assert_allclose(steps[0].numpy(), np.concatenate([np.sin(rate), np.cos(rate)]), atol=1e-6)


def test_packed_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = PackedAttention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    query, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    expected, weights = theirs(query, memory, memory, average_attn_weights=False)
    torch.testing.assert_close(ours(query, memory, memory)[0], expected)
    attended, attention = ours(query, memory, memory, output_attentions=True)
    torch.testing.assert_close(attended, expected)
    torch.testing.assert_close(attention, weights)


def test_a_decoder_puts_tokens_back_where_their_patches_were():
    decoder = PatchDecoder(tiny_sastnet_config())
    torch.nn.init.normal_(decoder.mask_token)
    decoder.layers = torch.nn.ModuleList()  # tokens do not mix
    tokens = torch.randn(1, 1 + 3, 32)
    restored = decoder(tokens, torch.tensor([[1, 4, 20]]), 24)[0]

    def alone(state: torch.Tensor, place: int) -> torch.Tensor:
        return decoder.prediction(decoder.norm(state + decoder.positions[place]))

    embedded = decoder.embedding(tokens)[0]
    torch.testing.assert_close(restored[4], alone(embedded[2], 4))
    torch.testing.assert_close(restored[20], alone(embedded[3], 20))
    torch.testing.assert_close(restored[7], alone(decoder.mask_token[0, 0], 7))


# ---------------------------------------------------------------- saving, loading, the Hub's ways


@pytest.mark.parametrize("variant", ["SASTNet", "S-MAE"])
def test_saved_models_load_with_nothing_missing_and_whisper_frozen(variant, tmp_path):
    model = tiny_sastnet(**VARIANTS[variant])
    with torch.no_grad():
        model.loss_weights.copy_(torch.tensor([0.5, 2.0]))
    model.save_pretrained(tmp_path)
    SASTNetFeatureExtractor(window_samples=WINDOW).save_pretrained(tmp_path)
    loaded, report = SASTNetForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in model.state_dict().items():
        assert value.equal(loaded.state_dict()[name]), name
    for name, buffer in model.named_buffers():
        assert buffer.equal(loaded.get_buffer(name)), name
    assert all(each.requires_grad != (".semantics." in name) for name, each in loaded.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(clips()).logits, model(clips()).logits, atol=1e-5, rtol=0)
    assert type(AutoModelForAudioClassification.from_pretrained(tmp_path)) is SASTNetForAudioClassification
    assert type(AutoModel.from_pretrained(tmp_path)) is SASTNetModel
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(extractor) is SASTNetFeatureExtractor and extractor.window_samples == WINDOW


def test_detector_and_pipeline_take_it_like_any_other(tmp_path):
    model = tiny_sastnet(task="bin")
    extractor = SASTNetFeatureExtractor(window_samples=WINDOW)
    clip = clips(1)[0].numpy()
    detection = Detector(model, extractor)(clip, sampling_rate=16_000)
    with torch.no_grad():
        logits = model(torch.from_numpy(clip)[None]).logits[0].double()
    assert detection.score == pytest.approx((logits[0] - logits[1]).item(), abs=1e-4)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    classify = pipeline("audio-classification", model=str(tmp_path), feature_extractor=str(tmp_path))
    answers = {entry["label"]: entry["score"] for entry in classify(clip)}
    assert answers["bonafide"] == pytest.approx(logits.softmax(0)[0].item(), abs=1e-5)


def test_the_extractor_takes_the_first_82_200_samples():
    extractor = SASTNetFeatureExtractor()
    ramp = np.arange(100_000) / 100_000
    (window,) = extractor(ramp, sampling_rate=16_000)["input_values"]
    assert len(window) == 82_200 and window[-1] == np.float32(ramp[82_199])


# ---------------------------------------------------------------- parts


def test_a_model_is_put_together_from_pretrained_parts(tmp_path):
    torch.manual_seed(5)
    detector = AasistForAudioClassification(tiny_config("wav2vec2"))
    detector.save_pretrained(tmp_path / "tuned")
    whisper = WhisperModel(WhisperConfig(**TINY_WHISPER))
    whisper.save_pretrained(tmp_path / "whisper")
    saved = {"model": audiomae_state(), "epoch": 32, "args": argparse.Namespace(mask_ratio=0.8)}
    torch.save(saved, tmp_path / "mae.pth")  # as AudioMAE's training script does
    sizes = {**TINY_MAE, **TINY_REST, "attn_implementation": "eager"}
    model = SASTNetForAudioClassification.from_parts(
        tmp_path / "tuned", tmp_path / "whisper", tmp_path / "mae.pth", **sizes
    )
    assert model.sastnet.semantics.encoder.config._attn_implementation == "eager"
    for ours, theirs in (
        (model.sastnet.wav2vec2, detector.wav2vec2),
        (model.sastnet.semantics.encoder, whisper.encoder),
    ):
        for name, value in theirs.state_dict().items():
            assert value.equal(ours.state_dict()[name]), name
    state, mae = audiomae_state(), model.sastnet.mae
    assert mae.encoder.layers[1].attention.qkv.weight.equal(state["blocks.1.attn.qkv.weight"])
    assert mae.encoder.cls_token.equal(state["cls_token"])
    for decoder in mae.decoders:
        assert decoder.layers[1].fc2.bias.equal(state["decoder_blocks.1.mlp.fc2.bias"])
        assert decoder.mask_token.equal(state["mask_token"])
    assert not mae.decoders[0].embedding.weight.equal(mae.decoders[1].embedding.weight)
    assert model.config.weight_licenses == {"AudioMAE": "cc-by-nc-4.0"}
    assert not any(each.requires_grad for each in model.sastnet.semantics.parameters())


def test_parts_are_taken_at_their_revisions_and_as_the_options_for_the_hub_say(tmp_path):
    wav2vec2, whisper = Wav2Vec2Model(Wav2Vec2Config(**tiny_wav2vec2())), WhisperModel(WhisperConfig(**TINY_WHISPER))
    first, second = 40 * "1", 40 * "2"
    wav2vec2.save_pretrained(tmp_path / "models--org--wav2vec2" / "snapshots" / first)
    whisper.save_pretrained(tmp_path / "models--org--whisper" / "snapshots" / second)
    names = ("org/wav2vec2", "org/whisper")
    options = {"cache_dir": tmp_path, "local_files_only": True, "token": "hf_x"}
    model = SASTNetForAudioClassification.from_parts(
        *names, wav2vec2_revision=first, whisper_revision=second, **options, **TINY_MAE, **TINY_REST
    )
    for ours, theirs in ((model.sastnet.wav2vec2, wav2vec2), (model.sastnet.semantics.encoder, whisper.encoder)):
        assert all(value.equal(ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert not {"token", "cache_dir", "local_files_only"} & vars(model.config).keys()
    for revisions in ({"wav2vec2_revision": first}, {"whisper_revision": second}):
        with pytest.raises(OSError, match=r"in the cached files"):  # the other part has no main branch
            SASTNetForAudioClassification.from_parts(*names, **revisions, **options)


def audiomae_state() -> dict[str, torch.Tensor]:
    """Tensors by AudioMAE's names, the decoder with more layers than are taken."""
    generator = torch.Generator().manual_seed(7)
    state = {
        "cls_token": (1, 1, 32),
        "mask_token": (1, 1, 16),
        "pos_embed": (1, 513, 32),
        "patch_embed.proj.weight": (3,),
    }
    state |= {"decoder_pred.weight": (64, 16), "decoder_pred.bias": (64,)}
    for prefix, blocks, size, inner in (("", 2, 32, 48), ("decoder_", 4, 16, 24)):
        state |= {f"{prefix}norm.{kind}": (size,) for kind in ("weight", "bias")}
        for index in range(blocks):
            block = f"{prefix}blocks.{index}"
            shapes = {"norm1": (), "attn.qkv": (3 * size, size), "attn.proj": (size, size), "norm2": ()}
            shapes |= {"mlp.fc1": (inner, size), "mlp.fc2": (size, inner)}
            for name, shape in shapes.items():
                state[f"{block}.{name}.weight"] = shape or (size,)
                state[f"{block}.{name}.bias"] = (shape[0] if shape else size,)
    state["decoder_blocks.0.attn.tau"] = (4,)
    return {name: torch.randn(shape, generator=generator) for name, shape in state.items()}


def test_parts_that_do_not_belong_are_refused(tmp_path):
    Wav2Vec2Model(Wav2Vec2Config(**tiny_wav2vec2())).save_pretrained(tmp_path / "wav2vec2")
    WhisperModel(WhisperConfig(**TINY_WHISPER)).save_pretrained(tmp_path / "whisper")
    with pytest.raises(ValueError, match=r"is a 'wav2vec2' model; needed is Whisper"):
        SASTNetForAudioClassification.from_parts(whisper=tmp_path / "wav2vec2")
    with pytest.raises(ValueError, match=r"is a 'whisper' model; needed is wav2vec 2.0"):
        SASTNetForAudioClassification.from_parts(wav2vec2=tmp_path / "whisper")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold AudioMAE's weights"):
        SASTNetForAudioClassification.from_parts(audiomae=tmp_path / "other.pth")
    with pytest.raises(TypeError, match="there is no option use_semantic: SASTNetConfig names"):
        SASTNetForAudioClassification.from_parts(use_semantic=False)
    with pytest.raises(ValueError, match="leave out whisper_config: the part that is loaded"):
        SASTNetForAudioClassification.from_parts(whisper=tmp_path / "whisper", whisper_config=TINY_WHISPER)
    with pytest.raises((ValueError, StrictDataclassError), match="`whisper_config` goes with .*use_semantics=False"):
        SASTNetForAudioClassification.from_parts(whisper=tmp_path / "whisper", use_semantics=False)


class RunsCode:
    def __reduce__(self):
        return (print, ("this should never run",))


def test_an_audiomae_file_that_runs_code_or_is_damaged_is_refused(tmp_path, capsys):
    torch.save({"model": {**audiomae_state(), "trap": RunsCode()}}, tmp_path / "hostile.pth")
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "hostile.pth").read_bytes()[:1000])
    for name in ("hostile.pth", "damaged.pth"):
        with pytest.raises(ValueError, match=f"{name}' is damaged, or a pickle that runs code"):
            SASTNetForAudioClassification.from_parts(audiomae=tmp_path / name)
    assert "never run" not in capsys.readouterr().out


# ---------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"whisper_config": {"d_model": 512}}, r"Whisper encoder has the width 512.*mae_hidden_size=768"),
        ({"num_decoders": 2}, r"num_decoders` is 1 or one for each of the 4 classes, got 2"),
        ({"task": "codec"}, "codec"),
        ({"task_labels": {"aux": ["bonafide", "none"]}}, "names aux, but the model's tasks are vq"),
        ({"task_labels": {"vq": ["bonafide", "rvq"]}}, "rvq"),
        ({"class_weights": [1.0, 1.0]}, "class_weights` needs a positive number for each of bonafide, mvq, svq, sq"),
        ({"feature_size": 100}, "width 100 cannot be cut into patches"),
        ({"window_samples": 1000}, "window_samples=1000` is shorter than a patch"),
        ({"mae_num_heads": 7}, "mae_hidden_size=768` is no multiple of `mae_num_heads=7"),
        ({"whisper_context": 100}, "got 256, 100 and 1500"),
        ({"frontend": "mel", "wav2vec2_config": {}}, "goes with `frontend='wav2vec2'`"),
        ({"id2label": {0: "spoof", 1: "bonafide"}}, "'vq' has the labels bonafide, mvq, svq, sq, but `id2label` is"),
        ({"num_labels": 2}, "`num_labels` is 2"),
        ({"sampling_rate": 8000}, "at 16000 Hz, got `sampling_rate=8000`"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"pool_ratios": [0.5, 0.0, 0.5]}, r"kept shares in \(0, 1\], got \[0.5, 0.0, 0.5\]"),
        ({"num_filters": 2}, "num_filters=2` leaves no spectral node"),
        ({"calibration": {"scale": 1.0}}, r"keys 'scale' and 'bias', got \['scale'\]"),
        ({"fusion_num_heads": 0}, "`fusion_num_heads` is at least 1, got 0"),
        ({"frontend": "mel", "fbank_std": 0}, "`fbank_std` is above 0, got 0"),
        ({"mask_ratio": 1.0}, r"mask_ratio` lies in \[0, 1\), got 1.0"),
    ],
)
def test_wrong_configurations_name_the_value(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        SASTNetConfig(**fields)


def test_loading_does_not_make_another_model_of_a_checkpoint(tmp_path):
    """transformers sets what it is given on the loaded configuration, which has checked itself by then."""
    tiny_sastnet().save_pretrained(tmp_path)
    load = SASTNetForAudioClassification.from_pretrained
    for fields, message in (
        ({"task": "aux"}, "this model answers vq, in this order, and was asked for aux"),
        (
            {"id2label": {0: "a", 1: "b", 2: "c", 3: "d"}},
            "the classes of 'vq' are bonafide, mvq, svq, sq, but .* names a",
        ),
        ({"use_semantics": False}, "`whisper_config` goes with .*use_semantics=False"),
        ({"whisper_context": 10}, "must hold, got 50, 10 and 200"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, **fields)
    assert load(tmp_path, whisper_context=60).sastnet.semantics.context == 60
    names = SASTNetConfig.from_pretrained(tmp_path).id2label
    assert load(tmp_path, id2label=dict(reversed(names.items()))).config.id2label == names


def test_wrong_inputs_are_refused_at_the_first_call():
    model = tiny_sastnet()
    shortest = model.config.minimum_samples
    assert model(clips(1, shortest)).logits.shape == (1, 4)
    with pytest.raises(ValueError, match=f"one patch, to {WINDOW} .* got {shortest - 1}"):
        model(clips(1, shortest - 1))
    with pytest.raises(ValueError, match=f"got {WINDOW + 1}"):
        model(clips(1, WINDOW + 1))
    with pytest.raises(ValueError, match=r"\(batch_size, num_samples\), got \(1, 2, 16400\)"):
        model(torch.zeros(1, 2, WINDOW))
    with pytest.raises(ValueError, match=r"0 to 3 \(bonafide, mvq, svq, sq\), got \[-100, 4\]"):
        model(clips(2), labels=torch.tensor([4, -100]))
    with pytest.raises(ValueError, match=r"`labels` must have the shape \(3,\), got \(1,\)"):
        model(clips(3), labels=torch.tensor([0]))
    with pytest.raises(ValueError, match="takes no `semantic_features`"):
        tiny_sastnet(use_semantics=False)(clips(), semantic_features=torch.zeros(3, 25, 32))
    masked = tiny_sastnet(mask_mode="random", mask_ratio=0.95).train()
    with pytest.raises(ValueError, match="pools 3 tokens and got 2.*lower `mask_ratio`"):
        masked(clips(2, shortest))


def test_configurations_round_trip(tmp_path):
    config = SASTNetConfig(task="dec", margin_reading="mean", task_labels={"dec": ["bonafide", "time"]})
    config.save_pretrained(tmp_path)
    loaded = SASTNetConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.num_labels == 2 and loaded.num_decoders == 2 and loaded.class_weights == [0.2, 0.4]
