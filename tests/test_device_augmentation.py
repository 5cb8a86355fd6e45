"""On-device augmentation does what its numbers say, clip by clip, and touches training clips alone."""

import math
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import warm_python
from training_jobs import NO_DROPOUT, tiny_aasist, trainer_of, write_corpus

from spooftrace.audio import AudioNotFoundError
from spooftrace.trainers import degradations
from spooftrace.trainers.codec_round_trip import CODECS, codec_round_trip
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.device_augmentation import EFFECTS, DeviceAugmentation, DeviceAugmentationConfig


pytest.importorskip("torchaudio")

RATE = 16_000
EVERYTHING = dict.fromkeys(EFFECTS, 0.6)


def tone(frequency: float, num_samples: int = RATE, peak: float = 0.3) -> torch.Tensor:
    time = torch.arange(num_samples, dtype=torch.float64) / RATE
    return (peak * torch.sin(2 * math.pi * frequency * time)).float()


def white(num_samples: int = RATE, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def speech_like(batch: int = 4, num_samples: int = 8000) -> torch.Tensor:
    time = torch.arange(num_samples) / RATE
    pitches = 100 * torch.arange(1, batch + 1)[:, None]
    voiced = torch.sin(2 * math.pi * pitches * time) + 0.5 * torch.sin(2 * math.pi * 7 * pitches * time)
    return 0.4 * voiced * torch.sin(2 * math.pi * 3 * time) ** 2


def energy(waveform: torch.Tensor, low: float, high: float) -> float:
    """Of a second between two frequencies, without the first and last tenth."""
    inner = waveform[RATE // 10 : -RATE // 10].double()
    spectrum = torch.fft.rfft(inner * torch.hann_window(len(inner), dtype=torch.float64)).abs().square()
    frequency = torch.fft.rfftfreq(len(inner), 1 / RATE)
    return float(spectrum[(frequency >= low) & (frequency <= high)].sum())


def pitch(waveform: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(waveform.double() * torch.hann_window(len(waveform)), 16 * RATE).abs()
    return float(spectrum.argmax()) / 16


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio)


def augmentation(**options) -> DeviceAugmentation:
    return DeviceAugmentation(DeviceAugmentationConfig(**options))


# Noise


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5, 40.0])
def test_noise_has_the_ratio_asked_for(snr):
    clip = tone(440)
    added = degradations.with_noise(clip, 7 * white(), snr).double() - clip.double()
    assert decibels(float(clip.double().square().sum() / added.square().sum())) == pytest.approx(snr, abs=1e-3)


def test_the_ratio_is_drawn_from_its_range():
    clips = tone(440, peak=0.1).repeat(40, 1)
    noisy = augmentation(noise=1.0, min_snr=10, max_snr=20)(clips, range(40))
    ratios = [decibels(float(clips[0].square().sum() / (clip - clips[0]).square().sum())) for clip in noisy]
    assert 10 - 1e-2 <= min(ratios) < 12 and 18 < max(ratios) <= 20 + 1e-2


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_made_up_noise_falls_by_its_slope(slope):
    noise = degradations.coloured(white(8 * RATE), slope)[: 8 * RATE]
    power = torch.fft.rfft(noise.double()).abs().square()
    bands = [float(power[8 * low : 16 * low].mean()) for low in (500, 2000)]  # from low to 2 * low Hz
    assert bands[0] / bands[1] == pytest.approx(4**slope, rel=0.1)


def test_given_noise_is_used_whatever_its_length():
    clip, config = tone(440)[None], DeviceAugmentationConfig(noise=1.0, min_snr=10, max_snr=10)
    for length in (1000, RATE, 3 * RATE):
        bank = white(length, seed=1)
        added = (DeviceAugmentation(config, noises=bank[None])(clip, [5]) - clip)[0]
        found = np.correlate(np.tile(bank.numpy(), 3), added[:500].numpy(), mode="valid").max()
        assert found == pytest.approx(float(added[:500].norm() * bank.norm()) * (500 / length) ** 0.5, rel=0.15)


def test_a_folder_of_noise_is_read(tmp_path):
    soundfile.write(tmp_path / "hum.wav", tone(100, 48_000).numpy(), RATE)
    noisy = augmentation(noise=1.0, min_snr=0, max_snr=0, noise_folder=str(tmp_path))(tone(3000)[None], [1])[0]
    assert energy(noisy, 90, 110) == pytest.approx(energy(noisy, 2990, 3010), rel=0.01)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioNotFoundError, match="no audio file"):
        augmentation(noise=1.0, noise_folder=str(tmp_path / "empty"))


# Rooms


def test_an_impulse_in_a_room_is_its_response():
    impulse = torch.zeros(4000)
    impulse[0] = 1
    response = degradations.decaying(white(1000), 0.3, 0.0)
    heard = degradations.reverberant(impulse, response)
    torch.testing.assert_close(heard, torch.nn.functional.pad(response, (0, 3000)), rtol=0, atol=1e-6)


def test_recorded_rooms_neither_delay_nor_amplify():
    response = torch.tensor([0.0, 0.0, 0.1, -0.5, 0.0, 0.25])
    impulse = torch.zeros(1, 100)
    impulse[0, 10] = 0.5
    room = DeviceAugmentation(DeviceAugmentationConfig(reverberation=1.0), responses=[response])
    heard = room(impulse, [0])[0]
    torch.testing.assert_close(heard[8:14], torch.tensor([0.0, 0.0, 0.5, 0.0, -0.25, 0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("time", "ratio"), [(0.2, 0.0), (0.5, 10.0), (0.5, -5.0)])
def test_made_up_rooms_decay_in_the_time_asked_for(time, ratio):
    response = degradations.decaying(white(RATE), time, ratio).double()
    assert response[0] == 1
    assert decibels(1 / float(response[1:].square().sum())) == pytest.approx(ratio, abs=1e-3)
    # From one fifth of the time to the next, 12 dB are lost.
    part = int(time * RATE / 5)
    first, second = (float(response[1 + k * part : 1 + (k + 1) * part].square().sum()) for k in (0, 1))
    assert decibels(first / second) == pytest.approx(12, abs=1)


# Telephones


@pytest.mark.parametrize("law", ["mu", "a"])
def test_a_telephone_passes_its_band_alone(law):
    before, after = white(), degradations.telephone(white(), law)
    assert energy(after, 3500, 8000) < 1e-5 * energy(before, 3500, 8000)
    assert energy(after, 0, 200) < 1e-4 * energy(before, 0, 200)
    # Within the band what is lost is the code's noise, some 38 dB down.
    assert energy(after - before, 500, 3200) < 1e-3 * energy(before, 500, 3200)


@pytest.mark.parametrize("law", ["mu", "a"])
def test_codes_of_eight_bits_have_a_step_that_grows_with_the_sample(law):
    samples = torch.linspace(-1.2, 1.2, 100_001)
    coded = degradations.companded(samples, law)
    assert len(coded.unique()) == 255  # both zeros are one
    assert torch.equal(coded, -coded.flip(0))
    torch.testing.assert_close(degradations.companded(coded, law), coded, rtol=1e-5, atol=1e-7)
    inside = samples.abs() <= 1
    error = (coded - samples)[inside].abs()
    slope = math.log(256) / 255 if law == "mu" else (1 + math.log(87.6)) / 87.6
    small = samples[inside].abs() < (1 / 255 if law == "mu" else 1 / 87.6)
    assert error[small].max() <= slope / 254 * (2.05 if law == "mu" else 1.01)
    assert (error[~small] / samples[inside].abs()[~small]).max() < 0.045
    assert coded.abs().max() == pytest.approx(1, abs=1e-6)


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="'mu' or 'a', got 'u'"):
        degradations.companded(tone(100), "u")


# Speed


@pytest.mark.parametrize("percent", [80, 93, 100, 107, 125])
def test_speed_changes_pitch_and_keeps_length(percent):
    played = degradations.faster(tone(440), percent)
    assert played.shape == (RATE,)
    inner = played[1000:11_000]
    assert pitch(inner) == pytest.approx(440 * percent / 100, abs=0.5)
    assert float(inner.abs().max()) == pytest.approx(0.3, abs=0.01)


def test_what_is_played_faster_is_repeated():
    played = degradations.faster(tone(440), 125)
    assert torch.equal(played[12_800:], played[:3200])


# Codecs


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [1, 2, 319, 16_001])
def test_codecs_keep_length(codec, size):
    output = codec_round_trip(white(size).numpy(), codec)
    assert output.shape == (size,) and output.dtype == np.float32 and np.isfinite(output).all()


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_move_no_sample(codec):
    clip = speech_like(1, 2 * RATE)[0].numpy() + 0.2 * degradations.telephone(white(2 * RATE), "mu").numpy()
    output = codec_round_trip(clip, codec)
    size = 2 * len(clip)
    correlation = np.fft.irfft(np.fft.rfft(clip, size).conj() * np.fft.rfft(output, size))
    lag = (int(correlation.argmax()) + len(clip)) % size - len(clip)
    assert abs(lag) <= 1
    assert np.corrcoef(clip, output)[0, 1] > (0.8 if codec == "gsm" else 0.95)
    assert not np.array_equal(clip, output)


@pytest.mark.parametrize("codec", ["mp3", "vorbis", "opus"])
def test_more_compression_keeps_less(codec):
    clip = speech_like(1, RATE)[0].numpy() + white().numpy()
    losses = [np.square(codec_round_trip(clip, codec, compression=level) - clip).sum() for level in (0.2, 0.95)]
    assert 2 * losses[0] < losses[1]


def test_long_clips_go_through_vorbis():
    """libsndfile overflows its stack on four million samples in one call, which would end the whole process."""
    program = """
import numpy as np
from spooftrace.trainers.codec_round_trip import codec_round_trip
clip = (0.1 * np.sin(np.arange(4_200_000) * 0.05)).astype(np.float32)
output = codec_round_trip(clip, "vorbis", compression=0.9)
assert output.shape == clip.shape and np.corrcoef(clip, output)[0, 1] > 0.9
print("whole")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "whole", done.stderr


@pytest.mark.parametrize(
    ("codec", "compression", "message"),
    [("aac", None, "got 'aac'"), ("gsm", 0.5, "one bit rate"), ("mp3", 1.0, r"\[0, 1\), got 1.0")],
)
def test_what_a_codec_cannot_do_is_refused(codec, compression, message):
    with pytest.raises(ValueError, match=message):
        codec_round_trip(np.zeros(100, np.float32), codec, compression=compression)


# All together


def test_the_seed_of_a_clip_decides():
    clips, augment = speech_like(), augmentation(**EVERYTHING)
    first = augment(clips, [1, 2, 3, 4])
    assert torch.equal(first, augment(clips, [1, 2, 3, 4]))
    other = augment(clips, [1, 2, 3, 5])
    assert torch.equal(first[:3], other[:3]) and not torch.equal(first[3], other[3])


def test_the_batch_does_not_matter():
    clips, seeds, augment = speech_like(6), [11, 12, 13, 14, 15, 16], augmentation(**EVERYTHING)
    together = augment(clips, seeds)
    for row in range(6):
        assert torch.equal(augment(clips[row : row + 1], seeds[row : row + 1])[0], together[row])
    assert torch.equal(augment(clips.flip(0), seeds[::-1]).flip(0), together)
    assert any(not torch.equal(clip, altered) for clip, altered in zip(clips, together, strict=True))


def test_global_generators_play_no_part():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state()
    first = augmentation(**EVERYTHING)(speech_like(), range(4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(augmentation(**EVERYTHING)(speech_like(), range(4)), first)


def test_an_effect_more_leaves_the_draws_of_others():
    """With noise switched on as well, the same clips get the same speed."""
    clips = speech_like()
    alone = augmentation(speed=0.5)(clips, range(4))
    both = augmentation(speed=0.5, noise=1.0, min_snr=90, max_snr=90)(clips, range(4))
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("effect", EFFECTS)
def test_shares_are_kept(effect):
    clips = speech_like(1, 2000).repeat(200, 1)
    quick = {"codecs": ["ulaw"]} if effect == "codec" else {"min_speed_percent": 120, "max_speed_percent": 130}
    altered = augmentation(**{effect: 0.3}, **quick)(clips, range(200))
    assert (altered != clips).any(dim=1).float().mean() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(augmentation()(clips, range(200)), clips)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0, 1, 2, 100, 5000])
def test_any_batch_stays_finite_and_in_range(dtype, size):
    clips = torch.cat([torch.zeros(1, size), torch.ones(1, size), -speech_like(2, size)]).to(dtype)
    kept = clips.clone()
    output = augmentation(**dict.fromkeys(EFFECTS, 1.0), min_snr=-10)(clips, [7, 8, 9, 10])
    assert output.shape == clips.shape and output.dtype == torch.float32 and not output.requires_grad
    assert torch.isfinite(output).all() and torch.equal(clips, kept)
    if size:
        assert output.abs().max() <= 1
        assert output[0].abs().max() < 1e-3  # GSM turns silence into a faint hum


def test_autocast_does_not_round_the_waveform():
    clips, augment = speech_like(), augmentation(speed=1.0, telephone=1.0)
    expected = augment(clips, range(4))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(clips, range(4)), expected)


@pytest.mark.parametrize(
    ("clips", "seeds", "message"),
    [
        (torch.zeros(100), [1], r"\[batch, num_samples\], got torch.float32 \(100,\)"),
        (torch.zeros(2, 100, dtype=torch.int16), [1, 2], "int16"),
        (torch.zeros(2, 100), [1], "2 clips need as many seeds, got 1"),
    ],
)
def test_what_is_no_batch_is_refused(clips, seeds, message):
    with pytest.raises(ValueError, match=message):
        augmentation(noise=1.0)(clips, seeds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 1.2}, "`noise` is a share of clips, 0 to 1, got 1.2"),
        ({"codec": -0.1}, "`codec` is a share"),
        ({"min_snr": 30, "max_snr": 10}, "`min_snr` is at most `max_snr`"),
        ({"min_snr": float("nan")}, "`min_snr`"),
        ({"codecs": []}, "names none"),
        ({"codecs": ["mp3", "aac"]}, "got 'aac'"),
        ({"max_compression": 1.0}, "compression lies"),
        ({"min_speed_percent": 0}, "whole numbers"),
        ({"min_speed_percent": 0.9, "max_speed_percent": 1.1}, "whole numbers of percent"),
        ({"min_reverberation_time": 0}, "above 0 s"),
        ({"nois": 0.5}, "has no 'nois'; it has speed"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeviceAugmentationConfig.of(options)


@pytest.mark.parametrize(
    ("bank", "message"),
    [([torch.zeros(10)], "silent"), ([torch.ones(2, 10)], "mono"), ([torch.zeros(0)], "not empty")],
)
def test_useless_impulse_responses_are_refused(bank, message):
    with pytest.raises(ValueError, match=message):
        DeviceAugmentation(DeviceAugmentationConfig(reverberation=1.0), responses=bank)


def test_torchaudio_is_asked_for_only_when_it_is_needed(tmp_path):
    """Where it is absent, and where it was built for another torch."""
    program = f"""
import sys
sys.modules["torchaudio"] = None
from spooftrace.trainers.device_augmentation import DeviceAugmentation, DeviceAugmentationConfig
config = DeviceAugmentationConfig(noise=0.5)
for _ in range(2):
    try:
        DeviceAugmentation(config)
    except ImportError as error:
        print(type(error).__name__, error)
    del sys.modules["torchaudio"]
    sys.path.insert(0, {str(tmp_path)!r})
"""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('undefined symbol')")
    done = warm_python.run("-c", program)
    absent, broken = done.stdout.splitlines()
    assert absent.startswith("ModuleNotFoundError on-device augmentation needs torchaudio: pip install"), done.stderr
    assert broken.startswith("ImportError torchaudio does not load beside torch") and "spooftrace doctor" in broken


# In training


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


class Heard:
    """Keeps what a model is given, in training and in evaluation, and the seeds of an augmentation that it wraps."""

    def __init__(self, trainer):
        self.clips = {True: [], False: []}
        self.seeds, self.inner = [], trainer.augment_batch
        trainer.augment_batch = self if self.inner is not None else None
        trainer.model.register_forward_pre_hook(self.keep, with_kwargs=True)

    def __call__(self, waveforms: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        self.seeds += seeds
        return self.inner(waveforms, seeds)

    def keep(self, module, args, kwargs):
        self.clips[module.training] += list(kwargs["input_values"].clone())


@pytest.mark.parametrize("kind", ["erm", "mldg"])
def test_training_clips_alone_are_altered_each_by_its_own_seed(kind, rows, tmp_path):
    def run(name: str, **options) -> Heard:
        trainer = trainer_of(kind, tiny_aasist(**NO_DROPOUT), tmp_path / name, rows, rows[:5], max_steps=2, **options)
        heard = Heard(trainer)
        trainer.train()
        trainer.evaluate()
        return heard

    options = {"noise": 0.5, "telephone": 0.5, "min_snr": 0}
    plain, altered = run("plain"), run("altered", device_augmentation=options)
    assert len(altered.seeds) == len(altered.clips[True]) == len(plain.clips[True]) > 0
    assert len(altered.clips[False]) == 5
    for ours, theirs in zip(altered.clips[False], plain.clips[False], strict=True):
        assert torch.equal(ours, theirs)
    # MLDG hands the clips of a batch to the model by domains, so they are looked up by what they are.
    augment = DeviceAugmentation(DeviceAugmentationConfig.of(options))
    changed = 0
    for clip, result in zip(plain.clips[True], altered.clips[True], strict=True):
        expected = [augment(clip[None], [seed])[0] for seed in altered.seeds]
        assert any(torch.equal(result, candidate) for candidate in expected)
        changed += not torch.equal(result, clip)
    assert 0 < changed < len(altered.seeds)


def test_evaluation_clips_are_altered_where_that_is_asked_for_always_alike(rows, tmp_path):
    options = {"device_augmentation": {"noise": 1.0}, "augment_eval": True}
    trainer = trainer_of("erm", tiny_aasist(), tmp_path, rows, rows[:5], **options)
    heard = Heard(trainer)
    first, second = trainer.evaluate(), trainer.evaluate()
    assert heard.seeds == [0, 1, 2, 3, 4] * 2 and first["eval_loss"] == second["eval_loss"]
    plain = trainer_of("erm", tiny_aasist(), tmp_path, rows, rows[:5]).evaluate()
    assert plain["eval_loss"] != first["eval_loss"]


def test_any_callable_can_alter_batches(rows, tmp_path):
    arguments = trainer_of("erm", tiny_aasist(), tmp_path, rows, max_steps=1, device_augmentation={"noise": 1.0}).args
    silence = {"augment_batch": lambda waveforms, seeds: torch.zeros_like(waveforms)}
    heard = Heard(trainer := DetectionTrainer(tiny_aasist(), arguments, train_dataset=rows, **silence))
    trainer.train()
    assert len(heard.clips[True]) == 4 and not any(clip.any() for clip in heard.clips[True])


def test_options_come_from_the_command_line_too(rows, tmp_path):
    trainer = trainer_of(
        "erm", tiny_aasist(), tmp_path, rows, device_augmentation='{"codec": 0.25, "codecs": ["mp3"]}'
    )
    assert trainer.augment_batch.config == DeviceAugmentationConfig(codec=0.25, codecs=["mp3"])
    with pytest.raises(ValueError, match="has no 'volume'"):
        trainer_of("erm", tiny_aasist(), tmp_path, rows, device_augmentation={"volume": 1})
