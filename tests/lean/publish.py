"""Publishes one detector of each kind to a folder, with a clip and the logits it must give elsewhere.

    python tests/lean/publish.py FOLDER

`load.py` beside this file reads the result in an environment that does not know spooftrace.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2AudioConfig,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from spooftrace.checkpoint import default_folder
from spooftrace.modeling import (
    AasistConfig,
    AasistFeatureExtractor,
    AasistForAudioClassification,
    AudioLLMDetectorConfig,
    AudioLLMFeatureExtractor,
    AudioLLMForAudioClassification,
    QwenAudioConfig,
    SASTNetConfig,
    SASTNetFeatureExtractor,
    SASTNetForAudioClassification,
)


def publish(model: PreTrainedModel, extractor: FeatureExtractionMixin, folder: Path) -> None:
    waveform = np.sin(np.arange(40_000) * 0.05).astype(np.float32) * 0.3
    with torch.inference_mode():
        output = model.eval()(**extractor(waveform, sampling_rate=16_000, return_tensors="pt"))
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    np.savez(folder / "expected.npz", waveform=waveform, logits=output.logits.numpy())


def adapted(encoder_folder: Path) -> AasistForAudioClassification:
    """A detector with low-rank adapters, whose repository leaves the encoder out."""
    Wav2Vec2Model(Wav2Vec2Config(hidden_size=48, num_hidden_layers=2)).save_pretrained(encoder_folder)
    model = AasistForAudioClassification.from_wav2vec2_pretrained(encoder_folder, lora={"r": 2})
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first
            torch.nn.init.normal_(parameter)
    return model


def tracer() -> SASTNetForAudioClassification:
    """All parts of SASTNet, smaller."""
    whisper = {
        "d_model": 48,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
    }
    config = SASTNetConfig(
        wav2vec2_config={"hidden_size": 48, "num_hidden_layers": 2},
        whisper_config=whisper,
        mae_hidden_size=48,
        mae_num_layers=2,
        mae_intermediate_size=64,
        decoder_hidden_size=64,
        decoder_num_layers=2,
        decoder_intermediate_size=64,
        fusion_intermediate_size=64,
    )
    return SASTNetForAudioClassification(config)


def audio_llm(backbone_config: PreTrainedConfig) -> AudioLLMForAudioClassification:
    """A whole detector around an audio language model, with a prompt of made-up tokens."""
    config = AudioLLMDetectorConfig(
        backbone_config=backbone_config,
        label_token_ids={"bonafide": 5, "spoof": 6},
        prompt_ids_before=[1, 2],
        prompt_ids_after=[3, 4],
        audio_token_id=60,
    )
    return AudioLLMForAudioClassification(config)


def qwen2_audio() -> Qwen2AudioConfig:
    audio = {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "num_mel_bins": 16,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    text = {
        "model_type": "qwen2",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 64,
    }
    return Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", **audio},
        text_config={**text, **heads},
        audio_token_index=60,
    )


def qwen_audio() -> QwenAudioConfig:
    audio = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "output_dim": 32, "num_mel_bins": 16}
    return QwenAudioConfig(
        audio_config=audio,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=8,
        audio_token_id=60,
        audio_bos_token_id=1,
        audio_eos_token_id=3,
        pad_token_id=0,
        eos_token_id=7,
    )


def main(folder: Path) -> None:
    torch.manual_seed(0)
    default = default_folder()
    models = {
        "default": AutoModelForAudioClassification.from_pretrained(default),
        "sinc": AasistForAudioClassification(AasistConfig()),
        "wav2vec2": AasistForAudioClassification(
            AasistConfig(frontend="wav2vec2", wav2vec2_config={"hidden_size": 48, "num_hidden_layers": 2})
        ),
    }
    models["tasks"] = AasistForAudioClassification(AasistConfig(tasks=["bin", "vq", "aux", "dec"]))
    models["lora"] = adapted(folder / "_encoder")
    models["sastnet"] = tracer()
    models["qwen2_audio"], models["qwen_audio"] = audio_llm(qwen2_audio()), audio_llm(qwen_audio())
    extractors = {"default": AutoFeatureExtractor.from_pretrained(default), "sastnet": SASTNetFeatureExtractor()}
    extractors["qwen2_audio"] = AudioLLMFeatureExtractor(feature_size=16)
    extractors["qwen_audio"] = AudioLLMFeatureExtractor(feature_size=16, whole_frames=True)
    for name, model in models.items():
        publish(model, extractors.get(name, AasistFeatureExtractor()), folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
