"""
Asks a running demo, a Space or one of your own, what it says of a clip.

    spooftrace demo &
    python examples/ask_the_space.py examples/synthetic_speech.flac
    python examples/ask_the_space.py clip.wav --space owner/name

It needs `pip install gradio_client`, and no spooftrace. Both endpoints answer with the text that `spooftrace detect --json`
and `spooftrace trace --json` print.
"""

import argparse
import json

from gradio_client import Client, handle_file


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("clip")
parser.add_argument("--space", default="http://127.0.0.1:7860", help="owner/name on the Hub, or an address")
parser.add_argument("--threshold", type=float, default=0.5, help="probability from which on it is bona fide (0.5)")
args = parser.parse_args()

client, clip = Client(args.space, verbose=False), handle_file(args.clip)
(detection,) = json.loads(client.predict(clip, model="default", threshold=args.threshold, api_name="/detect"))
(trace,) = json.loads(client.predict(clip, api_name="/trace"))
for name, answer in (("detect", detection), ("trace", trace)):
    print(f"/{name}")
    print(json.dumps(answer, indent=1))
