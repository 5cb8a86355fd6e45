"""Published AASIST checkpoints -> safetensors in our naming, with every key accounted for.

Two families: the stand-alone AASIST and AASIST-L (`clovaai/aasist`), and SSL_Anti-spoofing's wav2vec 2.0 + AASIST, whose
front end carries fairseq's names. Pickles are read with `weights_only=True` and nothing else.
"""

import os
from collections.abc import Mapping

import torch

from .configuration_aasist import AasistConfig
from .convert_common import (
    ConversionError,
    ConversionReport,
    finish,
    quiet_wav2vec2,
    read_checkpoint,
    rename_state_dict,
    swap_classes,
    without_parallel_prefix,
)
from .convert_names import FAIRSEQ_DROPPED, rename_fairseq_key, rename_graph_key, rename_parts, rename_trunk_key
from .modeling_aasist import AasistForAudioClassification


FAIRSEQ_PREFIX = "ssl_model.model."
WAV2VEC2_PREFIX = "aasist.frontend.wav2vec2."
_ENDS = {"out_layer": "classifier", "LL": "aasist.frontend.projection"}


def rename_backend_key(key: str) -> str | None:
    """Our name for a tensor of the reference's back-end, or `None` for a stranger."""
    if (ours := rename_parts(key, _ENDS)) is not None:
        return ours
    if (ours := rename_trunk_key(key)) is not None:
        return f"aasist.{ours}"
    ours = rename_graph_key(key)
    return ours and f"aasist.backend.{ours}"


def rename_key(key: str) -> tuple[str | None, str | None]:
    """Our name for a tensor, or the reason to drop it, or neither for a stranger."""
    if not key.startswith(FAIRSEQ_PREFIX):
        return rename_backend_key(key), None
    fairseq_key = key.removeprefix(FAIRSEQ_PREFIX)
    renamed = rename_fairseq_key(fairseq_key)
    return renamed and f"{WAV2VEC2_PREFIX}{renamed}", FAIRSEQ_DROPPED.get(fairseq_key.split(".")[0])


def _read(checkpoint: str | os.PathLike, model: str) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    report = ConversionReport(source=os.path.basename(checkpoint), model=model)
    state = rename_state_dict(without_parallel_prefix(read_checkpoint(checkpoint), report), rename_key, report)
    swap_classes(state, "classifier", report)
    return state, report


def infer_standalone_config(state: Mapping[str, torch.Tensor], pool_ratios: list[float] | None = None) -> AasistConfig:
    """
    The configuration of a stand-alone checkpoint in our naming, read off its shapes.

    Pooling ratios have no tensors: they are known for the two published models, and an argument for any other.
    """
    blocks = {int(key.split(".")[3]) for key in state if key.startswith("aasist.encoder.blocks.")}
    channels = [len(state[f"aasist.encoder.blocks.{index}.conv2.bias"]) for index in sorted(blocks)]
    graph_dims = [
        state["aasist.backend.spectral_layer.own_projection.bias"].shape[0],
        state["aasist.backend.branch1.layer1.own_projection.bias"].shape[0],
    ]
    published = {(64, 32): [0.5, 0.7, 0.5], (24, 32): [0.4, 0.5, 0.7]}
    pool_ratios = pool_ratios or published.get(tuple(graph_dims))
    if pool_ratios is None:
        raise ConversionError(f"Neither AASIST nor AASIST-L (graph sizes {graph_dims}): give its pooling ratios.")
    # `num_filters` cannot be told apart within the 3 x 3 pooling either; all published models have 70.
    return AasistConfig(encoder_channels=channels, graph_dims=graph_dims, pool_ratios=pool_ratios)


def convert_standalone(
    checkpoint: str | os.PathLike, pool_ratios: list[float] | None = None
) -> tuple[AasistForAudioClassification, ConversionReport]:
    """
    Converts a checkpoint of `clovaai/aasist`.

    Args:
        checkpoint: A `.pth` file of plain tensors or a `.safetensors` file.
        pool_ratios: The three pooling ratios, needed only if the model is neither AASIST nor AASIST-L.

    Raises:
        `ConversionError`: if any tensor is missing, unknown or of another shape.
    """
    state, report = _read(checkpoint, "AASIST (stand-alone)")
    if "aasist.backend.spectral_layer.own_projection.bias" not in state or not any(".blocks." in key for key in state):
        raise ConversionError("The checkpoint lacks the encoder or the graph layers of AASIST.")
    model = AasistForAudioClassification(infer_standalone_config(state, pool_ratios))
    return finish(model, state, report)


def convert_ssl_antispoofing(
    checkpoint: str | os.PathLike, wav2vec2_config: str | os.PathLike | None = None
) -> tuple[AasistForAudioClassification, ConversionReport]:
    """
    Converts a checkpoint of SSL_Anti-spoofing (wav2vec 2.0 under fairseq's names, then AASIST).

    Args:
        checkpoint: A `.pth` file of plain tensors or a `.safetensors` file.
        wav2vec2_config:
            A `config.json` (or folder, or Hub name) of the wav2vec 2.0 encoder, whose attention heads no tensor tells;
            XLS-R 300M's by default.

    Raises:
        `ConversionError`: if any tensor is missing, unknown or of another shape.
    """
    state, report = _read(checkpoint, "W2V2-AASIST (SSL_Anti-spoofing)")
    config = AasistConfig(frontend="wav2vec2", wav2vec2_config=quiet_wav2vec2(wav2vec2_config))
    report.notes.append("The front end takes the raw waveform: do_normalize is False, as in the reference.")
    return finish(AasistForAudioClassification(config), state, report)


__all__ = ["convert_ssl_antispoofing", "convert_standalone"]
