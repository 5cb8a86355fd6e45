"""The default detector's corpus becomes a table that scoring and evaluation read."""

import csv

import pytest

from spooftrace.data_scripts.parsers.own import read_manifest
from spooftrace.trainers.corpus_table import COLUMNS, main


HEAD = "file,label,system,family,vq,source_repo,license,utterance,crop_start,note,split,speaker"
ROWS = [
    "audio/a.flac,bonafide,,none,na,page,MIT,u1,0,,train,s1",
    "audio/b.flac,spoof,encodec,codec,mvq,page,MIT,u1,0,,valid,s1",
    "unlicensed/c.flac,spoof,opus-6k,dsp,na,page,no licence stated,u2,0,transmission codec,test,s2",
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.csv").write_text("\n".join([HEAD, *ROWS]) + "\n")
    for row in ROWS:
        path = tmp_path / "data" / row.split(",")[0]
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path / "data"


def test_the_table_has_the_projects_names_and_nulls(data, tmp_path):
    assert main(["--data", str(data), "--out", str(tmp_path / "table.csv")]) == 0
    with open(tmp_path / "table.csv", newline="") as stream:
        assert tuple(next(csv.reader(stream))) == COLUMNS
    rows = {row.utterance_id: row for row in read_manifest(tmp_path / "table.csv", allow_outside=True)}
    assert list(rows) == ["audio/a", "audio/b", "unlicensed/c"]
    assert rows["audio/a"].attack_id is None and rows["audio/a"].vq == "bonafide"
    assert (rows["audio/b"].attack_id, rows["audio/b"].speaker_id, rows["audio/b"].subset) == (
        "encodec",
        "s1",
        "validation",
    )
    assert read_manifest(tmp_path / "table.csv", split="test", allow_outside=True) == [rows["unlicensed/c"]]


def test_transmission_coded_clips_can_be_left_out(data, tmp_path):
    main(["--data", str(data), "--out", str(tmp_path / "table.csv"), "--without-transmission"])
    assert len(read_manifest(tmp_path / "table.csv", allow_outside=True)) == 2


def test_a_folder_that_is_no_corpus_is_told_in_one_line(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "table.csv")]) == 1
    assert "metadata.csv" in capsys.readouterr().err and not (tmp_path / "table.csv").exists()
