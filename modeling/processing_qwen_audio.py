"""Text and audio for Qwen-Audio v1: ChatML prompts whose audio slots grow to as many tokens as the encoder will give."""

import re

import numpy as np
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import TensorType

from .audio_tokens import MIN_FRAMES, num_audio_tokens
from .waveforms import as_batch, checked


SYSTEM_PROMPT = "You are a helpful assistant."

# Only a part's `type` is asked for: rows of a table carry every key, most of them null.
CHAT_TEMPLATE = """{%- set clips = namespace(count=0) -%}
{%- if messages[0]['role'] != 'system' -%}
{{ '<|im_start|>system\\nSYSTEM_PROMPT<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}
{%- set clips.count = clips.count + 1 -%}
{{ 'Audio ' ~ clips.count ~ ':AUDIO_SLOT\\n' }}
{%- elif part['type'] == 'text' -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""

# The published tokenizer encodes a turn's role, the newline after it and the body one by one; where a body begins with
# white space, encoding all at once would merge it with that newline.
_TURN = re.compile(r"(<\|im_start\|>\w+\n)")


class QwenAudioProcessor(ProcessorMixin):
    r"""
    A `WhisperFeatureExtractor` with 80 bands and the fast tokenizer that `spooftrace convert qwen-audio` makes.

    Args:
        feature_extractor (`WhisperFeatureExtractor`): Makes log-mel spectrograms.
        tokenizer (`PreTrainedTokenizerFast`): Has the three tokens below.
        chat_template (`str`, *optional*): A Jinja template; ChatML with `Audio 1:` before each clip by default.
        audio_token (`str`, *optional*, defaults to `"[[[AUDIO:modality]]]"`): The token that grows to a clip's length.
        audio_bos_token (`str`, *optional*, defaults to `"<audio>"`): The tag before it.
        audio_eos_token (`str`, *optional*, defaults to `"</audio>"`): The tag after it.

    Raises:
        `ValueError`: if the tokenizer lacks one of the tokens.
    """

    def __init__(
        self,
        feature_extractor=None,
        tokenizer=None,
        chat_template: str | None = None,
        audio_token: str = "[[[AUDIO:modality]]]",
        audio_bos_token: str = "<audio>",
        audio_eos_token: str = "</audio>",
    ):
        self.audio_token, self.audio_bos_token, self.audio_eos_token = audio_token, audio_bos_token, audio_eos_token
        known = tokenizer.get_vocab()
        missing = [token for token in (audio_token, audio_bos_token, audio_eos_token) if token not in known]
        if missing:
            raise ValueError(
                f"The tokenizer has no token {', '.join(missing)}: take the one that `spooftrace convert qwen-audio` makes."
            )
        self.audio_token_id = known[audio_token]
        if chat_template is None:
            chat_template = CHAT_TEMPLATE.replace("SYSTEM_PROMPT", SYSTEM_PROMPT).replace(
                "AUDIO_SLOT", self.audio_slot
            )
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @property
    def audio_slot(self) -> str:
        """What stands for one clip in a prompt."""
        return f"{self.audio_bos_token}{self.audio_token}{self.audio_eos_token}"

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "input_features", "feature_attention_mask"]

    def build_prompt(self, question: str, answer: str | None = None) -> str:
        """
        The prompt about one clip; with `answer`, the whole conversation, of which the prompt is a prefix.

        Args:
            question (`str`): For example `"Is this audio real or fake?"`.
            answer (`str`, *optional*): What the assistant says, for training.
        """
        content = [{"type": "audio"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return self.apply_chat_template(messages, add_generation_prompt=answer is None, tokenize=False)

    def __call__(
        self,
        text: str | list[str],
        audio: np.ndarray | list[np.ndarray] | None = None,
        sampling_rate: int | None = None,
        padding: bool | str = False,
        padding_side: str | None = None,
        max_length: int | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            text (`str` or `list[str]`): Prompts with one audio slot for each clip, in reading order.
            audio: The clips, mono waveforms in [-1, 1]; one or a list.
            sampling_rate (`int`): Sampling rate of the clips, in hertz.
            padding (`bool` or `str`, *optional*, defaults to `False`): Of the text, as a tokenizer takes it.
            padding_side (`str`, *optional*): `"left"` or `"right"`; the tokenizer's by default.
            max_length (`int`, *optional*): For `padding="max_length"`, in tokens. Nothing is ever truncated.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(batch_size, length)` and, with audio,
            `input_features` of shape `(num_clips, 80, frames)`, one frame for 160 samples, and `feature_attention_mask` of
            shape `(num_clips, frames)`, 1 for the frames of a clip. `frames` is what the longest clip needs.

        Raises:
            `ValueError`: if clips and slots differ in number, the sampling rate is missing or wrong, or a clip is empty,
            longer than the encoder hears, too short for one token, not mono or not finite.
        """
        unknown = sorted(name for name, value in kwargs.items() if value is not None and name != "add_special_tokens")
        if unknown:
            raise ValueError(f"The processor takes text and audio, not {', '.join(unknown)}.")
        texts = [text] if isinstance(text, str) else list(text)
        clips = [] if audio is None else [checked(clip, index) for index, clip in enumerate(as_batch(audio))]
        slots = sum(prompt.count(self.audio_token) for prompt in texts)
        if slots != len(clips):
            raise ValueError(
                f"The text has {slots} audio slots and there are {len(clips)} clips: put {self.audio_slot!r} once for each."
            )
        features = self._extract(clips, sampling_rate) if clips else {}
        encoded = self.tokenizer.pad(
            {"input_ids": self._encode(texts, clips)},
            padding=padding,
            padding_side=padding_side,
            max_length=max_length,
            return_attention_mask=True,
        )
        return BatchFeature({**encoded, **features}, tensor_type=return_tensors)

    def _encode(self, texts: list[str], clips: list[np.ndarray]) -> list[list[int]]:
        """Token ids of each prompt, its audio slots as long as their clips."""
        lengths = iter([num_audio_tokens(len(clip) // self.feature_extractor.hop_length) for clip in clips])
        encoded = []
        for text in texts:
            pieces = [piece for piece in _TURN.split(text) if piece]
            ids = self.tokenizer(pieces, add_special_tokens=False)["input_ids"] if pieces else []
            grown = []
            for token in (token for piece in ids for token in piece):
                grown += [token] * (next(lengths) if token == self.audio_token_id else 1)
            encoded.append(grown)
        return encoded

    def _extract(self, clips: list[np.ndarray], sampling_rate: int | None) -> dict[str, np.ndarray]:
        """
        Log-mel frames of the clips and their masks.

        Each clip is padded to the encoder's 30 s first, since the frame at its end looks beyond it; then all are cut to the
        even number of frames that the longest needs.
        """
        extractor = self.feature_extractor
        if sampling_rate is None:
            raise ValueError(f"Say the clips' sampling rate: `sampling_rate={extractor.sampling_rate}`.")
        for index, clip in enumerate(clips):
            seconds = len(clip) / extractor.sampling_rate
            if len(clip) > extractor.n_samples:
                raise ValueError(
                    f"Clip {index} lasts {seconds:.1f} s and the encoder hears {extractor.chunk_length} s: cut it into windows."
                )
            if len(clip) < MIN_FRAMES * extractor.hop_length:
                raise ValueError(f"Clip {index} lasts {seconds:.3f} s, too short for one audio token (0.03 s).")
        mel = extractor(clips, sampling_rate=sampling_rate, padding="max_length", return_tensors="np").input_features
        frames = np.array([len(clip) // extractor.hop_length for clip in clips])
        longest = frames.max() + frames.max() % 2
        mask = np.arange(longest) < frames[:, None]
        return {"input_features": mel[..., :longest], "feature_attention_mask": mask.astype(np.int64)}


__all__ = ["SYSTEM_PROMPT", "QwenAudioProcessor"]
