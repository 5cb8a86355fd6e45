"""The card of a published model, made from what lies in its folder: no figure is typed, and what is missing is said."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spooftrace._version import __version__
from spooftrace.model_facts import ModelFacts, Rate, plain_name, report_rates, split_card


TAGS = ("spooftrace", "anti-spoofing", "audio-deepfake-detection")
TASKS = {
    "bin": "whether speech is genuine",
    "vq": "the quantiser of the codec",
    "aux": "the auxiliary objective of the codec",
    "dec": "the decoder of the codec",
}
SHOWN_GROUPS = 60
"""Rows of a table; beyond that those with the highest error rates are shown."""

USE = """\
## Use

With `trust_remote_code=True` the code in this repository is run; where spooftrace is installed, its own code is, and the
flag is not needed.

```python
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

model = AutoModelForAudioClassification.from_pretrained("{repo_id}", trust_remote_code=True)
feature_extractor = AutoFeatureExtractor.from_pretrained("{repo_id}", trust_remote_code=True)
```

```bash
spooftrace {command} --model {repo_id} clip.wav
```
"""

LIMITS = """\
## Intended use and limits

For research, and as one piece of evidence among others when somebody looks at a recording. {score}It is not meant to decide
alone about people: not for accusations, refusals of service or moderation without a human who looks.

- Speech synthesis, voice conversion, codecs and recording conditions that are not among the training data can mislead it,
  and error rates on them are often several times those below.
- Edited recordings, strong noise, music, far microphones and telephone or radio coding change its answers.
- It was not hardened against people who know it and want to mislead it.
"""


def make_metadata(facts: ModelFacts, repo_id: str, license: str | None = None) -> dict[str, Any]:
    """
    The metadata of the card, with the error rates as the Hub's `model-index`.

    Args:
        facts: what the folder says.
        repo_id: `owner/name`.
        license: its identifier on the Hub; by default what the card that is there says.
    """
    from huggingface_hub import ModelCardData

    tracing = facts.tasks != ["bin"]
    relation = "adapter" if facts.config.get("lora") else "finetune"
    adapters = {"base_model": facts.base_model, "base_model_relation": relation} if facts.base_model else {}
    data = ModelCardData(
        license=license or facts.license,
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=[*TAGS, *(["source-tracing"] if tracing else []), facts.family],
        model_name=repo_id.partition("/")[2],
        eval_results=[_result(rate) for rate in facts.rates()] or None,
        **adapters,
    ).to_dict()
    data.pop("model_name", None)
    corpora = facts.training_corpora
    own = {"version": __version__, "family": facts.family, "tasks": facts.tasks}
    return {**data, **({"training_corpora": corpora} if corpora is not None else {}), "spooftrace": own}


def _result(rate: Rate) -> Any:
    from huggingface_hub import EvalResult

    ends = {"interval": [round(100 * end, 4) for end in rate.interval]} if rate.interval else {}
    return EvalResult(
        task_type="audio-classification",
        task_name="Speech deepfake detection",
        dataset_type=rate.corpus or "own",
        dataset_name=rate.data,
        dataset_split=rate.split,
        metric_type="eer",
        metric_name="Equal error rate (%)",
        metric_value=round(100 * rate.eer, 4),
        metric_args={"bonafide": rate.bonafide, "spoof": rate.spoof, **ends},
    )


def make_card(facts: ModelFacts, repo_id: str, license: str | None = None) -> str:
    """The whole card of a model: metadata and text. A digest of the text tells later whether somebody has changed it."""
    parts = [
        f"# {repo_id.partition('/')[2]}",
        _summary(facts, license or facts.license),
        USE.format(repo_id=repo_id, command="detect" if "bin" in facts.tasks else "trace"),
        _training(facts),
        _evaluation(facts),
        _calibration(facts),
        LIMITS.format(
            score="A score is the log-odds of genuine speech: evidence, not proof. " if "bin" in facts.tasks else ""
        ),
        f"Made by `spooftrace publish`, version {__version__}.",
    ]
    body = "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
    metadata = make_metadata(facts, repo_id, license)
    return _join({**metadata, "spooftrace": {**metadata["spooftrace"], "card": _digest(body)}}, body)


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _is_generated(text: str) -> bool:
    """Whether a card was made here, and its text is as it was made."""
    metadata, body = split_card(text)
    own = metadata.get("spooftrace")
    return isinstance(own, Mapping) and own.get("card") == _digest(body)


def complete_card(text: str, facts: ModelFacts, repo_id: str, license: str | None = None) -> str:
    """A card that somebody wrote, with the metadata it lacks; results are those of the folder where it has any."""
    theirs, body = split_card(text)
    ours = make_metadata(facts, repo_id, license)
    data = {**ours, **theirs, "spooftrace": ours["spooftrace"]}
    tags = theirs.get("tags") or []
    data["tags"] = list(dict.fromkeys([*([tags] if isinstance(tags, str) else tags), *ours["tags"]]))
    data |= {"model-index": ours["model-index"]} if "model-index" in ours else {}
    data |= {"license": license} if license else {}
    return _join(data, body)


def _join(metadata: Mapping[str, Any], body: str) -> str:
    import yaml

    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n\n{body}"


def _summary(facts: ModelFacts, license: str | None) -> str:
    lines = [f"A model of the family `{facts.family}` that tells, for a recording of speech:", ""]
    for task, labels in facts.labels.items():
        lines.append(f"- {TASKS.get(task, task)}: {', '.join(f'`{label}`' for label in labels)}")
    if facts.base_model:
        base = f"[{facts.base_model}](https://huggingface.co/{facts.base_model}), at `{facts.base_revision}`."
        lines += ["", "It holds alone what was trained; loading it fetches the model below,", base]
        if facts.config.get("lora"):
            lines += ["The folder `adapter` has the adapters once more as `peft` reads them."]
    if "bin" in facts.tasks:
        lines += ["", "The score of a clip is the log-odds of bona fide: higher means more likely genuine."]
    if not license:
        lines += ["", "Its licence is not stated: ask the owner before using it."]
    return "\n".join(lines)


def _training(facts: ModelFacts) -> str:
    corpora = facts.training_corpora
    lines = ["## Training", ""]
    lines.append(f"Trained on: {', '.join(corpora)}." if corpora else "The model does not say what it was trained on.")
    if facts.training:
        lines += _training_result(facts.training)
    if facts.recipe:
        import yaml

        recipe = yaml.safe_dump(public_recipe(facts.recipe), sort_keys=False, allow_unicode=True)
        lines += ["", "The recipe, for `spooftrace train`:", "", "```yaml", recipe.rstrip("\n"), "```"]
    elif not facts.training:
        lines.append("No recipe lies beside it.")
    return "\n".join(lines)


def _training_result(found: Mapping[str, Any]) -> Iterable[str]:
    """What training came to on the development clips, by which the parameters were chosen."""
    yield f"{found['steps']:,} steps; the best parameters are those after {found['best_step']:,}."
    if found.get("eer") is not None:
        bonafide, spoof = found["trials"]
        yield (
            f"They have an EER of {100 * found['eer']:.2f} % on the development clips ({bonafide:,} bona fide, {spoof:,} "
            "spoof), by which they were chosen."
        )
    if found.get("tasks"):
        yield from ("", "On the development clips, by which they were chosen:", "")
        rows = []
        for task, numbers in found["tasks"].items():
            shares = [_percent(numbers[key]) if key in numbers else "" for key in ("accuracy", "macro_f1")]
            rows.append((task, *shares, f"{sum((numbers.get('trials') or {}).values()):,}"))
        yield from _table(("task", "accuracy", "macro F1", "clips"), rows)


def public_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as it may be published: files and folders by their names alone."""

    def public(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: public(part) for key, part in value.items()}
        if isinstance(value, list):
            return [public(part) for part in value]
        return plain_name(value) if isinstance(value, str) else value

    return public(recipe)


def _evaluation(facts: ModelFacts) -> str:
    lines = ["## Evaluation", ""]
    if not facts.evaluations:
        lines.append("No evaluation lies beside this model, so nothing is known about its error rates here.")
    for name, report in facts.evaluations.items():
        lines += [*_report(report, name if len(facts.evaluations) > 1 else None), ""]
    lines += [f"`{name}` holds an evaluation of another form." for name in facts.unread]
    return "\n".join(lines)


def _report(report: Mapping[str, Any], name: str | None) -> Iterable[str]:
    settings = report.get("settings") or {}
    rates = report_rates(report)
    if name:
        yield from (f"### {name.removesuffix('.json')}", "")
    if rates and rates[0].interval:
        yield f"Equal error rates with {100 * settings.get('level', 0.95):.0f} % bootstrap intervals."
        yield ""
    yield from _table(
        ("data", "bona fide", "spoof", "EER", "interval"),
        [
            (rate.data, f"{rate.bonafide:,}", f"{rate.spoof:,}", _percent(rate.eer), _ends(rate.interval))
            for rate in rates
        ],
    )
    yield from ("", _measures(report["overall"], pooled=bool(report.get("corpora"))))
    for table in report.get("tables", []):
        if table["column"] != "corpus":
            yield from ("", *_groups(table))
    for note in report.get("contamination", []):
        yield from ("", f"Speech shared with the training data: {note}.")
    for warning in report.get("warnings", []):
        yield from ("", f"To heed: {warning}")


def _measures(overall: Mapping[str, Any], pooled: bool) -> str:
    names = {"min_dcf": "minDCF", "act_dcf": "actDCF", "cllr": "CLLR (bits)", "auc": "AUC"}
    known = [f"{title} {overall[key]:.3f}" for key, title in names.items() if overall.get(key) is not None]
    return f"{'All trials pooled' if pooled else 'On the same trials'}: {', '.join(known)}." if known else ""


def _groups(table: Mapping[str, Any]) -> Iterable[str]:
    groups = [group for group in table["groups"] if group["eer"] is not None]
    shown = groups if len(groups) <= SHOWN_GROUPS else sorted(groups, key=lambda g: -g["eer"])[:SHOWN_GROUPS]
    yield f"By `{table['column']}`, against {table['against']}:"
    yield ""
    rows = []
    for group in shown:
        ends = group.get("eer_interval")
        interval = _ends((ends["low"], ends["high"]) if ends else None)
        value = "without one" if group["value"] is None else str(group["value"])
        rows.append((value, f"{group['bonafide']:,}", f"{group['spoof']:,}", _percent(group["eer"]), interval))
    yield from _table((table["column"], "bona fide", "spoof", "EER", "interval"), rows)
    if len(shown) < len(groups):
        yield from ("", f"The {len(groups) - len(shown)} groups with lower error rates are in the JSON file.")


def _calibration(facts: ModelFacts) -> str:
    known = facts.config.get("calibration")
    if "bin" not in facts.tasks:
        return ""
    if not known:
        return "## Calibration\n\nIts scores are not calibrated: `sigmoid(score)` is no probability to rely on."
    fitted = f", fitted on {plain_name(known['fitted_on'])}" if known.get("fitted_on") else ""
    return (
        f"## Calibration\n\nProbability of bona fide: `sigmoid({known['scale']:.4g} * score {known['bias']:+.4g})`{fitted}. It "
        "assumes genuine and fake clips in equal numbers, and material like that."
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _ends(interval: tuple[float, float] | None) -> str:
    return f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}" if interval else "not made"


def card_of(folder: Path, facts: ModelFacts, repo_id: str, license: str | None, how: str) -> str | None:
    """
    The card to publish.

    Args:
        folder: with, or without, a `README.md`.
        facts: what it says.
        repo_id: `owner/name`.
        license: its identifier on the Hub.
        how: `"keep"` a card that somebody wrote and complete its metadata, else make one; `"new"` makes one in any case; with
            `"none"` there is none.
    """
    if how == "none":
        return None
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    if how == "keep" and text is not None and not _is_generated(text):
        return complete_card(text, facts, repo_id, license)
    return make_card(facts, repo_id, license)
