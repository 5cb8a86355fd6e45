"""`spooftrace doctor`: what is installed, what is broken, and the command that mends it."""

import argparse
import json
from itertools import chain


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Registers the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this installation",
        description="Checks this installation, piece by piece, and says how to mend what is broken. Exits with 0 when "
        "nothing failed (warnings may stand), with 1 otherwise. Your Hub token is tried, but never shown.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--offline", action="store_true", help="leave the Hugging Face Hub alone")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints every check, as it is done or all together as JSON.

    Returns:
        0 when no check failed, 1 otherwise.
    """
    from spooftrace.doctor import FAIL, check_installation
    from spooftrace.doctor_hub import check_hub

    checks = []
    for check in chain(check_installation(), check_hub(offline=args.offline)):
        checks.append(check)
        if not args.json:
            print(f"{check.status:4}  {check.name:22}  {check.found}", flush=True)
            if check.remedy:
                print(f"{'':30}-> {check.remedy}", flush=True)
    failed = sum(check.status == FAIL for check in checks)
    if args.json:
        print(json.dumps({"ok": failed == 0, "checks": [check.to_dict() for check in checks]}, indent=2))
    else:
        print("\n" + (f"{failed} of {len(checks)} checks failed." if failed else "Nothing failed."))
    return 1 if failed else 0
