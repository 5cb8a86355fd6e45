"""Writes small copies of In-the-Wild, FakeAVCeleb, CodecFake and the Arena's test sets, in the form of the real ones."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from corpus_trees import write_clip, write_protocol


IN_THE_WILD = ("file,speaker,label", "0.wav,Alec Guinness,spoof", '1.wav,"King, Jr.",bona-fide', "2.wav,,bona-fide")

FAKEAVCELEB_HEADER = "source,target1,target2,method,category,type,race,gender,path,"
FAKEAVCELEB = (
    ("id00076", "-", "-", "real", "A", "RealVideo-RealAudio", "African", "men", "00109.mp4"),
    ("id00166", "-", "-", "real", "A", "RealVideo-RealAudio", "Asian (East)", "women", "00010.mp4"),
    ("id00076", "-", "-", "rtvc", "B", "RealVideo-FakeAudio", "African", "men", "00109_fake.mp4"),
    ("id00076", "id00701", "-", "faceswap", "C", "FakeVideo-RealAudio", "African", "men", "00109_id00701_w.mp4"),
    ("id00076", "id00476", "10", "wav2lip", "D", "FakeVideo-FakeAudio", "African", "men", "00109_10_id00476.mp4"),
)

CODECFAKE = (
    ("p225_001.wav", "genuine", "p225", "genuine"),
    ("encodec_24khz+p225_001.wav", "spoofing", "p225", "encodec_24khz"),
    ("p226_001.wav", "genuine", "p226", "genuine"),
    ("p227_001.wav", "spoofing", "p227", "SpeechTokenizer"),
    ("p227_001.wav", "spoofing", "p227", "a-new-codec"),
)

ARENA = (
    ("0.wav", 1, {"utterance_id": "ITW_0", "speaker": "Alec Guinness", "label": "spoof"}),
    ("1.wav", 0, {"utterance_id": "ITW_1", "speaker": "A B", "label": "bona-fide"}),
    ("2.wav", 1, {"utterance_id": "LA_2", "speaker_id": "LA_9", "attack_id": "A07", "codec": "alaw", "trim": None}),
    ("3.wav", 0, {"utterance_id": "LA_3", "attack_id": "bonafide", "codec": "none"}),
)


def write_in_the_wild(root: Path) -> Path:
    folder = root / "release_in_the_wild"
    write_protocol(folder / "meta.csv", IN_THE_WILD)
    for line in IN_THE_WILD[1:]:
        write_clip(folder / line.split(",")[0])
    return folder


def fakeavceleb_folder(row: Sequence[str]) -> str:
    return "/".join([*row[5:8], row[0]])


def write_fakeavceleb(root: Path, suffix: str = ".flac") -> Path:
    """The list and the extracted audio; without a suffix, videos that are none."""
    folder = root / "FakeAVCeleb_v1.2"
    lines = [",".join([*row, f"FakeAVCeleb/{fakeavceleb_folder(row)}"]) for row in FAKEAVCELEB]
    write_protocol(folder / "meta_data.csv", [FAKEAVCELEB_HEADER, *lines])
    for row in FAKEAVCELEB:
        name = f"{fakeavceleb_folder(row)}/{row[-1]}"
        if suffix:
            write_clip(folder / "FakeAVCeleb-audio" / Path(name).with_suffix(suffix))
        else:
            write_protocol(folder / name, [f"video {name}"])
    return folder


def encoded_clip(seed: int = 0) -> bytes:
    """A FLAC file of quiet noise."""
    stream = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(800)
    soundfile.write(stream, noise, 16_000, format="FLAC")
    return stream.getvalue()


def audio_column(paths: Sequence[str]) -> pa.Array:
    values = [{"bytes": encoded_clip(seed), "path": path} for seed, path in enumerate(paths)]
    return pa.array(values, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def write_parquet(path: Path, columns: dict[str, Any], features: dict | None = None, rows: int = 2) -> Path:
    """A file with row groups of `rows`, and the note that `datasets` leaves on the columns' types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)
    return path


def write_codecfake(root: Path, rows: Sequence[tuple[str, ...]] = CODECFAKE, name: str = "00000-of-00001") -> Path:
    paths, labels, speakers, codecs = (list(column) for column in zip(*rows, strict=True))
    columns = {"audio": audio_column(paths), "label": labels, "speaker_id": speakers, "codec_name": codecs}
    return write_parquet(root / f"data/train-{name}.parquet", columns)


def write_arena(root: Path, rows: Sequence[tuple[str, Any, Any]] = ARENA, **others: Any) -> Path:
    paths, labels, notes = (list(column) for column in zip(*rows, strict=True))
    notes = [note if isinstance(note, str) else json.dumps(note) for note in notes]
    columns = {"path": paths, "audio": audio_column([f"clips/{path}" for path in paths]), "label": labels}
    features = {"label": {"names": ["bonafide", "spoof"], "_type": "ClassLabel"}}
    ids = [f"u{number}" for number in range(len(rows))]
    write_parquet(root / "data/labels.parquet", {"utterance_id": ids, "label": labels})
    return write_parquet(
        root / "data/test-00000-of-00001.parquet", {**columns, "notes": notes, **others}, features, rows=3
    )
