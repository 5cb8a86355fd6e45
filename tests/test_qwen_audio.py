"""Qwen-Audio v1 treats each sequence for itself, generates, trains, and survives being saved."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from tiny_qwen_audio import (
    AUDIO_TOKEN,
    CLIPS,
    PAD,
    batch_of,
    logits_of,
    publish,
    random_ids,
    tiny_config,
    tiny_model,
    tone,
)
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from spooftrace.modeling import (
    QwenAudioConfig,
    QwenAudioEncoderConfig,
    QwenAudioForConditionalGeneration,
    QwenAudioModel,
)
from spooftrace.modeling.convert_qwen_audio import convert_qwen_audio


@pytest.fixture(scope="module")
def model() -> QwenAudioForConditionalGeneration:
    return tiny_model()


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_sequence_scores_in_any_batch_as_it_does_alone(side, attention):
    model = tiny_model()
    alone = [logits_of(model, batch_of(clip))[0] for clip in CLIPS]
    assert (alone[0][-1] - alone[1][-1]).abs().max() > 0.1  # the clips matter
    model.set_attn_implementation(attention)
    for order in ([0, 1, 2], [2, 0, 1]):
        rows = logits_of(model, batch_of(*(CLIPS[index] for index in order), side=side))
        for row, index in zip(rows, order, strict=True):
            torch.testing.assert_close(row, alone[index], atol=1e-5, rtol=0)


def test_a_long_prompt_scores_in_any_batch_as_it_does_alone():
    """Also where the rotary base is stretched: by the sequence's own length, not by the batch's."""
    model = tiny_model(seq_length=16)
    long, short = random_ids(40)[0], random_ids(12)[0]
    for before, after in ((28, 0), (0, 28)):
        ids = torch.stack([long, F.pad(short, (before, after), value=PAD)])
        mask = torch.stack([torch.ones(40), F.pad(torch.ones(12), (before, after))]).long()
        rows = logits_of(model, {"input_ids": ids, "attention_mask": mask})
        for row, alone in zip(rows, (long, short), strict=True):
            expected = logits_of(model, {"input_ids": alone[None], "attention_mask": torch.ones(1, len(alone))})[0]
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_padding_of_the_spectrogram_is_never_heard(model):
    inputs = batch_of(tone(0.53))
    expected = logits_of(model, inputs)[0]
    frames = int(inputs["feature_attention_mask"].sum())
    even = frames + frames % 2
    cut = {name: inputs[name][..., :even] for name in ("input_features", "feature_attention_mask")}
    assert torch.equal(logits_of(model, {**inputs, **cut})[0], expected)
    inputs["input_features"][..., even:] = torch.randn(1, 80, 400 - even)
    assert torch.equal(logits_of(model, inputs)[0], expected)


def test_half_precision_stays_close(model):
    inputs = batch_of(*CLIPS)
    for row, exact in zip(logits_of(tiny_model().bfloat16(), inputs), logits_of(model, inputs), strict=True):
        assert row.dtype == torch.bfloat16
        torch.testing.assert_close(row.float(), exact, atol=0.15, rtol=0)  # of logits up to 4


# ---------------------------------------------------------------- generation


def greedy(model, inputs, steps: int) -> torch.Tensor:
    """New tokens by whole passes, without a cache."""
    ids, mask, new = inputs["input_ids"], inputs["attention_mask"], []
    for _ in range(steps):
        with torch.inference_mode():
            token = (
                model(**{**inputs, "input_ids": ids, "attention_mask": mask}).logits[:, -1].argmax(-1, keepdim=True)
            )
        ids, mask, new = torch.cat([ids, token], 1), torch.cat([mask, torch.ones_like(token)], 1), [*new, token]
    return torch.cat(new, 1)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("seq_length", [2048, 48])
def test_generation_with_and_without_a_cache_is_the_same(use_cache, seq_length):
    model = tiny_model(seq_length=seq_length)
    inputs = batch_of(*CLIPS)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "use_cache": use_cache}
    new = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    assert new.tolist() == greedy(model, inputs, 6).tolist()
    assert len({tuple(row) for row in new.tolist()}) == 3


def test_beams_of_a_batch_are_those_of_each_prompt_alone(model):
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    together = model.generate(**batch_of(*CLIPS), **options)[:, -5:]
    alone = [model.generate(**batch_of(clip), **options)[0, -5:].tolist() for clip in CLIPS]
    assert together.tolist() == alone


def test_a_cached_pass_gives_the_logits_of_a_whole_one(model):
    inputs = batch_of(*CLIPS[:2])
    more = random_ids(5, 2)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    with torch.inference_mode():
        whole = model(**{**inputs, "input_ids": torch.cat([inputs["input_ids"], more], 1), "attention_mask": mask})
        cache = model(**inputs, use_cache=True).past_key_values
        rest = model(input_ids=more, attention_mask=mask, past_key_values=cache)
    torch.testing.assert_close(rest.logits, whole.logits[:, -5:], atol=1e-5, rtol=0)


# ---------------------------------------------------------------- training


def labelled(side: str = "right") -> dict[str, torch.Tensor]:
    inputs = batch_of(*CLIPS, side=side)
    kept = (inputs["input_ids"] >= 50) & (inputs["input_ids"] < 53)
    return {**inputs, "labels": inputs["input_ids"].masked_fill(~kept, -100)}


def test_the_loss_is_the_mean_over_labels_that_follow(model):
    inputs = labelled()
    output = model(**inputs)
    terms = [
        -output.logits[row, place - 1].log_softmax(-1)[inputs["labels"][row, place]]
        for row, place in (inputs["labels"] != -100).nonzero()
    ]
    assert len(terms) == 9
    torch.testing.assert_close(output.loss, torch.stack(terms).mean())
    torch.testing.assert_close(model(**labelled("left")).loss, output.loss, atol=1e-5, rtol=0)


def test_logits_can_be_had_for_some_positions_only(model):
    inputs = labelled("left")
    with torch.inference_mode():
        whole = model(**inputs)
        last = model(**inputs, logits_to_keep=4)
        assert last.logits.shape[1] == 4
        torch.testing.assert_close(last.logits, whole.logits[:, -4:])
        torch.testing.assert_close(last.loss, whole.loss)  # all labels lie there
        before_labels = F.pad(inputs["labels"][:, 1:] != -100, (0, 1))
        kept = model(**inputs, logits_to_keep=before_labels)
        torch.testing.assert_close(kept.logits, whole.logits[before_labels])
        torch.testing.assert_close(kept.loss, whole.loss)


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**labelled(), use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_gradient_accumulation_is_left_to_the_trainer():
    """The loss is a mean: a Trainer that took it for a sum over all batches would multiply the gradient."""
    assert QwenAudioForConditionalGeneration.accepts_loss_kwargs is False


# ---------------------------------------------------------------- sizes and names


def published_keys(layers: int, blocks: int) -> set[str]:
    decoder = ["ln_1.weight", "ln_2.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight"]
    decoder += ["mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight"]
    biased = ["attn.query", "attn.value", "attn.out", "attn_ln", "mlp_ln", "mlp.0", "mlp.2"]
    encoder = ["attn.key.weight", *(f"{name}.{kind}" for name in biased for kind in ("weight", "bias"))]
    around = [f"{name}.{kind}" for name in ("conv1", "conv2", "ln_post", "proj") for kind in ("weight", "bias")]
    around += ["positional_embedding", "audio_bos_eos_token.weight"]
    return {
        *(f"transformer.h.{index}.{name}" for index in range(layers) for name in decoder),
        *(f"transformer.audio.blocks.{index}.{name}" for index in range(blocks) for name in encoder),
        *(f"transformer.audio.{name}" for name in around),
        *("transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"),
    }


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks under the old name
def test_the_published_model_has_the_published_names_and_sizes():
    peft = pytest.importorskip("peft")
    with torch.device("meta"):
        model = QwenAudioForConditionalGeneration(QwenAudioConfig())
    assert set(model.state_dict()) == published_keys(32, 32)
    assert size(model.transformer.audio) == 640_119_808
    assert size(model) == 8_394_302_464
    adapters = peft.LoraConfig(r=64, lora_alpha=16, target_modules=["c_attn", "c_proj", "w1", "w2"])
    adapted = peft.get_peft_model(model, adapters, low_cpu_mem_usage=True)
    targets = [name for name, module in adapted.named_modules() if isinstance(module, peft.tuners.lora.Linear)]
    assert len(targets) == 5 * 32 and not [name for name in targets if ".audio." in name]
    # ALLM4ADD's own count: the model, and adapters of rank 64.
    assert size(adapted) - size(model.transformer.audio) - 7_754_182_656 == 143_130_624
    assert size(adapted) == 8_537_433_088


# ---------------------------------------------------------------- saving and loading


def test_a_saved_model_is_the_same_and_lacks_nothing(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == {**model.config.to_dict(), "_name_or_path": str(tmp_path)}
    inputs = batch_of(*CLIPS)
    loaded, info = AutoModelForMultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is QwenAudioForConditionalGeneration
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
        bare = AutoModel.from_pretrained(tmp_path)
        assert type(bare) is QwenAudioModel
        assert torch.equal(bare(**inputs).last_hidden_state, model.transformer(**inputs).last_hidden_state)


def test_a_position_table_that_is_missing_is_computed(model, tmp_path):
    table = "transformer.audio.positional_embedding"
    state = {name: value for name, value in model.state_dict().items() if name != table}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, info = AutoModelForMultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {table}
    assert torch.equal(loaded.state_dict()[table], model.state_dict()[table])


LOAD_WITHOUT_SPOOFTRACE = """
import json, sys
sys.modules["spooftrace"] = None  # any import of it now fails
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor
clip = torch.sin(torch.arange(16000) * 0.05).numpy()
for folder in sys.argv[1:]:
    model, info = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor(text=processor.build_prompt("Real?"), audio=clip, sampling_rate=16000, return_tensors="pt")
    bare = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits[0, -1]
        assert torch.allclose(model.lm_head(bare(**inputs).last_hidden_state)[0, -1], logits, atol=1e-5)
    print("logits", *logits[:8].tolist())
"""


def test_saved_and_converted_folders_load_without_spooftrace(model, tmp_path):
    convert_qwen_audio(publish(model, tmp_path / "source"), tmp_path / "converted")
    processor = AutoProcessor.from_pretrained(tmp_path / "converted")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "saved")
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_SPOOFTRACE, str(tmp_path / "saved"), str(tmp_path / "converted")],
        cwd=tmp_path,
        env={"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    clip = torch.sin(torch.arange(16_000) * 0.05).numpy()
    inputs = processor(text=processor.build_prompt("Real?"), audio=clip, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits[0, -1, :8]
    answers = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("logits")]
    assert len(answers) == 2
    for logits in answers:
        torch.testing.assert_close(torch.tensor([*map(float, logits)]), expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": None}, "either `input_ids` or `inputs_embeds`"),
        ({"input_features": None}, None),
        ({"input_ids": None, "inputs_embeds": torch.zeros(1, 3, 32)}, "need `input_ids`"),
        (
            {"input_ids": torch.full((1, 3), AUDIO_TOKEN), "attention_mask": None},
            "3 audio tokens .* the clips need 25",
        ),
        ({"input_features": torch.zeros(1, 128, 400)}, r"\(clips, 80, frames\)"),
        ({"feature_attention_mask": torch.ones(1, 399)}, r"\(1, 400\)"),
        ({"feature_attention_mask": torch.tensor([[1, 1] + [0] * 398])}, "at least 3 mel frames"),
        (
            {"input_features": torch.zeros(1, 80, 402), "feature_attention_mask": None},
            "at most 400 mel frames, got 402",
        ),
        ({"input_features": torch.zeros(1, 80, 99), "feature_attention_mask": None}, "needs 100 mel frames"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, message, model):
    inputs = {**batch_of(tone(1.0)), **changes}
    if message is None:  # text alone is no error
        assert model(**inputs).logits.isfinite().all()
        return
    with pytest.raises(ValueError, match=message):
        model(**inputs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audio_config": {"output_dim": 16}}, "output_dim=16"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"audio_config": {"num_attention_heads": 5}}, "no multiple"),
        ({"audio_config": {"hidden_size": 3, "num_attention_heads": 1}}, "half"),
        ({"tie_word_embeddings": True}, "output head of its own"),
        ({"audio_token_id": 100_000}, "audio_token_id=100000"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**settings)


def test_the_default_configuration_is_the_published_model():
    config = QwenAudioConfig()
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers, config.head_dim) == (
        155_947,
        4096,
        32,
        128,
    )
    assert (config.intermediate_size, config.rms_norm_eps, config.seq_length) == (11_008, 1e-5, 2048)
    assert (config.audio_token_id, config.audio_bos_token_id, config.pad_token_id) == (151_851, 155_163, 151_643)
    audio = config.audio_config
    assert isinstance(audio, QwenAudioEncoderConfig)
    assert (audio.num_mel_bins, audio.max_source_positions, audio.hidden_size) == (80, 1500, 1280)
    assert (audio.num_attention_heads, audio.num_hidden_layers, audio.output_dim) == (20, 32, 4096)
