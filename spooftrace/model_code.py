"""The code that travels with a model, for folders that hold none: what `save_pretrained` would have copied, without the weights."""

import inspect
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification
from transformers.dynamic_module_utils import get_relative_import_files

import spooftrace.modeling
from spooftrace.model_facts import read_json


EXTRACTOR = "preprocessor_config.json"


def add_code(folder: Path) -> list[str]:
    """
    Copies the code of a model of ours into its folder and names it in both configurations.

    Returns:
        The names of the files that were written; empty where transformers itself has the code.

    Raises:
        ValueError: for a model that neither this package nor transformers knows, without code.
    """
    config = read_json(folder / "config.json")
    extractor = read_json(folder / EXTRACTOR)
    try:
        known = AutoConfig.for_model(config["model_type"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{folder} is a {config.get('model_type')!r} model, which neither spooftrace nor transformers knows, and its "
            "code is not there: save it with `save_pretrained`"
        ) from error
    if not _is_ours(type(known)):
        return []
    models = {auto: auto._model_mapping[type(known)] for auto in (AutoModel, AutoModelForAudioClassification)}
    classes = {"AutoConfig": type(known), **{auto.__name__: model for auto, model in models.items()}}
    written = _copy([*classes.values(), _extractor_class(extractor)], folder)
    config["auto_map"] = {auto: _entry(found) for auto, found in classes.items()}
    extractor["auto_map"] = {"AutoFeatureExtractor": _entry(_extractor_class(extractor))}
    _write(folder / "config.json", config)
    _write(folder / EXTRACTOR, extractor)
    return written


def _extractor_class(settings: dict[str, Any]) -> type:
    name = settings.get("feature_extractor_type")
    found = getattr(spooftrace.modeling, str(name), None)
    if found is None:
        raise ValueError(f"{EXTRACTOR} names the feature extractor {name!r}, which spooftrace does not have")
    return found


def _is_ours(found: type) -> bool:
    return found.__module__.startswith("spooftrace.modeling.")


def _entry(found: type) -> str:
    return f"{found.__module__.rpartition('.')[2]}.{found.__name__}"


def _copy(classes: Iterable[type], folder: Path) -> list[str]:
    files = {Path(inspect.getfile(found)) for found in classes}
    files |= {Path(name) for file in list(files) for name in get_relative_import_files(file)}
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return sorted(file.name for file in files)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
