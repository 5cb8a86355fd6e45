"""All corpora by name."""

import importlib
import pkgutil
from functools import cache

from spooftrace.data_scripts import parsers
from spooftrace.data_scripts.corpus import Corpus


@cache
def corpora() -> dict[str, Corpus]:
    """Every corpus, by name. Each module of `parsers` names its own in `CORPORA`."""
    found: dict[str, Corpus] = {}
    for module in sorted(pkgutil.iter_modules(parsers.__path__), key=lambda module: module.name):
        contents = importlib.import_module(f"{parsers.__name__}.{module.name}")
        found |= {corpus.name: corpus for corpus in getattr(contents, "CORPORA", ())}
    return dict(sorted(found.items()))


def get_corpus(name: str) -> Corpus:
    """
    A corpus by name.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    found = corpora()
    if name not in found:
        raise ValueError(f"no corpus is called {name!r}; there are {', '.join(found)}.")
    return found[name]
