"""The promises of source tracing: one answer per clip, abstentions as the detector's, and an open-set score that fits."""

import io
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import warm_python
from tiny_sastnet import WINDOW as SASTNET_WINDOW
from tiny_sastnet import tiny_sastnet
from tiny_tracers import RATE, THREE, WINDOW, fit_score, save_open_set, save_tracer, tiny_tracer, voice
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from spooftrace.audio import AudioLimits, AudioNotFoundError
from spooftrace.checkpoint import weights_file_sha256
from spooftrace.detector import CheckpointError, Detector
from spooftrace.modeling import AasistFeatureExtractor, SASTNetFeatureExtractor
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.open_set import OPEN_SET_FILE, OpenSet, OpenSetError
from spooftrace.results import Failure, Trace
from spooftrace.tracer import Tracer, TracingModel


FIELDS = ["path", "vq", "aux", "dec", "unknown", "reason", "model", "duration", "sha256"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = save_tracer(tmp_path_factory.mktemp("tracer"))
    save_open_set(folder)
    return folder


@pytest.fixture(scope="module")
def tracer(checkpoint) -> Tracer:
    return Tracer.from_pretrained(checkpoint, batch_size=4)


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def numbers(trace: Trace) -> list[float]:
    """Everything that a trace says in numbers."""
    answers = (trace.vq, trace.aux, trace.dec)
    return [*(value for answer in answers for value in answer.probabilities.values()), trace.unknown.score]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_probabilities_are_averaged_in_the_log_and_embeddings_as_they_are(checkpoint, tracer):
    waveform = voice(1.25)
    windows = torch.from_numpy(np.stack([waveform[start : start + WINDOW] for start in range(0, 12001, 4000)]))
    with torch.inference_mode():
        output = tracer.models[0].model(windows)
    trace = tracer(waveform, RATE)
    for task, logits in output.task_logits.items():
        answer = getattr(trace, task)
        expected = logits.double().log_softmax(dim=1).mean(dim=0).exp()
        expected /= expected.sum()
        assert list(answer.probabilities) == tracer.task_labels[task]
        assert list(answer.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
        assert answer.label == tracer.task_labels[task][expected.argmax()]
    embedding = output.embeddings.double().mean(dim=0).numpy()
    score = OpenSet.load(checkpoint / OPEN_SET_FILE).scorer.score(embedding[None])[0]
    assert trace.unknown.score == pytest.approx(score, rel=1e-4)
    assert trace.features.embedding == pytest.approx(embedding, abs=1e-5)


def test_a_clip_is_traced_alike_alone_in_any_batch_and_in_any_order(checkpoint):
    clips = [voice(seconds, seed) for seed, seconds in enumerate((0.2, 1.7, 0.5, 3.1, 0.9, 0.01, 2.2))]
    sources = [{"array": clip, "sampling_rate": RATE} for clip in clips]
    alone = [numbers(Tracer.from_pretrained(checkpoint, batch_size=1)(clip, RATE)) for clip in clips]
    assert np.ptp(alone, axis=0).max() > 0.01  # or the comparison would be idle
    for batch_size in (2, 3, 64):
        tracer = Tracer.from_pretrained(checkpoint, batch_size=batch_size)
        for order in (slice(None), slice(None, None, -1)):
            together = [numbers(trace) for trace in tracer.trace(sources[order])][order]
            np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_results_are_json_with_the_documented_fields(tracer):
    plain = json.loads(json.dumps(tracer(voice(0.8), RATE).to_dict(), allow_nan=False))
    assert list(plain) == FIELDS
    assert plain["vq"]["label"] in plain["vq"]["probabilities"] and set(plain["vq"]) == {"label", "probabilities"}
    assert set(plain["vq"]["probabilities"]) == {"bonafide", "mvq", "svq"}
    assert set(plain["unknown"]) == {"score", "is_unknown"} and plain["reason"] is None
    assert set(plain["model"]) == {"checkpoints", "open_set", "spooftrace"}
    (described,) = plain["model"]["checkpoints"]
    assert set(described) == {"name", "revision", "tasks"} and described["tasks"] == list(THREE)
    assert plain["model"]["open_set"]["method"] == "mahalanobis"


@pytest.mark.parametrize("side, is_unknown", [(-1e-6, True), (1e-6, False)])
def test_a_source_is_unknown_above_the_threshold_and_keeps_its_labels(copy, tracer, side, is_unknown):
    waveform = voice(1.0)
    save_open_set(copy, threshold=tracer(waveform, RATE).unknown.score * (1 + side))
    trace = Tracer.from_pretrained(copy)(waveform, RATE)
    assert trace.unknown.is_unknown is is_unknown and trace.vq.label is not None


@pytest.mark.parametrize("method", ["max_softmax", "energy"])
def test_scores_of_logits_read_those_of_their_task(copy, method):
    save_open_set(copy, method, task="aux")
    trace = Tracer.from_pretrained(copy)(voice(1.0), RATE)
    expected = fit_score(method, 4).score(trace.features.logits["aux"][None])[0]
    assert trace.unknown.score == pytest.approx(expected, abs=1e-12)


def test_without_an_open_set_score_nothing_is_said_about_unknown_sources(copy):
    (copy / OPEN_SET_FILE).unlink()
    tracer = Tracer.from_pretrained(copy)
    trace = tracer(voice(1.0), RATE)
    assert trace.unknown is None and trace.to_dict()["unknown"] is None and tracer.model_info["open_set"] is None


def test_questions_without_a_head_are_null_and_genuineness_is_left_to_the_detector():
    model = tiny_tracer(("bin", "dec"))
    tracer = Tracer(TracingModel(model, AasistFeatureExtractor(window_samples=WINDOW)))
    plain = tracer(voice(0.8), RATE).to_dict()
    assert list(plain) == FIELDS and plain["vq"] is plain["aux"] is None
    assert set(plain["dec"]["probabilities"]) == {"bonafide", "time", "frequency"}
    assert tracer.model_info["checkpoints"][0]["tasks"] == ["dec"]


def test_a_model_of_one_question_is_traced_with():
    tracer = Tracer(TracingModel(tiny_tracer(("aux",)), AasistFeatureExtractor(window_samples=WINDOW)))
    trace = tracer(voice(0.8), RATE)
    assert trace.vq is trace.dec is None and sum(trace.aux.probabilities.values()) == pytest.approx(1)


# --- material --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "waveform, reason",
    [
        (voice(0.3), "too short"),
        (np.zeros(2 * RATE, dtype=np.float32), "silent"),
        (np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32), "too little voiced material"),
        (np.clip(voice(2.0) * 300, -1, 1), "clipped, or a steady tone"),
    ],
    ids=["short", "silent", "hiss", "clipped"],
)
def test_unusable_material_gets_numbers_but_no_labels(tracer, waveform, reason):
    trace = tracer(waveform, RATE)
    assert trace.reason == reason
    assert trace.vq.label is trace.aux.label is trace.dec.label is trace.unknown.is_unknown is None
    assert np.isfinite(numbers(trace)).all()


@pytest.mark.parametrize("position", [0, 9_000])
def test_a_clip_that_is_not_finite_gets_no_numbers_either(tracer, position):
    waveform = voice(2.0)
    waveform[position] = math.nan
    trace = tracer(wav(waveform))
    assert trace.reason == "not finite" and trace.features is None
    plain = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert plain["vq"] == {"label": None, "probabilities": None}
    assert plain["unknown"] == {"score": None, "is_unknown": None} and len(plain["sha256"]) == 64


def test_stereo_is_traced_as_its_mean_and_other_rates_are_converted(tracer):
    mono = voice(1.3)
    stereo = np.stack([2 * mono, np.zeros_like(mono)], axis=1)
    assert numbers(tracer(wav(stereo))) == pytest.approx(numbers(tracer(wav(mono))), rel=1e-5, abs=1e-5)
    slow = tracer(wav(mono[::2], rate=8_000))
    assert slow.reason is None and slow.duration == pytest.approx(1.3, abs=1e-3)


def test_bad_clips_fail_in_their_place_and_the_others_are_traced(tracer, tmp_path):
    good = {"array": voice(0.8), "sampling_rate": RATE}
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "cut.wav").write_bytes(wav(voice(2.0))[:5000])
    results = list(tracer.trace([good, tmp_path / "empty.wav", good, tmp_path / "cut.wav", tmp_path / "absent.wav"]))
    errors = [result.error for result in results if isinstance(result, Failure)]
    assert errors == ["EmptyAudioError", "UnreadableAudioError", "AudioNotFoundError"]
    assert numbers(results[0]) == pytest.approx(numbers(results[2]), rel=1e-5)
    with pytest.raises(AudioNotFoundError, match="absent"):
        tracer(tmp_path / "absent.wav")


def test_limits_and_progress_reach_the_reader(checkpoint):
    tracer, seconds = Tracer.from_pretrained(checkpoint, limits=AudioLimits(max_seconds=1.0)), []
    clips = ({"array": voice(length), "sampling_rate": RATE} for length in (0.9, 1.1))
    short, long = tracer.trace(clips, progress=seconds.append)
    assert isinstance(short, Trace) and long.error == "AudioTooLongError"
    assert sum(seconds) == pytest.approx(0.9)


def test_a_model_that_answers_nan_gives_no_trace():
    model = tiny_tracer()
    with torch.no_grad():
        model.task_classifiers["dec"].bias.fill_(math.nan)
    tracer = Tracer(TracingModel(model, AasistFeatureExtractor(window_samples=WINDOW)))
    (result,) = tracer.trace([wav(voice(1.0))])
    assert isinstance(result, Failure) and result.error == "ScoreError"


# --- models ----------------------------------------------------------------------------------------------------------


def test_several_models_answer_one_question_each_as_they_would_alone(checkpoint, tmp_path):
    folders = [save_tracer(tmp_path / task, (task,), seed=number) for number, task in enumerate(("dec", "vq"))]
    tracer, waveform = Tracer.from_pretrained(folders), voice(1.7)
    together = tracer(waveform, RATE)
    assert together.aux is None and [part["tasks"] for part in tracer.model_info["checkpoints"]] == [["dec"], ["vq"]]
    for folder, task in zip(folders, ("dec", "vq"), strict=True):
        alone = getattr(Tracer.from_pretrained(folder)(waveform, RATE), task)
        assert getattr(together, task).probabilities == pytest.approx(alone.probabilities, abs=1e-9)


def test_sastnets_of_one_question_each_make_a_tracer(tmp_path):
    folders = [tmp_path / task for task in THREE]
    for task, folder in zip(THREE, folders, strict=True):
        tiny_sastnet(task=task).save_pretrained(folder)
        SASTNetFeatureExtractor(window_samples=SASTNET_WINDOW).save_pretrained(folder)
    tracer = Tracer.from_pretrained(folders, batch_size=3)
    clips = [{"array": voice(seconds, seed), "sampling_rate": RATE} for seed, seconds in enumerate((0.6, 2.2, 1.3))]
    for clip, trace in zip(clips, tracer.trace(clips), strict=True):
        alone = tracer(clip)
        for task in THREE:
            answer = getattr(trace, task)
            assert list(answer.probabilities) == list(TASK_LABELS[task])
            assert answer.probabilities == pytest.approx(getattr(alone, task).probabilities, abs=1e-5)
    window = torch.from_numpy(np.resize(clips[0]["array"], SASTNET_WINDOW))[None]
    with torch.inference_mode():
        expected = tracer.models[2].model(window).logits[0].double().softmax(dim=0)
    assert list(tracer(clips[0]).dec.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)


def test_of_several_models_the_first_open_set_score_counts(tmp_path):
    parts = [
        TracingModel(tiny_tracer((task,), seed=seed), AasistFeatureExtractor(window_samples=WINDOW), task, None, score)
        for seed, (task, score) in enumerate(
            (("dec", None), ("vq", OpenSet(fit_score("mahalanobis", 20), "vq", 0.0, 0.95, "", "")))
        )
    ]
    waveform = voice(1.0)
    alone = Tracer(parts[1])(waveform, RATE)
    together = Tracer(parts)(waveform, RATE)
    assert together.unknown.score == pytest.approx(alone.unknown.score, rel=1e-6)
    assert np.array_equal(together.features.embedding, alone.features.embedding)


def test_a_question_that_two_models_answer_is_an_error_that_names_both(checkpoint, tmp_path):
    other = save_tracer(tmp_path / "other", ("dec",))
    with pytest.raises(CheckpointError, match=f"'dec' is answered by {checkpoint} and by {other}"):
        Tracer.from_pretrained([checkpoint, other])


def test_models_with_different_windows_cannot_be_combined(tmp_path):
    folders = [save_tracer(tmp_path / task, (task,), window=window) for task, window in (("vq", 8000), ("dec", 9600))]
    with pytest.raises(CheckpointError, match="8000 and 9600 samples"):
        Tracer.from_pretrained(folders)


def test_a_detector_is_sent_to_detect(tmp_path):
    folder = save_tracer(tmp_path / "bin", ("bin",))
    for model in (folder, None):
        with pytest.raises(CheckpointError, match="spooftrace detect"):
            if model:
                Tracer.from_pretrained(model)
            else:
                Tracer(TracingModel(tiny_tracer(("bin",)), AasistFeatureExtractor()))


def test_an_audio_classifier_without_tasks_is_refused(tmp_path):
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[20, 16],
        num_feat_extract_layers=2,
        classifier_proj_size=8,
    )
    Wav2Vec2ForSequenceClassification(config).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="answers none of vq, aux, dec"):
        Tracer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"device": "abacus"}, "abacus"),
        ({"revision": ["a", "b"]}, "one revision for each model, got 2 for 1"),
    ],
)
def test_an_argument_out_of_range_is_named(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        Tracer.from_pretrained(checkpoint, **options)


def test_no_model_at_all_is_an_error():
    with pytest.raises(ValueError, match="for each model"):
        Tracer.from_pretrained([])


def test_an_installation_without_its_tracer_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("spooftrace.checkpoint.resources.files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="tracer is missing.*install spooftrace again"):
        Tracer.from_pretrained()


# --- the open-set file -----------------------------------------------------------------------------------------------


def test_an_open_set_score_of_other_weights_is_refused(copy, tmp_path):
    other = save_tracer(tmp_path / "other", seed=1)
    shutil.copy(copy / OPEN_SET_FILE, other)
    with pytest.raises(OpenSetError, match="fit it anew"):
        Tracer.from_pretrained(other)


def test_an_open_set_score_of_a_question_without_a_head_is_refused(tmp_path):
    folder = save_tracer(tmp_path / "tracer", ("dec",))
    OpenSet(fit_score("energy", 3), "vq", 0.0, 0.95, "", weights_file_sha256(folder)).save(folder)
    with pytest.raises(CheckpointError, match="reads the logits of 'vq'"):
        Tracer.from_pretrained(folder)


def test_a_broken_open_set_score_is_an_error_and_not_left_out(copy):
    (copy / OPEN_SET_FILE).write_bytes(b"nonsense")
    with pytest.raises(OpenSetError, match=OPEN_SET_FILE):
        Tracer.from_pretrained(copy)


def test_an_open_set_score_is_no_weights(copy):
    named = Detector.from_pretrained(copy).model_info["revision"]
    assert named == f"sha256:{weights_file_sha256(copy)}"
    (copy / OPEN_SET_FILE).unlink()
    assert Detector.from_pretrained(copy).model_info["revision"] == named
    save_open_set(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors"):
        Tracer.from_pretrained(copy)


_FROM_HUB = """
import json, sys
import soundfile
from spooftrace import Tracer
waveform, _ = soundfile.read(sys.argv[1], dtype="float32")
for options in ({}, {"local_files_only": True}):
    tracer = Tracer.from_pretrained(sys.argv[2:], hub_options=options)
    print(json.dumps(tracer(waveform, 16000).to_dict()))
"""


def from_hub(hub, clip: Path, *models: str) -> subprocess.CompletedProcess:
    return warm_python.run("-c", _FROM_HUB, clip, *models, env=hub.env(token=None))


def test_a_tracer_from_the_hub_brings_its_open_set_score_and_works_offline_afterwards(
    hub, checkpoint, tracer, tmp_path
):
    commit = hub.seed("alice/tracer", checkpoint)
    waveform = voice(1.4)
    soundfile.write(tmp_path / "clip.wav", waveform, RATE, subtype="FLOAT")
    done = from_hub(hub, tmp_path / "clip.wav", "alice/tracer")
    assert done.returncode == 0, done.stderr
    expected = tracer(waveform, RATE).to_dict()
    for line in done.stdout.splitlines():
        plain = json.loads(line)
        assert plain["vq"]["probabilities"] == pytest.approx(expected["vq"]["probabilities"], abs=1e-5)
        assert plain["unknown"]["score"] == pytest.approx(expected["unknown"]["score"], rel=1e-5)
        assert plain["model"]["checkpoints"] == [{"name": "alice/tracer", "revision": commit, "tasks": list(THREE)}]


def test_tracers_from_the_hub_are_combined_and_need_no_open_set_score(hub, tmp_path):
    for task in ("vq", "dec"):
        hub.seed(f"alice/{task}", save_tracer(tmp_path / task, (task,)))
    soundfile.write(tmp_path / "clip.wav", voice(0.9), RATE)
    done = from_hub(hub, tmp_path / "clip.wav", "alice/vq", "alice/dec")
    assert done.returncode == 0, done.stderr
    plain = json.loads(done.stdout.splitlines()[-1])
    assert plain["unknown"] is plain["aux"] is None and plain["vq"]["label"] and plain["dec"]["label"]
