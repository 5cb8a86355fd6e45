"""Attacks made from genuine clips: signal processing, small neural systems, and the command that runs them."""

import csv
import json

import numpy as np
import pytest
import soundfile
import torch

from spooftrace.trainers import make_attacks
from spooftrace.trainers.attacks import ATTACKS, apply_attack, attack_clip, finish, restore_band
from spooftrace.trainers.neural_attacks import NEURAL_ATTACKS, NeuralConfig, NeuralCopier, copy_clip, train_copier


SIZES = {"hop": 20, "n_fft": 80, "num_mels": 8, "dim": 8, "layers": 1}
TINY = {
    config.name: config
    for config in (
        NeuralConfig("tiny-vocoder", **SIZES),
        NeuralConfig("tiny-upsampling", upsampling=(5, 2), **SIZES),
        NeuralConfig("tiny-fsq", "scalar", **SIZES),
        NeuralConfig("tiny-rvq", "residual", stages=2, codebook_size=8, bitrates=(1, 2), **SIZES),
    )
}


def voice(samples: int = 12_345, seed: int = 0) -> np.ndarray:
    """A buzz with a moving pitch, pauses and noise, low-passed as the corpus is; peak about 0.3."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 2 * time)) / 16_000
    buzz = sum(np.cos(k * phase) / k for k in range(1, 30)) * (np.sin(2 * np.pi * 3 * time) > -0.5)
    wave = (0.08 * buzz + 0.003 * rng.standard_normal(samples)).astype(np.float32)
    return finish(wave, wave, rng)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_changes_the_clip_and_keeps_its_length_and_level(name):
    wave = voice()
    copy, settings = apply_attack(name, wave, np.random.default_rng(1))
    assert copy.shape == wave.shape and copy.dtype == np.float32 and np.isfinite(copy).all()
    assert np.sqrt(np.mean(copy**2)) == pytest.approx(np.sqrt(np.mean(wave**2)), rel=1e-3)
    assert np.abs(copy - wave).max() > 1e-3
    assert json.loads(json.dumps(settings)) == settings != {}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_repeats_by_its_seed(name):
    first, second, other = (attack_clip(name, voice(), np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("samples", [0, 1, 2, 700])
def test_silence_and_very_short_clips_survive(name, samples):
    for wave in (np.zeros(samples, np.float32), 0.1 * np.ones(samples, np.float32), voice()[:samples]):
        copy, _ = attack_clip(name, wave, np.random.default_rng(0))
        assert copy.shape == wave.shape and np.isfinite(copy).all() and np.abs(copy).max(initial=0) <= 1


def test_wrong_input_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="griffin-lim"):
        apply_attack("deepvoice", voice(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="downmix"):
        apply_attack("griffin-lim", np.zeros((2, 9000)), np.random.default_rng(0))
    with pytest.raises(ValueError, match="steps"):
        train_copier(TINY["tiny-vocoder"], [voice()])
    with pytest.raises(ValueError, match="no clips"):
        train_copier(TINY["tiny-vocoder"], [], steps=1)


def test_finishing_leaves_no_second_band_edge():
    noise = np.random.default_rng(0).standard_normal(160_000).astype(np.float32) * 0.05
    source = finish(noise, noise, np.random.default_rng(1))
    copy = finish(restore_band(source), source, np.random.default_rng(2))

    def level(wave: np.ndarray, low: float, high: float) -> float:
        power = np.abs(np.fft.rfft(wave)) ** 2
        return 10 * np.log10(power[int(low * 10) : int(high * 10)].mean())

    for low, high in ((1000, 6000), (6900, 7050), (7100, 7200), (7200, 7250), (7400, 8000)):
        assert level(copy, low, high) == pytest.approx(level(source, low, high), abs=1.0), (low, high)


@pytest.mark.parametrize("config", TINY.values(), ids=TINY)
def test_a_neural_system_trains_and_keeps_the_length(config):
    seen = []
    noise = [0.1 * np.random.default_rng(seed).standard_normal(9000).astype(np.float32) for seed in range(2)]
    first, second = (
        train_copier(config, noise, steps=2, batch=2, report=lambda share, loss: seen.append((share, loss)))
        for _ in range(2)
    )
    assert [share for share, _ in seen] == [0.0, 0.5, 0.0, 0.5] and np.isfinite([loss for _, loss in seen]).all()
    for wave in (voice(), voice()[:5], np.zeros(300, np.float32)):
        copy = copy_clip(first, wave, config.bitrates[-1])
        assert copy.shape == wave.shape and np.isfinite(copy).all()
        np.testing.assert_array_equal(copy, copy_clip(second, wave, config.bitrates[-1]))


def test_a_codec_differs_by_its_bit_rate():
    torch.manual_seed(0)
    model = NeuralCopier(TINY["tiny-rvq"]).eval()
    assert not np.array_equal(copy_clip(model, voice(), 1), copy_clip(model, voice(), 2))


@pytest.mark.parametrize("name", NEURAL_ATTACKS)
def test_the_real_systems_copy_a_clip_untrained(name):
    config = NEURAL_ATTACKS[name]
    assert copy_clip(NeuralCopier(config).eval(), voice(), config.bitrates[0]).shape == voice().shape


def test_an_unknown_quantizer_is_refused():
    with pytest.raises(ValueError, match="lattice"):
        NeuralCopier(NeuralConfig("x", "lattice"))


@pytest.fixture
def corpus(tmp_path):
    """Two genuine training clips; everything else named in the metadata would fail to open."""
    rows = [("audio/a.flac", "bonafide", "train"), ("audio/b.flac", "bonafide", "train")]
    rows += [("audio/v.flac", "bonafide", "valid"), ("audio/t.flac", "bonafide", "test")]
    rows += [("audio/s.flac", "spoof", "train"), ("other/u.flac", "bonafide", "train")]
    (tmp_path / "audio").mkdir()
    with open(tmp_path / "metadata.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "split"), *rows])
    for seed, name in enumerate("ab"):
        soundfile.write(tmp_path / "audio" / f"{name}.flac", voice(9000, seed), 16_000)
    return tmp_path


@pytest.fixture
def command(corpus, monkeypatch, capsys):
    monkeypatch.setattr(make_attacks, "NEURAL_ATTACKS", {name: TINY[name] for name in ("tiny-rvq", "tiny-vocoder")})
    monkeypatch.setattr("spooftrace.trainers.neural_attacks.SEGMENT_SAMPLES", 2000)

    def run(*extra: str) -> tuple[int, str]:
        fixed = ["--data", str(corpus), "--out", str(corpus / "out"), "--prefix", "audio/"]
        return make_attacks.main([*fixed, *extra]), capsys.readouterr().err

    return run


def manifest(corpus) -> list[dict[str, str]]:
    with open(corpus / "out" / "manifest.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_command_copies_genuine_training_clips_only(corpus, command):
    assert command("--per-clip", "3", "--neural-steps", "2")[0] == 0
    rows = manifest(corpus)
    assert {row["source_file"] for row in rows} == {"audio/a.flac", "audio/b.flac"}
    signal_made = [row for row in rows if row["attack"] in ATTACKS]
    assert len(signal_made) == 6 and len(rows) == 6 + 2 * 4
    assert {row["attack"] for row in rows} >= {"tiny-rvq-1", "tiny-rvq-2", "tiny-vocoder", "tiny-vocoder-tts"}
    for row in rows:
        info = soundfile.info(corpus / "out" / row["file"])
        assert (info.samplerate, info.frames, info.subtype) == (16_000, 9000, "PCM_16")
        assert json.loads(row["params"])["seed"] == 0
    assert not list((corpus / "out").rglob("*.part"))


def test_a_second_call_only_makes_what_is_missing(corpus, command):
    wanted = ("--per-clip", "2", "--neural-steps", "1")
    assert command(*wanted)[0] == 0
    rows = manifest(corpus)
    bytes_before = {row["file"]: (corpus / "out" / row["file"]).read_bytes() for row in rows}
    kept, lost = rows[0]["file"], rows[-1]["file"]
    time_before = (corpus / "out" / kept).stat().st_mtime_ns
    (corpus / "out" / lost).unlink()
    assert command(*wanted)[0] == 0
    assert manifest(corpus) == rows
    assert {file: (corpus / "out" / file).read_bytes() for file in bytes_before} == bytes_before
    assert (corpus / "out" / kept).stat().st_mtime_ns == time_before


def test_other_settings_than_before_are_refused(corpus, command):
    assert command("--per-clip", "1", "--neural-steps", "1")[0] == 0
    code, said = command("--per-clip", "1", "--seed", "5")
    assert code == 1 and "--seed 0" in said
    code, said = command("--per-clip", "1", "--neural-steps", "2")
    assert code == 1 and "remove it" in said
    code, said = command("--prefix", "nowhere/")
    assert code == 1 and "--prefix" in said
