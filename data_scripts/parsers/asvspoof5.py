"""ASVspoof 5, track 1. Its `.tsv` protocols are divided by spaces and have no header."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spooftrace.data_scripts.corpus import Corpus, Totals
from spooftrace.data_scripts.parsers._asvspoof import SPLITS, Trial, audio_folder, find_parts, read_part
from spooftrace.data_scripts.protocol import null
from spooftrace.data_scripts.rows import Row


_NAME = "asvspoof5"
_FIELDS = "speaker, utterance, gender, codec, codec quality, codec seed, attack tag, attack, key, -"
_PROTOCOLS = {
    "train": "ASVspoof5.train.tsv",
    "dev": "ASVspoof5.dev.track_1.tsv",
    "eval": "ASVspoof5.eval.track_1.tsv",
}
_FOLDERS = {"train": ("flac_T",), "dev": ("flac_D",), "eval": ("flac_E_eval", "flac_E")}

LAYOUT = """\
Download from https://zenodo.org/records/14498691 and unpack ASVspoof5_protocols.tar.gz and the parts that you want:
  ASVspoof5_protocols/ASVspoof5.{train,dev.track_1,eval.track_1}.tsv
  flac_T/T_0000000000.flac ...       from flac_T_aa.tar to flac_T_ae.tar
  flac_D/D_0000000001.flac ...       from flac_D_aa.tar to flac_D_ac.tar
  flac_E_eval/E_0000000002.flac ...  from flac_E_aa.tar to flac_E_aj.tar"""


def find(root: Path, config: str) -> dict[str, Path]:
    places = ("ASVspoof5_protocols/", "protocols/", "", "*/", "*/ASVspoof5_protocols/")
    return find_parts(root, {part: [place + name for place in places] for part, name in _PROTOCOLS.items()}, LAYOUT)


def parse(root: Path, config: str, files: Mapping[str, Path]) -> dict[str, list[Row]]:
    return {SPLITS[part]: _read(root, part, path) for part, path in files.items()}


def _read(root: Path, part: str, path: Path) -> list[Row]:
    audio = audio_folder(root, [place + name for name in _FOLDERS[part] for place in ("", "*/")])
    return read_part(path, _NAME, part, audio, _FIELDS, _trial)


def _trial(fields: Sequence[str]) -> Trial:
    speaker, utterance, gender, codec, quality, seed, tag, system, key, _ = fields
    extra = {
        "gender": null(gender),
        "codec_quality": null(quality, "0"),  # the evaluation writes 0 for a clip without codec
        "source_utterance": null(seed, "0"),
        "attack_group": null(tag),
    }
    return Trial(speaker, utterance, system, key, {"codec": null(codec), "extra": extra})


CORPORA = (
    Corpus(
        name=_NAME,
        title="ASVspoof 5",
        homepage="https://zenodo.org/records/14498691",
        license="odc-by",
        license_note=(
            "By section 4 of the database's own README.txt: Open Data Commons Attribution 1.0, the bona fide data CC BY "
            "4.0. Free to share with attribution. The genuine speech is from Multilingual LibriSpeech."
        ),
        citation=(
            "Xin Wang et al. ASVspoof 5: Design, Collection and Validation of Resources for Spoofing, Deepfake, and "
            "Adversarial Attack Detection Using Crowdsourced Speech. arXiv:2502.08857, 2025."
        ),
        description=(
            "Stand-alone deepfake detection of the ASVspoof 5 challenge: crowdsourced English speech of some two thousand "
            "speakers, 32 attacks of which 16 are in the evaluation, and codecs C01 to C11 there."
        ),
        layout=LAYOUT,
        configs={"track1": "stand-alone detection: training, development and evaluation"},
        find=find,
        parse=parse,
        extra=dict.fromkeys(("gender", "codec_quality", "source_utterance", "attack_group"), "string"),
        totals={
            ("track1", "train"): Totals(18_797, 163_560),
            ("track1", "validation"): Totals(31_334, 109_616),
            ("track1", "test"): Totals(138_688, 542_086),
        },
        source_speech=("Multilingual LibriSpeech",),
    ),
)
