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
