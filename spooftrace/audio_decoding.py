"""Encoded files and sample arrays as decoded float32 blocks, each behind the same two things: `info` and `blocks()`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile

from spooftrace.audio_containers import CONVERT, describe_stranger, missing_ogg_bytes, promised_frames, sniff_container
from spooftrace.audio_source import AudioLimits, AudioTooLargeError, UnreadableAudioError, UnsupportedAudioError


_DECODE_FRAMES = 65_536  # at a time: 2 MiB for eight channels
_INTEGERS = ("int8", "int16", "int32", "uint8")
_MP3_TAIL_BYTES = 1024  # tags; more that is left undecoded is audio, since the estimate of the length was too low
_FETCH_AGAIN = "fetch or export the file again"


@dataclass(frozen=True)
class AudioInfo:
    """What a header says.

    Args:
        name: the path as given, or a description of a source that has none.
        sampling_rate: in Hz.
        channels: number of channels.
        frames: samples per channel; None where the header leaves it open. An estimate for MP3 without a length tag.
        duration: seconds, None where `frames` is.
        format: container, such as "WAV" or "FLAC"; "ARRAY" for arrays.
        subtype: encoding of the samples, such as "PCM_16"; an array's data type.
    """

    name: str
    sampling_rate: int
    channels: int
    frames: int | None
    duration: float | None
    format: str
    subtype: str

    @classmethod
    def of(cls, name: str, rate: int, channels: int, frames: int | None, container: str, subtype: str) -> "AudioInfo":
        """The same with the duration worked out."""
        duration = None if frames is None or rate <= 0 else frames / rate
        return cls(name, rate, channels, frames, duration, container, subtype)


class _SequentialSoundFile(soundfile.SoundFile):
    """soundfile seeks after every block it reads from a seekable file, which fails at the end of a FLAC stream of
    undeclared length; nothing here needs to seek."""

    def seekable(self) -> bool:
        return False


class _NamelessStream:
    """A stream without its name, from whose ending soundfile would guess a format; it keeps the errors of reading,
    which the C callbacks between it and its reader can't pass on."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.error = stream, None
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except (OSError, ValueError, TypeError) as error:
            self.error = error
            return b""


class EncodedClip:
    """An audio file of `size` bytes, opened by libsndfile; closing it leaves the stream open.

    Raises:
        UnreadableAudioError: not a known container, a broken header, or visibly cut short.
    """

    def __init__(self, stream: BinaryIO, name: str, size: int):
        self._name, self._size, self._stream = name, size, _NamelessStream(stream)
        self._container = container = self._known_container(stream, size)
        try:
            self._sound = _SequentialSoundFile(self._stream)
        except soundfile.SoundFileError as error:
            raise self._decoding_error("its header cannot be read", error) from error
        sound, position = self._sound, stream.tell()
        self._promised = promised_frames(container, sound.frames, sound.extra_info, stream)
        stream.seek(position)
        if self._promised is not None and self._promised > sound.frames:
            raise self._cut_short(sound.frames)
        estimated = sound.frames if container == "MP3" else None
        frames = estimated if self._promised is None else self._promised
        self.info = AudioInfo.of(name, sound.samplerate, sound.channels, frames, sound.format, sound.subtype)

    def _known_container(self, stream: BinaryIO, size: int) -> str:
        head = stream.read(16)
        container = sniff_container(head)
        if container is None:
            raise UnreadableAudioError(self._name, *describe_stranger(head))
        if container == "OGG" and (missing := missing_ogg_bytes(stream, size)):
            problem = f"cut short: its pages promise {size + missing} bytes and it holds {size}"
            raise UnreadableAudioError(self._name, problem, _FETCH_AGAIN)
        stream.seek(0)
        return container

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields float32 `[frames, channels]` as far as the header promises; an UnreadableAudioError for any less."""
        done, promised = 0, self._promised
        while promised is None or done < promised:
            wanted = _DECODE_FRAMES if promised is None else min(_DECODE_FRAMES, promised - done)
            try:
                block = self._sound.read(wanted, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                total = "an unknown number of" if promised is None else promised
                raise self._decoding_error(
                    f"decoding failed in the block after {done} of {total} frames", error
                ) from error
            if self._stream.error is not None:
                raise self._decoding_error(f"reading failed after {done} frames", self._stream.error)
            if not len(block):
                break
            done += len(block)
            yield block
        if promised is not None and done < promised:
            raise self._cut_short(done)
        if self._container == "MP3" and promised is None and self._size - self._stream.tell() > _MP3_TAIL_BYTES:
            problem = f"MP3 of variable bit rate without a length tag, of which libsndfile decodes only {done} frames"
            raise UnreadableAudioError(self._name, problem, CONVERT)

    def _cut_short(self, decodable: int) -> UnreadableAudioError:
        problem = f"cut short: its header promises {self._promised} frames and {decodable} can be decoded"
        return UnreadableAudioError(self._name, problem, _FETCH_AGAIN)

    def _decoding_error(self, problem: str, error: Exception) -> UnreadableAudioError:
        reason = self._stream.error or getattr(error, "error_string", error)
        return UnreadableAudioError(self._name, f"{problem} ({reason})", _FETCH_AGAIN)

    def close(self) -> None:
        self._sound.close()


class ArrayClip:
    """Samples `[samples]` or `[samples, channels]` whose sampling rate the caller names.

    Raises:
        UnsupportedAudioError: a type without an agreed full scale, another layout, or a rate that is no whole number.
        AudioTooLargeError: more than `limits.max_bytes`.
    """

    def __init__(self, array: np.ndarray, sampling_rate: int, name: str, limits: AudioLimits):
        self._frames = _as_frames(array, name, limits)
        count, channels = self._frames.shape
        self.info = AudioInfo.of(name, _whole_rate(sampling_rate, name), channels, count, "ARRAY", str(array.dtype))

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields float32 `[frames, channels]`: integers by their full scale, uint8 around 128."""
        kind = self._frames.dtype
        for start in range(0, len(self._frames), _DECODE_FRAMES):
            block = self._frames[start : start + _DECODE_FRAMES]
            with np.errstate(over="ignore"):  # becomes infinite, which is refused as such
                if kind.kind == "f":
                    block = block.astype(np.float32)
                else:
                    offset = 128 if kind.kind == "u" else 0
                    block = ((block.astype(np.float64) - offset) / 2 ** (8 * kind.itemsize - 1)).astype(np.float32)
            yield block

    def close(self) -> None:
        """An array needs no closing."""


def _whole_rate(sampling_rate: int | None, name: str) -> int:
    if sampling_rate is None:
        raise UnsupportedAudioError(name, "an array does not tell its sampling rate", "pass sampling_rate=... in Hz")
    try:
        whole = int(sampling_rate)
        exact = whole == sampling_rate
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise UnsupportedAudioError(name, f"sampling_rate={sampling_rate!r} is no whole number", "pass it in Hz")
    return whole


def _as_frames(array: np.ndarray, name: str, limits: AudioLimits) -> np.ndarray:
    """The array as `[frames, channels]`, its type and layout checked, nothing converted yet."""
    if array.nbytes > limits.max_bytes:
        raise AudioTooLargeError(
            name, f"{array.nbytes} bytes, more than the {limits.max_bytes} allowed", "pass AudioLimits(max_bytes=...)"
        )
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name not in _INTEGERS:
        raise UnsupportedAudioError(
            name,
            f"samples of type {array.dtype} have no agreed full scale",
            f"convert them to float in [-1, 1] or to one of {', '.join(_INTEGERS)}",
        )
    if array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise UnsupportedAudioError(name, "not [samples] or [samples, channels]", "reshape it")
    if array.ndim == 2 and array.shape[0] <= limits.max_channels < array.shape[1]:
        raise UnsupportedAudioError(name, "its channels come first", "pass array.T, which is [samples, channels]")
    return array if array.ndim == 2 else array[:, None]
