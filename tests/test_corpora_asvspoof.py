"""The parsers of the ASVspoof corpora, on small trees in the real layout and on protocols of the real size."""

from collections import Counter

import pytest
from corpus_trees import (
    ASVSPOOF2019,
    ASVSPOOF2021_DF,
    ASVSPOOF2021_LA,
    FULL_2019,
    full_asvspoof5,
    full_asvspoof2019,
    full_asvspoof2021_la,
    write_asvspoof5,
    write_asvspoof2019,
    write_asvspoof2021,
    write_clip,
)

from spooftrace.data_scripts import CorpusNotFoundError, ProtocolError, get_corpus
from spooftrace.data_scripts.corpus import count


LA_2019, LA_2021, DF_2021, FIVE = map(
    get_corpus, ("asvspoof2019-la", "asvspoof2021-la", "asvspoof2021-df", "asvspoof5")
)


def problems_of(call) -> list[tuple[int, str]]:
    with pytest.raises(ProtocolError) as raised:
        call()
    return [tuple(problem) for problem in raised.value.problems]


@pytest.mark.parametrize("root", ["", "LA"])
def test_2019_reads_three_splits_from_the_folder_or_its_parent(tmp_path, root):
    write_asvspoof2019(tmp_path)
    splits = LA_2019.read(tmp_path / root)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 4, "validation": 2, "test": 3}
    genuine, _, spoof, _ = splits["train"]
    assert (genuine.utterance_id, genuine.label, genuine.attack_id) == ("LA_T_1138215", "bonafide", None)
    assert (genuine.vq, genuine.aux, genuine.dec) == ("bonafide",) * 3
    assert (spoof.label, spoof.attack_id, spoof.speaker_id, spoof.subset) == ("spoof", "A01", "LA_0081", "train")
    assert (spoof.codec, spoof.vq, spoof.aux, spoof.dec) == (None,) * 4
    assert spoof.audio == str(tmp_path / "LA/ASVspoof2019_LA_train/flac/LA_T_1004644.flac")


def test_2019_reads_the_parts_that_are_there(tmp_path):
    write_asvspoof2019(tmp_path, {"eval": ASVSPOOF2019["eval"]})
    assert list(LA_2019.read(tmp_path)) == ["test"]


def test_2019_tells_all_problems_of_a_file_with_their_lines(tmp_path):
    lines = [
        "LA_0079 LA_T_1 - - bonafide",
        "LA_0079 LA_T_2 - bonafide",
        "LA_0079 LA_T_3 - A01 fake",
        "",
        "LA_0079 LA_T_1 - A01 spoof",
        "LA_0079 LA_T_4 - A02 bonafide",
        "LA_0079 LA_T_5 - - spoof",
    ]
    path = write_asvspoof2019(tmp_path, {"train": lines}, audio=False)["train"]
    found = problems_of(lambda: LA_2019.read(tmp_path))
    assert found == [
        (2, "4 fields, expected 5 (speaker, utterance, -, attack, key)"),
        (3, "unknown label 'fake': write 'bonafide' or 'spoof'"),
        (5, "utterance id 'LA_T_1' is already in line 1: remove one of the two"),
        (6, "genuine speech by attack 'A02': write '-', or correct the label"),
        (7, "a spoof by attack '-': write the attack's name, such as 'A07'"),
    ]
    with pytest.raises(ProtocolError, match=f"{path.name}: 5 problems\n  line 2: 4 fields"):
        LA_2019.read(tmp_path)


def test_missing_clips_are_an_error_or_dropped_or_ignored(tmp_path):
    write_asvspoof2019(tmp_path)
    for name in ("LA_T_1138215", "LA_T_1004644"):
        (tmp_path / f"LA/ASVspoof2019_LA_train/flac/{name}.flac").unlink()
    with pytest.raises(
        ProtocolError,
        match=r"line 1: 2 of 4 clips have no .* 'LA_T_1138215' \(train, line 1\), 'LA_T_1004644' \(train, line 3\)",
    ):
        LA_2019.read(tmp_path)
    dropped = LA_2019.read(tmp_path, missing_audio="drop")["train"]
    assert [row.utterance_id for row in dropped] == ["LA_T_1271820", "LA_T_1056709"]
    ignored = LA_2019.read(tmp_path, missing_audio="ignore")["train"]
    assert [row.audio is None for row in ignored] == [True, False, True, False]


@pytest.mark.parametrize("corpus", [LA_2019, LA_2021, DF_2021, FIVE], ids=lambda corpus: corpus.name)
def test_a_wrong_folder_is_answered_with_the_layout(tmp_path, corpus):
    with pytest.raises(CorpusNotFoundError) as raised:
        corpus.read(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert corpus.layout in str(raised.value)
    with pytest.raises(CorpusNotFoundError, match="is not a folder"):
        corpus.read(tmp_path / "nowhere")


def test_2019_full_size_has_the_published_numbers(tmp_path):
    write_asvspoof2019(tmp_path, full_asvspoof2019(), audio=False)
    splits = LA_2019.read(tmp_path, missing_audio="ignore")
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 25_380,
        "validation": 24_844,
        "test": 71_237,
    }
    assert all(result.matches and result.expected for result in count(LA_2019, "la", splits))
    for part, rows in zip(FULL_2019, splits.values(), strict=True):
        bonafide, attacks = FULL_2019[part]
        assert Counter(row.attack_id for row in rows) == {None: bonafide, **attacks}


@pytest.mark.parametrize(
    "keys",
    [
        "keys/LA/CM/trial_metadata.txt",
        "LA/CM/trial_metadata.txt",
        "LA-keys-full/keys/LA/CM/trial_metadata.txt",
        "LA-keys-stage-1/keys/CM/trial_metadata.txt",
        "keys/CM/trial_metadata.txt",
    ],
)
def test_2021_la_finds_the_keys_of_each_release(tmp_path, keys):
    write_asvspoof2021(tmp_path, "LA", ASVSPOOF2021_LA, keys=keys)
    assert {name: len(rows) for name, rows in LA_2021.read(tmp_path).items()} == {
        "test": 2,
        "progress": 1,
        "hidden": 1,
    }


def test_2021_la_keeps_codec_transmission_and_trimming(tmp_path):
    write_asvspoof2021(tmp_path, "LA", ASVSPOOF2021_LA)
    splits = LA_2021.read(tmp_path)
    spoof, genuine = splits["test"]
    assert (spoof.attack_id, spoof.codec, spoof.subset) == ("A07", "alaw", "eval")
    assert spoof.extra == {"transmission": "ita_tx", "trim": False}
    assert (genuine.attack_id, genuine.codec, genuine.vq) == (None, "pstn", "bonafide")
    [progress], [hidden] = splits["progress"], splits["hidden"]
    assert (progress.codec, progress.extra) == (None, {"transmission": None, "trim": False})
    assert (hidden.attack_id, hidden.extra["trim"]) == (None, True)


def test_2021_df_keeps_what_is_known_of_the_spoof(tmp_path):
    write_asvspoof2021(tmp_path, "DF", ASVSPOOF2021_DF)
    splits = DF_2021.read(tmp_path)
    [progress], [converted, genuine] = splits["progress"], splits["test"]
    assert (progress.codec, progress.attack_id, progress.extra["source"]) == (None, "A14", "asvspoof")
    assert (converted.codec, converted.attack_id) == ("low_m4a", "Task1-team20")
    assert converted.extra == {
        "source": "vcc2020",
        "trim": False,
        "vocoder": "neural_vocoder_nonautoregressive",
        "task": "Task1",
        "team": "team20",
        "gender": "FF",
        "language": "E",
    }
    assert (genuine.attack_id, genuine.extra["vocoder"], genuine.extra["language"]) == (None, None, None)


def test_2021_df_reads_the_shorter_lines_of_the_first_keys(tmp_path):
    lines = [" ".join(line.split()[:8]) for line in ASVSPOOF2021_DF]
    write_asvspoof2021(tmp_path, "DF", lines, keys="DF-keys-stage-1/keys/CM/trial_metadata.txt")
    row = DF_2021.read(tmp_path)["test"][0]
    assert (row.attack_id, row.extra) == ("Task1-team20", {"source": "vcc2020", "trim": False})


def test_2021_df_finds_clips_of_archives_unpacked_apart(tmp_path):
    write_asvspoof2021(tmp_path, "DF", ASVSPOOF2021_DF, audio=False)
    for part, line in enumerate(ASVSPOOF2021_DF):
        write_clip(tmp_path / f"part{part:02}/ASVspoof2021_DF_eval/flac/{line.split()[1]}.flac")
    assert sum(map(len, DF_2021.read(tmp_path).values())) == 3


@pytest.mark.parametrize(
    ("corpus", "part", "lines"), [(LA_2021, "LA", ASVSPOOF2021_LA), (DF_2021, "DF", ASVSPOOF2021_DF)]
)
def test_2021_without_keys_names_where_to_get_them(tmp_path, corpus, part, lines):
    write_asvspoof2021(tmp_path, part, lines).unlink()
    with pytest.raises(CorpusNotFoundError, match=f"no keys: [^!]*asvspoof2021/{part}-keys-full.tar.gz .md5"):
        corpus.read(tmp_path)


def test_2021_tells_all_problems_of_the_keys(tmp_path):
    lines = [
        "LA_0009 LA_E_1 alaw ita_tx A07 spoof notrim eval",
        "LA_0009 LA_E_2 alaw ita_tx A07 spoof maybe eval",
        "LA_0009 LA_E_3 alaw ita_tx A07 spoof notrim test",
        "LA_E_4",
    ]
    write_asvspoof2021(tmp_path, "LA", [*lines[:3], "x LA_E_4 y"], audio=False)
    (tmp_path / "keys/LA/CM/trial_metadata.txt").write_text("\r\n".join(lines))
    assert problems_of(lambda: LA_2021.read(tmp_path)) == [
        (2, "unknown trim 'maybe': it is one of 'notrim', 'trim'"),
        (3, "unknown subset 'test': it is one of 'eval', 'progress', 'hidden'"),
        (4, "1 fields, expected 8 (speaker, utterance, codec, transmission, attack, key, trim, subset)"),
    ]


def test_2021_la_full_size_has_the_published_numbers(tmp_path):
    write_asvspoof2021(tmp_path, "LA", full_asvspoof2021_la(), audio=False)
    splits = LA_2021.read(tmp_path, missing_audio="ignore")
    assert sum(map(len, splits.values())) == 181_566
    assert all(result.matches and result.expected for result in count(LA_2021, "eval", splits))


@pytest.mark.parametrize("folder", ["", "ASVspoof5_protocols", "download/ASVspoof5_protocols"])
def test_5_finds_the_protocols_and_keeps_their_first_line(tmp_path, folder):
    write_asvspoof5(tmp_path, protocols=folder)
    splits = FIVE.read(tmp_path)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "validation": 2, "test": 3}
    first = splits["validation"][0]
    assert (first.utterance_id, first.label, first.attack_id) == ("D_0000000169", "spoof", "A14")
    assert first.extra == {"gender": "F", "codec_quality": None, "source_utterance": None, "attack_group": "AC1"}


def test_5_turns_every_placeholder_into_null(tmp_path):
    write_asvspoof5(tmp_path)
    uncoded, genuine, channel = FIVE.read(tmp_path)["test"]
    assert (uncoded.codec, uncoded.extra["codec_quality"]) == (None, None)
    assert (genuine.attack_id, genuine.extra["attack_group"], genuine.vq) == (None, None, "bonafide")
    assert (genuine.codec, genuine.extra["codec_quality"]) == ("C05", "3")
    assert genuine.extra["source_utterance"] == "E_0000000004"
    assert (channel.codec, channel.attack_id, channel.vq) == ("C11", "A32", None)


def test_5_refuses_the_six_columns_of_the_challenge_phase(tmp_path):
    write_asvspoof5(tmp_path, {"train": ["T_4850 T_0000000000 F - A05 spoof"]}, audio=False)
    [(line, message)] = problems_of(lambda: FIVE.read(tmp_path))
    assert (line, message.split(" (")[0]) == (1, "6 fields, expected 10")


@pytest.mark.parametrize("part", ["train", "dev"])
def test_5_full_size_has_the_published_numbers(tmp_path, part):
    write_asvspoof5(tmp_path, {part: full_asvspoof5(part)}, audio=False)
    splits = FIVE.read(tmp_path, missing_audio="ignore")
    [result] = [result for result in count(FIVE, "track1", splits) if result.split in splits]
    assert result.expected and result.matches
    assert len({row.attack_id for row in splits[result.split]} - {None}) == 8
