"""The promises of the scoring path: one score per clip, honest abstentions, and no score from a broken checkpoint."""

import io
import itertools
import json
import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import warm_python
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from spooftrace.audio import AudioLimits, AudioNotFoundError, load_audio
from spooftrace.detector import CheckpointError, Detection, Detector, Failure
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.windows import Material, cut_windows


RATE = 16_000
WINDOW = 8_000


def tiny_model(**changes) -> AasistForAudioClassification:
    torch.manual_seed(0)
    tiny = {
        "frontend": "mel",
        "num_filters": 24,
        "hop_length": 320,
        "encoder_channels": [4, 4],
        "encoder_pooling": [[2, 2], [2, 4]],
        "graph_dims": [8, 4],
        "calibration": {"scale": 0.1, "bias": 0.2},
    }
    model = AasistForAudioClassification(AasistConfig(**{**tiny, **changes}))
    with torch.no_grad():  # fresh batch norms pass a signal too weak to tell clips apart
        for name, parameter in model.named_parameters():
            if "classifier" in name or "out_layer" in name:
                parameter.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder)
    AasistFeatureExtractor(window_samples=WINDOW).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(checkpoint) -> Detector:
    return Detector.from_pretrained(checkpoint, batch_size=4)


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    """Something with a pitch, pulses like those of vocal folds, and syllables, `[num_samples]`."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = generator.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * generator.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tone = sum(np.cos(order * phase) / order ** generator.uniform(0.4, 1) for order in range(1, 12))
    syllables = 0.3 + np.abs(np.sin(2 * np.pi * generator.uniform(2, 4) * time))
    return (0.05 * tone * syllables + 0.001 * generator.normal(size=len(time))).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", **{"subtype": "FLOAT", **options})
    return buffer.getvalue()


def score(detector: Detector, samples: np.ndarray) -> float:
    return detector(samples, RATE).score


# --- windows ---------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(1, 400),
    window=st.integers(1, 90),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_windows_are_slices_that_cover_the_clip_however_it_is_cut_into_blocks(length, window, cuts):
    waveform = np.arange(length, dtype=np.float32)
    windows = list(cut_windows(np.split(waveform, sorted(min(cut, length) for cut in cuts)), window))
    for start, samples in windows:
        assert np.array_equal(samples, waveform[start : start + window])
    starts = [start for start, _ in windows]
    assert starts[0] == 0 and starts[-1] + len(windows[-1][1]) == length
    assert all(0 < after - before <= max(window // 2, 1) for before, after in itertools.pairwise(starts))
    assert all(len(samples) == min(window, length) for _, samples in windows)


def test_an_empty_stream_has_no_window():
    assert list(cut_windows([np.zeros(0, dtype=np.float32)], 10)) == []


def test_each_window_scores_like_that_slice_of_the_clip(detector):
    waveform = voice(1.83)
    detection = detector(waveform, RATE)
    assert [(w.start, w.end) for w in detection.windows] == [
        *((start, start + 0.5) for start in (0, 0.25, 0.5, 0.75, 1.0, 1.25)),
        (pytest.approx(1.33), pytest.approx(1.83)),
    ]
    for window in detection.windows:
        piece = waveform[round(window.start * RATE) : round(window.end * RATE)]
        assert score(detector, piece) == pytest.approx(window.score, abs=1e-5)
    assert detection.score == pytest.approx(np.mean([window.score for window in detection.windows]), abs=1e-9)


def test_a_short_clip_is_one_window_and_scores_like_its_repetition(detector):
    waveform = voice(0.3)
    detection = detector(waveform, RATE)
    assert [(w.start, w.end) for w in detection.windows] == [(0, pytest.approx(0.3))]
    assert detection.score == pytest.approx(score(detector, np.resize(waveform, WINDOW)), abs=1e-5)


# --- one score per clip ----------------------------------------------------------------------------------------------


def test_a_clip_scores_the_same_alone_in_any_batch_and_in_any_order(checkpoint):
    clips = [voice(seconds, seed) for seed, seconds in enumerate((0.2, 1.7, 0.5, 3.1, 0.9, 0.01, 2.2))]
    sources = [{"array": clip, "sampling_rate": RATE} for clip in clips]
    alone = [Detector.from_pretrained(checkpoint, batch_size=1)(clip, RATE).score for clip in clips]
    assert np.ptp(alone) > 0.01  # or the comparison would be idle
    for batch_size in (2, 3, 16, 64):
        detector = Detector.from_pretrained(checkpoint, batch_size=batch_size)
        together = [result.score for result in detector.detect(sources)]
        backwards = [result.score for result in detector.detect(sources[::-1])][::-1]
        assert together == pytest.approx(alone, abs=1e-5)
        assert backwards == pytest.approx(alone, abs=1e-5)


def test_results_come_in_order_while_sources_are_taken_as_needed(detector):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield {"array": voice(0.6, number), "sampling_rate": RATE, "path": f"clip {number}"}

    results = list(itertools.islice(detector.detect(endless()), 5))
    assert [result.path for result in results] == [f"clip {number}" for number in range(5)]
    assert len(taken) <= 5 + detector.batch_size


def test_paths_bytes_streams_arrays_and_rows_of_datasets_score_alike(detector, tmp_path):
    encoded = wav(voice(1.2))
    path = tmp_path / "a clip.wav"
    path.write_bytes(encoded)
    with open(path, "rb") as stream:
        spellings = [path, str(path), encoded, stream, {"path": "x.wav", "bytes": encoded}, {"path": str(path)}]
        results = list(detector.detect(spellings))
    assert {result.score for result in results} == {score(detector, load_audio(path))}
    assert [result.path for result in results] == [
        *[str(path)] * 2,
        f"<{len(encoded)} bytes>",
        str(path),
        "x.wav",
        str(path),
    ]
    assert len({result.sha256 for result in results}) == 1


def test_progress_adds_up_to_the_audio_that_was_read(detector):
    seconds = []
    sources = [{"array": voice(1.5), "sampling_rate": RATE}, {"array": voice(40), "sampling_rate": RATE}]
    list(detector.detect(sources, progress=seconds.append))
    assert sum(seconds) == pytest.approx(41.5)


_HOUR = """
import resource, sys, numpy as np, soundfile, torch
torch.set_num_threads(1)
from spooftrace.detector import Detector
detector = Detector.from_pretrained(sys.argv[1], batch_size=16)
detector(sys.argv[2] + "/minute.flac")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
detection = detector(sys.argv[2] + "/hour.flac")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(detection.duration, len(detection.windows), detection.reason, (after - before) // 1024)
"""


def test_an_hour_is_scored_in_bounded_memory(tmp_path):
    # As float32 the hour is 220 MiB; the file is 1,000 times smaller than that.
    for name, minutes in (("minute", 1), ("hour", 60)):
        with soundfile.SoundFile(tmp_path / f"{name}.flac", "w", RATE, 1, "PCM_16") as file:
            for _ in range(minutes):
                file.write(np.zeros(60 * RATE, dtype=np.int16))
    tiny_model(hop_length=1600, n_fft=64, win_lengths=[64], num_filters=8).save_pretrained(tmp_path / "model")
    AasistFeatureExtractor().save_pretrained(tmp_path / "model")
    done = warm_python.run("-c", _HOUR, tmp_path / "model", tmp_path, check=True)
    duration, windows, reason, growth = done.stdout.split()
    # (57,600,000 - 64,600) / 32,300 hops, rounded up, and the first window
    assert (float(duration), int(windows), reason) == (3600.0, 1783, "silent")
    assert int(growth) < 60


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_the_score_is_the_log_odds_of_bona_fide_read_from_the_labels(checkpoint):
    waveform = voice(0.5)
    scores = {}
    for labels in (["bonafide", "spoof"], ["spoof", "bonafide"]):
        model = tiny_model(id2label=dict(enumerate(labels)))
        with torch.inference_mode():
            logits = dict(zip(labels, model(torch.from_numpy(waveform)[None]).logits[0].tolist(), strict=True))
        scores[labels[0]] = score(Detector(model, AasistFeatureExtractor(window_samples=WINDOW)), waveform)
        assert scores[labels[0]] == pytest.approx(logits["bonafide"] - logits["spoof"], abs=1e-5)
    assert scores["bonafide"] == pytest.approx(-scores["spoof"], abs=1e-5)


def test_several_kinds_of_spoof_count_together():
    model = tiny_model(id2label={0: "mvq", 1: "bonafide", 2: "svq", 3: "sq"})
    waveform = voice(0.5)
    with torch.inference_mode():
        logits = model(torch.from_numpy(waveform)[None]).logits[0].double()
    expected = logits[1] - torch.logsumexp(logits[[0, 2, 3]], dim=0)
    detector = Detector(model, AasistFeatureExtractor(window_samples=WINDOW))
    assert score(detector, waveform) == pytest.approx(expected.item(), abs=1e-5)


def test_the_probability_follows_the_calibration_and_the_verdict_the_threshold(checkpoint):
    waveform = voice(1.2)
    detection = Detector.from_pretrained(checkpoint)(waveform, RATE)
    expected = 1 / (1 + math.exp(-(0.1 * detection.score + 0.2)))
    assert detection.probability_bonafide == pytest.approx(expected, abs=1e-9)
    assert detection.model["calibrated"] is True
    for threshold, verdict in ((expected - 1e-6, "bonafide"), (expected + 1e-6, "spoof")):
        assert Detector.from_pretrained(checkpoint, threshold=threshold)(waveform, RATE).verdict == verdict


def test_without_calibration_the_probability_is_that_of_the_score_and_says_so():
    detector = Detector(tiny_model(calibration=None), AasistFeatureExtractor(window_samples=WINDOW))
    detection = detector(voice(1.0), RATE)
    assert detection.probability_bonafide == pytest.approx(1 / (1 + math.exp(-detection.score)), abs=1e-9)
    assert detection.model["calibrated"] is False
    assert (detector.probability(-2000.0), detector.probability(2000.0)) == (0.0, 1.0)


@pytest.mark.parametrize("rule, function", [("mean", np.mean), ("median", np.median), ("min", np.min)])
def test_the_aggregation_is_the_callers_or_the_calibrations(rule, function):
    extractor = AasistFeatureExtractor(window_samples=WINDOW)
    calibrated = tiny_model(calibration={"scale": 1.0, "bias": 0.0, "aggregation": rule})
    for detector in (Detector(calibrated, extractor), Detector(tiny_model(), extractor, aggregation=rule)):
        detection = detector(voice(2.1), RATE)
        expected = function([window.score for window in detection.windows])
        assert detection.score == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "waveform, reason",
    [
        (voice(0.49), "too short"),
        (voice(0.01), "too short"),
        (np.ones(1, dtype=np.float32), "too short"),
        (np.zeros(2 * RATE, dtype=np.float32), "silent"),
        (np.full(2 * RATE, 0.5, dtype=np.float32), "silent"),
        (voice(2.0) * 1e-3, "silent"),
        (np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32), "too little voiced material"),
        (np.concatenate([np.zeros(3 * RATE, dtype=np.float32), voice(0.2)]), "too little voiced material"),
        (np.clip(voice(2.0) * 300, -1, 1), "clipped, or a steady tone"),
        (0.3 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE) / RATE).astype(np.float32), "clipped, or a steady tone"),
    ],
    ids=["490 ms", "10 ms", "one sample", "zeros", "constant", "faint", "hiss", "one syllable", "clipped", "tone"],
)
def test_unusable_material_abstains_with_its_reason_but_has_a_score(detector, waveform, reason):
    detection = detector(waveform, RATE)
    assert (detection.verdict, detection.reason) == ("abstain", reason)
    assert math.isfinite(detection.score) and 0 <= detection.probability_bonafide <= 1


@pytest.mark.parametrize("gain", [0.03, 1.0, 30.0], ids=["quiet", "normal", "beyond full scale"])
def test_speech_gets_a_verdict_at_any_level(detector, gain):
    detection = detector(voice(1.0) * np.float32(gain), RATE)
    assert detection.verdict in ("bonafide", "spoof") and detection.reason is None


def test_the_material_is_the_same_however_the_stream_is_cut():
    waveform = np.concatenate([voice(0.4), np.zeros(777, dtype=np.float32), voice(0.3, 1)])
    whole, pieces = Material(RATE), Material(RATE)
    whole.add(waveform)
    for piece in np.array_split(waveform, 13):
        pieces.add(piece)
    assert whole.seconds == pieces.seconds and whole.abstention() is pieces.abstention() is None


@pytest.mark.parametrize("position", [0, 100_000])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_clip_that_is_not_finite_abstains_without_a_score(detector, position, value):
    waveform = voice(7.0)
    waveform[position] = value
    detection = detector(wav(waveform))
    assert (detection.verdict, detection.reason) == ("abstain", "not finite")
    assert detection.score is None and detection.probability_bonafide is None and detection.windows == []
    assert detection.duration == pytest.approx(7.0) and len(detection.sha256) == 64


def test_clips_of_the_corpus_are_all_scored_and_judged(detector, corpus_dir):
    paths = sorted((corpus_dir / "audio").glob("*.flac"))[:40]
    results = list(detector.detect(paths))
    assert {result.verdict for result in results} <= {"bonafide", "spoof"}
    assert all(math.isfinite(result.score) for result in results)


# --- failures --------------------------------------------------------------------------------------------------------


def test_bad_clips_fail_with_their_error_and_the_others_are_scored(detector, tmp_path):
    good = {"array": voice(0.8), "sampling_rate": RATE}
    (tmp_path / "text.wav").write_text("not audio at all, only called so")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes(wav(voice(2.0))[:5000])
    names = ["text.wav", "empty.wav", "cut.wav", "absent.wav"]
    sources = [good, *itertools.chain.from_iterable((tmp_path / name, good) for name in names)]
    results = list(detector.detect(sources))
    assert [result.score for result in results[::2]] == pytest.approx([results[0].score] * 5, abs=1e-5)
    failures = results[1::2]
    assert [failure.error for failure in failures] == [
        "UnreadableAudioError",
        "EmptyAudioError",
        "UnreadableAudioError",
        "AudioNotFoundError",
    ]
    assert [Path(failure.path).name for failure in failures] == names
    assert all(set(failure.to_dict()) == {"path", "error", "message"} for failure in failures)


def test_calling_the_detector_raises_what_went_wrong(detector, tmp_path):
    with pytest.raises(AudioNotFoundError, match="absent"):
        detector(tmp_path / "absent.wav")


def test_limits_reach_the_reader(checkpoint):
    detector = Detector.from_pretrained(checkpoint, limits=AudioLimits(max_seconds=1.0))
    short, long = detector.detect({"array": voice(s), "sampling_rate": RATE} for s in (0.9, 1.1))
    assert isinstance(short, Detection) and isinstance(long, Failure) and long.error == "AudioTooLongError"


def test_a_model_that_answers_nan_has_no_score():
    model = tiny_model()
    with torch.no_grad():
        list(model.parameters())[-1].fill_(math.nan)
    (result,) = Detector(model, AasistFeatureExtractor(window_samples=WINDOW)).detect([wav(voice(1.0))])
    assert isinstance(result, Failure) and result.error == "ScoreError"


def test_results_are_json_with_the_documented_fields(detector):
    plain = json.loads(json.dumps(detector(voice(0.8), RATE).to_dict(), allow_nan=False))
    fields = "path score probability_bonafide verdict reason duration windows model sha256"
    assert set(plain) == set(fields.split())
    assert set(plain["windows"][0]) == {"start", "end", "score"}
    assert set(plain["model"]) == {"name", "revision", "calibrated", "spooftrace"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"aggregation": "product"}, "mean, median, min"),
        ({"device": "abacus"}, "abacus"),
        ({"bonafide_label": "real"}, r"\{0: 'bonafide', 1: 'spoof'\}.*bonafide_label="),
    ],
)
def test_an_argument_out_of_range_is_named(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        Detector.from_pretrained(checkpoint, **options)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def edit_weights(folder: Path, change) -> str:
    """Applies `change(tensors, name)` to the saved tensors, for the name of a matrix among them."""
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    change(tensors, name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return name


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda tensors, name: tensors.pop(name), "missing"),
        (lambda tensors, name: tensors.update(stranger=torch.zeros(3)), "unexpected.*stranger"),
        (lambda tensors, name: tensors.update({name: tensors[name][:-1].clone()}), "mismatched"),
        (lambda tensors, name: tensors.update({f"x.{name}": tensors.pop(name)}), "missing.*unexpected"),
    ],
    ids=["missing", "unexpected", "mismatched", "renamed"],
)
def test_a_checkpoint_that_does_not_fit_never_yields_a_score(copy, change, words, capfd):
    name = edit_weights(copy, change)
    with pytest.raises(CheckpointError, match=words) as error:
        Detector.from_pretrained(copy)
    assert "stranger" in str(error.value) or name in str(error.value)
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


def test_weights_that_are_cut_short_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Detector.from_pretrained(copy)


class Trap:
    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("disguise", ["pytorch_model.bin", "model.safetensors", "adapter_model.bin"])
def test_a_booby_trapped_pickle_runs_nothing(copy, tmp_path, disguise):
    sprung = tmp_path / "sprung"
    (copy / "model.safetensors").unlink()
    (copy / disguise).write_bytes(pickle.dumps(Trap(sprung)))
    if disguise == "adapter_model.bin":  # transformers takes the name of the weights from the configuration
        (copy / "other.safetensors").write_bytes(b"")
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "transformers_weights": disguise}))
    with pytest.raises(CheckpointError):
        Detector.from_pretrained(copy)
    assert not sprung.exists()
    with pytest.raises(FileExistsError):  # the trap works where it is allowed to
        pickle.loads(pickle.dumps(Trap(tmp_path)))


def test_a_bare_adapter_is_refused(copy):
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/name"}))
    with pytest.raises(CheckpointError, match="merge it first"):
        Detector.from_pretrained(copy)


def test_code_in_a_checkpoint_does_not_run(copy, tmp_path):
    sprung = tmp_path / "sprung"
    (copy / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(sprung)!r})\nclass Evil: ...\n")
    config = json.loads((copy / "config.json").read_text())
    evil = {"AutoConfig": "modeling_evil.Evil", "AutoModelForAudioClassification": "modeling_evil.Evil"}
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": evil}))
    with pytest.raises(ValueError, match="trust_remote_code"):
        Detector.from_pretrained(copy)
    assert not sprung.exists()


def test_a_feature_extractor_of_nonsense_is_refused(copy):
    (copy / "preprocessor_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is not valid"):
        Detector.from_pretrained(copy)


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(CheckpointError, match="'' is neither a folder"):
        Detector.from_pretrained("")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model_type": "bert", "auto_map": {}}, "cannot classify audio"),
        ({"pool_ratios": [2.0, 0.5, 0.5]}, "config.json is not valid"),
        ({"auto_map": None}, "config.json is not valid"),
        ({"calibration": {"scale": -1.0, "bias": 0.0}}, "positive scale"),
        ({"label2id": {"bonafide": 1, "spoof": 0}}, "inverses"),
    ],
    ids=[
        "another kind of model",
        "invalid configuration",
        "invalid map",
        "inverting calibration",
        "contradictory labels",
    ],
)
def test_a_configuration_that_cannot_be_trusted_is_refused(copy, changes, words):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=words):
        Detector.from_pretrained(copy)


def test_a_name_that_is_no_folder_and_no_repository_is_refused_without_asking_the_hub(checkpoint, tmp_path):
    for name in (str(tmp_path / "absent"), "./absent", checkpoint / "model.safetensors", "https://example.org/a"):
        with pytest.raises(CheckpointError, match="spooftrace convert"):
            Detector.from_pretrained(name)


def test_a_model_from_the_hub_is_named_by_its_commit(checkpoint, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    offline = {"cache_dir": tmp_path, "local_files_only": True}
    for revision in (None, "main", commit):
        info = Detector.from_pretrained("owner/name", revision=revision, hub_options=offline).model_info
        assert (info["name"], info["revision"]) == ("owner/name", commit)
    with pytest.raises(OSError, match="owner/other"):
        Detector.from_pretrained("owner/other", hub_options=offline)


def test_an_installation_without_its_detector_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("spooftrace.checkpoint.resources.files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="install spooftrace again"):
        Detector.from_pretrained()


def test_local_weights_are_named_by_their_digest(checkpoint, copy):
    def change(tensors, name):
        tensors[name] += 1

    first = Detector.from_pretrained(checkpoint).model_info
    assert Detector.from_pretrained(copy).model_info["revision"] == first["revision"]
    edit_weights(copy, change)
    changed = Detector.from_pretrained(copy).model_info["revision"]
    assert changed != first["revision"] and changed.startswith("sha256:")
    assert first["name"] == str(checkpoint)


def test_stock_audio_classifiers_work_once_their_labels_are_named(tmp_path):
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[20, 16],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        id2label={0: "fake", 1: "real"},
        label2id={"fake": 0, "real": 1},
    )
    model = Wav2Vec2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    extractor = Wav2Vec2FeatureExtractor()
    extractor.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'fake', 1: 'real'"):
        Detector.from_pretrained(tmp_path)
    detector = Detector.from_pretrained(tmp_path, bonafide_label="real", window_seconds=1.0)
    clips = [voice(2.2), voice(0.7, 1)]
    long, short = detector.detect({"array": clip, "sampling_rate": RATE} for clip in clips)
    assert len(long.windows) == 4 and len(short.windows) == 1
    inputs = extractor(np.resize(clips[1], RATE), sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    assert short.score == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)
