"""A Qwen-Audio v1 of two layers, its vocabulary, and the folder that its makers would have published."""

import base64
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import WhisperFeatureExtractor

from spooftrace.modeling import QwenAudioConfig, QwenAudioForConditionalGeneration
from spooftrace.modeling.audio_tokens import num_audio_tokens


# Every word becomes one token; so does each of its beginnings.
WORDS = ("Real", "Fake", "system", "user", "assistant", "Audio", " this", " audio", " real", " fake", "\n\n")
TEXT_TOKENS = 256
SPECIALS = 208  # <|endoftext|>, <|im_start|>, <|im_end|> and 205 spare ones
AUDIO_SPECIALS = 8  # the audio token, five names, and the two tags


def ranks() -> dict[bytes, int]:
    """All bytes, then the words with their beginnings."""
    tokens = [bytes([byte]) for byte in range(TEXT_TOKENS)]
    tokens += [word.encode()[:end] for word in WORDS for end in range(2, len(word.encode()) + 1)]
    return {token: rank for rank, token in enumerate(dict.fromkeys(tokens))}


PAD = len(ranks())
AUDIO_TOKEN = PAD + SPECIALS
AUDIO_BOS = AUDIO_TOKEN + AUDIO_SPECIALS - 2
EXTRACTOR = WhisperFeatureExtractor(feature_size=80, chunk_length=4)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
AUDIO_SIZES = {
    "num_mel_bins": 80,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "output_dim": 32,
}


def tiny_config(**overrides) -> QwenAudioConfig:
    """Knows the tokens of `ranks()`; hears 4 s unless told otherwise."""
    audio = {**AUDIO_SIZES, "max_source_positions": 200, **overrides.pop("audio_config", {})}
    ids = {
        "audio_token_id": AUDIO_TOKEN,
        "audio_bos_token_id": AUDIO_BOS,
        "audio_eos_token_id": AUDIO_BOS + 1,
        "pad_token_id": PAD,
        "eos_token_id": PAD + 2,
    }
    return QwenAudioConfig(**{**SIZES, "vocab_size": AUDIO_BOS + 10, **ids, "audio_config": audio, **overrides})


def tiny_model(**overrides) -> QwenAudioForConditionalGeneration:
    """Random weights, larger than at the start of training so that every input moves the logits."""
    torch.manual_seed(0)
    audio = {"initializer_range": 0.2, **overrides.pop("audio_config", {})}
    config = tiny_config(**{"initializer_range": 0.2, "audio_config": audio, **overrides})
    return QwenAudioForConditionalGeneration(config).eval()


def write_vocabulary(folder: Path) -> Path:
    path = folder / "qwen.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks().items()))
    return path


def published_config(config: QwenAudioConfig) -> dict:
    """The public `config.json`: its names, and both halves of the gated layer counted."""
    audio = config.audio_config
    return {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
        "model_type": "qwen",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": 2 * config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "kv_channels": config.head_dim,
        "layer_norm_epsilon": config.rms_norm_eps,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "seq_length": config.seq_length,
        "max_position_embeddings": config.max_position_embeddings,
        "no_bias": True,
        "tie_word_embeddings": False,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "initializer_range": config.initializer_range,
        "audio": {
            "n_mels": audio.num_mel_bins,
            "n_ctx": audio.max_source_positions,
            "n_state": audio.hidden_size,
            "n_head": audio.num_attention_heads,
            "n_layer": audio.num_hidden_layers,
            "output_dim": audio.output_dim,
            "avg_pool": True,
            "add_audio_bos_eos_token": True,
            "audio_start_id": config.audio_bos_token_id,
        },
    }


def publish(model: QwenAudioForConditionalGeneration, folder: Path, kind: str = "bin", num_shards: int = 3) -> Path:
    """The model in the public layout: configuration, shards of pickled tensors or safetensors with an index, vocabulary."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(published_config(model.config)))
    (folder / "modeling_qwen.py").write_text("raise RuntimeError('no code of the repository is run')\n")
    write_vocabulary(folder)
    stem = {"bin": "pytorch_model", "safetensors": "model"}[kind]
    state, weight_map = model.state_dict(), {}
    for number in range(num_shards):
        name = f"{stem}-{number + 1:05d}-of-{num_shards:05d}.{kind}" if num_shards > 1 else f"{stem}.{kind}"
        part = {key: value.clone() for key, value in list(state.items())[number::num_shards]}
        weight_map |= dict.fromkeys(part, name)
        torch.save(part, folder / name) if kind == "bin" else save_file(part, folder / name)
    if num_shards > 1:
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def tone(seconds: float, pitch: float = 300.0) -> torch.Tensor:
    """A clip of its own, `(samples,)` at 16 kHz."""
    time = torch.arange(round(16_000 * seconds), dtype=torch.float64) / 16_000
    return (0.3 * torch.sin(2 * torch.pi * pitch * (1 + time) * time)).float()


def hear(*clips: torch.Tensor) -> dict[str, torch.Tensor]:
    """Log-mel frames of the clips, padded to 4 s, and their mask."""
    mel = EXTRACTOR([clip.numpy() for clip in clips], sampling_rate=16_000, return_tensors="pt").input_features
    frames = torch.tensor([len(clip) // 160 for clip in clips])
    return {"input_features": mel, "feature_attention_mask": (torch.arange(400) < frames[:, None]).long()}


def batch_of(*clips: torch.Tensor, side: str = "left") -> dict[str, torch.Tensor]:
    """A prompt about each clip, padded on one side."""
    rows = []
    for clip in clips:
        tokens = num_audio_tokens(len(clip) // 160)
        rows.append([PAD + 1, 40, 41, AUDIO_BOS, *[AUDIO_TOKEN] * tokens, AUDIO_BOS + 1, 50, 51, 52])
    longest = max(map(len, rows))
    before = [(longest - len(row)) * (side == "left") for row in rows]
    after = [(longest - len(row)) * (side == "right") for row in rows]
    ids = [[PAD] * left + row + [PAD] * right for left, row, right in zip(before, rows, after, strict=True)]
    mask = [[0] * left + [1] * len(row) + [0] * right for left, row, right in zip(before, rows, after, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), **hear(*clips)}


CLIPS = (tone(1.0), tone(2.37, 200), tone(0.53, 500))


def logits_of(model, inputs, **options) -> list[torch.Tensor]:
    """Logits of each sequence without its padding."""
    with torch.inference_mode():
        logits = model(**inputs, **options).logits
    return [row[kept.bool()] for row, kept in zip(logits, inputs["attention_mask"], strict=True)]


def random_ids(length: int, rows: int = 1) -> torch.Tensor:
    return torch.randint(256, (rows, length), generator=torch.Generator().manual_seed(0))
