"""The metrics of spooftrace as Spaces that `evaluate.load("owner/eer")` reads.

Each folder in `metrics/` is a Space as it is pushed: `evaluate` follows the imports of a metric script to files beside it
and no further, so what the metrics share lies in each of them as a copy.

    python -m spooftrace.spaces.metric_spaces            after a change of an original: renews the copies
    python -m spooftrace.spaces.metric_spaces eer DIR    writes a Space into a folder, for `hf upload --repo-type space`
"""

import shutil
import sys
from pathlib import Path

from spooftrace import metrics


FOLDER = Path(__file__).resolve().parent / "metrics"
SLUGS = ("eer", "min_dcf", "min_tdcf", "cllr")


def originals() -> dict[str, Path]:
    """Name of each file that all metric Spaces hold a copy of -> the file that is copied."""
    shared = sorted(path for path in (FOLDER / "shared").iterdir() if path.is_file())
    return {path.name: path for path in [Path(metrics.__file__), *shared]}


def renew_copies() -> list[Path]:
    """Brings the copies in the folders of all metrics up to date; returns those that were not."""
    stale = []
    for slug in SLUGS:
        for name, original in originals().items():
            copy = FOLDER / slug / name
            if not copy.is_file() or copy.read_bytes() != original.read_bytes():
                shutil.copyfile(original, copy)
                stale.append(copy)
    return stale


def write_metric_space(slug: str, folder: str | Path) -> Path:
    """
    Writes the Space of a metric, to be pushed as it is.

    Args:
        slug: `"eer"`, `"min_dcf"`, `"min_tdcf"` or `"cllr"`; the repository on the Hub needs the same name.
        folder: where to; made if need be. Files of the same name are replaced.

    Raises:
        `ValueError`: for another slug.
    """
    if slug not in SLUGS:
        raise ValueError(f"there is no metric {slug!r}: pass one of {', '.join(SLUGS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own = {path.name: path for path in (FOLDER / slug).iterdir() if path.is_file()}
    for name, path in {**own, **originals()}.items():
        shutil.copyfile(path, folder / name)
    return folder


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            for copied in renew_copies():
                print(copied)
        case [name, target]:
            print(write_metric_space(name, target))
        case _:
            sys.exit(__doc__)
