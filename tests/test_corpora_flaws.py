"""Copies of corpora that are not whole, or not what they seem: told, and never read as if they were."""

import dataclasses
import os
import shutil
import warnings

import pyarrow.parquet as pq
import pytest
from corpus_trees import (
    ASVSPOOF5,
    ASVSPOOF2019,
    ASVSPOOF2021_DF,
    ASVSPOOF2021_LA,
    write_asvspoof5,
    write_asvspoof2019,
    write_clip,
    write_protocol,
)
from corpus_trees_codecfake_plus import write_evaluation_list
from corpus_trees_other import ARENA, CODECFAKE, write_arena, write_codecfake, write_fakeavceleb

from spooftrace.data_scripts import (
    CorpusNotFoundError,
    ProtocolError,
    arrow_tables,
    get_corpus,
    load_corpus,
    parquet_files,
)
from spooftrace.data_scripts.corpus import Totals, count
from spooftrace.data_scripts.parsers import codecfake
from spooftrace.data_scripts.parsers._asvspoof import audio_folder
from spooftrace.data_scripts.parsers.codecfake_plus import UTTERANCE_TOTALS
from spooftrace.data_scripts.protocol import AudioFolder


LA_2019, FIVE, CODEC = get_corpus("asvspoof2019-la"), get_corpus("asvspoof5"), get_corpus("codecfake")

pytestmark = pytest.mark.filterwarnings("ignore:.* has other numbers of trials:UserWarning")


# Clips that are not there.


@pytest.mark.parametrize("corpus", [LA_2019, FIVE], ids=lambda corpus: corpus.name)
def test_the_evaluation_alone_can_be_downloaded(tmp_path, corpus):
    (write_asvspoof2019 if corpus is LA_2019 else write_asvspoof5)(tmp_path)
    for folder in ("LA/ASVspoof2019_LA_train", "LA/ASVspoof2019_LA_dev", "flac_T", "flac_D"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    with pytest.warns(UserWarning, match="no clip of train, validation is there, so that is left out") as told:
        test = load_corpus(corpus.name, tmp_path, split="test", cache_dir=tmp_path / "cache")
    assert len(test) == 3 and test[0]["audio"]["path"]
    assert told[0].filename == __file__


def test_no_clip_at_all_names_every_protocol_with_lines_and_the_remedy(tmp_path):
    write_asvspoof2019(tmp_path, audio=False)
    with pytest.raises(ProtocolError) as raised:
        LA_2019.read(tmp_path)
    train, validation, test = raised.value.problems
    assert raised.value.path.name == "ASVspoof2019.LA.cm.train.trn.txt"
    assert (train.line, validation.line) == (1, 0)
    assert train.message.startswith("4 of 4 clips have no audio file, such as 'LA_T_1138215' (train, line 1), ")
    assert "ASVspoof2019.LA.cm.eval.trl.txt have no audio file, such as 'LA_E_2834763' (test, line 1)" in test.message
    assert 'pass missing_audio="drop"' in test.message and test.message.endswith(LA_2019.layout)


def test_a_missing_clip_is_told_by_the_protocol_of_its_own_split(tmp_path):
    write_asvspoof2019(tmp_path)
    (tmp_path / "LA/ASVspoof2019_LA_eval/flac/LA_E_8877452.flac").unlink()
    with pytest.raises(ProtocolError, match=r"eval\.trl\.txt: 1 problem\n  line 2: 1 of 3 clips"):
        LA_2019.read(tmp_path)


def test_empty_files_folders_and_broken_links_are_no_clips(tmp_path):
    write_asvspoof2019(tmp_path)
    clips = [tmp_path / f"LA/ASVspoof2019_LA_train/flac/{line.split()[1]}.flac" for line in ASVSPOOF2019["train"]]
    for clip in clips[:3]:
        clip.unlink()
    clips[0].symlink_to(tmp_path / "nowhere.flac")
    clips[1].mkdir()
    clips[2].touch()
    with pytest.raises(ProtocolError, match=r"train\.trn\.txt: 1 problem\n  line 1: 3 of 4 clips"):
        LA_2019.read(tmp_path)
    audio = get_corpus("fakeavceleb").read(write_fakeavceleb(tmp_path))["test"][0].audio
    open(audio, "w").close()
    with pytest.raises(ProtocolError, match="1 of 5 clips"):
        get_corpus("fakeavceleb").read(tmp_path)


def test_a_folder_is_listed_once_whatever_the_endings(tmp_path, monkeypatch):
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    for suffix in (".mp3", ".wav", ".flac"):
        write_clip(tmp_path / f"a{suffix}")
    assert AudioFolder([tmp_path]).find("a").endswith(".flac")
    assert listed == [str(tmp_path)]


def test_5_reads_the_evaluation_and_no_variant_of_it(tmp_path):
    write_asvspoof5(tmp_path)
    shutil.copytree(tmp_path / "flac_E_eval", tmp_path / "flac_E_aug")
    shutil.copytree(tmp_path / "flac_E_eval", tmp_path / "flac_E")
    for folder in ("flac_E_eval", "flac_E"):
        assert {os.path.basename(os.path.dirname(row.audio)) for row in FIVE.read(tmp_path)["test"]} == {folder}
        shutil.rmtree(tmp_path / folder)
    assert FIVE.read(tmp_path, missing_audio="drop")["test"] == []
    assert audio_folder(tmp_path, ["flac_D", "flac_?", "*_D"]).folders == [tmp_path / "flac_D", tmp_path / "flac_T"]


# Lists that are not what they should be.


@pytest.mark.parametrize(
    ("name", "lines"), [("asvspoof2021-df", ASVSPOOF2021_LA), ("asvspoof2021-la", ASVSPOOF2021_DF)]
)
def test_2021_refuses_the_keys_of_the_other_track(tmp_path, name, lines):
    part = name[-2:].upper()
    write_protocol(tmp_path / "keys/CM/trial_metadata.txt", [" ".join(line.split()[:8]) for line in lines])
    with pytest.raises(
        ProtocolError, match=f"line 1: utterance '.._E_[0-9]*' is none of {part}: give the keys of that"
    ):
        get_corpus(name).read(tmp_path, missing_audio="ignore")


def test_a_list_in_another_encoding_is_told_with_its_line(tmp_path):
    path = write_asvspoof2019(tmp_path)["train"]
    path.write_bytes(path.read_bytes() + "LA_é LA_T_1 - A01 spoof\n".encode("latin-1"))
    with pytest.raises(ProtocolError, match="line 5: not UTF-8 text"):
        LA_2019.read(tmp_path)


def test_a_folder_in_the_place_of_a_list_is_an_error(tmp_path):
    path = write_asvspoof2019(tmp_path)["dev"]
    path.unlink()
    path.mkdir()
    with pytest.raises(ProtocolError, match=r"dev\.trl\.txt: 1 problem\n  a folder in the place of the protocol"):
        LA_2019.read(tmp_path)


def test_a_selection_is_compared_with_its_own_numbers(tmp_path):
    corpus = get_corpus("codecfake-plus-cors")
    write_evaluation_list(tmp_path, "CoRS_ALL", ["p227 p227_001 - - bonafide", "p227 p227_001_bigcodec - - spoof"])
    for utterances in ("seen", "all"):
        rows = corpus.read(tmp_path, "eval", missing_audio="ignore", utterances=utterances)
        [found] = count(corpus, "eval", rows, {"utterances": utterances})
        expected = UTTERANCE_TOTALS.get(("eval", "test", utterances), corpus.totals["eval", "test"])
        assert found == ("test", Totals(1, 1), expected)
    options = {"config": "eval", "missing_audio": "ignore", "streaming": True, "utterances": "seen"}
    with pytest.warns(UserWarning, match="published are 488 and 14,640"):
        load_corpus("codecfake-plus-cors", tmp_path, **options)


def test_options_that_select_nothing_leave_the_published_numbers():
    [found] = count(CODEC, "default", {"train": []}, {"partial": True})
    assert found.expected == Totals(44_242, 663_630)


# Where to read.


def test_an_empty_folder_name_is_none():
    with pytest.raises(CorpusNotFoundError, match="give its folder as data_dir"):
        load_corpus("asvspoof2019-la", "")


def test_a_folder_and_the_hub_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"repo 'x/y': give the folder or the Hub's name"):
        load_corpus("arena", tmp_path, repo="x/y")
    write_arena(tmp_path)
    with pytest.raises(ValueError, match="revision is 'v9' without repo"):
        load_corpus("arena", tmp_path, revision="v9")


# Parquet files.


def test_an_id_that_comes_again_in_another_row_group_is_refused(tmp_path):
    write_codecfake(tmp_path / "codec", [*CODECFAKE, CODECFAKE[1]])
    write_arena(tmp_path / "arena", [*ARENA, ARENA[0]])
    for name, at in (("codec", 6), ("arena", 5)):
        with pytest.raises(ProtocolError, match=f"line {at}: utterance id '.*' is "):
            load_corpus("codecfake" if name == "codec" else name, tmp_path / name, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("config", ["default", "speakers"])
def test_files_that_are_not_there_are_told_unless_a_part_is_wanted(tmp_path, config):
    write_codecfake(tmp_path, CODECFAKE, "00003-of-00161")
    with pytest.raises(
        ProtocolError, match=r"160 of 161 files train-\.\.\.-of-00161.parquet .*00000, 00001.* 150 more"
    ):
        load_corpus("codecfake", tmp_path, config=config)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = load_corpus("codecfake", tmp_path, config=config, cache_dir=tmp_path / "cache", partial=True)
    assert sum(map(len, found.values())) == 5
    assert any("published are 44,242 and 663,630" in str(warning.message) for warning in told) == (config == "default")


def test_columns_of_every_file_are_checked(tmp_path):
    write_codecfake(tmp_path, CODECFAKE[:3], "00000-of-00002")
    path = write_codecfake(tmp_path, CODECFAKE[3:], "00001-of-00002")
    pq.write_table(pq.read_table(path).drop_columns(["codec_name"]), path)
    with pytest.raises(
        ProtocolError, match=r"00001-of-00002.parquet: 1 problem\n  no column 'codec_name', only audio"
    ):
        load_corpus("codecfake", tmp_path, streaming=True)


def test_a_touched_file_makes_no_second_copy_and_a_changed_label_does(tmp_path):
    def load():
        return load_corpus("arena", tmp_path / "x", split="test", cache_dir=tmp_path / "cache")["label"][:]

    path = write_arena(tmp_path / "x")
    assert load() == [1, 0, 1, 0]
    os.utime(path)
    load()
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1
    write_arena(tmp_path / "x", [(audio, 1 - label, notes) for audio, label, notes in ARENA[:2]] + list(ARENA[2:]))
    assert load() == [0, 1, 1, 0]


@pytest.mark.parametrize("config", ["default", "speakers"])
def test_every_file_is_opened_once_to_list_its_pieces(tmp_path, config, monkeypatch):
    write_codecfake(tmp_path)
    opened, open_parquet = [], parquet_files.open_parquet
    monkeypatch.setattr(parquet_files, "open_parquet", lambda path: opened.append(path) or open_parquet(path))
    pieces = CODEC.read_pieces(tmp_path, config)
    assert len(opened) == 1 and sum(map(len, pieces.values())) >= 3
    table = codecfake.read_table(next(iter(pieces.values()))[0])
    assert len(opened) == 2 and len(table) == 2


@pytest.mark.parametrize("name", ["asvspoof5", "codecfake"])
def test_another_version_has_a_cache_of_its_own(tmp_path, name, monkeypatch):
    write_asvspoof5(tmp_path, {"train": ASVSPOOF5["train"]})
    write_codecfake(tmp_path)

    def digest(corpus):
        return arrow_tables.read_contents(corpus, tmp_path, corpus.default_config, "error", {}).digest

    corpus = get_corpus(name)
    before = digest(corpus)
    assert digest(corpus) == before != digest(dataclasses.replace(corpus, version=corpus.version + 1))
    monkeypatch.setattr(arrow_tables.importlib.metadata, "version", lambda name: "9.9")
    assert digest(corpus) != before
