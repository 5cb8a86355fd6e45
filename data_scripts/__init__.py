"""Corpora: protocol parsers, dataset builders, codec taxonomy, sampling and publishing."""

import importlib
from typing import TYPE_CHECKING, Any


_LAZY_NAMES = {
    "Corpus": "spooftrace.data_scripts.corpus",
    "CorpusNotFoundError": "spooftrace.data_scripts.protocol",
    "ProtocolError": "spooftrace.data_scripts.protocol",
    "Row": "spooftrace.data_scripts.rows",
    "build_corpus": "spooftrace.data_scripts.publish",
    "corpora": "spooftrace.data_scripts.registry",
    "get_corpus": "spooftrace.data_scripts.registry",
    "load_corpus": "spooftrace.data_scripts.loading",
    "partition_bonafide": "spooftrace.data_scripts.sampling",
    "remove_silence": "spooftrace.data_scripts.silence",
    "sample_balanced": "spooftrace.data_scripts.sampling",
    "verify_corpus": "spooftrace.data_scripts.verify",
}

__all__ = [
    "Corpus",
    "CorpusNotFoundError",
    "ProtocolError",
    "Row",
    "build_corpus",
    "corpora",
    "get_corpus",
    "load_corpus",
    "partition_bonafide",
    "remove_silence",
    "sample_balanced",
    "verify_corpus",
]

if TYPE_CHECKING:
    from spooftrace.data_scripts.corpus import Corpus
    from spooftrace.data_scripts.loading import load_corpus
    from spooftrace.data_scripts.protocol import CorpusNotFoundError, ProtocolError
    from spooftrace.data_scripts.publish import build_corpus
    from spooftrace.data_scripts.registry import corpora, get_corpus
    from spooftrace.data_scripts.rows import Row
    from spooftrace.data_scripts.sampling import partition_bonafide, sample_balanced
    from spooftrace.data_scripts.silence import remove_silence
    from spooftrace.data_scripts.verify import verify_corpus


def __getattr__(name: str) -> Any:
    if name not in _LAZY_NAMES:
        raise AttributeError(f"module 'spooftrace.data_scripts' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
