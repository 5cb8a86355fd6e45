"""Corners of single corpora that their trees of a few rows do not reach."""

import pytest
from corpus_trees import ASVSPOOF2019, write_asvspoof5, write_asvspoof2019
from corpus_trees_other import write_codecfake

from spooftrace.data_scripts import get_corpus, load_corpus
from spooftrace.data_scripts.corpus import Totals, count


def test_codecfake_is_divided_by_the_authors_four_speakers(tmp_path):
    speakers = [f"p{number}" for number in range(225, 231)]
    write_codecfake(tmp_path, [(f"{speaker}_001.wav", "genuine", speaker, "genuine") for speaker in speakers])
    splits = get_corpus("codecfake").read(tmp_path, "speakers")
    assert {split: [row.speaker_id for row in rows] for split, rows in splits.items()} == {
        "train": ["p225", "p230"],
        "validation": ["p226", "p229"],
        "test": ["p227", "p228"],
    }


def test_a_codec_seed_of_zero_is_no_utterance(tmp_path):
    lines = [f"E_0001 E_000000000{seed} M C05 3 {seed} AC2 A17 spoof -" for seed in (0, 2)]
    write_asvspoof5(tmp_path, {"eval": lines}, audio=False)
    rows = get_corpus("asvspoof5").read(tmp_path, missing_audio="ignore")["test"]
    assert [row.extra["source_utterance"] for row in rows] == [None, "2"]


def test_a_published_split_that_is_absent_is_told(tmp_path):
    parts = {part: lines for part, lines in ASVSPOOF2019.items() if part != "dev"}
    write_asvspoof2019(tmp_path, parts)
    corpus = get_corpus("asvspoof2019-la")
    [absent] = [
        result
        for result in count(corpus, corpus.default_config, corpus.read(tmp_path))
        if result.split == "validation"
    ]
    assert (absent.found, absent.expected.bonafide, absent.matches) == (Totals(0, 0), 2_548, False)
    with pytest.warns(UserWarning, match="validation: 0 bona fide and 0 spoof, published are 2,548 and 22,296"):
        load_corpus("asvspoof2019-la", tmp_path, cache_dir=tmp_path / "cache")
