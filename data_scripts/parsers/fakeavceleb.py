"""
FakeAVCeleb v1.2, the audio of it.

`meta_data.csv` lists videos of four types, by whether video and audio are real or fake. The label here is that of the
audio alone, which gives the 10,209 genuine and 11,335 fake trials of published audio evaluations. Of these genuine
trials, 9,709 are fake videos with the audio of one of the 500 real videos; `audio_unique` leaves them out. All fake
audio was made by one system, SV2TTS (`rtvc`); the column `method` is about the video.

The official file names its columns up to `gender`; the next two, the file's name and its folder, have shifted names
(`path` and none, or `filename` and `path` in copies), so these are recognised by what is in them.
"""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from spooftrace.data_scripts.corpus import Corpus, Totals
from spooftrace.data_scripts.protocol import Problem, Problems, ProtocolError, escape_id, is_clip, locate, null
from spooftrace.data_scripts.records import csv_rows
from spooftrace.data_scripts.rows import Row, codec_attributes
from spooftrace.data_scripts.video_audio import Extraction, extract_all


_NAME = "fakeavceleb"
_TYPES = {
    "RealVideo-RealAudio": "bonafide",
    "FakeVideo-RealAudio": "bonafide",
    "RealVideo-FakeAudio": "spoof",
    "FakeVideo-FakeAudio": "spoof",
}
_REPEATED = "FakeVideo-RealAudio"
_NEEDED = ("source", "method", "type", "race", "gender")
_EXTRA = ("method", "category", "race", "gender", "target1", "target2")
_SUFFIXES = (".flac", ".wav", ".mp3")

AUDIO_FOLDER = "FakeAVCeleb-audio"

LAYOUT = """Expected:
  FakeAVCeleb_v1.2/meta_data.csv
  FakeAVCeleb_v1.2/{RealVideo-RealAudio,...}/<race>/<gender>/<id>/*.mp4
  FakeAVCeleb_v1.2/FakeAVCeleb-audio/{RealVideo-RealAudio,...}/<race>/<gender>/<id>/*.flac (or .wav, .mp3)
The videos come on request from https://github.com/DASH-Lab/FakeAVCeleb. Their audio is written by
  spooftrace corpus extract-audio fakeavceleb FakeAVCeleb_v1.2
which needs ffmpeg."""


def find(root: Path, config: str) -> dict[str, Path]:
    candidates = [f"{folder}meta_data.csv" for folder in ("", "FakeAVCeleb_v1.2/", "FakeAVCeleb/", f"{AUDIO_FOLDER}/")]
    return {"test": locate(root, candidates, "list of FakeAVCeleb", LAYOUT)}


def parse(root: Path, config: str, files: Mapping[str, Path]) -> dict[str, list[Row]]:
    path = files["test"]
    rows = read_rows(path, _audio_folders(path))
    if config == "audio_unique":
        rows = [row for row in rows if row.subset != _REPEATED]
    return {"test": rows}


def extract_audio(
    root: str | os.PathLike,
    out: str | os.PathLike | None = None,
    ffmpeg: str | os.PathLike | None = None,
    *,
    config: str = "audio_all",
    workers: int | None = None,
    progress: bool = True,
) -> Extraction:
    """
    Writes the audio of every video of a configuration as 16 kHz mono FLAC, in folders like those of the videos.

    It can be stopped and called again; files that are there stay as they are.

    Args:
        root: the folder of FakeAVCeleb.
        out: by default the folder `FakeAVCeleb-audio` beside `meta_data.csv`, where the corpus is read from.
        ffmpeg: the program; by default the one on the PATH.
        config: `"audio_unique"` leaves out the videos that repeat the audio of a real one.
        workers: videos at a time; by default one per processor.
        progress: show a bar.

    Raises:
        CorpusNotFoundError, ProtocolError: as for reading the corpus.
        FileNotFoundError: without ffmpeg.
    """
    CORPORA[0].check_config(config)
    root = Path(root).expanduser().absolute()
    files = find(root, config)
    path = files["test"]
    out = Path(out).expanduser() if out else path.parent / AUDIO_FOLDER
    names = [_file_of(row) for row in parse(root, config, files)["test"]]
    pairs = [(path.parent / f"{name}.mp4", out / f"{name}.flac") for name in names]
    return extract_all(pairs, ffmpeg, workers=workers, progress=progress)


def _file_of(row: Row) -> str:
    """Name of a trial's files, without an ending, relative to the corpus's folder."""
    return unquote(row.utterance_id)


def _audio_folders(path: Path) -> list[Path]:
    candidates = [path.parent / AUDIO_FOLDER, path.parent.parent / AUDIO_FOLDER, path.parent]
    return [folder for folder in candidates if folder.is_dir()]


def read_rows(path: Path, folders: list[Path]) -> list[Row]:
    """
    All trials of `meta_data.csv`.

    Args:
        path: the list.
        folders: where the audio may be, in this order.

    Raises:
        ProtocolError: with all problems of the list.
    """
    problems = Problems(path)
    lines = csv_rows(problems)
    header = [name.strip().lower() for name in next(lines, (0, []))[1]]
    lacking = [name for name in _NEEDED if name not in header]
    if lacking:
        problems.add(0, f"no column {', '.join(lacking)}: is it FakeAVCeleb's meta_data.csv?")
        problems.raise_any()
    rows = [_row(problems, line, cells, header, folders) for line, cells in lines]
    problems.raise_any()
    if not rows:
        raise ProtocolError(path, [Problem(0, "no trial in it: is it the right file, and whole?")])
    return rows


def _row(problems: Problems, line: int, cells: list[str], header: list[str], folders: list[Path]) -> Row | None:
    cells = [cell.strip() for cell in cells]
    record = dict(zip(header, cells, strict=False))
    if len(cells) < len(_NEEDED) or any(name not in record for name in _NEEDED):
        problems.add(line, f"{len(cells)} fields, expected at least {len(header)}")
        return None
    label = problems.label(line, record["type"], _TYPES)
    name = _name(problems, line, cells, record)
    if label is None or name is None or not problems.check_id(line, escape_id(name)):
        return None
    return Row(
        utterance_id=escape_id(name),
        label=label,
        corpus=_NAME,
        audio=_audio(name, folders),
        attack_id="rtvc" if label == "spoof" else None,
        speaker_id=null(record["source"]),
        subset=record["type"],
        extra={column: null(record.get(column, "")) for column in _EXTRA},
        line=line,
        **codec_attributes(label),
    )


def _name(problems: Problems, line: int, cells: list[str], record: Mapping[str, str]) -> str | None:
    """The video's path without its ending, from the type on: by the cell with the folder, or the columns that make it."""
    files = [cell for cell in cells if cell.lower().endswith(".mp4")]
    if len(files) != 1:
        problems.add(line, f"{len(files)} names ending in .mp4, expected 1")
        return None
    whole = [cell for cell in cells if cell.startswith("FakeAVCeleb") and "/" in cell]
    folders = [cell.rpartition("/")[0] if cell in files else cell for cell in whole]
    made = [record[column] for column in ("type", "race", "gender", "source")]
    inner = folders[0].split("/")[1:] if folders else made
    file = PurePosixPath(*filter(None, inner), PurePosixPath(files[0]).name)
    if not problems.check_path(line, str(file)):
        return None
    if file.parts[0] != record["type"]:
        problems.add(line, f"folder {file.parts[0]!r} and type {record['type']!r} differ: mend one of the two")
        return None
    return str(file.with_suffix(""))


def _audio(name: str, folders: list[Path]) -> str | None:
    paths = (f"{folder}{os.sep}{name}{suffix}" for folder in folders for suffix in _SUFFIXES)
    return next(filter(is_clip, paths), None)


CORPORA = (
    Corpus(
        name=_NAME,
        title="FakeAVCeleb v1.2, audio",
        homepage="https://github.com/DASH-Lab/FakeAVCeleb",
        license="other",
        license_note=(
            "For research only, on request, and not to be passed on: nothing of it is published from here. The exact "
            "terms come with the authors' answer and were not verified."
        ),
        citation=(
            "Hasam Khalid, Shahroz Tariq, Minha Kim, Simon S. Woo. FakeAVCeleb: A Novel Audio-Video Multimodal Deepfake "
            "Dataset. NeurIPS 2021, Datasets and Benchmarks. arXiv:2108.05080."
        ),
        description=(
            "Videos of 500 celebrities from VoxCeleb2 and fakes of them; here their audio. One attack: SV2TTS. In "
            "audio_all the audio of each genuine video comes back in about 19 fake videos."
        ),
        layout=LAYOUT,
        configs={
            "audio_all": "the audio of every video, as papers count it",
            "audio_unique": "without the genuine audio that fake videos repeat; of the fake audio, repeated or not, nothing is left out",
        },
        find=find,
        parse=parse,
        extra=dict.fromkeys(_EXTRA, "string"),
        totals={
            ("audio_all", "test"): Totals(10_209, 11_335),
            ("audio_unique", "test"): Totals(500, 11_335),
        },
        redistribution="refused",
        source_speech=("VoxCeleb2",),
    ),
)
