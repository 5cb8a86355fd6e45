"""In-the-Wild, FakeAVCeleb, CodecFake, the Arena's test sets and ALLM4ADD's lists."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import warm_python
from corpus_trees import write_clip, write_protocol
from corpus_trees_other import (
    ARENA,
    CODECFAKE,
    FAKEAVCELEB,
    FAKEAVCELEB_HEADER,
    IN_THE_WILD,
    audio_column,
    encoded_clip,
    write_arena,
    write_codecfake,
    write_fakeavceleb,
    write_in_the_wild,
    write_parquet,
)

from spooftrace.audio import load_audio
from spooftrace.data_scripts import CorpusNotFoundError, ProtocolError, get_corpus, load_corpus
from spooftrace.data_scripts.corpus import Totals, count
from spooftrace.data_scripts.parsers.allm4add import read_allm4add, write_allm4add
from spooftrace.data_scripts.parsers.fakeavceleb import extract_audio
from spooftrace.data_scripts.rows import Row
from spooftrace.data_scripts.video_audio import command


pytestmark = pytest.mark.filterwarnings("ignore:codecfake .* has other numbers of trials:UserWarning")


def problems(name, root, **options):
    """Problems of a corpus that is refused, as (line, message)."""
    with pytest.raises(ProtocolError) as caught:
        get_corpus(name).read(root, **options)
    return [tuple(problem) for problem in caught.value.problems]


# In-the-Wild.


def test_in_the_wild_maps_the_hyphen_and_keeps_names_with_blanks_and_commas(tmp_path):
    folder = write_in_the_wild(tmp_path)
    corpus = get_corpus("in-the-wild")
    rows = corpus.read(tmp_path)["test"]
    assert [(row.utterance_id, row.label, row.speaker_id, row.vq) for row in rows] == [
        ("0", "spoof", "Alec Guinness", None),
        ("1", "bonafide", "King, Jr.", "bonafide"),
        ("2", "bonafide", None, "bonafide"),
    ]
    assert rows[0].audio == str(folder / "0.wav")
    assert corpus.read(folder)["test"] == rows


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3.wav,A B,bonafide", "unknown label 'bonafide': write 'bona-fide' or 'spoof'"),
        ("3.wav,A B,fake", "unknown label 'fake'"),
        ("1.wav,A B,spoof", "utterance id '1' is already in line 3"),
        ("x/3.wav,A B,spoof", "file 'x/3.wav' is in another folder"),
        ("3.wav,King, Jr.,spoof", "4 fields, expected 3 (file, speaker, label)"),
        (",A B,spoof", "utterance id '' is empty"),
    ],
)
def test_in_the_wild_refuses_a_bad_line(tmp_path, line, message):
    write_in_the_wild(tmp_path)
    write_protocol(tmp_path / "release_in_the_wild/meta.csv", [*IN_THE_WILD, line])
    ((number, text),) = problems("in-the-wild", tmp_path, missing_audio="ignore")
    assert number == 5
    assert text.startswith(message)


def test_in_the_wild_refuses_another_file_of_that_name(tmp_path):
    write_protocol(tmp_path / "meta.csv", ["name;label", "0.wav;spoof"])
    messages = [text for _, text in problems("in-the-wild", tmp_path)]
    assert messages[0].startswith("no column 'file'")
    write_protocol(tmp_path / "meta.csv", IN_THE_WILD[:1])
    assert problems("in-the-wild", tmp_path)[0][1].startswith("no trial in it")


def test_in_the_wild_tells_where_to_get_it(tmp_path):
    with pytest.raises(CorpusNotFoundError, match="mueller91/In-The-Wild"):
        load_corpus("in-the-wild", tmp_path)


def test_the_published_numbers_are_counted(tmp_path):
    lines = [f"{number}.wav,x,{'bona-fide' if number < 19_963 else 'spoof'}" for number in range(31_779)]
    write_protocol(tmp_path / "meta.csv", [IN_THE_WILD[0], *lines])
    corpus = get_corpus("in-the-wild")
    (found,) = count(corpus, "default", corpus.read(tmp_path, missing_audio="ignore"))
    assert found.matches and found.found == Totals(19_963, 11_816)


# FakeAVCeleb.


def test_fakeavceleb_is_labelled_by_its_audio(tmp_path):
    folder = write_fakeavceleb(tmp_path)
    rows = get_corpus("fakeavceleb").read(folder)["test"]
    assert [(row.subset, row.label, row.attack_id) for row in rows] == [
        ("RealVideo-RealAudio", "bonafide", None),
        ("RealVideo-RealAudio", "bonafide", None),
        ("RealVideo-FakeAudio", "spoof", "rtvc"),
        ("FakeVideo-RealAudio", "bonafide", None),
        ("FakeVideo-FakeAudio", "spoof", "rtvc"),
    ]
    assert rows[1].utterance_id == "RealVideo-RealAudio/Asian%20(East)/women/id00166/00010"
    assert rows[1].audio == f"{folder}/FakeAVCeleb-audio/RealVideo-RealAudio/Asian (East)/women/id00166/00010.flac"
    assert rows[4].extra["method"] == "wav2lip"
    assert (rows[4].extra["target1"], rows[0].extra["target1"]) == ("id00476", None)
    unique = get_corpus("fakeavceleb").read(tmp_path, "audio_unique")["test"]
    assert unique == [rows[0], rows[1], rows[2], rows[4]]


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        (FAKEAVCELEB_HEADER, lambda row, folder: [*row, f"FakeAVCeleb/{folder}"]),
        (FAKEAVCELEB_HEADER.replace("path,", "filename,path"), lambda row, folder: [*row, f"FakeAVCeleb/{folder}"]),
        (
            FAKEAVCELEB_HEADER.replace("path,", "filename,path,"),
            lambda row, folder: [*row, f"FakeAVCeleb_v1.2/{folder}/", ""],
        ),
        (FAKEAVCELEB_HEADER.replace("path,", "filename"), lambda row, folder: row),
        (FAKEAVCELEB_HEADER[:-1], lambda row, folder: [*row[:8], f"FakeAVCeleb/{folder}/{row[8]}"]),
    ],
    ids=["official", "renamed", "another empty one", "no folder", "whole path"],
)
def test_fakeavceleb_reads_every_header_in_circulation(tmp_path, header, cells):
    folder = write_fakeavceleb(tmp_path, ".wav")
    expected = get_corpus("fakeavceleb").read(folder)
    lines = [",".join(cells(row, "/".join([*row[5:8], row[0]]))) for row in FAKEAVCELEB]
    write_protocol(folder / "meta_data.csv", [header, *lines])
    assert get_corpus("fakeavceleb").read(folder) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("id1,-,-,real,A,RealVideo,African,men,1.mp4,", "unknown label 'RealVideo'"),
        ("id1,-,-,real,A,RealVideo-RealAudio,African,men,1.wav,", "0 names ending in .mp4, expected 1"),
        (
            "id1,-,-,real,A,RealVideo-RealAudio,African,men,1.mp4,FakeAVCeleb/FakeVideo-FakeAudio/x",
            "folder 'FakeVideo",
        ),
        ("id1,-,-,real,A,RealVideo-RealAudio,../..,men,1.mp4,", "path 'RealVideo-RealAudio/../../men/id1/1.mp4'"),
        ("id1,-,-,real", "4 fields, expected at least"),
        (
            "id00076,-,-,real,A,RealVideo-RealAudio,African,men,00109.mp4,",
            "utterance id 'RealVideo-RealAudio/African/men/id00076/00109' is already in line 2",
        ),
    ],
)
def test_fakeavceleb_refuses_a_bad_line(tmp_path, line, message):
    path = write_fakeavceleb(tmp_path) / "meta_data.csv"
    path.write_text(path.read_text() + line + "\n")
    ((number, text),) = problems("fakeavceleb", tmp_path, missing_audio="ignore")
    assert number == 7
    assert text.startswith(message)


def test_the_published_numbers_of_fakeavceleb_are_counted_for_both_configurations(tmp_path):
    numbers = {
        "RealVideo-RealAudio": 500,
        "FakeVideo-RealAudio": 9_709,
        "RealVideo-FakeAudio": 500,
        "FakeVideo-FakeAudio": 10_835,
    }
    lines = [
        f"id1,-,-,x,A,{kind},African,men,{number}.mp4,FakeAVCeleb/{kind}/African/men/id1"
        for kind, total in numbers.items()
        for number in range(total)
    ]
    write_protocol(tmp_path / "meta_data.csv", [FAKEAVCELEB_HEADER, *lines])
    corpus = get_corpus("fakeavceleb")
    for config, expected in (("audio_all", Totals(10_209, 11_335)), ("audio_unique", Totals(500, 11_335))):
        (found,) = count(corpus, config, corpus.read(tmp_path, config, missing_audio="ignore"))
        assert found == ("test", expected, expected)


def test_fakeavceleb_refuses_another_file_of_that_name(tmp_path):
    write_protocol(tmp_path / "meta_data.csv", ["file,label", "1.mp4,real"])
    ((_, message),) = problems("fakeavceleb", tmp_path)
    assert message.startswith("no column source, method, type, race, gender")


def test_fakeavceleb_without_its_audio_tells_how_to_extract_it(tmp_path):
    write_fakeavceleb(tmp_path, "")
    with pytest.raises(
        ProtocolError, match=r"5 of 5 clips have no audio file(.|\n)*spooftrace corpus extract-audio fakeavceleb"
    ):
        get_corpus("fakeavceleb").read(tmp_path)


def test_fakeavceleb_is_never_published():
    assert get_corpus("fakeavceleb").redistribution == "refused"


FFMPEG = """#!{python}
import sys, time
from pathlib import Path
arguments = sys.argv[1:]
source, target = (next(a[5:] for a in arguments if a.startswith("file:") and a.endswith(end)) for end in (".mp4", ".part"))
text = Path(source).read_text()
with open({log!r}, "a") as log:
    log.write(repr(arguments) + "\\n")
if "wait" in text:
    time.sleep(60)
Path(target).write_bytes(b"half" if "fail" in text else open({clip!r}, "rb").read())
if "fail" in text:
    sys.exit("no audio track in " + source)
"""


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A stand-in on the PATH that writes a FLAC and a log of its arguments; what the video says makes it fail or wait."""
    (tmp_path / "clip.flac").write_bytes(encoded_clip())
    program = tmp_path / "bin/ffmpeg"
    script = FFMPEG.format(python=sys.executable, log=str(tmp_path / "log"), clip=str(tmp_path / "clip.flac"))
    write_protocol(program, [script])
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    return tmp_path / "log"


def test_the_audio_of_videos_is_written_once_and_read_as_the_corpus(tmp_path, ffmpeg):
    folder = write_fakeavceleb(tmp_path, "")
    assert extract_audio(folder, progress=False) == (5, 0, {})
    rows = get_corpus("fakeavceleb").read(folder)["test"]
    assert [len(load_audio(row.audio)) for row in rows] == [800] * 5
    assert extract_audio(tmp_path, progress=False) == (0, 5, {})
    Path(rows[2].audio).unlink()
    assert extract_audio(folder, progress=False) == (1, 4, {})
    assert len(ffmpeg.read_text().splitlines()) == 6


def test_audio_that_is_not_wanted_is_not_written(tmp_path, ffmpeg, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = write_fakeavceleb(tmp_path, "")
    assert extract_audio(folder, "~/out", config="audio_unique", progress=False) == (4, 0, {})
    assert len(list((tmp_path / "home/out").rglob("*.flac"))) == 4
    assert extract_audio(folder, config="audio_unique", progress=False) == (4, 0, {})
    with pytest.raises(ValueError, match="fakeavceleb has no configuration 'x'"):
        extract_audio(folder, config="x")


def test_a_video_that_fails_leaves_no_half_file_and_stops_no_other(tmp_path, ffmpeg):
    folder = write_fakeavceleb(tmp_path, "")
    videos = sorted(folder.rglob("*.mp4"))
    videos[0].write_text("fail")
    videos[1].unlink()
    (tmp_path / "clip.flac").write_bytes(b"no audio")
    found = extract_audio(folder, tmp_path / "out", progress=False)
    assert (found.written, found.kept, len(found.failed)) == (0, 0, 5)
    assert found.failed[videos[0]] == f"ffmpeg ended with 1: no audio track in {videos[0]}"
    assert found.failed[videos[1]] == "the video is not there"
    assert found.failed[videos[2]].startswith("ffmpeg wrote no audio")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_video_that_takes_too_long_is_given_up(tmp_path, ffmpeg):
    from spooftrace.data_scripts.video_audio import extract_one, find_ffmpeg

    video = write_protocol(tmp_path / "a.mp4", ["wait"])
    assert extract_one(find_ffmpeg(), video, tmp_path / "a.flac", timeout=0.5) == "ffmpeg took longer than 0.5 s"
    assert not (tmp_path / "a.flac").exists()


def test_ffmpeg_is_called_without_a_shell_on_files_alone(tmp_path, ffmpeg):
    folder = write_fakeavceleb(tmp_path, "")
    extract_audio(folder, progress=False, workers=1)
    arguments = eval(ffmpeg.read_text().splitlines()[0])
    video = f"{folder}/RealVideo-RealAudio/African/men/id00076/00109.mp4"
    assert arguments[arguments.index("-i") + 1] == f"file:{video}"
    for option in (["-nostdin"], ["-protocol_whitelist", "file,pipe"], ["-f", "mov"]):
        at = arguments.index(option[0])
        assert arguments[at : at + len(option)] == option
        assert at < arguments.index("-i")
    after = arguments[arguments.index("-i") :]
    for option in (["-ac", "1"], ["-ar", "16000"], ["-c:a", "flac"], ["-map", "0:a:0"]):
        at = after.index(option[0])
        assert after[at : at + 2] == option


def test_without_ffmpeg_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no ffmpeg on the PATH(.|\n)*apt install ffmpeg"):
        extract_audio(write_fakeavceleb(tmp_path, ""), progress=False)
    with pytest.raises(FileNotFoundError, match=r"no program at '/nowhere/ffmpeg'"):
        extract_audio(tmp_path, ffmpeg="/nowhere/ffmpeg", progress=False)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
def test_a_real_ffmpeg_takes_the_call(tmp_path):
    video = tmp_path / "-a video.mp4"
    tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100", "-t", "1", "-ac", "2", "-c:a", "aac"]
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", *tone, f"file:{video}"], check=True)
    subprocess.run(command("ffmpeg", video, tmp_path / "a.part"), check=True, stdin=subprocess.DEVNULL)
    assert load_audio((tmp_path / "a.part").read_bytes()).shape == (16_000,)


# CodecFake.


def test_codecfake_keeps_the_audio_and_names_the_codec(tmp_path):
    write_codecfake(tmp_path)
    found = load_corpus("codecfake", tmp_path, split="train", cache_dir=tmp_path / "cache")
    assert found["utterance_id"][:] == [
        "genuine+p225_001",
        "encodec_24khz+p225_001",
        "genuine+p226_001",
        "SpeechTokenizer+p227_001",
        "a-new-codec+p227_001",
    ]
    assert found["label"][:] == [0, 1, 0, 1, 1]
    assert (
        found["codec"][:] == found["attack_id"][:] == [None, "encodec_24khz", None, "SpeechTokenizer", "a-new-codec"]
    )
    classes = [tuple(row[name] for name in ("vq", "aux", "dec")) for row in found.remove_columns("audio")]
    assert classes == [(0, 0, 0), (1, 1, 1), (0, 0, 0), (1, 2, 1), (None, None, None)]
    assert [row["audio"] for row in found] == [
        {"bytes": encoded_clip(seed), "path": os.path.basename(row[0])} for seed, row in enumerate(CODECFAKE)
    ]
    assert load_audio(found[3]["audio"]["bytes"]).shape == (800,)


def test_codecfake_can_be_divided_by_speaker_as_its_authors_do(tmp_path):
    write_codecfake(tmp_path)
    found = load_corpus("codecfake", tmp_path, config="speakers", cache_dir=tmp_path / "cache")
    assert {split: rows["speaker_id"][:] for split, rows in found.items()} == {
        "train": ["p225", "p225"],
        "validation": ["p226"],
        "test": ["p227", "p227"],
    }
    assert [row["bytes"] for row in found["test"]["audio"]] == [encoded_clip(3), encoded_clip(4)]
    read = get_corpus("codecfake").read(tmp_path, "speakers")
    assert {split: [row.utterance_id for row in rows] for split, rows in read.items()} == {
        split: rows["utterance_id"][:] for split, rows in found.items()
    }


def test_codecfake_streams_and_builds_in_several_processes(tmp_path):
    write_codecfake(tmp_path, CODECFAKE[:3], "00000-of-00002")
    write_codecfake(tmp_path, CODECFAKE[3:], "00001-of-00002")
    built = load_corpus("codecfake", tmp_path, split="train", cache_dir=tmp_path / "cache", num_proc=2)
    stream = load_corpus("codecfake", tmp_path, split="train", streaming=True)
    assert stream.num_shards == 3
    assert list(stream) == list(built)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x.wav", "fake", "p225", "encodec_24khz"), "unknown label 'fake'"),
        (("x.wav", "genuine", "p225", "encodec_24khz"), "codec_name 'encodec_24khz' with label 'genuine'"),
        (("x.wav", "spoofing", "p225", "genuine"), "codec_name 'genuine' with label 'spoofing'"),
        ((None, "genuine", "p225", "genuine"), "no audio.path or codec_name"),
        (CODECFAKE[1], "utterance id 'encodec_24khz+p225_001' is there twice"),
    ],
)
def test_codecfake_refuses_a_bad_row(tmp_path, row, message):
    write_codecfake(tmp_path, [*CODECFAKE, row])
    ((number, text),) = problems("codecfake", tmp_path)
    assert (number, text.startswith(message)) == (6, True), text


def test_bad_rows_are_reported_while_building_too(tmp_path):
    write_codecfake(tmp_path, [*CODECFAKE, ("x.wav", "fake", "p225", "encodec_24khz")])
    with pytest.raises(ProtocolError, match="line 6: unknown label 'fake'"):
        load_corpus("codecfake", tmp_path, cache_dir=tmp_path / "cache")


def test_parquet_without_audio_is_refused(tmp_path):
    path = write_codecfake(tmp_path)
    audio = audio_column(["p225_001.wav", "p225_002.wav"]).to_pylist()
    audio[1]["bytes"] = None
    columns = {"label": ["genuine"] * 2, "speaker_id": ["p225"] * 2, "codec_name": ["genuine"] * 2}
    write_parquet(path, {"audio": audio, **columns})
    with pytest.raises(ProtocolError, match="line 2: no audio"):
        load_corpus("codecfake", tmp_path, cache_dir=tmp_path / "cache")
    write_parquet(path, columns)
    with pytest.raises(ProtocolError, match="no column 'audio', only label, speaker_id, codec_name"):
        load_corpus("codecfake", tmp_path)
    write_parquet(path, {"audio": ["a.wav", "b.wav"], **columns})
    with pytest.raises(ProtocolError, match="column 'audio' is string, expected bytes and path"):
        load_corpus("codecfake", tmp_path)


def test_a_cut_parquet_file_is_named(tmp_path):
    path = write_codecfake(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ProtocolError, match=r"train-00000-of-00001.parquet(.|\n)*not a whole parquet file"):
        load_corpus("codecfake", tmp_path)
    path.write_bytes(b"PAR1" + bytes(1000) + whole[1004:])
    with pytest.raises(ProtocolError, match="not a whole parquet file"):
        load_corpus("codecfake", tmp_path, cache_dir=tmp_path / "cache")


def test_a_replaced_parquet_file_is_read_anew(tmp_path):
    write_codecfake(tmp_path)
    assert len(load_corpus("codecfake", tmp_path, split="train", cache_dir=tmp_path / "cache")) == 5
    write_codecfake(tmp_path, CODECFAKE[:2])
    assert len(load_corpus("codecfake", tmp_path, split="train", cache_dir=tmp_path / "cache")) == 2


# The Arena.


def test_an_arena_test_set_keeps_its_ids_and_notes(tmp_path):
    folder = tmp_path / "InTheWild"
    write_arena(folder)
    found = load_corpus("arena", folder, cache_dir=tmp_path / "cache")
    assert set(found) == {"test"}
    rows = list(found["test"])
    assert [
        (row["utterance_id"], row["label"], row["speaker_id"], row["attack_id"], row["codec"]) for row in rows
    ] == [
        ("ITW_0", 1, "Alec Guinness", None, None),
        ("ITW_1", 0, "A B", None, None),
        ("LA_2", 1, "LA_9", "A07", "alaw"),
        ("LA_3", 0, None, None, None),
    ]
    assert [row["path"] for row in rows] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert [json.loads(row["notes"]) for row in rows] == [notes for *_, notes in ARENA]
    assert {row["subset"] for row in rows} == {"InTheWild"}
    assert rows[0]["audio"] == {"bytes": encoded_clip(0), "path": "0.wav"}
    assert list(load_corpus("arena", folder, split="test", streaming=True)) == rows


def test_a_folder_of_the_hubs_cache_gives_the_data_sets_name(tmp_path):
    folder = tmp_path / "datasets--SpeechAntiSpoofingBenchmarks--DFADD/snapshots/0123abc"
    write_arena(folder)
    assert {row.subset for row in get_corpus("arena").read(folder)["test"]} == {"DFADD"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x.wav", 2, {"utterance_id": "x"}), "unknown label '2'"),
        (("x.wav", -1, {"utterance_id": "x"}), "unknown label '-1'"),
        (("x.wav", None, {"utterance_id": "x"}), "unknown label 'None'"),
        (("x.wav", 0, {"id": "x"}), "utterance id '' is empty"),
        (("x.wav", 0, {"utterance_id": "a b"}), "utterance id 'a b' is empty or holds white space"),
        (("x.wav", 0, {"utterance_id": "ITW_0"}), "utterance id 'ITW_0' is already in line 1"),
        (("x.wav", 0, ["x"]), "notes '[\"x\"]' are no object"),
        (("x.wav", 0, "{x}"), "notes '{x}' are not JSON"),
    ],
)
def test_an_arena_test_set_with_a_bad_row_is_refused(tmp_path, row, message):
    write_arena(tmp_path, [*ARENA, row])
    found = problems("arena", tmp_path)
    assert found[0][0] == 5
    assert found[0][1].startswith(message)


def test_labels_follow_the_names_in_the_file(tmp_path):
    path = write_arena(tmp_path)
    columns = {"path": ["0.wav"], "audio": audio_column(["0.wav"]), "notes": ['{"utterance_id": "u"}']}
    write_parquet(path, {**columns, "label": [0]}, {"label": {"names": ["spoof", "bonafide"]}})
    assert [row.label for row in get_corpus("arena").read(tmp_path)["test"]] == ["spoof"]
    write_parquet(path, {**columns, "label": ["bonafide"]})
    assert [row.label for row in get_corpus("arena").read(tmp_path)["test"]] == ["bonafide"]
    write_parquet(path, {**columns, "label": [0]}, {"label": {"names": ["real", "fake"]}})
    assert problems("arena", tmp_path)[0][1].startswith("unknown label 'real'")


def test_other_columns_are_reported_and_left_out(tmp_path):
    write_arena(tmp_path, snr=[1.0, 2.0, 3.0, 4.0])
    with pytest.warns(UserWarning, match="columns snr are not read"):
        found = load_corpus("arena", tmp_path, split="test", cache_dir=tmp_path / "cache")
    assert "snr" not in found.column_names


def test_a_folder_without_parquet_says_how_to_get_it(tmp_path):
    with pytest.raises(CorpusNotFoundError, match=r"no parquet file in (.|\n)*hf download SpeechAntiSpoofing"):
        load_corpus("arena", tmp_path)


def test_a_test_set_is_read_from_the_hub_without_downloading_it(tmp_path, hub):
    """In a process of its own, since the Hub's address is read once."""
    write_arena(tmp_path / "local")
    files = {
        str(path.relative_to(tmp_path / "local")): path.read_bytes()
        for path in (tmp_path / "local").rglob("*.parquet")
    }
    hub.seed("SpeechAntiSpoofingBenchmarks/InTheWild", files, kind="dataset")
    program = """
import sys
from spooftrace.data_scripts import load_corpus
options = dict(data_dir=None, split="test", repo="SpeechAntiSpoofingBenchmarks/InTheWild")
stream = list(load_corpus("arena", streaming=True, **options))
assert stream == list(load_corpus("arena", **options))
print([(row["utterance_id"], row["subset"], len(row["audio"]["bytes"])) for row in stream])
from spooftrace.data_scripts import build_corpus
build = build_corpus("arena", ".", sys.argv[1], metadata_only=True, options={"repo": options["repo"]})
assert build.rows == len(stream)
"""
    env = {**os.environ, **hub.env(home=tmp_path / "home")}
    done = warm_python.run("-c", program, tmp_path / "out", env=env, check=True)
    assert eval(done.stdout) == [
        (notes["utterance_id"], "InTheWild", len(encoded_clip(seed))) for seed, (*_, notes) in enumerate(ARENA)
    ]


# ALLM4ADD's lists.


def question(audio, answer="Fake.", prompt="Is this audio real or fake?"):
    user = {"role": "user", "audio": audio, "content": prompt}
    return json.dumps({"messages": [user, {"role": "assistant", "content": answer}]})


def test_allm4add_lists_are_read_where_the_authors_have_them(tmp_path):
    clip = write_clip(tmp_path / "wav/LA_T_1.wav")
    write_protocol(
        tmp_path / "data/asv_fake_audio.jsonl", [question(str(clip)), question("/gone/LA_T_2.wav", "Real.")]
    )
    write_protocol(tmp_path / "data/asv_test_fake_audio.jsonl", [question("/gone/LA_E_1.wav")])
    splits = get_corpus("allm4add").read(tmp_path, missing_audio="ignore")
    assert {split: [(row.utterance_id, row.label, row.audio) for row in rows] for split, rows in splits.items()} == {
        "train": [("LA_T_1", "spoof", str(clip)), ("LA_T_2", "bonafide", None)],
        "test": [("LA_E_1", "spoof", None)],
    }
    assert splits["train"][0].extra == {"prompt": "Is this audio real or fake?"}


def test_allm4add_finds_clips_by_name_in_a_folder(tmp_path):
    write_clip(tmp_path / "flac/LA_T_1.flac")
    path = write_protocol(tmp_path / "x.jsonl", [question("/data3/LA/train/wav/LA_T_1.wav")])
    found = load_corpus(
        "allm4add", path, split="train", cache_dir=tmp_path / "cache", audio_dir=str(tmp_path / "flac")
    )
    assert found[0]["audio"]["path"] == str(tmp_path / "flac/LA_T_1.flac")
    with pytest.raises(CorpusNotFoundError, match="audio_dir '/nowhere' is not a folder"):
        get_corpus("allm4add").read(path, audio_dir="/nowhere")


def test_allm4add_ids_are_whole_paths_where_names_repeat(tmp_path):
    path = write_protocol(
        tmp_path / "x.jsonl", [question("/a/1.wav"), question("C:\\b c\\1.wav"), question("/a/2.wav")]
    )
    assert [row.utterance_id for row in read_allm4add(path)] == ["a/1", "C:/b%20c/1", "2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a question with audio and its answer"),
        ("[1]", "not a question"),
        ('{"messages": []}', "not a question"),
        (json.dumps({"messages": [*json.loads(question("/a/9.wav"))["messages"], {}]}), "not a question"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Fake."}]}',
            "not a question",
        ),
        (question("/a/9.wav").replace('"user"', '"system"'), "roles ['system', 'assistant']"),
        (question("/a/9.wav", "Fake"), "unknown label 'Fake': write 'Real.' or 'Fake.'"),
        (question(""), "not a question"),
        (question("/a/1.wav"), "utterance id '1' is already in line 1"),
    ],
)
def test_allm4add_refuses_a_bad_line(tmp_path, line, message):
    path = write_protocol(tmp_path / "x.jsonl", [question("/a/1.wav"), line])
    ((number, text),) = problems("allm4add", path, missing_audio="ignore")
    assert number == 2
    assert text.startswith(message), text


def test_any_corpus_is_written_as_an_allm4add_list_and_read_back(tmp_path):
    write_in_the_wild(tmp_path)
    rows = get_corpus("in-the-wild").read(tmp_path)["test"]
    assert write_allm4add(rows, tmp_path / "x.jsonl", prompt="Réal?") == 3
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == json.loads(question(rows[0].audio, "Fake.", "Réal?"))
    found = read_allm4add(tmp_path / "x.jsonl")
    assert [row[:4] for row in found] == [row._replace(corpus="allm4add")[:4] for row in rows]
    assert Counter(row.extra["prompt"] for row in found) == {"Réal?": 3}
    before = (tmp_path / "x.jsonl").read_bytes()
    write_allm4add(found, tmp_path / "x.jsonl", prompt="Réal?")
    assert (tmp_path / "x.jsonl").read_bytes() == before


def test_a_list_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = write_protocol(tmp_path / "x.jsonl", ["old"])
    rows = [Row("a", "spoof", "x", "/a.wav"), Row("b", None, "x", "/b.wav"), Row("c", "spoof", "x")]
    with pytest.raises(ProtocolError, match=r"line 2: 'b' has no label(.|\n)*line 3: 'c' has no clip"):
        write_allm4add(rows, path)
    with pytest.raises(UnicodeEncodeError):
        write_allm4add([Row("a", "spoof", "x", "/\ud800.wav")], path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.jsonl"]
    assert path.read_text() == "old\n"
