"""The taxonomy of CodecFake+: numbers of the paper and of its lists, spellings, and utterance ids."""

from collections import Counter

import pytest

from spooftrace.data_scripts.rows import AUX_LABELS, DEC_LABELS, VQ_LABELS
from spooftrace.data_scripts.taxonomy import (
    CODECS,
    GENERATORS,
    LIST_LABELS,
    attribute_label,
    get_codec,
    get_generator,
    parse_utterance,
)


def tally(entries, attribute):
    return dict(Counter(getattr(entry, attribute) for entry in entries.values()))


def test_thirty_one_codecs_fall_into_the_published_classes():
    assert len(CODECS) == 31
    assert tally(CODECS, "vq") == {"mvq": 25, "svq": 4, "sq": 2}
    assert tally(CODECS, "aux") == {"none": 18, "semantic": 8, "disentanglement": 5}
    assert tally(CODECS, "dec") == {"time": 19, "frequency": 12}


def test_seventeen_generators_of_which_fourteen_have_a_known_codec():
    assert len(GENERATORS) == 17
    unknown = {name for name, generator in GENERATORS.items() if not generator.known_codec}
    assert unknown == {"MASKGCT", "NS2", "SINGLECODEC"}
    assert tally(GENERATORS, "vq") == {"mvq": 13, "sq": 2, "svq": 2}
    assert tally(GENERATORS, "aux") == {"none": 13, "disentanglement": 3, "semantic": 1}
    assert tally(GENERATORS, "dec") == {"time": 14, "frequency": 3}


def test_every_class_is_one_of_the_row_labels_and_none_is_bona_fide():
    for entry in [*CODECS.values(), *GENERATORS.values()]:
        assert entry.vq in VQ_LABELS[1:] and entry.aux in AUX_LABELS[1:] and entry.dec in DEC_LABELS[1:]
        assert entry.attributes == (entry.vq, entry.aux, entry.dec)


@pytest.mark.parametrize(
    "tag, attributes",
    [
        ("ticodec_1g1r", ("svq", "disentanglement", "time")),
        ("ticodec_1g2r", ("mvq", "disentanglement", "time")),
        ("FunCodec_en-libritts-16k-gr1nq32ds320", ("mvq", "none", "frequency")),
        ("FunCodec_zh_en-general-16k-nq32ds320", ("mvq", "none", "time")),
        ("spectralcodecs", ("sq", "none", "frequency")),
        ("socodec_16384x4_120ms_16khz_chinese", ("mvq", "disentanglement", "frequency")),
        ("SemantiCodec_0.35kbps_16k", ("mvq", "semantic", "frequency")),
    ],
)
def test_codecs_that_are_easily_confused_keep_their_classes(tag, attributes):
    assert get_codec(tag).attributes == attributes


@pytest.mark.parametrize(
    "alias, tag",
    [
        ("mimicodec", "mini"),
        ("xcodec_hubert_librispeech", "xcodec_hubert_libirispeech"),
        ("xcodec_hubert_general_audio", "xocdec_hubert_general_audio"),
    ],
)
def test_better_spellings_are_the_codec_of_the_file_names(alias, tag):
    assert get_codec(alias) is get_codec(tag) is get_codec(parse_utterance(f"p225_001_{alias}").suffix)
    assert get_codec(alias).tag == tag


def test_an_unknown_codec_or_generator_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown codec 'bigcodek': did you mean 'bigcodec'\?"):
        get_codec("bigcodek")
    with pytest.raises(ValueError, match=r"unknown codec 'zzz'; there are DAC24, .*xocdec"):
        get_codec("zzz")
    with pytest.raises(ValueError, match=r"unknown generator 'VALL-E': did you mean 'VALLE'\?"):
        get_generator("VALL-E")


@pytest.mark.parametrize("tag", sorted(CODECS))
@pytest.mark.parametrize("source", ["p225_001", "s5_400", "p376_02"])
def test_the_codec_is_read_from_an_id_of_any_speaker(source, tag):
    assert parse_utterance(source).suffix is None
    assert parse_utterance(f"{source}_{tag}").suffix == tag == get_codec(tag).tag


def test_an_id_tells_speaker_number_and_source():
    assert parse_utterance("s5_400_xocdec_hubert_general_audio") == (
        "s5",
        400,
        "s5_400",
        "xocdec_hubert_general_audio",
    )
    assert parse_utterance("p225_007") == ("p225", 7, "p225_007", None)


@pytest.mark.parametrize(
    "name", ["", "x225_001", "p225", "p225_", "p225_001_", "p225_001_big codec", "p225-001", "s6_1"]
)
def test_an_id_of_another_kind_is_refused(name):
    with pytest.raises(ValueError, match="is no utterance of CoRS: write it as in 'p225_001'"):
        parse_utterance(name)


def test_list_labels_cover_every_class_once():
    assert tuple(LIST_LABELS["vq"].values()) == VQ_LABELS
    assert tuple(LIST_LABELS["aux"].values()) == AUX_LABELS
    assert tuple(LIST_LABELS["dec"].values()) == DEC_LABELS


@pytest.mark.parametrize(
    "attribute, text, label",
    [
        ("aux", "Trad", "none"),
        ("aux", "None", "none"),
        ("aux", "SEM", "semantic"),
        ("aux", "Semantic", "semantic"),
        ("aux", "Disent", "disentanglement"),
        ("aux", "Disentangle", "disentanglement"),
        ("dec", "FREQ", "frequency"),
        ("dec", "Time", "time"),
        ("vq", "REAL", "bonafide"),
        ("vq", "bonafide", "bonafide"),
        ("vq", "mvq", "mvq"),
    ],
)
def test_other_spellings_of_a_class_are_read(attribute, text, label):
    assert attribute_label(attribute, text) == label


def test_a_class_of_another_attribute_is_refused():
    with pytest.raises(ValueError, match="unknown VQ label 'TIME': write one of REAL, MVQ, SVQ, SQ"):
        attribute_label("vq", "TIME")
