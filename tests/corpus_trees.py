"""Writes small copies of the ASVspoof corpora, in the layout and the line formats of the real ones, and full-size protocols."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile


SAMPLING_RATE = 16_000

ASVSPOOF2019 = {
    "train": (
        "LA_0079 LA_T_1138215 - - bonafide",
        "LA_0080 LA_T_1271820 - - bonafide",
        "LA_0081 LA_T_1004644 - A01 spoof",
        "LA_0081 LA_T_1056709 - A06 spoof",
    ),
    "dev": ("LA_0069 LA_D_1047731 - - bonafide", "LA_0070 LA_D_1105538 - A03 spoof"),
    "eval": (
        "LA_0039 LA_E_2834763 - A11 spoof",
        "LA_0014 LA_E_8877452 - A14 spoof",
        "LA_0031 LA_E_5932896 - - bonafide",
    ),
}
_FILES_2019 = {"train": "train.trn", "dev": "dev.trl", "eval": "eval.trl"}
_SPEAKERS_2019 = {"train": "LA_0079", "dev": "LA_0069", "eval": "LA_0039"}
FULL_2019 = {
    "train": (2_580, {f"A{number:02}": 3_800 for number in range(1, 7)}),
    "dev": (2_548, {f"A{number:02}": 3_716 for number in range(1, 7)}),
    "eval": (7_355, {f"A{number:02}": 4_914 for number in range(7, 20)}),
}
"""Part -> bona fide trials, and trials of each attack."""

ASVSPOOF2021_LA = (
    "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval",
    "LA_0020 LA_E_6866159 pstn sin_tx bonafide bonafide notrim eval",
    "LA_0031 LA_E_1002656 none - A19 spoof notrim progress",
    "LA_0044 LA_E_4891321 opus loc_tx - bonafide trim hidden_track",
)
ASVSPOOF2021_DF = (
    "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -",
    "TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval neural_vocoder_nonautoregressive Task1 team20 FF E",
    "LA_0043 DF_E_2000026 mp3m4a asvspoof bonafide bonafide notrim eval bonafide - - - -",
)

ASVSPOOF5 = {
    "train": ("T_4850 T_0000000000 F - - - AC3 A05 spoof -", "T_4087 T_0000000022 M - - - - bonafide bonafide -"),
    "dev": ("D_4461 D_0000000169 F - - - AC1 A14 spoof -", "D_0461 D_0000000190 M - - - - bonafide bonafide -"),
    "eval": (
        "E_0001 E_0000000002 M - 0 - AC2 A17 spoof -",
        "E_0002 E_0000000003 F C05 3 E_0000000004 - bonafide bonafide -",
        "E_0003 E_0000000005 F C11 8 E_0000000002 AC3 A32 spoof -",
    ),
}
_FILES_5 = {"train": "train", "dev": "dev.track_1", "eval": "eval.track_1"}
_FOLDERS_5 = {"train": "flac_T", "dev": "flac_D", "eval": "flac_E_eval"}


def write_clip(path: Path, seconds: float = 0.05, seed: int = 0) -> Path:
    """A clip of quiet noise; the file's ending decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLING_RATE))
    soundfile.write(path, noise, SAMPLING_RATE)
    return path


def write_protocol(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_clips(folder: Path, lines: Iterable[str]) -> None:
    """A FLAC for the second field of every line."""
    for seed, line in enumerate(lines):
        write_clip(folder / f"{line.split()[1]}.flac", seed=seed)


def write_asvspoof2019(
    root: Path, lines: Mapping[str, Iterable[str]] = ASVSPOOF2019, *, audio: bool = True
) -> dict[str, Path]:
    """The tree below `root/LA`; returns the protocol of each part."""
    folder = root / "LA" / "ASVspoof2019_LA_cm_protocols"
    protocols = {
        part: write_protocol(folder / f"ASVspoof2019.LA.cm.{_FILES_2019[part]}.txt", content)
        for part, content in lines.items()
    }
    for part, content in lines.items() if audio else ():
        write_clips(root / "LA" / f"ASVspoof2019_LA_{part}" / "flac", content)
    return protocols


def full_asvspoof2019() -> dict[str, Iterator[str]]:
    """Lines of protocols with as many trials per attack as the real ones."""
    return {part: _full_part(part) for part in FULL_2019}


def _full_part(part: str) -> Iterator[str]:
    bonafide, attacks = FULL_2019[part]
    systems = ["-"] * bonafide + [attack for attack, trials in attacks.items() for _ in range(trials)]
    for number, system in enumerate(systems):
        key = "bonafide" if system == "-" else "spoof"
        yield f"{_SPEAKERS_2019[part]} LA_{part[0].upper()}_{1_000_000 + number} - {system} {key}"


def write_asvspoof2021(
    root: Path, part: str, lines: Iterable[str], *, keys: str | None = None, audio: bool = True
) -> Path:
    """The evaluation set `part` (`"LA"` or `"DF"`) with its unlabelled list and the keys; returns the keys."""
    lines = list(lines)
    folder = root / f"ASVspoof2021_{part}_eval"
    write_protocol(folder / f"ASVspoof2021.{part}.cm.eval.trl.txt", (line.split()[1] for line in lines))
    if audio:
        write_clips(folder / "flac", lines)
    return write_protocol(root / (keys or f"keys/{part}/CM/trial_metadata.txt"), lines)


def full_asvspoof2021_la() -> Iterator[str]:
    """As many lines per subset and label as the real keys."""
    counts = {"eval": (14_816, 133_360), "progress": (1_676, 14_788), "hidden": (1_960, 14_966)}
    number = 1_000_000
    for subset, (bonafide, spoof) in counts.items():
        trim = "trim" if subset == "hidden" else "notrim"
        for index in range(bonafide + spoof):
            system = "bonafide bonafide" if index < bonafide else f"A{7 + index % 13:02} spoof"
            yield f"LA_0009 LA_E_{number} alaw ita_tx {system} {trim} {subset}"
            number += 1


def write_asvspoof5(
    root: Path, lines: Mapping[str, Iterable[str]] = ASVSPOOF5, *, protocols: str = "", audio: bool = True
) -> dict[str, Path]:
    """The tree below `root`, with the protocols in the folder `protocols` of it; returns the protocol of each part."""
    for part, content in lines.items() if audio else ():
        write_clips(root / _FOLDERS_5[part], content)
    return {
        part: write_protocol(root / protocols / f"ASVspoof5.{_FILES_5[part]}.tsv", content)
        for part, content in lines.items()
    }


def full_asvspoof5(part: str) -> Iterator[str]:
    """As many lines of `part` per label as the real protocol."""
    bonafide, spoof, first, attacks = {
        "train": (18_797, 163_560, 1, 8),
        "dev": (31_334, 109_616, 9, 8),
        "eval": (138_688, 542_086, 17, 16),
    }[part]
    letter, uncoded = part[0].upper(), "0" if part == "eval" else "-"
    for number in range(bonafide + spoof):
        system = "- bonafide bonafide" if number < bonafide else f"AC1 A{first + number % attacks:02} spoof"
        yield f"{letter}_0001 {letter}_{number:010} F - {uncoded} - {system} -"
