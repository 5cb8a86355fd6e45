"""Low-rank adapters in a frozen wav2vec 2.0, put there by peft, and detector repositories that leave the encoder out.

Hu et al. 2021 (arXiv 2106.09685); for detectors of fake speech, arXiv 2502.10838. A checkpoint holds what was trained and
names the encoder it was trained on, which is fetched, compared by its digest and put back on loading.
"""

import hashlib
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.utils import cached_file, is_peft_available


# SpecAugment's vector serves pretraining alone; published encoders often leave it out.
UNUSED = "masked_spec_embed"

ADAPTER_FOLDER = "adapter"
# Of `from_pretrained`, for the model below the adapters as well as for the detector.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")
_MISSING_PEFT = "this model has low-rank adapters, which need peft: pip install peft"


def load_peft() -> ModuleType:
    """peft, loaded only where there are adapters: it takes a second, and brings accelerate along."""
    if is_peft_available():
        import peft

        return peft
    raise ImportError(_MISSING_PEFT)


def _peft_config(lora: Mapping) -> Any:
    return load_peft().LoraConfig(
        r=lora["r"],
        lora_alpha=lora["lora_alpha"],
        lora_dropout=lora["lora_dropout"],
        target_modules=lora["target_modules"],
        base_model_name_or_path=lora["base_model_name_or_path"],
        revision=lora["base_revision"],
    )


def add_lora(encoder: Wav2Vec2Model, lora: Mapping):
    """
    Puts an adapter beside each of the named projections of every layer; nothing else in the encoder will be trained.

    Raises:
        `ImportError`: without peft.
    """
    inject_adapters(encoder, _peft_config(lora))


def inject_adapters(model: nn.Module, config: Any):
    """Freezes a model and puts the adapters of a peft configuration into it."""
    model.requires_grad_(False)
    load_peft().inject_adapter_in_model(config, model)
    for name, module in model.named_modules():
        # peft has initialised them, B with zeros: transformers must not do it again with the encoder's own law. While
        # a checkpoint is loaded they are on "meta" and unmarked, so that a missing one is reported.
        if "lora_" in name and all(not parameter.is_meta for parameter in module.parameters()):
            module._is_hf_initialized = True


def is_adapter_key(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def adapted_key(name: str, targets: list[str]) -> str:
    """What a parameter of the plain encoder is called once the adapters are in: `q_proj.weight` moves one level down."""
    owner, _, leaf = name.rpartition(".")
    adapted = ".attention." in name and owner.rpartition(".")[2] in targets
    return f"{owner}.base_layer.{leaf}" if adapted else name


def encoder_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of a plain encoder's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name != UNUSED:
            digest.update(f"{name} {tuple(state[name].shape)}\n".encode())
            digest.update(state[name].detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def resolve_commit(name_or_path: str | os.PathLike, revision: str, **hub_options) -> str | None:
    """The commit that a branch or tag of a repository on the Hub stands for; `None` for a folder."""
    if os.path.isdir(name_or_path):
        return None
    return os.path.basename(
        os.path.dirname(cached_file(name_or_path, "config.json", revision=revision, **hub_options))
    )


def load_encoder(name_or_path: str | os.PathLike, config: Wav2Vec2Config | dict, **hub_options) -> Wav2Vec2Model:
    """
    A wav2vec 2.0 encoder in float32, on the CPU.

    Raises:
        `ValueError`: if the repository lacks any weight of the encoder, or holds another architecture.
        `OSError`: if it cannot be found or reached.
    """
    encoder, report = Wav2Vec2Model.from_pretrained(
        name_or_path,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **hub_options,
    )
    missing = set(report["missing_keys"]) - {UNUSED}
    if missing or report["mismatched_keys"]:
        raise ValueError(
            f"{str(name_or_path)!r} is no complete wav2vec 2.0 encoder of this size: missing {sorted(missing)[:8]}, of "
            f"another shape {sorted(entry[0] for entry in report['mismatched_keys'])[:8]}."
        )
    return encoder


def base_state(lora: Mapping, config: Wav2Vec2Config, **hub_options) -> dict[str, torch.Tensor]:
    """
    The tensors of the encoder that adapters were trained on, under the names they have beside the adapters.

    Args:
        lora (`Mapping`): Complete settings, with the encoder's name, revision and digest.
        config (`Wav2Vec2Config`): Of the encoder.
        hub_options: `token`, `cache_dir` and the like.

    Raises:
        `ValueError`: where another encoder is found than the one trained on, or none is named.
        `OSError`: where it cannot be reached.
    """
    name = lora["base_model_name_or_path"]
    if name is None:
        raise ValueError(
            "the checkpoint leaves its encoder out and does not name it: `lora['base_model_name_or_path']`."
        )
    try:
        encoder = load_encoder(name, config, revision=lora["base_revision"] or "main", **hub_options)
    except OSError as error:
        raise OSError(
            f"the detector needs the encoder it was trained on, {name!r} at {lora['base_revision'] or 'main'}, which cannot "
            f"be had: {error} If it lies elsewhere, pass `base_model=`, or change `lora` in the detector's config.json."
        ) from error
    state = encoder.state_dict()
    digest = encoder_digest(state)
    if lora["base_sha256"] is None:
        raise ValueError(
            "the checkpoint does not say the digest of its encoder, `lora['base_sha256']`: any would be taken."
        )
    if lora["base_sha256"] != digest:
        raise ValueError(
            f"{name!r} is not the encoder that these adapters were trained on: its digest is {digest[:16]}, theirs "
            f"{lora['base_sha256'][:16]}. With another encoder the scores would be wrong."
        )
    return {adapted_key(key, lora["target_modules"]): value for key, value in state.items()}


def save_adapter(model: nn.Module, lora: Mapping, folder: str | os.PathLike, state: Mapping | None = None):
    """Writes the adapters as peft does, to be put on the plain encoder by `PeftModel.from_pretrained`."""
    tensors = {
        name.rpartition("wav2vec2.")[2]: value
        for name, value in (model.state_dict() if state is None else state).items()
        if is_adapter_key(name)
    }
    write_adapter(_peft_config(lora), tensors, folder)


def write_adapter(config: Any, tensors: Mapping[str, torch.Tensor], folder: str | os.PathLike):
    """Writes a peft configuration and what was trained, by its names in the plain model with adapters."""
    os.makedirs(folder, exist_ok=True)
    config.inference_mode = True
    config.save_pretrained(folder)
    named = {
        f"base_model.model.{name.replace('.default.', '.')}": value.detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    save_file(named, os.path.join(folder, "adapter_model.safetensors"), metadata={"format": "pt"})


def remove_adapter(folder: str | os.PathLike):
    """Takes away what [`write_adapter`] has written: beside a model that is whole, it would be put on it once more."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if os.path.isfile(path := os.path.join(folder, name)):
            os.remove(path)
    if os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)


@torch.no_grad()
def merge_lora(encoder: nn.Module):
    """Adds every adapter to the projection it stands beside, takes it away, and frees the encoder for training."""
    for name, module in list(encoder.named_modules()):
        if hasattr(module, "base_layer"):
            module.merge()
            owner, _, leaf = name.rpartition(".")
            setattr(encoder.get_submodule(owner), leaf, module.get_base_layer())
    encoder.requires_grad_(True)
