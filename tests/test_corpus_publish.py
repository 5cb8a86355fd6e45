"""Corpora as dataset repositories: what is built equals its source, and an interrupted build never looks whole."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_trees import write_asvspoof2019, write_clip
from datasets import Audio, ClassLabel, load_dataset
from huggingface_hub import DatasetCard

from spooftrace.data_scripts import get_corpus
from spooftrace.data_scripts.publish import (
    ReadBackError,
    build_corpus,
    open_build,
    reuse_build,
)
from spooftrace.data_scripts.shards import parse_size
from spooftrace.data_scripts.terms import RedistributionError, check_redistribution, describe_own


ATTACKS = {"spoof": "X1", "bonafide": ""}

# The small copies of real corpora are meant to be small.
pytestmark = pytest.mark.filterwarnings("ignore:.*other numbers of trials than published")


@pytest.fixture
def table(tmp_path) -> Path:
    """A table of twelve clips in two splits."""
    lines = ["audio,label,split,speaker_id,attack_id"]
    for number in range(12):
        label = ("bonafide", "spoof", "spoof")[number % 3]
        split = "train" if number < 9 else "test"
        write_clip(tmp_path / "data" / "clips" / f"c{number}.flac", seed=number)
        lines.append(f"clips/c{number}.flac,{label},{split},s{number % 2},{ATTACKS[label]}")
    path = tmp_path / "data" / "metadata.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def load(folder: Path, tmp_path: Path, **options):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **options)


def test_a_build_loads_with_the_rows_the_types_and_the_bytes_of_the_source(table, tmp_path):
    build = build_corpus("own", table, tmp_path / "out", checked_clips=None)
    data = load(build.folder, tmp_path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 9, "test": 3} and build.rows == 12
    features = data["train"].features
    assert features["label"] == ClassLabel(names=["bonafide", "spoof"])
    assert features["audio"] == Audio(sampling_rate=16_000), "published to be played"
    for split in data:
        source = get_corpus("own").read(table)[split]
        rows = data[split].cast_column("audio", Audio(decode=False))
        assert [row["utterance_id"] for row in rows] == [row.utterance_id for row in source]
        assert [features["label"].int2str(row["label"]) for row in rows] == [row.label for row in source]
        assert [row["attack_id"] for row in rows] == [row.attack_id for row in source]
        assert [row["audio"]["bytes"] for row in rows] == [Path(row.audio).read_bytes() for row in source]
        assert [row["audio"]["path"] for row in rows] == [Path(row.audio).name for row in source]


def test_two_builds_are_equal_to_the_byte_wherever_the_source_lies(table, tmp_path):
    first = build_corpus("own", table, tmp_path / "one").folder
    moved = table.parent.rename(tmp_path / "elsewhere")
    second = build_corpus("own", moved / table.name, tmp_path / "deeper" / "two").folder
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert len(names) == 4
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
        assert str(tmp_path).encode() not in (first / name).read_bytes(), "no path of this machine"


def test_shards_end_at_the_size_and_keep_the_order(table, tmp_path):
    build = build_corpus("own", table, tmp_path / "out", max_shard_size="2KB")
    shards = build.shards("default", "train")
    assert len(shards) > 2 and shards[0].name == f"train-00000-of-{len(shards):05d}.parquet"
    assert sum(pq.read_metadata(shard).num_rows for shard in shards) == 9
    data = load(build.folder, tmp_path, split="train")
    assert data["utterance_id"][:] == [f"clips/c{number}" for number in range(9)]


def test_the_card_is_valid_and_its_numbers_are_those_of_the_data(table, tmp_path):
    build = build_corpus("own", table, tmp_path / "out")
    card = DatasetCard.load(build.folder / "README.md")
    info = card.data.to_dict()["dataset_info"]
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {"train": 9, "test": 3}
    assert info["download_size"] == sum(path.stat().st_size for path in build.folder.rglob("*.parquet"))
    assert (card.data.license, card.data.size_categories) == ("unknown", ["n<1K"])
    assert card.data.task_categories == ["audio-classification"]
    assert "| `default` | `train` | 3 | 6 | 9 | - | - |" in card.text
    assert "| X1 | 6 | 2 |" in card.text
    assert "Audio(decode=False)" in card.text and "may not be passed on" in card.text


def test_the_card_puts_the_counts_beside_the_published_ones(tmp_path):
    write_asvspoof2019(tmp_path / "LA19")
    build = build_corpus("asvspoof2019-la", tmp_path / "LA19", tmp_path / "out")
    card = DatasetCard.load(build.folder / "README.md")
    assert "| `la` | `train` | 2 | 2 | 4 | 2,580 | 22,800 |" in card.text
    assert (card.data.license, card.data.language) == ("odc-by", ["en"])
    digests = build.manifest["protocols"]["la"]
    assert len(digests) == 3 and all(digest in card.text for digest in digests.values())
    assert "may not be passed on" not in card.text


def test_the_card_tells_the_command_with_its_options(table, tmp_path):
    table.write_text(table.read_text().replace("bonafide", "real").replace("spoof", "fake"))
    labels = {"real": "bonafide", "fake": "spoof"}
    text = (build_corpus("own", table, tmp_path / "out", options={"labels": labels}).folder / "README.md").read_text()
    assert f"--option 'labels={json.dumps(labels)}'" in text


def test_metadata_alone_needs_no_audio_and_holds_none(tmp_path):
    write_asvspoof2019(tmp_path / "LA19", audio=False)
    build = build_corpus("asvspoof2019-la", tmp_path / "LA19", tmp_path / "out", metadata_only=True)
    data = load(build.folder, tmp_path)
    assert "audio" not in data["train"].features and len(data["train"]) == 4
    assert "no audio" in DatasetCard.load(build.folder / "README.md").text


def test_a_row_without_a_clip_stops_the_build_goes_or_stays_as_asked(tmp_path):
    write_asvspoof2019(tmp_path / "LA19")
    next((tmp_path / "LA19").rglob("LA_T_1138215.flac")).unlink()
    with pytest.raises(ValueError, match="LA_T_1138215"):
        build_corpus("asvspoof2019-la", tmp_path / "LA19", tmp_path / "error")
    assert not (tmp_path / "error").exists()
    dropped = build_corpus("asvspoof2019-la", tmp_path / "LA19", tmp_path / "drop", missing_audio="drop")
    kept = build_corpus("asvspoof2019-la", tmp_path / "LA19", tmp_path / "ignore", missing_audio="ignore")
    assert (dropped.rows, kept.rows) == (8, 9)
    rows = load(kept.folder, tmp_path, split="train").cast_column("audio", Audio(decode=False))
    assert [row["audio"] is None for row in rows] == [True, False, False, False]
    assert "Trials without a clip: 1;" in (kept.folder / "README.md").read_text()


KILLED = """
import os, signal, sys
from spooftrace.data_scripts import publish
calls, read_piece = [], publish.read_piece
def deadly(*arguments):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_piece(*arguments)
publish.read_piece = deadly
publish.build_corpus("own", sys.argv[1], sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_build_leaves_nothing_that_looks_whole_and_can_be_repeated(table, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(table), str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    left = [path for path in tmp_path.iterdir() if path.name != "data"]
    assert [path.name for path in left] == [".out.partial"] and not list(left[0].rglob("README.md"))
    build_corpus("own", table, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "build.json", "default"]


def test_a_build_that_fails_removes_what_it_wrote_and_keeps_what_it_found(table, tmp_path, monkeypatch):
    monkeypatch.setattr("spooftrace.data_scripts.publish.make_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_corpus("own", table, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="remove it"):
        build_corpus("own", table, tmp_path / "out")


def test_what_was_written_is_compared_with_the_source_before_it_gets_its_name(table, tmp_path, monkeypatch):
    monkeypatch.setattr("spooftrace.data_scripts.shards.clip_bytes", lambda clip: b"something else")
    with pytest.raises(ReadBackError, match="audio of row 0"):
        build_corpus("own", table, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_build_is_used_again_only_while_it_equals_its_source_and_the_request(table, tmp_path):
    out = tmp_path / "out"
    build = build_corpus("own", table, out)
    assert reuse_build("own", table, out).manifest == build.manifest
    with pytest.raises(ValueError, match="metadata_only False, not True"):
        reuse_build("own", table, out, metadata_only=True)
    write_clip(table.parent / "clips" / "c4.flac", seed=99)
    with pytest.raises(ReadBackError, match="train: the audio of row 4"):
        reuse_build("own", table, out)
    write_clip(table.parent / "clips" / "c4.flac", seed=4)
    table.write_text(table.read_text().replace("c5.flac,spoof,train,s1", "c5.flac,spoof,train,s7"))
    with pytest.raises(ReadBackError, match="speaker_id of row 5 is 's1', in the source 's7'"):
        reuse_build("own", table, out)


def test_a_damaged_build_is_found_out(table, tmp_path):
    build = build_corpus("own", table, tmp_path / "out")
    shard = build.shards("default", "test")[0]
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ReadBackError, match="test-00000"):
        open_build(build.folder, "own")
    with pytest.raises(ValueError, match="no finished build"):
        open_build(tmp_path, "own")
    with pytest.raises(ValueError, match="not of asvspoof5"):
        open_build(build.folder, "asvspoof5")


def test_the_manifest_names_every_shard_with_its_rows(table, tmp_path):
    folder = build_corpus("own", table, tmp_path / "out").folder
    manifest = json.loads((folder / "build.json").read_text())
    assert set(manifest["files"]) == {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}
    assert manifest["splits"]["default"]["train"]["labels"] == {"bonafide": 3, "spoof": 6}


def test_what_may_not_be_passed_on_is_refused():
    for metadata_only in (False, True):
        with pytest.raises(RedistributionError, match="FakeAVCeleb"):
            check_redistribution(get_corpus("fakeavceleb"), metadata_only)
    with pytest.raises(RedistributionError, match="--metadata-only"):
        check_redistribution(get_corpus("asvspoof2021-la"), False)
    check_redistribution(get_corpus("asvspoof2021-la"), True)
    check_redistribution(get_corpus("in-the-wild"), False)


def test_ones_own_audio_is_pushed_under_the_licence_that_one_states():
    with pytest.raises(RedistributionError, match="--license"):
        check_redistribution(get_corpus("own"), False)
    check_redistribution(describe_own(get_corpus("own"), license="cc0-1.0"), False)
    with pytest.raises(ValueError, match="odc-by"):
        describe_own(get_corpus("asvspoof2019-la"), license="cc0-1.0")
    with pytest.raises(ValueError, match="ALLM4ADD lists is not your own data"):
        describe_own(get_corpus("allm4add"), license="cc0-1.0")


def test_several_configurations_share_one_repository(table, tmp_path):
    corpus = dataclasses.replace(get_corpus("own"), configs={"one": "first", "two": "second"})
    build = build_corpus(corpus, table, tmp_path / "out", config=["one", "two"])
    for config in ("one", "two"):
        assert len(load(build.folder, tmp_path, name=config, split="test")) == 3
    assert DatasetCard.load(build.folder / "README.md").data.configs[0]["default"] is True


def test_audio_that_lies_in_tables_is_published_like_files(tmp_path):
    """Three tables of two rows, as a parquet file's row groups give them."""
    clips = [write_clip(tmp_path / f"{number}.flac", seed=number).read_bytes() for number in range(6)]

    def read_table(piece: int) -> pa.Table:
        numbers = range(piece, piece + 2)
        return pa.table(
            {
                "utterance_id": [f"u{number}" for number in numbers],
                "label": ["bonafide", "spoof"],
                "corpus": ["tables"] * 2,
                "audio": [{"bytes": clips[number], "path": f"{number}.flac"} for number in numbers],
            }
        )

    corpus = dataclasses.replace(
        get_corpus("own"),
        name="tables",
        options={},
        tables=lambda root, config, files: {"train": [0, 2, 4]},
        read_table=read_table,
        reads_audio=False,
        find=lambda root, config: {},
        parse=lambda root, config, files: {},
    )
    build = build_corpus(corpus, tmp_path, tmp_path / "out", checked_clips=2)
    rows = load(build.folder, tmp_path, split="train").cast_column("audio", Audio(decode=False))
    assert [row["audio"]["bytes"] for row in rows] == clips
    assert rows["label"][:] == [0, 1] * 3


@pytest.mark.parametrize(("text", "number"), [("500MB", 500 * 10**6), ("1.5 GiB", 3 * 2**29), (7, 7), ("9", 9)])
def test_sizes_are_read_with_their_units(text, number):
    assert parse_size(text) == number


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "5XB", "1.2.3MB", "."])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
