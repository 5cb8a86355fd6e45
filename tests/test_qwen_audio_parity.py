"""Qwen-Audio v1 computes what transformers' own parts and the published implementation do."""

import json
import math

import pytest
import torch
from conftest import formula_clips, formula_state
from safetensors.torch import load_file
from tiny_qwen_audio import SIZES, batch_of, hear, logits_of, random_ids, tiny_config, tiny_model, tone
from transformers import (
    Qwen2AudioEncoder,
    Qwen2AudioEncoderConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperFeatureExtractor,
)

from spooftrace.modeling import QwenAudioConfig, QwenAudioForConditionalGeneration, modeling_qwen_audio_encoder
from spooftrace.modeling.audio_tokens import encoder_positions, num_audio_tokens
from spooftrace.modeling.modeling_qwen_audio import ntk_factor
from spooftrace.modeling.modeling_qwen_audio_encoder import sinusoids


@pytest.fixture(scope="module")
def model() -> QwenAudioForConditionalGeneration:
    return tiny_model()


# ---------------------------------------------------------------- parts, against transformers' own


def as_qwen2(model: QwenAudioForConditionalGeneration, base: float = 10_000.0) -> Qwen2ForCausalLM:
    """The decoder as transformers' Qwen2, with the fused projections taken apart."""
    config = Qwen2Config(
        **{**SIZES, "hidden_size": model.config.hidden_size, "vocab_size": model.config.vocab_size},
        num_key_value_heads=SIZES["num_attention_heads"],
        rms_norm_eps=model.config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": base},
        tie_word_embeddings=False,
    )
    own = model.state_dict()
    state = {"model.embed_tokens.weight": own["transformer.wte.weight"], "lm_head.weight": own["lm_head.weight"]}
    state["model.norm.weight"] = own["transformer.ln_f.weight"]
    for index in range(config.num_hidden_layers):
        old, new = f"transformer.h.{index}.", f"model.layers.{index}."
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", own[f"{old}attn.c_attn.{kind}"].chunk(3), strict=True):
                state[f"{new}self_attn.{name}_proj.{kind}"] = part
        state[f"{new}self_attn.o_proj.weight"] = own[f"{old}attn.c_proj.weight"]
        state[f"{new}mlp.gate_proj.weight"] = own[f"{old}mlp.w2.weight"]
        state[f"{new}mlp.up_proj.weight"] = own[f"{old}mlp.w1.weight"]
        state[f"{new}mlp.down_proj.weight"] = own[f"{old}mlp.c_proj.weight"]
        state[f"{new}input_layernorm.weight"] = own[f"{old}ln_1.weight"]
        state[f"{new}post_attention_layernorm.weight"] = own[f"{old}ln_2.weight"]
    reference = Qwen2ForCausalLM(config).eval()
    reference.load_state_dict(state)
    return reference


def test_the_decoder_is_qwen2_with_fused_projections(model):
    ids = random_ids(30, 2)
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, as_qwen2(model)(ids).logits, atol=1e-5, rtol=0)


def test_the_encoder_is_qwen2_audios(model):
    """transformers' encoder wants all of its frames: one clip that fills them."""
    own, config = model.transformer.audio, model.config.audio_config
    reference = Qwen2AudioEncoder(
        Qwen2AudioEncoderConfig(
            num_mel_bins=80,
            d_model=config.hidden_size,
            encoder_layers=config.num_hidden_layers,
            encoder_attention_heads=config.num_attention_heads,
            encoder_ffn_dim=4 * config.hidden_size,
            max_source_positions=config.max_source_positions,
        )
    ).eval()
    names = {"attn.query": "self_attn.q_proj", "attn.key": "self_attn.k_proj", "attn.value": "self_attn.v_proj"}
    names |= {"attn.out": "self_attn.out_proj", "attn_ln": "self_attn_layer_norm", "mlp.0": "fc1", "mlp.2": "fc2"}
    names |= {"mlp_ln": "final_layer_norm", "blocks": "layers", "ln_post": "layer_norm"}
    names["positional_embedding"] = "embed_positions.weight"
    state = {}
    for key, value in own.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = value
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert not missing and {key.split(".")[0] for key in unexpected} == {"proj", "audio_bos_eos_token"}
    features = hear(tone(4.0))["input_features"]
    with torch.inference_mode():
        expected = own.proj(reference(features).last_hidden_state)
        torch.testing.assert_close(own(features).last_hidden_state, expected, atol=1e-5, rtol=0)


def test_past_its_pretraining_length_a_prompt_stretches_the_rotary_base():
    assert ntk_factor(torch.tensor([1, 2048, 2049, 4096, 4097, 8192, 8193]), 2048).tolist() == [1, 1, 3, 3, 7, 7, 15]
    model = tiny_model(seq_length=16, use_logn_attn=False)
    ids, exponent = random_ids(40), model.config.head_dim / (model.config.head_dim - 2)
    with torch.inference_mode():
        expected = as_qwen2(model, base=10_000.0 * 7**exponent)(ids).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=0)
        training = as_qwen2(model)(ids).logits
        torch.testing.assert_close(model.train()(input_ids=ids).logits, training, atol=1e-5, rtol=0)


def test_past_its_pretraining_length_attention_grows_with_the_logarithm_of_the_position():
    """One query past the length, in the only layer: as if its row of the projection were that much larger."""
    model = tiny_model(seq_length=16, use_dynamic_ntk=False, num_hidden_layers=1)
    ids = random_ids(20)
    with torch.inference_mode():
        scaled = model(input_ids=ids).logits
        model.config.use_logn_attn = False
        plain = model(input_ids=ids).logits
        torch.testing.assert_close(scaled[:, :16], plain[:, :16])
        width = model.config.hidden_size
        attention = model.transformer.h[0].attn.c_attn
        attention.weight[:width] *= math.log(20) / math.log(16)
        attention.bias[:width] *= math.log(20) / math.log(16)
        torch.testing.assert_close(model(input_ids=ids).logits[:, 19], scaled[:, 19], atol=1e-5, rtol=0)
    assert (scaled[:, 19] - plain[:, 19]).abs().max() > 1e-3


def test_a_prompts_stretch_stays_while_it_is_continued():
    """Keys in the cache were turned with it: another one for the next token would not fit them."""
    model = tiny_model(seq_length=16, use_logn_attn=False)
    ids, exponent = random_ids(36), model.config.head_dim / (model.config.head_dim - 2)
    with torch.inference_mode():
        cache = model(input_ids=ids[:, :30], use_cache=True).past_key_values
        rest = model(input_ids=ids[:, 30:], past_key_values=cache).logits  # alone, 36 tokens are stretched more
        expected = as_qwen2(model, base=10_000.0 * 3**exponent)(ids).logits[:, 30:]
    torch.testing.assert_close(rest, expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- the whole, against numbers

# Of this model with the weights of `formula_state` on `formula_clips`, when it agreed with the published implementation
# to 1e-5 on its recorded weights; the first four tokens at the last audio place and at the end.
FORMULA_LOGITS = [
    [[1.241807, 1.410584, 0.434597, -1.402119], [0.725301, 1.257706, 0.458329, -1.302315]],
    [[1.212329, 1.387834, 0.431743, -1.387798], [0.728149, 1.260623, 0.458526, -1.306257]],
]


def formula_model() -> QwenAudioForConditionalGeneration:
    model = QwenAudioForConditionalGeneration(tiny_config()).eval()
    table = "transformer.audio.positional_embedding"
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name != table}
    model.load_state_dict({**formula_state(shapes), table: model.transformer.audio.positional_embedding})
    return model


def test_weights_by_formula_give_the_known_numbers():
    short, long = formula_clips(24_000)[0, :13_000], formula_clips(24_000)[1]
    logits = [row[[-5, -1], :4] for row in logits_of(formula_model(), batch_of(short, long))]
    torch.testing.assert_close(torch.stack(logits), torch.tensor(FORMULA_LOGITS), atol=1e-4, rtol=0)


# ---------------------------------------------------------------- against the reference's own files


@pytest.fixture(scope="module")
def golden(golden_dir) -> tuple[QwenAudioForConditionalGeneration, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The reference's tiny model, its recorded numbers, and the inputs made from its waveforms."""
    settings = json.loads((golden_dir / "qwen_audio_v1_config.json").read_text())
    text, audio, ids = settings["model"], settings["model"]["audio"], settings["ids"]
    config = QwenAudioConfig(
        vocab_size=text["vocab_size"],
        hidden_size=text["hidden_size"],
        num_hidden_layers=text["num_hidden_layers"],
        num_attention_heads=text["num_attention_heads"],
        head_dim=text["kv_channels"],
        intermediate_size=text["intermediate_size"] // 2,
        audio_config={
            "hidden_size": audio["n_state"],
            "num_attention_heads": audio["n_head"],
            "num_hidden_layers": audio["n_layer"],
            "output_dim": audio["output_dim"],
        },
        audio_token_id=ids["audio_pad"],
        audio_bos_token_id=ids["audio_start"],
        audio_eos_token_id=ids["audio_end"],
        pad_token_id=ids["pad"],
        eos_token_id=ids["im_end"],
    )
    model = QwenAudioForConditionalGeneration(config).eval()
    model.load_state_dict(load_file(golden_dir / "qwen_audio_v1_weights.safetensors"))
    recorded = load_file(golden_dir / "qwen_audio_v1_io.safetensors")
    waves = [recorded[f"wave_{index}"] for index in range(3)]
    mel = WhisperFeatureExtractor(feature_size=80)(
        [wave.numpy() for wave in waves], sampling_rate=16_000, return_tensors="pt"
    ).input_features
    frames = torch.tensor([len(wave) // 160 for wave in waves])
    inputs = {name: recorded[name] for name in ("input_ids", "attention_mask")}
    inputs |= {"input_features": mel, "feature_attention_mask": (torch.arange(3000) < frames[:, None]).long()}
    return model, recorded, inputs


def test_lengths_frames_and_positions_are_the_references(golden):
    model, recorded, inputs = golden
    torch.testing.assert_close(model.transformer.audio.positional_embedding, sinusoids(1500, 48), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        inputs["input_features"][..., :800], recorded["mel_first_800_frames"], atol=1e-6, rtol=0
    )
    frames = inputs["feature_attention_mask"].sum(1)
    lengths = torch.stack([encoder_positions(frames), num_audio_tokens(frames)], dim=1)
    assert lengths.tolist() == recorded["audio_lengths"].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_the_references_for_each_clip_alone(side, golden):
    model, recorded, inputs = golden
    if side == "left":
        order = inputs["attention_mask"].argsort(dim=1, stable=True)
        inputs = {**inputs, **{name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}}
    for index, logits in enumerate(logits_of(model, inputs)):
        torch.testing.assert_close(logits, recorded[f"logits_single_{index}"], atol=1e-4, rtol=0)
        zeroed = recorded["logits_melzeroed"][index, : len(logits)]
        torch.testing.assert_close(logits, zeroed, atol=1e-4, rtol=0)


def test_loss_gradient_and_hidden_states_are_the_references_in_its_own_batch(golden, monkeypatch):
    """There, a clip's silence up to the end of the longest one is heard; it is let in for this comparison alone."""
    model, recorded, inputs = golden
    monkeypatch.setattr(modeling_qwen_audio_encoder, "silenced", lambda mel, inside: mel)
    rows = model.transformer.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"])
    torch.testing.assert_close(rows[:25], recorded["audio_embeds_0"][1:-1], atol=1e-4, rtol=0)
    output = model(**inputs, labels=recorded["labels"], output_hidden_states=True)
    torch.testing.assert_close(output.loss[None], recorded["loss_eval_mode"], atol=1e-5, rtol=0)
    kept = inputs["attention_mask"].bool()
    for index in (0, 3):
        torch.testing.assert_close(
            output.hidden_states[index][kept], recorded[f"hidden_{index}"][kept], atol=1e-4, rtol=0
        )
    gradient = torch.autograd.grad(output.loss, model.transformer.h[0].attn.c_attn.weight)[0]
    torch.testing.assert_close(gradient, recorded["grad_c_attn_0"], atol=1e-5, rtol=0)
