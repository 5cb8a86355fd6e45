"""The question to an audio language model as token ids around one audio slot, and the words that may answer it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from .audio_tokens import num_audio_tokens


# Looked up to suggest a remedy, in the order of preference.
_COMMON_WORDS = ("Real", "Fake", "real", "fake", "Yes", "No", "True", "False")


def find_label_tokens(tokenizer: PreTrainedTokenizerBase, label_words: Mapping[str, str]) -> dict[str, int]:
    """
    Label -> the id of the one token that its word is.

    Raises:
        `ValueError`: for a word of several tokens or of none, or one word for two labels.
    """
    ids = {}
    for label, word in label_words.items():
        tokens = tokenizer.encode(word, add_special_tokens=False)
        if len(tokens) != 1:
            fitting = [other for other in _COMMON_WORDS if len(tokenizer.encode(other, add_special_tokens=False)) == 1]
            raise ValueError(
                f"the word {word!r} for {label!r} must be one token, but is {tokenizer.convert_ids_to_tokens(tokens)}: its "
                f"score would depend on several answers. Words of one token are {', '.join(map(repr, fitting)) or 'rare'}."
            )
        ids[label] = tokens[0]
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"the labels need words of their own, got {dict(label_words)}.")
    return ids


def find_audio_token(processor: ProcessorMixin) -> tuple[str, int]:
    """
    The token that audio embeddings take the place of, and its id.

    Raises:
        `ValueError`: where the processor names none, or its tokenizer does not know it as one token.
    """
    token = getattr(processor, "audio_token", None)
    if token is None:
        raise ValueError(f"{type(processor).__name__} has no `audio_token`, so it is none of an audio language model.")
    ids = processor.tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == processor.tokenizer.unk_token_id:
        raise ValueError(
            f"the tokenizer lacks the audio token {token!r} (it reads {ids}): take the tokenizer that was published with the "
            "model, or add the token as a special one."
        )
    return token, ids[0]


def render_prompt(processor: ProcessorMixin, prompt: str, system_prompt: str | None = None) -> str:
    """
    The chat template's text for one clip and a question, up to where the answer begins.

    Raises:
        `ValueError`: where the result has no audio slot, or several, and for texts that would end their turn.
    """
    token, _ = find_audio_token(processor)
    messages = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": prompt}]}]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    if text.count(token) != 1:
        raise ValueError(
            f"the prompt needs one audio slot, {token!r}, but the chat template made {text.count(token)}: {text!r}."
        )
    for own in filter(None, (prompt, system_prompt)):
        if marks := [mark for mark in processor.tokenizer.get_added_vocab() if mark in own]:
            raise ValueError(
                f"{own!r} holds {', '.join(marks)}, which the model reads as the end or the beginning of something and not as "
                "text: leave it out; the chat template puts such marks around the question."
            )
    return text


def find_prompt_ids(
    processor: ProcessorMixin, prompt: str, system_prompt: str | None = None
) -> tuple[list[int], list[int]]:
    """
    Token ids in front of the audio embeddings and behind them, as the processor itself makes them.

    Raises:
        `ValueError`: where the prompt has no audio slot, or the slot does not take one token for every 40 ms.
    """
    _, audio_token_id = find_audio_token(processor)
    rate = processor.feature_extractor.sampling_rate
    inputs = processor(
        text=[render_prompt(processor, prompt, system_prompt)],
        audio=[np.zeros(rate, dtype=np.float32)],
        sampling_rate=rate,
        return_tensors="pt",
    )
    ids = inputs["input_ids"][0].tolist()
    slot = [index for index, token in enumerate(ids) if token == audio_token_id]
    expected = num_audio_tokens(rate // processor.feature_extractor.hop_length)
    if len(slot) != expected or slot[-1] - slot[0] + 1 != expected:
        raise ValueError(
            f"one second of audio should be {expected} neighbouring tokens with the id {audio_token_id}, but "
            f"{type(processor).__name__} made {len(slot)} of them in {ids}."
        )
    return ids[: slot[0]], ids[slot[-1] + 1 :]


def read_prompt(
    processor: ProcessorMixin, prompt: str, system_prompt: str | None, label_words: Mapping[str, str]
) -> dict[str, Any]:
    """
    The fields of a detector's configuration that a processor knows.

    Raises:
        `ValueError`: see [`find_audio_token`], [`find_prompt_ids`] and [`find_label_tokens`].
    """
    _, audio_token_id = find_audio_token(processor)
    before, after = find_prompt_ids(processor, prompt, system_prompt)
    return {
        "prompt": prompt,
        "system_prompt": system_prompt,
        "label_words": dict(label_words),
        "label_token_ids": find_label_tokens(processor.tokenizer, label_words),
        "prompt_ids_before": before,
        "prompt_ids_after": after,
        "audio_token_id": audio_token_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "sampling_rate": processor.feature_extractor.sampling_rate,
    }


def make_input_ids(
    before: Sequence[int],
    after: Sequence[int],
    audio_lengths: Sequence[int],
    audio_token_id: int,
    pad_token_id: int,
    answers: Sequence[Sequence[int]] | None = None,
    padding_side: str = "right",
) -> dict[str, torch.Tensor]:
    """
    A batch of prompts, each with as many audio tokens as its clip has embeddings, and with an answer where there is one.

    Args:
        before (`Sequence[int]`): Token ids in front of the audio.
        after (`Sequence[int]`): Token ids behind it.
        audio_lengths (`Sequence[int]`): Audio tokens of each clip.
        audio_token_id (`int`): The audio token.
        pad_token_id (`int`): Fills up shorter rows.
        answers (`Sequence[Sequence[int]]`, *optional*): Token ids of what the model should say about each clip.
        padding_side (`str`, *optional*, defaults to `"right"`): `"left"` or `"right"`; no matter to the scores.

    Returns:
        `dict` of `input_ids` and `attention_mask`, and with answers `target_ids`, which hold the answers' ids in their places
        and -100 elsewhere, all of shape `(batch_size, length)`.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"`padding_side` is 'left' or 'right', got {padding_side!r}.")
    answers = [()] * len(audio_lengths) if answers is None else answers
    rows = [
        ([*before, *[audio_token_id] * int(count), *after], [*answer])
        for count, answer in zip(audio_lengths, answers, strict=True)
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)

    def filled(tokens: list[int], filler: int) -> list[int]:
        padding = [filler] * (width - len(tokens))
        return padding + tokens if padding_side == "left" else tokens + padding

    batch = {
        "input_ids": [filled(prompt + answer, pad_token_id) for prompt, answer in rows],
        "attention_mask": [filled([1] * len(prompt + answer), 0) for prompt, answer in rows],
    }
    if any(answer for _, answer in rows):
        batch["target_ids"] = [filled([-100] * len(prompt) + answer, -100) for prompt, answer in rows]
    return {name: torch.tensor(values) for name, values in batch.items()}
