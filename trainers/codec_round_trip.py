"""A clip through a codec and back, in memory, by libsndfile."""

import io
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from spooftrace.audio import SAMPLING_RATE


# libsndfile's Vorbis encoder keeps all that it gets in one call on the stack, which four million samples overflow.
BLOCK = 100_000


class Codec(NamedTuple):
    """How libsndfile spells a codec; the rate in Hz at which it is used; whether its compression can be chosen."""

    format: str
    subtype: str
    sampling_rate: int
    is_variable: bool


CODECS = {
    "mp3": Codec("MP3", "MPEG_LAYER_III", 16_000, True),
    "vorbis": Codec("OGG", "VORBIS", 16_000, True),
    "opus": Codec("OGG", "OPUS", 16_000, True),
    "gsm": Codec("WAV", "GSM610", 8_000, False),
    "ulaw": Codec("WAV", "ULAW", 8_000, False),
    "alaw": Codec("WAV", "ALAW", 8_000, False),
}


def codec_round_trip(waveform: np.ndarray, codec: str, *, compression: float | None = None) -> np.ndarray:
    """
    What is left of a clip after a codec. It keeps its length, and no sample moves: decoders skip what encoders put first.

    Args:
        waveform: float32 `[num_samples]` at 16 kHz; what lies beyond [-1, 1] may be clipped.
        codec: a name of `CODECS`. The telephone codecs work at 8 kHz, to which and from which the clip is resampled.
        compression: of MP3, Vorbis and Opus, in [0, 1): 0 is the best quality. At 0.9 they take about 22, 31 and 30 kbit/s
            at 16 kHz. By default libsndfile's own choice.

    Returns:
        float32 `[num_samples]`.

    Raises:
        ValueError: for an unknown codec, a compression outside [0, 1), or one for a codec that has no choice.
    """
    check_codec(codec, compression)
    if not len(waveform):
        return waveform.copy()
    kind = CODECS[codec]
    narrow = soxr.resample(waveform, SAMPLING_RATE, kind.sampling_rate)
    options = {} if compression is None else {"compression_level": compression}
    stream = io.BytesIO()
    with soundfile.SoundFile(
        stream, "w", kind.sampling_rate, 1, format=kind.format, subtype=kind.subtype, **options
    ) as file:
        for start in range(0, len(narrow), BLOCK):
            file.write(narrow[start : start + BLOCK])
    stream.seek(0)
    decoded, _ = soundfile.read(stream, dtype="float32")
    output = np.zeros_like(waveform)
    wide = soxr.resample(decoded, kind.sampling_rate, SAMPLING_RATE)[: len(waveform)]
    output[: len(wide)] = wide
    return output


def check_codec(codec: str, compression: float | None = None) -> None:
    """
    Raises:
        ValueError: see `codec_round_trip`.
    """
    if codec not in CODECS:
        raise ValueError(f"codecs are {', '.join(CODECS)}, got {codec!r}.")
    if compression is None:
        return
    if not CODECS[codec].is_variable:
        raise ValueError(f"{codec!r} has one bit rate: leave `compression` out.")
    if not 0 <= compression < 1:
        raise ValueError(f"`compression` lies in [0, 1), got {compression!r}.")
