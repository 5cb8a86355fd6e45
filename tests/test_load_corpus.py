"""`load_corpus` and the builders behind it, on small copies of ASVspoof corpora."""

import pickle
import warnings
from pathlib import Path

import pytest
from corpus_trees import ASVSPOOF2019, ASVSPOOF2021_LA, full_asvspoof2019, write_asvspoof2019, write_asvspoof2021


datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

from spooftrace.audio import load_audio  # noqa: E402
from spooftrace.data_scripts import CorpusNotFoundError, ProtocolError, corpora, get_corpus, load_corpus  # noqa: E402
from spooftrace.data_scripts import builders as builders_module  # noqa: E402
from spooftrace.data_scripts import loading as loading_module  # noqa: E402
from spooftrace.data_scripts.builders import builder_for, features_of  # noqa: E402
from spooftrace.data_scripts.corpus import Corpus  # noqa: E402
from spooftrace.data_scripts.protocol import Problem  # noqa: E402
from spooftrace.data_scripts.rows import COLUMNS  # noqa: E402


NAME = "asvspoof2019-la"
TOTALS = "ignore:asvspoof:UserWarning"  # the fixtures have fewer trials than the corpora

pytestmark = pytest.mark.filterwarnings(TOTALS)


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def tree(tmp_path) -> Path:
    write_asvspoof2019(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def load(tmp_path):
    def load(root: Path, name: str = NAME, **arguments):
        return load_corpus(name, root, cache_dir=tmp_path / "cache", **arguments)

    return load


def prepared(cache: Path) -> list[Path]:
    """Folders of finished builds."""
    return sorted(path.parent for path in cache.rglob("dataset_info.json"))


def test_splits_columns_and_classes(tree, load):
    found = load(tree)
    assert {name: len(split) for name, split in found.items()} == {"train": 4, "validation": 2, "test": 3}
    train = found["train"]
    assert train.column_names == list(COLUMNS)
    assert train.features == features_of(get_corpus(NAME))
    assert train.features["label"].names == ["bonafide", "spoof"]
    assert train.features["audio"] == datasets.Audio(sampling_rate=16_000, decode=False)
    assert train["label"][:] == [0, 0, 1, 1]
    assert train["utterance_id"][:] == [line.split()[1] for line in ASVSPOOF2019["train"]]


def test_codec_classes_are_zero_for_genuine_speech_and_null_for_spoofs_of_another_make(tree, load):
    train = load(tree, split="train")
    for name in ("vq", "aux", "dec"):
        assert train.features[name].names[0] == "bonafide"
        assert train[name][:] == [0, 0, None, None]


def test_clips_are_paths_that_soundfile_reads(tree, load):
    for row in load(tree, split="test"):
        assert row["audio"]["bytes"] is None
        assert load_audio(row["audio"]["path"]).shape == (800,)


def test_extra_columns_keep_their_types(tmp_path, load):
    write_asvspoof2021(tmp_path / "data", "LA", ASVSPOOF2021_LA)
    found = load(tmp_path / "data", "asvspoof2021-la")
    assert list(found) == ["test", "progress", "hidden"]
    assert found["hidden"]["trim"][:] == [True]
    assert found["progress"]["transmission"][:] == [None]
    assert found["progress"].features["transmission"] == datasets.Value("string")


def test_splits_can_be_sliced_and_added(tree, load):
    assert len(load(tree, split="train[:3]+test")) == 6
    with pytest.raises(ValueError, match='Unknown split "dev"'):
        load(tree, split="dev")


def test_streaming_gives_the_same_rows_and_writes_no_tables(tree, tmp_path, load):
    streamed = load(tree, streaming=True)
    rows = {split: list(stream) for split, stream in streamed.items()}
    assert prepared(tmp_path / "cache") == []
    built = load(tree)
    assert rows == {split: list(built[split]) for split in built}
    assert streamed["train"].features == built["train"].features


def test_a_stream_has_a_shard_for_every_thousand_trials(tmp_path, load):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # these are the published numbers
        write_asvspoof2019(tmp_path / "data", full_asvspoof2019(), audio=False)
        stream = load(tmp_path / "data", split="test", streaming=True, missing_audio="ignore")
    assert stream.num_shards == 72
    assert sum(map(len, stream.with_format("arrow").iter(1000))) == 71_237


def test_two_processes_build_what_one_builds(tmp_path):
    lines = {"train": list(full_asvspoof2019()["dev"])[:2_500]}
    write_asvspoof2019(tmp_path / "data", lines, audio=False)
    one, two = (
        load_corpus(
            NAME, tmp_path / "data", split="train", missing_audio="ignore", cache_dir=tmp_path / str(n), num_proc=n
        )
        for n in (1, 2)
    )
    assert two["utterance_id"][:] == one["utterance_id"][:] == [line.split()[1] for line in lines["train"]]
    assert len(two.cache_files) == 2


def test_a_second_call_reads_the_cache(tree, tmp_path, load):
    load(tree)
    [folder] = prepared(tmp_path / "cache")
    before = (folder / "dataset_info.json").stat().st_mtime_ns
    assert load(tree)["train"].cache_files[0]["filename"].startswith(str(folder))
    assert prepared(tmp_path / "cache") == [folder]
    assert (folder / "dataset_info.json").stat().st_mtime_ns == before


def test_an_edited_protocol_is_seen(tree, load):
    assert len(load(tree, split="train")) == 4
    path = tree / "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.train.trn.txt"
    text = path.read_text()
    path.write_text(text.replace("A06", "A05"))
    assert load(tree, split="train")["attack_id"][3] == "A05"
    path.write_text("".join(text.splitlines(keepends=True)[:2]))
    assert len(load(tree, split="train")) == 2


def test_clips_that_come_or_go_are_seen(tree, load):
    clip = tree / "LA/ASVspoof2019_LA_train/flac/LA_T_1004644.flac"
    content = clip.read_bytes()
    clip.unlink()
    assert len(load(tree, split="train", missing_audio="drop")) == 3
    assert load(tree, split="train", missing_audio="ignore")[2]["audio"] is None
    clip.write_bytes(content)
    assert len(load(tree, split="train", missing_audio="drop")) == 4


def test_a_corpus_that_moved_gets_its_new_paths(tree, tmp_path, load):
    load(tree)
    tree.rename(tmp_path / "elsewhere")
    path = load(tmp_path / "elsewhere", split="train")[0]["audio"]["path"]
    assert path.startswith(str(tmp_path / "elsewhere")) and Path(path).is_file()


def test_corpora_with_the_same_configuration_do_not_share_a_cache(tmp_path):
    for part, lines in (("LA", ASVSPOOF2021_LA), ("DF", ())):
        df = [line.replace("LA_E", "DF_E") for line in ASVSPOOF2021_LA]
        write_asvspoof2021(tmp_path / "data", part, lines or df)
    names = ("asvspoof2021-la", "asvspoof2021-df")
    folders = [
        Path(builder_for(name)(data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache")).cache_dir)
        for name in names
    ]
    assert [folder.relative_to(tmp_path / "cache").parts[0] for folder in folders] == list(names)


def test_an_interrupted_build_leaves_nothing_that_looks_whole(tree, tmp_path, load, monkeypatch):
    read_piece = builders_module.read_piece

    def interrupted(corpus, piece):
        if piece[0].subset == "eval":
            raise KeyboardInterrupt
        return read_piece(corpus, piece)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builders_module, "read_piece", interrupted)
        load(tree)
    assert prepared(tmp_path / "cache") == []
    assert list((tmp_path / "cache").rglob("*.arrow")) == []
    assert {name: len(split) for name, split in load(tree).items()} == {"train": 4, "validation": 2, "test": 3}


def test_numbers_that_differ_from_the_published_ones_are_told_to_the_caller(tree, load):
    with pytest.warns(
        UserWarning, match="validation: 1 bona fide and 1 spoof, published are 2,548 and 22,296"
    ) as told:
        load(tree, split="train")
    assert told[0].filename == __file__


def test_errors_of_a_protocol_arrive_as_they_are(tree, load):
    path = tree / "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.eval.trl.txt"
    path.write_text("LA_0039 LA_E_2834763 - A11 spof\n")
    with pytest.raises(ProtocolError, match="line 1: unknown label 'spof'"):
        load(tree)


def test_errors_of_a_protocol_can_come_from_another_process():
    error = ProtocolError("list.txt", [Problem(3, "no label")])
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.problems) == (str(error), error.path, error.problems)


def test_without_a_folder_the_layout_is_shown():
    with pytest.raises(
        CorpusNotFoundError, match="read from your own copy: give its folder as data_dir.\nDownload LA"
    ):
        load_corpus(NAME)


def test_no_clip_at_all_is_an_error_even_where_missing_ones_are_dropped(tmp_path, load):
    write_asvspoof2019(tmp_path / "data", audio=False)
    with pytest.raises(CorpusNotFoundError, match="no trial of asvspoof2019-la has its clip below"):
        load(tmp_path / "data", missing_audio="drop")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": "pa"}, "asvspoof2019-la has no configuration 'pa'; it has la."),
        ({"subset": "eval"}, "asvspoof2019-la has no option subset; it takes none."),
        ({"missing_audio": "skip"}, "missing_audio is 'skip'; it is one of error, drop, ignore."),
    ],
)
def test_wrong_arguments_are_answered_with_what_there_is(tree, load, arguments, message):
    with pytest.raises(ValueError) as raised:
        load(tree, **arguments)
    assert str(raised.value) == message


def test_an_unknown_corpus_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no corpus is called 'asvspoof2018'; there are .*asvspoof2019-la"):
        load_corpus("asvspoof2018", ".")


def test_parquet_of_a_build_holds_the_audio(tree, tmp_path):
    builder = builder_for(NAME)(data_dir=str(tree), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    files = {"train": str(tmp_path / "out" / f"{NAME}-train.parquet")}
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "again"))
    assert found.features == features_of(get_corpus(NAME))
    assert found["vq"][:] == [0, 0, None, None]
    clip = tree / "LA/ASVspoof2019_LA_train/flac/LA_T_1138215.flac"
    assert found[0]["audio"] == {"bytes": clip.read_bytes(), "path": clip.name}


def test_every_corpus_has_a_builder_with_its_configurations():
    for name, corpus in corpora().items():
        builder = builder_for(name)
        assert getattr(builders_module, builder.__name__) is builder
        assert [config.name for config in builder.BUILDER_CONFIGS] == list(corpus.configs)
        assert builder.DEFAULT_CONFIG_NAME == corpus.default_config


def numbered_table(piece: int) -> "pa.Table":
    audio = pa.array([{"bytes": b"RIFF", "path": f"{piece}.wav"}])
    return pa.table({"audio": audio, "label": ["spoof"], "utterance_id": [f"u{piece}"], "size": [4]})


@pytest.fixture
def numbered(monkeypatch):
    """Makes "numbered" a corpus of three one-row tables, read by the given function."""

    def register(read_table) -> None:
        corpus = Corpus(
            name="numbered",
            title="Numbered clips",
            homepage="https://example.org",
            license="other",
            license_note="None.",
            citation="None.",
            description="Clips in tables.",
            layout="Anything.",
            configs={"all": "everything"},
            find=lambda root, config: {},
            parse=lambda root, config, files, start: {},
            extra={"size": "int64"},
            options={"start": 0},
            reads_audio=False,
            tables=lambda root, config, files, start: {"train": list(range(start, 3))},
            read_table=read_table,
        )
        configs = [builders_module.CorpusConfig(name="all")]
        builder = type("Numbered", (builders_module.CorpusBuilder,), {"corpus": corpus, "BUILDER_CONFIGS": configs})
        monkeypatch.setattr(builders_module, "builder_for", lambda name: builder)
        monkeypatch.setattr(loading_module, "get_corpus", lambda name: corpus)

    return register


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_of_parquet_files_get_the_unified_columns(tmp_path, load, numbered, streaming):
    numbered(numbered_table)
    first, second = load(tmp_path, "numbered", split="train", streaming=streaming, start=1)
    assert list(first) == [*COLUMNS, "size"]
    assert (first["utterance_id"], first["label"], first["size"], first["vq"]) == ("u1", 1, 4, None)
    assert second["audio"] == {"bytes": b"RIFF", "path": "2.wav"}


def test_options_have_caches_of_their_own(tmp_path, load, numbered):
    numbered(numbered_table)
    assert [len(load(tmp_path, "numbered", split="train", start=start)) for start in (0, 1, 0)] == [3, 2, 3]


def test_errors_of_a_table_arrive_as_they_are(tmp_path, load, numbered):
    def broken(piece: int) -> "pa.Table":
        raise ProtocolError("clips.parquet", [Problem(0, "row group 0 is damaged: download it again")])

    numbered(broken)
    with pytest.raises(ProtocolError, match="row group 0 is damaged"):
        load(tmp_path, "numbered")
    assert prepared(tmp_path / "cache") == []
