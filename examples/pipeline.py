"""
The detector in the pipeline of transformers.

    python examples/pipeline.py examples/synthetic_speech.flac
    python examples/pipeline.py clip.mp3 --model owner/name

The pipeline hears the beginning of a clip alone, as much as the feature extractor takes (2 s for the shipped detector), and
its scores are not calibrated. `spooftrace.Detector` hears all of it, in windows, and abstains where there is no speech.
"""

import argparse

from transformers import pipeline

from spooftrace import load_audio
from spooftrace.checkpoint import default_folder


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("clip")
parser.add_argument("--model", default=str(default_folder()), help="folder or name on the Hub (the shipped detector)")
args = parser.parse_args()

classify = pipeline("audio-classification", model=args.model)
for answer in classify({"raw": load_audio(args.clip), "sampling_rate": 16_000}):
    print(f"{answer['label']:<9} {answer['score']:.4f}")
