"""The page of the minimum detection cost."""

from pathlib import Path

import gradio as gr
from scores_app import build


demo = build(
    Path(__file__).with_name("min_dcf.py"),
    title="Minimum detection cost",
    summary="The least cost of a detector's errors at any threshold, relative to deciding without it.",
    headline=lambda result: f"minDCF {result['min_dcf']:.4f}",
    options={
        "p_spoof": gr.Number(0.05, label="Probability of a spoof", render=False),
        "c_miss": gr.Number(1.0, label="Cost of refusing genuine speech", render=False),
        "c_fa": gr.Number(10.0, label="Cost of accepting a spoof", render=False),
    },
)

if __name__ == "__main__":
    demo.launch()
