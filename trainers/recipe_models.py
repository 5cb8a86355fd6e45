"""The models that recipes name: their configurations, counted and built, also tiny ones for a rehearsal."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2Config,
    WhisperConfig,
    initialization,
    set_seed,
)

from spooftrace.modeling import (
    AasistConfig,
    AasistFeatureExtractor,
    AasistForAudioClassification,
    AudioLLMDetectorConfig,
    AudioLLMFeatureExtractor,
    AudioLLMForAudioClassification,
    SASTNetConfig,
    SASTNetFeatureExtractor,
    SASTNetForAudioClassification,
)
from spooftrace.modeling.configuration_aasist import QUIET_WAV2VEC2
from spooftrace.trainers import audio_llm_recipe
from spooftrace.trainers.recipe_schema import RecipeError


Family = Literal["aasist", "sastnet", "audio_llm"]


class ModelFamily(NamedTuple):
    """
    Models of one configuration class.

    Args:
        config: the class.
        model: what is trained.
        feature_extractor: the class of what is saved beside the model.
        parts: keys that name pretrained parts, with their types.
        only: fields of the configuration that a recipe may set; by default all.
    """

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    feature_extractor: type[FeatureExtractionMixin]
    parts: dict[str, Any]
    only: tuple[str, ...] | None = None

    @property
    def fields(self) -> set[str]:
        """Of the configuration; what comes of a training, and adapters, a recipe says elsewhere or not at all."""
        own = {f.name for f in fields(self.config) if f.name in self.config.__annotations__}
        return own - {"lora", "calibration"} if self.only is None else {*self.only}

    @property
    def keys(self) -> dict[str, Any]:
        """What a recipe's section `model` may hold, with the types. The configuration checks its fields itself."""
        return {**dict.fromkeys(sorted(self.fields), Any), **self.parts}


FAMILIES = {
    "aasist": ModelFamily(
        AasistConfig,
        AasistForAudioClassification,
        AasistFeatureExtractor,
        {"base_model": str | None, "base_revision": str},
    ),
    "sastnet": ModelFamily(
        SASTNetConfig,
        SASTNetForAudioClassification,
        SASTNetFeatureExtractor,
        dict.fromkeys(("wav2vec2", "whisper", "audiomae"), str | None),
    ),
    "audio_llm": ModelFamily(
        AudioLLMDetectorConfig,
        AudioLLMForAudioClassification,
        AudioLLMFeatureExtractor,
        audio_llm_recipe.PARTS,
        audio_llm_recipe.FIELDS,
    ),
}
MODEL_KEYS = {key: kind for family in FAMILIES.values() for key, kind in family.keys.items()}

# Parts whose architecture is the configurations' default, so that it need not be fetched to count parameters.
XLSR_300M_MODELS = ("facebook/wav2vec2-large-xlsr-53", "facebook/wav2vec2-xls-r-300m")
WHISPER_SMALL_MODELS = ("openai/whisper-small",)

# One frame every 20 ms, as in the real encoders, at a thousandth of their size.
TINY_WAV2VEC2 = {
    "conv_bias": True,
    "conv_dim": [8] * 7,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_conv_pos_embedding_groups": 2,
    "num_conv_pos_embeddings": 16,
    "num_hidden_layers": 2,
}
TINY_BACKEND = {"encoder_channels": [4, 4, 6, 6, 6, 6], "graph_dims": [6, 4]}
TINY_SASTNET = {
    **TINY_BACKEND,
    "aggregation_num_heads": 4,
    "decoder_hidden_size": 16,
    "decoder_intermediate_size": 32,
    "decoder_num_heads": 4,
    "decoder_num_layers": 1,
    "fusion_intermediate_size": 64,
    "fusion_num_heads": 4,
    "fusion_num_layers": 1,
    "mae_hidden_size": 32,
    "mae_intermediate_size": 64,
    "mae_num_heads": 4,
    "mae_num_layers": 1,
}
TINY_WHISPER = {
    "d_model": 32,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "encoder_layers": 1,
    "max_source_positions": 1500,
    "num_mel_bins": 80,
}


def model_config(model: Mapping[str, Any], lora: Mapping[str, Any] | None, tiny: bool = False) -> PreTrainedConfig:
    """
    The configuration of a recipe's model, without fetching anything for the usual parts.

    Args:
        model: the recipe's section.
        lora: the settings of the adapters, if there are any.
        tiny: with parts of a few thousand parameters, for a rehearsal; AASIST with other front ends is small.

    Raises:
        RecipeError: for values that no model has.
        OSError: where the configuration of a part is needed and cannot be had.
    """
    name = model.get("family", "aasist")
    own = {key: value for key, value in model.items() if key in FAMILIES[name].fields}
    complete = _complete_sastnet if name == "sastnet" else _complete_aasist
    try:
        if name == "audio_llm":
            return audio_llm_recipe.audio_llm_config(model, lora, tiny)
        own = complete(model, own, tiny)
        return FAMILIES[name].config(**own, **({} if lora is None else {"lora": dict(lora)}))
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise RecipeError(f"model or lora: {error}") from error


def _complete_aasist(model: Mapping[str, Any], own: dict[str, Any], tiny: bool) -> dict[str, Any]:
    base = model.get("base_model")
    if base:
        own["frontend"] = "wav2vec2"
    if own.get("frontend") == "wav2vec2" and tiny:
        return own | {"wav2vec2_config": TINY_WAV2VEC2, **TINY_BACKEND}
    if base and base not in XLSR_300M_MODELS:
        revision = model.get("base_revision", "main")
        own["wav2vec2_config"] = Wav2Vec2Config.from_pretrained(base, revision=revision, **QUIET_WAV2VEC2)
    return own


def _complete_sastnet(model: Mapping[str, Any], own: dict[str, Any], tiny: bool) -> dict[str, Any]:
    wav2vec2, whisper = model.get("wav2vec2"), model.get("whisper")
    hears, reads = own.get("frontend", "wav2vec2") == "wav2vec2", own.get("use_semantics", True)
    if tiny:
        own |= TINY_SASTNET
        own |= {"wav2vec2_config": TINY_WAV2VEC2} if hears else {}
        return own | ({"whisper_config": TINY_WHISPER, "whisper_context": None} if reads else {})
    if hears and wav2vec2 and wav2vec2 not in XLSR_300M_MODELS:
        own["wav2vec2_config"] = _wav2vec2_config(wav2vec2)
    if reads and whisper and whisper not in WHISPER_SMALL_MODELS:
        own["whisper_config"] = WhisperConfig.from_pretrained(whisper)
    return own


def _wav2vec2_config(name: str) -> PreTrainedConfig:
    """Of an encoder, or of the one in a detector."""
    kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    if kind == AasistConfig.model_type:
        return AasistConfig.from_pretrained(name).wav2vec2_config
    return Wav2Vec2Config.from_pretrained(name, **QUIET_WAV2VEC2)


def count_parameters(config: PreTrainedConfig) -> tuple[int, int]:
    """Trained parameters and all of them, counted without making any."""
    with torch.device("meta"), initialization.no_init_weights():
        model = next(family for family in FAMILIES.values() if isinstance(config, family.config)).model(config)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def build_model(
    model: Mapping[str, Any], lora: Mapping[str, Any] | None, seed: int, tiny: bool = False
) -> PreTrainedModel:
    """
    A recipe's model before training: pretrained parts where it names them, and the rest fresh.

    Args:
        model, lora, tiny: as for `model_config`.
        seed: of what is fresh.

    Raises:
        RecipeError: where there is no file of AudioMAE's weights.
        OSError: where a part cannot be had.
        ValueError: where one is not complete.
    """
    name = model.get("family", "aasist")
    if name == "audio_llm":
        return audio_llm_recipe.build_audio_llm(model, lora, seed, tiny)
    set_seed(seed)
    parts = {key: value for key, value in model.items() if key in FAMILIES[name].parts and value is not None}
    if tiny or (name == "aasist" and "base_model" not in parts):
        return FAMILIES[name].model(model_config(model, lora, tiny))
    own = {key: value for key, value in model.items() if key in FAMILIES[name].fields}
    if name == "aasist":
        own.pop("frontend", None)
        revision = parts.get("base_revision", "main")
        base = parts["base_model"]
        try:
            return AasistForAudioClassification.from_wav2vec2_pretrained(base, revision=revision, lora=lora, **own)
        except OSError as error:
            remedy = "--model.base_model FOLDER takes a copy on this machine"
            raise OSError(f"the encoder {base} cannot be had: {error} {remedy}") from error
    if missing := missing_file(model):
        raise RecipeError(missing)
    return SASTNetForAudioClassification.from_parts(**parts, **own)


def missing_file(model: Mapping[str, Any]) -> str | None:
    """What to do about a part that has to be a file and is not there: nothing fetches AudioMAE's weights."""
    name = model.get("audiomae")
    if name is None or Path(name).is_file():
        return None
    return f"model.audiomae is no file: {name}; pass --model.audiomae FILE, or none to begin at random"


def trainer_parts(section: Mapping[str, Any], model: PreTrainedModel, window_samples: int) -> dict[str, Any]:
    """
    What a trainer takes beside a recipe's model: its feature extractor, which is saved with it.

    Args:
        section: of the recipe.
        model: by [`build_model`].
        window_samples: of the clips that it is trained on.
    """
    name = section.get("family", "aasist")
    if name == "audio_llm":
        return audio_llm_recipe.audio_llm_parts(model, window_samples)
    return {"processing_class": FAMILIES[name].feature_extractor(window_samples=window_samples)}


def model_text(model: Mapping[str, Any], lora: Mapping[str, Any] | None) -> str:
    """A recipe's model in words."""
    if model.get("family") == "audio_llm":
        return audio_llm_recipe.audio_llm_text(model, lora)
    config = model_config(model, lora)
    if model.get("family", "aasist") == "sastnet":
        named = {
            key: Path(str(value)).name for key, value in model.items() if key in FAMILIES["sastnet"].parts and value
        }
        text = f"SASTNet, front end {config.frontend}{'' if config.use_semantics else ', without Whisper'}"
        text += "".join(f", {key} from {value}" for key, value in named.items())
    else:
        base = model.get("base_model")
        text = f"AASIST behind {base}" if base else f"AASIST, front end {config.frontend}"
    if config.tasks != ["bin"]:
        text += f", {' and '.join(config.tasks)}"
    if lora is None:
        frozen = getattr(config, "use_semantics", False)
        return f"{text}, all of it trained{' but Whisper' if frozen else ''}"
    adapters = config.lora
    return (
        f"{text}, adapters of rank {adapters['r']} (alpha {adapters['lora_alpha']}) on "
        f"{', '.join(adapters['target_modules'])}"
    )
