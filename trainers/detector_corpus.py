"""What the shipped models learn from: a folder of clips with `metadata.csv`, and attack copies made from them.

Rows of the test split are never opened here, and rows without a stated licence only on request.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from spooftrace.audio import load_audio
from spooftrace.modeling.frontends import MelFrontend


COLUMNS = ("file", "label", "system", "family", "source_repo", "license", "utterance", "crop_start", "note", "split")
LABELS = ("bonafide", "spoof")
SPLITS = ("train", "valid", "test", "mixed")
# The codec's classes as the corpus spells them, each in a column that may be absent -> as the taxonomy spells them.
CODEC_CLASSES = {
    "vq": {"mvq": "mvq", "svq": "svq", "sq": "sq"},
    "aux": {"none": "none", "semantic": "semantic", "disentanglement": "disentanglement"},
    "dec": {"time": "time", "freq": "frequency"},
}
NOT_A_CODEC = ("", "na")


class CorpusError(ValueError):
    """The corpus folder or its metadata.csv is not what the recipe needs."""


@dataclass(frozen=True)
class Clip:
    """One row of metadata.csv, with what the recipes use of it; `page_fold` is -1 where the column is absent.

    `vq`, `aux` and `dec` are classes of the taxonomy: those of the codec, "bonafide" of genuine speech, `None` of a spoof that
    no codec made. `speaker` is `None` where it is not given.
    """

    file: str
    label: str
    system: str
    family: str
    page: str
    utterance: str
    crop_start: float
    split: str
    page_fold: int
    licensed: bool
    transmission: bool
    speaker: str | None = None
    vq: str | None = None
    aux: str | None = None
    dec: str | None = None

    @property
    def is_spoof(self) -> bool:
        return self.label == "spoof"


def read_corpus(data: Path) -> list[Clip]:
    """All rows of `data/metadata.csv`. Raises CorpusError where it is missing or does not have the columns or values."""
    path = data / "metadata.csv"
    if not path.is_file():
        raise CorpusError(f"{path} is not there; --data needs a folder with metadata.csv")
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise CorpusError(f"{path} lacks the column(s) {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
        return [_clip(row, f"{path}, line {line}") for line, row in enumerate(reader, start=2)]


def _clip(row: dict[str, str], where: str) -> Clip:
    for column, known in (("label", LABELS), ("split", SPLITS)):
        if row[column] not in known:
            raise CorpusError(f"{where}: {column} {row[column]!r} is none of {', '.join(known)}")
    try:
        crop_start, page_fold = float(row["crop_start"] or 0), int(row.get("page_fold") or -1)
    except ValueError as error:
        raise CorpusError(f"{where}: crop_start and page_fold are numbers ({error})") from error
    return Clip(
        file=row["file"],
        label=row["label"],
        system=row["system"],
        family=row["family"],
        page=row["source_repo"],
        utterance=row["utterance"] or row["file"],
        crop_start=crop_start,
        split=row["split"],
        page_fold=page_fold,
        licensed=not row["license"].startswith("no licence") and row["license"] != "",
        transmission=row["note"].startswith("transmission"),
        speaker=row.get("speaker") or None,
        **{task: _codec_class(row, task, where) for task in CODEC_CLASSES},
    )


def _codec_class(row: dict[str, str], task: str, where: str) -> str | None:
    value, known = row.get(task) or "", CODEC_CLASSES[task]
    if row["label"] == "bonafide":
        return "bonafide"
    if value not in known and value not in NOT_A_CODEC:
        raise CorpusError(f"{where}: {task} {value!r} is none of {', '.join(known)} and na")
    return known.get(value)


def training_clips(clips: Sequence[Clip], held_out_fold: int | None = None) -> list[Clip]:
    """Licensed train rows that are speech or synthesis: coding for transmission makes no speech synthetic.

    Raises CorpusError unless both labels remain.
    """
    chosen = _usable(clips, "train", held_out_fold)
    for label in LABELS:
        if not any(clip.label == label for clip in chosen):
            raise CorpusError(f"metadata.csv has no licensed {label} row in the train split that could be trained on")
    return chosen


def validation_clips(clips: Sequence[Clip], held_out_fold: int | None = None) -> list[Clip]:
    """The same of the valid split; there may be none."""
    return _usable(clips, "valid", held_out_fold)


def _usable(clips: Sequence[Clip], split: str, held_out_fold: int | None) -> list[Clip]:
    return [
        clip
        for clip in clips
        if clip.split == split and clip.licensed and not clip.transmission and clip.page_fold != held_out_fold
    ]


def read_attacks(folder: Path, sources: Sequence[Clip]) -> list[tuple[str, Clip, str]]:
    """`(file, genuine source, attack)` of the manifest that `make_attacks` wrote, for the genuine clips in `sources`."""
    path = folder / "manifest.csv"
    if not path.is_file():
        raise CorpusError(f"{path} is not there; make it with python -m spooftrace.trainers.make_attacks")
    genuine = {clip.file: clip for clip in sources if not clip.is_spoof}
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [(row["file"], genuine.get(row["source_file"]), row["attack"]) for row in csv.DictReader(stream)]
    return [(file, clip, attack) for file, clip, attack in rows if clip is not None]


def band_energies(paths: Sequence[Path], frontend: MelFrontend, title: str) -> list[np.ndarray]:
    """Log band energies of whole clips, each `[frames, maps, bands]`, float16 to hold a corpus in memory."""
    energies = []
    with torch.inference_mode():
        for path in tqdm(paths, desc=title, unit="clip", mininterval=1.0):
            wave = torch.from_numpy(load_audio(path))[None]
            energies.append(frontend.energies(wave)[0].permute(2, 0, 1).log().numpy().astype(np.float16))
    return energies


class PairSampler:
    """Draws pairs of a genuine clip and a fake, and one random crop of each.

    Fakes are balanced over systems and genuine clips over pages, by the square root of their numbers. The partner of a
    fake is, where the corpus has it, the genuine recording of the same utterance: neither speaker nor page nor words
    then tell the labels apart.
    """

    TWIN_SHARE = 0.6  # of fakes with a genuine twin that meet it
    PAGE_SHARE = 0.5  # of the others that meet a genuine clip of their page

    def __init__(self, clips, energies, attacks, attack_energies, frames: int):
        self.energies, self.attack_energies, self.frames = energies, attack_energies, frames
        self.clips = clips
        self.genuine = [i for i, clip in enumerate(clips) if not clip.is_spoof]
        self.fakes = [i for i, clip in enumerate(clips) if clip.is_spoof]
        self.genuine_weight = balanced([clips[i].page for i in self.genuine])
        self.fake_weight = balanced([clips[i].system for i in self.fakes])
        position = {clip.file: i for i, clip in enumerate(clips)}
        self.attack_source = [position[clip.file] for _, clip, _ in attacks]
        if attacks:
            weight = balanced([clip.page for _, clip, _ in attacks]) * balanced([name for _, _, name in attacks])
            self.attack_weight = weight / weight.sum()
        self.of_utterance, self.of_page = defaultdict(list), defaultdict(list)
        for i in self.genuine:
            self.of_utterance[clips[i].utterance].append(i)
            self.of_page[clips[i].page].append(i)

    def draw(self, pairs: int, attack_share: float, rng: np.random.Generator) -> torch.Tensor:
        """Band energies `(2 * pairs, maps, bands, frames)`: genuine, fake, genuine, fake, ..."""
        count = int(rng.binomial(pairs, attack_share)) if self.attack_source else 0
        chosen = []
        for i in rng.choice(len(self.attack_source), count, p=self.attack_weight) if count else ():
            chosen.append((self.energies[self.attack_source[i]], self.attack_energies[i]))
        for i in rng.choice(self.fakes, pairs - count, p=self.fake_weight):
            chosen.append((self.energies[self._partner(i, rng)], self.energies[i]))
        return self._batch(chosen, rng)

    def _batch(self, chosen: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> torch.Tensor:
        """Pairs of log band energies of clips -> band energies of crops, as `draw` returns them."""
        crops = [crop for genuine, fake in chosen for crop in self._crop(genuine, fake, rng)]
        return torch.from_numpy(np.stack(crops).astype(np.float32)).permute(0, 2, 3, 1).exp()

    def _partner(self, fake: int, rng: np.random.Generator) -> int:
        clip = self.clips[fake]
        twins, page = self.of_utterance.get(clip.utterance), self.of_page.get(clip.page)
        if twins and rng.random() < self.TWIN_SHARE:
            return min(twins, key=lambda i: abs(self.clips[i].crop_start - clip.crop_start))
        if page and rng.random() < self.PAGE_SHARE:
            return int(rng.choice(page))
        return int(rng.choice(self.genuine, p=self.genuine_weight))

    def _crop(self, genuine: np.ndarray, fake: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """The same share of both clips, half of a full crop at least, repeated to its length."""
        length, place = int(self.frames * rng.uniform(0.5, 1.0)), rng.random()
        crops = []
        for clip in (genuine, fake):
            start = int(place * max(len(clip) - length, 0))
            crops.append(repeated(clip[start : start + length], self.frames))
        return crops


def repeated(clip: np.ndarray, frames: int) -> np.ndarray:
    """`[any, maps, bands]` -> `[frames, maps, bands]`, cut or repeated from its beginning."""
    return np.tile(clip, (-(-frames // len(clip)), 1, 1))[:frames]


def balanced(keys: Sequence[str]) -> np.ndarray:
    """Probabilities that give every key a share proportional to the square root of its count."""
    count = Counter(keys)
    weight = np.array([count[key] ** -0.5 for key in keys])
    return weight / weight.sum()
