"""Silence removal: the published protocol frame by frame, the boundary variant, and trimmed copies of a corpus."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.audio import load_audio
from spooftrace.data_scripts.rows import Row
from spooftrace.data_scripts.silence import remove_silence, remove_silence_from_corpus


webrtcvad = pytest.importorskip("webrtcvad")

SPEECH = load_audio(Path(__file__).resolve().parent.parent / "examples" / "synthetic_speech.flac")
ZEROS = np.zeros(16_000, np.float32)
WITH_PAUSES = np.concatenate([ZEROS, SPEECH[:48_000], ZEROS, SPEECH[48_000:96_000], ZEROS, SPEECH[:100]])


def judged(waveform, aggressiveness=3):
    """16-bit frames of 30 ms and whether each is speech, one frame after the other."""
    samples = (waveform * 32767).astype(np.int16)
    detector = webrtcvad.Vad(aggressiveness)
    frames = [samples[start : start + 480] for start in range(0, len(samples) - 479, 480)]
    return frames, [detector.is_speech(frame.tobytes(), 16_000) for frame in frames]


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(any(np.array_equal(one, other) for other in rest) for one in part)


@pytest.mark.parametrize("aggressiveness", [0, 1, 2, 3])
@pytest.mark.parametrize("waveform", [SPEECH, WITH_PAUSES], ids=["speech", "pauses"])
def test_exactly_the_frames_of_speech_are_kept(waveform, aggressiveness):
    frames, speech = judged(waveform, aggressiveness)
    expected = np.concatenate([frame for frame, voiced in zip(frames, speech, strict=True) if voiced])
    trimmed = remove_silence(waveform, aggressiveness=aggressiveness)
    assert trimmed.waveform.dtype == np.float32 and trimmed.voiced
    np.testing.assert_array_equal(trimmed.waveform, expected.astype(np.float32) / 32767)
    assert trimmed.fraction_removed == 1 - len(expected) / len(waveform)


def test_the_protocols_setting_is_the_default():
    for one, other in zip(remove_silence(WITH_PAUSES), remove_silence(WITH_PAUSES, aggressiveness=3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_inserted_silence_is_removed_from_the_middle():
    trimmed = remove_silence(WITH_PAUSES)
    assert trimmed.fraction_removed > 3 * 14_000 / len(WITH_PAUSES)  # the detector lingers a little after speech
    silent = np.abs(trimmed.waveform.reshape(-1, 480)).max(axis=1) == 0
    longest = max(map(len, "".join(".#"[int(frame)] for frame in silent).split(".")))
    assert longest * 480 < 4_000


@given(
    start=st.integers(0, 40_000),
    middle=st.integers(0, 20_000),
    end=st.integers(0, 40_000),
    cut=st.integers(500, 90_000),
)
@settings(max_examples=20, deadline=None)
def test_ends_only_cuts_at_the_ends_and_never_in_the_middle(start, middle, end, cut):
    pieces = [np.zeros(start, np.float32), SPEECH[:cut], np.zeros(middle, np.float32), SPEECH[cut : cut + 30_000]]
    waveform = np.concatenate([*pieces, np.zeros(end, np.float32)])
    frames, speech = judged(waveform)
    trimmed = remove_silence(waveform, where="ends")
    voiced = np.flatnonzero(speech)
    assert trimmed.voiced == bool(len(voiced))
    if len(voiced):
        kept = np.concatenate(frames[voiced[0] : voiced[-1] + 1])
        np.testing.assert_array_equal(trimmed.waveform, kept.astype(np.float32) / 32767)
        everywhere = remove_silence(waveform)
        assert len(everywhere.waveform) <= len(trimmed.waveform) <= len(waveform)
        assert is_subsequence(everywhere.waveform.reshape(-1, 480), trimmed.waveform.reshape(-1, 480))


def test_the_incomplete_last_frame_is_dropped():
    whole = SPEECH[: 480 * 100]
    for where in ("all", "ends"):
        one, other = remove_silence(whole, where=where), remove_silence(SPEECH[: 480 * 100 + 479], where=where)
        np.testing.assert_array_equal(one.waveform, other.waveform)
        assert other.fraction_removed > one.fraction_removed


@pytest.mark.parametrize("waveform", [ZEROS, SPEECH[:479], SPEECH[:1]], ids=["zeros", "short", "one sample"])
def test_a_clip_without_speech_is_kept_as_it_is_or_refused(waveform):
    trimmed = remove_silence(waveform)
    np.testing.assert_array_equal(trimmed.waveform, waveform)
    assert (trimmed.fraction_removed, trimmed.voiced) == (0.0, False)
    with pytest.raises(ValueError, match=rf'no frame of {len(waveform)} samples is speech: pass unvoiced="keep"'):
        remove_silence(waveform, unvoiced="error")


def test_a_clip_is_judged_the_same_after_any_other():
    first = remove_silence(SPEECH).waveform
    remove_silence(WITH_PAUSES)
    np.testing.assert_array_equal(remove_silence(SPEECH).waveform, first)


def test_samples_beyond_full_scale_are_clipped_and_the_input_is_left_alone():
    loud = SPEECH * np.float32(1.5 / np.abs(SPEECH).max())
    before = loud.copy()
    trimmed = remove_silence(loud)
    np.testing.assert_array_equal(loud, before)
    np.testing.assert_array_equal(trimmed.waveform, remove_silence(np.clip(loud, -32768 / 32767, 1)).waveform)
    assert np.abs(trimmed.waveform).max() <= np.float32(32768 / 32767)


def test_double_precision_is_judged_as_single():
    one, other = remove_silence(SPEECH), remove_silence(SPEECH.astype(np.float64))
    np.testing.assert_array_equal(one.waveform, other.waveform)


@pytest.mark.parametrize(
    "waveform, error, message",
    [
        ((SPEECH * 32767).astype(np.int16), TypeError, "a waveform of int16 was given: pass a NumPy array of floats"),
        ([0.0, 0.1], TypeError, "a waveform of list was given"),
        (SPEECH[:0], ValueError, r"a waveform of shape \(0,\) was given: pass one channel"),
        (SPEECH[None], ValueError, r"a waveform of shape \(1, \d+\) was given"),
        (np.append(SPEECH, np.float32("nan")), ValueError, "the waveform holds NaN or infinite samples"),
        (np.append(SPEECH, np.float32("inf")), ValueError, "the waveform holds NaN or infinite samples"),
    ],
)
def test_what_is_no_waveform_is_refused(waveform, error, message):
    with pytest.raises(error, match=message):
        remove_silence(waveform)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"where": "middle"}, "where is 'middle': write 'all' or 'ends'"),
        ({"aggressiveness": 4}, "aggressiveness is 4: give 0, 1, 2 or 3"),
        ({"unvoiced": "drop"}, "unvoiced is 'drop': write 'keep' or 'error'"),
    ],
)
def test_unknown_options_are_refused_with_the_known_ones(options, message):
    with pytest.raises(ValueError, match=message):
        remove_silence(SPEECH, **options)


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "webrtcvad", None)
    with pytest.raises(ModuleNotFoundError, match="webrtcvad"):
        remove_silence(SPEECH)


@pytest.fixture
def rows(tmp_path):
    clips = {"talk": WITH_PAUSES, "MODEL/talk": SPEECH, "quiet": ZEROS}
    for name, waveform in clips.items():
        path = tmp_path / "clips" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, waveform, 16_000)
    return [Row(name, "bonafide", "c", audio=str(tmp_path / "clips" / f"{name}.wav")) for name in clips]


def records(folder):
    lines = (folder / "silence.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["utterance_id"]: record for record in map(json.loads, lines)}


def test_copies_hold_the_trimmed_clips_and_the_fractions_are_recorded(rows, tmp_path):
    copies = remove_silence_from_corpus(rows, tmp_path / "out")
    assert [copy._replace(audio=None) for copy in copies] == [row._replace(audio=None) for row in rows]
    assert copies[1].audio == str(tmp_path / "out" / "MODEL" / "talk.flac")
    for row, copy in zip(rows, copies, strict=True):
        trimmed = remove_silence(load_audio(row.audio))
        stored, rate = soundfile.read(copy.audio, dtype="int16")
        scale = 32767 if trimmed.voiced else 32768
        assert rate == 16_000
        np.testing.assert_array_equal(stored, np.rint(trimmed.waveform * scale).astype(np.int16))
        record = records(tmp_path / "out")[row.utterance_id]
        assert (record["fraction_removed"], record["voiced"]) == (trimmed.fraction_removed, trimmed.voiced)
    assert not list((tmp_path / "out").rglob("*.part"))


def times(copies):
    return [Path(copy.audio).stat().st_mtime_ns for copy in copies]


def test_an_interrupted_run_goes_on_where_it_stopped(rows, tmp_path):
    out = tmp_path / "out"
    first = remove_silence_from_corpus(rows[:2], out)
    before = times(first)
    with open(out / "silence.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"utterance_id": "qui')  # cut short
    again = remove_silence_from_corpus(rows, out)
    assert times(again[:2]) == before
    assert list(records(out)) == ["talk", "MODEL/talk", "quiet"]


def test_a_lost_copy_and_other_settings_are_made_again(rows, tmp_path):
    out = tmp_path / "out"
    copies = remove_silence_from_corpus(rows, out)
    size = Path(copies[0].audio).stat().st_size
    Path(copies[1].audio).unlink()
    before = times(copies[::2])
    assert times(remove_silence_from_corpus(rows, out)[::2]) == before and Path(copies[1].audio).is_file()
    remove_silence_from_corpus(rows, out, where="ends")
    assert Path(copies[0].audio).stat().st_size > size
    assert {record["where"] for record in records(out).values()} == {"ends"}


def test_originals_are_never_overwritten(tmp_path):
    path = tmp_path / "talk.flac"
    soundfile.write(path, SPEECH, 16_000)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="would overwrite .*talk.flac: choose another out_dir"):
        remove_silence_from_corpus([Row("talk", "spoof", "c", audio=str(path))], tmp_path)
    (tmp_path / "other.flac").write_bytes(before)
    rows = [Row("talk", "spoof", "c", audio=str(tmp_path / "other.flac")), Row("b", "spoof", "c", audio=str(path))]
    with pytest.raises(ValueError, match="would overwrite .*talk.flac: choose another out_dir"):
        remove_silence_from_corpus(rows, tmp_path)
    assert path.read_bytes() == before


def test_each_row_has_a_copy_of_its_own(rows, tmp_path):
    twice = [rows[0], rows[1]._replace(utterance_id="talk")]
    with pytest.raises(
        ValueError, match="utterance ids 'talk' and 'talk' stand for one file, .*: give each row an id of"
    ):
        remove_silence_from_corpus(iter(twice), tmp_path / "out")
    twice[1] = rows[1]._replace(utterance_id="./talk")
    with pytest.raises(ValueError, match="utterance ids 'talk' and './talk' stand for one file"):
        remove_silence_from_corpus(twice, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # refused before any work


def stored(copy):
    return soundfile.read(copy.audio, dtype="int16")[0]


def test_another_clip_under_the_same_id_is_made_anew(rows, tmp_path):
    out = tmp_path / "out"
    first = remove_silence_from_corpus(rows[:1], out)
    before = stored(first[0])
    other = remove_silence_from_corpus([rows[1]._replace(utterance_id="talk", corpus="d")], out)
    expected = np.rint(remove_silence(load_audio(rows[1].audio)).waveform * 32767)
    np.testing.assert_array_equal(stored(other[0]), expected)
    again = remove_silence_from_corpus(rows[:1], out)
    np.testing.assert_array_equal(stored(again[0]), before)
    soundfile.write(rows[0].audio, SPEECH, 16_000)  # the clip was replaced
    np.testing.assert_array_equal(stored(remove_silence_from_corpus(rows[:1], out)[0]), expected)
    assert list(records(out)) == ["talk"]


@pytest.mark.parametrize("then", [0, 1], ids=["the first", "the second"])
@pytest.mark.parametrize("renamed", [False, True])
def test_killed_around_the_rename_no_copy_is_taken_for_another_clips(rows, tmp_path, monkeypatch, renamed, then):
    out, rename = tmp_path / "out", os.replace
    clips = [rows[0], rows[1]._replace(utterance_id="talk")]
    wanted = stored(remove_silence_from_corpus([clips[then]], tmp_path / "undisturbed")[0])
    remove_silence_from_corpus(clips[:1], out)

    def killed(source, target):
        is_copy = str(target).endswith(".flac")
        if renamed or not is_copy:
            rename(source, target)
        if is_copy:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        remove_silence_from_corpus(clips[1:], out)
    np.testing.assert_array_equal(stored(remove_silence_from_corpus([clips[then]], out)[0]), wanted)


def test_a_clip_kept_for_want_of_speech_is_refused_once_that_is_an_error(rows, tmp_path):
    remove_silence_from_corpus(rows, tmp_path / "out")
    with pytest.raises(ValueError, match="'quiet': no frame of 16000 samples is speech"):
        remove_silence_from_corpus(rows, tmp_path / "out", unvoiced="error")


@pytest.mark.parametrize(
    "line",
    ["[1, 2]", "null", "{}", '{"utterance_id": ["talk"]}', "{", "[" * 100_000, "\udcff"],
    ids=["list", "null", "empty", "id is a list", "cut short", "too deep", "not text"],
)
def test_foreign_lines_leave_the_file(rows, tmp_path, line):
    out = tmp_path / "out"
    before = times(remove_silence_from_corpus(rows[:1], out))
    with open(out / "silence.jsonl", "a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(line + "\n")
    assert times(remove_silence_from_corpus(rows[:1], out)) == before
    assert list(records(out)) == ["talk"]


def test_lines_that_name_no_original_are_not_believed(rows, tmp_path):
    out = tmp_path / "out"
    copies = remove_silence_from_corpus(rows[:1], out)
    known = records(out)["talk"]
    del known["source_sha256"]
    (out / "silence.jsonl").write_text(json.dumps(known) + "\n")
    before = times(copies)
    assert times(remove_silence_from_corpus(rows[:1], out)) != before


def test_an_unvoiced_clip_is_copied_bit_for_bit(tmp_path):
    samples = np.linspace(-32_768, 32_767, 400).astype(np.int16)  # less than a frame, so nothing is voiced
    soundfile.write(tmp_path / "short.wav", samples, 16_000)
    copies = remove_silence_from_corpus([Row("s", "spoof", "c", audio=str(tmp_path / "short.wav"))], tmp_path / "out")
    assert records(tmp_path / "out")["s"]["voiced"] is False
    np.testing.assert_array_equal(stored(copies[0]), samples)


@pytest.mark.parametrize(
    "name, audio, message",
    [
        ("talk", None, "'talk' has no audio: read the corpus with missing_audio=\"drop\""),
        ("../talk", "talk.wav", "utterance id '../talk' is no file name inside a folder"),
    ],
)
def test_rows_that_cannot_be_copied_are_refused(tmp_path, name, audio, message):
    with pytest.raises(ValueError, match=message):
        remove_silence_from_corpus([Row(name, "spoof", "c", audio=audio)], tmp_path)


def test_an_unvoiced_clip_of_a_corpus_is_named(rows, tmp_path):
    with pytest.raises(ValueError, match="'quiet': no frame of 16000 samples is speech"):
        remove_silence_from_corpus(rows, tmp_path / "out", unvoiced="error")
