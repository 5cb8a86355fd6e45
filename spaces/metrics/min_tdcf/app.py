"""The page of the minimum tandem detection cost."""

from pathlib import Path

import gradio as gr
from metrics import ASVSPOOF5_ASV
from scores_app import build


VERSIONS = [("ASVspoof 2021 and 5", "2021"), ("ASVspoof 2019", "2019")]

demo = build(
    Path(__file__).with_name("min_tdcf.py"),
    title="Minimum tandem detection cost",
    summary="The least cost of a detector in front of a fixed speaker verification system (ASV).",
    headline=lambda result: f"min t-DCF {result['min_tdcf']:.4f}",
    options={
        "asv_miss": gr.Number(ASVSPOOF5_ASV.miss, label="ASV: share of targets refused", render=False),
        "asv_false_alarm": gr.Number(
            ASVSPOOF5_ASV.false_alarm, label="ASV: share of other speakers accepted", render=False
        ),
        "asv_spoof_false_alarm": gr.Number(
            ASVSPOOF5_ASV.spoof_false_alarm, label="ASV: share of spoofs accepted", render=False
        ),
        "version": gr.Dropdown(VERSIONS, value="2021", label="Version", render=False),
    },
)

if __name__ == "__main__":
    demo.launch()
