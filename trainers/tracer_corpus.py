"""What the default tracer learns from: genuine speech and speech that a known neural codec made, with the codec's classes.

Every other spoof has no class in any task. Such clips are never trained on; they are the unknowns of the open-set test.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers.detector_corpus import Clip, CorpusError, PairSampler, balanced
from spooftrace.trainers.tracing_labels import UNKNOWN


TASKS = ("vq", "aux", "dec")
# What the licensed rows can teach: no clip was made by scalar quantisation, and too few (13) by a semantic codec.
LICENSED_LABELS = {
    "vq": ["bonafide", "mvq", "svq"],
    "aux": ["bonafide", "none", "disentanglement"],
    "dec": ["bonafide", "time", "frequency"],
}
ALL_LABELS = {task: list(TASK_LABELS[task]) for task in TASKS}
# The licensed codecs in three parts, for runs that leave one out. What goes through the same codec is in one part, and
# every class keeps a system whichever part is left out.
SYSTEM_FOLDS = (
    ("dac", "languagecodec", "ticodec", "valle-ticodec"),
    ("encodec", "freecodec", "freecodec-vc", "wavtokenizer"),
    ("audiodec", "funcodec", "lyra-v2", "mobilespeech-codec", "speechtokenizer", "supercodec"),
)


def made_by_codec(clip: Clip) -> bool:
    """Whether a spoof went through a codec whose classes are known."""
    return clip.is_spoof and any(getattr(clip, task) is not None for task in TASKS)


def tracing_clips(
    clips: Sequence[Clip],
    split: str,
    *,
    all_rows: bool = False,
    held_out_fold: int | None = None,
    system_fold: int | None = None,
) -> list[Clip]:
    """
    Genuine and codec-made clips of a split that may be learnt from.

    Args:
        clips: of the whole corpus.
        split: `"train"` or `"valid"`.
        all_rows: also those without a stated licence.
        held_out_fold: the pages of this `page_fold` are left out.
        system_fold: the codecs of this part of `SYSTEM_FOLDS` are left out.
    """
    absent = () if system_fold is None else SYSTEM_FOLDS[system_fold]
    return [
        clip
        for clip in clips
        if clip.split == split
        and (all_rows or clip.licensed)
        and clip.page_fold != held_out_fold
        and (not clip.is_spoof or (made_by_codec(clip) and clip.system not in absent))
    ]


def unknown_clips(clips: Sequence[Clip], split: str) -> list[Clip]:
    """Licensed spoofs of a split that no neural codec made; what was only coded for transmission is left out."""
    return [
        clip
        for clip in clips
        if clip.split == split
        and clip.licensed
        and clip.is_spoof
        and not clip.transmission
        and not made_by_codec(clip)
    ]


def targets_of(clips: Sequence[Clip], labels: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Class numbers `(clips, tasks)` in the order of `labels`; `UNKNOWN` where a clip's class is not in the label set."""
    number = {task: {label: index for index, label in enumerate(names)} for task, names in labels.items()}
    rows = [[number[task].get(getattr(clip, task), UNKNOWN) for task in labels] for clip in clips]
    return np.array(rows, dtype=np.int64).reshape(len(clips), len(labels))


def class_counts(clips: Sequence[Clip], labels: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Clips of every class by task; those that the label set leaves out are counted as `masked`, if there are any."""
    counts = {}
    for task, names in labels.items():
        found = Counter(getattr(clip, task) for clip in clips)
        masked = sum(count for label, count in found.items() if label not in names)
        counts[task] = {label: found[label] for label in names} | ({"masked": masked} if masked else {})
    return counts


def require_classes(clips: Sequence[Clip], labels: Mapping[str, Sequence[str]], absent_is_fine: bool) -> None:
    """
    Checks that there is something to learn.

    Raises:
        CorpusError: without genuine or codec-made clips, and, unless `absent_is_fine`, for classes without a clip.
    """
    counts = class_counts(clips, labels)
    empty = [f"{task} {label}" for task in labels for label in labels[task] if not counts[task][label]]
    genuine = sum(not clip.is_spoof for clip in clips)
    if not genuine or genuine == len(clips) or (empty and not absent_is_fine):
        raise CorpusError(
            f"metadata.csv has {genuine} bona fide rows and {len(clips) - genuine} of known codecs in the train split that "
            f"could be trained on, and none of {', '.join(empty) or 'the others'}"
        )


class TracingSampler(PairSampler):
    """Draws pairs of a genuine clip and a codec's, and their classes.

    Codec-made clips are balanced over systems and pages together, and over the combinations of classes, both by the square
    root of their numbers.

    Args:
        clips: of [`tracing_clips`].
        energies: log band energies of the clips.
        targets: class numbers `(clips, tasks)`.
        frames: length of a crop.
    """

    def __init__(self, clips: Sequence[Clip], energies: Sequence[np.ndarray], targets: np.ndarray, frames: int):
        super().__init__(clips, energies, [], [], frames)
        self.targets = targets
        origin = balanced([f"{clips[i].system} {clips[i].page}" for i in self.fakes])
        classes = balanced([str(targets[i].tolist()) for i in self.fakes])
        self.fake_weight = origin * classes / (origin * classes).sum()

    def draw_labelled(self, pairs: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Band energies `(2 * pairs, maps, bands, frames)`, genuine, fake, genuine, ..., and classes `(2 * pairs, tasks)`."""
        chosen = [(self._partner(fake, rng), fake) for fake in rng.choice(self.fakes, pairs, p=self.fake_weight)]
        energies = self._batch([(self.energies[genuine], self.energies[fake]) for genuine, fake in chosen], rng)
        return energies, torch.from_numpy(self.targets[np.array(chosen).ravel()])

    def class_shares(self, task: int, classes: int) -> np.ndarray:
        """Expected share of each class among the drawn clips that have one, `(classes,)`."""
        targets = self.targets[self.fakes, task]
        known = targets != UNKNOWN
        shares = np.bincount(targets[known], self.fake_weight[known], minlength=classes)
        shares[0] += 1  # as many genuine clips as fakes
        return shares / shares.sum()
