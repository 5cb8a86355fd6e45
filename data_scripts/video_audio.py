"""The audio of videos as 16 kHz mono FLAC, through an ffmpeg that is installed."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from spooftrace.audio import SAMPLING_RATE, AudioError, inspect_audio


TIMEOUT = 120.0
"""Seconds for one video. FakeAVCeleb's last under ten."""

_LONGEST_MESSAGE = 300


class Extraction(NamedTuple):
    """
    What became of a list of videos.

    Args:
        written: number of files written.
        kept: number of files that were there already.
        failed: video -> why there is no audio of it.
    """

    written: int
    kept: int
    failed: dict[Path, str]


def find_ffmpeg(ffmpeg: str | os.PathLike | None = None) -> str:
    """
    Path of the given ffmpeg, or of the one on the PATH.

    Raises:
        FileNotFoundError: where there is none, with how to get one.
    """
    found = shutil.which(os.fspath(ffmpeg or "ffmpeg"))
    if found is None:
        where = f"no program at {os.fspath(ffmpeg)!r}" if ffmpeg else "no ffmpeg on the PATH"
        raise FileNotFoundError(
            f"{where}: the audio of videos needs it. Install it (apt install ffmpeg, brew install ffmpeg, "
            f"winget install ffmpeg), or name yours with ffmpeg=..."
        )
    return found


def command(ffmpeg: str, video: Path, target: Path) -> list[str]:
    """
    The call that writes the first audio track of an MP4 file as 16 kHz mono FLAC of 16 bits.

    Videos come from strangers: only files are opened, only as MP4, and no name is taken for an option or a protocol.
    """
    reading = ["-nostdin", "-protocol_whitelist", "file,pipe", "-f", "mov", "-i", f"file:{video}"]
    track = ["-map", "0:a:0", "-map_metadata", "-1", "-ac", "1", "-ar", str(SAMPLING_RATE)]
    writing = ["-c:a", "flac", "-sample_fmt", "s16", "-bitexact", "-f", "flac", "-y", f"file:{target}"]
    return [ffmpeg, "-hide_banner", "-loglevel", "error", "-threads", "1", *reading, *track, *writing]


def extract_all(
    pairs: Iterable[tuple[Path, Path]],
    ffmpeg: str | os.PathLike | None = None,
    *,
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> Extraction:
    """
    Writes the audio of each video; a file that is there already stays, so that a second call goes on from the first.

    Args:
        pairs: video and FLAC file to write.
        ffmpeg: the program; by default the one on the PATH.
        workers: videos at a time; by default one per processor.
        timeout: in seconds, for one video.
        progress: show a bar.

    Raises:
        FileNotFoundError: without ffmpeg.
    """
    from tqdm import tqdm

    program = find_ffmpeg(ffmpeg)
    pairs = list(pairs)
    missing = [(video, target) for video, target in pairs if not target.exists()]
    failed = {}
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            messages = pool.map(lambda pair: extract_one(program, *pair, timeout), missing)
            bar = tqdm(messages, total=len(missing), unit="video", disable=not progress)
            for (video, _), message in zip(missing, bar, strict=True):
                if message is not None:
                    failed[video] = message
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Extraction(len(missing) - len(failed), len(pairs) - len(missing), failed)


def extract_one(ffmpeg: str, video: Path, target: Path, timeout: float = TIMEOUT) -> str | None:
    """Writes the audio of one video, whole or not at all; returns what went wrong, or `None`."""
    if not video.is_file():
        return "the video is not there"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.stem}.{os.getpid()}.part")
    try:
        message = _run(command(ffmpeg, video, part), timeout) or _check(part)
        if message is None:
            os.replace(part, target)
        return message
    except OSError as error:
        return str(error)
    finally:
        part.unlink(missing_ok=True)


def _run(arguments: list[str], timeout: float) -> str | None:
    try:
        done = subprocess.run(arguments, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"ffmpeg took longer than {timeout:g} s"
    message = done.stderr.decode("utf-8", "replace").strip()[:_LONGEST_MESSAGE]
    return f"ffmpeg ended with {done.returncode}: {message}" if done.returncode else None


def _check(path: Path) -> str | None:
    try:
        info = inspect_audio(path)
    except AudioError as error:
        return f"ffmpeg wrote no audio: {error}"
    return None if info.sampling_rate == SAMPLING_RATE else f"ffmpeg wrote {info.sampling_rate} Hz"
