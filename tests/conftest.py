"""Fixtures shared by all tests.

Two folders of reference material are optional: tests that read them skip where they are absent.
"""

import os
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent


def _optional_folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here (set {variable} to point to it)")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers made by running the public reference implementations."""
    return _optional_folder("SPOOFTRACE_GOLDEN", ROOT.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def corpus_dir() -> Path:
    """A small corpus of genuine and fake speech, described by its `metadata.csv`."""
    return _optional_folder("SPOOFTRACE_CORPUS", ROOT.parent / "shared" / "corpus")
