"""The models that there are: shipped with spooftrace, in folders, and on the Hub under an owner, each with its card in short."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from spooftrace.hub_repository import HubError
from spooftrace.model_facts import WEIGHTS, ModelFacts, read_facts
from spooftrace.model_staging import shipped_models


TAG = "spooftrace"


@dataclass(frozen=True)
class ModelRate:
    """
    An equal error rate of a card.

    Args:
        data: what it was measured on.
        bonafide, spoof: numbers of trials, `None` where the card does not say.
        eer_percent: in percent.
    """

    data: str
    bonafide: int | None
    spoof: int | None
    eer_percent: float


@dataclass(frozen=True)
class ModelSummary:
    """
    One model.

    Args:
        name: what `--model` takes.
        place: `"shipped"`, `"folder"` or `"hub"`.
        family: such as `aasist`; `None` where nothing says so.
        tasks: what it answers; `None` where nothing says so.
        license: its identifier on the Hub, or `None`.
        base_model: the encoder below adapters, or `None`.
        training_corpora: what it was trained on, or `None`.
        rates: its equal error rates.
        revision: commit on the Hub.
        problem: why the rest could not be read.
    """

    name: str
    place: Literal["shipped", "folder", "hub"]
    family: str | None = None
    tasks: list[str] | None = None
    license: str | None = None
    base_model: str | None = None
    training_corpora: list[str] | None = None
    rates: list[ModelRate] = field(default_factory=list)
    revision: str | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return asdict(self)


def list_models(
    owner: str | None = None, folders: Sequence[str | os.PathLike] = (), *, token: str | None = None
) -> list[ModelSummary]:
    """
    The shipped models, those in folders, and those of an owner on the Hub that carry the tag `spooftrace`.

    Args:
        owner: a user or an organisation.
        folders: each a model, or a folder of models.
        token: for private models; by default the one of `HF_TOKEN` or `hf auth login`.

    Raises:
        ValueError: for a folder without a model.
        HubError: where the Hub cannot be asked.
    """
    found = [_local(name, "shipped", path) for name, path in shipped_models().items()]
    for folder in folders:
        found += [_local(str(path), "folder", path) for path in model_folders(Path(folder))]
    return [*found, *(_of_owner(owner, token) if owner else [])]


def model_folders(folder: Path) -> list[Path]:
    """
    The folder itself, or those in it, that hold a model; checkpoints of training are not looked into.

    Raises:
        ValueError: where there is none.
    """
    candidates = [folder, *sorted(path for path in folder.glob("*") if not path.name.startswith("checkpoint-"))]
    found = [path for path in candidates if (path / "config.json").is_file() and any(path.glob(WEIGHTS))]
    if not found:
        raise ValueError(f"{folder} holds no model (config.json and model.safetensors), and no folder with one")
    return found[:1] if found[0] == folder else found


def _local(name: str, place: Literal["shipped", "folder"], folder: Path) -> ModelSummary:
    try:
        facts = read_facts(folder)
        return _summary(name, place, facts)
    except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:  # reports of any form
        return ModelSummary(name, place, problem=" ".join(str(error).split()) or "its evaluation has an unknown form")


def _summary(name: str, place: Literal["shipped", "folder"], facts: ModelFacts) -> ModelSummary:
    return ModelSummary(
        name,
        place,
        facts.family,
        facts.tasks,
        facts.license,
        facts.base_model,
        facts.training_corpora,
        [ModelRate(rate.data, rate.bonafide, rate.spoof, round(100 * rate.eer, 4)) for rate in facts.rates()],
    )


def _of_owner(owner: str, token: str | None) -> list[ModelSummary]:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        raise HubError(f"HF_HUB_OFFLINE is set, so that the Hub cannot be asked for the models of {owner}: unset it")
    try:
        found = list(HfApi(token=token).list_models(author=owner, filter=TAG, cardData=True, full=True))
    except (HTTPError, OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        words = " ".join(str(error).strip().partition("\n")[0].split())
        raise HubError(f"the Hub at {constants.ENDPOINT} does not list the models of {owner}: {words}") from error
    return [_from_hub(info) for info in sorted(found, key=lambda info: info.id)]


def _from_hub(info: Any) -> ModelSummary:
    try:
        return from_card(info.id, info.sha, info.card_data)
    except (AttributeError, TypeError, ValueError) as error:  # a card of any form
        return ModelSummary(info.id, "hub", revision=info.sha, problem=f"its card has an unknown form ({error})")


def from_card(repo_id: str, revision: str | None, card: Any) -> ModelSummary:
    """
    What the card of a model on the Hub says.

    Args:
        card: its metadata as the client gives it, `None` without a card.
    """
    data = card.to_dict() if card is not None else {}
    own = data.get(TAG) if isinstance(data.get(TAG), Mapping) else {}
    base = data.get("base_model")
    return ModelSummary(
        repo_id,
        "hub",
        _text(own.get("family")),
        _texts(own.get("tasks")),
        _text(data.get("license")),
        _text(base[0] if isinstance(base, list) and base else base),
        _texts(data.get("training_corpora")),
        list(_rates(data.get("model-index"))),
        revision,
        None if data else "it has no card",
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> list[str] | None:
    return [str(part) for part in value] if isinstance(value, list) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _rates(index: Any) -> Iterable[ModelRate]:
    """The equal error rates of a card; what others wrote there may have any form, and is passed over where it has another."""
    for model in index if isinstance(index, list) else ():
        for result in model.get("results") or ():
            for metric in result.get("metrics") or ():
                value = metric.get("value")
                if metric.get("type") != "eer" or type(value) not in (int, float) or not math.isfinite(value):
                    continue
                trials = metric.get("args") if isinstance(metric.get("args"), Mapping) else {}
                name = (result.get("dataset") or {}).get("name") or "unnamed data"
                counts = (_count(trials.get(key)) for key in ("bonafide", "spoof"))
                yield ModelRate(str(name), *counts, float(value))
