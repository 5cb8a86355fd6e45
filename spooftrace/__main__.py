"""`python -m spooftrace` is the command `spooftrace`."""

import sys

from spooftrace.cli import main


if __name__ == "__main__":
    sys.exit(main())
