"""A stream of audio blocks -> overlapping windows, and a measure of how much speech-like material passed by.

Numpy only, and in memory bounded by one block and one window: an hour-long file is never held as a whole.
"""

from collections.abc import Iterable, Iterator

import numpy as np


# 30 ms holds two periods of the lowest voices (about 70 Hz), and is the usual frame of voice activity detectors.
FRAME_SECONDS = 0.03
# Half a second holds two or three syllables; a window made of less is mostly repetition.
MIN_SECONDS = 0.5
# Ten voiced frames are one or two syllables, the least that can be called speech.
MIN_VOICED_SECONDS = 0.3
# About 33 steps of 16-bit audio: below it there is only dither, codec hiss or the noise of a converter.
SILENCE_DBFS = -60.0
# Speech within one recording spans 30 to 35 dB; what lies further below the loudest frame is background.
DYNAMIC_RANGE_DB = 40.0
# Correlation of neighbouring samples. Voiced speech keeps its energy below 1 kHz: 0.7 to 0.98 at 16 kHz. White noise
# has 0, fricatives and hiss lie below 0. With 0.3, 300 of 300 clips of read speech pass in white noise at 0 dB
# signal-to-noise ratio, 294 at -5 dB, and 300 through a telephone band.
MIN_VOICED_CORRELATION = 0.3
# Peak over root mean square within a voiced frame, in the median over a clip. Clips of read speech lie between 2.0 and
# 4.4; a sine has 1.41 and a square wave 1, and speech driven ten times into the limit falls to about 1.7.
MIN_CREST = 1.9


def cut_windows(blocks: Iterable[np.ndarray], window: int) -> Iterator[tuple[int, np.ndarray]]:
    """
    Windows of `window` samples that start every half window; the last one is anchored to the end of the stream.

    A stream shorter than one window is one shorter window. Together the windows cover every sample.

    Args:
        blocks: consecutive pieces of one waveform, each `[num_samples]`, of any length.
        window: in samples.

    Yields:
        `(start, samples)`: the position of the first sample in the stream, and `[window]` samples.
    """
    hop = max(window // 2, 1)
    kept, kept_at = np.empty(0, dtype=np.float32), 0  # from the latest window's first sample on
    start = 0
    for block in blocks:
        kept = np.concatenate((kept, block))
        while start + window <= kept_at + len(kept):
            kept, kept_at = kept[start - kept_at :], start
            yield start, kept[:window].copy()
            start += hop
    end = kept_at + len(kept)
    if 0 < end < window:
        yield 0, kept
    elif start - hop + window < end:
        yield end - window, kept[-window:].copy()


class Material:
    """
    Counts the speech-like frames of a stream, and names the reason why a clip cannot be judged.

    A frame of 30 ms is *voiced* where its level lies above -60 dBFS and within 40 dB of the loudest frame, and its
    neighbouring samples are correlated. The mean of a frame is removed first, so that a constant offset is silence.
    Where most voiced frames are as flat as a limiter or a test tone leaves them, the clip is distorted beyond judging.
    The rules tell speech from silence, hiss, tones and near-empty recordings; they do not tell speech from music.
    """

    def __init__(self, sampling_rate: int):
        self.sampling_rate = sampling_rate
        self.num_samples = 0
        self._frame = round(FRAME_SECONDS * sampling_rate)
        self._rest = np.empty(0, dtype=np.float32)
        self._levels: list[np.ndarray] = []  # 33 numbers a second, here and below
        self._correlations: list[np.ndarray] = []
        self._crests: list[np.ndarray] = []

    @property
    def seconds(self) -> float:
        """How much audio passed by."""
        return self.num_samples / self.sampling_rate

    def add(self, block: np.ndarray) -> None:
        """Takes the next samples of the stream, `[num_samples]`."""
        self.num_samples += len(block)
        samples = np.concatenate((self._rest, block))
        count = len(samples) // self._frame
        self._rest = samples[count * self._frame :]
        frames = samples[: count * self._frame].reshape(count, self._frame).astype(np.float64)
        frames -= frames.mean(axis=1, keepdims=True)
        energy = (frames**2).sum(axis=1)
        self._levels.append(10 * np.log10(energy / self._frame + 1e-12))
        self._correlations.append((frames[:, 1:] * frames[:, :-1]).sum(axis=1) / (energy + 1e-12))
        self._crests.append(np.abs(frames).max(axis=1) / np.sqrt(energy / self._frame + 1e-12))

    def abstention(self) -> str | None:
        """Why no verdict can be given, or `None` where one can."""
        if self.seconds < MIN_SECONDS:
            return "too short"
        levels, correlations = np.concatenate(self._levels), np.concatenate(self._correlations)
        if levels.max() < SILENCE_DBFS:
            return "silent"
        active = levels >= max(SILENCE_DBFS, levels.max() - DYNAMIC_RANGE_DB)
        voiced = active & (correlations >= MIN_VOICED_CORRELATION)
        if np.count_nonzero(voiced) * FRAME_SECONDS < MIN_VOICED_SECONDS:
            return "too little voiced material"
        crest = np.median(np.concatenate(self._crests)[voiced])
        return "clipped, or a steady tone" if crest < MIN_CREST else None
