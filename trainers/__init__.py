"""Training recipes and what they need: augmentation, extra attacks, reports."""
