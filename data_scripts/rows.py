"""The unified row: one trial of any corpus, with the same columns everywhere.

Missing means null, never an empty string. The codec attributes `vq`, `aux` and `dec` are known for genuine speech
(`"bonafide"`) and for speech made by a known codec; a spoof of another make has nulls there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


LABELS = ("bonafide", "spoof")
VQ_LABELS = ("bonafide", "mvq", "svq", "sq")
AUX_LABELS = ("bonafide", "none", "semantic", "disentanglement")
DEC_LABELS = ("bonafide", "time", "frequency")

_NOTHING: Mapping[str, Any] = {}  # shared by all rows without extra columns, never written to


class Row(NamedTuple):
    """
    One trial.

    Args:
        utterance_id: unique within a split, without white space.
        label: `"bonafide"` or `"spoof"`; `None` only where a list for scoring carries no labels.
        audio: absolute path of the clip; `None` where only the metadata are wanted, or where the bytes come separately.
        attack_id: the system that made a spoof; `None` for genuine speech.
        speaker_id: the (target) speaker.
        corpus: name of the corpus.
        subset: the corpus's own name of the part, such as `"eval"` or `"progress"`.
        codec: the codec that the clip went through, for transmission or as an attack.
        vq, aux, dec: quantiser, auxiliary objective and decoder of the codec, as in `VQ_LABELS` and so on.
        extra: what this corpus alone knows, by column.
        line: of the protocol, counted from 1; 0 where there is none. No column, but for messages.
    """

    utterance_id: str
    label: str | None
    corpus: str
    audio: str | None = None
    attack_id: str | None = None
    speaker_id: str | None = None
    subset: str | None = None
    codec: str | None = None
    vq: str | None = None
    aux: str | None = None
    dec: str | None = None
    extra: Mapping[str, Any] = _NOTHING
    line: int = 0


COLUMNS = Row._fields[:-2]


def to_columns(rows: Sequence[Row], extra: Iterable[str] = ()) -> dict[str, list[Any]]:
    """Rows as columns: those of `Row`, then the named extra ones, null where a row lacks them."""
    columns = dict(zip(COLUMNS, map(list, zip(*(row[: len(COLUMNS)] for row in rows), strict=True)), strict=False))
    columns = columns or {name: [] for name in COLUMNS}
    for name in extra:
        columns[name] = [row.extra.get(name) for row in rows]
    return columns


def codec_attributes(label: str | None, known: tuple[str, str, str] | None = None) -> dict[str, str | None]:
    """`vq`, `aux` and `dec` of a row: the given ones for a codec's speech, `"bonafide"` for genuine speech, else null."""
    values = ("bonafide",) * 3 if label == "bonafide" else known or (None,) * 3
    return dict(zip(("vq", "aux", "dec"), values, strict=True))
