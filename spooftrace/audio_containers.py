"""What an audio container says about itself, where libsndfile does not tell.

libsndfile opens more formats than a stranger's file should reach, settles silently for what a cut file still holds, and
estimates the length of some MP3 files. The functions here look at the bytes first, and at what was promised.
"""

import os
import re
from typing import BinaryIO


CONVERT = "convert it to WAV or FLAC first, for example with: ffmpeg -i IN -c:a flac OUT.flac"
_MAGICS = {b"fLaC": "FLAC", b"OggS": "OGG", b"caff": "CAF", b".snd": "AU", b"dns.": "AU", b"NIST": "NIST"}
_UNKNOWN_FRAMES = 2**62  # libsndfile reports 2**63 - 1 for a FLAC stream whose header leaves the length open

# libsndfile's log: what the header of the sample data says, and what the file holds where that is less
_DATA_SIZE = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_FRAME_COUNT = re.compile(r"'(?:ds64' chunk of |COMM' chunk \()(\d+)")  # RF64, AIFF: more or less than the data make
_NIST_FRAMES = re.compile(rb"sample_count -i (\d+)")
_SLOPPY_BYTES = 64  # writers that count their own header into the data size

_OGG_PAGE_MAX = 65_307  # RFC 3533: 27 bytes, 255 lacing values, 255 * 255 bytes
_ID3_HEADER = 10
_MP3_TAG_SEARCH = 2048  # the first frame, which holds the tag with the exact length, is at most 1,441 bytes


def sniff_container(head: bytes) -> str | None:
    """The container by the first 16 bytes of a file: a name from the list that is decoded here, or None."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    if head[:3] == b"ID3":
        return "MP3"  # or FLAC behind a tag, which libsndfile finds
    # MPEG audio: eleven sync bits, then layer III or II (I would admit UTF-16 text, and 00 is AAC)
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 in (0x02, 0x04):
        return "MP3"
    return _MAGICS.get(head[:4])


def describe_stranger(head: bytes) -> tuple[str, str]:
    """What a file that `sniff_container` does not know seems to be, and the remedy."""
    if head[4:8] == b"ftyp":
        return "MP4 or M4A, which libsndfile does not decode", CONVERT
    if head[:4] == b"\x1aE\xdf\xa3":
        return "WebM or Matroska, which libsndfile does not decode", CONVERT
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC, which libsndfile does not decode", CONVERT
    if head[:2] in (b"PK", b"\x1f\x8b") or head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\0":
        return "a compressed archive, whatever its name says", "extract it and pass the audio files in it"
    return "not audio in a format that is decoded here, whatever its name says", CONVERT


def promised_frames(container: str, frames: int, log: str, stream: BinaryIO) -> int | None:
    """How many frames the header promises, or None where it leaves the length open or is only an estimate.

    Args:
        container: what `sniff_container` said.
        frames: what libsndfile reports, which for PCM is what the file holds and not what its header says.
        log: libsndfile's log of opening the file.
        stream: the file; its position is moved.
    """
    if frames >= _UNKNOWN_FRAMES:
        return None
    if container == "MP3":
        return frames if _mp3_length_is_exact(stream) else None
    if container == "NIST":
        stream.seek(0)
        count = _NIST_FRAMES.search(stream.read(1024))
        return max(int(count[1]), frames) if count else frames
    if count := _FRAME_COUNT.search(log):
        return max(int(count[1]), frames)
    if size := _DATA_SIZE.search(log):
        declared, held = int(size[1]), int(size[2])
        if declared > held + _SLOPPY_BYTES and not _is_streaming_size(declared):
            return max(round(frames * declared / held) if held else 0, frames + 1)
    return frames


def _is_streaming_size(size: int) -> bool:
    """Programs that write to a pipe can't know the size and put the largest signed or unsigned 32-bit number, less
    the header's few bytes or rounded down to 4 KiB."""
    return 0x7FFF_0000 <= size <= 0x8000_0000 or size >= 0xFFFF_0000


def _mp3_length_is_exact(stream: BinaryIO) -> bool:
    """Whether the first frame carries a Xing, Info or VBRI tag; without one, libsndfile guesses from the bit rate."""
    stream.seek(0)
    head = stream.read(_ID3_HEADER)
    start = 0
    if head[:3] == b"ID3" and len(head) == _ID3_HEADER:  # its size comes in four bytes of seven bits
        start = _ID3_HEADER + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    stream.seek(start)
    first_frame = stream.read(_MP3_TAG_SEARCH)
    return any(tag in first_frame for tag in (b"Xing", b"Info", b"VBRI"))


def missing_ogg_bytes(stream: BinaryIO, size: int) -> int:
    """How many bytes the last page of an Ogg file lacks; 0 for a whole one, or one cut exactly between two pages.

    Ogg declares no length, so that a cut within a page is the only one that shows.
    """
    stream.seek(max(0, size - _OGG_PAGE_MAX), os.SEEK_SET)
    tail = stream.read(_OGG_PAGE_MAX)
    start = tail.rfind(b"OggS\0")
    page = tail[start:] if start >= 0 else b""
    if len(page) < 27:
        return 27 - len(page)
    body = sum(page[27 : 27 + page[26]])
    return max(0, 27 + page[26] + body - len(page))
