"""Your own data: CSV, TSV, JSON Lines and folders, good and bad."""

import csv
import json
import os
import re
from urllib.parse import unquote

import pytest
from corpus_trees import write_clip
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spooftrace.data_scripts import CorpusNotFoundError, ProtocolError, get_corpus, load_corpus
from spooftrace.data_scripts.parsers.own import read_manifest
from spooftrace.data_scripts.terms import RedistributionError, check_redistribution, describe_own


CLIPS = ("clips/1.wav", "clips/2.wav", "clips/a b.flac")


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(CLIPS):
        write_clip(tmp_path / name, seed=seed)
    return tmp_path


def table(folder, text, name="own.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def complaints(path, **options):
    """Problems of a table that is refused, as (line, message)."""
    with pytest.raises(ProtocolError) as caught:
        read_manifest(path, **options)
    return [tuple(problem) for problem in caught.value.problems]


# What is accepted.


def test_two_columns_are_enough(folder):
    rows = read_manifest(table(folder, "audio,label\nclips/1.wav,bonafide\nclips/a b.flac,spoof\n"))
    assert [row.utterance_id for row in rows] == ["clips/1", "clips/a%20b"]
    assert [row.label for row in rows] == ["bonafide", "spoof"]
    assert [row.audio for row in rows] == [str(folder / "clips/1.wav"), str(folder / "clips/a b.flac")]
    assert [row.vq for row in rows] == ["bonafide", None]
    assert all(row.corpus == "own" and row.attack_id is None for row in rows)


def test_all_columns_arrive_and_empty_cells_are_null(folder):
    header = "utterance_id,audio,label,split,speaker_id,attack_id,codec,vq,aux,dec,subset,corpus,room,=1+1"
    first = 'u1,clips/1.wav,bonafide,train,"Doe, Jo ""J""",,opus,,,,part,radio,kitchen,=2+2'
    second = "u2,clips/2.wav,spoof,train,-,xtts,,mvq,none,time,,,,"
    one, two = read_manifest(table(folder, f"{header}\n{first}\n{second}\n"))
    assert (one.utterance_id, one.speaker_id, one.codec, one.subset, one.corpus) == (
        "u1",
        'Doe, Jo "J"',
        "opus",
        "part",
        "radio",
    )
    assert one.extra == {"room": "kitchen", "=1+1": "=2+2"}  # text, never a formula
    assert (two.attack_id, two.vq, two.aux, two.dec) == ("xtts", "mvq", "none", "time")
    assert (two.speaker_id, two.codec, two.subset, two.corpus) == (None, None, "train", "own")
    assert two.extra == {"room": None, "=1+1": None}


@pytest.mark.parametrize("column", ["audio", "file", "file_name", "path"])
def test_the_clip_may_be_in_a_column_of_another_usual_name(folder, column):
    (row,) = read_manifest(table(folder, f"{column},label\nclips/1.wav,spoof\n"))
    assert row.audio == str(folder / "clips/1.wav")
    assert row.extra == {}


def test_audio_comes_before_other_names_of_it(folder):
    (row,) = read_manifest(table(folder, "path,audio,label\nelsewhere,clips/1.wav,spoof\n"))
    assert row.audio == str(folder / "clips/1.wav")
    assert row.extra == {"path": "elsewhere"}


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffaudio,label\r\nclips/1.wav,bonafide\r\nclips/2.wav,spoof\r\n",
        "audio,label\n\nclips/1.wav,bonafide\n   \n,\nclips/2.wav,spoof",
        ' audio , label \nclips/1.wav, bonafide\nclips/2.wav,"spoof"\n',
    ],
    ids=["byte order mark and Windows line ends", "blank lines", "white space and quotes"],
)
def test_what_editors_and_spreadsheets_leave_is_no_matter(folder, text):
    assert [row.label for row in read_manifest(table(folder, text))] == ["bonafide", "spoof"]


def test_tsv_and_json_lines_read_as_csv_does(folder):
    rows = read_manifest(table(folder, "audio,label,room\nclips/1.wav,bonafide,\nclips/2.wav,spoof,3\n"))
    lines = [
        {"audio": "clips/1.wav", "label": "bonafide", "room": None},
        {"audio": "clips/2.wav", "label": "spoof", "room": 3},
    ]
    text = "\n\n".join(map(json.dumps, lines))
    apart = [row._replace(line=2 * number + 1) for number, row in enumerate(rows)]
    assert read_manifest(table(folder, text, "own.jsonl")) == apart
    assert read_manifest(table(folder, "\ufeff" + text + "\r\n", "own.ndjson")) == apart
    text = "audio\tlabel\troom\nclips/1.wav\tbonafide\t\nclips/2.wav\tspoof\t3\n"
    assert read_manifest(table(folder, text, "own.TSV")) == rows


def test_labels_are_mapped_only_when_told_how(folder):
    path = table(folder, "audio,label\nclips/1.wav,real\nclips/2.wav,spoof\n")
    assert [row.label for row in read_manifest(path, labels={"real": "bonafide"})] == ["bonafide", "spoof"]
    with pytest.raises(ValueError, match=r"labels maps to \['genuine'\]; it maps to 'bonafide' or 'spoof'"):
        read_manifest(path, labels={"real": "genuine"})


def test_splits_have_the_names_of_the_hub_and_subsets_their_own(folder):
    path = table(folder, "audio,label,split\nclips/1.wav,bonafide,dev\nclips/2.wav,spoof,eval\n")
    splits = get_corpus("own").read(path)
    assert {split: [row.subset for row in rows] for split, rows in splits.items()} == {
        "validation": ["dev"],
        "test": ["eval"],
    }
    assert [row.utterance_id for row in read_manifest(path, split="test")] == ["clips/2"]
    with pytest.raises(ValueError, match="no split 'train'; it has validation, test"):
        read_manifest(path, split="train")


def test_ids_keep_the_ending_where_it_alone_tells_clips_apart(folder):
    for name in ("clips/1.flac", "clips/3.flac.wav", "clips/3.flac"):
        write_clip(folder / name)
    text = "audio,label\nclips/1.wav,spoof\nclips/1.flac,spoof\nclips/2.wav,spoof\nclips/3.flac.wav,spoof\nclips/3.flac,spoof\n"
    ids = [row.utterance_id for row in read_manifest(table(folder, text))]
    assert ids == ["clips/1.wav", "clips/1.flac", "clips/2", "clips/3.flac.wav", "clips/3"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), unique=True))
def test_ids_from_paths_are_unique_without_blanks_and_can_be_undone(tmp_path_factory, names):
    names = [name for name in names if name.strip() and name not in (".", "..") and not set(name) & set("/\\:.")]
    folder = tmp_path_factory.mktemp("own")
    with open(folder / "own.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["audio", "label"], ["x", "spoof"], *([f"d/{name}", "spoof"] for name in names)])
    rows = read_manifest(folder / "own.csv", require_audio=False)
    assert [unquote(row.utterance_id) for row in rows] == ["x", *(f"d/{name}" for name in names)]
    assert not any(re.search(r"\s", row.utterance_id) for row in rows)


def test_a_list_to_score_needs_no_labels_and_a_key_no_clips(folder):
    (row,) = read_manifest(table(folder, "audio\nclips/1.wav\n"), require_labels=False)
    assert (row.label, row.vq) == (None, None)
    (row,) = read_manifest(table(folder, "utterance_id,label\nu1,spoof\n"), require_audio=False)
    assert (row.utterance_id, row.label, row.audio) == ("u1", "spoof", None)
    rows = read_manifest(table(folder, "audio,label\nclips/1.wav,spoof\ngone.wav,spoof\n"), require_audio=False)
    assert [row.audio for row in rows] == [str(folder / "clips/1.wav"), None]


def test_a_trusted_table_may_point_outside(folder):
    text = f"audio,label\n{folder}/clips/1.wav,bonafide\n../clips/2.wav,spoof\n"
    (folder / "lists").mkdir()
    rows = read_manifest(table(folder / "lists", text), allow_outside=True)
    assert [row.audio for row in rows] == [str(folder / "clips/1.wav"), str(folder / "clips/2.wav")]


# What is refused, all at once and by line.


def test_all_problems_of_a_table_come_at_once_with_their_lines(folder):
    path = table(
        folder,
        "audio,label,split,vq,attack_id\n"
        "clips/1.wav,real,train,,\n"
        "clips/2.wav,real,train,,\n"
        "../clips/1.wav,spoof,train,,\n"
        "/etc/passwd,spoof,train,,\n"
        "gone.wav,spoof,train,,\n"
        "clips/a b.flac,bonafide,train,mvq,A07\n"
        "clips/a b.flac,spoof,train\n"
        "clips/a b.flac,,te st,na,\n"
        ",spoof,,,\n",
    )
    found = complaints(path)
    assert [(line, message.split(":")[0]) for line, message in found] == [
        (2, "unknown label 'real' (in 2 lines)"),
        (4, "audio '../clips/1.wav' is absolute or leaves the table's folder"),
        (5, "audio '/etc/passwd' is absolute or leaves the table's folder"),
        (6, f"no file 'gone.wav' in {folder}"),
        (7, "attack_id 'A07' of genuine speech"),
        (7, "vq 'mvq' of bonafide speech"),
        (8, "3 fields, expected 5 (audio, label, split, vq, attack_id)"),
        (9, "no label"),
        (9, "split 'te st'"),
        (9, "utterance id 'clips/a%20b' is already in line 7"),
        (9, "vq 'na'"),
        (10, "no split"),
        (10, "no audio"),
    ]
    assert "pass labels={'real': ...}" in found[0][1]
    assert "allow_outside=True (--allow-outside)" in found[1][1]


@pytest.mark.parametrize("label", ["bona-fide", "spoofs", "fake", "Bonafide", "0", "genuine"])
def test_no_label_is_guessed(folder, label):
    ((line, message),) = complaints(table(folder, f"audio,label\nclips/1.wav,{label}\n"))
    assert line == 2
    assert message.startswith(f"unknown label {label!r}: write 'bonafide' or 'spoof'")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "nothing in it"),
        ("audio,label\n", 0, "no trial in it"),
        ("audio;label\nclips/1.wav;spoof\n", 1, "columns are divided by ';': divide them by ','"),
        ("audio,label,label\nclips/1.wav,spoof,spoof\n", 1, "column 'label' is there 2 times"),
        ("audio,label,\nclips/1.wav,spoof,\n", 1, "column 3 has no name"),
        ("clip,label\nclips/1.wav,spoof\n", 0, "no column 'audio' with the path of each clip"),
        ("audio,Label\nclips/1.wav,spoof\n", 0, "no column 'label' that says bonafide or spoof"),
        ('audio,label\n"clips/1.wav,spoof\n', 2, "no CSV from here on (unexpected end of data)"),
        ("audio,label\nclips/1.wav,sp\0oof\n", 2, "holds a NUL byte"),
        ("audio,label\nclips/1.wav,spoof\n".encode("utf-16"), 1, "not UTF-8 text"),
        ("audio,label\nclips/\xe9.wav,spoof\n".encode("latin-1"), 2, "not UTF-8 text"),
        ("audio,label\nhttps://example.org/1.wav,spoof\n", 2, "audio 'https://example.org/1.wav' is absolute"),
        ("audio,label\nC:\\clips\\1.wav,spoof\n", 2, "audio 'C:\\\\clips\\\\1.wav' is absolute"),
        ("audio,label\nclips,spoof\n", 2, "no file 'clips'"),
        ("audio,label,split\nclips/1.wav,spoof,all\n", 2, "split 'all'"),
        ("audio,label,split\nclips/1.wav,spoof,Train\n", 2, "split 'Train': write 'train'"),
        ("audio,label,split\nclips/1.wav,spoof,DEV\n", 2, "split 'DEV': write 'dev'"),
        ("audio,label\nclips/1.wav,spoof\n./clips//1.wav,spoof\n", 3, "utterance id 'clips/1' is already in line 2"),
        (
            "utterance_id,audio,label\nu,clips/1.wav,spoof\nv,./clips/1.wav,bonafide\n",
            3,
            "audio './clips/1.wav' is bonafide here but spoof in line 2",
        ),
        ("audio,label,utterance_id\nclips/1.wav,spoof,a b\n", 2, "utterance id 'a b' is empty or holds white space"),
    ],
)
def test_a_bad_table_says_what_and_where(folder, text, line, message):
    found = complaints(table(folder, text))
    assert any(at == line and what.startswith(message) for at, what in found), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('["clips/1.wav", "spoof"]', "list instead of an object"),
        ('{"audio": {"path": "clips/1.wav"}, "label": "spoof"}', "'audio' holds more than one value"),
        ('{"audio": "clips/1.wav", "label": "spoof", "label": "bonafide"}', "not JSON ('label' is there twice)"),
        ('{"audio": "clips/1.wav", "label": "spoof", "snr": NaN}', "not JSON (NaN is no JSON"),
        ('{"audio": "clips/1.wav", "label": "spoof", "room": "\\ud800"}', "not JSON (half of a surrogate pair"),
        ('{"audio": "clips/1\\u0000.wav", "label": "spoof"}', "audio 'clips/1\\x00.wav' is absolute"),
        ("[" * 100_000, "not JSON (nested too deeply)"),
        ('{"label": "spoof"}', "no audio"),
    ],
)
def test_a_bad_json_line_says_what_and_where(folder, text, message):
    good = '{"audio": "clips/2.wav", "label": "spoof"}'
    found = complaints(table(folder, f"{good}\n{text}\n", "own.jsonl"))
    assert any(line == 2 and what.startswith(message) for line, what in found), found


def test_an_unknown_ending_and_a_missing_file_say_what_to_give(folder):
    ((_, message),) = complaints(table(folder, "audio,label\n", "own.xlsx"))
    assert message == "ending '.xlsx' is not known: give one of .csv, .tsv, .jsonl, .ndjson"
    with pytest.raises(CorpusNotFoundError, match=r"no table or folder at .*gone\.csv(.|\n)*audio,label"):
        read_manifest(folder / "gone.csv")


_SCRAPS = st.sampled_from(
    ["audio", "label", "spoof", "bonafide", "a.wav", ",", '"', "\n", "\r\n", "\0", "{", "}", ":", "[", " "]
)


@settings(max_examples=150, deadline=None)
@example(b"{}")
@given(st.one_of(st.lists(_SCRAPS, max_size=30).map("".join).map(str.encode), st.binary(max_size=40)))
def test_whatever_is_in_a_table_it_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    for name in ("own.csv", "own.tsv", "own.jsonl"):
        (folder / name).write_bytes(content)
        try:
            rows = read_manifest(folder / name, require_audio=False)
        except ProtocolError as error:
            assert error.problems
        else:
            assert rows and all(row.utterance_id and row.label for row in rows)


# Folders.


def test_class_folders_give_labels_and_split_folders_splits(tmp_path):
    for name in ("train/bonafide/1.wav", "train/spoof/xtts/1.wav", "dev/bonafide/1.wav", "test/spoof/a b.mp3"):
        write_clip(tmp_path / name)
    splits = get_corpus("own").read(tmp_path)
    assert {split: [(row.utterance_id, row.label, row.subset) for row in rows] for split, rows in splits.items()} == {
        "train": [("train/bonafide/1", "bonafide", "train"), ("train/spoof/xtts/1", "spoof", "train")],
        "validation": [("dev/bonafide/1", "bonafide", "dev")],
        "test": [("test/spoof/a%20b", "spoof", "test")],
    }


def test_a_folder_to_score_is_every_clip_below_it(tmp_path):
    for name in ("bonafide/1.wav", "x/2.flac", "x/2.wav", ".hidden.wav", "x/notes.txt"):
        write_clip(tmp_path / name) if not name.endswith(".txt") else (tmp_path / name).write_text("no audio")
    rows = read_manifest(tmp_path, require_labels=False)
    assert [(row.utterance_id, row.label) for row in rows] == [
        ("bonafide/1", "bonafide"),
        ("x/2.flac", None),
        ("x/2.wav", None),
    ]


def test_class_folders_of_other_names_need_to_be_told(tmp_path):
    write_clip(tmp_path / "real/1.wav")
    with pytest.raises(CorpusNotFoundError, match=r"no folder called bonafide or spoof(.|\n)*labels=\{...\}"):
        read_manifest(tmp_path)
    assert [row.label for row in read_manifest(tmp_path, labels={"real": "bonafide"})] == ["bonafide"]


def test_folders_beside_the_class_folders_are_refused_instead_of_left_out(tmp_path):
    for name in ("bonafide/1.wav", "fake/2.wav", "fake/3.wav", "test/bona-fide/4.wav", "Dev/spoof/5.wav", ".x/6.wav"):
        write_clip(tmp_path / name)
    (tmp_path / "empty").mkdir()
    found = [message for _, message in complaints(tmp_path)]
    assert [message.split(" but")[0] for message in found] == [
        "folder 'Dev' holds 1 clips",
        "folder 'fake' holds 2 clips",
        "folder 'test/bona-fide' holds 1 clips",
    ]
    assert (
        "rename it to bonafide or spoof, or to the split's name in lower case, say what it is with labels={'fake': ...}"
        in found[1]
    )
    assert len(read_manifest(tmp_path, require_labels=False)) == 5


def test_a_folder_is_read_by_the_table_in_it(folder):
    table(folder, "file_name,label\nclips/1.wav,spoof\n", "metadata.csv")
    assert [row.utterance_id for row in read_manifest(folder)] == ["clips/1"]
    table(folder, "{}", "manifest.jsonl")
    ((_, message),) = complaints(folder)
    assert message == "holds metadata.csv, manifest.jsonl: name one of them instead of the folder"


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_file_name_that_is_no_text_is_refused(tmp_path):
    write_clip(tmp_path / "spoof/1.wav").rename(os.fsdecode(os.fsencode(tmp_path) + b"/spoof/\xff.wav"))
    ((_, message),) = complaints(tmp_path)
    assert message.endswith("is not UTF-8: rename it")


# As a data set.


def test_own_data_is_a_data_set_with_the_unified_columns(folder):
    path = table(folder, "audio,label,split,room\nclips/1.wav,bonafide,train,é\nclips/2.wav,spoof,test,\n")
    found = load_corpus("own", path, cache_dir=folder / "cache")
    assert set(found) == {"train", "test"}
    (row,) = found["train"]
    assert row["audio"] == {"bytes": None, "path": str(folder / "clips/1.wav")}
    assert (row["label"], row["vq"], json.loads(row["extra"])) == (0, 0, {"room": "é"})
    (row,) = load_corpus("own", path, split="test", streaming=True)
    assert (row["label"], row["vq"], row["extra"]) == (1, None, None)


def test_an_edited_table_and_a_new_clip_are_seen(folder):
    def ids(**options):
        return load_corpus("own", folder, split="train", cache_dir=folder / "cache", **options)["utterance_id"][:]

    path = table(folder, "audio,label\nclips/1.wav,real\n", "metadata.csv")
    assert ids(labels={"real": "bonafide"}) == ["clips/1"]
    path.write_text("audio,label\nclips/1.wav,spoof\nclips/2.wav,spoof\n")
    assert ids() == ["clips/1", "clips/2"]
    path.unlink()
    (folder / "clips").rename(folder / ".clips")
    write_clip(folder / "spoof/3.wav")
    assert ids() == ["spoof/3"]
    write_clip(folder / "spoof/4.wav")
    assert ids() == ["spoof/3", "spoof/4"]


def test_a_missing_clip_is_an_error_unless_told_otherwise(folder):
    path = table(folder, "audio,label\nclips/1.wav,spoof\ngone.wav,spoof\n")
    with pytest.raises(ProtocolError, match=r"1 of 2 clips have no audio file, such as 'gone' \(train, line 3\)"):
        get_corpus("own").read(path)
    assert len(get_corpus("own").read(path, missing_audio="drop")["train"]) == 1
    assert len(get_corpus("own").read(path, missing_audio="ignore")["train"]) == 2


def test_a_list_to_score_without_any_audio_is_not_asked_for_labels(tmp_path):
    with pytest.raises(CorpusNotFoundError, match="and no audio file below it"):
        read_manifest(tmp_path, require_labels=False)


def test_pushing_your_own_audio_asks_for_its_licence_in_plain_words():
    own = get_corpus("own")
    with pytest.raises(
        RedistributionError, match="of your own data may be passed on: ask .* --license; --metadata-only"
    ):
        check_redistribution(own, metadata_only=False)
    check_redistribution(own, metadata_only=True)
    check_redistribution(describe_own(own, license="cc-by-4.0"), metadata_only=False)
