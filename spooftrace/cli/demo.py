"""`spooftrace demo`: the detector as a page in the browser, on this machine."""

import argparse

from spooftrace.cli._arguments import positive, positive_int


EXAMPLES = """\
examples:
  spooftrace demo
  spooftrace demo --port 8080 --host 0.0.0.0
  spooftrace demo --model default owner/name --no-tracer
  spooftrace demo --max-duration 120

The page offers the models that are named here and no others. Clips stay on this machine and are deleted after ten
minutes. Programs find two endpoints, /detect and /trace, which answer as `spooftrace detect --json` and `spooftrace trace
--json` do. With --host 0.0.0.0 everybody in the network can use it.
"""


def add_parser(subparsers: "argparse._SubParsersAction") -> None:
    """Describes the command."""
    parser = subparsers.add_parser(
        "demo",
        help="a page in the browser to try clips on",
        description="Serves a page that checks uploaded or recorded clips, until it is interrupted.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model = parser.add_argument_group("models")
    model.add_argument(
        "--model",
        nargs="+",
        default=["default"],
        metavar="ID",
        help="detectors to choose from, folders or Hub repositories; `default` is the shipped one (default)",
    )
    tracers = model.add_mutually_exclusive_group()
    tracers.add_argument(
        "--tracer", nargs="+", default=["default"], metavar="ID", help="tracers that answer a question each (default)"
    )
    tracers.add_argument("--no-tracer", action="store_true", help="leave source tracing out")
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (127.0.0.1)")
    server.add_argument(
        "--port", type=_port, metavar="N", help="port to listen on; default: the first free one from 7860"
    )
    work = parser.add_argument_group("work")
    work.add_argument("--device", metavar="D", help="cpu, cuda, mps...; default: the best one present")
    work.add_argument(
        "--max-duration", type=positive, default=600.0, metavar="S", help="refuse clips of more seconds (600)"
    )
    work.add_argument(
        "--running", type=positive_int, default=2, metavar="N", help="clips that are worked on at the same time (2)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    from spooftrace.spaces.demo_app import DemoApp
    from spooftrace.spaces.demo_models import DemoSettings

    settings = DemoSettings(
        models=args.model,
        tracer=[] if args.no_tracer else args.tracer,
        device=args.device,
        max_seconds=args.max_duration,
        running=args.running,
    )
    DemoApp(settings).launch(server_name=args.host, server_port=args.port)
    return 0


def _port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"lies between 1 and 65535, got {text}")
    return value
