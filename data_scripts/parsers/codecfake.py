"""
CodecFake of Wu, Tseng and Lee (not the Codecfake of Xie et al., nor CodecFake+): VCTK, and VCTK through 15 neural codecs.

Parquet files with the columns `audio`, `label`, `speaker_id` and `codec_name`; in genuine rows both `label` and
`codec_name` are `genuine`. The authors publish one split and divide it by speaker in their training code, as `speakers`
does here. The spelling of the other label, `spoofing`, and what `audio.path` holds are known from third parties only.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from spooftrace.data_scripts.corpus import Corpus, Totals
from spooftrace.data_scripts.parquet_files import (
    Numbered,
    Piece,
    open_pieces,
    parquet_files,
    pieces_of,
    read_piece,
    rows_of,
    table_of,
)
from spooftrace.data_scripts.protocol import Problems, escape_id, null
from spooftrace.data_scripts.rows import Row, codec_attributes
from spooftrace.data_scripts.taxonomy import CODECS


if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


_NAME = "codecfake"
_COLUMNS = ("audio", "label", "speaker_id", "codec_name")
_WITHOUT_AUDIO = ("audio.path", *_COLUMNS[1:])
_LABELS = {"genuine": "bonafide", "bonafide": "bonafide", "spoofing": "spoof", "spoof": "spoof"}
_GENUINE = "genuine"
_SPEAKERS = {"validation": frozenset({"p226", "p229"}), "test": frozenset({"p227", "p228"})}

_SAME_ARCHITECTURE = {
    "SpeechTokenizer": "SpeechTokenizer_hubert_avg",
    "academicodec_hifi_16k_320d": "HiFi_Codec_16k_320d_large_universal",
    "academicodec_hifi_16k_320d_large_uni": "HiFi_Codec_16k_320d_large_universal",
    "academicodec_hifi_24k_320d": "HiFi_Codec_16k_320d_large_universal",
    "audiodec_24k_320d": "audiodec_24k_320d",
    "descript-audio-codec-16khz": "DAC24",
    "descript-audio-codec-24khz": "DAC24",
    "descript-audio-codec-44khz": "DAC24",
    "encodec_24khz": "Encodec_24b24k",
    "funcodec-funcodec_en_libritts-16k-gr1nq32ds320": "FunCodec_en-libritts-16k-gr1nq32ds320",
    "funcodec-funcodec_en_libritts-16k-gr8nq32ds320": "FunCodec_en-libritts-16k-gr1nq32ds320",
    "funcodec-funcodec_en_libritts-16k-nq32ds320": "FunCodec_zh_en-general-16k-nq32ds320",
    "funcodec-funcodec_en_libritts-16k-nq32ds640": "FunCodec_zh_en-general-16k-nq32ds320",
    "funcodec-funcodec_zh_en_general_16k_nq32ds320": "FunCodec_zh_en-general-16k-nq32ds320",
    "funcodec-funcodec_zh_en_general_16k_nq32ds640": "FunCodec_zh_en-general-16k-nq32ds320",
}
"""Codec -> the one in CodecFake+ of the same architecture, whose classes it gets."""

LAYOUT = """Expected, as the Hub has it (102 GB):
  <folder>/data/train-00000-of-00161.parquet ...
It is at https://huggingface.co/datasets/rogertseng/CodecFake:
  hf download rogertseng/CodecFake --repo-type dataset --include "data/*" --local-dir <folder>
or read it from there with repo="rogertseng/CodecFake"."""


def find(root: Path, config: str) -> dict[str, Path]:
    return {}  # the files are listed by `tables`, which knows whether they are on the Hub


def _paths(root: Path, options: Mapping[str, Any]) -> list[str]:
    return parquet_files(root, ["data/train-*.parquet", "train-*.parquet"], LAYOUT, **options)


def tables(root: Path, config: str, files: Mapping[str, Path], **options: Any) -> dict[str, list[Piece]]:
    paths = _paths(root, options)
    return _by_speaker(paths) if config == "speakers" else {"train": pieces_of(paths, _COLUMNS)}


def _by_speaker(paths: Iterable[str]) -> dict[str, list[Piece]]:
    """For each split the pieces that hold any of its speakers."""
    splits: dict[str, list[Piece]] = {"train": [], **{split: [] for split in _SPEAKERS}}
    for piece, file in open_pieces(paths, _COLUMNS):
        speakers = read_piece(file, piece, ["speaker_id"])["speaker_id"].unique().to_pylist()
        for split in {_split(speaker) for speaker in speakers}:
            splits[split].append(piece._replace(part=split))
    return splits


def parse(root: Path, config: str, files: Mapping[str, Path], **options: Any) -> dict[str, list[Row]]:
    rows = rows_of(_paths(root, options), _COLUMNS, _read)
    if config != "speakers":
        return {"train": rows}
    return {split: [row for row in rows if row.subset == split] for split in ("train", *_SPEAKERS)}


def read_table(piece: Piece) -> "pa.Table":
    return table_of(piece, _read)


def _read(problems: Problems, file: "pq.ParquetFile", piece: Piece) -> Numbered:
    records = read_piece(file, piece, _WITHOUT_AUDIO).to_pylist()
    numbered = enumerate(records, start=piece.first_row)
    wanted = [(number, record) for number, record in numbered if piece.part in ("", _split(record["speaker_id"]))]
    return [(number, _row(problems, number, record)) for number, record in wanted]


def _split(speaker: str | None) -> str:
    return next((split for split, speakers in _SPEAKERS.items() if speaker in speakers), "train")


def _row(problems: Problems, number: int, record: Mapping[str, Any]) -> Row:
    codec, path = record["codec_name"], (record["audio"] or {}).get("path")
    label = problems.label(number, record["label"], _LABELS)
    if label is not None and (codec == _GENUINE) != (label == "bonafide"):
        problems.add(number, f"codec_name {codec!r} with label {record['label']!r}: only genuine speech has no codec")
    if not path or not codec:
        problems.add(number, "no audio.path or codec_name, which make the utterance id")
    codec = None if codec == _GENUINE else codec
    known = CODECS.get(_SAME_ARCHITECTURE.get(codec or "", ""))
    return Row(
        utterance_id=_id_of(record["codec_name"] or "", path or ""),
        label=label,
        corpus=_NAME,
        attack_id=codec,
        speaker_id=null(record["speaker_id"] or ""),
        subset=_split(record["speaker_id"]),
        codec=codec,
        **codec_attributes(label, known.attributes if known else None),
    )


def _id_of(codec: str, path: str) -> str:
    """As in `encodec_24khz+p272_103`; the codec goes before names that do not start with it."""
    stem = PurePosixPath(path).stem
    return escape_id(stem if stem.startswith(f"{codec}+") else f"{codec}+{stem}")


CORPORA = (
    Corpus(
        name=_NAME,
        title="CodecFake",
        homepage="https://huggingface.co/datasets/rogertseng/CodecFake",
        license="cc-by-4.0",
        license_note="The licence on the authors' card on the Hub; attribution. The genuine speech is VCTK's, CC BY 4.0.",
        citation=(
            "Haibin Wu, Yuan Tseng, Hung-yi Lee. CodecFake: Enhancing Anti-Spoofing Models Against Deepfake Audios from "
            "Codec-Based Speech Synthesis Systems. Interspeech 2024. arXiv:2406.07237."
        ),
        description=(
            "44,242 utterances of VCTK, and each of them re-synthesised by 15 neural codecs. Codec classes are those "
            "that CodecFake+ gives to the same architecture."
        ),
        layout=LAYOUT,
        configs={
            "default": "one split, as published",
            "speakers": "the authors' division by speaker: p226 and p229 validate, p227 and p228 test",
        },
        find=find,
        parse=parse,
        tables=tables,
        read_table=read_table,
        options={"repo": None, "revision": None, "partial": False},
        totals={("default", "train"): Totals(44_242, 663_630)},
        source_speech=("VCTK",),
        reads_audio=False,
    ),
)
