"""ASVspoof 2019, logical access."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spooftrace.data_scripts.corpus import Corpus, Totals
from spooftrace.data_scripts.parsers._asvspoof import SPLITS, Trial, audio_folder, find_parts, read_part
from spooftrace.data_scripts.rows import Row


_NAME = "asvspoof2019-la"
_FIELDS = "speaker, utterance, -, attack, key"
_PROTOCOLS = {
    "train": "ASVspoof2019.LA.cm.train.trn.txt",
    "dev": "ASVspoof2019.LA.cm.dev.trl.txt",
    "eval": "ASVspoof2019.LA.cm.eval.trl.txt",
}

LAYOUT = """\
Download LA.zip from https://datashare.ed.ac.uk/handle/10283/3336 and unpack it. Give the folder LA, or the one above:
  LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm.{train.trn,dev.trl,eval.trl}.txt
  LA/ASVspoof2019_LA_train/flac/LA_T_1000137.flac ...
  LA/ASVspoof2019_LA_dev/flac/LA_D_1000265.flac ...
  LA/ASVspoof2019_LA_eval/flac/LA_E_1000147.flac ..."""


def find(root: Path, config: str) -> dict[str, Path]:
    places = ("ASVspoof2019_LA_cm_protocols/", "LA/ASVspoof2019_LA_cm_protocols/", "")
    return find_parts(root, {part: [place + name for place in places] for part, name in _PROTOCOLS.items()}, LAYOUT)


def parse(root: Path, config: str, files: Mapping[str, Path]) -> dict[str, list[Row]]:
    return {SPLITS[part]: _read(root, part, path) for part, path in files.items()}


def _read(root: Path, part: str, path: Path) -> list[Row]:
    audio = audio_folder(root, [f"{top}ASVspoof2019_LA_{part}/flac" for top in ("", "LA/")])
    return read_part(path, _NAME, part, audio, _FIELDS, _trial)


def _trial(fields: Sequence[str]) -> Trial:
    speaker, utterance, _, system, key = fields
    return Trial(speaker, utterance, system, key)


CORPORA = (
    Corpus(
        name=_NAME,
        title="ASVspoof 2019 LA",
        homepage="https://datashare.ed.ac.uk/handle/10283/3336",
        license="odc-by",
        license_note="Open Data Commons Attribution 1.0. The genuine speech is from VCTK. Free to share with attribution.",
        citation=(
            "Xin Wang et al. ASVspoof 2019: A large-scale public database of synthesized, converted and replayed "
            "speech. Computer Speech & Language 64, 101114, 2020."
        ),
        description=(
            "Logical access of the ASVspoof 2019 challenge: English speech from VCTK, and spoofs by text-to-speech and "
            "voice conversion. A01 to A06 are in training and development, A07 to A19 in the evaluation."
        ),
        layout=LAYOUT,
        configs={"la": "logical access: training, development and evaluation"},
        find=find,
        parse=parse,
        totals={
            ("la", "train"): Totals(2_580, 22_800),
            ("la", "validation"): Totals(2_548, 22_296),
            ("la", "test"): Totals(7_355, 63_882),
        },
        source_speech=("VCTK",),
    ),
)
