"""A SASTNet of all the same parts at a ten-thousandth of the size, for one second of audio."""

import torch
from conftest import lively, tiny_wav2vec2

from spooftrace.modeling import SASTNetConfig, SASTNetForAudioClassification


WINDOW = 16_400

TINY_WHISPER = {
    "bos_token_id": 1,
    "d_model": 32,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "decoder_layers": 1,
    "decoder_start_token_id": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "encoder_layers": 2,
    "eos_token_id": 2,
    "max_source_positions": 200,
    "num_mel_bins": 20,
    "pad_token_id": 0,
    "vocab_size": 8,
}
TINY_MAE = {
    "aggregation_num_heads": 4,
    "decoder_hidden_size": 16,
    "decoder_intermediate_size": 24,
    "decoder_num_heads": 4,
    "decoder_num_layers": 2,
    "feature_size": 32,
    "mae_hidden_size": 32,
    "mae_intermediate_size": 48,
    "mae_num_heads": 4,
    "mae_num_layers": 2,
    "patch_size": 8,
}
TINY_REST = {
    "encoder_channels": [4, 4, 6, 6, 6, 6],
    "fusion_intermediate_size": 40,
    "fusion_num_heads": 4,
    "graph_dims": [6, 4],
    "num_filters": 24,
    "semantic_frames": 50,
    "window_samples": WINDOW,
}


def tiny_sastnet_config(**fields) -> SASTNetConfig:
    parts = {}
    if fields.get("frontend", "wav2vec2") == "wav2vec2":
        parts["wav2vec2_config"] = tiny_wav2vec2()
    if fields.get("use_semantics", True):
        parts["whisper_config"] = dict(TINY_WHISPER)
    return SASTNetConfig(**{**parts, **TINY_MAE, **TINY_REST, **fields})


def tiny_sastnet(**fields) -> SASTNetForAudioClassification:
    """In evaluation mode, with logits that depend on the clip."""
    torch.manual_seed(0)
    return lively(SASTNetForAudioClassification(tiny_sastnet_config(**fields)))
