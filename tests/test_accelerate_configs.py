"""The shipped accelerate configurations are ones that accelerate reads."""

from pathlib import Path

import pytest


CONFIGS = sorted((Path(__file__).resolve().parent.parent / "trainers" / "accelerate_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.num_processes == 2 and str(config.mixed_precision) == "bf16"


def test_the_layers_that_fsdp_wraps_are_those_of_the_encoder():
    import yaml
    from transformers.models.wav2vec2 import modeling_wav2vec2

    (path,) = [path for path in CONFIGS if path.stem == "fsdp"]
    name = yaml.safe_load(path.read_text())["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"]
    assert hasattr(modeling_wav2vec2, name)


def test_the_layers_that_fsdp_wraps_are_those_of_audio_language_models():
    import yaml
    from transformers.models.qwen2 import modeling_qwen2
    from transformers.models.qwen2_audio import modeling_qwen2_audio

    from spooftrace.modeling import modeling_qwen_audio, modeling_qwen_audio_encoder

    (path,) = [path for path in CONFIGS if path.stem == "audio_llm_fsdp"]
    text = path.read_text()
    names = yaml.safe_load(text)["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert hasattr(modeling_qwen_audio, names[0]) and hasattr(modeling_qwen_audio_encoder, names[1])
    assert "Qwen2DecoderLayer,Qwen2AudioEncoderLayer" in text
    assert hasattr(modeling_qwen2, "Qwen2DecoderLayer") and hasattr(modeling_qwen2_audio, "Qwen2AudioEncoderLayer")
