"""CodecFake+: CoRS, VCTK re-synthesised by 31 neural codecs, and CoSG, clips of 17 codec-based generators.

Read are the lists of the source-tracing repository and the label files of the Hub. The taxonomy is the project's own
(`spooftrace.data_scripts.taxonomy`): columns of a list are checked against it, and a list without them gets it.

Of the Hub's label files only this much is known: `CoSG_labels.txt` has the six fields `Model ClipID QUA AUX DEC Label`
by the dataset's card, and the size of `CoRS_labels.txt` is, to the byte, that of all 44,455 x 32 clips in the five
columns of `CoRS_ALL.txt`. Both forms are read from either file, with a header line or without, labels of the attributes
in any case, and with nothing assumed about a model or codec that the taxonomy lacks.
"""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from spooftrace.data_scripts.corpus import Corpus, Totals
from spooftrace.data_scripts.protocol import AudioFolder, Problem, Problems, ProtocolError, locate, null, parse_lines
from spooftrace.data_scripts.rows import LABELS, Row, codec_attributes
from spooftrace.data_scripts.taxonomy import (
    CODECS,
    GENERATORS,
    LIST_LABELS,
    Utterance,
    attribute_label,
    get_codec,
    get_generator,
    parse_utterance,
)


logger = logging.getLogger(__name__)

CORS, COSG = "codecfake-plus-cors", "codecfake-plus-cosg"

LAST_SEEN_UTTERANCE = 250
"""Utterances of VCTK up to this number count as seen, those above as unseen."""

UTTERANCES = ("all", "seen", "unseen")

_BALANCED = {"aux": "", "vq": "_bal_vq", "dec": "_bal_dec"}  # the AUX-balanced lists carry no suffix
_PARTS = {"train": "train", "validation": "dev", "test": "test"}
_HELD_OUT = {"p226": "validation", "p229": "validation", "p227": "test", "p228": "test"}
_LISTS_OF_GENERATORS = {"all": "CoSG_ALL", "known": "CoSG_SEEN", "labels": "CoSG_labels"}
_SUFFIXES = (".flac", ".wav")
_HEADER = "model clipid qua aux dec label"


def _parse_cors(root: Path, config: str, files: Mapping[str, Path], utterances: str) -> dict[str, list[Row]]:
    if utterances not in UTTERANCES:
        raise ValueError(f"utterances is {utterances!r}; write one of {', '.join(map(repr, UTTERANCES))}")
    rows = {name: parse_lines(path, *_cors_format(config)) for name, path in files.items()}
    if config == "labels":
        rows = _by_speaker(rows["test"])
    clips = AudioFolder(_cors_folders(root), _SUFFIXES)
    splits = {}
    for split, found in rows.items():
        subset = "CoRS_ALL" if config == "eval" else _PARTS[split]
        chosen = [row for row in found if _is_chosen(row, utterances)]
        if chosen:
            splits[split] = [row._replace(audio=clips.find(row.utterance_id), subset=subset) for row in chosen]
    if not splits:
        raise ProtocolError(next(iter(files.values())), [Problem(0, f"no {utterances} utterance in it")])
    return splits


def _cors_format(config: str) -> tuple:
    """What `parse_lines` needs besides the path."""
    if config in _BALANCED:
        return _training_line, (7,), "speaker utterance - AUX DEC VQ label"
    if config == "eval":
        return _evaluation_line, (5,), "speaker utterance - - label"
    return _cors_labels_line, (5, 6), "speaker utterance - - label, or Model ClipID QUA AUX DEC Label"


def _training_line(problems: Problems, line: int, fields: list[str]) -> Row | None:
    columns = {name: problems.label(line, fields[at], LIST_LABELS[name]) for name, at in _TRAINING_COLUMNS}
    return None if None in columns.values() else _cors_row(problems, line, fields[0], fields[1], fields[-1], columns)


_TRAINING_COLUMNS = (("aux", 3), ("dec", 4), ("vq", 5))


def _evaluation_line(problems: Problems, line: int, fields: list[str]) -> Row | None:
    return _cors_row(problems, line, fields[0], fields[1], fields[-1], {})


def _cors_labels_line(problems: Problems, line: int, fields: list[str]) -> Row | None:
    if len(fields) == 5:
        return _cors_row(problems, line, fields[0], fields[1], fields[-1], {}, strict=False)
    if _is_header(line, fields):
        return None
    columns = _hub_columns(problems, line, fields)
    if columns is None:
        return None
    model, utterance_id = fields[0], _without_suffix(fields[1])
    if fields[-1] != "bonafide" and model in CODECS and not utterance_id.endswith(model):
        utterance_id = f"{utterance_id}_{model}"
    return _cors_row(problems, line, None, utterance_id, fields[-1], columns, strict=False)


def _cors_row(
    problems: Problems,
    line: int,
    speaker: str | None,
    utterance_id: str,
    key: str,
    columns: Mapping[str, str | None],
    strict: bool = True,
) -> Row | None:
    """A row of CoRS. Not `strict`: a codec that the taxonomy lacks is taken as the list describes it."""
    label = _label(problems, line, key)
    try:
        utterance = parse_utterance(utterance_id)
        tag, known = _codec(utterance, columns, strict)
    except ValueError as error:
        problems.add(line, str(error))
        return None
    if label is None or not problems.check_id(line, utterance_id) or not problems.check_path(line, utterance_id):
        return None
    if not _agree(problems, line, utterance, utterance_id, speaker, label):
        return None
    attributes = codec_attributes(label, known)
    _check_columns(problems, line, tag or "bona fide speech", attributes, columns)
    extra = _numbered(utterance.number)
    return Row(
        utterance_id, label, CORS, None, tag, utterance.speaker, None, tag, **attributes, extra=extra, line=line
    )


def _codec(utterance: Utterance, columns: Mapping[str, str | None], strict: bool) -> tuple[str | None, tuple | None]:
    """Tag and attributes of the codec that an id names."""
    if utterance.suffix is None:
        return None, None
    try:
        codec = get_codec(utterance.suffix)
    except ValueError:
        if strict:
            raise
        return utterance.suffix, tuple(columns.get(name) for name in LIST_LABELS)
    return codec.tag, codec.attributes


def _agree(
    problems: Problems, line: int, utterance: Utterance, utterance_id: str, speaker: str | None, label: str
) -> bool:
    """Whether what an id tells is what the other columns say."""
    if speaker is not None and speaker != utterance.speaker:
        problems.add(
            line, f"speaker {speaker!r} of {utterance_id!r} is not the one in its name: correct one of the two"
        )
        return False
    if (label == "bonafide") != (utterance.suffix is None):
        made = "bears no codec" if utterance.suffix is None else f"is named after a codec, {utterance.suffix!r},"
        problems.add(line, f"{utterance_id!r} {made} but is labelled {label!r}: correct the label or the name")
        return False
    return True


@functools.cache
def _numbered(number: int) -> Mapping[str, int]:
    """One mapping for all rows of the same number: the whole of CoRS has 1.4 million rows."""
    return {"utterance_number": number}


def _is_chosen(row: Row, utterances: str) -> bool:
    seen = row.extra["utterance_number"] <= LAST_SEEN_UTTERANCE
    return utterances == "all" or seen == (utterances == "seen")


def _by_speaker(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The whole of CoRS in the parts of the balanced lists, which divide its speakers."""
    splits: dict[str, list[Row]] = {split: [] for split in _PARTS}
    for row in rows:
        splits[_HELD_OUT.get(row.speaker_id, "train")].append(row)
    return splits


def _parse_cosg(root: Path, config: str, files: Mapping[str, Path]) -> dict[str, list[Row]]:
    if config == "labels":
        rows = parse_lines(files["test"], _cosg_labels_line, (4, 5, 6), "Model ClipID QUA AUX DEC Label")
    else:
        rows = parse_lines(files["test"], _generator_line, (4, 5), "model clip - [VQ] label")
    models = {row.extra["model"] for row in rows}
    clips = {model: AudioFolder(_cosg_folders(root, model), _SUFFIXES) for model in models}
    subset = _LISTS_OF_GENERATORS[config]
    return {"test": [row._replace(audio=_find_clip(clips, row), subset=subset) for row in rows]}


def _find_clip(clips: Mapping[str, AudioFolder], row: Row) -> str | None:
    model = row.extra["model"]
    return clips[model].find(row.utterance_id[len(model) + 1 :])


def _generator_line(problems: Problems, line: int, fields: list[str], strict: bool = True) -> Row | None:
    """A line of `CoSG_ALL.txt` or `CoSG_SEEN.txt`; the latter has the VQ label in its fourth column."""
    columns = {}
    if len(fields) == 5 and null(fields[3]):
        columns["vq"] = problems.label(line, fields[3], LIST_LABELS["vq"])
        if columns["vq"] is None:
            return None
    return _cosg_row(problems, line, fields[0], fields[1], fields[-1], columns, strict)


def _cosg_labels_line(problems: Problems, line: int, fields: list[str]) -> Row | None:
    if len(fields) < 6:
        return _generator_line(problems, line, fields, strict=False)
    if _is_header(line, fields):
        return None
    columns = _hub_columns(problems, line, fields)
    if columns is None:
        return None
    clip = _without_suffix(fields[1]).removeprefix(f"{fields[0]}/")
    return _cosg_row(problems, line, fields[0], clip, fields[-1], columns, strict=False)


def _cosg_row(
    problems: Problems,
    line: int,
    model: str,
    clip: str,
    key: str,
    columns: Mapping[str, str | None],
    strict: bool = True,
) -> Row | None:
    """A row of CoSG. Not `strict`: a generator that the taxonomy lacks is taken as the list describes it."""
    label, utterance_id = _label(problems, line, key), f"{model}/{clip}"
    if strict and model not in GENERATORS:
        try:
            get_generator(model)
        except ValueError as error:
            problems.add(line, str(error))
            return None
    if label is None or not problems.check_id(line, utterance_id) or not problems.check_path(line, utterance_id):
        return None
    generator = GENERATORS.get(model)
    known = generator.attributes if generator else tuple(columns.get(name) for name in LIST_LABELS)
    attributes = codec_attributes(label, known)
    _check_columns(problems, line, model if label == "spoof" else "bona fide speech", attributes, columns)
    attack = model if label == "spoof" else None
    extra = {"model": model, "known_codec": generator and generator.known_codec}
    return Row(utterance_id, label, COSG, attack_id=attack, **attributes, extra=extra, line=line)


def _label(problems: Problems, line: int, text: str) -> str | None:
    """The label; `spoofs`, a misprint in the published `CoRS_ALL.txt`, is read as `spoof`."""
    if text == "spoofs":
        logger.info("%s, line %d: the misprint 'spoofs' is read as 'spoof'", problems.path, line)
        return "spoof"
    return problems.label(line, text, {name: name for name in LABELS})


def _check_columns(
    problems: Problems,
    line: int,
    what: str,
    expected: Mapping[str, str | None],
    columns: Mapping[str, str | None],
) -> None:
    for name, found in columns.items():
        if found is not None and found != expected[name]:
            wanted = f"{expected[name]!r} by the taxonomy" if expected[name] else "of no known class"
            problems.add(
                line, f"column {name.upper()} says {found!r}, but {what} is {wanted}: correct the column or the name"
            )


def _hub_columns(problems: Problems, line: int, fields: list[str]) -> dict[str, str | None] | None:
    """QUA, AUX and DEC of the Hub's label files; `None` after a problem."""
    columns: dict[str, str | None] = {}
    for name, text in zip(("vq", "aux", "dec"), fields[2:5], strict=True):
        try:
            columns[name] = attribute_label(name, text) if null(text) else None
        except ValueError as error:
            problems.add(line, str(error))
    return columns if len(columns) == 3 else None


def _is_header(line: int, fields: Sequence[str]) -> bool:
    return line == 1 and " ".join(fields).lower() == _HEADER


def _without_suffix(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return stem if f".{suffix.lower()}" in _SUFFIXES else name


def _cors_folders(root: Path) -> list[Path]:
    """Where clips may lie: the flat folder of the published code, or wherever the archive was unpacked."""
    return [root / "all_data_16k", *sorted(root.glob("*/all_data_16k")), root, *_folders(root)]


def _cosg_folders(root: Path, model: str) -> list[Path]:
    above = [root / "SLMdemos_16k", *sorted(root.glob("*/SLMdemos_16k")), root, *_folders(root)]
    return [folder / model for folder in above]


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:  # of a folder with a million clips in it, too
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and entry.name != "all_data_16k")


def _find_cors(root: Path, config: str) -> dict[str, Path]:
    if config in _BALANCED:
        names = {split: f"{part}_mult_learn{_BALANCED[config]}.txt" for split, part in _PARTS.items()}
        return {split: _locate_list(root, "training", name) for split, name in names.items()}
    return {"test": _locate_list(root, "evaluation", "CoRS_ALL.txt" if config == "eval" else "CoRS_labels.txt")}


def _find_cosg(root: Path, config: str) -> dict[str, Path]:
    return {"test": _locate_list(root, "evaluation", f"{_LISTS_OF_GENERATORS[config]}.txt")}


def _locate_list(root: Path, kind: str, name: str) -> Path:
    inner = (f"metadata/{kind}/{name}", f"{kind}/{name}", f"metadata/{name}", name)
    candidates = [f"{above}{path}" for above in ("", "*/", "*/*/") for path in inner]
    return locate(root, dict.fromkeys(candidates), name, _LAYOUT)


_LAYOUT = """Expected, for the folder that you give:
  metadata/training/{train,dev,test}_mult_learn[_bal_vq|_bal_dec].txt
  metadata/evaluation/{CoRS_ALL,CoSG_ALL,CoSG_SEEN}.txt
  {CoRS,CoSG}_labels.txt                            the Hub's label files, for the configuration "labels"
  all_data_16k/p225_001[_CODEC].{flac,wav}          CoRS and its genuine speech
  SLMdemos_16k/MODEL/CLIP.{flac,wav}                CoSG
The lists: https://github.com/ResponsibleGenAI/CodecFake-Source-Tracing (SAST_Net/metadata; a clone below the folder is
found too). The clips and the label files: https://huggingface.co/datasets/CodecFake/CodecFake_Plus_Dataset; join and
unpack CoRS with `cat Codecfake_plus_CoRS.part* | tar -xJ`, CoSG with `tar -xJf CodecFake_plus_CoSG.tar.xz`. Clips are
also found directly in the folder and in folders one below it."""

_HOMEPAGE = "https://huggingface.co/datasets/CodecFake/CodecFake_Plus_Dataset"
_CITATION = (
    "Xuanjun Chen, Jiawei Du, Haibin Wu, Lin Zhang, I-Ming Lin, I-Hsiang Chiu, Wenze Ren, Yuan Tseng, Yu Tsao, "
    "Jyh-Shing Roger Jang, Hung-yi Lee. CodecFake+: A Large-Scale Neural Audio Codec-Based Deepfake Speech Dataset. "
    "arXiv:2501.08238, 2025."
)

_TRAIN, _DEV, _TEST = Totals(42_965, 42_965), Totals(735, 735), Totals(755, 755)

UTTERANCE_TOTALS = {
    **{(config, "train", "seen"): Totals(25_830, 25_830) for config in _BALANCED},
    **{(config, "train", "unseen"): Totals(17_135, 17_135) for config in _BALANCED},
    ("eval", "test", "seen"): Totals(488, 14_640),
    ("eval", "test", "unseen"): Totals(267, 8_010),
}
"""`(config, split, utterances)` -> numbers of trials of the seen and unseen parts, counted in the published lists."""

CORPORA = (
    Corpus(
        name=CORS,
        title="CodecFake+ CoRS",
        homepage=_HOMEPAGE,
        license="mit",
        license_note="MIT by the dataset's card. The speech is VCTK's, CC BY 4.0, whose attribution is to be kept.",
        citation=_CITATION,
        description="VCTK utterances and their re-synthesis by 31 neural codecs, each classed by quantiser (VQ), "
        "auxiliary objective (AUX) and decoder (DEC). The training lists pair every genuine utterance with one spoof "
        "of the same utterance, balanced by one of the three attributes.",
        layout=_LAYOUT,
        configs={
            "aux": "lists balanced by auxiliary objective: train, validation and test, speakers disjoint",
            "vq": "lists balanced by quantiser: train, validation and test, speakers disjoint",
            "dec": "lists balanced by decoder: train, validation and test, speakers disjoint",
            "eval": "CoRS_ALL, the test speakers' 755 utterances by 30 codecs (without Encodec_24b24k)",
            "labels": "the Hub's CoRS_labels.txt: every clip, in the lists' splits by speaker",
        },
        find=_find_cors,
        parse=_parse_cors,
        extra={"utterance_number": "int64"},
        options={"utterances": "all"},
        selector="utterances",
        selected_totals=UTTERANCE_TOTALS,
        totals={
            **{
                (config, split): totals
                for config in _BALANCED
                for split, totals in {"train": _TRAIN, "validation": _DEV, "test": _TEST}.items()
            },
            ("eval", "test"): Totals(755, 22_650),
            ("labels", "train"): Totals(42_965, 31 * 42_965),
            ("labels", "validation"): Totals(735, 31 * 735),
            ("labels", "test"): Totals(755, 31 * 755),
        },
        source_speech=("VCTK",),
    ),
    Corpus(
        name=COSG,
        title="CodecFake+ CoSG",
        homepage=_HOMEPAGE,
        license="mit",
        license_note="MIT by the dataset's card. The clips were collected from the demonstration pages of 17 papers, "
        "whose own terms are not verified; so only metadata are redistributed.",
        citation=_CITATION,
        description="Genuine and generated clips from the demonstration pages of 17 codec-based speech generators, for "
        "evaluation. The codecs of 14 of them are among those of CoRS.",
        layout=_LAYOUT,
        configs={
            "all": "CoSG_ALL: all 17 generators",
            "known": "CoSG_SEEN: the 14 generators with a codec that CoRS knows",
            "labels": "the Hub's CoSG_labels.txt",
        },
        find=_find_cosg,
        parse=_parse_cosg,
        extra={"model": "string", "known_codec": "bool"},
        totals={("all", "test"): Totals(866, 931), ("known", "test"): Totals(259, 318)},
        redistribution="metadata",
    ),
)
