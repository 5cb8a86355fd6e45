"""The default detector's corpus as a table that `spooftrace score` and `spooftrace evaluate` read.

python -m spooftrace.trainers.corpus_table --data DIR --out TABLE.csv [--without-transmission]

`DIR` is a folder with `metadata.csv`. The codec classes get the names they have everywhere else in this project, and what
is not known is left empty. Paths are absolute, so the table can lie anywhere: read it with `--allow-outside`.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from spooftrace.trainers.detector_corpus import Clip, CorpusError, read_corpus


COLUMNS = ("utterance_id", "audio", "label", "split", "speaker_id", "attack_id", "family", "page", "licensed")
SPLITS = {"valid": "validation"}


def rows(data: Path, without_transmission: bool = False) -> Iterator[dict[str, str]]:
    """
    A row of `COLUMNS` for every clip.

    Args:
        data: the folder.
        without_transmission: leave out the clips that only went through a telephone codec.

    Raises:
        CorpusError: where metadata.csv is missing or not what the recipe reads.
    """
    with open(data / "metadata.csv", newline="", encoding="utf-8") as stream:
        speakers = {row["file"]: row.get("speaker", "") for row in csv.DictReader(stream)}
    for clip in read_corpus(data):
        if not (without_transmission and clip.transmission):
            yield _row(data, clip, speakers[clip.file])


def _row(data: Path, clip: Clip, speaker: str) -> dict[str, str]:
    return {
        "utterance_id": Path(clip.file).with_suffix("").as_posix(),
        "audio": str((data / clip.file).absolute()),
        "label": clip.label,
        "split": SPLITS.get(clip.split, clip.split),
        "speaker_id": speaker,
        "attack_id": clip.system if clip.is_spoof else "",
        "family": clip.family if clip.is_spoof else "",
        "page": clip.page,
        "licensed": "yes" if clip.licensed else "no",
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spooftrace.trainers.corpus_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with metadata.csv")
    parser.add_argument("--out", type=Path, required=True, help="table to write")
    parser.add_argument(
        "--without-transmission", action="store_true", help="leave out clips that were only coded for transmission"
    )
    args = parser.parse_args(argv)
    try:
        table = list(rows(args.data, args.without_transmission))
    except (CorpusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    partial = args.out.with_name(f"{args.out.name}.part")
    with open(partial, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    os.replace(partial, args.out)
    print(f"{args.out}: {len(table)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
