"""Measures the default tracer and writes its card: `python -m spooftrace.trainers.report_tracer --corpus DIR --model DIR`.

Every clip goes through [`spooftrace.tracer.Tracer`], the path of `spooftrace trace`. Models that were trained without some
pages, without some codecs, or on all rows, are given by options; `evaluation.json` and `README.md` go to the model's folder.
Choices are made on the valid split and on codecs left out of training; the test split is for the figures alone.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spooftrace.open_set import acceptance_threshold
from spooftrace.tracer import Tracer
from spooftrace.trainers.detector_corpus import Clip, CorpusError, read_corpus
from spooftrace.trainers.report_default import FAMILIES, fold_and_model
from spooftrace.trainers.tracer_card import card
from spooftrace.trainers.tracer_corpus import (
    ALL_LABELS,
    LICENSED_LABELS,
    SYSTEM_FOLDS,
    class_counts,
    made_by_codec,
    tracing_clips,
    unknown_clips,
)
from spooftrace.trainers.tracer_measures import task_measures, unknown_measures
from spooftrace.trainers.tracer_open_set import (
    CONTENDERS,
    KNOWN_ACCEPTANCE,
    SHIPPED,
    Contender,
    Traced,
    fitted,
    trace_clips,
)


LEFT_OUT, NO_CODEC = "codecs left out", "no codec"
Scored = tuple[list[Clip], np.ndarray]  # clips and their open-set scores


class Model:
    """A tracer, and the corpus as it traces it: every clip once."""

    def __init__(self, folder: Path, data: Path):
        self.tracer, self.data = Tracer.from_pretrained(folder, device="cpu"), data
        self.options = json.loads((folder / "training.json").read_text(encoding="utf-8"))["options"]
        self._traced: dict[str, Traced] = {}

    def __call__(self, clips: Sequence[Clip]) -> Traced:
        missing = [clip for clip in clips if clip.file not in self._traced]
        if missing:
            traced = trace_clips(self.tracer, self.data, missing)
            for index, clip in enumerate(missing):
                self._traced[clip.file] = traced.where(np.arange(len(missing)) == index)
        parts = [self._traced[clip.file] for clip in clips]
        logits = {task: np.concatenate([part.logits[task] for part in parts]) for task in self.tracer.task_labels}
        return Traced(list(clips), logits, np.concatenate([part.embeddings for part in parts]))


def closed_set(model: Model, clips: Sequence[Clip]) -> dict[str, dict]:
    """Results on the valid and test split, and on the pages without a stated licence, none of which was trained on."""
    groups = {split: tracing_clips(clips, split) for split in ("valid", "test")}
    groups["unlicensed pages"] = [clip for clip in clips if not clip.licensed and _is_source(clip)]
    return {name: task_measures(model(group), LICENSED_LABELS) for name, group in groups.items() if group}


def held_out_pages(data: Path, clips: Sequence[Clip], models: Sequence[tuple[int, Path]]) -> dict[str, Any]:
    """Each model on the licensed clips, outside the test split, of the pages that it was trained without; then together."""
    parts, options = [], {}
    for fold, folder in models:
        model = Model(folder, data)
        chosen = [c for c in clips if c.page_fold == fold and c.licensed and c.split != "test" and _is_source(c)]
        parts.append((fold, model(chosen)))
        options[str(fold)] = model.options
    result = {f"fold {fold}": task_measures(part, LICENSED_LABELS, with_intervals=False) for fold, part in parts}
    together = joined([part for _, part in parts])
    return {**result, "together": task_measures(together, LICENSED_LABELS), "options": options}


def all_rows(data: Path, clips: Sequence[Clip], folder: Path) -> dict[str, Any]:
    """What a model of all rows gives with all classes, on the whole test split and on its licensed part."""
    model, test = Model(folder, data), tracing_clips(clips, "test", all_rows=True)
    licensed = [clip for clip in test if clip.licensed]
    train = tracing_clips(clips, "train", all_rows=True)
    return {
        "classes": {"train": class_counts(train, ALL_LABELS)},
        "test": task_measures(model(test), ALL_LABELS),
        "test, licensed rows": task_measures(model(licensed), ALL_LABELS),
    }


def open_set(model: Model, clips: Sequence[Clip], without: Sequence[Model]) -> dict[str, Any]:
    """
    Every contender on unknown sources of two kinds: spoofs that no codec made, and codecs that were left out of training.

    Args:
        model: the one that ships.
        clips: the corpus.
        without: models that were trained without the codecs of one part of `SYSTEM_FOLDS` each.
    """
    choice, test = {}, {}
    for contender in CONTENDERS:
        choice[contender.name] = _open_set_of(contender, model, clips, without, "valid")
        test[contender.name] = _open_set_of(contender, model, clips, without, "test")
    merit = {name: _mean_auroc(kinds) for name, kinds in choice.items()}
    result: dict[str, Any] = {"shipped": SHIPPED.name, "merit": merit, "choice": choice, "test": test}
    result["families"] = _families(model, clips)
    result["options"] = [other.options for other in without]
    return result


def _mean_auroc(kinds: dict[str, dict]) -> float:
    """Of all kinds of unknown against both sets of known clips: what the choice goes by."""
    return round(float(np.mean([found["auroc"] for known in kinds.values() for found in known.values()])), 4)


def _open_set_of(
    contender: Contender, model: Model, clips: Sequence[Clip], without: Sequence[Model], split: str
) -> dict[str, dict]:
    """
    Results by kind of unknown, against known codecs, and against these and genuine speech.

    Of the codecs that were left out, "valid" takes all clips outside the test split.
    """
    known = tracing_clips(clips, split)
    pools = {NO_CODEC: _pooled([(contender, model, known, unknown_clips(clips, split))], clips)}
    runs = []
    for other in without:
        codecs = SYSTEM_FOLDS[other.options["system_fold"]]
        unknown = [c for c in clips if c.licensed and c.system in codecs and (c.split == "test") == (split == "test")]
        runs.append((contender, other, [clip for clip in known if clip.system not in codecs], unknown))
    if runs:
        pools[LEFT_OUT] = _pooled(runs, clips)
    return {kind: _against(*pool) for kind, pool in pools.items()}


def _against(known: Scored, unknown: Scored) -> dict[str, dict]:
    codecs = np.array([clip.is_spoof for clip in known[0]])
    of_codecs = ([clip for clip in known[0] if clip.is_spoof], known[1][codecs])
    return {
        "against known codecs": unknown_measures(of_codecs, unknown, threshold=1.0),
        "against known codecs and genuine speech": unknown_measures(known, unknown, threshold=1.0),
    }


def _pooled(
    runs: Sequence[tuple[Contender, Model, list[Clip], list[Clip]]], clips: Sequence[Clip]
) -> tuple[Scored, Scored]:
    """Known and unknown clips of several models on one scale."""
    pool: tuple[list, list] = ([], [])
    for contender, model, known, unknown in runs:
        scale = _scale(contender, model, clips)
        for side, group in zip(pool, (known, unknown), strict=True):
            side.append((group, scale(model(group))))
    sides = [([clip for group, _ in side for clip in group], np.concatenate([s for _, s in side])) for side in pool]
    return sides[0], sides[1]


def _scale(contender: Contender, model: Model, clips: Sequence[Clip]) -> Callable[[Traced], np.ndarray]:
    """
    The score, moved and stretched so that models agree: 0 is the median of the known valid clips, 1 the threshold.

    Fitted as the shipped one is: to the known training clips, the threshold to the known valid clips.
    """
    fold = model.options.get("system_fold")
    train, valid = (model(tracing_clips(clips, split, system_fold=fold)) for split in ("train", "valid"))
    scorer = fitted(contender, train)
    known = scorer.score(valid.features(contender))
    centre, limit = np.median(known), acceptance_threshold(known, KNOWN_ACCEPTANCE)
    return lambda traced: (scorer.score(traced.features(contender)) - centre) / (limit - centre)


def _families(model: Model, clips: Sequence[Clip]) -> dict[str, dict]:
    """The shipped score on each family of test spoofs that no codec made, against known codecs and genuine speech."""
    scale, known = _scale(SHIPPED, model, clips), tracing_clips(clips, "test")
    result = {}
    for family in FAMILIES:
        unknown = [clip for clip in unknown_clips(clips, "test") if clip.family == family]
        if len(unknown) > 1:
            result[family] = unknown_measures((known, scale(model(known))), (unknown, scale(model(unknown))), 1.0)
    return result


def _is_source(clip: Clip) -> bool:
    return not clip.is_spoof or made_by_codec(clip)


def joined(parts: Sequence[Traced]) -> Traced:
    """Clips of several models together, for their predictions; the embeddings of different models are not comparable."""
    logits = {task: np.concatenate([part.logits[task] for part in parts]) for task in parts[0].logits}
    clips = [clip for part in parts for clip in part.clips]
    return Traced(clips, logits, np.concatenate([part.embeddings for part in parts]))


def report(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements that the given models allow."""
    clips, model = read_corpus(args.corpus), Model(args.model, args.corpus)
    splits = {split: tracing_clips(clips, split) for split in ("train", "valid", "test")}
    result: dict[str, Any] = {
        "classes": {split: class_counts(group, LICENSED_LABELS) for split, group in splits.items()},
        "pages": _variety(splits["train"], lambda clip: clip.page),
        "systems": _variety(splits["train"], lambda clip: clip.system),
        "unknown": {split: len(unknown_clips(clips, split)) for split in splits},
        "closed_set": closed_set(model, clips),
    }
    if args.without_pages:
        result["held_out_pages"] = held_out_pages(args.corpus, clips, args.without_pages)
    if args.all_rows:
        result["all_rows"] = all_rows(args.corpus, clips, args.all_rows)
    without = [Model(folder, args.corpus) for folder in args.without_systems]
    return {**result, "open_set": open_set(model, clips, without)}


def _variety(clips: Sequence[Clip], kind: Callable[[Clip], str]) -> dict[str, dict[str, int]]:
    """How many pages, or systems, every class of a task was heard on."""
    return {
        task: {name: len({kind(clip) for clip in clips if getattr(clip, task) == name}) for name in names}
        for task, names in LICENSED_LABELS.items()
    }


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m spooftrace.trainers.report_tracer", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="corpus folder with metadata.csv")
    parser.add_argument("--model", type=Path, required=True, help="folder that default_tracer wrote")
    parser.add_argument(
        "--without-pages",
        nargs="+",
        type=fold_and_model,
        default=[],
        metavar="FOLD=DIR",
        help="models that were trained with --held-out-fold FOLD",
    )
    parser.add_argument(
        "--without-systems",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="models that were trained with --system-fold, whose left-out codecs are unknown to them",
    )
    parser.add_argument("--all-rows", type=Path, metavar="DIR", help="a model that was trained with --all-rows")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 when done, 1 with one line when the corpus or a model is not usable."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        result = report(args)
        (args.model / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (args.model / "README.md").write_text(card(args.model), encoding="utf-8")
    except (CorpusError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.model / 'evaluation.json'} and README.md written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
