"""
In-the-Wild: speech of public figures, genuine and fake, collected from the web.

`meta.csv` has the columns `file,speaker,label`; genuine speech is `bona-fide` there, with a hyphen. There are no splits and
no names of attacks: everything is for testing.
"""

from collections.abc import Mapping
from pathlib import Path

from spooftrace.data_scripts.corpus import Corpus, Totals
from spooftrace.data_scripts.protocol import AudioFolder, Problem, Problems, ProtocolError, locate, null
from spooftrace.data_scripts.records import read_csv
from spooftrace.data_scripts.rows import Row, codec_attributes


_NAME = "in-the-wild"
_COLUMNS = ("file", "speaker", "label")
_LABELS = {"bona-fide": "bonafide", "spoof": "spoof"}

LAYOUT = """Expected, as release_in_the_wild.zip unpacks:
  release_in_the_wild/meta.csv
  release_in_the_wild/0.wav ... 31778.wav
It is at https://huggingface.co/datasets/mueller91/In-The-Wild."""


def find(root: Path, config: str) -> dict[str, Path]:
    candidates = ["meta.csv", "release_in_the_wild/meta.csv"]
    return {"test": locate(root, candidates, "list of In-the-Wild", LAYOUT)}


def parse(root: Path, config: str, files: Mapping[str, Path]) -> dict[str, list[Row]]:
    problems = Problems(files["test"])
    table = read_csv(problems)
    for name in _COLUMNS:
        if table.columns and name not in table.columns:
            problems.add(0, f"no column {name!r}, only {', '.join(map(repr, table.columns))}: is it the right file?")
    problems.raise_any()
    audio = AudioFolder([problems.path.parent], (".wav", ".flac", ".mp3"))
    rows = [_row(problems, line, record, audio) for line, record in table.records]
    problems.raise_any()
    if not rows:
        raise ProtocolError(problems.path, [Problem(0, "no trial in it: is it the right file, and whole?")])
    return {"test": rows}


def _row(problems: Problems, line: int, record: Mapping[str, str], audio: AudioFolder) -> Row:
    label = problems.label(line, record["label"].strip(), _LABELS)
    name = record["file"].strip()
    if "/" in name or "\\" in name:
        problems.add(line, f"file {name!r} is in another folder: give the name alone, all lie beside meta.csv")
    utterance_id = Path(name).stem
    problems.check_id(line, utterance_id)
    return Row(
        utterance_id=utterance_id,
        label=label,
        corpus=_NAME,
        audio=audio.find(utterance_id),
        speaker_id=null(record["speaker"].strip()),
        line=line,
        **codec_attributes(label),
    )


CORPORA = (
    Corpus(
        name=_NAME,
        title="In-the-Wild",
        homepage="https://huggingface.co/datasets/mueller91/In-The-Wild",
        license="cc-by-sa-4.0",
        license_note=(
            "The licence on the authors' card on the Hub: share alike, with attribution. Copies elsewhere state "
            "Apache-2.0. The recordings are of public figures, whose rights no such licence covers."
        ),
        citation=(
            "Nicolas M. Müller et al. Does Audio Deepfake Detection Generalize? Interspeech 2022. arXiv:2203.16263."
        ),
        description=(
            "31,779 clips of English-speaking celebrities and politicians, 20.7 hours genuine and 17.2 hours fake, "
            "from publicly available sources. A test of how a detector does outside the laboratory."
        ),
        layout=LAYOUT,
        configs={"default": "all clips, for testing"},
        find=find,
        parse=parse,
        totals={("default", "test"): Totals(19_963, 11_816)},
        source_speech=("In-the-Wild",),
    ),
)
