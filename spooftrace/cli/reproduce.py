"""`spooftrace reproduce`: published tables, ours beside the paper's."""

import argparse
from pathlib import Path

from spooftrace.cli import _reproduce_tracing
from spooftrace.cli.train import hush_loaders, keep_unknown, read_overrides


DETECTION_TARGETS = ("mldg-table3", "mldg-table4", "mldg-table5", "mldg-figure3")
TARGETS = (*DETECTION_TARGETS, *_reproduce_tracing.TARGETS)
CORPORA = ("asvspoof2019-la", "asvspoof2021-la", "asvspoof2021-df", "in-the-wild", "fakeavceleb", "asvspoof5")

EXAMPLES = """\
examples:
  spooftrace reproduce mldg-table3 --data /data/corpora --out repro/
  spooftrace reproduce mldg-table3 --data /data/corpora --only mldg-r4 erm-r4
  spooftrace reproduce mldg-table3 --data /data/corpora --checkpoints detectors/
  spooftrace reproduce mldg-table5 --data /data/corpora --only seed42 --score-rule bonafide-logit
  spooftrace reproduce mldg-figure3 --data /data/corpora --only mldg-r4 --max_steps 2000
  spooftrace reproduce sastnet-table1 --data /data/corpora --random
  spooftrace reproduce sastnet-table1 --data /data/corpora --checkpoints tracers/ --only random s-aux sastnet-aux
  spooftrace reproduce sastnet-figure4 --data /data/corpora --checkpoints tracers/ --clips VALLE/clip_1 NS3/clip_2

targets:
  mldg-table3, mldg-table4, mldg-table5, mldg-figure3: full fine-tuning, ERM and MLDG by rank; which projections are
  adapted; seeds; and training curves, of "Generalizable speech deepfake detection via meta-learned LoRA" (arXiv
  2502.10838, version 1)
  sastnet-table1 to sastnet-table4: F1 of source tracing, without silence, on unseen content, and of SASTNet's parts;
  sastnet-figure2 to sastnet-figure4: silence and F1 by codec, confusion matrices, and decoders and attention on single
  clips, of "Towards Generalized Source Tracing for Codec-Based Deepfake Speech" (arXiv 2506.07294)

below --data, each in a folder or link of its name, those that you have:
  mldg: asvspoof2019-la (also to train with), asvspoof2021-la, asvspoof2021-df, in-the-wild, fakeavceleb, asvspoof5
  sastnet: codecfake-plus-cors (also to train with), codecfake-plus-cosg

in --out: ROW/model, scores or log-probabilities of each clip in ROW, TARGET.json after each row, and figures. The same
command goes on where it stopped. Rows are named as their recipes (`spooftrace train --list`), with or without the table in
front; --random, a row of its own in the tables of sastnet, guesses every class alike and needs neither audio nor models.
--FIELD VALUE replaces a value of the recipes, as for `spooftrace train`. What a paper does not say is a choice of the
recipes, so differences of a seed's size are to be expected: MLDG's own five seeds average from 3.65 % to 8.29 %.

exit codes: 0 all done, 1 a failure, 2 a wrong call, 3 done but a corpus of sastnet was absent, some rows had no checkpoint
or some clips no score
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
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for models, scores and results (reproduce/TARGET, reproduce/sastnet)"
    )
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR", help="take the models in DIR/ROW, and train nothing"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="ROW", help="some of the rows")
    _add_own_options(parser)
    parser.add_argument("--device", metavar="D", help="for scoring: cpu, cuda, mps...; default: the best one present")
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="windows per forward pass in scoring (16)"
    )
    parser.add_argument("--overwrite", action="store_true", help="score again what has scores of another model")
    keep_unknown(parser)
    parser.set_defaults(run=run, refuse=parser.error)


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    """Options of one paper's targets. They are `None` unless given, so that one of the other paper's can be refused."""
    mldg, sastnet = parser.add_argument_group("mldg alone"), parser.add_argument_group("sastnet alone")
    mldg.add_argument("--corpora", nargs="+", choices=CORPORA, metavar="NAME", help="some of them")
    mldg.add_argument(
        "--score-rule",
        choices=("log-odds", "bonafide-logit"),
        help="log-odds of bona fide, or its bare logit, which some published EERs are of (log-odds)",
    )
    mldg.add_argument(
        "--window",
        choices=("first", "whole"),
        help="score the first 64,600 samples of a clip, as papers do, or the mean over all of it (first)",
    )
    sastnet.add_argument(
        "--random", action="store_const", const=True, help="only the row that guesses: needs no audio and no models"
    )
    sastnet.add_argument(
        "--clips", nargs="+", metavar="ID", help="clips of sastnet-figure4 (the first one of every class)"
    )


def _refuse_foreign(args: argparse.Namespace) -> None:
    """An option that the target does not have must not be passed over."""
    foreign = {"random": False, "clips": False}
    if args.target in _reproduce_tracing.TARGETS:
        shows_clips = args.target == "sastnet-figure4"
        foreign = {
            "corpora": False,
            "score_rule": False,
            "window": False,
            "random": not shows_clips,
            "clips": shows_clips,
        }
    for name, fits in foreign.items():
        if getattr(args, name) is not None and not fits:
            args.refuse(f"--{name.replace('_', '-')} is no option of {args.target}: leave it out")


def _refuse_pointless(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> None:
    """Nor must one that would change nothing, among which are misspelt ones."""
    if args.random and args.only:
        args.refuse("--random is a row by itself: leave --only out, or name random among its rows")
    if overrides and (args.random or args.checkpoints):
        reason = "--random" if args.random else "--checkpoints"
        args.refuse(f"--{overrides[0][0]} is for training, and with {reason} nothing is trained: leave it out")


def run(args: argparse.Namespace) -> int:
    """Trains or takes, scores, tells."""
    overrides = read_overrides(args.fields, args.refuse)
    _refuse_foreign(args)
    _refuse_pointless(args, overrides)
    hush_loaders()
    if args.target in _reproduce_tracing.TARGETS:
        return _reproduce_tracing.run(args, overrides)
    return _detection(args, overrides)


def _detection(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
    from spooftrace.trainers.reproduce import Reproduction, draw_curves, reproduce, table

    plan = Reproduction(
        args.target,
        args.data,
        args.out or Path("reproduce") / args.target,
        args.checkpoints,
        tuple(args.only),
        tuple(args.corpora or CORPORA),
        args.score_rule or "log-odds",
        args.window or "first",
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
