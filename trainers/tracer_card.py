"""The text of the default tracer's model card, from its measurements; no figure is typed by hand."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spooftrace.trainers.default_tracer import TracerRecipe
from spooftrace.trainers.tracer_corpus import SYSTEM_FOLDS
from spooftrace.trainers.tracer_measures import MEASURES, ROUNDS


QUESTIONS = {"vq": "the quantiser", "aux": "the auxiliary objective", "dec": "the decoder"}

CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: audio-classification
tags: [anti-spoofing, audio-deepfake-detection, source-tracing, aasist]
---

# The tracer that ships with spooftrace

Says of which kind the neural codec was that made a clip of fake speech: its quantiser (`vq`), its auxiliary objective
(`aux`) and its decoder (`dec`), in the taxonomy of CodecFake+ (arXiv 2501.08238). {size} MB, made for a CPU. `spooftrace
trace` uses it where no other model is named.

```python
from spooftrace.tracer import Tracer

print(Tracer.from_pretrained()("clip.wav"))
```

It is a small model from little data: a demonstration that runs anywhere, and a start for your own. Whether speech is fake
is a question for the detector; ask it first.

## What it can answer

| task | classes |
|---|---|
{labels}

**What is missing.** Scalar quantisation (`sq`) is not among its classes, because no clip of one with a stated licence was at
hand, and neither are auxiliary objectives of the semantic kind, of which there were 13 clips: such speech gets one of the
classes above. Speech that was synthesised or converted without a neural codec has no class in any task either; the score for
unknown sources below is the only thing that could say so.

## How it works

`AasistForAudioClassification(frontend="mel", tasks={tasks})`: the filter bank and the encoder of the default detector, one
graph-attention back-end per task (AASIST, Jung et al. 2022, arXiv 2110.01200). A clip's probabilities come from its logits
averaged over windows of {window} s that overlap by half.

## What it was trained on

The rows of a small corpus (clips of 1 to 5 s, low-passed at 7.15 kHz) collected from public demo pages that state a licence,
are genuine or made by a known codec, and are in its train split. The pages are those of the default detector's card. The
weights started at random. Where a clip's class is not in the label set, the clip is masked in that task.

{classes}

Kinds of codec, systems and pages go together: see how few some classes were heard of. What tells such a class may be the
system or the page.

## Recipe

```bash
{recipe}
```

Pairs of a genuine clip and a codec's, of the same utterance or page where there is one; codec-made clips balanced over
systems and pages and over combinations of classes; classes weighted in the loss; random equalisation, noise and masks. One
run, one seed. The size of the batches and the number of steps were chosen on the valid split. An encoder that started from the
default detector's came to the same there, and would have heard the pages and codecs that the measurements below leave out.

## Measured

In percent, with 95 % intervals by bootstrap over speakers ({rounds} rounds). *valid* and *test* hold other speakers than
*train*, mostly of the same pages and systems. *majority* always says bona fide, *random* guesses every class alike.
*unlicensed pages* state no licence and were never trained on; their scalar and semantic codecs are left out in the tasks
that lack the class. More than half of the clips are genuine, so that accuracy says little beside *majority*: macro F1 counts
every class alike. On *test* the tracer finds {recalls}.

{closed_set}
{held_out_pages}{all_rows}
## "None of the sources I know"

`unknown.score` in the answers is the score `{method}`, and `unknown.is_unknown` says whether it lies above a threshold that
accepts 95 % of the valid clips of known sources, genuine speech among them. It was chosen from the scores below outside the
test split, by the mean of its AUROCs for both kinds of unknown, against known codecs and against these and genuine speech
({merit}). Unknown are spoofs that no neural codec made (synthesis, conversion, vocoders, signal processing),
and codecs that were left out of training. {left_out}AUROC is the chance that an unknown clip scores
above a known one (50 is guessing); FPR is the share of unknown clips that pass as known where 95 % of the known ones do.

{open_set}

{verdict}

## Made with

```bash
{commands}
```

## What it cannot do

- It answers for codecs that it has not heard, too: {new_codecs}.
- It was trained on minutes of codec speech, nearly all of it clean read English. Other languages, noise, telephone lines and
  codecs at other bit rates are untested.
- A class may stand for a page or a codec rather than for what it is named after. An answer is a hint, never proof.
- It hears nothing above 7.2 kHz.
"""

HELD_OUT = """
### held-out pages

The recipe was run anew without the pages of one fold ({options}), and those pages' licensed clips outside
the test split were traced: recording conditions and some codecs that the model had not met, though speakers of LibriSpeech
and VCTK recur on several pages. This is the figure to expect on new material. Folds without codec-made clips (0 and 3) are
left out; a class without clips in a fold counts as an F1 of 0 there.

{tables}
"""

ALL_ROWS = """
### all rows, not shipped

The same recipe on all rows of the train split, those without a stated licence included, with all classes of the taxonomy
({counts}). These weights are not part of the package.
A class without clips in the licensed part of the test split counts as an F1 of 0 there.

{tables}
"""


def percent(value: float, interval: Sequence[float] | None = None) -> str:
    """A share and, if there is one, its interval, as in `61.9 (52.0 to 70.3)`."""
    return f"{100 * value:.1f}" + (f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else "")


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def counted(support: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in support.items())


def task_table(results: Mapping[str, dict]) -> str:
    """Every task of one set of clips beside majority and random."""
    rows = []
    for task, found in results.items():
        cells = [percent(found[name], found.get(f"{name}_interval")) for name in MEASURES]
        rows.append([task, counted(found["support"]), *cells])
        for guess in ("majority", "random"):
            rows.append([f"{task}, {guess}", "", *(percent(found[guess][name]) for name in MEASURES)])
    return markdown(["task", "clips", *(name.replace("_", " ").replace("f1", "F1") for name in MEASURES)], rows)


def confusions(results: Mapping[str, dict]) -> str:
    """Clips by class and predicted class, a table for each task."""
    tables = []
    for task, found in results.items():
        names = list(found["support"])
        rows = [[name, *row] for name, row in zip(names, found["confusion"], strict=True)]
        tables.append(markdown([f"{task}: true, then traced to", *names], rows))
    return "\n\n".join(tables)


def class_table(evaluation: Mapping[str, Any]) -> str:
    rows = []
    for task, train in evaluation["classes"]["train"].items():
        for name, count in train.items():
            others = [evaluation["classes"][split][task].get(name, 0) for split in ("valid", "test")]
            variety = [evaluation[kind][task].get(name, "") for kind in ("systems", "pages")]
            variety[0] = "" if name == "bonafide" else variety[0]
            rows.append([task, name, count, *variety, *others])
    return markdown(["task", "class", "train clips", "of systems", "on pages", "valid clips", "test clips"], rows)


def closed_set_text(results: Mapping[str, dict]) -> str:
    parts = [f"### {name}\n\n{task_table(found)}\n\n{confusions(found)}" for name, found in results.items()]
    return "\n\n".join(parts) + "\n"


def held_out_text(results: Mapping[str, Any] | None) -> str:
    if not results:
        return ""
    folds = ", ".join(results["options"])
    steps = sorted({options.get("steps", TracerRecipe.steps) for options in results["options"].values()})
    options = f"folds {folds}; {', '.join(map(str, steps))} steps"
    single = []
    for name, found in results.items():
        for task, values in found.items() if name.startswith("fold") else ():
            single.append([name, task, counted(values["support"]), *(percent(values[key]) for key in MEASURES)])
    head = ["pages", "task", "clips", "macro F1", "weighted F1", "accuracy"]
    tables = [task_table(results["together"]), confusions(results["together"]), markdown(head, single)]
    return HELD_OUT.format(options=options, tables="\n\n".join(tables))


def all_rows_text(results: Mapping[str, Any] | None) -> str:
    if not results:
        return ""
    counts = "; ".join(f"{task}: {counted(found)}" for task, found in results["classes"]["train"].items())
    parts = [f"**{name}**\n\n{task_table(results[name])}" for name in results if name != "classes"]
    return ALL_ROWS.format(counts=counts, tables="\n\n".join(parts))


def recalls(results: Mapping[str, dict]) -> str:
    """How many clips of each class but bona fide are found."""
    told = []
    for task, found in results.items():
        counts = zip(found["support"].items(), found["confusion"], strict=True)
        each = [f"{row[number]} of {count} {name}" for number, ((name, count), row) in enumerate(counts) if number]
        told.append(f"{', '.join(each)} (`{task}`)")
    return "; ".join(told)


def left_out_text(options: Sequence[Mapping[str, Any]]) -> str:
    """How the runs without some codecs were made; nothing where there are none."""
    if not options:
        return ""
    parts = "; ".join(", ".join(SYSTEM_FOLDS[one["system_fold"]]) for one in options)
    steps = sorted({one.get("steps", TracerRecipe.steps) for one in options})
    return (
        f"For these the recipe was run anew without one part of the codecs at a time ({parts}), for "
        f"{', '.join(map(str, steps))} steps, and the scores of the runs were brought to one scale by their own known valid "
        "clips. "
    )


def open_set_text(results: Mapping[str, Any]) -> str:
    """Every score on every kind of unknown, outside the test split and on it, and the shipped one by family."""
    parts = []
    for split, title in (("choice", "outside the test split, where the choice was made"), ("test", "test")):
        rows = []
        for name, kinds in results[split].items():
            for kind, found in kinds.items():
                rows.append([name, kind, *_unknown_cells(found["against known codecs"])])
        parts.append(f"**{title}, against known codecs**\n\n" + markdown(["score", "unknown", *_UNKNOWN_HEAD], rows))
    found = results["test"][results["shipped"]]
    rows = [[kind, *_unknown_cells(one["against known codecs and genuine speech"])] for kind, one in found.items()]
    rows += [[f"no codec: {family}", *_unknown_cells(one)] for family, one in results["families"].items()]
    head = ["unknown", *_UNKNOWN_HEAD, "known called unknown", "unknown called unknown"]
    rows = [[*row, *_called(one)] for row, one in zip(rows, _shipped(results), strict=True)]
    parts.append(f"**test, {results['shipped']}, against known codecs and genuine speech**\n\n{markdown(head, rows)}")
    return "\n\n".join(parts)


_UNKNOWN_HEAD = ("known clips", "unknown clips", "AUROC", "FPR at 95 % TPR")


def _unknown_cells(found: Mapping[str, Any]) -> list[Any]:
    auroc = percent(found["auroc"], found["auroc_interval"])
    return [found["known"], found["unknown"], auroc, percent(found["fpr_at_95_tpr"])]


def _shipped(results: Mapping[str, Any]) -> list[dict]:
    kinds = results["test"][results["shipped"]].values()
    return [*(kind["against known codecs and genuine speech"] for kind in kinds), *results["families"].values()]


def _called(found: Mapping[str, Any]) -> list[str]:
    return [percent(found[name]) for name in ("known_called_unknown", "unknown_called_unknown")]


def verdict(results: Mapping[str, Any]) -> str:
    """What the shipped score is worth, in words, from its test figures."""
    told = []
    for kind, found in results["test"][results["shipped"]].items():
        each = [f"{name} it is {_worth(values)}" for name, values in found.items()]
        values = found["against known codecs and genuine speech"]
        shares = [percent(values[f"{name}_called_unknown"]) for name in ("unknown", "known")]
        told.append(
            f"Of test clips of the kind *{kind}*, the shipped threshold calls {shares[0]} % unknown, and {shares[1]} % of the "
            f"known ones; {', '.join(each)}."
        )
    return "**What it is worth.** " + " ".join(told) + " `is_unknown: false` does not mean that the source is known."


def _worth(found: Mapping[str, Any]) -> str:
    low, high = found["auroc_interval"]
    if low <= 0.5 <= high:
        return "no better than guessing"
    return "worse than guessing" if high < 0.5 else "weak" if found["auroc"] < 0.8 else "useful"


def _options(changed: Mapping[str, Any]) -> str:
    texts = []
    for name, value in changed.items():
        option = f"--{name.replace('_', '-')}"
        texts.append(f" {option}" if value is True else f" {option} {value}")
    return "".join(texts)


def report_commands(evaluation: Mapping[str, Any]) -> str:
    """The commands that train what was measured beside the shipped model, and measure all again."""
    train = "python -m spooftrace.trainers.default_tracer --corpus DIR --out"
    lines, report = [], "python -m spooftrace.trainers.report_tracer --corpus DIR --model OUT"
    pages = evaluation.get("held_out_pages", {}).get("options", {})
    lines += [f"{train} OUT-PAGES-{fold}{_options(options)}" for fold, options in pages.items()]
    systems = {str(options["system_fold"]): options for options in evaluation["open_set"]["options"]}
    lines += [f"{train} OUT-SYSTEMS-{fold}{_options(options)}" for fold, options in systems.items()]
    if "all_rows" in evaluation:
        lines.append(f"{train} OUT-ALL --all-rows")
        report += " --all-rows OUT-ALL"
    if pages:
        report += " --without-pages " + " ".join(f"{fold}=OUT-PAGES-{fold}" for fold in pages)
    if systems:
        report += " --without-systems " + " ".join(f"OUT-SYSTEMS-{fold}" for fold in systems)
    return "\n".join([*lines, report])


def card(model: Path) -> str:
    """The card's text. Raises OSError where a file of the model's folder is missing, KeyError for another's evaluation.json."""
    names = ("config", "preprocessor_config", "training", "evaluation")
    config, extractor, record, found = (json.loads((model / f"{n}.json").read_text(encoding="utf-8")) for n in names)
    labels = {task: config["task_labels"][task] for task in config["tasks"]}
    new = found.get("held_out_pages", {}).get("together") or found["closed_set"].get("unlicensed pages", {})
    scores = ", ".join(f"{percent(values['macro_f1'])} for {QUESTIONS[task]}" for task, values in new.items())
    return CARD.format(
        size=round((model / "model.safetensors").stat().st_size / 1e6, 1),
        labels="\n".join(f"| `{task}` | {', '.join(names)} |" for task, names in labels.items()),
        tasks=config["tasks"],
        window=extractor["window_samples"] / extractor["sampling_rate"],
        classes=class_table(found),
        recipe=f"python -m spooftrace.trainers.default_tracer --corpus DIR --out OUT{_options(record['options'])}",
        rounds=f"{ROUNDS:,}",
        closed_set=closed_set_text(found["closed_set"]),
        held_out_pages=held_out_text(found.get("held_out_pages")),
        all_rows=all_rows_text(found.get("all_rows")),
        method=found["open_set"]["shipped"],
        recalls=recalls(found["closed_set"]["test"]),
        merit=", ".join(f"{name} {percent(value)}" for name, value in found["open_set"]["merit"].items()),
        left_out=left_out_text(found["open_set"]["options"]),
        open_set=open_set_text(found["open_set"]),
        verdict=verdict(found["open_set"]),
        commands=report_commands(found),
        new_codecs=f"on pages that it was not trained on it reaches, of 100 (macro F1), {scores}"
        if scores
        else "what that is worth was not measured",
    )
