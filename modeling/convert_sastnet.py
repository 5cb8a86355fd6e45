"""Published SASTNet checkpoints and their ablations -> our naming, with every key accounted for.

The files of `SAST_Net` in `CodecFake/CodecFake_Source_Tracing` hold the whole model: wav2vec 2.0 under fairseq's names, the
whole of Whisper, the masked autoencoder with its sine tables, and the AASIST back-end.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import WhisperConfig
from transformers import initialization as init

from .configuration_aasist import XLSR_300M
from .configuration_sastnet import WHISPER_SMALL, SASTNetConfig
from .convert_common import (
    ConversionError,
    ConversionReport,
    check_fit,
    finish,
    quiet_wav2vec2,
    read_checkpoint,
    rename_state_dict,
    without_parallel_prefix,
)
from .convert_names import FAIRSEQ_DROPPED, rename_fairseq_key, rename_graph_key, rename_parts, rename_trunk_key
from .modeling_sastnet import SASTNetForAudioClassification
from .sastnet_parts import AUDIOMAE_LICENSE, AUTOENCODER_LAYER
from .source_tasks import TASK_LABELS


FAIRSEQ_PREFIX = "SSL_model.model."
BRANCH_PREFIX = "multiclass_branch."
# Sine tables are made anew, in the same precision; a table that differs by more was made by another rule.
TABLE_TOLERANCE = 1e-5

_MODULES = {
    "SSL_proj": "feature_projection",
    "LL": "backend_projection",
    "whisper.model.encoder": "semantics.encoder",
    "MAE.encoder.cls_token": "mae.encoder.cls_token",
    "MAE.encoder.patch_embed.proj": "mae.encoder.patch_projection",
    "MAE.encoder.norm": "mae.encoder.norm",
    "MAE.proj_k": "mae.aggregation.key_expansion",
    "MAE.proj_v": "mae.aggregation.value_expansion",
    "MAE.attn": "mae.aggregation.attention",
}
_DECODER = {
    "mask_token": "mask_token",
    "decoder_embed": "embedding",
    "decoder_norm": "norm",
    "decoder_pred": "prediction",
}
_TRANSFORMERS = {
    "ta_transformer": "semantic_to_acoustic",
    "at_transformer": "acoustic_to_semantic",
    "at_ta_transformer": "fusion",
}
_CROSS_MODAL_LAYER = {
    "self_attn": "attention",
    "layer_norms.0": "norm1",
    "layer_norms.1": "norm2",
    "fc1": "fc1",
    "fc2": "fc2",
}
_DROPPED = {
    r"whisper\.model\.decoder\..+": "Whisper's text decoder; only its encoder is ever run",
    r"MAE\.projection_head\..+": "never trained and never used; no output depends on it",
    r"(ta|at|at_ta)_transformer\.(version|embed_positions\._float_tensor)": "a dummy buffer; no output depends on it",
    r"MAE\.encoder\.pos_embed": "a table of sines and cosines; the model computes it and was found to agree",
    r"MAE\.all_decoders\.\d+\.decoder_pos_embed": "a table of sines and cosines; the model computes it and was found to agree",
}

CARD = """\
---
license: cc-by-nc-4.0
library_name: transformers
pipeline_tag: audio-classification
{base_model}tags: [anti-spoofing, audio-deepfake-detection, source-tracing, sastnet]
---

# SASTNet for the task `{task}`, converted

Tells what kind of neural codec made a clip of speech (arXiv 2506.07294). Task `{task}`, classes {labels}.

```python
from spooftrace.modeling import SASTNetForAudioClassification

model = SASTNetForAudioClassification.from_pretrained("THIS_FOLDER")
```

or `spooftrace trace clip.wav --model THIS_FOLDER`.

## Licence

The masked autoencoder was initialised from AudioMAE (Huang et al. 2022, arXiv 2207.06405), whose weights are published under
**CC BY-NC 4.0**: these weights are derived from them and may **not be used commercially**. The licence above says so for the
whole file. The authors' code repository states no licence of its own; ask them before you pass the weights on.

## Origin

Made by `spooftrace convert sastnet` from `{source}`; the numbers are unchanged. {parameters:,} parameters; {mapped:,} tensors
renamed and {dropped:,} left out, each with its reason in `conversion_report.json`. Built from {built_from}. Trained by its
authors on CodecFake+ (arXiv 2501.08238); the file does not tell how, and nothing was measured in conversion.

## Differences from the public code

Tokens keep their natural order, so that a clip always gets the same logits; the public code permutes them at random at
inference. Whisper's text decoder, the unused projection head and the position tables are not stored.

## Limits

It knows codecs like those of CodecFake+. Speech of other makes is forced into one of its classes.
"""


def rename_autoencoder_key(key: str) -> str | None:
    """Our name, within the bare model, for a tensor of the layers or of a decoder of the masked autoencoder."""
    if match := re.fullmatch(r"MAE\.encoder\.blocks\.(\d+)\.(.+)", key):
        part = rename_parts(match[2], AUTOENCODER_LAYER)
        return part and f"mae.encoder.layers.{match[1]}.{part}"
    if match := re.fullmatch(r"MAE\.all_decoders\.(\d+)\.decoder_blocks\.(\d+)\.(.+)", key):
        part = rename_parts(match[3], AUTOENCODER_LAYER)
        return part and f"mae.decoders.{match[1]}.layers.{match[2]}.{part}"
    if match := re.fullmatch(r"MAE\.all_decoders\.(\d+)\.(.+)", key):
        part = rename_parts(match[2], _DECODER)
        return part and f"mae.decoders.{match[1]}.{part}"
    return None


def rename_transformer_key(key: str) -> str | None:
    """Our name, within the bare model, for a tensor of a cross-modal transformer, or `None` for a stranger."""
    name, _, rest = key.partition(".")
    if name not in _TRANSFORMERS:
        return None
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)", rest):
        part = rename_parts(match[2], _CROSS_MODAL_LAYER)
        return part and f"{_TRANSFORMERS[name]}.layers.{match[1]}.{part}"
    part = rename_parts(rest, {"layer_norm": "norm"})
    return part and f"{_TRANSFORMERS[name]}.{part}"


def _rename_branch_key(key: str) -> str | None:
    if key in ("out_layer.weight", "out_layer.bias"):
        return key.replace("out_layer", "classifier")
    ours = rename_graph_key(key)
    return ours and f"sastnet.backend.{ours}"


def rename_key(key: str) -> tuple[str | None, str | None]:
    """Our name for a tensor, or the reason to drop it, or neither for a stranger."""
    for pattern, reason in _DROPPED.items():
        if re.fullmatch(pattern, key):
            return None, reason
    if key.startswith(FAIRSEQ_PREFIX):
        fairseq_key = key.removeprefix(FAIRSEQ_PREFIX)
        ours = rename_fairseq_key(fairseq_key)
        return ours and f"sastnet.wav2vec2.{ours}", FAIRSEQ_DROPPED.get(fairseq_key.split(".")[0])
    if key.startswith(BRANCH_PREFIX):
        return _rename_branch_key(key.removeprefix(BRANCH_PREFIX)), None
    for rename in (rename_autoencoder_key, rename_transformer_key, rename_trunk_key):
        if (ours := rename(key)) is not None:
            return f"sastnet.{ours}", None
    ours = rename_parts(key, _MODULES)
    return ours and f"sastnet.{ours}", None


def task_of_name(name: str) -> str | None:
    """The task that the name of a published file tells, as in `SAST_Net_BIN_VQ_bal.pth` (whose lists are balanced by `vq`)."""
    words = re.split(r"[^a-z]+", Path(name).stem.lower())
    named = [task for task in TASK_LABELS if task in words]
    return named[0] if "bin" in named or len(named) == 1 else None


def find_task(num_classes: int, name: str, task: str | None, report: ConversionReport) -> str:
    """
    The task of a checkpoint: the one asked for, or else what its number of classes or its name tells.

    Raises:
        `ConversionError`: if they contradict each other, or do not tell.
    """
    fitting = [known for known, labels in TASK_LABELS.items() if len(labels) == num_classes]
    named = task_of_name(name)
    found = task or named or (fitting[0] if len(fitting) == 1 else None)
    if found is None or found not in fitting:
        what = f"does not tell its task by its name {name!r}" if found is None else f"is not of the task {found!r}"
        raise ConversionError(
            f"The checkpoint has {num_classes} classes and {what}: choose it with `task=` (`--task` on the command line) "
            f"among {', '.join(fitting) or 'none, as no task has so many'}."
        )
    source = "as asked" if task else f"by the file's name {name!r}" if named else f"as it has {num_classes} classes"
    report.notes.append(f"Task {found!r}, {source}: {', '.join(TASK_LABELS[found])}.")
    return found


def _shape(state: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    if name not in state or state[name].ndim == 0:
        raise ConversionError(
            f"The checkpoint lacks the tensor that becomes {name!r}: it is incomplete or no SASTNet."
        )
    return tuple(state[name].shape)


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of modules in the list `prefix`."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def infer_sizes(state: Mapping[str, torch.Tensor]) -> dict:
    """
    What the shapes of a state dict in our naming tell of its configuration: kind, depths and widths, but no heads.

    Raises:
        `ConversionError`: if a tensor that tells is missing.
    """
    encoder, decoder = "sastnet.mae.encoder", "sastnet.mae.decoders.0"
    sizes = {
        "frontend": "wav2vec2" if _count(state, "sastnet.wav2vec2.") else "mel",
        "use_semantics": bool(_count(state, "sastnet.semantics.")),
        "num_decoders": _count(state, "sastnet.mae.decoders."),
        "patch_size": _shape(state, f"{encoder}.patch_projection.weight")[-1],
        "mae_hidden_size": _shape(state, f"{encoder}.cls_token")[-1],
        "mae_num_layers": _count(state, f"{encoder}.layers."),
        "mae_intermediate_size": _shape(state, f"{encoder}.layers.0.fc1.bias")[0],
        "decoder_hidden_size": _shape(state, f"{decoder}.mask_token")[-1],
        "decoder_num_layers": _count(state, f"{decoder}.layers."),
        "decoder_intermediate_size": _shape(state, f"{decoder}.layers.0.fc1.bias")[0],
    }
    if sizes["frontend"] == "wav2vec2":
        sizes["feature_size"] = _shape(state, "sastnet.feature_projection.bias")[0]
    if sizes["use_semantics"]:
        sizes["fusion_num_layers"] = _count(state, "sastnet.fusion.layers.")
        sizes["fusion_intermediate_size"] = _shape(state, "sastnet.fusion.layers.0.fc1.bias")[0]
    return sizes


def _submodels(
    sizes: Mapping, wav2vec2_config: str | os.PathLike | None, whisper_config: str | os.PathLike | None
) -> dict:
    """Configurations of the sub-models that are there."""
    for name, given, present in (
        ("wav2vec2_config", wav2vec2_config, sizes["frontend"] == "wav2vec2"),
        ("whisper_config", whisper_config, sizes["use_semantics"]),
    ):
        if given is not None and not present:
            raise ConversionError(
                f"`{name}` is {str(given)!r}, but the checkpoint holds no such sub-model: leave it out."
            )
    submodels = {"wav2vec2_config": quiet_wav2vec2(wav2vec2_config)}
    if whisper_config is not None:
        submodels["whisper_config"] = WhisperConfig.from_pretrained(whisper_config)
    return submodels


def check_tables(published: Mapping[str, torch.Tensor], model: SASTNetForAudioClassification):
    """
    Compares the published position tables with those that the model computes.

    Raises:
        `ConversionError`: for a table that is missing, of another size, or differs by more than `TABLE_TOLERANCE`.
    """
    mae = model.sastnet.mae
    tables = {"MAE.encoder.pos_embed": mae.encoder.positions}
    tables |= {f"MAE.all_decoders.{i}.decoder_pos_embed": part.positions for i, part in enumerate(mae.decoders)}
    for name, table in tables.items():
        expected = torch.cat([torch.zeros_like(table[:1]), table])[None]  # the class token has no position
        if _shape(published, name) != tuple(expected.shape):
            raise ConversionError(
                f"{name!r} has the shape {_shape(published, name)} instead of {tuple(expected.shape)}: the model was made for "
                "clips of another length."
            )
        difference = (published[name] - expected).abs().max().item()
        if not difference <= TABLE_TOLERANCE:
            raise ConversionError(
                f"{name!r} is another table than the model computes: it differs by {difference:.1e}, allowed are "
                f"{TABLE_TOLERANCE:.0e}."
            )


def _configuration(sizes: Mapping, **fields) -> SASTNetConfig:
    try:
        return SASTNetConfig(**fields, **sizes)
    except (StrictDataclassError, ValueError) as error:
        reason = " ".join(str(error).split())  # of one line
        raise ConversionError(f"The checkpoint's sizes make no SASTNet: {reason}") from error


def _empty_model(config: SASTNetConfig, state: Mapping[str, torch.Tensor]) -> SASTNetForAudioClassification:
    """A model that every tensor of `state` fits; no memory is taken before that is known."""
    with torch.device("meta"), init.no_init_weights():
        check_fit(SASTNetForAudioClassification(config), state)
    with init.no_init_weights():
        return SASTNetForAudioClassification(config)


def convert_sastnet(
    checkpoint: str | os.PathLike,
    task: str | None = None,
    wav2vec2_config: str | os.PathLike | None = None,
    whisper_config: str | os.PathLike | None = None,
) -> tuple[SASTNetForAudioClassification, ConversionReport]:
    """
    Converts a SASTNet, or one of its ablations without wav2vec 2.0, Whisper or all decoders but one.

    Args:
        checkpoint: A `.pth` file of plain tensors or a `.safetensors` file.
        task: `"bin"`, `"vq"`, `"aux"` or `"dec"`; by default what the number of classes or the file's name tells.
        wav2vec2_config:
            A `config.json` (or folder, or Hub name) of the wav2vec 2.0 encoder, whose attention heads no tensor tells;
            XLS-R 300M's by default.
        whisper_config: The same of Whisper; whisper-small's by default.

    Raises:
        `ConversionError`: if any tensor is missing, unknown or of another shape, a position table differs, or the task is
            contradictory or unclear.
    """
    name = os.path.basename(checkpoint)
    report = ConversionReport(source=name, model="SASTNet")
    published = without_parallel_prefix(read_checkpoint(checkpoint), report)
    state = rename_state_dict(published, rename_key, report)
    sizes = infer_sizes(state)
    state["loss_weights"] = torch.ones(2)
    config = _configuration(
        sizes,
        task=find_task(_shape(state, "classifier.bias")[0], name, task, report),
        weight_licenses=dict(AUDIOMAE_LICENSE),
        **_submodels(sizes, wav2vec2_config, whisper_config),
    )
    model = _empty_model(config, state)
    check_tables(published, model)
    whisper = "with" if config.use_semantics else "without"
    report.notes += [
        f"Front end {config.frontend!r}, {whisper} Whisper, decoders: {config.num_decoders}.",
        "The two weights of the loss start anew at 1: published checkpoints do not hold them.",
        "Weights derived from AudioMAE are licensed CC BY-NC 4.0: not for commercial use. See README.md.",
    ]
    return finish(model, state, report)


def sastnet_card(config: SASTNetConfig, report: ConversionReport) -> str:
    """The model card of a converted checkpoint: what it is, where it comes from, and the licence that it inherits."""
    bases = [
        base
        for base, submodel, published in (
            ("facebook/wav2vec2-xls-r-300m", config.wav2vec2_config, XLSR_300M),
            ("openai/whisper-small", config.whisper_config, WHISPER_SMALL),
        )
        if submodel is not None and all(getattr(submodel, name) == value for name, value in published.items())
    ]
    return CARD.format(
        base_model=f"base_model: [{', '.join(bases)}]\n" if bases else "",
        task=config.task,
        labels=", ".join(f"`{label}`" for label in config.label2id),
        source=report.source,
        parameters=report.num_parameters,
        mapped=len(report.mapped),
        dropped=len(report.dropped),
        built_from=" and ".join([*(f"[{base}](https://huggingface.co/{base})" for base in bases), "AudioMAE"]),
    )


__all__ = ["convert_sastnet", "sastnet_card"]
