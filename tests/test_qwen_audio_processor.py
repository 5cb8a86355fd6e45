"""Prompts and clips become the inputs that Qwen-Audio v1 was trained on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_qwen_audio import AUDIO_BOS, AUDIO_TOKEN, PAD, tone, write_vocabulary
from transformers import AutoProcessor, PreTrainedTokenizerFast, WhisperFeatureExtractor

from spooftrace.modeling import QwenAudioProcessor
from spooftrace.modeling.audio_tokens import encoder_positions, num_audio_tokens
from spooftrace.modeling.convert_qwen_audio import convert_tokenizer


QUESTION = "Is this audio real or fake?"


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> QwenAudioProcessor:
    tokenizer = convert_tokenizer(write_vocabulary(tmp_path_factory.mktemp("vocabulary")), AUDIO_BOS)
    return QwenAudioProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer)


def process(processor, text, *clips, **options):
    options = {"sampling_rate": 16_000, "return_tensors": "pt", **options}
    return processor(text=text, audio=[clip.numpy() for clip in clips] or None, **options)


# ---------------------------------------------------------------- prompts


def test_the_prompt_is_the_published_one(processor):
    prompt = processor.build_prompt(QUESTION)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nAudio 1:<audio>[[[AUDIO:modality]]]</audio>\nIs this audio real or fake?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    whole = processor.build_prompt(QUESTION, "Real.")
    assert whole == f"{prompt}Real.<|im_end|>\n"


def test_the_ids_are_those_of_the_parts_one_after_the_other(processor):
    encode = lambda text: processor.tokenizer(text).input_ids  # noqa: E731
    start, end, newline = [PAD + 1], [PAD + 2], encode("\n")
    expected = [
        *(start + encode("system") + newline + encode("You are a helpful assistant.") + end + newline),
        *(start + encode("user") + newline + encode("Audio 1:") + [AUDIO_BOS] + [AUDIO_TOKEN] * 100),
        *([AUDIO_BOS + 1] + newline + encode(QUESTION) + end + newline + start + encode("assistant") + newline),
    ]
    inputs = process(processor, processor.build_prompt(QUESTION), tone(4.0))
    assert inputs.input_ids.tolist() == [expected] and inputs.attention_mask.all()


def test_a_body_that_begins_with_a_newline_is_encoded_apart_from_the_role(processor):
    two_newlines = processor.tokenizer("\n\n").input_ids
    assert len(two_newlines) == 1  # what encoding all at once would make of them
    ids = processor(text="<|im_start|>user\n\nHi<|im_end|>")["input_ids"][0]
    newline = processor.tokenizer("\n").input_ids
    assert ids[2:4] == newline * 2 and two_newlines[0] not in ids


def test_nulls_that_tables_add_to_messages_are_no_audio(processor):
    content = [{"type": "audio", "text": None}, {"type": "text", "audio": None, "text": QUESTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt == processor.build_prompt(QUESTION)


def test_the_chat_template_takes_clips_along(processor):
    content = [{"type": "audio", "audio": tone(1.0).numpy()}, {"type": "text", "text": QUESTION}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    expected = process(processor, processor.build_prompt(QUESTION), tone(1.0))
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_clips_are_numbered_and_a_system_prompt_can_be_given(processor):
    content = [{"type": "audio"}, {"type": "audio"}, {"type": "text", "text": "Same?"}]
    messages = [{"role": "system", "content": "Listen."}, {"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages)
    assert prompt.startswith("<|im_start|>system\nListen.<|im_end|>\n<|im_start|>user\nAudio 1:<audio>")
    assert "</audio>\nAudio 2:<audio>" in prompt
    inputs = process(processor, prompt, tone(1.0), tone(2.0))
    assert (inputs.input_ids == AUDIO_TOKEN).sum() == 25 + 50


# ---------------------------------------------------------------- audio


def test_published_lengths():
    """Four seconds are 100 tokens between the tags, 30 s are 750."""
    assert [num_audio_tokens(round(100 * seconds)) for seconds in (4, 30, 1, 2.37, 0.53)] == [100, 750, 25, 59, 13]


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 3000))
def test_positions_and_tokens_are_what_convolution_and_pooling_leave(frames):
    convolved = torch.nn.functional.conv1d(torch.zeros(1, 1, frames), torch.zeros(1, 1, 3), stride=2, padding=1)
    assert encoder_positions(frames) == convolved.shape[2]
    assert num_audio_tokens(frames) == torch.nn.functional.avg_pool1d(convolved, 2).shape[2] >= 1


@pytest.mark.parametrize("samples", [480, 16_001, 37_920, 64_600])
def test_frames_are_those_of_the_clip_padded_to_30_s(processor, samples):
    clip = tone(5.0)[:samples]
    inputs = process(processor, processor.build_prompt(QUESTION), clip)
    padded = processor.feature_extractor(clip.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
    frames = samples // 160
    assert inputs.feature_attention_mask.sum() == frames
    assert inputs.input_features.shape[2] == frames + frames % 2
    assert torch.equal(inputs.input_features, padded[..., : frames + frames % 2])


def test_a_clip_has_the_same_frames_in_any_batch(processor):
    prompt = processor.build_prompt(QUESTION)
    batch = process(processor, [prompt] * 2, tone(2.0), tone(0.53), padding=True)
    alone = process(processor, prompt, tone(0.53))
    frames = int(alone.feature_attention_mask.sum())
    assert torch.equal(batch.input_features[1, :, : frames + 1], alone.input_features[0])
    assert batch.feature_attention_mask.sum(1).tolist() == [200, frames]


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_is_padded_on_either_side(processor, side):
    prompt = processor.build_prompt(QUESTION)
    batch = process(processor, [prompt] * 2, tone(2.0), tone(0.53), padding=True, padding_side=side)
    alone = process(processor, prompt, tone(0.53)).input_ids[0]
    assert batch.input_ids[1][batch.attention_mask[1].bool()].tolist() == alone.tolist()
    padding = batch.input_ids[1][~batch.attention_mask[1].bool()]
    assert (padding == PAD).all() and len(padding) == 50 - 13
    assert batch.attention_mask[1, -1 if side == "right" else 0] == 0
    fixed = process(processor, prompt, tone(0.53), padding="max_length", max_length=200, padding_side=side)
    assert fixed.input_ids.shape == (1, 200)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("clips", "options", "message"),
    [
        ([], {}, "1 audio slots and there are 0 clips"),
        ([torch.zeros(16_000)] * 2, {}, "1 audio slots and there are 2 clips"),
        ([torch.zeros(16_000)], {"sampling_rate": None}, "sampling_rate=16000"),
        ([torch.zeros(16_000)], {"sampling_rate": 8_000}, "8000"),
        ([torch.zeros(480_001)], {}, "30.0 s and the encoder hears 30 s: cut it into windows"),
        ([torch.zeros(479)], {}, "too short"),
        ([torch.zeros(0)], {}, "empty"),
        ([torch.full((16_000,), np.nan)], {}, "not finite"),
        ([torch.zeros(2, 16_000)], {}, "mono"),
        ([torch.zeros(16_000)], {"images": [np.zeros((4, 4))]}, "not images"),
    ],
)
def test_what_cannot_be_heard_is_refused(processor, clips, options, message):
    with pytest.raises(ValueError, match=message):
        process(processor, processor.build_prompt(QUESTION), *clips, **options)


def test_a_prompt_without_a_slot_is_refused(processor):
    with pytest.raises(ValueError, match="0 audio slots and there are 1 clips"):
        process(processor, QUESTION, tone(1.0))


def test_a_tokenizer_without_audio_tokens_is_refused(processor):
    backend = PreTrainedTokenizerFast(
        tokenizer_object=processor.tokenizer.backend_tokenizer, pad_token="<|endoftext|>"
    )
    assert QwenAudioProcessor(processor.feature_extractor, backend).audio_token_id == AUDIO_TOKEN
    with pytest.raises(ValueError, match=r"no token <\|AUDIO\|>"):
        QwenAudioProcessor(processor.feature_extractor, backend, audio_token="<|AUDIO|>")


# ---------------------------------------------------------------- saving


def test_a_saved_processor_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is QwenAudioProcessor and (tmp_path / "processing_qwen_audio.py").is_file()
    assert loaded.chat_template == processor.chat_template
    prompts = [loaded.build_prompt(QUESTION), loaded.build_prompt("Genuine?", "Real.")]
    ours, theirs = (process(each, prompts, tone(1.0), tone(0.5), padding=True) for each in (processor, loaded))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert loaded.batch_decode(theirs.input_ids[:, :4]) == processor.batch_decode(ours.input_ids[:, :4])
