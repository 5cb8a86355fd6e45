"""The dataset card of a corpus, made from what was written: metadata for the Hub, counts, provenance and terms."""

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from spooftrace.data_scripts.corpus import Corpus
from spooftrace.data_scripts.shards import SplitSummary, published_features


TAGS = ["anti-spoofing", "audio-deepfake-detection", "speech", "spooftrace"]
SHOWN_ATTACKS = 60
"""Attacks of a configuration that the card lists; it counts the others."""

_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}

Summaries = Mapping[str, Mapping[str, SplitSummary]]


def make_card(corpus: Corpus, manifest: Mapping[str, Any], summaries: Summaries) -> str:
    """
    The text of `README.md`.

    Args:
        corpus: what was built.
        manifest: how, see `publish.Build`.
        summaries: what each split of each configuration holds.
    """
    parts = [
        f"# {corpus.title}",
        corpus.description,
        _terms(corpus, manifest),
        _counts(corpus, manifest["options"], summaries),
        _attacks(summaries),
        _columns(corpus, manifest),
        _reading(manifest),
        _making(corpus, manifest),
        f"## Citation\n\n```\n{corpus.citation.strip()}\n```" if corpus.citation else "",
    ]
    return f"---\n{_metadata(corpus, manifest, summaries)}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _metadata(corpus: Corpus, manifest: Mapping[str, Any], summaries: Summaries) -> str:
    rows = max(sum(split.rows for split in splits.values()) for splits in summaries.values())
    size = next((name for limit, name in _SIZES.items() if rows < limit), "1M<n<10M")
    other = {"license_name": corpus.name, "license_link": corpus.homepage} if corpus.license == "other" else {}
    data = DatasetCardData(
        license=corpus.license,
        language=list(corpus.languages) or None,
        pretty_name=corpus.title,
        task_categories=["audio-classification"],
        tags=TAGS,
        size_categories=[size],
        configs=[_config(name, splits, default=index == 0) for index, (name, splits) in enumerate(summaries.items())],
        **other,
    )
    infos = {name: _info(corpus, name, manifest, splits) for name, splits in summaries.items()}
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return data.to_yaml()


def _config(name: str, splits: Iterable[str], default: bool) -> dict[str, Any]:
    files = [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in splits]
    return {"config_name": name, "data_files": files, **({"default": True} if default else {})}


def _info(corpus: Corpus, config: str, manifest: Mapping[str, Any], splits: Mapping[str, SplitSummary]) -> DatasetInfo:
    found = SplitDict({name: SplitInfo(name, split.nbytes, split.rows) for name, split in splits.items()})
    files = [f"{config}/{name}" for split in splits.values() for name in split.shards]
    return DatasetInfo(
        config_name=config,
        features=published_features(corpus, manifest["metadata_only"]),
        splits=found,
        download_size=sum(manifest["files"][name]["size"] for name in files),
        dataset_size=sum(split.nbytes for split in splits.values()),
    )


def _terms(corpus: Corpus, manifest: Mapping[str, Any]) -> str:
    lines = [
        f"## Source and licence\n\nSource: {corpus.homepage}",
        f"Licence: `{corpus.license}`. {corpus.license_note}",
    ]
    if corpus.source_speech:
        lines.append(f"The genuine speech comes from {', '.join(corpus.source_speech)}.")
    if manifest["metadata_only"]:
        lines.append(
            "This repository holds the protocol alone, no audio. Join it by `utterance_id` to your own copy of the "
            "corpus, which you get from the source."
        )
    elif corpus.redistribution != "audio":
        lines.append("**The audio may not be passed on. This build is for use on your own machines only.**")
    return "\n\n".join(lines)


def _counts(corpus: Corpus, options: Mapping[str, Any], summaries: Summaries) -> str:
    lines = [
        "## Trials\n",
        "| configuration | split | bona fide | spoof | all | published bona fide | published spoof |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for config, splits in summaries.items():
        published = corpus.published(config, options)
        for split, summary in splits.items():
            found = (summary.labels["bonafide"], summary.labels["spoof"], summary.rows)
            totals = published.get(split)
            expected = [f"{number:,}" for number in totals] if totals else ["-", "-"]
            lines.append(_row(f"`{config}`", f"`{split}`", *(f"{number:,}" for number in found), *expected))
    without = sum(split.without_audio for splits in summaries.values() for split in splits.values())
    if without:
        lines.append(f"\nTrials without a clip: {without:,}; their audio is null.")
    return "\n".join(lines)


def _attacks(summaries: Summaries) -> str:
    sections = [_attack_table(config, splits) for config, splits in summaries.items()]
    return "\n\n".join(["## Trials per attack", *filter(None, sections)]) if any(sections) else ""


def _attack_table(config: str, splits: Mapping[str, SplitSummary]) -> str:
    attacks = sum((split.attacks for split in splits.values()), Counter())
    if not attacks:
        return ""
    shown = sorted(attacks)[:SHOWN_ATTACKS]
    lines = [_row(f"`{config}`", *(f"`{split}`" for split in splits)), "|---|" + "---:|" * len(splits)]
    lines += [_row(attack, *(f"{split.attacks[attack]:,}" for split in splits.values())) for attack in shown]
    rest = len(attacks) - len(shown)
    return "\n".join(lines + ([f"\nand {rest} more attacks."] if rest else []))


def _columns(corpus: Corpus, manifest: Mapping[str, Any]) -> str:
    extra = ", ".join(f"`{name}`" for name in corpus.extra)
    audio = "" if manifest["metadata_only"] else "`audio` (the encoded bytes as in the source), "
    return (
        "## Columns\n\n"
        "Label 0 is bona fide (genuine), label 1 is spoof (synthetic or converted). Missing is null.\n\n"
        f"`utterance_id`, `label`, `corpus`, {audio}`attack_id` (the system that made a spoof), `speaker_id`, `subset` "
        "(the corpus's own name of the part), `codec` (that the clip went through), `vq`, `aux` and `dec` (quantiser, "
        "auxiliary objective and decoder of a neural codec; known for genuine speech and for speech made by a known "
        "codec)" + (f"; of this corpus alone: {extra}." if extra else ".")
    )


def _reading(manifest: Mapping[str, Any]) -> str:
    if manifest["metadata_only"]:
        lines = ["from datasets import load_dataset", "", 'data = load_dataset("owner/name")']
        return "## Reading\n\n" + _code(lines)
    lines = [
        "import io",
        "",
        "import soundfile",
        "from datasets import Audio, load_dataset",
        "",
        f'data = load_dataset("owner/name", "{next(iter(manifest["splits"]))}", streaming=True)',
        'data = data.cast_column("audio", Audio(decode=False))  # needs neither torchcodec nor FFmpeg',
        f'row = next(iter(data["{next(iter(next(iter(manifest["splits"].values()))))}"]))',
        'waveform, sampling_rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))',
    ]
    return "## Reading\n\n" + _code(lines)


def _making(corpus: Corpus, manifest: Mapping[str, Any]) -> str:
    command = ["spooftrace corpus build", corpus.name, "DATA_DIR --out FOLDER"]
    command += [f"--config {name}" for name in manifest["splits"]]
    command += ["--metadata-only"] if manifest["metadata_only"] else [f"--missing-audio {manifest['missing_audio']}"]
    command += [f"--option {_quoted(name, value)}" for name, value in manifest["options"].items()]
    text = f"## How it was made\n\nWith spooftrace {manifest['spooftrace']}:\n\n```\n{' '.join(command)}\n```"
    files = dict.fromkeys(pair for found in manifest["protocols"].values() for pair in found.items())
    rows = "\n".join(_row(f"`{name}`", f"`{digest}`") for name, digest in files)
    digests = f"\n\n| protocol | SHA-256 |\n|---|---|\n{rows}" if files else ""
    return f"{text}{digests}\n\n`build.json` lists every shard with its SHA-256."


def _quoted(name: str, value: Any) -> str:
    return shlex.quote(f"{name}={value if isinstance(value, str) else json.dumps(value)}")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
