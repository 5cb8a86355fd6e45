"""The command `spooftrace`.

Each module of this folder is one command: `add_parser(subparsers)` describes it and sets `run`, which does the work and
returns the exit code. Only `run` imports what is slow, so that `spooftrace --help` answers at once.
"""

import argparse
import difflib
import importlib
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Sequence

from spooftrace._version import __version__


EXIT_DONE, EXIT_FAILURE, EXIT_WRONG_CALL, EXIT_INCOMPLETE, EXIT_INTERRUPTED = 0, 1, 2, 3, 130

DESCRIPTION = "Tell genuine speech from synthetic speech, and which kind of codec made it, with probabilities and honest abstentions."

EPILOG = """\
examples:
  spooftrace detect clip.wav                 a verdict on one file
  spooftrace detect recordings/ '*.mp3'      folders and patterns; one line per clip
  spooftrace detect --timeline talk.flac     where in a long recording
  spooftrace detect --json clip.wav          for programs
  spooftrace detect --model owner/name a.wav with a model from the Hub
  spooftrace trace clip.wav                  which kind of codec made it
  spooftrace score recordings/ --out scores  the scores of many clips, in files; resumes after a crash
  spooftrace evaluate scores protocol.csv    error rates with intervals, per attack, and figures
  spooftrace prompts --model M --data mine.csv --prompt "Is it fake?"   wordings for an audio language model
  spooftrace train --list                    recipes; train a detector on your own attack domains
  spooftrace corpus list                     the field's corpora: check, build, publish
  spooftrace models --org owner              models: shipped, of your own, on the Hub
  spooftrace publish runs/mine owner/name    a model, dataset, metric or Space on the Hub
  spooftrace export my-onnx                  a detector as an ONNX graph, for programs without torch
  spooftrace demo                            a page in the browser to try clips on
  spooftrace doctor                          what to mend in this installation

exit codes: 0 all done, 1 a failure, 2 a wrong call, 3 done but some inputs could not be processed

A score is evidence, not proof. `spooftrace COMMAND --help` explains a command.
"""

# Packages that only some commands need, and the extra that brings each.
EXTRAS = {
    "accelerate": "train",
    "datasets": "data",
    "evaluate": "data",
    "filelock": "data",
    "gradio": "demo",
    "matplotlib": "data",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "peft": "lora",
    "pyarrow": "data",
    "scipy": "data",
    "sklearn": "data",
    "torchaudio": "train",
    "webrtcvad": "data",
}

# The extra that brings all that a command needs, so that its packages are not asked for one after the other.
COMMAND_EXTRAS = {"train": "train", "reproduce": "train"}


def build_parser() -> argparse.ArgumentParser:
    """The parser of `spooftrace` with all commands."""
    parser = argparse.ArgumentParser(
        prog="spooftrace",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spooftrace {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}").add_parser(commands)
    for command in commands.choices.values():
        # Accepted behind the command too; SUPPRESS keeps it from undoing the one in front.
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.set_defaults(parser=command)
    return parser


def refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """Leaves with 2 and the usage of the command itself, and names the option that was meant where one is near."""
    usage = parser.format_usage()
    options = [text.partition("=")[0] for text in unknown if text.startswith("-")]
    near = [difflib.get_close_matches(name, re.findall(r"--[a-z][\w-]*", usage), n=1) for name in options]
    hints = [f"did you mean {found[0]}?" for found in near if found]
    if not options and "..." in usage:
        hints = ["put all of them before the options, or all behind"]
    parser.error("; ".join([f"unrecognized arguments: {' '.join(unknown)}", *hints]))


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv: the arguments behind the program's name; by default those of this process.

    Returns:
        The exit code. A wrong call leaves through `SystemExit(2)`, as is argparse's way.
    """
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        refuse_unknown(getattr(args, "parser", parser), unknown)
    if args.command is None:
        parser.print_help(sys.stderr)
        return EXIT_WRONG_CALL
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may lack a letter of a file's name
            stream.reconfigure(errors="backslashreplace")
    try:
        code = args.run(args)
        if sys.stdout is not None:  # closed by the caller, as with `>&-`
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("spooftrace: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as in `spooftrace ... | head`. Python would flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:  # noqa: BLE001  the last resort of a command is one line, not a traceback
        if args.debug:
            traceback.print_exc()
        else:
            print(f"spooftrace: {explain(error, args.command)}", file=sys.stderr)
        return EXIT_FAILURE


def explain(error: Exception, command: str | None = None) -> str:
    """What is wrong and what to do: one line, but for errors that list problems or show a tree."""
    text = str(error) if getattr(error, "keeps_lines", False) else " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = EXTRAS.get(error.name.partition(".")[0])
        extra = COMMAND_EXTRAS.get(command, extra) if extra else None
        remedy = f'pip install "spooftrace[{extra}]"' if extra else f"pip install {error.name.partition('.')[0]}"
        return f"this needs a package that is not installed, {error.name}: {remedy}"
    if isinstance(error, (ImportError, OSError, ValueError)):
        return f"error: {text}"
    return f"unexpected {type(error).__name__}: {text} (`--debug` shows where)"
