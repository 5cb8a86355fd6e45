"""CodecFake+ in small and in full: lists in the published forms, and folders with clips."""

from collections.abc import Iterable, Iterator
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np
import soundfile

from spooftrace.data_scripts.taxonomy import CODECS, LIST_LABELS


SPEAKERS = {
    "train": ["p225", *(f"p{number}" for number in range(230, 334)), "s5"],
    "dev": ["p226", "p229"],
    "test": ["p227", "p228"],
}
# Utterances of the published lists numbered up to 250, and above.
UTTERANCES = {"train": (25_830, 17_135), "dev": (486, 249), "test": (488, 267)}
# Attribute -> its classes, those with one utterance more in the published train lists first.
CLASSES = {
    "aux": ["none", "disentanglement", "semantic"],
    "vq": ["mvq", "svq", "sq"],
    "dec": ["time", "frequency"],
}
LIST_SUFFIX = {"aux": "", "vq": "_bal_vq", "dec": "_bal_dec"}

# Generator -> genuine and generated clips, as counted in the published CoSG_ALL.txt.
COSG_COUNTS = {
    "CLAMTTS": (41, 78),
    "ELLAV": (8, 8),
    "GPST": (10, 30),
    "MASKGCT": (576, 576),
    "NS2": (23, 23),
    "NS3": (32, 32),
    "RALLE": (5, 5),
    "SIMPLESPEECH1": (34, 32),
    "SIMPLESPEECH2": (31, 31),
    "SINGLECODEC": (8, 14),
    "SPEECHX": (8, 8),
    "TACOLM": (8, 8),
    "TI1G1R": (6, 6),
    "UNIAUDIO": (11, 11),
    "USLM": (5, 5),
    "VALLE": (53, 57),
    "VIOLA": (7, 7),
}
COSG_VQ = {"SIMPLESPEECH1": "SQ", "SIMPLESPEECH2": "SQ", "TI1G1R": "SVQ"}  # of the known ones; the others are MVQ


def sources(part: str) -> list[tuple[str, str]]:
    """Speaker and VCTK utterance of every genuine clip of a part, as many as published."""
    seen, unseen = UTTERANCES[part]
    return sorted([*_numbered(SPEAKERS[part], seen, 1), *_numbered(SPEAKERS[part], unseen, 251)])


def _numbered(speakers: list[str], total: int, first: int) -> Iterator[tuple[str, str]]:
    turns = ((speaker, number) for number in count(first) for speaker in speakers)
    return ((speaker, f"{speaker}_{number:03d}") for speaker, number in islice(turns, total))


def spell(attribute: str, label: str) -> str:
    """What the lists write for one of our labels."""
    return next(text for text, ours in LIST_LABELS[attribute].items() if ours == label)


def training_lines(attribute: str, utterances: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A balanced list: each genuine utterance, then its one spoof."""
    codecs = {
        name: cycle([codec for codec in CODECS.values() if getattr(codec, attribute) == name])
        for name in CLASSES[attribute]
    }
    for (speaker, utterance), name in zip(utterances, cycle(CLASSES[attribute]), strict=False):
        codec = next(codecs[name])
        classes = " ".join(spell(column, getattr(codec, column)) for column in ("aux", "dec", "vq"))
        yield f"{speaker} {utterance} - REAL REAL REAL bonafide"
        yield f"{speaker} {utterance}_{codec.tag} - {classes} spoof"


def evaluation_lines(utterances: Iterable[tuple[str, str]], without: tuple[str, ...] = ()) -> Iterator[str]:
    """CoRS_ALL.txt, or without leaving out a codec the Hub's CoRS_labels.txt."""
    for speaker, utterance in utterances:
        yield f"{speaker} {utterance} - - bonafide"
        yield from (f"{speaker} {utterance}_{tag} - - spoof" for tag in CODECS if tag not in without)


def cosg_all_lines() -> Iterator[str]:
    """CoSG_ALL.txt, with four fields or five, and trailing spaces here and there."""
    for turn, (model, clip, label) in enumerate(_cosg_trials()):
        yield f"{model} {clip} {'- ' if turn % 8 else ''}- {label}{'' if turn % 5 else '  '}"


def cosg_seen_lines() -> Iterator[str]:
    """CoSG_SEEN.txt, with the VQ label in the fourth column."""
    for model, clip, label in _cosg_trials():
        if model not in ("MASKGCT", "NS2", "SINGLECODEC"):
            yield f"{model} {clip} - {'REAL' if label == 'bonafide' else COSG_VQ.get(model, 'MVQ')} {label}"


def _cosg_trials() -> Iterator[tuple[str, str, str]]:
    for model, (bonafide, spoof) in COSG_COUNTS.items():
        yield from ((model, f"clip_{number}_gt", "bonafide") for number in range(bonafide))
        yield from ((model, f"clip_{number}", "spoof") for number in range(spoof))


def write_list(path: Path, lines: Iterable[str], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return path


def write_training_lists(root: Path, attribute: str, utterances: dict[str, list[tuple[str, str]]]) -> None:
    for part, found in utterances.items():
        name = f"{part}_mult_learn{LIST_SUFFIX[attribute]}.txt"
        write_list(root / "metadata" / "training" / name, training_lines(attribute, found))


def write_evaluation_list(root: Path, name: str, lines: Iterable[str], end: str = "\n") -> Path:
    return write_list(root / "metadata" / "evaluation" / f"{name}.txt", lines, end)


def write_clip(path: Path, samples: int = 800) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(samples, np.float32), 16_000)
    return path


SMALL = {part: [(speaker, f"{speaker}_00{n}") for speaker in SPEAKERS[part][-2:] for n in (1, 2)] for part in SPEAKERS}


def small_cors(root: Path) -> Path:
    """Four utterances to a part, with the lists of all configurations and every clip that they name."""
    for attribute in CLASSES:
        write_training_lists(root, attribute, SMALL)
    write_evaluation_list(root, "CoRS_ALL", evaluation_lines(SMALL["test"], without=("Encodec_24b24k",)))
    everything = [pair for part in SMALL.values() for pair in part]
    write_list(root / "CoRS_labels.txt", evaluation_lines(everything))
    clips = [line.split()[1] for line in evaluation_lines(everything)]
    first = write_clip(root / "all_data_16k" / f"{clips[0]}.wav")
    for clip in clips[1:]:
        (first.parent / f"{clip}.wav").write_bytes(first.read_bytes())
    return root


def small_cosg(root: Path) -> Path:
    lines = [line for line in cosg_seen_lines() if line.startswith(("USLM", "NS3"))]
    write_evaluation_list(root, "CoSG_SEEN", lines)
    write_evaluation_list(root, "CoSG_ALL", [line.replace("MVQ", "-").replace("REAL", "-") for line in lines])
    for line in lines:
        model, clip, *_ = line.split()
        write_clip(root / "SLMdemos_16k" / model / f"{clip}.wav")
    return root
