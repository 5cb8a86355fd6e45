"""`spooftrace export`: a detector as an ONNX graph, for programs without torch."""

import argparse
import json


EXAMPLES = """\
examples:
  spooftrace export my-onnx                      the detector that is shipped
  spooftrace export owner/name my-onnx --int8
  spooftrace export runs/mine my-onnx --fixed-length --opset 18
  python my-onnx/score.py clip.wav               needs numpy and onnxruntime only

The folder gets model.onnx, export.json (origin, labels, calibration, window, versions, and how far the graph is from
PyTorch at several batch sizes and lengths) and score.py. Nothing is written where a logit differs by more than 1e-4.
Detectors of the AASIST family can be exported; low-rank adapters are merged first. With --int8 there is a second graph,
and export.json tells how far its scores drift: look at that before using it.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "export",
        help="export a detector to ONNX",
        description="Exports a detector to ONNX, and compares the graph with PyTorch.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder or Hub repository; default: the shipped one")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="new folder for the graph and what belongs to it")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of the model on the Hub")
    parser.add_argument(
        "--bonafide-label", default="bonafide", metavar="LABEL", help="what the model calls genuine speech (bonafide)"
    )
    parser.add_argument(
        "--opset", type=int, default=20, metavar="N", help="version of ONNX's operators, 18 to 23 (20)"
    )
    parser.add_argument("--int8", action="store_true", help="a second graph with 8-bit weights, and its drift")
    parser.add_argument("--fixed-length", action="store_true", help="take windows of the model's length only")
    parser.add_argument("--json", action="store_true", help="print export.json, for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports, and says how far the graph is from the model."""
    from spooftrace.onnx_export import export_onnx

    facts = export_onnx(
        None if args.model == "default" else args.model,
        args.out_dir,
        revision=args.revision,
        bonafide_label=args.bonafide_label,
        opset=args.opset,
        int8=args.int8,
        fixed_length=args.fixed_length,
    )
    if args.json:
        print(json.dumps(facts, indent=1, allow_nan=False))
        return 0
    graph = facts["float32"]
    print(f"{args.out_dir}/{graph['file']}  {graph['bytes'] / 1e6:,.1f} MB, opset {graph['opset']}")
    print(f"  logits within {graph['maximum_difference']:.1e} of PyTorch's in {len(graph['compared'])} comparisons")
    if facts["int8"] is not None:
        small = facts["int8"]
        before, after = (1e3 * small["seconds_per_window"][name] for name in ("float32", "int8"))
        print(f"{args.out_dir}/{small['file']}  {small['bytes'] / 1e6:,.1f} MB")
        print(
            f"  scores drift by {small['score_drift_mean']:.3f} on average, {small['score_drift_maximum']:.3f} at most; "
            f"{after:.1f} ms a window instead of {before:.1f}"
        )
    print(f"try it: python {args.out_dir}/score.py clip.wav")
    return 0
