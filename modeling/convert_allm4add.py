"""Adapters that ALLM4ADD's public code has trained -> a detector that names its base model and loads in one call.

That code saves peft's adapter folder, and in `non_lora_trainables.bin` beside it the audio encoder where that was trained.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from .audio_llm_adapters import read_backbone_config
from .audio_llm_backbones import Backbone, find_backbone
from .configuration_audio_llm import DEFAULT_PROMPT
from .convert_common import ConversionError, ConversionReport, read_checkpoint, rename_state_dict, save_converted
from .feature_extraction_audio_llm import AudioLLMFeatureExtractor
from .lora import HUB_OPTIONS
from .modeling_audio_llm import AudioLLMForAudioClassification


CONFIG, ADAPTERS, OLD_ADAPTERS = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
ENCODER = "non_lora_trainables.bin"
PREFIX = "base_model.model."


def read_encoder(path: Path, backbone: Backbone, report: ConversionReport) -> dict[str, torch.Tensor]:
    """
    A trained audio encoder by the names of the plain base model; none where there is no such file.

    Raises:
        `ConversionError`: for a file of anything but tensors, or with tensors of other parts than the encoder.
    """
    if not path.is_file():
        return {}

    def rename(key: str) -> tuple[str | None, str | None]:
        name = backbone.current_name(key.removeprefix(PREFIX))
        if backbone.in_encoder(name):
            return name, None
        fixed = bool(backbone.fixed) and name.endswith(backbone.fixed)
        return None, "Fixed positions, which the base model has." if fixed else None

    return rename_state_dict(read_checkpoint(path), rename, report)


@contextmanager
def in_safetensors(folder: Path) -> Iterator[Path]:
    """
    A folder with the adapter in safetensors: this one, or a copy of it for as long as needed.

    Raises:
        `ConversionError`: for a folder that holds no adapter, or anything but tensors in it.
    """
    missing = [] if (folder / CONFIG).is_file() else [CONFIG]
    if not any((folder / name).is_file() for name in (ADAPTERS, OLD_ADAPTERS)):
        missing.append(f"{ADAPTERS} (or {OLD_ADAPTERS})")
    if missing:
        raise ConversionError(f"{str(folder)!r} holds no adapter of peft's: it lacks {' and '.join(missing)}.")
    if (folder / ADAPTERS).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        shutil.copy(folder / CONFIG, copy)
        tensors = read_checkpoint(folder / OLD_ADAPTERS)
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, Path(copy) / ADAPTERS)
        yield Path(copy)


def convert_allm4add(
    adapter_dir: str | os.PathLike,
    base_model: str | os.PathLike,
    revision: str = "main",
    prompt: str = DEFAULT_PROMPT,
    **kwargs,
) -> tuple[AudioLLMForAudioClassification, ConversionReport]:
    """
    A detector of a published adapter, and what became of every tensor.

    Args:
        adapter_dir: With `adapter_config.json`, `adapter_model.safetensors` or `.bin`, and `non_lora_trainables.bin` where
            the encoder was trained.
        base_model: What it was trained on; of Qwen-Audio v1, the folder that `spooftrace convert qwen-audio` has made.
        revision: Of the base model.
        prompt: The question it was trained on, which the files don't tell.
        kwargs: As `AudioLLMForAudioClassification.from_backbone_pretrained` takes them.

    Raises:
        `ConversionError`: for files that are missing, hold code, or do not fit the base model in every tensor.
        `OSError`: where the base model cannot be had.
    """
    folder = Path(adapter_dir)
    hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    config = read_backbone_config(base_model, revision=revision, **hub_options)
    report = ConversionReport(source=folder.name, model=f"ALLM4ADD, {config.model_type}")
    encoder = read_encoder(folder / ENCODER, find_backbone(config.model_type), report)
    with in_safetensors(folder) as adapter:
        tensors = read_checkpoint(adapter / ADAPTERS)
        try:
            model = AudioLLMForAudioClassification.from_adapter_pretrained(
                adapter, base_model, encoder_state=encoder, revision=revision, prompt=prompt, **kwargs
            )
        except ValueError as error:
            raise ConversionError(f"{str(folder)!r} does not fit {str(base_model)!r}: {error}") from error
    report.mapped |= {key: key.removeprefix(PREFIX) for key in tensors}
    named = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    _note(report, model, encoder, named)
    return model.eval(), report


def _note(
    report: ConversionReport,
    model: AudioLLMForAudioClassification,
    encoder: Mapping[str, torch.Tensor],
    named: str | None,
):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    report.num_parameters = sum(parameter.numel() for parameter in trained)
    config, words, lora = model.config, model.config.label_words, model.config.lora
    source = f"as it was trained ({len(encoder)} tensors)" if encoder else "the base model's"
    report.notes += [
        f"Adapters of rank {lora['r']} (alpha {lora['lora_alpha']}) on {', '.join(lora['target_modules'])}.",
        f"The audio encoder is {source}.",
        f"Question {config.prompt!r}, answers {words['bonafide']!r} and {words['spoof']!r}: the files don't tell them.",
        f"The base model stays out and is named: {config.base_model_name_or_path!r}, digest {config.base_sha256[:16]}.",
        f"The adapter calls its base model {named!r}. Any of that size fits; only that one gives the right scores.",
    ]


def save_allm4add(
    model: AudioLLMForAudioClassification,
    report: ConversionReport,
    folder: str | os.PathLike,
    overwrite: bool = False,
    token: str | None = None,
):
    """
    Writes the detector without its base model to `folder`, whole or not at all; `token` is for the base model's settings.

    Raises:
        `ConversionError`: if the folder exists and is not empty, unless `overwrite`.
    """
    config = model.config
    base, revision = config.base_model_name_or_path, config.base_revision or "main"
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(base, revision=revision, token=token)
    save_converted(model, extractor, report, folder, overwrite)


__all__ = ["convert_allm4add", "save_allm4add"]
