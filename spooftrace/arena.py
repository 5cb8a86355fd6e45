"""The files of the Speech Anti-Spoofing Arena (the organisation SpeechAntiSpoofingBenchmarks on the Hub).

A model repository carries, for every dataset, `.eval_results/<owner>/<dataset>/scores.txt`, one `utterance_id score` per
line, and beside it `result.yaml`. That file comes in two forms, because the second one needs the address of the uploaded
scores:

- before the upload, the run record (`schema_version: 4`): system, dataset, revision, scores and the SHA-256 of
  `scores.txt`, with `scores_url: null`. It is also the draft of the submission, `submissions/<slug>.yaml` in the dataset
  repository, in which the submitter's name, the date and the address are still to be filled in.
- afterwards, given that address pinned to a commit, the result (`schema_version: 1`): system, dataset, scores, the
  links of the Arena and `scores_url`, and nothing else. It wants the arXiv number of a paper.

Both follow the schemas and the documents in the public repository `lab260ru/speech_spoof_bench` (May and June 2026). Not
verified: that the live Arena still runs these versions; no submission was made. The Arena recomputes the EER from the
scores by linear interpolation between two thresholds and compares to 1e-6 percentage points, so `arena_eer` follows that
rule; where scores are distinct it differs from `spooftrace.metrics.eer` by less than one trial's share. Sets of spoofs
alone, which the Arena judges by another measure at a threshold from another set, are not written.
"""

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spooftrace._version import __version__
from spooftrace.score_files import LABELS, read_scores


ARENA_URL = "https://huggingface.co/spaces/SpeechAntiSpoofingBenchmarks/SpeechAntiSpoofingArena"
FOLDER = ".eval_results"
RECORD_SCHEMA, RESULT_SCHEMA = 4, 1
TOLERANCE = 1e-6  # percentage points
MOST_SKIPPED = 0.05  # share of the trials; the Arena's own tool gives up beyond it

_SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")
_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[0-9a-f]{7,40}")
_SCORES_URL = re.compile(r"https://huggingface\.co/[^/\s]+/[^/\s]+/resolve/[0-9a-f]{7,40}/\S+")


class ArenaError(ValueError):
    """Something that the Arena would not accept, with the remedy."""


@dataclass(frozen=True)
class System:
    """
    What was evaluated.

    Args:
        name: in prose.
        slug: of lower-case letters, digits and dashes; the identity of the system everywhere in the Arena.
        arxiv_id: of its paper, such as `"2110.01200"`. Systems without one are shown without a rank.
        description: one line.
        code, checkpoint: addresses.
    """

    name: str
    slug: str
    arxiv_id: str | None = None
    description: str | None = None
    code: str | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ArenaError("the system has no name: give it one, as in `AASIST`")
        if not _SLUG.fullmatch(self.slug):
            raise ArenaError(f"slug {self.slug!r}: use lower-case letters, digits and dashes, as in `aasist-default`")


@dataclass(frozen=True)
class Dataset:
    """
    What it was evaluated on.

    Args:
        id: `owner/name` of a dataset on the Hub.
        revision: the commit of it that was scored, 7 to 40 hexadecimal digits; a branch can move and is refused.
        split: of the dataset.
    """

    id: str
    revision: str
    split: str = "test"

    def __post_init__(self) -> None:
        if not _DATASET.fullmatch(self.id):
            raise ArenaError(f"dataset {self.id!r}: write `owner/name`, as on the Hub")
        if not _REVISION.fullmatch(self.revision):
            raise ArenaError(f"dataset revision {self.revision!r}: name the commit, 7 to 40 hexadecimal digits")
        if not self.split:
            raise ArenaError("the split has no name: write `test`")


class ArenaFiles(NamedTuple):
    """What was written, and the numbers in it."""

    scores: Path
    result: Path
    eer_percent: float
    n_trials: int
    n_skipped: int
    scores_sha256: str


def arena_eer(bonafide_scores: np.ndarray, spoof_scores: np.ndarray) -> float:
    """
    The equal error rate in percent by the Arena's rule.

    With FAR(t) the share of spoof scores >= t, FRR(t) the share of bona fide scores < t, and t running over the distinct
    scores: both rates at the first change of sign of FAR - FRR, on the line between the two thresholds. Where FAR equals
    FRR at a threshold, that is the value; where there is no change of sign, the mean of both at the closest one.

    Raises:
        ValueError: where one of the classes has no score.
    """
    bonafide, spoof = (np.sort(np.asarray(x, dtype=np.float64)) for x in (bonafide_scores, spoof_scores))
    if not bonafide.size or not spoof.size:
        raise ValueError("an EER needs a bona fide and a spoof score")
    thresholds = np.unique(np.concatenate([bonafide, spoof]))
    far = 1 - np.searchsorted(spoof, thresholds, side="left") / spoof.size
    frr = np.searchsorted(bonafide, thresholds, side="left") / bonafide.size
    gap = far - frr
    changes = np.flatnonzero(np.diff(np.sign(gap)))
    if not changes.size:
        at = int(np.argmin(np.abs(gap)))
        return float(50 * (far[at] + frr[at]))
    at = int(changes[0])
    weight = gap[at] / (gap[at] - gap[at + 1])
    both = (far + frr)[at] * (1 - weight) + (far + frr)[at + 1] * weight
    return float(50 * both)


def write_arena(
    folder: str | os.PathLike,
    scores: Mapping[str, float],
    labels: Mapping[str, str],
    *,
    system: System,
    dataset: Dataset,
    scores_url: str | None = None,
) -> ArenaFiles:
    """
    Writes `scores.txt` and `result.yaml` for one dataset below `folder`.

    Args:
        folder: of the model repository, in which `.eval_results` is made.
        scores: utterance id -> score, higher for bona fide.
        labels: utterance id -> `"bonafide"` or `"spoof"`, for every trial of the split; those without a score count as
            skipped.
        system, dataset: what was evaluated on what.
        scores_url: address of the uploaded `scores.txt`, pinned to a commit; makes the final form of `result.yaml`.

    Raises:
        ArenaError: for scores of other utterances, too many skipped ones, or an address that is not pinned.
    """
    _check(scores, labels, system, scores_url)
    target = Path(folder) / FOLDER / dataset.id
    text = "".join(f"{name} {float(scores[name])!r}\n" for name in labels if name in scores)
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    numbers = {
        "eer_percent": arena_eer(*_by_label(scores, labels)),
        "n_trials": len(labels),
        "n_skipped": len(labels) - len(scores),
    }
    if scores_url is None:
        result = _record(system, dataset, numbers, digest)
    else:
        result = _result(system, dataset, numbers, scores_url)
    target.mkdir(parents=True, exist_ok=True)
    (target / "scores.txt").write_bytes(text.encode("utf-8"))
    (target / "result.yaml").write_text(_dump(result), encoding="utf-8")
    return ArenaFiles(target / "scores.txt", target / "result.yaml", *numbers.values(), digest)


def _check(scores: Mapping[str, float], labels: Mapping[str, str], system: System, scores_url: str | None) -> None:
    others = sorted(scores.keys() - labels.keys())
    if others:
        raise ArenaError(f"{len(others)} scores are of no trial of the dataset ({', '.join(others[:5])}): remove them")
    bad = [name for name, score in scores.items() if not math.isfinite(score)]
    if bad:
        raise ArenaError(
            f"{len(bad)} scores are not finite ({', '.join(bad[:5])}): leave them out, they count as skipped"
        )
    unknown = sorted({str(label) for label in labels.values()}.difference(LABELS))
    if unknown:
        raise ArenaError(f"labels {unknown}: write `bonafide` or `spoof`")
    skipped = len(labels) - len(scores)
    if skipped > MOST_SKIPPED * len(labels):
        raise ArenaError(
            f"{skipped} of {len(labels)} trials have no score; the Arena takes at most {MOST_SKIPPED:.0%}"
        )
    if scores_url is None:
        return
    if not _SCORES_URL.fullmatch(scores_url):
        raise ArenaError(
            f"scores address {scores_url!r}: write https://huggingface.co/OWNER/NAME/resolve/COMMIT/... with the commit "
            "that the upload made, not a branch"
        )
    if not system.arxiv_id:
        raise ArenaError("the Arena's result.yaml names a paper: give its arXiv number, or keep the run record")


def _by_label(scores: Mapping[str, float], labels: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    bonafide, spoof = (
        np.array([scores[name] for name, label in labels.items() if label == wanted and name in scores])
        for wanted in LABELS
    )
    return bonafide, spoof


def _record(system: System, dataset: Dataset, numbers: Mapping[str, Any], digest: str) -> dict[str, Any]:
    paper = {"arxiv_id": system.arxiv_id, "url": f"https://arxiv.org/abs/{system.arxiv_id}", "bibtex": None}
    return {
        "schema_version": RECORD_SCHEMA,
        "system": {
            "name": system.name,
            "slug": system.slug,
            "description": system.description,
            "code": system.code,
            "checkpoint": system.checkpoint,
            "paper": paper if system.arxiv_id else None,
        },
        "dataset": {"id": dataset.id, "revision": dataset.revision, "split": dataset.split},
        "scores": dict(numbers),
        "artifact": {"scores_url": None, "scores_sha256": digest, "bench_version": f"spooftrace=={__version__}"},
        "reproduction": {},
        "submitter": {},
        "submitted_at": None,
        "notes": None,
    }


def _result(system: System, dataset: Dataset, numbers: Mapping[str, Any], scores_url: str) -> dict[str, Any]:
    return {
        "schema_version": RESULT_SCHEMA,
        "system": {"name": system.name, "slug": system.slug, "paper": {"arxiv_id": system.arxiv_id}},
        "dataset": {"id": dataset.id, "revision": dataset.revision, "split": dataset.split},
        "scores": dict(numbers),
        "arena": {"url": ARENA_URL, "system_url": f"{ARENA_URL}?system={system.slug}"},
        "artifact": {"scores_url": scores_url},
    }


def _dump(value: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)


def verify_arena(folder: str | os.PathLike, labels: Mapping[str, str]) -> ArenaFiles:
    """
    Recomputes what `result.yaml` claims from `scores.txt`, as the Arena does: hash, counts and EER.

    Args:
        folder: the one with both files.
        labels: utterance id -> label, for every trial of the split.

    Raises:
        FileNotFoundError: where one of the files is not there.
        ArenaError: with everything that does not agree.
    """
    folder = Path(folder)
    claimed, claimed_digest = _claims(folder / "result.yaml")
    found = read_scores(folder / "scores.txt")
    others = found.values.keys() - labels.keys()
    if others:
        raise ArenaError(f"{folder}: {len(others)} scores are of no trial, such as {min(others)}")
    eer_percent, skipped = arena_eer(*_by_label(found.values, labels)), len(labels) - len(found.values)
    wrong = []
    if abs(eer_percent - claimed[0]) > TOLERANCE:
        wrong.append(f"eer_percent is {claimed[0]!r}, the scores give {eer_percent!r}")
    if claimed[1:] != (len(labels), skipped):
        wrong.append(
            f"it has {claimed[1]} trials, {claimed[2]} skipped; the split has {len(labels)}, {skipped} unscored"
        )
    if claimed_digest not in (None, found.sha256):
        wrong.append(f"scores_sha256 is {claimed_digest}, scores.txt has {found.sha256}")
    if wrong:
        raise ArenaError(f"{folder / 'result.yaml'}: " + "; ".join(wrong))
    return ArenaFiles(found.path, folder / "result.yaml", eer_percent, len(labels), skipped, found.sha256)


def _claims(path: Path) -> tuple[tuple[float, int, int], str | None]:
    """EER in percent, trials and skipped trials that a `result.yaml` claims, and the hash of its scores if it has one."""
    import yaml

    result = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        scores, artifact = result["scores"], result["artifact"]
        return (scores["eer_percent"], scores["n_trials"], scores["n_skipped"]), artifact.get("scores_sha256")
    except (TypeError, KeyError, AttributeError) as error:
        raise ArenaError(f"{path} is no result of the Arena with an EER: {error}") from error
