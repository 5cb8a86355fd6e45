"""`spooftrace reproduce`: published tables, ours beside the paper's."""

import argparse
from pathlib import Path

from spooftrace.cli.train import keep_unknown, read_overrides


TARGETS = ("mldg-table3", "mldg-table4", "mldg-table5", "mldg-figure3")
CORPORA = ("asvspoof2019-la", "asvspoof2021-la", "asvspoof2021-df", "in-the-wild", "fakeavceleb", "asvspoof5")

EXAMPLES = """\
examples:
  spooftrace reproduce mldg-table3 --data /data/corpora --out repro/
  spooftrace reproduce mldg-table3 --data /data/corpora --only mldg-r4 erm-r4
  spooftrace reproduce mldg-table3 --data /data/corpora --checkpoints detectors/
  spooftrace reproduce mldg-table5 --data /data/corpora --only seed42 --score-rule bonafide-logit
  spooftrace reproduce mldg-figure3 --data /data/corpora --only mldg-r4 --max_steps 2000

targets: Tables 3 (full fine-tuning, ERM and MLDG by rank), 4 (which projections are adapted) and 5 (seeds) of "Generalizable
speech deepfake detection via meta-learned LoRA" (arXiv 2502.10838, version 1), and the training curves of its Figure 3.

below --data, each in a folder or link of its name, those that you have:
  asvspoof2019-la (also to train with), asvspoof2021-la, asvspoof2021-df, in-the-wild, fakeavceleb, asvspoof5

in --out: ROW/model, ROW/scores, TARGET.json after each row, and the figure. The same command goes on where it stopped. Rows
are named as their recipes (`spooftrace train --list`), with or without the target in front. --FIELD VALUE replaces a
value of the recipes, as for `spooftrace train`. What the paper does not say is a choice of the recipes, so differences of
a seed's size are to be expected: its own five seeds average from 3.65 % to 8.29 %.

exit codes: 0 all done, 1 a failure, 2 a wrong call, 3 done but some rows had no checkpoint or some clips no score
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "reproduce",
        help="make a published table again, beside the paper's figures",
        description="Trains the rows of a published table, or takes detectors that are given, and evaluates them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("target", choices=TARGETS, metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the corpora")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for models, scores and results (reproduce/TARGET)")
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="take the detectors in DIR/ROW, and train nothing"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="ROW", help="some of the rows")
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=CORPORA, metavar="NAME", help="some of them")
    parser.add_argument(
        "--score-rule",
        choices=("log-odds", "bonafide-logit"),
        default="log-odds",
        help="log-odds of bona fide, or its bare logit, which some published EERs are of (log-odds)",
    )
    parser.add_argument(
        "--window",
        choices=("first", "whole"),
        default="first",
        help="score the first 64,600 samples of a clip, as papers do, or the mean over all of it (first)",
    )
    parser.add_argument("--device", metavar="D", help="for scoring: cpu, cuda, mps...; default: the best one present")
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="windows per forward pass in scoring (16)"
    )
    parser.add_argument("--overwrite", action="store_true", help="score again what has scores of another detector")
    keep_unknown(parser)
    parser.set_defaults(run=run, refuse=parser.error)


def run(args: argparse.Namespace) -> int:
    """Trains or takes, scores, tells."""
    overrides = read_overrides(args.fields, args.refuse)
    from spooftrace.trainers.reproduce import Reproduction, draw_curves, reproduce, table

    plan = Reproduction(
        args.target,
        args.data,
        args.out or Path("reproduce") / args.target,
        args.checkpoints,
        tuple(args.only),
        tuple(args.corpora),
        args.score_rule,
        args.window,
        tuple(overrides),
        {"device": args.device, "batch_size": args.batch_size},
        args.overwrite,
    )
    done = reproduce(plan)
    if args.target == "mldg-figure3":
        figure = plan.out / f"{args.target}.png"
        without = draw_curves(done, figure)
        print(f"{figure}: training loss and development EER of {len(done) - len(without)} rows")
        print("".join(f"no training log: {name}\n" for name in without), end="")
        return 3 if without else 0
    print(table(plan, done))
    failed = any(result.failed for row in done for result in row.results.values())
    return 3 if failed or any(row.model is None for row in done) else 0
