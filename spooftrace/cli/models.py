"""`spooftrace models`: what models there are, with their error rates."""

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from spooftrace.models import ModelSummary

EXAMPLES = """\
examples:
  spooftrace models
  spooftrace models --dir runs                   models that you trained or converted
  spooftrace models --org owner                  on the Hub, those published with `spooftrace publish`
  spooftrace models --org owner --json

Error rates are those that a model's evaluation.json or its card states. They are of other data than yours.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "models",
        help="list models: shipped, of your own, on the Hub",
        description="Lists models with what they answer, their licence and their error rates.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--org", metavar="NAME", help="user or organisation on the Hub")
    parser.add_argument(
        "--dir", action="append", default=[], metavar="DIR", help="a model, or a folder of models; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="one array of objects, for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Lists; 3 where a model could not be read."""
    from huggingface_hub.utils import logging

    from spooftrace.models import list_models

    logging.set_verbosity_error()  # the client tells of every attempt
    found = list_models(args.org, args.dir)
    if args.json:
        print(json.dumps([model.to_dict() for model in found], indent=1, allow_nan=False))
    else:
        print("\n\n".join("\n".join(_lines(model)) for model in found))
        if args.org and not any(model.place == "hub" for model in found):
            print(f"\n{args.org} has no model with the tag `spooftrace` on the Hub, or none that this token may see.")
    return 3 if any(model.problem and model.place == "folder" for model in found) else 0


def _lines(model: "ModelSummary") -> Iterator[str]:
    from spooftrace.results import printable

    places = {"shipped": "shipped with spooftrace", "folder": "folder", "hub": f"Hub, {str(model.revision)[:7]}"}
    yield f"{printable(model.name)}  ({places[model.place]})"
    if model.problem:
        yield f"  not readable: {printable(model.problem)}"
        return
    base = f", adapters on {printable(model.base_model)}" if model.base_model else ""
    yield f"  {printable(model.family or 'unknown family')}{base}; tasks: {printable(', '.join(model.tasks or ['unknown']))}"
    yield f"  licence: {printable(model.license or 'not stated')}"
    if model.training_corpora:
        yield f"  trained on: {printable(', '.join(map(str, model.training_corpora)))}"
    for rate in model.rates:
        known = rate.bonafide is not None and rate.spoof is not None
        trials = f" ({rate.bonafide:,} bona fide, {rate.spoof:,} spoof)" if known else ""
        yield f"  EER {rate.eer_percent:.2f} % on {printable(rate.data)}{trials}"
    if not model.rates:
        yield "  no EER stated"
