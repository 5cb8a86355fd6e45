"""Protocol files of doubtful quality: every problem at once, with its line and a remedy; nothing read wrongly."""

import pickle
from urllib.parse import unquote

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from spooftrace.data_scripts.corpus import Corpus, Totals, count
from spooftrace.data_scripts.protocol import (
    SHOWN,
    AudioFolder,
    CorpusNotFoundError,
    Problems,
    ProtocolError,
    escape_id,
    is_inside,
    locate,
    null,
    parse_lines,
    read_fields,
)
from spooftrace.data_scripts.registry import corpora, get_corpus
from spooftrace.data_scripts.rows import COLUMNS, Row, codec_attributes, to_columns


LABELS = {"bonafide": "bonafide", "spoof": "spoof"}


def parse(problems, line, fields):
    fine = problems.check_id(line, fields[0])
    label = problems.label(line, fields[1], LABELS)
    return Row(fields[0], label, "toy") if fine and label else None


def test_all_problems_of_a_file_come_at_once_with_their_lines(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a bonafide\nb spoofs\n\na spoof\nc\nd spoof extra\n")
    with pytest.raises(ProtocolError) as caught:
        parse_lines(path, parse, [2], "id, label")
    assert [problem.line for problem in caught.value.problems] == [2, 4, 5, 6]
    text = str(caught.value)
    assert str(path) in text and "4 problems" in text
    assert "'spoofs'" in text and "'bonafide' or 'spoof'" in text
    assert "already in line 1" in text and "1 fields, expected 2 (id, label)" in text


def test_a_long_list_of_problems_is_cut_and_counted(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"u{i} fake\n" for i in range(100)))
    with pytest.raises(ProtocolError) as caught:
        parse_lines(path, parse, [2], "id, label")
    assert len(caught.value.problems) == 100
    assert f"and {100 - SHOWN} more" in str(caught.value) and len(str(caught.value).splitlines()) == SHOWN + 2


@pytest.mark.parametrize("content", [b"", b"\n \n\xef\xbb\xbf"[:2], b"\xff\xfea\x00"])
def test_an_empty_or_binary_file_is_no_protocol(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(ProtocolError, match=r"no trial in it|UTF-8"):
        parse_lines(path, parse, [2], "id, label")


def test_a_byte_order_mark_windows_line_ends_and_tabs_do_not_matter(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa\tbonafide\r\nb  spoof \r\n")
    assert list(read_fields(path)) == [(1, ["a", "bonafide"]), (2, ["b", "spoof"])]


@pytest.mark.parametrize("utterance_id", ["", "a b", "a\u00a0b", "a\x00", "a\tb"])
def test_an_utterance_id_that_a_score_file_cannot_hold_is_a_problem(tmp_path, utterance_id):
    problems = Problems(tmp_path / "list.txt")
    assert not problems.check_id(3, utterance_id)
    with pytest.raises(ProtocolError, match="line 3"):
        problems.raise_any()


@given(st.text(max_size=30))
def test_an_escaped_id_holds_no_white_space_and_comes_back(text):
    escaped = escape_id(text)
    assert not any(character.isspace() for character in escaped)
    if not any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        assert unquote(escaped) == text


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a.wav", True),
        ("b/a.wav", True),
        ("a..b/c.wav", True),
        ("../a.wav", False),
        ("b/../../a.wav", False),
        ("b\\..\\a.wav", False),
        ("/etc/passwd", False),
        ("\\\\host\\share", False),
        ("C:\\a.wav", False),
        ("a\0.wav", False),
        ("", False),
    ],
)
def test_paths_that_leave_the_corpus_are_told_from_those_that_stay(tmp_path, name, inside):
    assert is_inside(name) is inside
    assert Problems(tmp_path).check_path(1, name) is inside


def test_audio_is_found_by_name_in_the_order_of_folders_and_endings(tmp_path):
    for name in ("one/a.wav", "one/a.flac", "two/a.flac", "two/B.FLAC", "two/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"audio")
    folder = AudioFolder([tmp_path / "one", tmp_path / "two", tmp_path / "absent"], [".flac", ".wav"])
    assert folder.find("a") == str(tmp_path / "one" / "a.flac")
    assert folder.find("B") == str(tmp_path / "two" / "B.FLAC")
    assert folder.find("c") is None and len(folder) == 2
    with pytest.raises(ValueError, match="txt"):
        AudioFolder([tmp_path], [".txt"])


def test_a_missing_file_is_told_with_what_was_tried_and_the_expected_tree(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "keys.txt").touch()
    assert locate(tmp_path, ["a/keys.txt", "*/keys.txt"], "key", "the tree") == tmp_path / "b" / "keys.txt"
    with pytest.raises(CorpusNotFoundError, match=r"no key: .* holds none of x\.txt, y\.txt\.\nthe tree"):
        locate(tmp_path, ["x.txt", "y.txt"], "key", "the tree")
    with pytest.raises(CorpusNotFoundError, match="is not a folder"):
        locate(tmp_path / "nowhere", ["x.txt"], "key", "the tree")


def test_placeholders_become_null():
    assert [null(text, "bonafide") for text in ("-", "", "bonafide", "A07")] == [None, None, None, "A07"]


def test_rows_become_columns_and_travel_between_processes():
    rows = [Row("a", "bonafide", "toy", **codec_attributes("bonafide")), Row("b", "spoof", "toy", extra={"take": 2})]
    columns = to_columns(rows, ["take"])
    assert list(columns) == [*COLUMNS, "take"]
    assert columns["take"] == [None, 2] and columns["vq"] == ["bonafide", None]
    assert to_columns([], ["take"]) == {name: [] for name in columns}
    assert pickle.loads(pickle.dumps(rows)) == rows


def toy_corpus(**overrides):
    def find(root, config):
        return {"list": locate(root, ["list.txt"], "list", "layout")}

    def read(root, config, files, *, twice=False):
        audio = AudioFolder([root])
        rows = [row._replace(audio=audio.find(row.utterance_id)) for row in parse_lines(files["list"], parse, [2], "")]
        return {"train": rows * (2 if twice else 1)}

    text = dict.fromkeys(("title", "homepage", "license", "license_note", "citation", "description", "layout"), "text")
    facts = {"configs": {"main": "all"}, "find": find, "parse": read, "options": {"twice": False}, **overrides}
    return Corpus(name="toy", **text, **facts)


@pytest.fixture
def toy_folder(tmp_path):
    (tmp_path / "list.txt").write_text("a bonafide\nb spoof\n")
    soundfile.write(tmp_path / "a.wav", [0.0] * 100, 16_000)
    return tmp_path


def test_missing_audio_is_an_error_dropped_or_ignored_as_asked(toy_folder):
    corpus = toy_corpus()
    with pytest.raises(ProtocolError, match=r"1 of 2 clips have no audio file, such as 'b' \(train\)"):
        corpus.read(toy_folder)
    assert [row.utterance_id for row in corpus.read(toy_folder, missing_audio="drop")["train"]] == ["a"]
    assert [row.audio is None for row in corpus.read(toy_folder, missing_audio="ignore")["train"]] == [False, True]
    with pytest.raises(ValueError, match="'guess'"):
        corpus.read(toy_folder, missing_audio="guess")


def test_unknown_configurations_and_options_name_the_known_ones(toy_folder):
    with pytest.raises(ValueError, match="'other'.*main"):
        toy_corpus().read(toy_folder, "other")
    with pytest.raises(ValueError, match="thrice.*twice"):
        toy_corpus().read(toy_folder, thrice=True)
    with pytest.raises(ValueError, match="'klingon'.*asvspoof2019-la"):
        get_corpus("klingon")


def test_totals_are_compared_with_what_was_published(toy_folder):
    corpus = toy_corpus(totals={("main", "train"): Totals(1, 1), ("main", "test"): Totals(3, 4)})
    train, test = count(corpus, "main", corpus.read(toy_folder, missing_audio="ignore"))
    assert train.matches and train.found == (1, 1) and train.found.rows == 2
    assert not test.matches and test.found == (0, 0) and test.expected == (3, 4)


@pytest.mark.parametrize("corpus", corpora().values(), ids=lambda corpus: corpus.name)
def test_every_corpus_says_where_it_comes_from_and_what_may_be_done_with_it(corpus):
    for text in (corpus.title, corpus.license, corpus.license_note, corpus.description, corpus.layout):
        assert text.strip() == text and text
    assert corpus.homepage.startswith("https://") or corpus.name == "own"
    assert {config for config, _ in corpus.totals} <= set(corpus.configs)
    assert not set(corpus.extra) & set(COLUMNS)
    assert set(corpus.extra.values()) <= {"string", "int64", "float64", "bool"}
