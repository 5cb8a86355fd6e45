"""AASIST with several tasks: one trunk, a graph and a classifier each, and the manners of the model with one."""

import pytest
import torch
import warm_python
from conftest import lively, tiny_config
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification

from spooftrace.detector import Detector
from spooftrace.modeling import AasistConfig, AasistFeatureExtractor, AasistForAudioClassification
from spooftrace.modeling.lora import encoder_digest
from spooftrace.modeling.source_tasks import TASK_LABELS, logits_by_task


TRACER = {"tasks": ["vq", "aux", "dec"], "task_labels": {"vq": ["bonafide", "mvq", "svq"]}}
LABELS = torch.tensor([[0, 0, 0], [2, -100, 1], [-100, -100, 2], [1, -100, -100]])


def clips(batch: int = 4, samples: int = 16_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tones = torch.sin(torch.arange(samples) * torch.linspace(0.05, 1.5, batch)[:, None])
    return 0.1 * torch.randn(batch, samples, generator=generator) + 0.2 * tones


def build(frontend: str = "sinc", **fields) -> AasistForAudioClassification:
    torch.manual_seed(0)
    model = lively(AasistForAudioClassification(tiny_config(frontend, **fields)))
    with torch.no_grad():
        for classifier in model.task_classifiers.values():
            classifier.weight.mul_(10)
    return model


@pytest.fixture(params=["sinc", "mel", "wav2vec2"])
def tracer(request) -> AasistForAudioClassification:
    return build(request.param, **TRACER)


# ---------------------------------------------------------------- what it answers


def test_every_task_has_logits_in_the_order_of_its_labels(tracer):
    output = tracer(clips())
    assert {task: logits.shape for task, logits in output.task_logits.items()} == {
        "vq": (4, 3),
        "aux": (4, 4),
        "dec": (4, 3),
    }
    assert torch.equal(output.logits, output.task_logits["vq"])
    assert output.embeddings.shape == (4, 3 * tracer.config.hidden_size) == (4, 60)
    assert torch.equal(logits_by_task(output, tracer.config)["dec"], output.task_logits["dec"])


def test_a_model_of_one_task_returns_its_logits_alone():
    model = build(tasks=["dec"])
    output = model(clips(), labels=torch.tensor([0, 2, 1, -100]))
    assert output.task_logits is None and model.config.id2label == {0: "bonafide", 1: "time", 2: "frequency"}
    assert torch.equal(logits_by_task(output, model.config)["dec"], output.logits)
    known = -output.logits.log_softmax(1)[[0, 1, 2], [0, 2, 1]].mean()
    torch.testing.assert_close(output.loss, known)


def test_logits_of_a_task_follow_from_its_part_of_the_embedding(tracer):
    output = tracer(clips())
    parts = output.embeddings.split(tracer.config.hidden_size, dim=1)
    assert not torch.allclose(parts[0], parts[1])
    torch.testing.assert_close(tracer.task_classifiers["aux"](parts[1]), output.task_logits["aux"])
    torch.testing.assert_close(tracer.classifier(parts[0]), output.logits)


def test_a_clip_answers_the_same_alone_and_in_a_batch(tracer):
    with torch.inference_mode():
        together = tracer(clips()).task_logits
        alone = [tracer(clip[None]).task_logits for clip in clips()]
    for task, logits in together.items():
        assert logits.std(dim=0).min() > 1e-4
        torch.testing.assert_close(logits, torch.cat([one[task] for one in alone]), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- one trunk


def test_first_task_computes_what_a_model_of_that_task_alone_computes(tracer):
    alone = build(tracer.config.frontend, tasks=["vq"], task_labels=TRACER["task_labels"])
    shared = {name: tracer.state_dict()[name] for name in alone.state_dict()}
    alone.load_state_dict(shared)
    torch.testing.assert_close(alone(clips()).logits, tracer(clips()).logits)


def test_names_of_the_first_task_are_those_of_a_model_with_one():
    one, several = build().state_dict(), build(tasks=["bin", "vq"]).state_dict()
    further = set(several) - set(one)
    assert set(one) < set(several)
    heads = {name.removeprefix("aasist.backend.") for name in one if name.startswith("aasist.backend.")}
    graphs = {f"aasist.task_graphs.vq.{name}" for name in heads if not name.startswith("nodes.")}
    assert further == graphs | {"task_classifiers.vq.weight", "task_classifiers.vq.bias"}


def test_fresh_weights_of_one_task_do_not_depend_on_the_task():
    def fresh(**fields) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return AasistForAudioClassification(tiny_config("wav2vec2", **fields)).state_dict()

    detector, tracer = fresh(), fresh(tasks=["dec"], task_labels={"dec": ["bonafide", "time"]})
    assert all(torch.equal(value, tracer[name]) for name, value in detector.items())


def test_graphs_start_apart(tracer):
    graphs = tracer.aasist.task_graphs
    assert not torch.equal(graphs["aux"].position, graphs["dec"].position)
    assert graphs["aux"].position.std() > 0.5 and graphs["aux"].branch1.master.std() > 0.3


# ---------------------------------------------------------------- the loss


def test_loss_is_the_mean_over_tasks_of_their_known_clips(tracer):
    output = tracer(clips(), labels=LABELS)
    log = {task: logits.log_softmax(1) for task, logits in output.task_logits.items()}
    vq = -(log["vq"][0, 0] + log["vq"][1, 2] + log["vq"][3, 1]) / 3
    dec = -(log["dec"][0, 0] + log["dec"][1, 1] + log["dec"][2, 2]) / 3
    torch.testing.assert_close(output.loss, (vq - log["aux"][0, 0] + dec) / 3)


def test_a_task_without_known_clips_has_no_part_in_the_loss(tracer):
    tracer.train()
    labels = LABELS.clone()
    labels[:, 1] = -100
    torch.manual_seed(0)
    output = tracer(clips(), labels=labels)
    output.loss.backward()
    assert not any(parameter.grad.any() for parameter in tracer.task_classifiers["aux"].parameters())
    assert all(parameter.grad.any() for parameter in tracer.task_classifiers["dec"].parameters())
    log = {task: logits.log_softmax(1) for task, logits in output.task_logits.items()}
    vq = -(log["vq"][0, 0] + log["vq"][1, 2] + log["vq"][3, 1]) / 3
    dec = -(log["dec"][0, 0] + log["dec"][1, 1] + log["dec"][2, 2]) / 3
    torch.testing.assert_close(output.loss, (vq + dec) / 2)


@pytest.mark.parametrize("tasks", [["dec"], ["vq", "dec"]])
def test_a_batch_without_any_known_class_has_a_loss_of_zero(tasks):
    model = build(tasks=tasks).train()
    labels = torch.full((4,) if len(tasks) == 1 else (4, 2), -100)
    loss = model(clips(), labels=labels).loss
    loss.backward()
    assert loss == 0 and not model.classifier.weight.grad.any()


def test_every_task_trains_the_trunk(tracer):
    tracer.train()
    for column in range(3):
        labels = torch.full((4, 3), -100)
        labels[:, column] = torch.tensor([0, 1, 2, 0])
        tracer.zero_grad()
        tracer(clips(), labels=labels).loss.backward()
        assert next(tracer.aasist.encoder.parameters()).grad.any()


@pytest.mark.parametrize(("tasks", "shape"), [(["vq", "dec"], (4,)), (["vq", "dec"], (4, 3)), (["vq"], (4, 1))])
def test_labels_of_another_shape_are_refused(tasks, shape):
    with pytest.raises(ValueError, match=rf"must have the shape .* for the tasks {', '.join(tasks)}, got"):
        build(tasks=tasks)(clips(), labels=torch.zeros(shape, dtype=torch.long))


# ---------------------------------------------------------------- configuration


def test_first_task_names_the_classes():
    config = AasistConfig(tasks=["vq", "dec"])
    assert config.task_labels == {"vq": list(TASK_LABELS["vq"]), "dec": list(TASK_LABELS["dec"])}
    assert config.num_labels == 4 and config.label2id["sq"] == 3
    assert AasistConfig().tasks == ["bin"] and AasistConfig().task_labels is None
    assert AasistConfig(tasks=["bin", "vq"]).id2label == {0: "bonafide", 1: "spoof"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": []}, "some of bin, vq, aux, dec"),
        ({"tasks": ["codec"]}, "codec"),
        ({"tasks": ["vq", "vq"]}, "each once"),
        ({"tasks": ["vq"], "task_labels": {"dec": ["bonafide", "time"]}}, "names dec"),
        ({"tasks": ["vq"], "task_labels": {"vq": ["mvq", "bonafide"]}}, "in this order"),
        ({"tasks": ["dec"], "task_labels": {"dec": ["bonafide", "wavelet"]}}, "wavelet"),
        ({"tasks": ["dec"], "task_labels": {"dec": ["bonafide"]}}, "followed by"),
        ({"tasks": ["vq"], "id2label": {0: "bonafide", 1: "spoof"}}, "leave both out"),
        ({"tasks": ["vq"], "num_labels": 2}, "`num_labels` is 2"),
    ],
)
def test_wrong_tasks_name_the_value(fields, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        AasistConfig(**fields)


def test_configuration_round_trips(tmp_path):
    config = tiny_config("mel", **TRACER)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.tasks == config.tasks and loaded.task_labels == config.task_labels
    assert loaded.id2label == {0: "bonafide", 1: "mvq", 2: "svq"}


# ---------------------------------------------------------------- the ecosystem


def test_saved_model_loads_equal_to_the_bit(tracer, tmp_path):
    tracer.save_pretrained(tmp_path)
    loaded, report = AutoModelForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in tracer.state_dict().items())
    bare = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(bare(clips()).embeddings, tracer(clips()).embeddings, atol=1e-5, rtol=0)


def test_loading_does_not_make_another_tracer_of_a_checkpoint(tmp_path):
    build(**TRACER).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="answers vq, aux, dec, in this order, and was asked for dec"):
        AasistForAudioClassification.from_pretrained(tmp_path, tasks=["dec"])


def test_detector_scores_with_the_first_task(tmp_path):
    model = build(tasks=["bin", "vq"])
    model.save_pretrained(tmp_path)
    AasistFeatureExtractor(window_samples=16_000).save_pretrained(tmp_path)
    result = Detector.from_pretrained(tmp_path, device="cpu")(clips(1)[0].numpy(), sampling_rate=16_000)
    with torch.inference_mode():
        logits = model(clips(1)).logits[0]
    assert result.score == pytest.approx((logits[0] - logits[1]).item(), abs=1e-4)


def test_adapters_go_with_several_tasks(tmp_path):
    model = build("wav2vec2", tasks=["bin", "dec"], lora={"r": 2})
    encoder = build("wav2vec2").aasist.frontend.wav2vec2
    encoder.save_pretrained(tmp_path / "encoder")
    model.config.lora.update(
        base_model_name_or_path=str(tmp_path / "encoder"), base_sha256=encoder_digest(encoder.state_dict())
    )
    model.load_base_model()
    model.save_pretrained(tmp_path / "model")
    loaded = AasistForAudioClassification.from_pretrained(tmp_path / "model").eval()
    for task, logits in model(clips()).task_logits.items():
        torch.testing.assert_close(loaded(clips()).task_logits[task], logits, atol=1e-5, rtol=0)


LOAD_WITHOUT_SPOOFTRACE = """
import sys
sys.modules["spooftrace"] = None  # any import of it now fails
import torch
from transformers import AutoModelForAudioClassification
model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.inference_mode():
    output = model(torch.sin(torch.arange(16000) * 0.05)[None])
assert list(output.task_logits) == model.config.tasks == ["vq", "aux", "dec"]
print(*torch.cat(list(output.task_logits.values()), dim=1)[0].tolist())
"""


def test_published_folder_loads_without_spooftrace(tmp_path):
    model = build("mel", **TRACER)
    model.save_pretrained(tmp_path / "tracer")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = warm_python.run("-c", LOAD_WITHOUT_SPOOFTRACE, tmp_path / "tracer", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = model(torch.sin(torch.arange(16_000) * 0.05)[None]).task_logits
    answer = torch.tensor([*map(float, done.stdout.split())])
    torch.testing.assert_close(answer, torch.cat([*expected.values()], dim=1)[0], atol=1e-5, rtol=0)
