"""Which corpora share speech: names in any spelling, and no false all-clear."""

import pytest

from spooftrace.contamination import (
    ALIASES,
    SAME_CLIPS,
    SAME_RECORDINGS,
    SOURCES,
    contamination,
    declared_corpora,
    known_corpus,
    shared_speech,
    speech_of,
)
from spooftrace.data_scripts.registry import corpora


def kinds(training, test):
    return [shared.kind for shared in shared_speech(training, test)]


@pytest.mark.parametrize(
    "name, corpus",
    [
        ("asvspoof2019-la", "asvspoof2019-la"),
        ("SpeechAntiSpoofingBenchmarks/ASVspoof2019_LA", "asvspoof2019-la"),
        ("LanceaKing/asvspoof2019", "asvspoof2019-la"),
        ("InTheWild", "in-the-wild"),
        ("mueller91/In-The-Wild", "in-the-wild"),
        ("Fake-or-Real", "for"),
        ("recordings.csv", None),
    ],
)
def test_a_corpus_is_known_in_any_spelling(name, corpus):
    assert known_corpus(name) == corpus


@pytest.mark.parametrize(
    "training, test, kind",
    [
        ("asvspoof2019-la", "asvspoof2019-la", "corpus"),
        ("ASVspoof2019_LA", "asvspoof2019-la", "corpus"),
        ("partialspoof", "asvspoof2019-la", "clips"),
        ("asvspoof2019-la", "codecfake-plus-cors", "collection"),
        ("VCTK", "asvspoof2021-df", "collection"),
        ("mls", "asvspoof5", "collection"),
        ("wavefake", "librisevoc", "origin"),
        ("asvspoof5", "mlaad", "origin"),
        ("spoofceleb", "fakeavceleb", "origin"),
        ("my own recordings", "asvspoof5", "unknown"),
        ("asvspoof5", "my own recordings", "unknown"),
        ("my own recordings", "my own recordings", "corpus"),
    ],
)
def test_shared_speech_is_found(training, test, kind):
    assert kinds([training], test) == [kind]


@pytest.mark.parametrize("training, test", [("asvspoof2019-la", "in-the-wild"), ("asvspoof5", "asvspoof2019-la")])
def test_different_speech_is_no_finding(training, test):
    assert kinds([training], test) == []


@pytest.mark.parametrize("training", sorted(SOURCES))
@pytest.mark.parametrize("test", ["asvspoof2019-la", "asvspoof5", "odss", "in-the-wild"])
def test_sharing_is_mutual(training, test):
    assert kinds([training], test) == kinds([test], training)


def test_the_note_names_both_corpora_and_the_speech():
    (shared,) = shared_speech(["asvspoof2019-la"], "codecfake-plus-cors")
    assert shared.speech == ("VCTK",)
    assert all(word in shared.note for word in ("asvspoof2019-la", "codecfake-plus-cors", "VCTK"))


def test_every_alias_and_group_points_to_a_corpus_of_the_registry():
    assert set(ALIASES.values()) <= SOURCES.keys()
    assert set().union(*SAME_CLIPS) <= SOURCES.keys()
    speech = {name for names in SOURCES.values() for name in names}
    assert set(SAME_RECORDINGS) - speech == {"Libri-Light"}


def test_the_projects_own_corpora_are_in_the_registry_with_the_same_speech():
    own = {name: corpus for name, corpus in corpora().items() if name not in ("own", "arena")}
    assert own.keys() <= SOURCES.keys()
    unlisted = {name: set(corpus.source_speech) - set(speech_of(name)) for name, corpus in own.items()}
    assert not any(unlisted.values()), unlisted


def test_a_silent_model_is_unknown_and_never_clean():
    assert contamination(None, "asvspoof5")[0].startswith("unknown: the model does not say")
    assert contamination(["asvspoof5"], None)[0].startswith("unknown: the test data")
    assert contamination(["asvspoof2019-la"], "in-the-wild")[0].startswith("none known")
    assert contamination([], "in-the-wild") == ["the model says that it was trained on no corpus"]


def test_the_first_source_that_says_something_counts():
    assert declared_corpora({}, None, {"training_corpora": ["a", "b"]}, {"datasets": ["c"]}) == ["a", "b"]
    assert declared_corpora({"model": "x"}, {"datasets": "owner/c"}) == ["owner/c"]
    assert declared_corpora({}, {"training_corpora": []}, {"datasets": ["c"]}) == []
    assert declared_corpora({}, {"training_corpora": None}) is None
