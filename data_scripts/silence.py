"""Silence removal by WebRTC voice activity detection, as the source tracing protocol on CodecFake+ does it.

Frames of 30 ms are judged at the detector's highest aggressiveness, and those without speech are left out anywhere in
the clip, together with the last, incomplete frame (SASTNet, arXiv 2506.07294, whose text speaks of silence at the
boundaries; its published code cuts everywhere, which is `where="all"` here). `where="ends"` cuts at the boundaries alone.

Detectors lean on silence, and the cuts leave traces of their own: report results with and without. The package
`webrtcvad` (distribution `webrtcvad-wheels`, extra `data`) is imported on use.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

import numpy as np

from spooftrace.audio import SAMPLING_RATE, audio_sha256, load_audio
from spooftrace.data_scripts.protocol import is_inside
from spooftrace.data_scripts.rows import Row


FRAME_SAMPLES = 480  # 30 ms
_FULL_SCALE = 32_767

Where = Literal["all", "ends"]
Unvoiced = Literal["keep", "error"]


class Trimmed(NamedTuple):
    """
    A clip without its silence.

    Args:
        waveform: float32 `[num_samples]` at 16 kHz; multiples of 1 / 32767, as the published protocol leaves them, but
            for a clip in which nothing is voiced.
        fraction_removed: removed samples by all samples, in [0, 1), the incomplete last frame included.
        voiced: `False` where no frame is speech; the waveform is then the original one, and nothing was removed.
    """

    waveform: np.ndarray
    fraction_removed: float
    voiced: bool


def remove_silence(
    waveform: np.ndarray, *, where: Where = "all", aggressiveness: int = 3, unvoiced: Unvoiced = "keep"
) -> Trimmed:
    """
    A clip without the frames that hold no speech.

    The detector starts afresh with each clip, so the result depends on nothing else. Samples beyond full scale are
    clipped in the conversion to 16 bits, where the published code lets them wrap around.

    Args:
        waveform: floating point `[num_samples]` at 16 kHz, full scale at 1.
        where: `"all"` frames without speech, or those before the first and after the last one with speech (`"ends"`).
            The incomplete last frame, which can't be judged, goes in either case.
        aggressiveness: of the detector, 0 to 3; the protocol's is 3.
        unvoiced: what to do where nothing is speech, as in every clip of less than 30 ms: `"keep"` the clip as it is,
            or raise an `"error"`.

    Raises:
        TypeError: for an array that is not of floating point.
        ValueError: for an array that is empty, of another shape or not finite, for an unknown option, and for an
            unvoiced clip under `unvoiced="error"`.
        ModuleNotFoundError: where `webrtcvad` is not installed.
    """
    _check_options(where, aggressiveness, unvoiced)
    samples = _to_int16(_check_waveform(waveform))
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    speech = speech_frames(frames, aggressiveness)
    if not speech.any():
        if unvoiced == "error":
            raise ValueError(f'no frame of {len(samples)} samples is speech: pass unvoiced="keep" to keep the clip')
        return Trimmed(waveform.astype(np.float32), 0.0, False)
    if where == "ends":
        voiced = np.flatnonzero(speech)
        speech[voiced[0] : voiced[-1] + 1] = True
    kept = frames[speech].reshape(-1)
    return Trimmed(kept.astype(np.float32) / _FULL_SCALE, 1 - len(kept) / len(samples), True)


def speech_frames(frames: np.ndarray, aggressiveness: int = 3) -> np.ndarray:
    """Which of the int16 `[num_frames, 480]` at 16 kHz are speech, by a detector that hears them in order: bool."""
    import webrtcvad

    detector = webrtcvad.Vad(aggressiveness)
    judged = [detector.is_speech(frame.astype("<i2").tobytes(), SAMPLING_RATE) for frame in frames]
    return np.array(judged, dtype=bool)


def _to_int16(waveform: np.ndarray) -> np.ndarray:
    """16-bit samples, cut off towards zero as the protocol's conversion does, not rounded."""
    return np.clip(waveform.astype(np.float32) * _FULL_SCALE, -_FULL_SCALE - 1, _FULL_SCALE).astype(np.int16)


def _check_options(where: str, aggressiveness: int, unvoiced: str) -> None:
    if where not in ("all", "ends"):
        raise ValueError(f"where is {where!r}: write 'all' or 'ends'")
    if unvoiced not in ("keep", "error"):
        raise ValueError(f"unvoiced is {unvoiced!r}: write 'keep' or 'error'")
    if aggressiveness not in (0, 1, 2, 3):
        raise ValueError(f"aggressiveness is {aggressiveness!r}: give 0, 1, 2 or 3")


def _check_waveform(waveform: np.ndarray) -> np.ndarray:
    if not isinstance(waveform, np.ndarray) or not np.issubdtype(waveform.dtype, np.floating):
        kind = waveform.dtype if isinstance(waveform, np.ndarray) else type(waveform).__name__
        raise TypeError(f"a waveform of {kind} was given: pass a NumPy array of floats with full scale at 1")
    if waveform.ndim != 1 or len(waveform) == 0:
        raise ValueError(f"a waveform of shape {waveform.shape} was given: pass one channel, [num_samples], not empty")
    if not np.isfinite(waveform).all():
        raise ValueError("the waveform holds NaN or infinite samples: export the clip again from its origin")
    return waveform


def remove_silence_from_corpus(
    rows: Iterable[Row],
    out_dir: str | os.PathLike,
    *,
    where: Where = "all",
    aggressiveness: int = 3,
    unvoiced: Unvoiced = "keep",
) -> list[Row]:
    """
    Writes copies of a corpus's clips without their silence.

    A clip goes to `out_dir/<utterance id>.flac`, 16 kHz and 16 bits, with a line in `out_dir/silence.jsonl`:
    `utterance_id`, `source_sha256` of the encoded original, `fraction_removed`, `voiced`, `where`, `aggressiveness` and
    `unvoiced`. A copy is not made again where its line says the same original and the same settings: an interrupted run
    goes on where it stopped, and a clip that was replaced, or one of another corpus, is made anew.

    Args:
        rows: trials with their audio.
        out_dir: made where it is not there; a folder of its own, so that originals are never overwritten.
        where, aggressiveness, unvoiced: see `remove_silence`.

    Returns:
        The rows with `audio` set to the copies.

    Raises:
        ValueError: before any work for a row without audio, an id that is no file name or stands for the same file as
            another, and a clip that lies where its copy would; later what `remove_silence` raises, with the utterance id.
        AudioError: for a clip that can't be read.
    """
    _check_options(where, aggressiveness, unvoiced)
    out_dir, rows = Path(out_dir).expanduser().absolute(), list(rows)
    paths = _copy_paths(rows, out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    settings = {"where": where, "aggressiveness": aggressiveness, "unvoiced": unvoiced}
    done = _resume(out_dir / "silence.jsonl", settings)
    with open(out_dir / "silence.jsonl", "a", encoding="utf-8") as stream:
        for row, path in zip(rows, paths, strict=True):
            digest = audio_sha256(row.audio)
            if done.get(row.utterance_id) != digest or not path.is_file():
                _make_copy(row, path, {"utterance_id": row.utterance_id, "source_sha256": digest}, settings, stream)
    return [row._replace(audio=str(path)) for row, path in zip(rows, paths, strict=True)]


def _make_copy(row: Row, path: Path, origin: Mapping, settings: Mapping, stream: TextIO) -> None:
    """Writes the trimmed clip and its line; killed at any point, it leaves no copy that the lines say is another's."""
    import soundfile

    trimmed = _trim(row, settings)
    # The scale that gives back the very integers: the protocol's of cut clips, the files' own of clips kept as they are.
    scale = _FULL_SCALE if trimmed.voiced else _FULL_SCALE + 1
    samples = np.clip(np.rint(trimmed.waveform * scale), -_FULL_SCALE - 1, _FULL_SCALE).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    soundfile.write(part, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    path.unlink(missing_ok=True)
    record = {"fraction_removed": trimmed.fraction_removed, "voiced": trimmed.voiced}
    stream.write(json.dumps({**origin, **record, **settings}) + "\n")
    stream.flush()
    os.replace(part, path)


def _trim(row: Row, settings: Mapping) -> Trimmed:
    waveform = load_audio(row.audio)
    try:
        return remove_silence(waveform, **settings)
    except ValueError as error:
        raise ValueError(f"{row.utterance_id!r}: {error}") from error


def _copy_paths(rows: Sequence[Row], out_dir: Path) -> list[Path]:
    """Where each row's copy goes: a file of its own, and none that is an original."""
    owners: dict[Path, str] = {}
    for row in rows:
        if row.audio is None:
            raise ValueError(f'{row.utterance_id!r} has no audio: read the corpus with missing_audio="drop"')
        if not is_inside(row.utterance_id):
            raise ValueError(f"utterance id {row.utterance_id!r} is no file name inside a folder: rename it")
        path = out_dir / f"{row.utterance_id}.flac"
        if path in owners:
            raise ValueError(
                f"utterance ids {owners[path]!r} and {row.utterance_id!r} stand for one file, {path}: give each row an id "
                "of its own, or each corpus an out_dir of its own"
            )
        owners[path] = row.utterance_id
    originals = {_file_number(row.audio): row.audio for row in rows}
    for path in owners:
        number = _file_number(path)
        if number is not None and number in originals:
            raise ValueError(f"a copy would overwrite {originals[number]}: choose another out_dir")
    return list(owners)


def _file_number(path: str | os.PathLike) -> tuple[int, int] | None:
    """The same for two names of one file; `None` where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _resume(path: Path, settings: Mapping) -> dict[str, str]:
    """
    Utterance id -> SHA-256 of the original, of the copies that were made with these settings.

    The last line of an utterance counts. Those of other settings, foreign ones and one cut short leave the file.
    """
    kept, done = {}, {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        match _record(line):
            case {"utterance_id": str(name), "source_sha256": str(digest), **rest} if settings.items() <= rest.items():
                kept[name], done[name] = line, digest
    part = path.with_name(path.name + ".part")
    part.write_text("".join(f"{line}\n" for line in kept.values()), encoding="utf-8")
    os.replace(part, path)
    return done


def _record(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
