"""Neural codecs and codec-based generators of CodecFake+, classed by quantiser, auxiliary objective and decoder.

The classes are those of the CodecFake+ paper (arXiv 2501.08238): vector quantisation (`VQ_LABELS`), auxiliary training
objective (`AUX_LABELS`) and decoder domain (`DEC_LABELS`). Tags and names are spelt as in the corpus's file names, with
their misprints; better spellings are aliases.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from spooftrace.data_scripts.rows import AUX_LABELS, DEC_LABELS, VQ_LABELS


class Codec(NamedTuple):
    """A neural codec that re-synthesised the speech of CoRS. `tag` is the ending of its file names."""

    tag: str
    vq: str
    aux: str
    dec: str
    aliases: tuple[str, ...] = ()

    @property
    def attributes(self) -> tuple[str, str, str]:
        return self.vq, self.aux, self.dec


class Generator(NamedTuple):
    """A codec-based speech generator of CoSG. `known_codec`: its codec is one of those that CoRS was made with."""

    name: str
    vq: str
    aux: str
    dec: str
    known_codec: bool

    @property
    def attributes(self) -> tuple[str, str, str]:
        return self.vq, self.aux, self.dec


class Utterance(NamedTuple):
    """What an utterance id of CoRS tells: `p225_001_bigcodec` is VCTK's `p225_001`, spoken by `p225`, by `bigcodec`."""

    speaker: str
    number: int
    source: str
    suffix: str | None


CODECS: Mapping[str, Codec] = {
    codec.tag: codec
    for codec in (
        Codec("DAC24", "mvq", "none", "time"),
        Codec("Encodec_24b24k", "mvq", "none", "time"),
        Codec("Encodec_6b24k", "mvq", "none", "time"),
        Codec("FACodec_encodec-decoder-v2_16k", "mvq", "disentanglement", "time"),
        Codec("FunCodec_en-libritts-16k-gr1nq32ds320", "mvq", "none", "frequency"),
        Codec("FunCodec_zh_en-general-16k-nq32ds320", "mvq", "none", "time"),
        Codec("HiFi_Codec_16k_320d_large_universal", "mvq", "none", "time"),
        Codec("SemantiCodec_0.35kbps_16k", "mvq", "semantic", "frequency"),
        Codec("SemantiCodec_0.70kbps_16k", "mvq", "semantic", "frequency"),
        Codec("SemantiCodec_1.40kbps_16k", "mvq", "semantic", "frequency"),
        Codec("SpeechTokenizer_hubert_avg", "mvq", "semantic", "time"),
        Codec("audiodec_24k_320d", "mvq", "none", "frequency"),
        Codec("bigcodec", "svq", "none", "time"),
        Codec("hilcodec_speech", "mvq", "none", "time"),
        Codec("languagecodec", "mvq", "none", "frequency"),
        Codec("llm_codec", "mvq", "semantic", "time"),
        Codec("mini", "mvq", "semantic", "time", aliases=("mimicodec",)),
        Codec("snac_24khz", "mvq", "none", "time"),
        Codec("snac_44khz", "mvq", "none", "time"),
        Codec("socodec_16384x4_120ms_16khz_chinese", "mvq", "disentanglement", "frequency"),
        Codec("spectralcodecs", "sq", "none", "frequency"),
        Codec("sqcodec50dim9", "sq", "none", "time"),
        Codec("ticodec_1g1r", "svq", "disentanglement", "time"),
        Codec("ticodec_1g2r", "mvq", "disentanglement", "time"),
        Codec("ticodec_1g4r", "mvq", "disentanglement", "time"),
        Codec("vocos_encodec_12", "mvq", "none", "frequency"),
        Codec("vocos_encodec_6", "mvq", "none", "frequency"),
        Codec("wavtokenizer_medium_320_24k_4096", "svq", "none", "frequency"),
        Codec("wavtokenizer_small_320_24k_4096", "svq", "none", "frequency"),
        Codec("xcodec_hubert_libirispeech", "mvq", "semantic", "time", aliases=("xcodec_hubert_librispeech",)),
        Codec("xocdec_hubert_general_audio", "mvq", "semantic", "time", aliases=("xcodec_hubert_general_audio",)),
    )
}
"""The 31 codecs of CoRS, by tag."""

GENERATORS: Mapping[str, Generator] = {
    generator.name: generator
    for generator in (
        Generator("CLAMTTS", "mvq", "none", "frequency", True),
        Generator("ELLAV", "mvq", "none", "time", True),
        Generator("GPST", "mvq", "none", "time", True),
        Generator("MASKGCT", "mvq", "none", "frequency", False),
        Generator("NS2", "mvq", "none", "time", False),
        Generator("NS3", "mvq", "disentanglement", "time", True),
        Generator("RALLE", "mvq", "none", "time", True),
        Generator("SIMPLESPEECH1", "sq", "none", "time", True),
        Generator("SIMPLESPEECH2", "sq", "none", "time", True),
        Generator("SINGLECODEC", "svq", "disentanglement", "frequency", False),
        Generator("SPEECHX", "mvq", "none", "time", True),
        Generator("TACOLM", "mvq", "none", "time", True),
        Generator("TI1G1R", "svq", "disentanglement", "time", True),
        Generator("UNIAUDIO", "mvq", "none", "time", True),
        Generator("USLM", "mvq", "semantic", "time", True),
        Generator("VALLE", "mvq", "none", "time", True),
        Generator("VIOLA", "mvq", "none", "time", True),
    )
}
"""The 17 generators of CoSG, by name."""

ATTRIBUTE_LABELS: Mapping[str, tuple[str, ...]] = {"vq": VQ_LABELS, "aux": AUX_LABELS, "dec": DEC_LABELS}
"""Attribute -> its classes, bona fide first."""

LIST_LABELS: Mapping[str, Mapping[str, str]] = {
    "vq": {"REAL": "bonafide", "MVQ": "mvq", "SVQ": "svq", "SQ": "sq"},
    "aux": {"REAL": "bonafide", "Trad": "none", "SEM": "semantic", "Disent": "disentanglement"},
    "dec": {"REAL": "bonafide", "TIME": "time", "FREQ": "frequency"},
}
"""Attribute -> what the published lists write -> our label."""

_OTHER_SPELLINGS: Mapping[str, str] = {
    "real": "bonafide",
    "trad": "none",
    "sem": "semantic",
    "disent": "disentanglement",
    "disentangle": "disentanglement",
    "disentangled": "disentanglement",
    "freq": "frequency",
}

_UTTERANCE = re.compile(r"(?P<source>(?P<speaker>p\d+|s5)_(?P<number>\d+))(?:_(?P<suffix>\S+))?")
_ALIASES = {alias: codec.tag for codec in CODECS.values() for alias in codec.aliases}


def get_codec(tag: str) -> Codec:
    """
    A codec by its tag or one of its aliases.

    Raises:
        ValueError: for an unknown tag, with the nearest known one.
    """
    tag = _ALIASES.get(tag, tag)
    if tag not in CODECS:
        raise ValueError(f"unknown codec {tag!r}{_nearest(tag, [*CODECS, *_ALIASES])}")
    return CODECS[tag]


def get_generator(name: str) -> Generator:
    """
    A generator by its name.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown generator {name!r}{_nearest(name, GENERATORS)}")
    return GENERATORS[name]


def parse_utterance(utterance_id: str) -> Utterance:
    """
    Speaker, number and source of an utterance of CoRS; the suffix, the codec's part, is not looked up.

    Speakers are VCTK's `p225` and so on, and `s5`.

    Raises:
        ValueError: for an id that is not built like that.
    """
    match = _UTTERANCE.fullmatch(utterance_id)
    if match is None:
        raise ValueError(f"{utterance_id!r} is no utterance of CoRS: write it as in 'p225_001' or 'p225_001_bigcodec'")
    return Utterance(match["speaker"], int(match["number"]), match["source"], match["suffix"])


def attribute_label(attribute: str, text: str) -> str:
    """
    Our label for what a list writes in its column of an attribute (`"vq"`, `"aux"` or `"dec"`).

    The published lists' own strings and our labels are read, in any case.

    Raises:
        ValueError: for anything else, with the accepted strings.
    """
    label = _OTHER_SPELLINGS.get(text.lower(), text.lower())
    if label not in ATTRIBUTE_LABELS[attribute]:
        known = ", ".join(LIST_LABELS[attribute])
        raise ValueError(f"unknown {attribute.upper()} label {text!r}: write one of {known}")
    return label


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}"
