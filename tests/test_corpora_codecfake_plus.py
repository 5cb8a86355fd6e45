"""CodecFake+: the published lists with their quirks, checked against the taxonomy, and the clips beside them."""

import logging
from collections import Counter

import corpus_trees_codecfake_plus as trees
import pytest

from spooftrace.data_scripts import CorpusNotFoundError, ProtocolError, get_corpus
from spooftrace.data_scripts.corpus import count
from spooftrace.data_scripts.parsers.codecfake_plus import UTTERANCE_TOTALS


CORS = get_corpus("codecfake-plus-cors")
COSG = get_corpus("codecfake-plus-cosg")
SMALLER_THAN_PUBLISHED = pytest.mark.filterwarnings("ignore:codecfake-plus-co.* other numbers of trials")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Every list in full size, without a clip."""
    root = tmp_path_factory.mktemp("full")
    for attribute in trees.CLASSES:
        trees.write_training_lists(root, attribute, {part: trees.sources(part) for part in trees.SPEAKERS})
    lines = [*trees.evaluation_lines(trees.sources("test"), without=("Encodec_24b24k",))]
    lines[7553] = lines[7553].removesuffix("spoof") + "spoofs"  # as published, which also lacks the last line's end
    trees.write_evaluation_list(root, "CoRS_ALL", lines, end="")
    trees.write_evaluation_list(root, "CoSG_ALL", trees.cosg_all_lines())
    trees.write_evaluation_list(root, "CoSG_SEEN", trees.cosg_seen_lines())
    return root


@pytest.fixture
def small_cors(tmp_path):
    return trees.small_cors(tmp_path / "cors")


@pytest.fixture
def small_cosg(tmp_path):
    return trees.small_cosg(tmp_path / "cosg")


def classes(rows, attribute):
    return dict(Counter(getattr(row, attribute) for row in rows))


def problems_of(root, corpus, config):
    with pytest.raises(ProtocolError) as caught:
        corpus.read(root, config, missing_audio="ignore")
    return [(problem.line, problem.message) for problem in caught.value.problems]


def cors_problems(root, *lines):
    """What is wrong with a CoRS_ALL.txt of these lines."""
    trees.write_evaluation_list(root, "CoRS_ALL", lines)
    return problems_of(root, CORS, "eval")


@pytest.mark.parametrize(
    "config, expected",
    [
        ("aux", {"bonafide": 42_965, "none": 14_322, "semantic": 14_321, "disentanglement": 14_322}),
        ("vq", {"bonafide": 42_965, "mvq": 14_322, "svq": 14_322, "sq": 14_321}),
        ("dec", {"bonafide": 42_965, "time": 21_483, "frequency": 21_482}),
    ],
)
def test_training_lists_have_the_published_totals_and_balance(full, config, expected):
    splits = CORS.read(full, config, missing_audio="ignore")
    counts = count(CORS, config, splits)
    assert [(one.split, one.found.rows, one.matches) for one in counts] == [
        ("train", 85_930, True),
        ("validation", 1_470, True),
        ("test", 1_510, True),
    ]
    assert classes(splits["train"], config) == expected
    speakers = {split: {row.speaker_id for row in rows} for split, rows in splits.items()}
    assert len(speakers["train"]) == 106 and "s5" in speakers["train"]
    assert (speakers["validation"], speakers["test"]) == ({"p226", "p229"}, {"p227", "p228"})


def test_the_evaluation_list_has_the_published_totals_and_classes(full):
    (rows,) = CORS.read(full, "eval", missing_audio="ignore").values()
    assert [one.matches for one in count(CORS, "eval", {"test": rows})] == [True]
    assert classes(rows, "vq") == {"bonafide": 755, "mvq": 18_120, "svq": 3_020, "sq": 1_510}
    assert classes(rows, "aux") == {"bonafide": 755, "none": 12_835, "semantic": 6_040, "disentanglement": 3_775}
    assert classes(rows, "dec") == {"bonafide": 755, "time": 13_590, "frequency": 9_060}
    assert len({row.codec for row in rows} - {None}) == 30
    assert {row.subset for row in rows} == {"CoRS_ALL"}


def test_the_whole_of_cors_is_every_utterance_of_the_lists_by_every_codec():
    splits = {"train": "train", "validation": "dev", "test": "test"}
    for split, part in splits.items():
        number = len(trees.sources(part))
        assert CORS.totals["labels", split] == (number, 31 * number)
    assert sum(CORS.totals["labels", split].rows for split in splits) == 1_422_560


@pytest.mark.parametrize("utterances", ["seen", "unseen"])
@pytest.mark.parametrize("config, split", [("aux", "train"), ("eval", "test")])
def test_seen_and_unseen_utterances_divide_at_number_250(full, config, split, utterances):
    rows = CORS.read(full, config, missing_audio="ignore", utterances=utterances)[split]
    found = Counter(row.label for row in rows)
    assert (found["bonafide"], found["spoof"]) == UTTERANCE_TOTALS[config, split, utterances]
    assert all((row.extra["utterance_number"] <= 250) == (utterances == "seen") for row in rows)


def test_seen_and_unseen_totals_add_up_to_the_whole():
    for config, split, _ in UTTERANCE_TOTALS:
        halves = (UTTERANCE_TOTALS[config, split, which] for which in ("seen", "unseen"))
        assert tuple(map(sum, zip(*halves, strict=True))) == CORS.totals[config, split]


@pytest.mark.parametrize(
    "config, expected",
    [
        (
            "all",
            {
                "vq": {"bonafide": 866, "mvq": 848, "svq": 20, "sq": 63},
                "aux": {"bonafide": 866, "none": 874, "semantic": 5, "disentanglement": 52},
                "dec": {"bonafide": 866, "time": 263, "frequency": 668},
            },
        ),
        (
            "known",
            {
                "vq": {"bonafide": 259, "mvq": 249, "svq": 6, "sq": 63},
                "aux": {"bonafide": 259, "none": 275, "semantic": 5, "disentanglement": 38},
                "dec": {"bonafide": 259, "time": 240, "frequency": 78},
            },
        ),
    ],
)
def test_generator_lists_have_the_published_totals_and_classes(full, config, expected):
    (rows,) = COSG.read(full, config, missing_audio="ignore").values()
    assert [one.matches for one in count(COSG, config, {"test": rows})] == [True]
    assert {attribute: classes(rows, attribute) for attribute in expected} == expected
    per_model = Counter((row.extra["model"], row.label) for row in rows)
    models = trees.COSG_COUNTS if config == "all" else trees.COSG_COUNTS.keys() - {"MASKGCT", "NS2", "SINGLECODEC"}
    assert per_model == {
        (model, label): number
        for model in models
        for label, number in zip(("bonafide", "spoof"), trees.COSG_COUNTS[model], strict=True)
    }


def test_generators_of_unknown_codecs_are_flagged(full):
    (rows,) = COSG.read(full, "all", missing_audio="ignore").values()
    flags = {row.extra["model"]: row.extra["known_codec"] for row in rows}
    assert sorted(model for model, known in flags.items() if not known) == ["MASKGCT", "NS2", "SINGLECODEC"]


def test_a_spoof_row_of_cors_tells_codec_classes_and_clip(small_cors):
    rows = {row.utterance_id: row for row in CORS.read(small_cors, "eval")["test"]}
    row = rows["p228_001_ticodec_1g1r"]
    assert row.attack_id == row.codec == "ticodec_1g1r"
    assert (row.label, row.vq, row.aux, row.dec) == ("spoof", "svq", "disentanglement", "time")
    assert (row.speaker_id, row.extra["utterance_number"]) == ("p228", 1)
    assert row.audio == str(small_cors / "all_data_16k" / "p228_001_ticodec_1g1r.wav")
    genuine = rows["p228_001"]
    assert (genuine.label, genuine.attack_id, genuine.codec) == ("bonafide", None, None)
    assert (genuine.vq, genuine.aux, genuine.dec) == ("bonafide",) * 3


def test_a_row_of_cosg_tells_its_generator_and_no_codec(small_cosg):
    rows = {row.utterance_id: row for row in COSG.read(small_cosg, "known")["test"]}
    row = rows["NS3/clip_3"]
    assert (row.attack_id, row.codec, row.vq, row.aux, row.dec) == ("NS3", None, "mvq", "disentanglement", "time")
    assert row.audio == str(small_cosg / "SLMdemos_16k" / "NS3" / "clip_3.wav")
    genuine = rows["NS3/clip_3_gt"]
    assert (genuine.attack_id, genuine.vq, genuine.extra["model"]) == (None, "bonafide", "NS3")


def test_subset_keeps_the_lists_own_names(small_cors):
    splits = CORS.read(small_cors, "vq")
    assert {name: {row.subset for row in rows} for name, rows in splits.items()} == {
        "train": {"train"},
        "validation": {"dev"},
        "test": {"test"},
    }


def test_the_known_misprint_is_read_as_spoof_with_a_note(small_cors, caplog):
    trees.write_evaluation_list(
        small_cors, "CoRS_ALL", ["p227 p227_001 - - bonafide", "p227 p227_001_mini - - spoofs"], end=""
    )
    with caplog.at_level(logging.INFO, "spooftrace"):
        rows = CORS.read(small_cors, "eval")["test"]
    assert [row.label for row in rows] == ["bonafide", "spoof"]
    assert "line 2: the misprint 'spoofs' is read as 'spoof'" in caplog.text


def test_any_other_label_is_a_problem_with_its_line_and_the_remedy(tmp_path):
    found = cors_problems(tmp_path, "p227 p227_001 - - bonafide", "p227 p227_001_mini - - Spoof")
    assert found == [(2, "unknown label 'Spoof': write 'bonafide' or 'spoof'")]


def test_all_problems_of_a_list_are_told_at_once(tmp_path):
    found = cors_problems(
        tmp_path,
        "p227 p227_001 - bonafide",
        "p227 p227_001_minni - - spoof",
        "p228 p227_002_mini - - spoof",
        "p227 p227_003_mini - - bonafide",
        "p227 p227_004 - - spoof",
        "p227 clip_5 - - spoof",
        "p227 p227_006 - - bonafide",
        "p227 p227_006 - - bonafide",
    )
    assert [line for line, _ in found] == [1, 2, 3, 4, 5, 6, 8]
    messages = [message for _, message in found]
    assert messages[0] == "4 fields, expected 5 (speaker utterance - - label)"
    assert messages[1] == "unknown codec 'minni': did you mean 'mini'?"
    assert messages[2] == "speaker 'p228' of 'p227_002_mini' is not the one in its name: correct one of the two"
    assert "'p227_003_mini' is named after a codec, 'mini', but is labelled 'bonafide'" in messages[3]
    assert "'p227_004' bears no codec but is labelled 'spoof'" in messages[4]
    assert "'clip_5' is no utterance of CoRS" in messages[5]
    assert "'p227_006' is already in line 7" in messages[6]


def test_columns_that_contradict_the_taxonomy_are_problems(tmp_path):
    trees.write_training_lists(tmp_path, "aux", trees.SMALL)
    lines = [
        "p225 p225_001 - REAL REAL MVQ bonafide",
        "p225 p225_001_bigcodec - SEM FREQ SVQ spoof",
        "p225 p225_002_mini - None TIME MVQ spoof",
    ]
    trees.write_list(tmp_path / "metadata" / "training" / "train_mult_learn.txt", lines)
    assert problems_of(tmp_path, CORS, "aux") == [
        (
            1,
            "column VQ says 'mvq', but bona fide speech is 'bonafide' by the taxonomy: correct the column or the name",
        ),
        (2, "column AUX says 'semantic', but bigcodec is 'none' by the taxonomy: correct the column or the name"),
        (2, "column DEC says 'frequency', but bigcodec is 'time' by the taxonomy: correct the column or the name"),
        (3, "unknown label 'None': write 'REAL' or 'Trad' or 'SEM' or 'Disent'"),
    ]


def test_problems_of_a_generator_list(tmp_path):
    lines = [
        "VALE clip_1 - - spoof",
        "TI1G1R clip_1 - MVQ spoof",
        "VALLE clip_1 - XVQ spoof",
        "VALLE ../clip_2 - - spoof",
        "VALLE clip_3 - - fake",
        "VALLE clip_4 - - - spoof",
    ]
    trees.write_evaluation_list(tmp_path, "CoSG_SEEN", lines)
    messages = [message for _, message in problems_of(tmp_path, COSG, "known")]
    assert messages[0] == "unknown generator 'VALE': did you mean 'VALLE'?"
    assert messages[1].startswith("column VQ says 'mvq', but TI1G1R is 'svq' by the taxonomy")
    assert messages[2].startswith("unknown label 'XVQ': write 'REAL' or 'MVQ'")
    assert messages[3].startswith("path 'VALLE/../clip_2' is absolute or leaves the corpus")
    assert messages[4].startswith("unknown label 'fake'")
    assert messages[5].startswith("6 fields, expected 4 or 5")
    assert len(messages) == 6


def test_the_hubs_labels_of_cors_come_in_the_lists_splits_by_speaker(small_cors):
    splits = CORS.read(small_cors, "labels")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 128, "validation": 128, "test": 128}
    assert {row.speaker_id for row in splits["validation"]} == {"p226", "p229"}
    assert {row.speaker_id for row in splits["train"]} == {"p333", "s5"}
    assert classes(splits["test"], "vq") == {"bonafide": 4, "mvq": 100, "svq": 16, "sq": 8}


def test_the_hubs_six_fields_are_read_for_cors(tmp_path):
    lines = [
        "Model ClipID QUA AUX DEC Label",
        "- p225_001.wav - - - bonafide",
        "bigcodec p225_001 SVQ None Time spoof",
        "mini p225_001_mini.flac MVQ Semantic TIME spoof",
        "futurecodec p225_001_futurecodec SVQ SEM - spoof",
    ]
    trees.write_list(tmp_path / "CoRS_labels.txt", lines)
    rows = CORS.read(tmp_path, "labels", missing_audio="ignore")["train"]
    assert [(row.utterance_id, row.codec, row.vq, row.aux, row.dec) for row in rows] == [
        ("p225_001", None, "bonafide", "bonafide", "bonafide"),
        ("p225_001_bigcodec", "bigcodec", "svq", "none", "time"),
        ("p225_001_mini", "mini", "mvq", "semantic", "time"),
        ("p225_001_futurecodec", "futurecodec", "svq", "semantic", None),
    ]


def test_the_hubs_six_fields_are_read_for_cosg(tmp_path):
    lines = [
        "Model ClipID QUA AUX DEC Label",
        "VALLE VALLE/a.wav MVQ None TIME spoof",
        "VALLE b REAL REAL REAL bonafide",
        "NEWTTS c SQ Disentangle Frequency spoof",
        "NEWTTS d - - - spoof",
    ]
    trees.write_list(tmp_path / "CodecFake_plus_CoSG" / "CoSG_labels.txt", lines)
    trees.write_clip(tmp_path / "CodecFake_plus_CoSG" / "VALLE" / "a.flac")
    rows = COSG.read(tmp_path, "labels", missing_audio="ignore")["test"]
    assert [(row.utterance_id, row.attack_id, row.vq, row.aux, row.dec) for row in rows] == [
        ("VALLE/a", "VALLE", "mvq", "none", "time"),
        ("VALLE/b", None, "bonafide", "bonafide", "bonafide"),
        ("NEWTTS/c", "NEWTTS", "sq", "disentanglement", "frequency"),
        ("NEWTTS/d", "NEWTTS", None, None, None),
    ]
    assert [row.extra["known_codec"] for row in rows] == [True, True, None, None]
    assert rows[0].audio == str(tmp_path / "CodecFake_plus_CoSG" / "VALLE" / "a.flac")


def test_wrong_columns_of_the_hubs_labels_are_problems(tmp_path):
    trees.write_list(tmp_path / "CoSG_labels.txt", ["VALLE a SVQ None TIME spoof", "VALLE b TIME None MVQ spoof"])
    assert problems_of(tmp_path, COSG, "labels") == [
        (1, "column VQ says 'svq', but VALLE is 'mvq' by the taxonomy: correct the column or the name"),
        (2, "unknown VQ label 'TIME': write one of REAL, MVQ, SVQ, SQ"),
        (2, "unknown DEC label 'MVQ': write one of REAL, TIME, FREQ"),
    ]


@pytest.mark.parametrize("folder", ["all_data_16k", "unpacked/all_data_16k", "Codecfake_plus_CoRS", ""])
def test_clips_of_cors_are_found_wherever_the_archive_was_unpacked(tmp_path, folder):
    trees.write_evaluation_list(tmp_path, "CoRS_ALL", ["p227 p227_001 - - bonafide"])
    path = trees.write_clip(tmp_path / folder / "p227_001.wav")
    assert CORS.read(tmp_path, "eval")["test"][0].audio == str(path)


@pytest.mark.parametrize("folder", ["SLMdemos_16k", "unpacked/SLMdemos_16k", "CodecFake_plus_CoSG", ""])
def test_clips_of_cosg_are_found_wherever_the_archive_was_unpacked(tmp_path, folder):
    trees.write_evaluation_list(tmp_path, "CoSG_ALL", ["USLM clip_1 - spoof"])
    path = trees.write_clip(tmp_path / folder / "USLM" / "clip_1.wav")
    assert COSG.read(tmp_path, "all")["test"][0].audio == str(path)


def test_flac_is_taken_before_wav(tmp_path):
    trees.write_evaluation_list(tmp_path, "CoRS_ALL", ["p227 p227_001 - - bonafide"])
    trees.write_clip(tmp_path / "all_data_16k" / "p227_001.wav")
    path = trees.write_clip(tmp_path / "all_data_16k" / "p227_001.flac")
    assert CORS.read(tmp_path, "eval")["test"][0].audio == str(path)


def test_a_clip_of_one_generator_never_stands_for_anothers(tmp_path):
    trees.write_evaluation_list(tmp_path, "CoSG_ALL", ["USLM clip_1 - spoof", "NS3 clip_1 - spoof"])
    path = trees.write_clip(tmp_path / "SLMdemos_16k" / "NS3" / "clip_1.wav")
    rows = COSG.read(tmp_path, "all", missing_audio="ignore")["test"]
    assert [row.audio for row in rows] == [None, str(path)]


def test_missing_clips_are_an_error_or_dropped(small_cors):
    (small_cors / "all_data_16k" / "p227_001_mini.wav").unlink()
    with pytest.raises(ProtocolError, match=r"1 of 124 clips .*'p227_001_mini' \(test, line 17\)"):
        CORS.read(small_cors, "eval")
    rows = CORS.read(small_cors, "eval", missing_audio="drop")["test"]
    assert len(rows) == 123 and "p227_001_mini" not in {row.utterance_id for row in rows}


@pytest.mark.parametrize(
    "place", ["CoRS_ALL.txt", "evaluation/CoRS_ALL.txt", "repository/SAST_Net/metadata/evaluation/CoRS_ALL.txt"]
)
def test_lists_are_found_in_a_clone_or_by_themselves(tmp_path, place):
    trees.write_list(tmp_path / place, ["p227 p227_001 - - bonafide"])
    assert len(CORS.read(tmp_path, "eval", missing_audio="ignore")["test"]) == 1


def test_a_missing_list_is_named_with_the_expected_tree(tmp_path):
    with pytest.raises(CorpusNotFoundError, match=r"(?s)no train_mult_learn_bal_vq.txt: .*all_data_16k/.*github.com"):
        CORS.read(tmp_path, "vq")


def test_utterances_is_one_of_three_and_must_leave_something(small_cors):
    with pytest.raises(ValueError, match="utterances is 'heard'; write one of 'all', 'seen', 'unseen'"):
        CORS.read(small_cors, "eval", utterances="heard")
    with pytest.raises(ProtocolError, match="no unseen utterance in it"):
        CORS.read(small_cors, "eval", utterances="unseen")


@SMALLER_THAN_PUBLISHED
@pytest.mark.parametrize("streaming", [False, True])
def test_cors_loads_as_a_dataset(small_cors, tmp_path, streaming):
    pytest.importorskip("datasets")
    from spooftrace.data_scripts import load_corpus

    loaded = load_corpus(
        "codecfake-plus-cors", small_cors, config="vq", streaming=streaming, cache_dir=tmp_path / "hf"
    )
    assert sorted(loaded) == ["test", "train", "validation"]
    assert loaded["train"].features["vq"].names == ["bonafide", "mvq", "svq", "sq"]
    first, second = list(loaded["train"])[:2]
    assert (first["utterance_id"], first["label"], first["vq"], first["codec"]) == ("p333_001", 0, 0, None)
    assert (second["label"], second["vq"], second["speaker_id"], second["utterance_number"]) == (1, 1, "p333", 1)
    assert first["audio"]["path"] == str(small_cors / "all_data_16k" / "p333_001.wav")


@SMALLER_THAN_PUBLISHED
@pytest.mark.parametrize("streaming", [False, True])
def test_cosg_loads_as_a_dataset(small_cosg, tmp_path, streaming):
    pytest.importorskip("datasets")
    from spooftrace.data_scripts import load_corpus

    options = {"config": "known", "split": "test", "streaming": streaming, "cache_dir": tmp_path / "hf"}
    rows = list(load_corpus("codecfake-plus-cosg", small_cosg, **options))
    assert len(rows) == 74
    spoof = next(row for row in rows if row["utterance_id"] == "USLM/clip_0")
    assert (spoof["label"], spoof["aux"], spoof["known_codec"], spoof["attack_id"]) == (1, 2, True, "USLM")


@SMALLER_THAN_PUBLISHED
def test_seen_utterances_load_as_a_dataset_of_their_own(small_cors, tmp_path):
    pytest.importorskip("datasets")
    from spooftrace.data_scripts import load_corpus

    lines = [
        line.replace("_001", "_251").replace("_002", "_250") for line in trees.evaluation_lines(trees.SMALL["test"])
    ]
    trees.write_evaluation_list(small_cors, "CoRS_ALL", lines)
    common = {"config": "eval", "split": "test", "missing_audio": "ignore", "cache_dir": tmp_path / "hf"}
    sizes = [
        len(load_corpus("codecfake-plus-cors", small_cors, utterances=which, **common))
        for which in ("all", "seen", "unseen")
    ]
    assert sizes == [128, 64, 64]
