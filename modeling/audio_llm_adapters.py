"""Detectors around an audio language model that keep only what was trained: the base model, its digest, and peft's files."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file
from transformers.utils.hub import get_checkpoint_shard_files

from .audio_llm_backbones import NESTED, find_backbone
from .configuration_qwen_audio import QwenAudioConfig
from .lora import HUB_OPTIONS, inject_adapters, is_adapter_key, load_peft, write_adapter


# Of `from_pretrained`: how the base model is held in memory.
MEMORY_OPTIONS = (
    "attn_implementation",
    "device_map",
    "dtype",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "quantization_config",
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHOWN = 8

# Fields of peft's `LoraConfig` that make an adapter more than two matrices beside a layer. Initialisations other than
# these change the base model as well.
_MORE_THAN_PLAIN = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "rank_pattern",
    "alpha_pattern",
    "alora_invocation_tokens",
    "layer_replication",
)
_PLAIN_STARTS = (True, False, "gaussian")


def find_weights(name_or_path: str | os.PathLike, **options) -> list[str]:
    """
    The safetensors files of a checkpoint, fetched if need be.

    Args:
        options: `revision`, `subfolder` and those of [`HUB_OPTIONS`].

    Raises:
        `OSError`: where there are none, or the repository cannot be reached.
    """
    # In the order of transformers, so that what is compared by its digest is what is loaded.
    for name in (WEIGHTS, INDEX):
        found = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False, **options)
        if found is not None:
            return [found] if name == WEIGHTS else get_checkpoint_shard_files(name_or_path, found, **options)[0]
    raise OSError(f"{str(name_or_path)!r} holds neither {WEIGHTS} nor {INDEX}; other files of weights are not read.")


def weights_digest(files: Sequence[str]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors in the order of their names, however they are sharded."""
    owners = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            owners.update(dict.fromkeys(opened.keys(), path))
    digest = hashlib.sha256()
    opened = {path: safe_open(path, framework="pt") for path in files}
    for name in sorted(owners):
        tensor = opened[owners[name]].get_tensor(name).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_backbone_config(name_or_path: str | os.PathLike, **options) -> PreTrainedConfig:
    """
    Configuration of a published audio language model, or of the one inside a larger model.

    Raises:
        `ValueError`: for a model of another kind.
        `OSError`: where it cannot be found or reached.
    """
    values, _ = PreTrainedConfig.get_config_dict(name_or_path, **options)
    values = values.get(NESTED.get(values.get("model_type")), values)
    find_backbone(values.get("model_type"))
    if values["model_type"] == QwenAudioConfig.model_type:
        return QwenAudioConfig.from_dict(values)
    return AutoConfig.for_model(**values)


def load_backbone(name_or_path: str | os.PathLike, config: PreTrainedConfig, **options) -> PreTrainedModel:
    """
    A published audio language model; only safetensors are read.

    Args:
        options: `revision` and those of [`HUB_OPTIONS`] and [`MEMORY_OPTIONS`].

    Raises:
        `ValueError`: if the repository lacks any weight, holds another architecture, or brings weights that its digest
            does not cover.
        `OSError`: if it cannot be found or reached.
    """
    hub_options = {key: options[key] for key in ("revision", *HUB_OPTIONS) if key in options}
    elsewhere = getattr(config, "transformers_weights", None)
    if elsewhere or find_adapter_config_file(name_or_path, **hub_options) is not None:
        raise ValueError(
            f"{str(name_or_path)!r} would load {elsewhere or 'an adapter'} besides {WEIGHTS}, which no digest covers: merge "
            "the adapter, or take `transformers_weights` out of its config.json."
        )
    model, report = find_backbone(config.model_type).cls.from_pretrained(
        name_or_path,
        config=config,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        **options,
    )
    if report["missing_keys"] or report["mismatched_keys"]:
        raise ValueError(
            f"{str(name_or_path)!r} is no complete {config.model_type} of this size: missing "
            f"{sorted(report['missing_keys'])[:_SHOWN]}, of another shape "
            f"{sorted(entry[0] for entry in report['mismatched_keys'])[:_SHOWN]}."
        )
    return model


def load_base(config: PreTrainedConfig, base_model: str | os.PathLike | None = None, **options) -> PreTrainedModel:
    """
    The base model that a detector's configuration names.

    Args:
        config (`AudioLLMDetectorConfig`): Of the detector.
        base_model (`str` or `os.PathLike`, *optional*): Where a copy of it lies, if not where the configuration says.
        options: Those of [`HUB_OPTIONS`] and [`MEMORY_OPTIONS`].

    Raises:
        `ValueError`: where another model is found than the one that was adapted.
        `OSError`: where it cannot be reached.
    """
    name = config.base_model_name_or_path if base_model is None else os.fspath(base_model)
    revision = (config.base_revision if base_model is None else None) or "main"
    hub_options = {"revision": revision, **{key: options[key] for key in HUB_OPTIONS if key in options}}
    try:
        digest = weights_digest(find_weights(name, **hub_options))
    except OSError as error:
        raise OSError(
            f"the detector needs the model it was trained on, {name!r} at {revision}, which cannot be had: {error} If it lies "
            "elsewhere, pass `base_model=`, or change `base_model_name_or_path` in the detector's config.json."
        ) from error
    if config.base_sha256 != digest:
        raise ValueError(
            f"{name!r} is not the model that this detector was trained on: its digest is {digest[:16]}, the detector's "
            f"{str(config.base_sha256)[:16]}. With another model the scores would be wrong."
        )
    return load_backbone(name, config.backbone_config, revision=revision, **options)


def peft_config(config: PreTrainedConfig) -> Any:
    """
    The adapters as peft describes them, for the plain base model; a trained encoder is one of its `modules_to_save`.

    Args:
        config (`AudioLLMDetectorConfig`): Of the detector, with `lora`.
    """
    backbone = find_backbone(config.backbone_config.model_type)
    modules = [path.rpartition(".")[2] for path in backbone.encoder_modules] if config.train_encoder else None
    return load_peft().LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora["r"],
        lora_alpha=config.lora["lora_alpha"],
        lora_dropout=config.lora["lora_dropout"],
        target_modules=backbone.lora_pattern(config.lora["target_modules"]),
        modules_to_save=modules,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.base_revision,
    )


def adapt(model: PreTrainedModel, config: PreTrainedConfig):
    """
    Freezes the base model but for what the detector trains: adapters beside its decoder's layers, and its encoder.

    Args:
        model (`PreTrainedModel`): The base model, changed in place.
        config (`AudioLLMDetectorConfig`): Of the detector.

    Raises:
        `ImportError`: without peft.
        `ValueError`: for a target that the decoder does not have.
    """
    backbone = find_backbone(config.backbone_config.model_type)
    model.requires_grad_(False)
    if config.lora is not None:
        settings = peft_config(config)
        settings.modules_to_save = None  # peft would copy the encoder
        matched = [name for name, _ in model.named_modules() if re.fullmatch(settings.target_modules, name)]
        missing = set(config.lora["target_modules"]) - {name.rpartition(".")[2] for name in matched}
        if missing:
            raise ValueError(
                f"the language model has no layers {sorted(missing)}; adapters stand beside some of "
                f"{', '.join(backbone.lora_targets)}."
            )
        inject_adapters(model, settings)
        for name, parameter in model.named_parameters():
            if is_adapter_key(name):  # small steps get lost in bfloat16
                parameter.data = parameter.data.float()
    for name, parameter in model.named_parameters():
        if config.train_encoder and backbone.in_encoder(name):
            parameter.requires_grad_(True)


def is_trained(name: str, config: PreTrainedConfig) -> bool:
    """Whether a tensor of the base model, by its name there, belongs to the checkpoint of a detector that leaves it out."""
    in_encoder = find_backbone(config.backbone_config.model_type).in_encoder(name)
    return is_adapter_key(name) or (config.train_encoder and in_encoder)


def read_trained(name_or_path: str | os.PathLike, **options) -> dict[str, torch.Tensor]:
    """The tensors of a detector's own checkpoint; `options` as in [`find_weights`]."""
    return {name: tensor for path in find_weights(name_or_path, **options) for name, tensor in load_file(path).items()}


def read_adapter(name_or_path: str | os.PathLike, **options) -> tuple[Any, dict[str, torch.Tensor]]:
    """
    A published low-rank adapter of the kind that peft writes: its configuration, and its tensors without peft's prefix.

    Args:
        options: `revision`, `subfolder` and those of [`HUB_OPTIONS`].

    Raises:
        `ValueError`: for adapters of a kind that a detector does not have.
        `OSError`: where there is none in safetensors.
    """
    settings = load_peft().PeftConfig.from_pretrained(name_or_path, **options)
    plain = settings.peft_type == "LORA" and settings.bias == "none" and settings.init_lora_weights in _PLAIN_STARTS
    if not plain or any(getattr(settings, name, None) for name in _MORE_THAN_PLAIN):
        raise ValueError(
            f"{str(name_or_path)!r} is no plain low-rank adapter (no biases, no DoRA, one rank and one scale for all, a base "
            "model as published): merge it into its base model with peft, and make a detector around the result."
        )
    tensors = load_file(cached_file(name_or_path, "adapter_model.safetensors", **options))
    return settings, {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}


def adapter_settings(config: PreTrainedConfig, settings: Any, tensors: Mapping[str, torch.Tensor]) -> dict:
    """
    What a detector's configuration says about a published adapter: `lora` and `train_encoder`.

    Args:
        config (`PreTrainedConfig`): Of the base model.
        settings (`LoraConfig`): Of the adapter.
        tensors (`Mapping[str, torch.Tensor]`): What it holds, as [`read_adapter`] names them.
    """
    backbone = find_backbone(config.model_type)
    targets = {name.split(".lora_A.")[0].rpartition(".")[2] for name in tensors if ".lora_A." in name}
    lora = {"r": settings.r, "lora_alpha": settings.lora_alpha, "lora_dropout": settings.lora_dropout}
    return {
        "lora": {**lora, "target_modules": sorted(targets)},
        "train_encoder": any(backbone.in_encoder(backbone.current_name(name)) for name in tensors),
    }


def detector_names(config: PreTrainedConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of an adapter or a trained encoder under the names they have in a detector; `config` as above."""
    backbone = find_backbone(config.model_type)
    renamed = {backbone.current_name(name): tensor for name, tensor in tensors.items()}
    return {
        "backbone." + re.sub(r"\.lora_([AB])\.weight$", r".lora_\1.default.weight", name): tensor
        for name, tensor in renamed.items()
        if not name.endswith(backbone.fixed)
    }


@torch.no_grad()
def overlay(model: PreTrainedModel, trained: Mapping[str, torch.Tensor], expected: Sequence[str]):
    """
    Puts trained tensors into a model that has those of its base.

    Raises:
        `ValueError`: where one is missing, left over, or of another shape.
    """
    own = model.state_dict(keep_vars=True)
    problems = {
        "missing tensors": sorted(set(expected) - set(trained)),
        "unexpected tensors": sorted(set(trained) - set(expected)),
        "tensors of another shape": [
            name for name in expected if name in trained and trained[name].shape != own[name].shape
        ],
    }
    found = [f"{len(names)} {kind} ({', '.join(names[:_SHOWN])})" for kind, names in problems.items() if names]
    if found:
        raise ValueError(f"the checkpoint does not fit the detector, so it is not used: {'; '.join(found)}.")
    for name in expected:
        own[name].copy_(trained[name])


def save_adapter(state: Mapping[str, torch.Tensor], config: PreTrainedConfig, folder: str | os.PathLike):
    """
    Writes the adapters as peft does, to be put on the plain base model by `PeftModel.from_pretrained`.

    Args:
        state (`Mapping[str, torch.Tensor]`): All tensors of the base model with its adapters, by their names there.
        config (`AudioLLMDetectorConfig`): Of the detector.
        folder (`str` or `os.PathLike`): Created if need be.
    """
    encoder = find_backbone(config.backbone_config.model_type).encoder_modules if config.train_encoder else ()
    whole = tuple(f"{path}." for path in encoder)  # peft wants the whole module, fixed positions too
    tensors = {name: value for name, value in state.items() if is_adapter_key(name) or name.startswith(whole)}
    write_adapter(peft_config(config), tensors, folder)
