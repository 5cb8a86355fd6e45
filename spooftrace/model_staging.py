"""A model's folder as it is pushed: what belongs to it, its code, its card, and nothing that tells of this machine."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from spooftrace.hub import check_link, local_files
from spooftrace.model_card import card_of, public_recipe
from spooftrace.model_facts import (
    CARD,
    EVALUATIONS,
    RECIPE,
    WEIGHTS,
    ModelFacts,
    plain_name,
    read_facts,
    read_json,
    read_yaml,
)


CardChoice = Literal["keep", "new", "none"]

RESULTS = ".eval_results"
SHIPPED = "checkpoints"

# What belongs to a model; checkpoints of training, optimisers, logs and pickles do not.
TRAVELLING = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.py",
    "conversion_report.json",
    "results.json",
    "training.json",
    "training_result.json",
    EVALUATIONS,
    RECIPE,
    CARD,
    "LICENSE*",
    "NOTICE*",
    "*.png",
)
ADAPTERS = "adapter"
FOLDERS = {ADAPTERS: ("adapter_*.safetensors", "adapter_config.json", CARD), RESULTS: ("*.yaml", "*.txt", "*.json")}
# Beside evaluations and the recipe, these may tell where something lay on this machine.
REPORTS = ("config.json", "conversion_report.json", "results.json", "training.json", "training_result.json")


class PublishError(ValueError):
    """A folder that must not be published as it is; one line with the remedy."""


@dataclass(frozen=True)
class Staged:
    """
    A model as it would be pushed.

    Args:
        folder: where it lies.
        facts: what it says about itself.
        added: files that the model's own folder does not have, or that were changed.
        left_out: what of the model's own folder stays here.
        warnings: what the owner should know.
    """

    folder: Path
    facts: ModelFacts
    added: list[str]
    left_out: list[str]
    warnings: list[str]

    @property
    def files(self) -> dict[str, int]:
        """Size of each file in bytes, by its path in the repository."""
        return {name: path.stat().st_size for name, path in local_files(self.folder).items()}


def find_model(name: str | os.PathLike) -> Path:
    """
    The folder of a model, or of a shipped one by its name.

    Raises:
        PublishError: where there is none.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    shipped = shipped_models()
    if os.fspath(name) in shipped:
        return shipped[os.fspath(name)]
    raise PublishError(f"{os.fspath(name)!r} is neither a folder nor a shipped model ({', '.join(shipped)})")


def shipped_models() -> dict[str, Path]:
    """The models inside the package, by name."""
    import importlib.util

    spec = importlib.util.find_spec("spooftrace.modeling")  # finding it does not import torch
    root = Path(spec.submodule_search_locations[0]) / SHIPPED
    return {path.name: path for path in sorted(root.glob("*")) if (path / "config.json").is_file()}


def stage_model(
    folder: str | os.PathLike,
    repo_id: str,
    target: Path,
    *,
    card: CardChoice = "keep",
    license: str | None = None,
    benchmarks: Sequence[str] = (),
) -> Staged:
    """
    Writes a model as it is pushed; no network is asked.

    Args:
        folder: of the model; only read.
        repo_id: `owner/name`.
        target: an empty folder.
        card, license, benchmarks: see [`publish_model`].

    Raises:
        PublishError: for a folder that must not be published as it is.
        ValueError: for a link in it that leads out of it, other than into the cache of the Hub.
    """
    source = find_model(folder)
    facts = read_facts(source)
    _check(source, facts)
    left_out = _copy(source, target, FOLDERS if facts.base_model else FOLDERS.keys() - {ADAPTERS})
    before = _digests(target)
    _clean(target)
    if not _has_code(target):
        from spooftrace.model_code import add_code  # slow: it imports the models

        add_code(target)
    text = card_of(source, facts, repo_id, license, card)
    (target / CARD).unlink(missing_ok=True)
    if text is not None:
        (target / CARD).write_text(text, encoding="utf-8", newline="\n")
    _write_benchmarks(target, facts, benchmarks)
    after = _digests(target)
    added = [name for name, digest in after.items() if before.get(name) != digest]
    return Staged(target, facts, added, left_out, _warnings(facts, license, card))


def _check(folder: Path, facts: ModelFacts) -> None:
    """Raises `PublishError` for what a stranger could not load, or what would be a false claim."""
    if (folder / "adapter_config.json").exists():
        raise PublishError(f"{folder} is a bare adapter, which does not tell its whole model: save the whole detector")
    if not any(folder.glob(WEIGHTS)):
        raise PublishError(
            f"{folder} holds no model.safetensors: save the model with `save_pretrained`, or convert a checkpoint with "
            "`spooftrace convert`"
        )
    if not (folder / "preprocessor_config.json").is_file():
        raise PublishError(
            f"{folder} holds no preprocessor_config.json: save the feature extractor there, too, as in "
            "AasistFeatureExtractor().save_pretrained(folder)"
        )
    base = facts.base_model
    if base is not None and (os.path.isdir(base) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base)):
        raise PublishError(
            f"the adapters belong to the encoder in the folder {base}, which nobody else has: train on one from the Hub, or "
            "merge them with `merge_lora()` and save"
        )
    _check_results(folder)
    _check_evaluations(folder, facts)


def _check_evaluations(folder: Path, facts: ModelFacts) -> None:
    """An evaluation of other weights must not stand on this card."""
    weights = hashlib.sha256()
    for path in sorted(folder.glob(WEIGHTS)):
        with open(path, "rb") as stream:
            while block := stream.read(2**20):
                weights.update(block)
    for name, report in facts.evaluations.items():
        for source in report["sources"]:
            known = str((source.get("model") or {}).get("revision") or "")
            if known.startswith("sha256:") and known != f"sha256:{weights.hexdigest()}":
                raise PublishError(
                    f"{folder / name} is an evaluation of other weights ({known[:19]}) than these (sha256:"
                    f"{weights.hexdigest()[:12]}): score and evaluate again, or remove the file"
                )


def _check_results(folder: Path) -> None:
    """The Arena's records, whose hash is of the scores beside them."""
    for path in sorted(folder.glob(f"{RESULTS}/*/*/result.yaml")):
        record = read_yaml(path)
        scores = path.with_name("scores.txt")
        if not scores.is_file():
            raise PublishError(f"{path} stands without its scores.txt: write both with `spooftrace evaluate --arena`")
        known = (record.get("artifact") or {}).get("scores_sha256")
        if known and known != hashlib.sha256(scores.read_bytes()).hexdigest():
            raise PublishError(
                f"{path} is of other scores than {scores}: write both with `spooftrace evaluate --arena`"
            )


def _copy(source: Path, target: Path, folders: Collection[str]) -> list[str]:
    """Copies what travels, of folders those that are named; returns what does not, folders by their names."""
    left_out = []
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in TRAVELLING):
            check_link(path, source)
            shutil.copyfile(path, target / path.name)
        elif path.is_dir() and path.name in folders:
            check_link(path, source)
            left_out += _copy_folder(path, target)
        elif path.name not in ("__pycache__", ".git", ".cache"):
            left_out.append(path.name + ("/" if path.is_dir() else ""))
    return left_out


def _copy_folder(source: Path, target: Path) -> list[str]:
    """The same for the files below one of the folders that travel."""
    left_out = []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source.parent)
        if any(fnmatchcase(path.name, pattern) for pattern in FOLDERS[source.name]):
            check_link(path, source.parent)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
        elif "__pycache__" not in name.parts:
            left_out.append(name.as_posix())
    return left_out


def _clean(folder: Path) -> None:
    """Takes the folders of this machine out of the reports and the recipe."""
    import yaml

    for path in folder.glob(EVALUATIONS):
        report = json.loads(path.read_text(encoding="utf-8"))
        comparison = report.get("comparison") or {}
        for source in [*report.get("sources", []), *([comparison["other"]] if comparison.get("other") else [])]:
            _clean_source(source)
        path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for path in (folder / name for name in REPORTS if (folder / name).is_file()):
        report = json.loads(path.read_text(encoding="utf-8"))
        if (public := public_recipe(report)) != report:
            path.write_text(json.dumps(public, indent=2) + "\n", encoding="utf-8")
    if (path := folder / RECIPE).is_file():
        recipe = public_recipe(yaml.safe_load(path.read_text(encoding="utf-8")))
        path.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _clean_source(source: dict[str, Any]) -> None:
    for key in ("data", "scores"):
        if isinstance(source.get(key), str):
            source[key] = plain_name(source[key])
    if isinstance(source.get("model"), dict) and isinstance(source["model"].get("name"), str):
        source["model"]["name"] = plain_name(source["model"]["name"])


def _write_benchmarks(folder: Path, facts: ModelFacts, benchmarks: Sequence[str]) -> None:
    """`.eval_results/NAME.yaml`, from which the Hub fills the leaderboards of its benchmark datasets."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    rates = facts.rates()
    for text in benchmarks:
        found = re.fullmatch(r"([\w.-]+/([\w.-]+)):([\w.-]+)", text)
        if found is None:
            raise PublishError(f"benchmark {text!r}: write OWNER/NAME:TASK, the dataset and its task")
        if len(rates) != 1:
            raise PublishError(
                f"benchmark {text!r} needs one evaluation of one corpus in the folder, there are {len(rates)}"
            )
        entry = EvalResultEntry(found[1], found[3], round(100 * rates[0].eer, 4), notes="equal error rate in percent")
        path = folder / RESULTS / f"{found[2]}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")


def _warnings(facts: ModelFacts, license: str | None, card: CardChoice) -> list[str]:
    found = []
    if card != "none" and not (license or facts.license):
        found.append("no licence is stated: name one with --license")
    if not facts.evaluations and not facts.unread:
        found.append(
            "no evaluation lies beside the model: `spooftrace evaluate --out MODEL_DIR/evaluation.json` makes one"
        )
    if facts.training_corpora is None:
        found.append("the model does not say what it was trained on (`training_corpora` in config.json)")
    return found


def _has_code(folder: Path) -> bool:
    """Whether the files that both configurations name lie beside them."""
    for name in ("config.json", "preprocessor_config.json"):
        named = (read_json(folder / name).get("auto_map") or {}).values()
        if not named or not all((folder / f"{entry.partition('.')[0]}.py").is_file() for entry in named):
            return False
    return True


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the small files and the sizes of the weights, by path; weights are copied as they are."""
    return {
        name: str(path.stat().st_size)
        if path.suffix == ".safetensors"
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in local_files(folder).items()
    }
