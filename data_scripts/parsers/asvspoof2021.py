"""ASVspoof 2021, logical access and deepfake: evaluation data only, with the keys in a download of their own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from spooftrace.data_scripts.corpus import Corpus, Totals
from spooftrace.data_scripts.parsers._asvspoof import ATTRIBUTES, KEYS, audio_folder
from spooftrace.data_scripts.protocol import AudioFolder, Problems, locate, null, parse_lines
from spooftrace.data_scripts.rows import Row


_SPLITS = {"eval": "test", "progress": "progress", "hidden": "hidden"}
_SPELLINGS = {"hidden_track": "hidden"}  # the evaluation scripts call it so
_TRIM = {"notrim": False, "trim": True}
_FIELDS = ("speaker", "utterance", "codec", "", "attack", "key", "trim", "subset")
_VCC_FIELDS = ("vocoder", "task", "team", "gender", "language")


class _Track(NamedTuple):
    """
    One of the two tracks.

    Args:
        part: `"LA"` or `"DF"`.
        fourth: what the fourth column holds.
        uncoded: how the third column writes that a clip went through no codec.
        fields: accepted numbers of columns.
        names: of the columns after the eighth, each a column of the rows too.
    """

    part: str
    fourth: str
    uncoded: str
    fields: Sequence[int]
    names: tuple[str, ...] = ()

    @property
    def corpus(self) -> str:
        return f"asvspoof2021-{self.part.lower()}"

    @property
    def columns(self) -> str:
        return ", ".join(name or self.fourth for name in _FIELDS + self.names)


_LA = _Track("LA", "transmission", "none", (8,))
# The first release of the DF keys is said to have fewer columns than the full one: the last ones are filled with nulls.
_DF = _Track("DF", "source", "nocodec", range(8, 14), _VCC_FIELDS)


def _layout(part: str, record: str, archives: str, checksum: str) -> str:
    return f"""\
Audio: unpack {archives} of https://zenodo.org/records/{record}
Labels: they are not in the list that comes with the audio. Unpack
  https://www.asvspoof.org/asvspoof2021/{part}-keys-full.tar.gz (md5 {checksum}) beside it:
  ASVspoof2021_{part}_eval/flac/{part}_E_1000001.flac ...
  keys/{part}/CM/trial_metadata.txt"""


LA_LAYOUT = _layout("LA", "4837263", "ASVspoof2021_LA_eval.tar.gz", "f052cc2ed276745afa3b5198665d3b26")
DF_LAYOUT = _layout(
    "DF", "4835108", "ASVspoof2021_DF_eval_part00.tar.gz to part03", "dabbc5628de4fcef53036c99ac7ab93a"
)


def _find(track: _Track, layout: str) -> Callable[[Path, str], dict[str, Path]]:
    full, first = f"{track.part}/CM/trial_metadata.txt", "keys/CM/trial_metadata.txt"
    keys = [f"keys/{full}", full, f"*/keys/{full}", f"*/{full}"]
    # The first release of the keys does not name the track.
    keys += [f"*{track.part}*/{first}", first, f"ASVspoof2021_{track.part}_eval/CM/trial_metadata.txt"]

    def find(root: Path, config: str) -> dict[str, Path]:
        return {"keys": locate(root, keys, "keys", layout)}

    return find


def _parse(track: _Track) -> Callable[..., dict[str, list[Row]]]:
    name = f"ASVspoof2021_{track.part}_eval"
    places = ("flac", f"{name}*/flac", f"*/{name}*/flac")  # the parts of DF may each have been unpacked on their own

    def parse(root: Path, config: str, files: Mapping[str, Path]) -> dict[str, list[Row]]:
        row = partial(_row, track=track, audio=audio_folder(root, places))
        rows = parse_lines(files["keys"], row, track.fields, track.columns)
        splits = {split: [row for row in rows if row.subset == subset] for subset, split in _SPLITS.items()}
        return {split: found for split, found in splits.items() if found}

    return parse


def _row(problems: Problems, line: int, fields: list[str], track: _Track, audio: AudioFolder) -> Row | None:
    speaker, utterance, codec, fourth, attack, key, trim, subset = fields[:8]
    subset = _SPELLINGS.get(subset, subset)
    label = problems.label(line, key, KEYS)
    known = _check(problems, line, "trim", trim, _TRIM) and _check(problems, line, "subset", subset, _SPLITS)
    if not utterance.startswith(f"{track.part}_E_"):
        problems.add(line, f"utterance {utterance!r} is none of {track.part}: give the keys of that track")
        return None
    if not problems.check_id(line, utterance) or not known or label is None:
        return None
    rest = {name: null(text, "bonafide") for name, text in zip(track.names, fields[8:], strict=False)}
    return Row(
        utterance_id=utterance,
        label=label,
        corpus=track.corpus,
        audio=audio.find(utterance),
        attack_id=None if label == "bonafide" else null(attack),
        speaker_id=null(speaker),
        subset=subset,
        codec=null(codec, track.uncoded),
        extra={track.fourth: null(fourth, "none"), "trim": _TRIM[trim], **rest},
        line=line,
        **ATTRIBUTES[label],
    )


def _check(problems: Problems, line: int, what: str, text: str, known: Mapping[str, object]) -> bool:
    if text not in known:
        problems.add(line, f"unknown {what} {text!r}: it is one of {', '.join(map(repr, known))}")
    return text in known


_CITATION = (
    "Xuechen Liu et al. ASVspoof 2021: Towards Spoofed and Deepfake Speech Detection in the Wild. "
    "IEEE/ACM Transactions on Audio, Speech, and Language Processing 31, 2507-2522, 2023."
)
_LICENSE_NOTE = (
    "Said to be under Open Data Commons Attribution 1.0, which was not verified: read the licence of the Zenodo record. "
    "Until then only the metadata are published."
)
_CONFIGS = {
    "eval": "test is the subset eval of the published error rates; progress and hidden are splits of their own"
}

CORPORA = (
    Corpus(
        name=_LA.corpus,
        title="ASVspoof 2021 LA",
        homepage="https://www.asvspoof.org/index2021.html",
        license="other",
        license_note=_LICENSE_NOTE,
        citation=_CITATION,
        description=(
            "Logical access of the ASVspoof 2021 challenge: spoofs by A07 to A19 and genuine speech, sent through "
            "telephone codecs and networks. Evaluation only."
        ),
        layout=LA_LAYOUT,
        configs=_CONFIGS,
        find=_find(_LA, LA_LAYOUT),
        parse=_parse(_LA),
        extra={"transmission": "string", "trim": "bool"},
        totals={
            ("eval", "test"): Totals(14_816, 133_360),
            ("eval", "progress"): Totals(1_676, 14_788),
            ("eval", "hidden"): Totals(1_960, 14_966),
        },
        redistribution="metadata",
        source_speech=("VCTK",),
    ),
    Corpus(
        name=_DF.corpus,
        title="ASVspoof 2021 DF",
        homepage="https://www.asvspoof.org/index2021.html",
        license="other",
        license_note=_LICENSE_NOTE,
        citation=_CITATION,
        description=(
            "Deepfake track of the ASVspoof 2021 challenge: more than a hundred spoofing systems of ASVspoof 2019 and "
            "of the Voice Conversion Challenges 2018 and 2020, through lossy media codecs. Evaluation only."
        ),
        layout=DF_LAYOUT,
        configs=_CONFIGS,
        find=_find(_DF, DF_LAYOUT),
        parse=_parse(_DF),
        extra={"source": "string", "trim": "bool", **dict.fromkeys(_VCC_FIELDS, "string")},
        totals={("eval", "test"): Totals(14_869, 519_059)},
        redistribution="metadata",
        source_speech=("VCTK", "VCC 2018", "VCC 2020"),
        languages=("en", "de", "fi", "zh"),
    ),
)
