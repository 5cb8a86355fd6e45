"""Writes the default detector's model card from its measurements: `python -m spooftrace.trainers.default_card --model DIR`.

Reads the JSON files in the model's folder, `results.json` from `report_default` among them, and writes `README.md` there;
no figure is typed by hand.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from spooftrace.trainers.detector_corpus import SPLITS


SOURCES = """\
| source | licence as stated there | genuine | fake |
|---|---|---|---|
| Resemblyzer examples (LibriSpeech) | CC BY 4.0, code Apache-2.0 | yes | |
| speechocean762 | "free download for both commercial and non-commercial purposes" | yes | |
| Free Spoken Digit Dataset | CC BY-SA 4.0 | yes | |
| e1tts.github.io | CC0-1.0 (page template) | yes | 12 speech synthesisers |
| languagecodec.github.io, wavtokenizer.github.io, MobileSpeech.github.io | CC0-1.0 (page template); LibriTTS, \
LibriSpeech CC BY 4.0 | yes | codecs and speech synthesis |
| FreeCodec-Demo, TiCodec | Apache-2.0 | yes | codecs, voice conversion |
| funcodec.github.io | MIT | yes | codecs |
| assem-vc, univnet | BSD-3-Clause; VCTK, LibriTTS | yes | voice conversion, vocoder |
| FastSpeech2, ParallelWaveGAN | MIT; LJSpeech, LibriTTS, AISHELL-3 | yes | speech synthesis, vocoders |
| DiffGAN-TTS, Matcha-TTS | MIT | | speech synthesis |
| eSpeak NG, WORLD, Griffin-Lim | made from the genuine clips above | | signal processing |"""

CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: audio-classification
tags: [anti-spoofing, audio-deepfake-detection, aasist]
---

# The detector that ships with spooftrace

Tells genuine speech from speech that was synthesised, converted or passed through a neural codec. {size} MB, made
for a CPU. `spooftrace detect` uses it where no other model is named.

```python
from spooftrace.detector import Detector

print(Detector.from_pretrained()("clip.wav"))
```

## How it works

`AasistForAudioClassification(frontend="mel")`: 60 linear bands from 50 to 7,200 Hz with a 32 ms and a 12 ms window every
10 ms; the local energy of {textures} small two-dimensional cosine patterns in both maps; three convolutional layers; the
graph attention back-end of AASIST (Jung et al. 2022, arXiv 2110.01200). A clip's score is the mean log-odds of bona fide
over windows of {window} s that overlap by half.

## What it was trained on

The licensed rows of a small corpus (2.2 hours, clips of 1 to 5 s, low-passed at 7.15 kHz) collected from public demo pages,
{train}:

{sources}

The page licences are mostly written for code and name the audio rarely. Beside these fakes it saw copies of the genuine
training clips made by `spooftrace.trainers.make_attacks`: vocoders, quantisers and small neural codecs and vocoders that
were themselves trained on those clips alone. No pretrained network is involved.

**Transmission coding is not synthesis.** The corpus labels genuine clips that went through Opus 6 kb/s, Speex or GSM as
spoof. They were left out of training and calibration. In the tables they count as the corpus labels them unless a line
says otherwise, so lines with them charge the detector for every such clip that it calls genuine.

## Recipe

```bash
{recipe}
```

The two neural attacks were trained for minutes on a shared processor (8 and 6.5), so their copies do not repeat to the bit;
everything else follows from the seed. One run, one seed, about twenty minutes on one core.

## Measured

Equal error rates in percent. Intervals: 95 %, bootstrap over clips (2,000 rounds). The families are each measured against
all genuine clips of the split. *test* and *valid* hold other speakers than *train*, but mostly the same pages and systems;
*unlicensed* rows, part of "all", come from pages that were never trained on. For *held-out pages* the recipe was run anew
without the pages of one fold ({folds}), and those pages' clips outside the test split were scored: recording conditions
and most systems that the model had not met, though speakers of LibriSpeech and VCTK recur on several pages, and the small
neural attack systems had been trained on genuine clips of all pages. This is the figure to expect on new material.

{tables}

Made with:

```bash
{commands}
```
{evaluation}
## Calibration

`sigmoid({scale} * score {bias:+})`, fitted on the valid split ({fitted_on}). The tables give CLLR in bits and the expected
calibration error (ten bins, labels weighted alike) before and after it; on *valid* itself they are optimistic. It assumes
that genuine and fake clips are equally likely, and holds for material like the corpus.

## What it cannot do

- It was trained on hours, not on thousands of hours, nearly all of it clean read English from demo pages up to 2026. Other
  languages, children, singing, strong noise, far microphones, music and new generators are untested.
- At the threshold of equal errors it is wrong in about one clip of {one_in} on pages like its own, and{one_in_new} on
  new ones. A score is evidence among other evidence, never proof.
- Vocoded copies of high quality, which keep the spectrogram of a genuine recording, are its weakest family.
- It hears nothing above 7.2 kHz, judges no single word, and was not hardened against attackers who know it.
- Telephone and radio coding is no synthesis; the detector tends to call it genuine, but low-rate speech coders can mislead
  it.
"""

EVALUATION = """
### test, speakers resampled, beside the published AASIST

The same scores by the commands that anyone has, with intervals over {speakers} speakers, not clips: EER {eer}, minDCF {min_dcf:.3f},
CLLR {cllr:.3f} bits, AUC {auc:.3f} on {bonafide} bona fide and {spoof} spoof clips.

| spoofs of one family, against all bona fide | spoof | EER | 95 % interval |
|---|---|---|---|
{families}

The published AASIST checkpoint (ASVspoof 2019 LA), a stranger to these pages, has an EER of {other} on the same clips:
a difference of {difference} points (paired bootstrap over speakers, p = {p_value}).

```bash
python -m spooftrace.trainers.corpus_table --data DIR --out corpus.csv
spooftrace convert aasist AASIST.pth aasist
spooftrace score corpus.csv --allow-outside --split test --out default-scores
spooftrace score corpus.csv --allow-outside --split test --model aasist --out aasist-scores
spooftrace evaluate default-scores corpus.csv --split test --by family --compare aasist-scores --out evaluation.json
```
"""

TOGETHER = "held-out pages together"
TABLE_HEAD = "| clips | bona fide | spoof | EER | 95 % interval |\n|---|---|---|---|---|"


def table(groups: dict[str, dict]) -> str:
    """One Markdown table of the groups that have an equal error rate."""
    lines = [TABLE_HEAD]
    for name, row in groups.items():
        if "eer" in row:
            interval = " to ".join(f"{value:.1f}" for value in row.get("interval", []))
            lines.append(f"| {name} | {row['bonafide']} | {row['spoof']} | {row['eer']:.1f} | {interval} |")
    return "\n".join(lines)


def tables(results: dict[str, dict]) -> str:
    """A heading, a table and the calibration of every split and fold."""
    parts = []
    for name, part in results.items():
        parts.append(f"### {name}\n\n{table(part['eer'])}")
        if "training" in part:
            options = ", ".join(f"{key} {value}" for key, value in part["training"].items())
            parts.append(f"Trained with another recipe than the default in: {options}.")
        if "aggregation" in part:
            rules = ", ".join(f"{rule} {rate:.1f}" for rule, rate in part["aggregation"].items())
            parts.append(f"By the rule from windows to a clip, without transmission coding: {rules}.")
        if "calibration" in part:
            values = part["calibration"]
            parts.append(
                f"CLLR {values['cllr_raw']:.3f} raw, {values['cllr_calibrated']:.3f} calibrated; expected calibration "
                f"error {values['ece_raw']:.3f} raw, {values['ece_calibrated']:.3f} calibrated."
            )
    return "\n\n".join(parts)


def one_in(result: dict) -> int:
    """The number of clips among which one is judged wrongly at the equal error rate."""
    return round(100 / max(result["eer"]["without transmission coding"]["eer"], 1))


def _options(changed: dict) -> str:
    """Fields of a recipe that are not its defaults, as options of the command."""
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in changed.items())


def recipe_commands(record: dict) -> str:
    """The two commands that train the model again."""
    attacks = "python -m spooftrace.trainers.make_attacks --data DIR --prefix audio/ --out ATTACKS"
    attacks = f"{attacks} --per-clip 6\n{attacks} --attacks istft-vocoder fsq-codec --neural-minutes 8\n"
    copies = " --attacks ATTACKS" if record["clips"]["attack_copies"] else ""
    train = f"python -m spooftrace.trainers.default_detector --data DIR{copies} --out OUT{_options(record['options'])}"
    return (attacks if copies else "") + train


def report_command(results: dict[str, dict]) -> str:
    """The commands that measure the model again, those that train it without the pages of a fold among them."""
    splits = [name for name in results if name in SPLITS]
    folds = [name.split()[-1] for name in results if name.startswith("pages of fold")]
    left_out = " --leave-out " + " ".join(f"{fold}=OUT-{fold}" for fold in folds) if folds else ""
    train = "python -m spooftrace.trainers.default_detector --data DIR --attacks ATTACKS"
    training = "".join(
        f"{train} --out OUT-{fold}{_options(results[f'pages of fold {fold}']['training'])}\n" for fold in folds
    )
    command = "python -m spooftrace.trainers.report_default --data DIR --model OUT --out OUT/results.json"
    return f"{training}{command} --splits {' '.join(splits)}{left_out}\npython -m spooftrace.trainers.default_card --model OUT"


def percent(rate: float, interval: dict | None) -> str:
    """A rate and, if there is one, its interval, as in `15.85 % (11.58 to 19.48)`."""
    ends = f" ({100 * interval['low']:.2f} to {100 * interval['high']:.2f})" if interval else ""
    return f"{100 * rate:.2f} %{ends}"


def evaluation(path: Path) -> str:
    """The section on a report of `spooftrace evaluate --compare`; nothing where there is no such file."""
    if not path.is_file():
        return ""
    report = json.loads(path.read_text(encoding="utf-8"))
    overall, test = report["overall"], report["comparison"]["test"]
    groups = next(table["groups"] for table in report["tables"] if table["column"] == "family")
    lines = []
    for group in groups:
        ends = group["eer_interval"]
        interval = f"{100 * ends['low']:.1f} to {100 * ends['high']:.1f}"
        lines.append(f"| {group['value']} | {group['spoof']} | {100 * group['eer']:.1f} | {interval} |")
    difference = test["difference"]
    return EVALUATION.format(
        speakers=overall["eer_interval"]["clusters"],
        eer=percent(overall["eer"], overall["eer_interval"]),
        families="\n".join(lines),
        other=percent(test["second"], None),
        difference=percent(difference["value"], difference).replace(" %", ""),
        p_value=f"{test['p_value']:.3f}",
        **{name: overall[name] for name in ("bonafide", "spoof", "min_dcf", "cllr", "auc")},
    )


def card(model: Path) -> str:
    """The card's text. Raises ValueError where there is no calibration or valid split, OSError where a file is missing."""
    names = ("config", "preprocessor_config", "training", "results")
    config, extractor, record, results = (json.loads((model / f"{n}.json").read_text(encoding="utf-8")) for n in names)
    if "valid" not in results or "calibration" not in config:
        raise ValueError(f"{model} needs a calibration and a results.json of report_default with --splits valid test")
    calibration, counts = config["calibration"], record["clips"]
    copies = f" and {counts['attack_copies']:,} attack copies" if counts["attack_copies"] else ""
    folds = [name.split()[-1] for name in results if name.startswith("pages of fold")]
    return CARD.format(
        size=round((model / "model.safetensors").stat().st_size / 1e6, 1),
        textures=config["texture_size"] ** 2 - 1,
        window=extractor["window_samples"] / extractor["sampling_rate"],
        train=f"{counts['bonafide']} bona fide and {counts['spoof']} spoof clips{copies}",
        sources=SOURCES,
        recipe=recipe_commands(record),
        folds="folds " + ", ".join(folds) if folds else "not measured",
        tables=tables(results),
        commands=report_command(results),
        evaluation=evaluation(model / "evaluation.json"),
        scale=calibration["scale"],
        bias=calibration["bias"],
        fitted_on=calibration["fitted_on"].removeprefix("valid split, "),
        one_in=one_in(results.get("test", results["valid"])),
        one_in_new=f" one of {one_in(results[TOGETHER])}" if TOGETHER in results else " more often",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command: 0 when the card is written, 1 with one line when its sources are not there."""
    parser = argparse.ArgumentParser(prog="python -m spooftrace.trainers.default_card", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with the model and results.json")
    model = parser.parse_args(argv).model
    try:
        (model / "README.md").write_text(card(model), encoding="utf-8")
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{model / 'README.md'} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
