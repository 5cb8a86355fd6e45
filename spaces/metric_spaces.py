"""The metrics of spooftrace as Spaces that `evaluate.load("owner/eer")` reads.

A folder in `metrics/` holds what is a metric's own. `evaluate` follows the imports of a metric script to files beside it
and no further, so a Space is written with copies of what the metrics share.

    python -m spooftrace.spaces.metric_spaces eer DIR    writes a Space, for `evaluate.load` or `hf upload --repo-type space`
"""

import shutil
import sys
from pathlib import Path

from spooftrace import metrics


FOLDER = Path(__file__).resolve().parent / "metrics"
SLUGS = ("eer", "min_dcf", "min_tdcf", "cllr")


def write_metric_space(slug: str, folder: str | Path) -> Path:
    """
    Writes the Space of a metric, to be loaded or pushed as it is.

    Args:
        slug: `"eer"`, `"min_dcf"`, `"min_tdcf"` or `"cllr"`; `evaluate` needs the same name for the folder or repository.
        folder: where to; made if need be. Files of the same name are replaced.

    Raises:
        `ValueError`: for another slug.
    """
    if slug not in SLUGS:
        raise ValueError(f"there is no metric {slug!r}: pass one of {', '.join(SLUGS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [*(FOLDER / "shared").iterdir(), *(FOLDER / slug).iterdir(), Path(metrics.__file__)]
    for path in filter(Path.is_file, parts):
        shutil.copyfile(path, folder / path.name)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(write_metric_space(*sys.argv[1:]))
