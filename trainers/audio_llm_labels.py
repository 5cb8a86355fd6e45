"""What an audio language model is to answer about a clip, and which tokens of the conversation it is taught."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import AutoProcessor, PreTrainedConfig, ProcessorMixin

from spooftrace.modeling.audio_llm_prompts import render_prompt
from spooftrace.modeling.configuration_audio_llm import LABELS


LabelMask = Literal["answer", "reference"]

IGNORED = -100
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
FULL_STOP = "."


@dataclass(frozen=True)
class Answers:
    """
    Token ids of the answers to a detector's question, by the labels' numbers.

    Args:
        words: the answer up to the end of its turn, such as those of `Real`, `.` and `<|im_end|>`.
        rest: what the chat template puts behind, such as a newline.
        turn_start, turn_end: the tokens around a turn in ChatML; `None` in templates of another kind.
    """

    words: tuple[tuple[int, ...], ...]
    rest: tuple[int, ...] = ()
    turn_start: int | None = None
    turn_end: int | None = None

    def tokens(self, label: int, mask: LabelMask) -> list[int]:
        """What follows the prompt in training; nothing that would not be learned."""
        return [*self.words[label], *(self.rest if mask == "reference" else ())]

    def targets(self, input_ids: Sequence[int], answer_start: int, mask: LabelMask) -> list[int]:
        """
        The tokens of a conversation that are learned, -100 elsewhere; the model predicts each at the place before its own.

        Args:
            input_ids: of the prompt, the clip's audio tokens in it, and the answer.
            answer_start: where the answer begins.
            mask: `"answer"` keeps the answer with its full stop and the end of its turn. `"reference"` also keeps what the
                public code of ALLM4ADD does: the beginning and the end of every turn, and the newline behind.
        """
        kept = [place >= answer_start for place in range(len(input_ids))]
        if mask == "reference":
            ends = (False, *(token == self.turn_end for token in input_ids))
            marks = [token in (self.turn_start, self.turn_end) for token in input_ids]
            kept = [any(reasons) for reasons in zip(kept, marks, ends[:-1], strict=True)]
        return [token if keep else IGNORED for token, keep in zip(input_ids, kept, strict=True)]

    def check(self, config: PreTrainedConfig, mask: LabelMask) -> None:
        """
        Raises:
            ValueError: for answers that do not begin with the detector's label words, and for a prompt without the turns
                that the reference's labels are of.
        """
        begins = [words[0] for words in self.words]
        if begins != config.label_ids:
            raise ValueError(f"the answers begin with the tokens {begins}, the label words are {config.label_ids}.")
        prompt = [*config.prompt_ids_before, *config.prompt_ids_after]
        if mask == "reference" and not {self.turn_start, self.turn_end} <= set(prompt):
            raise ValueError(
                f"`label_mask='reference'` keeps the tokens {TURN_START} and {TURN_END} of ChatML, which this model's prompt "
                "lacks: set it to 'answer'."
            )


def read_answers(processor: ProcessorMixin, config: PreTrainedConfig) -> Answers:
    """
    The answers as a model's own chat template writes them.

    Args:
        processor: of the base model.
        config (`AudioLLMDetectorConfig`): of the detector, with its question and label words.

    Raises:
        ValueError: where the prompt does not stay as it is when an answer follows, or a word merges with its full stop.
    """
    encode = processor.tokenizer.encode
    words, rest = [], ()
    for label in LABELS:
        text = _answer_text(processor, config, config.label_words[label] + FULL_STOP)
        tokens = encode(text, add_special_tokens=False)
        words.append(tuple(encode(text.rstrip(), add_special_tokens=False)))
        rest = tuple(tokens[len(words[-1]) :])
        if tokens[: len(words[-1])] != list(words[-1]) or words[-1][0] != config.label_token_ids[label]:
            raise ValueError(f"the tokenizer merges {config.label_words[label]!r} with what follows it in {text!r}.")
    known = processor.tokenizer.get_vocab()
    return Answers(tuple(words), rest, known.get(TURN_START), known.get(TURN_END))


def _answer_text(processor: ProcessorMixin, config: PreTrainedConfig, answer: str) -> str:
    """What stands behind the prompt when the model has answered."""
    prompt = render_prompt(processor, config.prompt, config.system_prompt)
    text = processor.apply_chat_template(_conversation(config, answer), add_generation_prompt=False, tokenize=False)
    if not text.startswith(prompt):
        raise ValueError(f"the chat template changes the prompt {prompt!r} where an answer follows: {text!r}.")
    return text.removeprefix(prompt)


def _conversation(config: PreTrainedConfig, answer: str) -> list[Mapping]:
    def turn(role: str, *parts: Mapping) -> Mapping:
        return {"role": role, "content": list(parts)}

    def said(text: str) -> Mapping:
        return {"type": "text", "text": text}

    system = [] if config.system_prompt is None else [turn("system", said(config.system_prompt))]
    return [*system, turn("user", {"type": "audio"}, said(config.prompt)), turn("assistant", said(answer))]


def base_processor(config: PreTrainedConfig) -> ProcessorMixin:
    """
    The processor that was published with a detector's base model.

    Raises:
        ValueError: for a detector that names none.
        OSError: where it cannot be had.
    """
    if config.base_model_name_or_path is None:
        raise ValueError(
            "the detector names no base model whose chat template could write the answers: pass `answers=`."
        )
    return AutoProcessor.from_pretrained(config.base_model_name_or_path, revision=config.base_revision or "main")
