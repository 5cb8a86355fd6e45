"""The page of the equal error rate."""

from pathlib import Path

import gradio as gr
from scores_app import build


METHODS = [
    ("as in the ASVspoof packages", "asvspoof"),
    ("equal scores together", "merged"),
    ("convex hull", "rocch"),
]

demo = build(
    Path(__file__).with_name("eer.py"),
    title="Equal error rate",
    summary="The rate at which a detector refuses genuine speech as often as it accepts fake speech.",
    headline=lambda result: f"EER {100 * result['eer']:.2f} %",
    options={"method": gr.Dropdown(METHODS, value="asvspoof", label="Method", render=False)},
)

if __name__ == "__main__":
    demo.launch()
