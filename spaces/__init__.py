"""Gradio Spaces: metrics for `evaluate`, and the detector."""
