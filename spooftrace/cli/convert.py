"""`spooftrace convert`: published checkpoints -> folders that `from_pretrained` loads."""

import argparse
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from spooftrace.modeling.convert_common import ConversionReport


EPILOG = """examples:
  spooftrace convert aasist AASIST.pth my-aasist
  spooftrace convert ssl-antispoofing LA_model.pth my-w2v2-aasist
  spooftrace detect clip.wav --model my-aasist
  spooftrace convert codecfake-baseline M1_AUX_bal.pth my-tracer
  spooftrace convert sastnet SAST_Net_VQ.pth my-sastnet
  spooftrace convert sastnet epoch_39.pth my-sastnet --task aux
  spooftrace trace clip.wav --model my-sastnet
  spooftrace convert qwen-audio Qwen-Audio-Chat my-qwen-audio --dtype bfloat16
  spooftrace convert allm4add checkpoint-15860 my-detector --base my-qwen-audio

Checkpoints are read as plain tensors only; a file that would run code is refused. Every tensor is accounted for in
OUT_DIR/conversion_report.json, and the classes are put in spooftrace's order: bona fide at index 0.
"""

DTYPES = ("float32", "bfloat16", "float16")
WAV2VEC2_HELP = (
    "configuration of the wav2vec 2.0 encoder: a config.json, a folder, or a name on the Hub (default: XLS-R 300M's)"
)


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
    ssl.add_argument("--wav2vec2-config", metavar="NAME_OR_PATH", help=WAV2VEC2_HELP)
    _add_source_tracing(kinds)
    _add_qwen_audio(kinds.add_parser("qwen-audio", help="Qwen-Audio v1 (Qwen/Qwen-Audio, Qwen/Qwen-Audio-Chat)"))
    _add_allm4add(kinds.add_parser("allm4add", help="adapters of ALLM4ADD (ucas-hao/qwen_audio_for_add)"))


def _add_source_tracing(kinds: argparse._SubParsersAction) -> None:
    baseline = kinds.add_parser(
        "codecfake-baseline", help="W2V2-AASIST of one or several tasks (CodecFake/CodecFake_Source_Tracing)"
    )
    _add_common(baseline)
    baseline.add_argument("--wav2vec2-config", metavar="NAME_OR_PATH", help=WAV2VEC2_HELP)
    sastnet = kinds.add_parser("sastnet", help="SASTNet and its ablations (CodecFake/CodecFake_Source_Tracing)")
    _add_common(sastnet)
    sastnet.add_argument(
        "--task",
        choices=("bin", "vq", "aux", "dec"),
        help="what it was trained to answer (default: what the number of classes or the file's name tells)",
    )
    sastnet.add_argument("--wav2vec2-config", metavar="NAME_OR_PATH", help=WAV2VEC2_HELP)
    sastnet.add_argument(
        "--whisper-config",
        metavar="NAME_OR_PATH",
        help="configuration of the Whisper encoder, likewise (default: whisper-small's)",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pth file of plain tensors, or .safetensors")
    _add_target(parser)
    parser.set_defaults(run=run)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to write; must be empty or new")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT_DIR if it is there")
    parser.set_defaults(parser=parser)


def _add_qwen_audio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="folder with config.json, the weights and qwen.tiktoken, as published"
    )
    _add_target(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, help="what the weights are cast to (default: as they are, bfloat16 where published)"
    )
    parser.add_argument(
        "--special-tokens",
        metavar="FILE",
        help="names of the special tokens between the audio token and <audio>, one a line; detection needs none of them",
    )
    parser.set_defaults(run=run_qwen_audio)


def _add_allm4add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "adapter_dir",
        metavar="ADAPTER_DIR",
        help="folder with adapter_config.json, the adapters, and non_lora_trainables.bin where the encoder was trained",
    )
    _add_target(parser)
    parser.add_argument(
        "--base",
        required=True,
        metavar="NAME_OR_PATH",
        help="the model it was trained on; of Qwen-Audio v1, a folder that `spooftrace convert qwen-audio` made",
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a base model on the Hub")
    parser.add_argument("--prompt", help="the question it was trained on (default: ALLM4ADD's)")
    parser.set_defaults(run=run_allm4add)


def run(args: argparse.Namespace) -> int:
    from spooftrace.modeling.convert_common import save_converted

    model, feature_extractor, report, card = _convert(args)
    save_converted(model, feature_extractor, report, args.out_dir, args.overwrite, card)
    _tell(report, args.out_dir)
    return 0


def _tell(report: "ConversionReport", folder: str) -> None:
    print(f"{report.model}, {report.num_parameters:,} parameters, written to {folder}")
    print(f"{len(report.mapped)} tensors mapped, {len(report.dropped)} dropped on purpose; see conversion_report.json")
    for note in report.notes:
        print(f"- {note}")


def _convert(args: argparse.Namespace) -> tuple:
    """The model, its feature extractor, the report and, where there is one, the model card."""
    from spooftrace.modeling import AasistFeatureExtractor

    card = None
    if args.kind == "sastnet":
        from spooftrace.modeling import SASTNetFeatureExtractor
        from spooftrace.modeling.convert_sastnet import convert_sastnet, sastnet_card

        model, report = convert_sastnet(args.checkpoint, args.task, args.wav2vec2_config, args.whisper_config)
        extractor = SASTNetFeatureExtractor(window_samples=model.config.window_samples)
        return model, extractor, report, sastnet_card(model.config, report)
    if args.kind == "codecfake-baseline":
        from spooftrace.modeling.convert_codecfake_baseline import convert_codecfake_baseline

        model, report = convert_codecfake_baseline(args.checkpoint, args.wav2vec2_config)
    elif args.kind == "aasist":
        from spooftrace.modeling.convert_aasist import convert_standalone

        model, report = convert_standalone(args.checkpoint, args.pool_ratios)
    else:
        from spooftrace.modeling.convert_aasist import convert_ssl_antispoofing

        model, report = convert_ssl_antispoofing(args.checkpoint, args.wav2vec2_config)
    return model, AasistFeatureExtractor(sampling_rate=model.config.sampling_rate), report, card


def run_qwen_audio(args: argparse.Namespace) -> int:
    import torch

    from spooftrace.modeling.convert_qwen_audio import convert_qwen_audio

    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    report = convert_qwen_audio(args.source, args.out_dir, dtype, args.special_tokens, args.overwrite)
    _tell(report, args.out_dir)
    return 0


def run_allm4add(args: argparse.Namespace) -> int:
    from spooftrace.modeling.convert_allm4add import convert_allm4add, save_allm4add

    asked = {} if args.prompt is None else {"prompt": args.prompt}
    model, report = convert_allm4add(args.adapter_dir, args.base, args.revision, **asked)
    save_allm4add(model, report, args.out_dir, args.overwrite)
    _tell(report, args.out_dir)
    return 0
