"""What recipes of audio language models name: the model, its feature extractor, and tiny ones for a rehearsal."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, Qwen2AudioConfig, set_seed
from transformers.utils import is_bitsandbytes_available

from spooftrace.modeling import (
    AudioLLMDetectorConfig,
    AudioLLMFeatureExtractor,
    AudioLLMForAudioClassification,
    QwenAudioConfig,
)
from spooftrace.modeling.audio_llm_adapters import read_backbone_config
from spooftrace.modeling.audio_llm_backbones import find_backbone
from spooftrace.modeling.feature_extraction_audio_llm import WHOLE_FRAMES
from spooftrace.trainers.audio_llm_labels import Answers
from spooftrace.trainers.recipe_schema import RecipeError


Dtype = Literal["auto", "bfloat16", "float16", "float32"]

FIELDS = ("prompt", "system_prompt", "label_words", "train_encoder")
"""Of the detector's configuration; the rest comes from the base model."""

PARTS = {
    "base_model": str | None,
    "base_revision": str,
    "dtype": Dtype,
    "attn_implementation": str,
    "load_in_4bit": bool,
}
"""Where the base model comes from, and how it is held in memory."""

# Published models whose architecture need not be fetched to count parameters. Qwen-Audio's is the default of its
# configuration; Qwen2-Audio's differs from that of transformers' class in these two numbers.
QWEN_AUDIO = ("Qwen/Qwen-Audio", "Qwen/Qwen-Audio-Chat")
QWEN2_AUDIO = ("Qwen/Qwen2-Audio-7B", "Qwen/Qwen2-Audio-7B-Instruct")
_QWEN2_AUDIO_TEXT = {"model_type": "qwen2", "intermediate_size": 11_008, "vocab_size": 156_032}

# Token ids of a rehearsal, which has no tokenizer: turns as in ChatML, tags around the audio, two words.
_START, _END, _TAG, _END_TAG, _AUDIO, _REAL, _FAKE, _STOP, _NEWLINE = range(1, 10)
_TINY_TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
_TINY_BANDS, _TINY_SECONDS = 16, 30
_MISSING_BITSANDBYTES = "model.load_in_4bit (QLoRA) needs bitsandbytes: pip install bitsandbytes"


def audio_llm_config(model: Mapping[str, Any], lora: Mapping[str, Any] | None, tiny: bool) -> AudioLLMDetectorConfig:
    """
    The configuration of a recipe's model with made-up token ids, to count parameters, or with `tiny` to rehearse.

    Raises:
        RecipeError: for a recipe without a base model, or that trains nothing.
        ValueError: for values that no model has.
        OSError: where the configuration of the base model is needed and cannot be had.
    """
    base = model.get("base_model")
    if not base:
        raise RecipeError(
            "model.base_model is missing: the audio language model to fine-tune (--model.base_model NAME)"
        )
    if lora is None and not model.get("train_encoder"):
        raise RecipeError(
            "nothing would be trained: give lora some keys, such as r, or set model.train_encoder to true"
        )
    backbone = _backbone_config(base, model.get("base_revision", "main"))
    return AudioLLMDetectorConfig(
        backbone_config=_tiny_backbone(backbone.model_type) if tiny else backbone,
        label_token_ids={"bonafide": _REAL, "spoof": _FAKE},
        prompt_ids_before=[_START, _END, _NEWLINE, _START, _TAG],
        prompt_ids_after=[_END_TAG, _END, _NEWLINE, _START],
        audio_token_id=_AUDIO,
        lora=lora and {key: value for key, value in lora.items() if not tiny or key != "target_modules"},
        base_model_name_or_path=None if tiny else base,
        **{key: value for key, value in model.items() if key in FIELDS},
    )


def _backbone_config(base: str, revision: str) -> PreTrainedConfig:
    if base in QWEN_AUDIO:
        return QwenAudioConfig()
    if base in QWEN2_AUDIO:
        return Qwen2AudioConfig(text_config=_QWEN2_AUDIO_TEXT)
    return read_backbone_config(base, revision=revision)


def _tiny_backbone(model_type: str) -> PreTrainedConfig:
    """Of a few thousand parameters; other kinds than Qwen-Audio v1 are rehearsed on Qwen2-Audio's."""
    positions = 50 * _TINY_SECONDS
    if model_type == "qwen_audio":
        audio = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "output_dim": 16}
        return QwenAudioConfig(
            audio_config={**audio, "num_mel_bins": _TINY_BANDS, "max_source_positions": positions},
            vocab_size=16,
            head_dim=8,
            audio_token_id=_AUDIO,
            audio_bos_token_id=_TAG,
            audio_eos_token_id=_END_TAG,
            pad_token_id=0,
            eos_token_id=_END,
            **_TINY_TEXT,
        )
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    kind = {"model_type": "qwen2_audio_encoder", "num_mel_bins": _TINY_BANDS, "max_source_positions": positions}
    return Qwen2AudioConfig(
        audio_config={**audio, **kind},
        text_config={"model_type": "qwen2", "vocab_size": 16, "num_key_value_heads": 2, **_TINY_TEXT},
        audio_token_index=_AUDIO,
    )


def build_audio_llm(
    model: Mapping[str, Any], lora: Mapping[str, Any] | None, seed: int, tiny: bool = False
) -> AudioLLMForAudioClassification:
    """
    A recipe's model before training: the published one, with fresh adapters where the recipe has any.

    Raises:
        RecipeError: for 4 bits without bitsandbytes.
        OSError: where the base model cannot be had.
        ValueError: where it has to be converted first, is not complete, or does not fit the question and the words.
    """
    set_seed(seed)
    if tiny:
        return AudioLLMForAudioClassification(audio_llm_config(model, lora, tiny))
    audio_llm_config(model, lora, tiny)  # what is wrong shows before anything large is fetched
    memory = {key: model[key] for key in ("dtype", "attn_implementation") if key in model}
    if model.get("load_in_4bit"):
        memory |= four_bits(model["base_model"], model.get("base_revision", "main"))
    return AudioLLMForAudioClassification.from_backbone_pretrained(
        model["base_model"],
        revision=model.get("base_revision", "main"),
        lora=lora,
        **{key: value for key, value in model.items() if key in FIELDS},
        **memory,
    )


def four_bits(base: str, revision: str = "main") -> dict[str, Any]:
    """
    Options of `from_backbone_pretrained` that hold a base model in 4 bits, but for its encoder and its head.

    As in QLoRA (Dettmers et al. 2023, arXiv 2305.14314): normal floats, doubly quantised, multiplied in bfloat16.

    Raises:
        RecipeError: without bitsandbytes.
    """
    if not is_bitsandbytes_available():
        raise RecipeError(_MISSING_BITSANDBYTES)
    encoder = find_backbone(_backbone_config(base, revision).model_type).encoder_modules
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*encoder, "lm_head"],
    )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def audio_llm_parts(model: AudioLLMForAudioClassification, window_samples: int) -> dict[str, Any]:
    """
    What [`AudioLLMTrainer`] takes beside a recipe's model: its feature extractor, and the answers of a tiny one.

    Args:
        model: by [`build_audio_llm`].
        window_samples: the longest clip that is trained on.
    """
    config = model.config
    if config.base_model_name_or_path is not None:
        base, revision = config.base_model_name_or_path, config.base_revision or "main"
        extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(base, window_samples, revision=revision)
        return {"processing_class": extractor}
    extractor = AudioLLMFeatureExtractor(
        window_samples,
        config.backbone_config.model_type in WHOLE_FRAMES,
        feature_size=_TINY_BANDS,
        chunk_length=_TINY_SECONDS,
    )
    words = tuple((word, _STOP, _END) for word in config.label_ids)
    return {"processing_class": extractor, "answers": Answers(words, (_NEWLINE,), _START, _END)}


def audio_llm_text(model: Mapping[str, Any], lora: Mapping[str, Any] | None) -> str:
    """A recipe's model in words."""
    config = audio_llm_config(model, lora, tiny=False)
    text = f"{model['base_model']}, asked {config.prompt!r}"
    encoder = "its audio encoder trained" if config.train_encoder else "its audio encoder frozen"
    if config.lora is None:
        return f"{text}, {encoder}, no adapters"
    settings = config.lora
    return (
        f"{text}, {encoder}, adapters of rank {settings['r']} (alpha {settings['lora_alpha']}) on "
        f"{', '.join(settings['target_modules'])} of its language model"
    )
