"""Audio that is broken, hostile or not audio: a typed error that names it, in bounded time and memory, and never a hang."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.audio import (
    AudioError,
    AudioLimits,
    AudioNotFoundError,
    AudioTooLargeError,
    AudioTooLongError,
    EmptyAudioError,
    NonFiniteAudioError,
    UnreadableAudioError,
    UnsupportedAudioError,
    inspect_audio,
    iter_audio,
    load_audio,
)


NOISE = np.random.default_rng(0).normal(scale=0.1, size=48_000).astype(np.float32)
TRUNCATABLE = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("NIST", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("MP3", "MPEG_LAYER_III"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]


def encode(samples: np.ndarray, rate: int = 16_000, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def wav_header(rate: int = 16_000, channels: int = 1, data_bytes: int = 64_000, bits: int = 16) -> bytes:
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits)
    return struct.pack("<4sI4s4sI", b"RIFF", 36 + data_bytes & 0xFFFFFFFF, b"WAVE", b"fmt ", 16) + (
        form + struct.pack("<4sI", b"data", data_bytes)
    )


def flac_with_total(data: bytes, frames: int) -> bytes:
    """The same FLAC stream with another number of frames in its header (0: unknown), the last 36 of 64 bits."""
    fields = int.from_bytes(data[18:26], "big")
    return data[:18] + (fields >> 36 << 36 | frames).to_bytes(8, "big") + data[26:]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
@pytest.mark.parametrize(("container", "subtype"), TRUNCATABLE)
def test_truncated_files_are_refused(container, subtype, share):
    data = encode(NOISE, container=container, subtype=subtype)
    with pytest.raises(UnreadableAudioError):
        load_audio(data[: int(share * len(data))])


@pytest.mark.parametrize(("container", "held"), [("WAV", 23_989), ("AIFF", 23_986), ("RF64", 23_974), ("FLAC", None)])
def test_a_truncated_file_is_told_both_counts(container, held):
    data = encode(NOISE, container=container)
    with pytest.raises(UnreadableAudioError, match=r"48000 frames") as caught:
        load_audio(data[: len(data) // 2])
    assert held is None or f"promises 48000 frames and {held} can be decoded" in str(caught.value)


def test_a_truncated_wav_yields_no_block_before_the_error():
    data = encode(NOISE)
    with pytest.raises(UnreadableAudioError, match="cut short"):
        next(iter_audio(data[:-5000], block_seconds=0.1))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFFE - 36, 0x7FFFFFFF, 0x7FFFF000])
def test_wav_from_a_pipe_with_its_length_left_open_is_read_to_its_end(size):
    data = wav_header(data_bytes=size) + encode(NOISE)[44:]
    assert len(load_audio(data)) == len(NOISE)


@pytest.mark.parametrize(("size", "frames"), [(100, 50), (96_040, 48_000)])
def test_a_wav_whose_data_size_is_small_or_sloppy_is_read_as_declared(size, frames):
    assert len(load_audio(wav_header(data_bytes=size) + encode(NOISE)[44:])) == frames


def test_a_wav_that_declares_no_data_is_empty():
    with pytest.raises(EmptyAudioError):
        load_audio(wav_header(data_bytes=0) + encode(NOISE)[44:])


def test_a_wav_whose_data_size_lies_is_refused():
    with pytest.raises(UnreadableAudioError, match="promises 480000 frames and 48000 can be decoded"):
        load_audio(wav_header(data_bytes=960_000) + encode(NOISE)[44:])


def test_flac_of_unknown_length_is_read_to_its_end():
    data = flac_with_total(encode(NOISE, container="FLAC"), 0)
    info = inspect_audio(data)
    assert info.frames is None and info.duration is None
    assert len(load_audio(data)) == len(NOISE)


def test_seconds_are_counted_where_the_header_is_silent():
    data = flac_with_total(encode(NOISE, container="FLAC"), 0)
    with pytest.raises(AudioTooLongError, match="max_seconds"):
        load_audio(data, limits=AudioLimits(max_seconds=2.9))


def test_a_flac_that_promises_years_is_refused_before_decoding():
    data = flac_with_total(encode(NOISE, container="FLAC"), 2**36 - 1)
    with pytest.raises(AudioTooLongError, match="by its header"):
        next(iter_audio(data))


def test_flac_with_a_tag_behind_its_last_frame_is_whole():
    data = encode(NOISE, container="FLAC") + b"TAG" + b" " * 125
    assert len(load_audio(data)) == len(NOISE)


def mp3_without_length_tag(samples: np.ndarray, bitrate_mode: str) -> bytes:
    """MP3 at 16 kHz less its first frame, which holds the tag with the length."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="MP3", bitrate_mode=bitrate_mode, compression_level=0.5)
    data = buffer.getvalue()
    kilobits = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[data[2] >> 4]
    first = 72 * kilobits * 1000 // 16_000
    assert b"Info" in data[:first] or b"Xing" in data[:first]
    return data[first:]


def test_mp3_of_constant_bit_rate_needs_no_length_tag():
    data = mp3_without_length_tag(NOISE, "CONSTANT")
    for tail in (b"", b"TAG" + b" " * 125):
        assert abs(len(load_audio(data + tail)) - len(NOISE)) < 3 * 1152
    assert len(load_audio(data[: len(data) // 2])) < len(NOISE)  # nothing tells that it was longer


def test_mp3_that_libsndfile_would_silently_shorten_is_refused():
    data = mp3_without_length_tag(np.tile(NOISE, 10), "VARIABLE")
    with pytest.raises(UnreadableAudioError, match="variable bit rate"):
        load_audio(data)


def test_a_corrupted_flac_is_refused():
    data = bytearray(encode(NOISE, container="FLAC"))
    data[len(data) // 2 : len(data) // 2 + 64] = b"\xaa" * 64
    with pytest.raises(UnreadableAudioError):
        load_audio(bytes(data))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is a text, whatever its name says\n" * 50, "not audio"),
        ("\ufeffUTF-16 text\n".encode("utf-16-le") * 50, "not audio"),
        (b"RIFF", "not audio"),
        (b"RIFF\x00\x00\x00\x00WAVE", "header cannot be read"),
        (b"fLaC" + b"\x00" * 500, "header cannot be read"),
        (b"OggS\x00" + b"\x00" * 500, "header cannot be read"),
        (b"OggS", "its pages promise"),
        (b"ID3", "header cannot be read"),
        (b"\x00\x00\x00\x18ftypM4A " + b"\x00" * 500, "M4A"),
        (b"\x1aE\xdf\xa3" + b"\x00" * 500, "WebM"),
        (b"\xff\xf1\x50\x80" + b"\x00" * 500, "AAC"),
        (bytes(range(256)) * 10, "not audio"),
    ],
)
def test_what_is_no_audio_is_refused_with_a_reason(tmp_path, content, reason):
    path = tmp_path / "renamed.wav"
    path.write_bytes(content)
    for call in (load_audio, inspect_audio):
        with pytest.raises(UnreadableAudioError, match=reason) as caught:
            call(path)
        assert repr(str(path)) in str(caught.value)


def test_a_zip_renamed_is_called_an_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("clip.wav", encode(NOISE))
    with pytest.raises(UnreadableAudioError, match="archive"):
        load_audio(buffer.getvalue())


@pytest.mark.parametrize("source", [b"", encode(NOISE[:0]), encode(NOISE[:0], container="FLAC")])
def test_nothing_is_empty(source):
    with pytest.raises(EmptyAudioError):
        load_audio(source)


@pytest.mark.parametrize("shape", [(0,), (0, 2)])
def test_an_array_without_samples_is_empty(shape):
    with pytest.raises(EmptyAudioError):
        load_audio(np.zeros(shape), sampling_rate=16_000)


@pytest.mark.parametrize("frames", [1, 160])
def test_one_sample_and_ten_milliseconds_decode(frames):
    np.testing.assert_array_equal(load_audio(encode(NOISE[:frames], subtype="FLOAT")), NOISE[:frames])


def test_less_than_a_sample_at_16_khz_is_empty():
    with pytest.raises(EmptyAudioError, match="less than one sample"):
        load_audio(encode(NOISE[:1], 48_000))


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_silence_and_direct_current_decode_as_they_are(value):
    np.testing.assert_array_equal(load_audio(encode(np.full(16_000, value))), np.float32(value))


def test_clipped_audio_decodes_within_full_scale():
    loaded = load_audio(encode(np.clip(100 * NOISE, -1, 1)))
    assert loaded.min() == -1 and 0.999 < loaded.max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_what_is_not_finite_is_refused(value, subtype):
    samples = NOISE.astype(np.float64)
    samples[40_000] = value
    with pytest.raises(NonFiniteAudioError, match="NaN or infinite"):
        load_audio(encode(samples, subtype=subtype))
    with pytest.raises(NonFiniteAudioError):
        load_audio(samples, sampling_rate=16_000)


def test_a_double_beyond_float32_is_not_finite():
    with pytest.raises(NonFiniteAudioError):
        load_audio(np.array([1e300]), sampling_rate=16_000)


def test_integers_stored_as_floats_are_refused():
    with pytest.raises(UnsupportedAudioError, match="32768"):
        load_audio(encode(NOISE * 32768, subtype="FLOAT"))
    with pytest.raises(UnsupportedAudioError, match="full scale"):
        load_audio((NOISE * 32768).round(), sampling_rate=16_000)


@pytest.mark.parametrize("rate", [1, 3999, 192_001, 2_000_000_000, 2**31 - 1])
def test_impossible_sampling_rates_are_refused(rate):
    with pytest.raises(UnsupportedAudioError, match=f"{rate} Hz is outside 4000 to 192000 Hz"):
        load_audio(wav_header(rate=rate, data_bytes=2000) + bytes(2000))
    with pytest.raises(UnsupportedAudioError, match="Hz"):
        load_audio(NOISE, sampling_rate=rate)


@pytest.mark.parametrize("channels", [9, 255, 1024])
def test_too_many_channels_are_refused(channels):
    with pytest.raises(UnsupportedAudioError, match=f"{channels} channels"):
        load_audio(wav_header(channels=channels, data_bytes=4096) + bytes(4096))


@pytest.mark.parametrize("channels", range(1, 9))
def test_up_to_eight_channels_are_accepted(channels):
    assert load_audio(encode(np.repeat(NOISE[:800, None], channels, 1))).shape == (800,)


@pytest.mark.parametrize(("rate", "channels"), [(0, 1), (16_000, 0), (16_000, 65_535)])
def test_headers_that_libsndfile_rejects_are_unreadable(rate, channels):
    with pytest.raises(UnreadableAudioError):
        load_audio(wav_header(rate=rate, channels=channels, data_bytes=2000) + bytes(2000))


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (NOISE.reshape(2, -1), r"array\.T"),
        (NOISE.reshape(1, -1), r"array\.T"),
        (NOISE.reshape(2, 2, -1), "reshape"),
        (np.array(0.5), "reshape"),
        (np.zeros((5, 0)), "reshape"),
        (NOISE.reshape(-1, 16), "max_channels"),
        (np.zeros(9, np.int64), "int16"),
        (np.zeros(9, np.uint16), "int16"),
        (np.zeros(9, bool), "int16"),
        (np.zeros(9, complex), "int16"),
        (np.array(["a", None], object), "int16"),
    ],
)
def test_arrays_of_other_shape_or_type_are_refused_with_the_remedy(array, remedy):
    with pytest.raises(UnsupportedAudioError, match=remedy):
        load_audio(array, sampling_rate=16_000)


@pytest.mark.parametrize("rate", [None, 16_000.5, "fast", float("nan"), float("inf")])
def test_arrays_need_their_sampling_rate(rate):
    with pytest.raises(UnsupportedAudioError, match="in Hz"):
        load_audio(NOISE, sampling_rate=rate)


def test_a_sampling_rate_beside_a_header_is_refused():
    with pytest.raises(UnsupportedAudioError, match="leave it out"):
        load_audio(encode(NOISE), sampling_rate=16_000)


def test_limits_are_the_callers_to_move():
    with pytest.raises(AudioTooLongError, match=r"3\.0 s by its header, more than the 2 s"):
        load_audio(encode(NOISE), limits=AudioLimits(max_seconds=2))
    with pytest.raises(AudioTooLongError):
        load_audio(NOISE, sampling_rate=16_000, limits=AudioLimits(max_seconds=2))
    for source, rate in ((encode(NOISE), None), (io.BytesIO(encode(NOISE)), None), (NOISE, 16_000)):
        with pytest.raises(AudioTooLargeError, match="max_bytes"):
            load_audio(source, sampling_rate=rate, limits=AudioLimits(max_bytes=1000))
    wide = AudioLimits(max_channels=16, min_sampling_rate=1000, max_sampling_rate=400_000)
    assert len(load_audio(encode(NOISE.reshape(-1, 16), 384_000), limits=wide)) == 125


@pytest.mark.parametrize("wrong", [{"max_seconds": 0}, {"max_bytes": -1}, {"max_seconds": float("nan")}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AudioLimits(**wrong)
    with pytest.raises(ValueError, match="min_sampling_rate"):
        AudioLimits(min_sampling_rate=9000, max_sampling_rate=8000)


@pytest.mark.parametrize(
    "url", ["https://example.org/a.wav", "http://127.0.0.1/a.wav", "file:///etc/passwd", "s3://b/a"]
)
def test_urls_are_not_fetched(url):
    with pytest.raises(UnsupportedAudioError, match="download the file yourself"):
        load_audio(url)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    with pytest.raises(UnreadableAudioError, match="folder"):
        load_audio(tmp_path)
    for missing in ("absent.wav", "", "nul\0.wav", "x" * 5000, tmp_path / "absent.wav"):
        with pytest.raises(AudioNotFoundError, match="no such file"):
            load_audio(missing)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_pipes_and_devices_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", tmp_path / "link.wav", "/dev/zero", "/dev/null"):
        with pytest.raises(UnreadableAudioError, match="not a regular file"):
            load_audio(path)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(TRUNCATABLE), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_a_damaged_header_ends_in_samples_or_in_a_typed_error(kind, damage):
    data = bytearray(encode(NOISE[:4000], container=kind[0], subtype=kind[1]))
    for position, value in damage:
        data[position] = value
    try:
        loaded = load_audio(bytes(data), limits=AudioLimits(max_seconds=60))
    except AudioError:
        return
    assert loaded.dtype == np.float32 and loaded.ndim == 1 and np.isfinite(loaded).all()


def test_a_flac_that_expands_a_thousandfold_streams_in_bounded_memory(tmp_path):
    """20 min of 8 channels are 614 MB of float32 behind a FLAC of under 0.6 MB."""
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 16_000, 8, "PCM_16") as file:
        for _ in range(20):
            file.write(np.zeros((16_000 * 60, 8), np.int16))
    assert path.stat().st_size * 1000 < 1200 * 16_000 * 8 * 4
    script = """
        import resource, sys
        from spooftrace.audio import iter_audio
        next(iter_audio(sys.argv[1]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(sum(len(block) for block in iter_audio(sys.argv[1])))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    pytest.importorskip("resource")
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    samples, growth = map(int, result.stdout.split())
    assert samples == 1200 * 16_000
    assert growth < 32 * 1024 * (1024 if sys.platform == "darwin" else 1)  # kilobytes, on macOS bytes
