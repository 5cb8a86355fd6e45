"""Recipes: a detector, its data and its training in one YAML file; see `trainers/recipes`.

A recipe has the sections `model`, `lora`, `data` and `paper`, the key `trainer` (`erm` or `mldg`), and, at the top level, any
field of that trainer's configuration. Nothing unknown is passed over, and no value is of another type than its field.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import TrainingArguments, Wav2Vec2Config, set_seed

from spooftrace.data_scripts.corpus import MissingAudio
from spooftrace.data_scripts.loading import load_corpus
from spooftrace.data_scripts.parsers.own import read_manifest
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.modeling.configuration_aasist import QUIET_WAV2VEC2
from spooftrace.trainers.clips import column, spelled_labels
from spooftrace.trainers.detection_config import DetectionConfig
from spooftrace.trainers.detection_trainer import DetectionTrainer, label_names
from spooftrace.trainers.mldg_config import MLDGConfig
from spooftrace.trainers.mldg_trainer import MLDGTrainer
from spooftrace.trainers.recipe_schema import RecipeError, check_keys, convert, parse_text


TRAINERS = {"erm": (DetectionConfig, DetectionTrainer), "mldg": (MLDGConfig, MLDGTrainer)}

# The front end takes no settings of its own from a recipe beyond these; the back-end's checks are AasistConfig's.
_BACKEND = {f.name: Any for f in fields(AasistConfig) if f.name in AasistConfig.__annotations__}
SECTIONS: dict[str, dict[str, Any]] = {
    "model": {**_BACKEND, "base_model": str | None, "base_revision": str},
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
    "paper": {"table": int, "row": str, "eer": dict[str, float], "average": float, "note": str},
}
del SECTIONS["model"]["lora"], SECTIONS["model"]["calibration"]
DATA_DEFAULTS = {"train": "train", "validation": "validation", "missing_audio": "error"}

OF_ONE_CALL = ("hub_token", "output_dir", "resume_from_checkpoint")
# Of transformers' own arguments, those that a run must not change on its way; steps, epochs, logs and saving it may.
DECISIVE = {"gradient_accumulation_steps", "learning_rate", "per_device_train_batch_size", "seed", "weight_decay"}

# Encoders whose architecture is AasistConfig's default, so that it need not be fetched to count parameters.
XLSR_300M_MODELS = ("facebook/wav2vec2-large-xlsr-53", "facebook/wav2vec2-xls-r-300m")

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


@dataclass(frozen=True)
class Recipe:
    """
    A recipe that was read and checked.

    Args:
        name: of the recipe, or of its file without the ending.
        trainer: `"erm"` or `"mldg"`.
        model: fields of [`AasistConfig`], and `base_model` and `base_revision` of a pretrained encoder.
        lora: settings of the adapters; `None` trains everything.
        data: where the clips come from, see the keys in `SECTIONS`.
        arguments: of the trainer's configuration.
        paper: what was published about this row: table, row, EERs in percent by corpus, and their average.
    """

    name: str
    trainer: Literal["erm", "mldg"]
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
        decisive = sorted((own | DECISIVE) - {"early_stopping_patience"})
        return sections + [name for name in decisive if self.argument(name) != other.argument(name)]


@dataclass(frozen=True)
class Clips:
    """Rows to train on and to validate with, as the trainers take them."""

    train: Any
    validation: Any


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
            another `trainer` leaves out what the file says to its own.

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
    content, wanted = dict(content), dict(overrides).get("trainer")
    if wanted is not None:  # what the file says to another trainer does not concern this one
        foreign = set() if wanted == content.get("trainer") else _foreign(wanted)
        content = {key: value for key, value in content.items() if key not in foreign} | {"trainer": wanted}
    known = _fields_of(content.get("trainer"))
    for key, text in overrides:
        _override(content, key, text, known)
    return _checked(path.stem, content, known)


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
    sections = {section: _section(section, content.get(section)) for section in SECTIONS}
    arguments = {key: convert(key, value, own[key]) for key, value in content.items() if key in own}
    data = {**DATA_DEFAULTS, **sections.pop("data")}
    adapters = sections.pop("lora")
    lora = None if content.get("lora") is None else adapters
    recipe = Recipe(name, content["trainer"], lora=lora, data=data, arguments=arguments, **sections)
    if "corpus" not in data:
        raise RecipeError("data.corpus is missing: the name of a corpus, or own for data of yours")
    if lora is not None and not recipe.model.get("base_model"):
        raise RecipeError("lora adapts a pretrained encoder: name it as model.base_model, or set lora to null")
    detector_config(recipe)  # a value that no model takes is an error of the recipe
    return recipe


def _section(section: str, content: Any) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise RecipeError(f"{section} has keys of its own, got {content!r}")
    check_keys(content, SECTIONS[section], section)
    return {key: convert(f"{section}.{key}", value, SECTIONS[section][key]) for key, value in content.items()}


# --- building --------------------------------------------------------------------------------------------------------


def detector_config(recipe: Recipe, tiny: bool = False) -> AasistConfig:
    """
    The configuration of the detector, without fetching anything for the usual encoders.

    Args:
        recipe: what to build.
        tiny: with an encoder and a back-end of a few thousand parameters, for a rehearsal; other front ends are small.

    Raises:
        RecipeError: for values that no detector has.
        OSError: where the encoder's configuration is needed and cannot be had.
    """
    own = {key: value for key, value in recipe.model.items() if key in _BACKEND}
    base = recipe.model.get("base_model")
    if base:
        own["frontend"] = "wav2vec2"
    if own.get("frontend") == "wav2vec2" and tiny:
        own |= {"wav2vec2_config": TINY_WAV2VEC2, **TINY_BACKEND}
    elif base and base not in XLSR_300M_MODELS:
        revision = recipe.model.get("base_revision", "main")
        own["wav2vec2_config"] = Wav2Vec2Config.from_pretrained(base, revision=revision, **QUIET_WAV2VEC2)
    try:
        return AasistConfig(lora=recipe.lora, **own)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise RecipeError(f"model or lora: {error}") from error


def count_parameters(config: AasistConfig) -> tuple[int, int]:
    """Trained parameters and all of them, counted without making any."""
    with torch.device("meta"):
        model = AasistForAudioClassification(config)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def build_model(recipe: Recipe, tiny: bool = False) -> AasistForAudioClassification:
    """
    The detector before training: a pretrained encoder where the recipe names one, and a fresh back-end.

    Raises:
        OSError: where the encoder cannot be had.
        ValueError: where it is not complete.
    """
    set_seed(recipe.argument("seed"))
    base = recipe.model.get("base_model")
    if tiny or not base:
        return AasistForAudioClassification(detector_config(recipe, tiny))
    own = {key: value for key, value in recipe.model.items() if key in _BACKEND and key != "frontend"}
    revision = recipe.model.get("base_revision", "main")
    return AasistForAudioClassification.from_wav2vec2_pretrained(base, revision=revision, lora=recipe.lora, **own)


def load_clips(recipe: Recipe) -> Clips:
    """
    The rows to train on and to validate with.

    Raises:
        RecipeError: without a folder, for an unknown column of the domains, and for rows that lack one of the labels.
        CorpusNotFoundError, ProtocolError, ValueError: as `load_corpus` and `read_manifest` raise them.
    """
    data = recipe.data
    if data.get("dir") is None and data["corpus"] != "own" and not (data.get("options") or {}).get("repo"):
        raise RecipeError(f"data.dir is missing: the folder of your copy of {data['corpus']} (--data.dir DIR)")
    clips = Clips(*(_rows(data, data[part]) for part in ("train", "validation")))
    for part in ("train", "validation"):
        rows = getattr(clips, part)
        counts = count_labels(rows)
        if not all(counts.values()):
            raise RecipeError(f"data.{part} {data[part]!r} has {_and(counts)}: it needs clips of both labels")
    if recipe.trainer == "mldg":
        _check_domains(clips.train, recipe.argument("domain_column"))
    return clips


def _rows(data: Mapping[str, Any], split: str) -> Any:
    options = data.get("options") or {}
    if data["corpus"] != "own":
        return load_corpus(
            data["corpus"],
            data.get("dir"),
            config=data.get("config"),
            split=split,
            missing_audio=data["missing_audio"],
            **options,
        )
    check_keys(options, ("allow_outside", "labels"), "data.options")
    # Without a folder, each part names a table or folder of its own.
    place, part = (split, None) if data.get("dir") is None else (data["dir"], split)
    return [{**row._asdict(), **row.extra} for row in read_manifest(place, split=part, **options)]


def count_labels(rows: Any) -> dict[str, int]:
    """Clips of each label."""
    spelled = spelled_labels(column(rows, "label"), label_names(rows))
    return {label: spelled.count(label) for label in ("bonafide", "spoof")}


def _check_domains(rows: Any, name: str) -> None:
    known = (
        rows.column_names if hasattr(rows, "column_names") else list(dict.fromkeys(key for row in rows for key in row))
    )
    if name not in known:
        raise RecipeError(f"no column {name!r} to take the domains from: domain_column is one of {', '.join(known)}")


def _and(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count:,} {label}" for label, count in counts.items())


def build_arguments(recipe: Recipe, output_dir: str | Path) -> DetectionConfig:
    """
    The trainer's configuration.

    Raises:
        ValueError: for values out of range, or that this machine cannot serve.
    """
    return TRAINERS[recipe.trainer][0](**{**recipe.arguments, "output_dir": str(output_dir)})


def build_trainer(
    recipe: Recipe,
    model: AasistForAudioClassification,
    clips: Clips,
    args: DetectionConfig,
) -> DetectionTrainer:
    """
    The trainer that the recipe names, ready to start.

    Raises:
        DomainError, LabelError, ValueError: for rows or arguments that cannot be trained with.
    """
    return TRAINERS[recipe.trainer][1](
        model,
        args,
        train_dataset=clips.train,
        eval_dataset=clips.validation,
        processing_class=AasistFeatureExtractor(window_samples=args.num_samples),
    )
