"""Converting the public Qwen-Audio keeps every number, accounts for every key, and never runs code."""

import json
import unicodedata
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_qwen_audio import (
    AUDIO_BOS,
    AUDIO_SPECIALS,
    AUDIO_TOKEN,
    PAD,
    publish,
    ranks,
    tiny_model,
    tone,
    write_vocabulary,
)
from transformers import AutoModelForMultimodalLM, AutoProcessor

from spooftrace.cli import main
from spooftrace.modeling import convert_qwen_audio as converter
from spooftrace.modeling.convert_aasist import ConversionError
from spooftrace.modeling.convert_qwen_audio import convert_qwen_audio, convert_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def source(model, tmp_path):
    return publish(model, tmp_path / "Qwen-Audio-Chat")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return convert_tokenizer(write_vocabulary(tmp_path_factory.mktemp("vocabulary")), AUDIO_BOS)


def edit(path, **changes):
    """Changes a JSON file; a key of `audio` with the prefix `audio_`, `None` removes."""
    config = json.loads(path.read_text())
    for name, value in changes.items():
        where = config["audio"] if name.removeprefix("audio_") in config["audio"] else config
        name = name if name in where else name.removeprefix("audio_")
        where.pop(name) if value is None else where.update({name: value})
    path.write_text(json.dumps(config))


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(("kind", "num_shards"), [("bin", 3), ("safetensors", 2), ("bin", 1), ("safetensors", 1)])
def test_every_number_is_kept_whatever_the_layout(kind, num_shards, model, tmp_path):
    source = publish(model, tmp_path / "source", kind, num_shards)
    report = convert_qwen_audio(source, tmp_path / "out")
    loaded, info = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.state_dict().keys() == model.state_dict().keys() == report.mapped.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.config.to_diff_dict().items() >= {"hidden_size": 32, "intermediate_size": 48}.items()
    assert not list((tmp_path / "out").glob("*.bin"))


def test_the_converted_folder_answers_as_the_model_does(model, source, tmp_path):
    convert_qwen_audio(source, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out").eval()
    prompt = processor.build_prompt("Is this audio real or fake?")
    inputs = processor(text=prompt, audio=tone(1.0).numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert loaded.generation_config.eos_token_id == [PAD + 2, PAD]
    assert processor.feature_extractor.chunk_length == 4


def test_the_type_can_be_chosen_and_is_kept_otherwise(model, source, tmp_path):
    convert_qwen_audio(source, tmp_path / "half", dtype=torch.bfloat16)
    for path in (tmp_path / "half").glob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    convert_qwen_audio(source, tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["dtype"] == "float32"


def test_only_one_shard_is_in_memory(source, tmp_path, monkeypatch):
    read, alive = converter.read_checkpoint, []

    def watched(path):
        assert not [name for name, tensor in alive if tensor() is not None]
        state = read(path)
        alive.extend((name, weakref.ref(value)) for name, value in state.items())
        return state

    monkeypatch.setattr(converter, "read_checkpoint", watched)
    convert_qwen_audio(source, tmp_path / "out")
    assert len(alive) == len(json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"])


def rewritten(source, change):
    path = min(source.glob("*.bin"))
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def first_of_another_shard(source):
    return next(iter(torch.load(sorted(source.glob("*.bin"))[1], weights_only=True).items()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, other: state.update({"transformer.visual.proj": torch.ones(1)}), r"unknown.*visual\.proj"),
        (lambda state, other: state.pop("transformer.wte.weight"), r"missing: transformer\.wte\.weight"),
        (lambda state, other: state.update([other]), "earlier file again"),
        (lambda state, other: state.update({"transformer.wte.weight": torch.ones(2, 32)}), r"\(2, 32\) instead of"),
        (
            lambda state, other: state.update({"transformer.wte.weight": state["transformer.wte.weight"].half()}),
            "--dtype",
        ),
    ],
)
def test_every_key_is_accounted_for(change, message, source, tmp_path):
    other = first_of_another_shard(source)
    rewritten(source, lambda state: change(state, other))
    with pytest.raises(ConversionError, match=message):
        convert_qwen_audio(source, tmp_path / "out")
    assert not (tmp_path / "out").exists() and [path.name for path in tmp_path.iterdir()] == [source.name]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_booby_trapped_shards_run_nothing(source, tmp_path):
    torch.save({"transformer.wte.weight": Bomb(tmp_path / "boom")}, min(source.glob("*.bin")))
    with pytest.raises(ConversionError, match="runs code"):
        convert_qwen_audio(source, tmp_path / "out")
    assert not (tmp_path / "boom").exists()


# ---------------------------------------------------------------- the folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"audio": None}, "no settings under 'audio'"),
        ({"audio_audio_start_id": None}, "audio_start_id"),
        ({"kv_channels": None}, "lacks kv_channels"),
        ({"audio_n_state": None}, "lacks n_state"),
        ({"no_bias": False}, "no_bias=False"),
        ({"audio_avg_pool": False}, "avg_pool=False"),
        ({"audio_audio_start_id": 300}, "another model's"),
        ({"num_hidden_layers": 1}, r"unknown tensors: transformer\.h\.1"),
        ({"num_hidden_layers": 3}, r"missing: transformer\.h\.2"),
    ],
)
def test_another_configuration_is_refused(changes, message, source, tmp_path):
    edit(source / "config.json", **changes)
    with pytest.raises(ConversionError, match=message):
        convert_qwen_audio(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "config.json"),
        ("qwen.tiktoken", "vocabulary"),
        ("pytorch_model-00002-of-00003.bin", "not there"),
    ],
)
def test_missing_files_are_named(name, message, source, tmp_path):
    (source / name).unlink()
    with pytest.raises(ConversionError, match=message):
        convert_qwen_audio(source, tmp_path / "out")


def test_an_index_names_no_file_elsewhere(source, tmp_path):
    index = source / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"transformer.wte.weight": "../secret.bin"}}))
    torch.save({}, tmp_path / "secret.bin")
    with pytest.raises(ConversionError, match="not there"):
        convert_qwen_audio(source, tmp_path / "out")
    index.unlink()
    with pytest.raises(ConversionError, match="no weights"):
        convert_qwen_audio(source, tmp_path / "out")
    with pytest.raises(ConversionError, match="hf download"):
        convert_qwen_audio(tmp_path / "nowhere", tmp_path / "out")


# ---------------------------------------------------------------- the tokenizer


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == unicodedata.normalize("NFC", text)


def test_words_and_digits_are_cut_up_as_published(tokenizer):
    known = ranks()
    assert tokenizer("Real").input_ids == [known[b"Real"]] and tokenizer("Fake").input_ids == [known[b"Fake"]]
    assert tokenizer("2026").input_ids == [known[digit] for digit in (b"2", b"0", b"2", b"6")]
    assert tokenizer(" this audio").input_ids == [known[b" this"], known[b" audio"]]
    assert tokenizer("e\u0301").input_ids == tokenizer("\u00e9").input_ids  # NFC


def test_special_tokens_have_the_published_order(tokenizer):
    text = "<|endoftext|><|im_start|><|im_end|><|extra_0|><|extra_204|>[[[AUDIO:modality]]]<audio></audio>"
    ids = [PAD, PAD + 1, PAD + 2, PAD + 3, PAD + 207, AUDIO_TOKEN, AUDIO_BOS, AUDIO_BOS + 1]
    assert tokenizer(text).input_ids == ids and tokenizer.pad_token_id == PAD
    assert len(tokenizer) == AUDIO_BOS + 2 == AUDIO_TOKEN + AUDIO_SPECIALS


def test_names_of_other_special_tokens_can_be_given(tmp_path):
    path, names = write_vocabulary(tmp_path), tmp_path / "names.txt"
    names.write_text("<|de|>\n<|en|>\n<|fr|>\n<|ja|>\n<|zh|>\n")
    assert convert_tokenizer(path, AUDIO_BOS, names)("<|en|>").input_ids == [AUDIO_TOKEN + 2]
    for wrong in ("<|de|>\n", "<|de|>\n" * 5, "<|im_end|>\n<|en|>\n<|fr|>\n<|ja|>\n<|zh|>\n"):
        names.write_text(wrong)
        with pytest.raises(ConversionError, match="5 different tokens"):
            convert_tokenizer(path, AUDIO_BOS, names)


@pytest.mark.parametrize("content", [b"IQ== 0\nIg==\n", b"IQ== 0\nIg== 2\n", b"!! 0\n", b"IQ== zero\n"])
def test_damaged_vocabularies_are_refused(content, tmp_path):
    (tmp_path / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(ConversionError, match="qwen.tiktoken"):
        convert_tokenizer(tmp_path / "qwen.tiktoken", 1000)


# ---------------------------------------------------------------- the command


def test_convert_command_writes_a_folder_that_loads(model, source, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert main(["convert", "qwen-audio", str(source), str(out), "--dtype", "float16"]) == 0
    printed = capsys.readouterr().out
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in printed
    assert "--special-tokens" in printed
    assert next(AutoModelForMultimodalLM.from_pretrained(out).parameters()).dtype == torch.float16
    assert json.loads((out / "conversion_report.json").read_text())["source"] == source.name


def test_convert_command_never_overwrites_unasked(source, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    command = ["convert", "qwen-audio", str(source), str(out)]
    assert main(command) == 1
    assert "not empty" in capsys.readouterr().err and (out / "thesis.txt").read_text() == "precious"
    assert main([*command, "--overwrite"]) == 0
    assert not (out / "thesis.txt").exists() and (out / "model.safetensors.index.json").exists()
