"""What the demo says in plain words: verdicts, abstentions, failures, thresholds, and the questions of source tracing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from spooftrace.results import Detection, Failure, Window
from spooftrace.spaces.demo_thresholds import Threshold


CAVEAT = "Evidence, not proof: new generators, codecs and edited recordings can mislead it."

# Why there is no verdict -> what that means, and what would help.
REASONS = {
    "too short": "The clip is shorter than half a second. Two seconds of speech or more can be judged.",
    "silent": "There is no sound in it that could be speech. Check the recording level, or choose another part.",
    "not finite": "The file holds values that are not numbers. Export it again from where it came from.",
    "too little voiced material": "There is hardly any voice in it. Choose a part in which somebody speaks.",
    "clipped, or a steady tone": "It is driven far into the limit, or a tone and not a voice. Find a cleaner copy.",
}

# Class of an audio error -> what that means, and what would help; `{seconds}` and `{megabytes}` are the limits.
FAILURES = {
    "AudioTooLongError": "The clip is longer than the {seconds} allowed here. Cut out the part in question.",
    "AudioTooLargeError": "The file is larger than the {megabytes} MB allowed here. Cut it, or store it as FLAC or MP3.",
    "EmptyAudioError": "The file holds no audio. Record or export it again.",
    "NonFiniteAudioError": "The file holds values that are not numbers. Export it again from where it came from.",
    "UnsupportedAudioError": "This kind of audio is not read here: {problem}. Mono or stereo at 8 to 48 kHz is.",
    "UnreadableAudioError": "The file cannot be read as audio: {problem}. WAV, FLAC, MP3 and Ogg are read here.",
}
OTHER_FAILURE = "The clip could not be processed. Try another copy of it."

TASKS = {
    "vq": "How the codec quantises",
    "aux": "What else the codec was trained to keep",
    "dec": "What the decoder writes",
}
CLASSES = {
    "vq": {"bonafide": "no codec heard", "mvq": "several codebooks", "svq": "one codebook", "sq": "scalars"},
    "aux": {
        "bonafide": "no codec heard",
        "none": "nothing else",
        "semantic": "meaning",
        "disentanglement": "voice and content apart",
    },
    "dec": {"bonafide": "no codec heard", "time": "a waveform", "frequency": "a spectrum"},
}


@dataclass(frozen=True)
class Verdict:
    """
    A verdict for people.

    Args:
        tone: how it is coloured.
        headline: in a few words.
        detail: in a sentence or two.
        parts: of the clip that sound otherwise than the whole; empty where none do.
    """

    tone: Literal["genuine", "fake", "none"]
    headline: str
    detail: str
    parts: str = ""


def verdict(
    result: Detection | Failure,
    threshold: Threshold,
    probability: Callable[[float], float],
    max_seconds: float,
    max_bytes: int,
) -> Verdict:
    """
    The verdict on a clip.

    Args:
        result: that the threshold was applied to.
        threshold: that windows are compared with too.
        probability: of genuine speech, for a window's score.
        max_seconds, max_bytes: what is accepted of a clip.
    """
    if isinstance(result, Failure):
        return Verdict("none", "This file could not be checked", _failure(result, max_seconds, max_bytes))
    if result.verdict == "abstain":
        return Verdict("none", "No verdict", REASONS.get(result.reason, result.reason))
    flagged, leans_fake = result.verdict == "spoof", result.probability_bonafide < 0.5
    if flagged:
        headline = "Flagged as fake" if leans_fake else "Flagged, though it leans genuine"
    else:
        headline = "Not flagged, though it leans fake" if leans_fake else "Sounds genuine"
    beyond = [window for window in result.windows if probability(window.score) < threshold.probability]
    if beyond and not flagged:
        headline = headline.replace("Sounds genuine", "Sounds genuine as a whole")
    parts = _parts(beyond, len(result.windows))
    tone = "fake" if flagged else "none" if leans_fake else "genuine"
    return Verdict(tone, headline, _detail(result, threshold), parts)


def _parts(beyond: Sequence[Window], total: int) -> str:
    """Where the windows that are flagged by themselves lie; nothing where that is all of them, or none."""
    if len(beyond) in (0, total):
        return ""
    worst = min(beyond, key=lambda window: window.score)
    return (
        f"{len(beyond)} of its {total} parts {'sounds' if len(beyond) == 1 else 'sound'} fake, most of all "
        f"{stretch(worst.start, worst.end)}. Parts are judged less surely than whole clips: listen to them."
    )


def _detail(result: Detection, threshold: Threshold) -> str:
    fixed = "" if threshold.point else " No rate of false alarms can be chosen for this model."
    if not result.model["calibrated"]:
        return f"Probabilities by the bare score: this model was not calibrated.{fixed}"
    return f"Probabilities hold for clips like those of its calibration, as many genuine as fake.{fixed}"


def _failure(failure: Failure, max_seconds: float, max_bytes: int) -> str:
    problem = failure.message.removeprefix(f"{failure.path!r}: ").partition("; ")[0]
    template = FAILURES.get(failure.error, OTHER_FAILURE)
    return template.format(problem=problem, seconds=duration(max_seconds), megabytes=max_bytes // 2**20)


def threshold_words(threshold: Threshold) -> str:
    """What the threshold promises, and on which clips that was found."""
    if threshold.point is None:
        return (
            "Nobody measured this model's scores on labelled clips, so no rate of false alarms can be chosen: clips below "
            f"{percent(threshold.probability)} probability of genuine speech are flagged."
        )
    point = threshold.point
    return (
        f"Flags clips below {percent(threshold.probability)} probability of genuine speech. On {threshold.measured_on}, that "
        f"flagged {point.flagged_genuine} of {point.genuine} genuine and {point.flagged_fake} of {point.fake} fake clips. On "
        "other recordings expect more mistakes of both kinds."
    )


def percent(share: float) -> str:
    """Such as `12 %`; never 0 or 100 for what is not."""
    if 0 < share < 0.005:
        return "under 1 %"
    if 0.995 < share < 1:
        return "over 99 %"
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Such as `4.2 s`, `10 min` or `9 min 20 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"


def clock(seconds: float) -> str:
    """A position, such as `4.2` or `3:07.5`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}" if minutes else f"{rest:.1f}"


def stretch(start: float, end: float) -> str:
    """A part of a clip, such as `4.2 to 6.2 s` or `3:07.5 to 3:09.5`."""
    return f"{clock(start)} to {clock(end)}{'' if end >= 60 else ' s'}"
