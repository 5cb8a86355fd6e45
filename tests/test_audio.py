"""Good audio decodes to what it should, to the sample; the sources it may come from."""

import hashlib
import io
import os
import pickle
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.audio import (
    SAMPLING_RATE,
    AudioError,
    AudioLimits,
    AudioNotFoundError,
    AudioTooLargeError,
    EmptyAudioError,
    UnreadableAudioError,
    UnsupportedAudioError,
    audio_sha256,
    find_audio,
    inspect_audio,
    iter_audio,
    load_audio,
    reusable_source,
)


def encode(samples: np.ndarray, rate: int = 16_000, container: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def tone(rate: int = 16_000, seconds: float = 1.0, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


class Pipe(io.RawIOBase):
    """Bytes that can be read once, in short pieces, as from a socket."""

    def __init__(self, data: bytes):
        self._rest = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        piece = self._rest.read(min(len(buffer), 1000))
        buffer[: len(piece)] = piece
        return len(piece)


def test_mono_16_khz_comes_through_unchanged():
    samples = np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    loaded = load_audio(encode(samples, subtype="FLOAT"))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, samples)


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [("PCM_U8", 1 / 100), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 0), ("DOUBLE", 1e-7)],
)
def test_every_width_of_wav_decodes_to_the_same_waveform(subtype, tolerance):
    np.testing.assert_allclose(load_audio(encode(tone(), subtype=subtype)), tone(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("AIFF", "PCM_16", 1e-4),
        ("AU", "PCM_16", 1e-4),
        ("CAF", "PCM_16", 1e-4),
        ("CAF", "ALAC_16", 1e-4),
        ("RF64", "PCM_16", 1e-4),
        ("WAVEX", "PCM_16", 1e-4),
        ("NIST", "PCM_16", 1e-4),
        ("WAV", "ULAW", 0.03),
        ("WAV", "ALAW", 0.03),
        ("WAV", "IMA_ADPCM", 0.05),
        ("WAV", "GSM610", 0.2),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_containers_and_codecs_decode(container, subtype, tolerance):
    data = encode(tone(seconds=1.5), container=container, subtype=subtype)
    info, loaded = inspect_audio(data), load_audio(data)
    assert info.sampling_rate == 16_000 and info.subtype == subtype and info.frames == len(loaded)
    middle = slice(4000, 20_000)
    np.testing.assert_allclose(loaded[middle], tone(seconds=1.5)[middle], rtol=0, atol=tolerance)


@pytest.mark.parametrize("rate", [4000, 8000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000])
def test_resampling_keeps_a_sine_in_place(rate):
    loaded = load_audio(encode(tone(rate), rate, subtype="FLOAT"))
    assert len(loaded) == SAMPLING_RATE
    inner = slice(800, -800)  # the filter rings at the edges
    np.testing.assert_allclose(loaded[inner], tone()[inner], rtol=0, atol=1e-4)


def test_resampling_keeps_out_what_16_khz_cannot_hold():
    loaded = load_audio(encode(tone(48_000, hertz=12_000), 48_000, subtype="FLOAT"))
    assert np.abs(loaded[800:-800]).max() < 1e-4


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 30_000),
    rate=st.sampled_from([4000, 8000, 11_025, 16_000, 44_100, 48_000, 192_000]),
    channels=st.integers(1, 3),
    block_seconds=st.floats(0.005, 3),
)
def test_block_size_never_changes_the_result(frames, rate, channels, block_seconds):
    samples = np.random.default_rng(frames).uniform(-1, 1, (frames, channels)).astype(np.float32)
    data = encode(samples, rate, subtype="FLOAT")
    if round(frames * 16_000 / rate) < 1:
        with pytest.raises(EmptyAudioError):
            load_audio(data)
        return
    whole = load_audio(data)
    blocks = list(iter_audio(data, block_seconds=block_seconds))
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert {len(block) for block in blocks[:-1]} <= {max(1, round(block_seconds * SAMPLING_RATE))}
    assert abs(len(whole) - frames * 16_000 / rate) <= 1
    np.testing.assert_array_equal(load_audio(samples, sampling_rate=rate), whole)


@settings(max_examples=30, deadline=None)
@given(frames=st.integers(1, 3000), channels=st.integers(1, 8))
def test_equal_channels_are_the_mono_signal(frames, channels):
    mono = np.random.default_rng(frames).uniform(-1, 1, frames).astype(np.float32)
    stereo = np.repeat(mono[:, None], channels, axis=1)
    np.testing.assert_array_equal(load_audio(encode(stereo, subtype="FLOAT")), mono)


def test_downmix_is_the_mean():
    left, right = tone(), tone(hertz=1000)
    np.testing.assert_allclose(
        load_audio(np.stack([left, right], 1), sampling_rate=16_000), (left + right) / 2, atol=1e-7
    )


def test_blocks_longer_than_a_decoding_step_join_without_a_seam():
    samples = np.random.default_rng(1).uniform(-1, 1, 200_000).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate(list(iter_audio(samples, sampling_rate=16_000))), samples)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_impossible_block_lengths_are_refused(seconds):
    with pytest.raises(ValueError, match="block_seconds"):
        next(iter_audio(tone(), sampling_rate=16_000, block_seconds=seconds))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([-128, 0, 127], np.int8), [-1, 0, 127 / 128]),
        (np.array([-32768, 0, 32767], np.int16), [-1, 0, 32767 / 32768]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([0, 128, 255], np.uint8), [-1, 0, 127 / 128]),
        (np.array([-1, 0, 0.5], np.float16), [-1, 0, 0.5]),
        (np.array([-1, 0, 0.5], np.float64), [-1, 0, 0.5]),
        (np.array([-1, 0, 0.5], ">f4"), [-1, 0, 0.5]),
        (np.array([-1, 9, 0, 9, 0.5, 9], np.float32)[::2], [-1, 0, 0.5]),
    ],
)
def test_arrays_are_scaled_by_their_type(array, expected):
    np.testing.assert_allclose(load_audio(array, sampling_rate=16_000), expected, rtol=1e-7)


def test_values_beyond_full_scale_are_kept():
    loud = np.array([1.5, -3.0, 0.0], np.float32)
    np.testing.assert_array_equal(load_audio(encode(loud, subtype="FLOAT")), loud)


def test_all_kinds_of_source_give_the_same_waveform_and_digest(tmp_path):
    data = encode(tone(8000), 8000, "FLAC")
    path = tmp_path / "clip.flac"
    path.write_bytes(data)
    behind = io.BytesIO(data)
    behind.seek(100)  # where a stream that can seek stands does not matter
    with open(path, "rb") as opened:
        sources = [path, str(path), data, bytearray(data), memoryview(data), behind, opened]
        waveforms = [load_audio(source) for source in sources] + [load_audio(Pipe(data))]
        digests = {audio_sha256(source) for source in sources} | {audio_sha256(Pipe(data))}
    for waveform in waveforms:
        np.testing.assert_array_equal(waveform, waveforms[0])
    assert digests == {hashlib.sha256(data).hexdigest()}
    assert not behind.closed


def test_digest_of_an_array_is_that_of_its_float32_samples():
    samples = np.array([[0.5, -0.25], [0.125, 1.0]], np.float64)
    assert audio_sha256(samples) == hashlib.sha256(samples.astype("<f4").tobytes()).hexdigest()
    assert audio_sha256(np.array([16384], np.int16)) == audio_sha256(np.array([0.5]))


def test_a_socket_is_a_source():
    ours, theirs = socket.socketpair()
    data = encode(tone())

    def send():
        with theirs:
            theirs.sendall(data)

    sender = threading.Thread(target=send)
    sender.start()
    with ours, ours.makefile("rb") as stream:
        assert len(load_audio(stream)) == 16_000
    sender.join()


def test_a_pipe_can_be_made_reusable():
    data = encode(tone())
    with reusable_source(Pipe(data)) as copy:
        assert audio_sha256(copy) == hashlib.sha256(data).hexdigest()
        assert len(load_audio(copy)) == 16_000
    assert reusable_source(data) is data
    with pytest.raises(AudioTooLargeError, match="max_bytes"):
        reusable_source(Pipe(data), limits=AudioLimits(max_bytes=1000))


def test_streams_that_cannot_serve_are_refused(tmp_path):
    closed = io.BytesIO(encode(tone()))
    closed.close()
    with pytest.raises(UnreadableAudioError, match="closed file"):
        load_audio(closed)
    with pytest.raises(UnreadableAudioError, match="binary mode"):
        load_audio(io.StringIO("text"))

    class Failing(io.BytesIO):
        def read(self, count=-1):
            if self.tell() > 10_000:
                raise OSError("the disk is gone")
            return super().read(count)

        readinto = None

    with pytest.raises(UnreadableAudioError, match="the disk is gone"):
        load_audio(Failing(encode(tone(seconds=10), container="FLAC")))


@pytest.mark.parametrize("source", [None, 3, [0.0, 0.1], {"array": 1}])
def test_other_kinds_of_source_are_refused(source):
    with pytest.raises(UnsupportedAudioError, match=r"numpy\.asarray"):
        load_audio(source)


@pytest.mark.parametrize(
    "name", ["with space.wav", "new\nline.wav", "..wav", "quote'\"s.wav", "ünï.wav", "a.raw", "*.wav"]
)
def test_odd_file_names_work_and_are_escaped_in_messages(tmp_path, name):
    (tmp_path / name).write_bytes(encode(tone()))
    assert len(load_audio(tmp_path / name)) == 16_000
    assert find_audio(tmp_path / name) == [tmp_path / name]
    (tmp_path / name).write_bytes(b"no audio at all")
    with pytest.raises(UnreadableAudioError) as caught:
        load_audio(tmp_path / name)
    assert caught.value.source == str(tmp_path / name)
    assert "\n" not in str(caught.value) and repr(str(tmp_path / name)) in str(caught.value)


def test_a_path_through_the_parent_folder_works(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "clip.wav").write_bytes(encode(tone()))
    assert len(load_audio(f"{tmp_path}/sub/../clip.wav")) == 16_000


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(EmptyAudioError("a.wav", "holds nothing", "record again")))
    assert isinstance(error, AudioError) and isinstance(error, ValueError)
    assert str(error) == "'a.wav': holds nothing; record again" and error.source == "a.wav"


def names(files: list[Path], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]


@pytest.fixture
def tree(tmp_path):
    for name in ("b.wav", "a.FLAC", "sub/c.mp3", "sub/deep/d.opus", "notes.txt", ".hidden.wav", ".git/e.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_folders_are_searched_in_order_without_hidden_files(tree):
    assert names(find_audio(tree), tree) == ["a.FLAC", "b.wav", "sub/c.mp3", "sub/deep/d.opus"]


def test_patterns_match_audio_and_the_folders_below(tree):
    assert names(find_audio(f"{tree}/*.wav"), tree) == ["b.wav"]
    assert names(find_audio(f"{tree}/**/*.opus"), tree) == ["sub/deep/d.opus"]
    assert names(find_audio(f"{tree}/*"), tree) == ["a.FLAC", "b.wav", "sub/c.mp3", "sub/deep/d.opus"]


def test_named_files_keep_their_place_and_come_once(tree):
    found = find_audio([tree / "notes.txt", tree / "sub", tree / "sub/c.mp3", tree / "b.wav"])
    assert names(found, tree) == ["notes.txt", "sub/c.mp3", "sub/deep/d.opus", "b.wav"]


@pytest.mark.parametrize("missing", ["absent.wav", "absent*.wav", ".git", "nul\0.wav", "nul\0*.wav"])
def test_what_is_not_there_is_an_error(tree, missing):
    (tree / ".git/e.wav").unlink()
    with pytest.raises(AudioNotFoundError, match="check the path"):
        find_audio([tree / "b.wav", f"{tree}/{missing}"])


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_loops_of_links_end(tree):
    (tree / "sub/up").symlink_to(tree, target_is_directory=True)
    (tree / "self").symlink_to(tree / "self")
    (tree / "broken.wav").symlink_to(tree / "nowhere")
    os.mkfifo(tree / "pipe.wav")
    assert names(find_audio(tree), tree) == ["a.FLAC", "b.wav", "sub/c.mp3", "sub/deep/d.opus"]
