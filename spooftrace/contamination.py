"""Which corpora are made from the same recordings: a test on speech that was trained on says little.

Corpora of fake speech take their genuine speech, the voices that they imitate and the texts from a few public collections.
A detector that was trained on one of them has heard the speakers, microphones and rooms of all others of that collection.
`shared_speech` names such pairs. It knows where corpora come from by their papers and cards; it compares no audio, and
silence means "no overlap is known", not "there is none".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple


SOURCES: dict[str, tuple[str, ...]] = {
    "add2022": ("AISHELL-3",),
    "allm4add": ("VCTK",),
    "asvspoof2015": ("VCTK",),
    "asvspoof2019-la": ("VCTK",),
    "asvspoof2021-df": ("VCTK", "VCC 2018", "VCC 2020"),
    "asvspoof2021-la": ("VCTK",),
    "asvspoof5": ("Multilingual LibriSpeech",),
    "cd-add": ("LibriTTS", "TED-LIUM 3"),
    "codecfake": ("VCTK",),
    "codecfake-alm": ("VCTK", "LibriTTS", "AISHELL-3"),
    "codecfake-plus-cors": ("VCTK",),
    "codecfake-plus-cosg": ("VCTK", "demo pages"),
    "cvoicefake": ("Common Voice",),
    "decro": ("VCTK", "aidatatang_200zh", "AISHELL-1", "AISHELL-2", "AISHELL-3", "Free ST", "MAGICDATA"),
    "deepfake-eval-2024": ("recordings from social media",),
    "dfadd": ("VCTK",),
    "diffssd": ("LJSpeech", "LibriSpeech"),
    "emofake": ("ESD",),
    "fakeavceleb": ("VoxCeleb2",),
    "for": ("CMU Arctic", "LJSpeech", "VoxForge"),
    "habla": ("Latin American Spanish (OpenSLR)",),
    "in-the-wild": ("In-the-Wild",),
    "librisevoc": ("LibriTTS",),
    "llamapartialspoof": ("LibriTTS",),
    "mlaad": ("M-AILABS",),
    "odss": ("VCTK", "Hi-Fi TTS", "HUI", "Crowdsourced Spanish (OpenSLR)"),
    "partialspoof": ("VCTK",),
    "spoofceleb": ("VoxCeleb1",),
    "wavefake": ("LJSpeech", "JSUT"),
}
"""Corpus -> the collections of its genuine speech.

For ADD 2022, CD-ADD, CVoiceFake, DiffSSD, EmoFake, HABLA and LlamaPartialSpoof this is common knowledge of their papers
that was not looked up again."""

SAME_RECORDINGS: dict[str, str] = {
    "Hi-Fi TTS": "LibriVox",
    "LJSpeech": "LibriVox",
    "Libri-Light": "LibriVox",
    "LibriSpeech": "LibriVox",
    "LibriTTS": "LibriVox",
    "M-AILABS": "LibriVox",
    "Multilingual LibriSpeech": "LibriVox",
    "VoxCeleb1": "YouTube interviews (VoxCeleb)",
    "VoxCeleb2": "YouTube interviews (VoxCeleb)",
}
"""Collection -> the larger body that it was cut from. Two such collections may share readers and recordings."""

SAME_CLIPS: tuple[frozenset[str], ...] = (
    frozenset({"asvspoof2019-la", "partialspoof", "allm4add"}),
    frozenset({"asvspoof2019-la", "decro"}),
)
"""Corpora that hold the same genuine clips, not only the same collection."""

ALIASES = {
    "asvspoof2019": "asvspoof2019-la",
    "asvspoof19la": "asvspoof2019-la",
    "asv19la": "asvspoof2019-la",
    "asvspoof21la": "asvspoof2021-la",
    "asv21la": "asvspoof2021-la",
    "asvspoof21df": "asvspoof2021-df",
    "asv21df": "asvspoof2021-df",
    "asv5": "asvspoof5",
    "asvspoof2024": "asvspoof5",
    "itw": "in-the-wild",
    "fakeorreal": "for",
    "cors": "codecfake-plus-cors",
    "cosg": "codecfake-plus-cosg",
    "add22": "add2022",
    "add22eval31": "add2022",
    "cvoicefakesmall": "cvoicefake",
    "emofaketest": "emofake",
}
COLLECTION_ALIASES = {"mls": "Multilingual LibriSpeech"}


class SharedSpeech(NamedTuple):
    """
    What a training corpus has in common with a test corpus.

    Args:
        training: the training corpus, as it was named.
        kind: `"corpus"` for the same one, `"clips"` for the same genuine clips, `"collection"` for the same collection
            of speech, `"origin"` for collections cut from one larger body, `"unknown"` for a name that is not listed.
        speech: what is shared.
        note: one sentence.
    """

    training: str
    kind: Literal["corpus", "clips", "collection", "origin", "unknown"]
    speech: tuple[str, ...]
    note: str


OTHER_COLLECTIONS = {"Free Spoken Digit Dataset", "speechocean762"}
"""Collections of genuine speech that no corpus above takes its own from, but detectors are trained on."""

_KNOWN = {re.sub(r"[^a-z0-9]", "", name): name for name in SOURCES} | ALIASES
_COLLECTIONS = {
    re.sub(r"[^a-z0-9]", "", name.lower()): name
    for name in sorted({n for names in SOURCES.values() for n in names} | SAME_RECORDINGS.keys() | OTHER_COLLECTIONS)
} | COLLECTION_ALIASES


def _key(name: str) -> str:
    """A name without its owner and spelling: `SpeechAntiSpoofingBenchmarks/ASVspoof2019_LA` -> `asvspoof2019la`."""
    return re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2].lower())


def known_corpus(name: str) -> str | None:
    """The name in `SOURCES` for any spelling of it, a Hub repository's among them; `None` for another corpus."""
    return _KNOWN.get(_key(name))


def speech_of(name: str) -> tuple[str, ...]:
    """The collections of speech behind a corpus; a collection's name stands for itself; empty where nothing is known."""
    corpus = known_corpus(name)
    if corpus:
        return SOURCES[corpus]
    collection = _COLLECTIONS.get(_key(name))
    return (collection,) if collection else ()


def shared_speech(training_corpora: Iterable[str], test_corpus: str) -> list[SharedSpeech]:
    """
    What each training corpus shares with a test corpus; nothing for those without a known overlap.

    Args:
        training_corpora: names of corpora or of collections of speech, in any spelling, with or without an owner.
        test_corpus: likewise.
    """
    found = (_compare(name, test_corpus) for name in dict.fromkeys(training_corpora))
    return [shared for shared in found if shared is not None]


def _compare(training: str, test: str) -> SharedSpeech | None:
    ours, theirs = known_corpus(training), known_corpus(test)
    if _key(training) == _key(test) or (ours is not None and ours == theirs):
        note = f"{training} was trained on: unless training kept to another split, this is no test of unseen speech"
        return SharedSpeech(training, "corpus", speech_of(training), note)
    have, want = speech_of(training), speech_of(test)
    if not have or not want:
        unlisted = test if not want else training
        return SharedSpeech(
            training, "unknown", (), f"{training}: the source of the speech in {unlisted} is not known here"
        )
    if any({ours, theirs} <= group for group in SAME_CLIPS):
        return SharedSpeech(training, "clips", have, f"{training} holds genuine clips of {test} ({', '.join(want)})")
    common = tuple(name for name in have if name in want)
    if common:
        note = f"{training} takes its speech from the same collection as {test}: {', '.join(common)}"
        return SharedSpeech(training, "collection", common, note)
    return _same_origin(training, have, test, want)


def _same_origin(training: str, have: Sequence[str], test: str, want: Sequence[str]) -> SharedSpeech | None:
    for first in have:
        for second in want:
            origin = SAME_RECORDINGS.get(first)
            if origin is not None and origin == SAME_RECORDINGS.get(second):
                note = f"{training} ({first}) and {test} ({second}) were both cut from {origin} and may share speakers"
                return SharedSpeech(training, "origin", (origin,), note)
    return None


def declared_corpora(*sources: Mapping[str, Any] | None) -> list[str] | None:
    """
    What a model says it was trained on.

    Args:
        sources: in order of preference: a `run.json`, its `"model"`, a `config.json`, the metadata of a model card.

    Returns:
        The names under the first `training_corpora` or `datasets`; `None` where no source has one, which is not the
        same as an empty list.
    """
    for source in sources:
        for key in ("training_corpora", "datasets"):
            value = (source or {}).get(key)
            if isinstance(value, str):
                return [value]
            if isinstance(value, (list, tuple)):
                return [str(name) for name in value]
    return None


def contamination(training_corpora: Sequence[str] | None, test_corpus: str | None) -> list[str]:
    """The sentences for a report: what is shared, or why that cannot be said."""
    if training_corpora is None:
        return ["unknown: the model does not say what it was trained on (`--trained-on` names it)"]
    if not training_corpora:
        return ["the model says that it was trained on no corpus"]
    if test_corpus is None:
        return [f"unknown: the test data are no known corpus; the model was trained on {', '.join(training_corpora)}"]
    notes = [shared.note for shared in shared_speech(training_corpora, test_corpus)]
    return notes or [f"none known: {', '.join(training_corpora)} and {test_corpus} come from other speech"]
