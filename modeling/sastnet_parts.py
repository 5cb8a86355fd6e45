"""Pretrained parts of SASTNet: wav2vec 2.0 or a detector's tuned encoder, Whisper's encoder, AudioMAE's weights."""

import argparse
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedConfig, Wav2Vec2Config, Wav2Vec2Model, WhisperModel

from .configuration_aasist import QUIET_WAV2VEC2
from .lora import load_encoder
from .modeling_aasist import AasistForAudioClassification


AUDIOMAE_LICENSE = {"AudioMAE": "cc-by-nc-4.0"}

# Names within a layer of AudioMAE, and of the autoencoder in published SASTNets, -> ours. The layers of AudioMAE's decoder are
# of another kind (Swin v2 with cosine attention) and share these names; what only they have stays behind, as in the public
# code.
AUTOENCODER_LAYER = {
    "norm1": "norm1",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.output",
    "norm2": "norm2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}


@dataclass
class Parts:
    """
    What was found.

    Args:
        configs: fields of the model's configuration that follow from it.
        licenses: of the weights, by their source, where they bind what is made of them.
        wav2vec2, whisper: modules to take the weights of.
        audiomae: tensors by AudioMAE's names.
    """

    configs: dict = field(default_factory=dict)
    licenses: dict[str, str] = field(default_factory=dict)
    wav2vec2: nn.Module | None = None
    whisper: nn.Module | None = None
    audiomae: Mapping[str, torch.Tensor] | None = None

    def complete(self, fields: Mapping) -> dict:
        """
        Fields of a model's configuration, with those that follow from the parts.

        Raises:
            `ValueError`: for a part's configuration among them.
        """
        if twice := sorted(self.configs.keys() & fields.keys()):
            raise ValueError(f"leave out {', '.join(twice)}: the part that is loaded has its own configuration.")
        licenses = {**(fields.get("weight_licenses") or {}), **self.licenses}
        return {**fields, **self.configs, "weight_licenses": licenses or None}


def find_parts(
    wav2vec2: str | os.PathLike | None,
    whisper: str | os.PathLike | None,
    audiomae: str | os.PathLike | None,
    wav2vec2_revision: str = "main",
    whisper_revision: str = "main",
    **hub_options,
) -> Parts:
    """
    Loads what is named; `hub_options` are `token`, `cache_dir` and the like.

    Raises:
        `ValueError`: for a repository of another kind, or weights that are not all there.
        `OSError`: for one that cannot be found or reached.
    """
    parts = Parts()
    if wav2vec2 is not None:
        parts.wav2vec2 = _load_wav2vec2(wav2vec2, revision=wav2vec2_revision, **hub_options)
        parts.configs["wav2vec2_config"] = parts.wav2vec2.config
    if whisper is not None:
        parts.whisper = _load_whisper(whisper, revision=whisper_revision, **hub_options)
        parts.configs["whisper_config"] = parts.whisper.config
    if audiomae is not None:
        parts.audiomae = _load_audiomae(audiomae)
        parts.licenses = dict(AUDIOMAE_LICENSE)
    return parts


def put_parts(model: nn.Module, parts: Parts):
    """
    Copies the weights that were found into a [`SASTNetModel`] that was made with their configurations.

    Raises:
        `ValueError`: for weights of AudioMAE that are missing or of another shape.
    """
    if parts.wav2vec2 is not None:
        model.wav2vec2.load_state_dict(parts.wav2vec2.state_dict())
    if parts.whisper is not None:
        model.semantics.encoder.load_state_dict(parts.whisper.state_dict())
    if parts.audiomae is not None:
        put_audiomae(model.mae, parts.audiomae)


def _load_wav2vec2(name_or_path: str | os.PathLike, **options) -> Wav2Vec2Model:
    kind = _model_type(name_or_path, **options)
    if kind == "aasist":
        detector = AasistForAudioClassification.from_pretrained(name_or_path, dtype=torch.float32, **options)
        if detector.config.frontend != "wav2vec2":
            raise ValueError(
                f"{str(name_or_path)!r} has no wav2vec 2.0: its front end is {detector.config.frontend!r}."
            )
        detector.merge_lora()
        return detector.wav2vec2
    if kind != "wav2vec2":
        raise ValueError(
            f"{str(name_or_path)!r} is a {kind!r} model; needed is wav2vec 2.0 or a detector on top of it."
        )
    config = Wav2Vec2Config.from_pretrained(name_or_path, **QUIET_WAV2VEC2, **options)
    return load_encoder(name_or_path, config, **options)


def _load_whisper(name_or_path: str | os.PathLike, **options) -> nn.Module:
    if (kind := _model_type(name_or_path, **options)) != "whisper":
        raise ValueError(f"{str(name_or_path)!r} is a {kind!r} model; needed is Whisper.")
    model, report = WhisperModel.from_pretrained(
        name_or_path, dtype=torch.float32, output_loading_info=True, **options
    )
    missing = [key for key in report["missing_keys"] if key.startswith("encoder.")]
    if missing:
        raise ValueError(f"{str(name_or_path)!r} lacks weights of Whisper's encoder: {sorted(missing)[:8]}.")
    return model.encoder


def _model_type(name_or_path: str | os.PathLike, **options) -> str | None:
    return PreTrainedConfig.get_config_dict(name_or_path, **options)[0].get("model_type")


def _load_audiomae(path: str | os.PathLike) -> Mapping[str, torch.Tensor]:
    """The tensors of `mae_pretrained_base.pth`; a pickle that asks for code is refused without running any."""
    try:
        # Beside the weights, AudioMAE's training script saves its command line, which is plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{str(path)!r} is damaged, or a pickle that runs code when it is loaded, which is never done here: {reason}"
        ) from error
    state = state.get("model", state) if isinstance(state, Mapping) else {}
    weights = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if "cls_token" not in weights or not any(key.startswith("blocks.") for key in weights):
        raise ValueError(f"{str(path)!r} does not hold AudioMAE's weights (no 'cls_token' or 'blocks.*').")
    return weights


@torch.no_grad()
def put_audiomae(mae: nn.Module, state: Mapping[str, torch.Tensor]):
    """
    Copies AudioMAE's encoder layers, last normalisation and class token, and into every decoder its mask token, prediction,
    normalisation and first layers. Patch projection, positions and decoder embedding keep their own.

    Args:
        mae: a [`MultiDecoderMAE`].
        state: tensors by AudioMAE's names.

    Raises:
        `ValueError`: for tensors that are missing or of another shape.
    """
    encoder = {"cls_token": "cls_token", "norm.weight": "norm.weight", "norm.bias": "norm.bias"}
    decoder = {"mask_token": "mask_token"}
    for kind in ("weight", "bias"):
        decoder |= {f"decoder_norm.{kind}": f"norm.{kind}", f"decoder_pred.{kind}": f"prediction.{kind}"}
    encoder |= _layer_names("blocks", len(mae.encoder.layers))
    decoder |= _layer_names("decoder_blocks", len(mae.decoders[0].layers))
    for module, names in ((mae.encoder, encoder), *((each, decoder) for each in mae.decoders)):
        own = module.state_dict(keep_vars=True)
        for theirs, ours in names.items():
            found = state.get(theirs)
            if found is None or found.shape != own[ours].shape:
                shape = None if found is None else tuple(found.shape)
                raise ValueError(f"AudioMAE's {theirs!r} has the shape {shape}, needed is {tuple(own[ours].shape)}.")
            own[ours].copy_(found)


def _layer_names(prefix: str, count: int) -> dict[str, str]:
    return {
        f"{prefix}.{index}.{theirs}.{kind}": f"layers.{index}.{ours}.{kind}"
        for index in range(count)
        for theirs, ours in AUTOENCODER_LAYER.items()
        for kind in ("weight", "bias")
    }
