"""`spooftrace train`: a detector or a source tracer by a recipe."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence


EXAMPLES = """\
examples:
  spooftrace train --list
  spooftrace train mldg-table3-mldg-r4 --data.dir /data/LA --dry-run
  spooftrace train mldg-table3-mldg-r4 --data.dir /data/LA --output-dir runs/r4
  spooftrace train mldg-table3-mldg-r4 --data.dir /data/LA --output-dir runs/r4 --resume
  spooftrace train mldg-table3-mldg-r4 --data.dir /data/LA --lora.r 8 --max_steps 100
  spooftrace train mldg-table3-mldg-r4 --data.corpus own --data.dir mine.csv --domain_column speaker_id
  spooftrace train recipe.yaml --data.corpus own --data.train train.csv --data.validation dev.csv
  spooftrace train sastnet-table1-sastnet-vq --data.dir /data/CodecFake+ --dry-run
  spooftrace train allm4add-qwen2-audio --data.dir /data/LA --model.load_in_4bit true
  accelerate launch --num_processes 2 -m spooftrace train mldg-table3-mldg-r4 --data.dir /data/LA

--FIELD VALUE replaces any value of the recipe; RECIPE comes first. Fields are, with a point, those of the sections
  model  family (aasist or sastnet) and all of its configuration, AasistConfig or SASTNetConfig; and pretrained parts,
         base_model and base_revision, or wav2vec2, whisper and audiomae; of the family audio_llm, base_model,
         base_revision, prompt, system_prompt, label_words, train_encoder, dtype, attn_implementation, load_in_4bit
  lora   r, lora_alpha (2 r by default, 16 of audio_llm), lora_dropout, target_modules; `--lora none` trains the whole
         encoder
  data   dir, corpus, config, train and validation (splits, or tables and folders of your own), missing_audio, options
and, without one, `trainer` (erm, mldg, tracing, sastnet or audio_llm) and all of its configuration, such as learning_rate,
max_steps, seed, rawboost, per_device_train_batch_size, gradient_accumulation_steps, bf16, gradient_checkpointing, domain_column,
clips_per_domain.

In the folder: checkpoints, recipe.yaml as it was carried out, and in the end the best detector by EER on the validation
clips, calibrated on them, as `spooftrace detect --model` loads it, or the best tracer by macro F1, for `spooftrace trace`.
A run that was stopped goes on with --resume.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a detector or a source tracer by a recipe",
        usage="spooftrace train RECIPE [--FIELD VALUE ...] [--output-dir DIR] [--resume] [--dry-run]\n"
        "       spooftrace train --list",
        description="Trains a detector or a source tracer by a recipe: one shipped with spooftrace, or a YAML file of "
        "your own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("--list", action="store_true", help="show the shipped recipes")
    parser.add_argument("--output-dir", metavar="DIR", help="for checkpoints and the detector (runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in DIR, if there is one")
    parser.add_argument("--dry-run", action="store_true", help="check everything with a tiny model, and tell the plan")
    keep_unknown(parser)
    parser.set_defaults(run=run, refuse=parser.error)


def keep_unknown(parser: argparse.ArgumentParser) -> None:
    """What the parser does not know goes to `fields`, for the recipe to look at."""
    parse = parser.parse_known_args

    def parse_known_args(args=None, namespace=None):
        namespace, rest = parse(args, namespace)
        namespace.fields = rest
        return namespace, []

    parser.parse_known_args = parse_known_args


def run(args: argparse.Namespace) -> int:
    """Lists, rehearses or trains."""
    if args.list:
        return _list()
    if args.recipe is None:
        args.refuse("RECIPE is missing: name one (`spooftrace train --list` shows them), or a YAML file")
    overrides = read_overrides(args.fields, args.refuse)
    hush_loaders()
    from spooftrace.trainers.recipe import load_recipe
    from spooftrace.trainers.rehearse_recipe import rehearse
    from spooftrace.trainers.train_recipe import train_recipe

    recipe = load_recipe(args.recipe, overrides)
    folder = args.output_dir or recipe.arguments.get("output_dir") or f"runs/{recipe.name}"
    if args.dry_run:
        print("\n".join(rehearse(recipe, folder)))
        return 0
    trained = train_recipe(recipe, folder, resume=args.resume)
    command = "trace" if recipe.traces else "detect"
    _tell(f"{trained.summary}\nspooftrace {command} --model {trained.folder} CLIP")
    if trained.hub_problem:
        print(f"spooftrace: error: not pushed: {trained.hub_problem}", file=sys.stderr)
        return 1
    return 0


def hush_loaders() -> None:
    """Every data loader of torch warns where there is no accelerator to pin memory for, which is no news there."""
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true but no accelerator")


def _tell(line: str) -> None:
    """On the first of several processes."""
    if int(os.environ.get("RANK") or 0) == 0:
        print(line, flush=True)


def read_overrides(texts: Sequence[str], refuse: Callable[[str], None]) -> list[tuple[str, str]]:
    """`--a.b 1` and `--a.b=1` as pairs."""
    pairs, rest = [], list(texts)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") or len(name) == 2:
            refuse(f"{name!r} stands alone: values follow a --FIELD, and RECIPE comes first")
        if not equals:
            if not rest or rest[0].startswith("--"):
                refuse(f"{name} needs a value, as in {name} VALUE")
            value = rest.pop(0)
        pairs.append((name[2:], value))
    return pairs


def _list() -> int:
    from importlib import resources

    folder = resources.files("spooftrace.trainers") / "recipes"
    names = sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
    for name in names:
        summary = (folder / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        print(f"{name:<32}  {summary}")
    return 0
