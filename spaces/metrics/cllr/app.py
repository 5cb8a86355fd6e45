"""The page of the cost of the log-likelihood ratio."""

from pathlib import Path

from scores_app import build


demo = build(
    Path(__file__).with_name("cllr.py"),
    title="Cost of the log-likelihood ratio",
    summary="How far a detector's scores can be taken at their word as log-likelihood ratios.",
    headline=lambda result: f"CLLR {result['cllr']:.4f} bits",
    options={},
)

if __name__ == "__main__":
    demo.launch()
