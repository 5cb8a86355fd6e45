"""What all converters share: reading published checkpoints, accounting for every tensor, and writing the result."""

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import FeatureExtractionMixin, PreTrainedModel, Wav2Vec2Config

from .configuration_aasist import QUIET_WAV2VEC2


REPORT_NAME = "conversion_report.json"
MAX_LISTED = 12


class ConversionError(ValueError):
    """A checkpoint that cannot be converted without losing or guessing something."""


@dataclass
class ConversionReport:
    """What became of every tensor of a checkpoint."""

    source: str
    model: str
    num_parameters: int = 0
    mapped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def save(self, folder: str | os.PathLike) -> Path:
        path = Path(folder) / REPORT_NAME
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return path


def read_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    The tensors of a `.safetensors` file, or of a pickle that holds nothing but tensors.

    Raises:
        `ConversionError`: if the file is missing, is no checkpoint, or holds anything else than a dict of tensors; a
            pickle that asks for code is refused without running any.
    """
    path = Path(path)
    if not path.is_file():
        raise ConversionError(f"{str(path)!r} is not a file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Published files reach 3 GB: mapped, they are read where a tensor is copied from and take no memory of their own.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConversionError(
            f"{str(path)!r} is no checkpoint of plain tensors ({reason}). It may be damaged, or a pickle that runs code "
            "when it is loaded; such files are never loaded here."
        ) from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    named = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not named or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(f"{str(path)!r} does not hold a dict of named tensors.")
    if hollow := [name for name, value in state.items() if not _is_stored(value)]:
        raise ConversionError(
            f"{str(path)!r} does not hold all numbers of {listed(hollow)}: it is no plain checkpoint."
        )
    return dict(state)


def _is_stored(value: torch.Tensor) -> bool:
    """Whether a file holds every number of a tensor; one that repeats a few can claim any size."""
    return value.layout is torch.strided and value.nbytes <= value.untyped_storage().nbytes()


def without_parallel_prefix(state: dict[str, torch.Tensor], report: ConversionReport) -> dict[str, torch.Tensor]:
    """The state dict of a model that was saved inside torch's DataParallel, under the model's own names."""
    if not state or not all(key.startswith("module.") for key in state):
        return state
    report.notes.append("Removed the prefix 'module.' that DataParallel adds to every key.")
    return {key.removeprefix("module."): value for key, value in state.items()}


def rename_state_dict(
    state: Mapping[str, torch.Tensor],
    rename: Callable[[str], tuple[str | None, str | None]],
    report: ConversionReport,
) -> dict[str, torch.Tensor]:
    """
    All tensors under our names; `report` gains what was mapped and dropped.

    Args:
        rename: gives our name for a published one, or `None` and the reason to drop it, or `None` twice for a stranger.

    Raises:
        `ConversionError`: listing every key that neither has a place in the model nor a reason to be dropped.
    """
    renamed, strangers = {}, []
    for key, value in state.items():
        ours, reason_to_drop = rename(key)
        if ours in renamed:
            raise ConversionError(f"Two tensors claim the name {ours!r}; the second is {key!r}.")
        if ours is not None:
            renamed[ours] = value
            report.mapped[key] = ours
        elif reason_to_drop is not None:
            report.dropped[key] = reason_to_drop
        else:
            strangers.append(key)
    if strangers:
        raise ConversionError(f"This is another architecture; unknown tensors: {listed(strangers)}.")
    return renamed


def listed(names: list[str]) -> str:
    """The names, or their number and the first few."""
    shown = ", ".join(names[:MAX_LISTED]) or "none"
    return shown if len(names) <= MAX_LISTED else f"{len(names)}, among them {shown}"


def swap_classes(state: dict[str, torch.Tensor], classifier: str, report: ConversionReport):
    """
    Puts bona fide first in a two-class `classifier` that was published with bona fide second.

    Raises:
        `ConversionError`: if there is no such classifier, or it has another number of classes.
    """
    for name in (f"{classifier}.weight", f"{classifier}.bias"):
        if name not in state or len(state[name]) != 2:
            raise ConversionError("The checkpoint has no 'out_layer' with two classes.")
        state[name] = state[name].flip(0)
    report.notes.append("Swapped the classes: the checkpoint has bona fide at index 1, ours has it at index 0.")


def quiet_wav2vec2(name_or_path: str | os.PathLike | None) -> dict | None:
    """The configuration of a wav2vec 2.0 encoder without dropouts and SpecAugment; `None` stands for XLS-R 300M's."""
    if name_or_path is None:
        return None
    return Wav2Vec2Config.from_pretrained(name_or_path, **QUIET_WAV2VEC2).to_dict()


def check_fit(model: torch.nn.Module, state: Mapping[str, torch.Tensor]):
    """
    Compares names and shapes of `state` with those of `model`, which may be on "meta".

    Raises:
        `ConversionError`: listing the tensors that are missing, superfluous or of another shape.
    """
    own = {name: value.shape for name, value in model.state_dict().items()}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(own[name])}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name]
    ]
    if missing or unexpected or shapes:
        raise ConversionError(
            f"The checkpoint does not fit {type(model).__name__}: missing {listed(missing)}; unexpected "
            f"{listed(unexpected)}; of another shape {listed(sorted(shapes))}."
        )


def load_exactly(model: torch.nn.Module, state: Mapping[str, torch.Tensor]):
    """Loads `state` into `model`, which it has to fit; see [`check_fit`]."""
    check_fit(model, state)
    model.load_state_dict(state)


def finish(
    model: PreTrainedModel, state: Mapping[str, torch.Tensor], report: ConversionReport
) -> tuple[PreTrainedModel, ConversionReport]:
    """The model with the tensors loaded exactly, in evaluation mode, and the report with its number of parameters."""
    load_exactly(model, state)
    report.num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return model.eval(), report


@contextmanager
def new_folder(folder: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """
    An empty folder to write to, which takes the place of `folder` when all is done: whole or not at all.

    Raises:
        `ConversionError`: if the folder exists and is not empty, unless `overwrite`.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConversionError(f"{str(folder)!r} is a file; name a folder to write to.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ConversionError(f"{str(folder)!r} is not empty: choose another folder or ask to overwrite it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staged = Path(temporary) / folder.name
        staged.mkdir()
        yield staged
        if folder.is_dir():
            shutil.rmtree(folder)
        staged.rename(folder)


def save_converted(
    model: PreTrainedModel,
    feature_extractor: FeatureExtractionMixin,
    report: ConversionReport,
    folder: str | os.PathLike,
    overwrite: bool = False,
    card: str | None = None,
):
    """
    Writes model, code, feature extractor, report and, where given, the model card to `folder`, ready to be loaded or pushed.

    Raises:
        `ConversionError`: if the folder exists and is not empty, unless `overwrite`.
    """
    with new_folder(folder, overwrite) as staged:
        model.save_pretrained(staged)
        feature_extractor.save_pretrained(staged)
        report.save(staged)
        if card is not None:
            (staged / "README.md").write_text(card, encoding="utf-8")
