"""Tiny audio language models with random weights, tokenizer, chat template and processor, built in folders of their own.

A base of each kind takes a tenth of a second to write: two layers, two heads, and positions for 30 s as in the published
ones. Weights are drawn ten times as wide as usual, so that what a clip sounds like moves the scores.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AudioFlamingo3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from spooftrace.modeling import QwenAudioConfig, QwenAudioForConditionalGeneration, QwenAudioProcessor


AUDIO_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
QWEN_AUDIO_TOKENS = ("[[[AUDIO:modality]]]", "<audio>", "</audio>")
SECONDS = 30
MEL_BINS = 16

_TEXT = """Is this audio real or fake? Is this speech genuine or spoofed? You are a helpful assistant. Audio 1: user system
assistant Real. Fake. Real. Fake. Real. Fake. Yes. No. Yes. No."""

_CHAT_TEMPLATE = """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% for part in message['content'] %}{% if part['type'] == 'audio' %}Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>
{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def tiny_tokenizer(specials: tuple[str, ...] = AUDIO_TOKENS) -> PreTrainedTokenizerFast:
    """Byte-level pairs learned from the prompt's words: "Real" and "Fake" are one token each, "Bonafide" is several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXT.split(), trainer)
    chat = ["<|im_start|>", "<|im_end|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        additional_special_tokens=[*chat, *specials],
    )


def tiny_processor(kind: str = "qwen2_audio") -> ProcessorMixin:
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=SECONDS)
    if kind == "qwen_audio":
        return QwenAudioProcessor(extractor, tiny_tokenizer(QWEN_AUDIO_TOKENS))
    return Qwen2AudioProcessor(extractor, tiny_tokenizer(), chat_template=_CHAT_TEMPLATE)


def _text_sizes(vocab_size: int) -> dict:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {**sizes, **heads, "vocab_size": vocab_size, "max_position_embeddings": 2048, "initializer_range": 0.2}


def _audio_sizes() -> dict:
    sizes = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    return {**sizes, "num_mel_bins": MEL_BINS, "max_source_positions": 50 * SECONDS, "initializer_range": 0.2}


def tiny_qwen2_audio(processor: Qwen2AudioProcessor) -> Qwen2AudioForConditionalGeneration:
    config = Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **_audio_sizes()},
        text_config={"model_type": "qwen2", **_text_sizes(len(processor.tokenizer))},
        audio_token_index=processor.audio_token_id,
        initializer_range=0.2,
    )
    return Qwen2AudioForConditionalGeneration(config)


def tiny_omni_thinker(processor: Qwen2AudioProcessor) -> Qwen2_5OmniThinkerForConditionalGeneration:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**_audio_sizes(), "output_dim": 32, "n_window": 50},
        vision_config={**vision, "fullatt_block_indexes": [0]},
        text_config={**_text_sizes(len(processor.tokenizer)), "rope_parameters": rope},
        audio_token_index=processor.audio_token_id,
        audio_start_token_id=processor.tokenizer.convert_tokens_to_ids("<|audio_bos|>"),
        vision_start_token_id=len(processor.tokenizer),  # in published configurations; no prompt has it
        initializer_range=0.2,
    )
    return Qwen2_5OmniThinkerForConditionalGeneration(config)


def tiny_audio_flamingo(processor: ProcessorMixin) -> AudioFlamingo3Config:
    return AudioFlamingo3Config(
        audio_config={"model_type": "audioflamingo3_encoder", **_audio_sizes()},
        text_config={"model_type": "qwen2", **_text_sizes(len(processor.tokenizer))},
        audio_token_id=processor.audio_token_id,
    )


def tiny_qwen_audio(processor: QwenAudioProcessor) -> QwenAudioForConditionalGeneration:
    audio = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "output_dim": 32}
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    tag, end_tag = processor.tokenizer.convert_tokens_to_ids([processor.audio_bos_token, processor.audio_eos_token])
    config = QwenAudioConfig(
        audio_config={
            **audio,
            "num_mel_bins": MEL_BINS,
            "max_source_positions": 50 * SECONDS,
            "initializer_range": 0.2,
        },
        vocab_size=len(processor.tokenizer),
        audio_token_id=processor.audio_token_id,
        audio_bos_token_id=tag,
        audio_eos_token_id=end_tag,
        pad_token_id=processor.tokenizer.pad_token_id,
        eos_token_id=processor.tokenizer.convert_tokens_to_ids("<|im_end|>"),
        initializer_range=0.2,
        **text,
    )
    return QwenAudioForConditionalGeneration(config)


KINDS = {
    "qwen_audio": tiny_qwen_audio,
    "qwen2_audio": tiny_qwen2_audio,
    "qwen2_5_omni_thinker": tiny_omni_thinker,
}


def write_base(folder: Path, kind: str = "qwen2_audio", seed: int = 0) -> PreTrainedModel:
    """Writes a base model with its processor as a published repository has them, and returns the model."""
    torch.manual_seed(seed)
    processor = tiny_processor(kind)
    model = KINDS[kind](processor).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def clips(*seconds: float, seed: int = 0) -> list:
    """Noise of these lengths that rises and falls, as arrays of 16 kHz samples."""
    generator = torch.Generator().manual_seed(seed)
    waves = []
    for length in seconds:
        noise = torch.randn(round(16_000 * length), generator=generator)
        envelope = torch.sin(torch.arange(len(noise)) / 2_000 * (1 + len(waves))) ** 2
        waves.append((0.3 * noise * envelope).numpy())
    return waves
