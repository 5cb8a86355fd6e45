"""
Scores a dataset as it streams in: nothing is stored, and windows of several clips share a batch.

    python examples/stream_and_score.py owner/dataset --split test --limit 100
    python examples/stream_and_score.py my-dataset --split validation

Any parquet dataset with a column `audio` will do, on the Hub or in a folder, such as `spooftrace corpus build` makes. It needs
`pip install ".[data]"`. For scores in files, and runs that go on where they stopped, use `spooftrace score`.
"""

import argparse
from itertools import islice

from datasets import Audio, load_dataset

from spooftrace import Detection, Detector


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("dataset")
parser.add_argument("--split", default="train")
parser.add_argument("--limit", type=int, default=10, help="clips (10)")
args = parser.parse_args()

rows = load_dataset(args.dataset, split=args.split, streaming=True)
rows = rows.cast_column("audio", Audio(decode=False))  # spooftrace decodes, and needs no torchcodec
detector = Detector.from_pretrained(batch_size=32)
for result in detector.detect(row["audio"] for row in islice(rows, args.limit)):
    if isinstance(result, Detection):
        print(result.path, result.verdict, result.score, result.reason or "", sep="\t")
    else:  # a clip that cannot be read does not stop the others
        print(result.path, "failure", result.message, sep="\t")
