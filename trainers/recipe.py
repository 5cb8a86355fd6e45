"""Recipes: a model, its data and its training in one YAML file; see `trainers/recipes`.

A recipe has the sections `model`, `lora`, `data` and `paper`, the key `trainer`, and, at the top level, any field of that
trainer's configuration. Nothing unknown is passed over, and no value is of another type than its field.

- `trainer`: `erm` or `mldg` for a detector, `tracing` for a source tracer of either family, `sastnet` for SASTNet with its
  own loss, `audio_llm` for an audio language model as a detector. Their configurations are `DetectionConfig`, `MLDGConfig`,
  `TracingConfig`, `SASTNetTrainingConfig` and `AudioLLMTrainingConfig`.
- `model.family`: `aasist` (the default), `sastnet` or `audio_llm`.
- `model` of the family `aasist`: any field of `AasistConfig`, such as `frontend` and `tasks`; `base_model` and
  `base_revision`, a pretrained wav2vec 2.0 encoder.
- `model` of the family `sastnet`: any field of `SASTNetConfig`, such as `task`, `frontend` and `use_semantics`; `wav2vec2`,
  `whisper` and `audiomae`, the parts of `SASTNetForAudioClassification.from_parts`: names on the Hub or folders, where
  `wav2vec2` may be a W2V2-AASIST baseline whose tuned encoder is taken, and `audiomae` is a file.
- `model` of the family `audio_llm`: `base_model` and `base_revision`, the model to fine-tune; `prompt`, `system_prompt`,
  `label_words` and `train_encoder` of `AudioLLMDetectorConfig`; `dtype`, `attn_implementation` and `load_in_4bit` (QLoRA).
- `lora`: `r`, `lora_alpha`, `lora_dropout`, `target_modules`; of the families `aasist` and `audio_llm`.
- `data`: `corpus`, `dir`, `config`, `train`, `validation`, `missing_audio`, `options`. Of `codecfake-plus-cors`, `config` is
  the task that the lists are balanced for: `vq`, `aux` or `dec`.
- `paper`: `table`, `row`, `eer` (percent by corpus), `average`, `f1` (percent by task and test set), `note`.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from transformers import PreTrainedConfig, TrainingArguments

from spooftrace.data_scripts.corpus import MissingAudio
from spooftrace.trainers.audio_llm_config import AudioLLMTrainingConfig
from spooftrace.trainers.audio_llm_trainer import AudioLLMTrainer
from spooftrace.trainers.detection_config import DetectionConfig
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.mldg_config import MLDGConfig
from spooftrace.trainers.mldg_trainer import MLDGTrainer
from spooftrace.trainers.recipe_models import FAMILIES, MODEL_KEYS, WHISPER_SMALL_MODELS, Family, model_config
from spooftrace.trainers.recipe_schema import RecipeError, check_keys, convert, parse_text
from spooftrace.trainers.sastnet_config import SASTNetTrainingConfig
from spooftrace.trainers.sastnet_trainer import SASTNetTrainer
from spooftrace.trainers.tracing_config import TracingConfig
from spooftrace.trainers.tracing_trainer import TracingTrainer


TRAINERS = {
    "erm": (DetectionConfig, DetectionTrainer),
    "mldg": (MLDGConfig, MLDGTrainer),
    "tracing": (TracingConfig, TracingTrainer),
    "sastnet": (SASTNetTrainingConfig, SASTNetTrainer),
    "audio_llm": (AudioLLMTrainingConfig, AudioLLMTrainer),
}

SECTIONS: dict[str, dict[str, Any]] = {
    "model": {"family": Family, **MODEL_KEYS},
    "lora": {"r": int, "lora_alpha": int, "lora_dropout": float, "target_modules": list[str]},
    "data": {
        "corpus": str,
        "dir": str | None,
        "config": str | None,
        "train": str,
        "validation": str,
        "missing_audio": MissingAudio,
        "options": dict[str, Any],
    },
    "paper": {
        "table": int,
        "row": str,
        "eer": dict[str, float],
        "average": float,
        "f1": dict[str, dict[str, float]],
        "note": str,
    },
}
DATA_DEFAULTS = {"train": "train", "validation": "validation", "missing_audio": "error"}

OF_ONE_CALL = ("hub_token", "output_dir", "resume_from_checkpoint")
# Of transformers' own arguments, those that a run must not change on its way; steps, epochs, logs and saving it may.
DECISIVE = {"gradient_accumulation_steps", "learning_rate", "per_device_train_batch_size", "seed", "weight_decay"}
# The trainers' own that it may, too.
_INDECISIVE = {"early_stopping_patience", "feature_cache", "feature_cache_bytes"}


@dataclass(frozen=True)
class Recipe:
    """
    A recipe that was read and checked.

    Args:
        name: of the recipe, or of its file without the ending.
        trainer: one of `TRAINERS`.
        model: its family, fields of the family's configuration, and pretrained parts.
        lora: settings of the adapters; `None` trains everything.
        data: where the clips come from, see the keys in `SECTIONS`.
        arguments: of the trainer's configuration.
        paper: what was published about this row: see the keys in `SECTIONS`.
    """

    name: str
    trainer: Literal["erm", "mldg", "tracing", "sastnet", "audio_llm"]
    model: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, Any] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """A file that `load_recipe` reads as the same recipe, but for what concerns one call alone, and secrets."""
        sections = {"paper": self.paper, "model": self.model, "lora": self.lora, "data": self.data}
        kept = {key: value for key, value in self.arguments.items() if key not in OF_ONE_CALL}
        return yaml.safe_dump({**sections, "trainer": self.trainer, **kept}, sort_keys=False)

    @property
    def traces(self) -> bool:
        """Whether it trains a source tracer, not a detector."""
        return self.trainer in ("tracing", "sastnet")

    def model_config(self, tiny: bool = False) -> PreTrainedConfig:
        """The configuration of the model; see `recipe_models.model_config`."""
        return model_config(self.model, self.lora, tiny)

    def argument(self, name: str) -> Any:
        """A value of the trainer's configuration, by default the configuration's own."""
        found = next(f for f in fields(TRAINERS[self.trainer][0]) if f.name == name)
        default = found.default if found.default is not MISSING else found.default_factory()
        return self.arguments.get(name, default)

    def differences(self, other: "Recipe") -> list[str]:
        """In what two recipes differ such that one cannot go on with a checkpoint of the other."""
        sections = [name for name in ("trainer", "model", "lora") if getattr(self, name) != getattr(other, name)]
        here, there = ({**recipe.data, "dir": None} for recipe in (self, other))  # a corpus may be moved
        sections += ["data"] if here != there else []
        if self.trainer != other.trainer:
            return sections
        own = {f.name for f in fields(TRAINERS[self.trainer][0])} - {f.name for f in fields(TrainingArguments)}
        decisive = sorted((own | DECISIVE) - _INDECISIVE)
        return sections + [name for name in decisive if self.argument(name) != other.argument(name)]


def shipped_recipes() -> dict[str, Path]:
    """The recipes of this package by name."""
    folder = Path(str(resources.files("spooftrace.trainers"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> Recipe:
    """
    A recipe by its name or file, with some of its values replaced.

    Args:
        name_or_path: one of `shipped_recipes()`, or a YAML file.
        overrides: dotted key and text of a value, such as `("lora.r", "8")`; `("lora", "none")` trains everything, and
            another `trainer` leaves out what the file says to its own. What was published of the file's row is left out
            where they make another system of it.

    Raises:
        RecipeError: for a recipe that is not there, is no YAML, or has a key or a value that does not fit.
    """
    path = _find(str(name_or_path))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise RecipeError(f"{path} is no recipe: a YAML file with keys such as trainer and data.")
    original, content, wanted = content, dict(content), dict(overrides).get("trainer")
    if wanted is not None:  # what the file says to another trainer does not concern this one
        foreign = set() if wanted == content.get("trainer") else _foreign(wanted)
        content = {key: value for key, value in content.items() if key not in foreign} | {"trainer": wanted}
    known = _fields_of(content.get("trainer"))
    for key, text in overrides:
        _override(content, key, text, known)
    recipe = _checked(path.stem, content, known)
    if overrides and recipe.paper and _is_another(recipe, original):
        return replace(recipe, paper={})
    return recipe


def _is_another(recipe: Recipe, original: Mapping[str, Any]) -> bool:
    """Whether overrides made another system of what a file holds; a file may need them to be whole."""
    try:
        published = _read(recipe.name, original, _fields_of(original.get("trainer")))
    except RecipeError:
        return True
    return bool(recipe.differences(published))


def _find(name: str) -> Path:
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise RecipeError(f"no file {name}: name a recipe file, or a shipped one (`spooftrace train --list`).")
    near = difflib.get_close_matches(name, shipped, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else "`spooftrace train --list` shows them, and a file is one, too."
    raise RecipeError(f"no recipe is called {name!r}: {remedy}")


def _fields_of(trainer: Any) -> dict[str, Any]:
    """Fields of the trainer's configuration and their types."""
    if trainer not in TRAINERS:
        raise RecipeError(f"trainer is {' or '.join(map(repr, TRAINERS))}, got {trainer!r}")
    config = TRAINERS[trainer][0]
    hints = get_type_hints(config)
    return {f.name: hints[f.name] for f in fields(config) if f.init}


def _foreign(trainer: str) -> set[str]:
    """Fields that only other trainers have."""
    return {key for other in TRAINERS for key in _fields_of(other)} - _fields_of(trainer).keys()


def _known(own: Mapping[str, Any]) -> list[str]:
    dotted = [f"{section}.{key}" for section, keys in SECTIONS.items() for key in keys]
    return ["trainer", *SECTIONS, *dotted, *own]


def _override(content: dict[str, Any], key: str, text: str, own: Mapping[str, Any]) -> None:
    check_keys([key], _known(own))
    section, _, name = key.partition(".")
    if key == "trainer":
        return
    if section in SECTIONS:
        if not name and (section != "lora" or text.lower() not in ("none", "null")):
            raise RecipeError(f"{section} has keys of its own, such as {section}.{next(iter(SECTIONS[section]))}")
        part = {**(content.get(section) or {})}
        content[section] = {**part, name: parse_text(key, text, SECTIONS[section][name])} if name else None
    else:
        content[key] = parse_text(key, text, own[key])


def _checked(name: str, content: Mapping[str, Any], own: Mapping[str, Any]) -> Recipe:
    foreign = _foreign(content["trainer"])
    for key in content:
        if key in foreign:
            raise RecipeError(
                f"{key} is no setting of trainer {content['trainer']!r}: leave it out, or change trainer"
            )
    check_keys(content, ["trainer", *SECTIONS, *own])
    recipe = _read(name, content, own)
    if "corpus" not in recipe.data:
        raise RecipeError("data.corpus is missing: the name of a corpus, or own for data of yours")
    _check_model(recipe)
    return recipe


def _read(name: str, content: Mapping[str, Any], own: Mapping[str, Any]) -> Recipe:
    """A recipe whose values are of the right types; whether they fit together is not asked."""
    sections = {section: _section(section, content.get(section)) for section in SECTIONS}
    arguments = {key: convert(key, value, own[key]) for key, value in content.items() if key in own}
    data = {**DATA_DEFAULTS, **sections.pop("data")}
    adapters = sections.pop("lora")
    lora = None if content.get("lora") is None else adapters
    return Recipe(name, content["trainer"], lora=lora, data=data, arguments=arguments, **sections)


def _check_model(recipe: Recipe) -> None:
    """
    Raises:
        RecipeError: for values that no model takes, and a model that the trainer cannot train.
    """
    family = recipe.model.get("family", "aasist")
    check_keys(recipe.model, ["family", *FAMILIES[family].keys], f"model (family {family})")
    if recipe.lora is not None and not recipe.model.get("base_model"):
        raise RecipeError("lora adapts a pretrained encoder: name it as model.base_model, or set lora to null")
    config = recipe.model_config()
    if getattr(config, "use_semantics", False) and not recipe.model.get("whisper"):
        raise RecipeError(
            "model.whisper is missing: Whisper is never trained, and one of random weights tells nothing; name it, such as "
            f"{WHISPER_SMALL_MODELS[0]}, or set model.use_semantics to false"
        )
    if recipe.trainer == "sastnet" and family != "sastnet":
        raise RecipeError("trainer sastnet is for model.family sastnet: set it, or trainer to tracing")
    if (recipe.trainer == "audio_llm") != (family == "audio_llm"):
        raise RecipeError(
            f"trainer {recipe.trainer} with model.family {family}: audio_llm is a trainer and a family, both"
        )
    if recipe.trainer in ("erm", "mldg") and (family != "aasist" or config.tasks != ["bin"]):
        raise RecipeError(
            f"trainer {recipe.trainer} is for a detector: model.family {family} with the tasks {', '.join(config.tasks)} "
            "needs trainer tracing"
        )


def _section(section: str, content: Any) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise RecipeError(f"{section} has keys of its own, got {content!r}")
    check_keys(content, SECTIONS[section], section)
    return {key: convert(f"{section}.{key}", value, SECTIONS[section][key]) for key, value in content.items()}
