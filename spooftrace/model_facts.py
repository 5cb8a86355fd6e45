"""What a model's folder says about the model: its configuration, how it was trained and how it was evaluated. JSON and YAML only."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from spooftrace.contamination import declared_corpora


EVALUATIONS = "evaluation*.json"
TRAINING_RESULT, RECIPE, CARD = "training_result.json", "recipe.yaml", "README.md"
WEIGHTS = "model*.safetensors"

_HEADER = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)


class Rate(NamedTuple):
    """
    An equal error rate as it may be quoted.

    Args:
        data: what it was measured on, in words.
        corpus: its name, or `None` for data of one's own.
        split: of the corpus, or `None`.
        bonafide, spoof: numbers of trials.
        eer: a fraction.
        interval: its ends, fractions, or `None`.
    """

    data: str
    corpus: str | None
    split: str | None
    bonafide: int
    spoof: int
    eer: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ModelFacts:
    """
    A model's folder, read.

    Args:
        config: `config.json`.
        card: metadata of `README.md`, empty where there is none.
        evaluations: reports of `spooftrace evaluate --out`, by file name.
        unread: names of evaluations of another form.
        training: `training_result.json`, or `None`.
        recipe: `recipe.yaml`, or `None`.
    """

    config: dict[str, Any]
    card: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    training: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None

    @property
    def family(self) -> str:
        """The kind of model, such as `aasist`."""
        return str(self.config.get("model_type", "unknown"))

    @property
    def tasks(self) -> list[str]:
        """What it answers: `"bin"`, whether speech is genuine, or questions about the source of fakes."""
        return list(self.config.get("tasks") or [self.config.get("task") or "bin"])

    @property
    def labels(self) -> dict[str, list[str]]:
        """Task -> its classes in order."""
        given = self.config.get("task_labels")
        if given:
            return {task: list(labels) for task, labels in given.items() if task in self.tasks}
        names = {int(index): str(label) for index, label in (self.config.get("id2label") or {}).items()}
        return {self.tasks[0]: [names[index] for index in sorted(names)]}

    @property
    def base_model(self) -> str | None:
        """The model that an adapter-only one leaves out."""
        return self._base.get("base_model_name_or_path")

    @property
    def base_revision(self) -> str:
        """The pinned commit of the model that is left out, or `"main"`."""
        return self._base.get("base_revision") or "main"

    @property
    def _base(self) -> dict[str, Any]:
        """Where the configuration names it: beside the settings of the adapters, or at the top."""
        lora = self.config.get("lora") or {}
        return lora if "base_model_name_or_path" in lora else self.config

    @property
    def license(self) -> str | None:
        """As the card that is there says it."""
        return self.card.get("license")

    @property
    def training_corpora(self) -> list[str] | None:
        """What it was trained on; `None` where nothing says so."""
        corpus = ((self.recipe or {}).get("data") or {}).get("corpus")
        return declared_corpora(self.config, self.card) or ([corpus] if corpus else None)

    def rates(self) -> list[Rate]:
        """One for every corpus of every evaluation that gives an equal error rate."""
        return [rate for report in self.evaluations.values() for rate in report_rates(report)]


def read_facts(folder: Path) -> ModelFacts:
    """
    Raises:
        ValueError: where there is no `config.json`, or a file is not what its name says.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json: give the folder that `save_pretrained` or a command wrote")
    found = {path.name: read_json(path) for path in sorted(folder.glob(EVALUATIONS))}
    reports = {name: report for name, report in found.items() if isinstance(report.get("overall"), Mapping)}
    card = folder / CARD
    return ModelFacts(
        config=read_json(folder / "config.json"),
        card=split_card(card.read_text(encoding="utf-8"))[0] if card.is_file() else {},
        evaluations=reports,
        unread=[name for name in found if name not in reports],
        training=read_json(folder / TRAINING_RESULT) if (folder / TRAINING_RESULT).is_file() else None,
        recipe=read_yaml(folder / RECIPE) if (folder / RECIPE).is_file() else None,
    )


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """
    The metadata at the head of a card, and the text below it.

    Raises:
        ValueError: for a head that is no YAML mapping.
    """
    import yaml

    head = _HEADER.match(text)
    if head is None:
        return {}, text
    try:
        data = yaml.safe_load(head[1]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata of README.md is not valid YAML: {error}") from error
    if type(data) is not dict:
        raise ValueError("the metadata of README.md is no mapping of names to values")
    return data, text[head.end() :].lstrip("\r\n")


def report_rates(report: Mapping[str, Any]) -> list[Rate]:
    """The rates of one report: of every corpus, or of all trials where they are of one."""
    source, overall = report["sources"][0], report["overall"]
    if not report.get("corpora"):
        split = source.get("split")
        return _rate(plain_name(source["data"]), source.get("corpus"), split, overall)
    table = next(table for table in report["tables"] if table["column"] == "corpus")
    named = [group for group in table["groups"] if group["value"] is not None]
    return [rate for group in named for rate in _rate(group["value"], group["value"], None, group)]


def _rate(data: str, corpus: str | None, split: str | None, numbers: Mapping[str, Any]) -> list[Rate]:
    if numbers.get("eer") is None:
        return []
    ends = numbers.get("eer_interval")
    interval = (ends["low"], ends["high"]) if ends else None
    return [Rate(data, corpus, split, numbers["bonafide"], numbers["spoof"], numbers["eer"], interval)]


def plain_name(text: str) -> str:
    """A text without the folders of the absolute path that it starts with: what is published names no place on this machine."""
    return re.sub(r"^(?:[A-Za-z]:[\\/]|[/~])(?:[^,]*[\\/])?", "", text)


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object; a `ValueError` names another one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if type(value) is not dict:
        raise ValueError(f"{path} holds no JSON object")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """A file with one mapping; a `ValueError` names another one."""
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if type(value) is not dict:
        raise ValueError(f"{path} holds no mapping")
    return value
