"""Untrusted audio in, a validated mono float32 waveform at 16 kHz out; soundfile (libsndfile) and soxr do the work.

The header is checked before anything is decoded, decoding goes in blocks of bounded size and counts for itself, and
everything that is wrong ends in an `AudioError` that names the source and the remedy.

The waveform: mono (the mean of the channels), float32, 16,000 samples per second, full scale at -1 and 1, never
normalised. Values beyond full scale, which float files hold legitimately and lossy decoders overshoot to, are kept and
not clipped, since clipping would itself be a trace; samples beyond +-256 (48 dB over full scale) are refused as integers
that were stored as floats without scaling.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import soxr

from spooftrace.audio_decoding import ArrayClip, AudioInfo, EncodedClip
from spooftrace.audio_source import (
    AUDIO_SUFFIXES,
    DEFAULT_LIMITS,
    AudioError,
    AudioLimits,
    AudioNotFoundError,
    AudioSource,
    AudioTooLargeError,
    AudioTooLongError,
    EmptyAudioError,
    NonFiniteAudioError,
    UnreadableAudioError,
    UnsupportedAudioError,
    describe_source,
    find_audio,
    open_source,
    reusable_source,
)


__all__ = [
    "AUDIO_SUFFIXES",
    "SAMPLING_RATE",
    "AudioError",
    "AudioInfo",
    "AudioLimits",
    "AudioNotFoundError",
    "AudioSource",
    "AudioTooLargeError",
    "AudioTooLongError",
    "EmptyAudioError",
    "NonFiniteAudioError",
    "UnreadableAudioError",
    "UnsupportedAudioError",
    "audio_sha256",
    "describe_source",
    "find_audio",
    "inspect_audio",
    "iter_audio",
    "load_audio",
    "reusable_source",
]

SAMPLING_RATE = 16_000
"""Samples per second of every waveform that leaves this module."""

_LARGEST_SAMPLE = 256.0


def inspect_audio(
    source: AudioSource, *, sampling_rate: int | None = None, limits: AudioLimits = DEFAULT_LIMITS
) -> AudioInfo:
    """Reads and checks the header alone.

    Args:
        source: path, bytes, binary file object (rewound first) or array, see `load_audio`.
        sampling_rate: in Hz, of an array; refused for everything that has a header.
        limits: what to accept.

    Raises:
        AudioError: one of its subclasses, as `load_audio` does, but for what only decoding can find.
    """
    with _opened(source, sampling_rate, limits) as clip:
        return clip.info


def iter_audio(
    source: AudioSource,
    *,
    sampling_rate: int | None = None,
    limits: AudioLimits = DEFAULT_LIMITS,
    block_seconds: float = 30.0,
) -> Iterator[np.ndarray]:
    """Decodes block by block in bounded memory, whatever the length; concatenated, `load_audio`'s result bit for bit.

    Nothing is opened before the first block is asked for. Errors that lie further in (a cut file, NaN) are raised on
    reaching them, after the blocks before.

    Args:
        source: as for `load_audio`.
        sampling_rate: in Hz, of an array; refused for everything that has a header.
        limits: what to accept.
        block_seconds: length of a block, at least one sample; only the last one is shorter. It never changes a value.

    Yields:
        float32 arrays `[block_seconds * 16000]`, the last `[1 ... block_seconds * 16000]`.

    Raises:
        AudioError: one of its subclasses, as `load_audio` does.
        ValueError: for `block_seconds` that is not a positive number.
    """
    if not 0 < block_seconds < math.inf:
        raise ValueError(f"block_seconds is {block_seconds!r}; give a positive number of seconds")
    block = max(1, round(block_seconds * SAMPLING_RATE))
    with _opened(source, sampling_rate, limits) as clip:
        mono = (_downmix(frames) for frames in _checked(clip.blocks(), clip.info, limits))
        length = 0
        for waveform in _regroup(_resampled(mono, clip.info.sampling_rate), block):
            length += len(waveform)
            yield waveform
        if length == 0:
            raise EmptyAudioError(clip.info.name, "holds less than one sample at 16 kHz", "record or export it again")


def load_audio(
    source: AudioSource, *, sampling_rate: int | None = None, limits: AudioLimits = DEFAULT_LIMITS
) -> np.ndarray:
    """Decodes a whole clip.

    Args:
        source: a local path (`str` or `PathLike`; URLs are refused); the encoded `bytes`; a binary file object, read
            from its start where it can seek and to its end where it can't; or an array `[samples]` or
            `[samples, channels]` of float (full scale at 1) or of int8, int16, int32 (scaled by their full scale) or
            uint8 (offset by 128, as in WAV files). An array with at most eight rows and more columns than that is
            refused, since it has its channels first.
        sampling_rate: in Hz; required for arrays, refused for everything that has a header.
        limits: what to accept.

    Returns:
        float32 `[num_samples]` at 16 kHz; `num_samples` is `frames * 16000 / rate` rounded, give or take one.

    Raises:
        AudioNotFoundError: no such file.
        UnreadableAudioError: not audio that is decoded here, cut short, corrupt, a folder or a device.
        EmptyAudioError: less than one sample at 16 kHz.
        UnsupportedAudioError: sampling rate, channels, array or kind of source not accepted.
        AudioTooLongError: more than `limits.max_seconds`.
        AudioTooLargeError: more than `limits.max_bytes`.
        NonFiniteAudioError: NaN or infinite samples.
    """
    return np.concatenate(list(iter_audio(source, sampling_rate=sampling_rate, limits=limits)))


def audio_sha256(source: AudioSource, *, limits: AudioLimits = DEFAULT_LIMITS) -> str:
    """SHA-256 (64 hex digits) of the encoded bytes; of an array, of its samples as little-endian float32 in C order.

    Integer arrays are scaled to [-1, 1] first, as for decoding; the sampling rate is not part of the digest.

    Raises:
        AudioError: where the source can't be opened or is larger than `limits.max_bytes`.
    """
    digest = hashlib.sha256()
    if isinstance(source, np.ndarray):
        for block in ArrayClip(source, SAMPLING_RATE, describe_source(source), limits).blocks():
            digest.update(block.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()
    with open_source(source, limits) as (stream, _):
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _opened(source: AudioSource, sampling_rate: int | None, limits: AudioLimits) -> Iterator[EncodedClip | ArrayClip]:
    """The source with its header checked."""
    name = describe_source(source)
    if isinstance(source, np.ndarray):
        clip = ArrayClip(source, sampling_rate, name, limits)
        _check_header(clip.info, limits)
        yield clip
        return
    if sampling_rate is not None:
        raise UnsupportedAudioError(
            name, f"sampling_rate={sampling_rate!r} was given for encoded audio", "leave it out, the header tells it"
        )
    with open_source(source, limits) as (stream, size), closing(EncodedClip(stream, name, size)) as clip:
        _check_header(clip.info, limits)
        yield clip


def _check_header(info: AudioInfo, limits: AudioLimits) -> None:
    if not limits.min_sampling_rate <= info.sampling_rate <= limits.max_sampling_rate:
        raise UnsupportedAudioError(
            info.name,
            f"a sampling rate of {info.sampling_rate} Hz is outside {limits.min_sampling_rate} to "
            f"{limits.max_sampling_rate} Hz",
            "resample it, or pass AudioLimits with other rates",
        )
    if info.channels > limits.max_channels:
        raise UnsupportedAudioError(
            info.name,
            f"{info.channels} channels, more than the {limits.max_channels} allowed",
            "export fewer channels, or pass AudioLimits(max_channels=...)",
        )
    if info.duration is not None and info.duration > limits.max_seconds:
        raise _too_long(info, limits, f"{info.duration:.1f} s by its header")


def _too_long(info: AudioInfo, limits: AudioLimits, length: str) -> AudioTooLongError:
    return AudioTooLongError(
        info.name,
        f"{length}, more than the {limits.max_seconds:g} s allowed",
        "cut it, or pass AudioLimits(max_seconds=...), on the command line --max-seconds",
    )


def _checked(blocks: Iterable[np.ndarray], info: AudioInfo, limits: AudioLimits) -> Iterator[np.ndarray]:
    """The blocks, each one counted against the seconds that are allowed and searched for impossible samples."""
    done, most = 0, limits.max_seconds * info.sampling_rate
    for block in blocks:
        done += len(block)
        if done > most:
            raise _too_long(info, limits, "longer than its header says")
        peak = float(np.abs(block).max())  # NaN wins over any number
        if not math.isfinite(peak):
            raise NonFiniteAudioError(info.name, "holds NaN or infinite samples", "export it again from its origin")
        if peak > _LARGEST_SAMPLE:
            raise UnsupportedAudioError(
                info.name,
                f"samples reach {peak:g} where full scale is 1",
                "divide them by the full scale of the integers they came from, such as 32768",
            )
        yield block


def _downmix(block: np.ndarray) -> np.ndarray:
    """The mean of the channels, `[frames, channels]` to `[frames]`; equal channels come out unchanged to the bit.

    Added one by one in float64, so that the result for a frame depends on nothing but that frame.
    """
    if block.shape[1] == 1:
        return block[:, 0]
    total = block[:, 0].astype(np.float64)
    for channel in range(1, block.shape[1]):
        total += block[:, channel]
    return (total / block.shape[1]).astype(np.float32)


def _resampled(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """soxr's streaming resampler at its high quality, whose output does not depend on how the input is cut."""
    if rate == SAMPLING_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _regroup(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Pieces of any length as pieces of `size`, the last one shorter."""
    held, count = [], 0
    for piece in pieces:
        while count + len(piece) >= size:
            cut = size - count
            yield np.concatenate([*held, piece[:cut]])
            piece, held, count = piece[cut:], [], 0
        if len(piece):
            held.append(piece)
            count += len(piece)
    if held:
        yield np.concatenate(held)
