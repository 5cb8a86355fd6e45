"""Model and feature extractor from a folder or the Hub: safetensors only, nothing missing, nothing left over."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file, find_adapter_config_file, logging

import spooftrace.modeling  # noqa: F401  registers our models with the Auto classes
from spooftrace.open_set import OPEN_SET_FILE


# Problems of one kind that a message lists before it says how many more there are.
MAX_LISTED = 8

# transformers would load the base model that the adapter names, and would not say what is missing from it.
_ADAPTER_REFUSAL = (
    "{} holds a bare adapter (adapter_config.json), which does not tell its whole model: merge it first."
)

_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


class CheckpointError(ValueError):
    """A checkpoint that must not be scored with: tensors missing, unexpected or of another shape, or no classifier."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """
    A model and what belongs to it.

    Args:
        model: in evaluation mode.
        feature_extractor: its own.
        name: how results name it.
        revision: its version in results, the commit on the Hub or a digest of local weights.
        folder: where its files lie, its own or one of the Hub's cache.
    """

    model: PreTrainedModel
    feature_extractor: FeatureExtractionMixin
    name: str
    revision: str | None
    folder: Path


def default_folder(name: str = "default") -> Path:
    """A model that is shipped inside the package: the detector, or the `"tracer"`."""
    folder = Path(str(resources.files("spooftrace.modeling"))) / "checkpoints" / name
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is missing, so the installation is incomplete: install spooftrace again.")
    return folder


def bonafide_index(config: PreTrainedConfig, bonafide_label: str = "bonafide") -> int:
    """Index of genuine speech among the logits, read from `config.label2id`."""
    labels = {label: int(index) for label, index in (config.label2id or {}).items()}
    listed = ", ".join(f"{index}: {label!r}" for label, index in sorted(labels.items(), key=lambda item: item[1]))
    if bonafide_label not in labels:
        raise CheckpointError(
            f"The model has no label {bonafide_label!r}; its labels are {{{listed}}}. Name the one for genuine speech with "
            "`bonafide_label=` (`--bonafide-label` on the command line)."
        )
    names = {int(index): label for index, label in config.id2label.items()}
    if len(labels) < 2 or names != {index: label for label, index in labels.items()}:
        raise CheckpointError(
            f"`label2id` {{{listed}}} and `id2label` {names} of the model's configuration must be inverses of each other, "
            "with at least two labels: correct config.json."
        )
    return labels[bonafide_label]


def load_checkpoint(
    model: str | os.PathLike | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    bonafide_label: str = "bonafide",
    shipped: str = "default",
    check: Callable[[PreTrainedConfig], Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **hub_options: Any,
) -> LoadedCheckpoint:
    """
    Loads an audio classifier in evaluation mode, with its feature extractor.

    Args:
        model: a folder, or a repository on the Hub; `None` is the model of the name `shipped` inside the package.
        check: raises where a configuration is not what the caller needs, before a large download; by default where there
            is no label `bonafide_label`.
        dtype: of the weights, whatever the checkpoint's own.

    Raises:
        CheckpointError: see there; the message lists what is wrong.
        OSError: where the model cannot be found or reached.
    """
    folder = _find_folder(default_folder(shipped) if model is None else model)
    is_local, name = folder is not None, os.fspath(folder or model)
    with _quiet(everything=is_local):
        if not is_local:
            folder = _resolve_snapshot(name, revision, hub_options)
        commit = None if is_local else folder.name
        options = {"revision": commit, "trust_remote_code": trust_remote_code, **hub_options}
        config = _load_config(name, options)
        bonafide_index(config, bonafide_label) if check is None else check(config)  # before a large download
        network = _load_model(name, config, dtype, options, hub_options)
        feature_extractor = _load_feature_extractor(name, options)
    identity = _weights_digest(folder) if is_local else commit
    return LoadedCheckpoint(network, feature_extractor, shipped if model is None else name, identity, folder)


def find_companion(loaded: LoadedCheckpoint, file_name: str, **hub_options: Any) -> Path | None:
    """
    A file that may lie beside the weights of a model, of the same commit on the Hub; `None` where there is none.

    Raises:
        OSError: where the Hub cannot be reached.
    """
    if (path := loaded.folder / file_name).is_file():
        return path
    if loaded.folder.name != loaded.revision:  # no folder of the Hub's cache
        return None
    found = cached_file(
        loaded.name,
        file_name,
        revision=loaded.revision,
        _raise_exceptions_for_missing_entries=False,
        **hub_options,
    )
    return None if found is None else Path(found)


def weights_file_sha256(folder: Path) -> str:
    """SHA-256 (64 hex digits) of a model's weights: `model.safetensors`, or its parts in their order."""
    return _sha256_of(sorted(folder.glob("model*.safetensors")))


def _find_folder(model: str | os.PathLike) -> Path | None:
    """The local folder that `model` names, known to hold safe weights; `None` for a repository on the Hub."""
    folder = Path(model)
    if not folder.is_dir() or model == "":  # which Path takes for the current folder
        if folder.exists() or not _HUB_NAME.fullmatch(os.fspath(model)):
            raise CheckpointError(
                f"{os.fspath(model)!r} is neither a folder nor the name of a model on the Hub ('owner/name'). A published "
                ".pth checkpoint becomes a folder with `spooftrace convert`."
            )
        return None
    if not _weights(folder):
        raise CheckpointError(
            f"{folder} holds no .safetensors file, and no other weights are read: pickles can run code. "
            "`spooftrace convert` makes such a folder from a published checkpoint."
        )
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(_ADAPTER_REFUSAL.format(folder))
    return folder


def _resolve_snapshot(name: str, revision: str | None, hub_options: dict[str, Any]) -> Path:
    """
    The folder of the Hub's cache for a branch or tag.

    It is named by the commit, so that all files come from the same one even if the branch moves.
    """
    try:
        folder = Path(cached_file(name, "config.json", revision=revision, **hub_options)).parent
    except OSError as error:
        raise OSError(f"There is no folder {name!r}, and no such model can be had from the Hub: {error}") from error
    if find_adapter_config_file(name, revision=folder.name, **hub_options) is not None:
        raise CheckpointError(_ADAPTER_REFUSAL.format(name))
    return folder


def _load_config(name: str, options: dict[str, Any]) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except (AttributeError, KeyError, StrictDataclassError, TypeError) as error:  # what transformers makes of nonsense
        raise CheckpointError(f"{name}: config.json is not valid: {error}") from error
    custom = "AutoModelForAudioClassification" in (getattr(config, "auto_map", None) or {})
    if not custom and type(config) not in AutoModelForAudioClassification._model_mapping:
        raise CheckpointError(f"{name} is a {config.model_type!r} model, which cannot classify audio.")
    if str(getattr(config, "transformers_weights", None) or "").endswith(".bin"):
        raise CheckpointError(f"{name}: config.json points to pickled weights; only safetensors are read.")
    return config


def _load_model(
    name: str,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    options: dict[str, Any],
    hub_options: dict[str, Any],
) -> PreTrainedModel:
    """transformers only logs what is missing and goes on with random numbers; here it is an error."""
    try:
        model, info = AutoModelForAudioClassification.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are listed with the others below
            output_loading_info=True,
            adapter_kwargs=dict(
                hub_options
            ),  # or the search for an adapter ignores `cache_dir` and `local_files_only`
            **options,
        )
    except (RuntimeError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{name}: the weights cannot be loaded: {error}") from error
    problems = [
        _listed(kind.replace("_keys", " tensors").replace("error_msgs", "errors"), info[kind])
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        if info[kind]
    ]
    if problems:
        raise CheckpointError(
            f"{name}: the checkpoint does not fit {type(model).__name__}, so it is not used: {'; '.join(problems)}."
        )
    return model.eval()


def _load_feature_extractor(name: str, options: dict[str, Any]) -> FeatureExtractionMixin:
    try:
        return AutoFeatureExtractor.from_pretrained(name, **options)
    except (AttributeError, KeyError, TypeError) as error:  # what transformers makes of nonsense
        raise CheckpointError(f"{name}: preprocessor_config.json is not valid: {error}") from error


def _listed(kind: str, entries: Any) -> str:
    texts = sorted(
        entry if isinstance(entry, str) else f"{entry[0]} ({list(entry[1])} instead of {list(entry[2])})"
        for entry in entries
    )
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return f"{len(texts)} {kind}: {', '.join(texts[:MAX_LISTED])}{more}"


def _weights(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if path.name != OPEN_SET_FILE)


def _weights_digest(folder: Path) -> str:
    """Names local weights in results, as a commit names those from the Hub."""
    return f"sha256:{_sha256_of(_weights(folder))}"


def _sha256_of(paths: Iterable[Path]) -> str:
    """Of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def _quiet(everything: bool) -> Iterator[None]:
    """Silences transformers' load report, which is an error here; downloads from the Hub keep their progress bars."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if everything:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if everything and had_bars:
            logging.enable_progress_bar()
