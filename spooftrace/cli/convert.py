"""`spooftrace convert`: published checkpoints -> folders that `from_pretrained` loads."""

import argparse


EPILOG = """examples:
  spooftrace convert aasist AASIST.pth my-aasist
  spooftrace convert ssl-antispoofing LA_model.pth my-w2v2-aasist
  spooftrace detect clip.wav --model my-aasist

Checkpoints are read as plain tensors only; a file that would run code is refused. Every tensor is accounted for in
OUT_DIR/conversion_report.json, and the classes are put in spooftrace's order: bona fide at index 0, spoof at index 1.
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="convert a published checkpoint to safetensors",
        description="Convert a published checkpoint to a folder that from_pretrained and `spooftrace detect` load.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    aasist = kinds.add_parser("aasist", help="stand-alone AASIST and AASIST-L (clovaai/aasist)")
    _add_common(aasist)
    aasist.add_argument(
        "--pool-ratios",
        nargs=3,
        type=float,
        metavar=("SPECTRAL", "TEMPORAL", "BRANCH"),
        help="pooling ratios of a model of your own training (known for AASIST and AASIST-L)",
    )
    ssl = kinds.add_parser("ssl-antispoofing", help="wav2vec 2.0 + AASIST (TakHemlata/SSL_Anti-spoofing)")
    _add_common(ssl)
    ssl.add_argument(
        "--wav2vec2-config",
        metavar="NAME_OR_PATH",
        help="configuration of the wav2vec 2.0 encoder: a config.json, a folder, or a name on the Hub (default: XLS-R 300M's)",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pth file of plain tensors, or .safetensors")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to write; must be empty or new")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT_DIR if it is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from spooftrace.modeling.convert_aasist import convert_ssl_antispoofing, convert_standalone, save_converted

    if args.kind == "aasist":
        model, report = convert_standalone(args.checkpoint, args.pool_ratios)
    else:
        model, report = convert_ssl_antispoofing(args.checkpoint, args.wav2vec2_config)
    save_converted(model, report, args.out_dir, args.overwrite)
    print(f"{report.model}, {report.num_parameters:,} parameters, written to {args.out_dir}")
    print(f"{len(report.mapped)} tensors mapped, {len(report.dropped)} dropped on purpose; see conversion_report.json")
    for note in report.notes:
        print(f"- {note}")
    return 0
