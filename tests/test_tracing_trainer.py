"""Training source tracers: which class a row has in each task, what is learned of it, measured, logged and refused."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.metrics import accuracy_score, f1_score
from tracing_jobs import codec_rows, logged, tracer
from training_jobs import NO_DROPOUT, exact, tiny_aasist

from spooftrace.metrics import eer
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers.clips import LabelError
from spooftrace.trainers.tracing_config import TracingConfig
from spooftrace.trainers.tracing_labels import UNKNOWN, count_classes, task_numbers


BEST = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return codec_rows(tmp_path_factory.mktemp("corpus"))


def tasks(*names: str, **overrides):
    return tiny_aasist(tasks=list(names), **NO_DROPOUT, **overrides)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_row_s_classes_are_those_of_its_columns_and_bona_fide_is_class_0_everywhere(rows):
    found = {row["attack_id"]: numbers for row, numbers in zip(rows, task_numbers(rows, TASK_LABELS), strict=True)}
    assert found == {None: [0] * 4, "A01": [1, 1, 1, 1], "A02": [1, 2, 2, 2], "A03": [1, 3, UNKNOWN, UNKNOWN]}
    assert count_classes(rows, "aux") == {"bonafide": 9, "none": 4, "semantic": 4, None: 4}


def test_the_numbers_of_a_dataset_are_read_by_their_names(rows):
    names = {"label": ["spoof", "bonafide"], "vq": ["sq", "svq", "mvq", "bonafide"]}
    features = Features({**{name: ClassLabel(names=each) for name, each in names.items()}, "audio": Value("string")})
    dataset = Dataset.from_list([{name: row[name] for name in features} for row in rows], features=features)
    labels = {task: TASK_LABELS[task] for task in ("bin", "vq")}
    assert task_numbers(dataset, labels) == task_numbers(rows, labels)


def test_a_class_that_the_model_lacks_is_an_error_with_counts_or_masked(rows):
    labels = {"vq": ["bonafide", "mvq", "svq"]}
    with pytest.raises(LabelError, match=r"task 'vq' .*: 'sq' \(4 rows\); .* bonafide, mvq, svq; .*'mask'"):
        task_numbers(rows, labels)
    assert sum(number == [UNKNOWN] for number in task_numbers(rows, labels, "mask")) == 4


def test_a_class_outside_the_taxonomy_is_never_masked(rows):
    with pytest.raises(LabelError, match=r"'rvq' \(1 rows\)"):
        task_numbers([{**rows[-1], "vq": "rvq"}], TASK_LABELS, "mask")


@pytest.mark.parametrize(("label", "vq"), [("bonafide", "mvq"), ("spoof", "bonafide")])
def test_columns_that_contradict_each_other_are_refused(rows, label, vq):
    with pytest.raises(LabelError, match="'vq' and 'label' contradict each other"):
        task_numbers([{**rows[0], "label": label, "vq": vq}], {"vq": TASK_LABELS["vq"]})


def test_rows_without_any_known_class_are_dropped_from_training_and_counted(rows, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    trainer = tracer(tasks("aux", "dec"), tmp_path, rows, rows)
    assert len(trainer.train_dataset) == 17 and len(trainer.eval_dataset) == 21
    assert "4 of 21 training rows are left out: they have no known class of the task aux or dec" in caplog.text
    with pytest.raises(LabelError, match="none of 4 training rows has a known class of the task aux"):
        tracer(tasks("aux"), tmp_path, rows[-4:])
    assert len(tracer(tasks("vq"), tmp_path, rows).train_dataset) == 21


# --- loss ------------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_weighted_mean_over_tasks_of_that_over_known_clips(rows, tmp_path):
    weights = {"dec": {"bonafide": 0.2, "time": 0.4, "frequency": 0.6}}
    trainer = tracer(tasks("vq", "dec"), tmp_path, rows, class_weights=weights, task_weights={"vq": 1, "dec": 3})
    logits, labels = torch.randn(5, 7), torch.tensor([[0, 0], [1, 1], [3, -100], [2, 2], [-100, 0]])
    vq = F.cross_entropy(logits[:, :4], labels[:, 0])
    dec = F.cross_entropy(logits[:, 4:], labels[:, 1], torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(trainer.mean_loss(logits, labels), (vq + 3 * dec) / 4)
    labels[:, 1] = -100
    torch.testing.assert_close(trainer.mean_loss(logits, labels), vq)
    labels[:] = -100
    assert trainer.mean_loss(logits, labels) == 0


def test_accumulated_batches_equal_one_of_all_their_clips_where_classes_are_unknown_too(rows, tmp_path):
    def after(size: int, parts: int):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts, "max_steps": 2}
        model = exact(tasks("bin", "aux"))
        trainer = tracer(model, tmp_path, rows, class_weights="baseline", **settings)
        trainer.train()
        names = ("loss", "aux_loss", "aux_accuracy")
        return dict(model.named_parameters()), [logged(trainer, name) for name in names]

    whole, logs = after(16, 1)
    divided, other_logs = after(4, 4)  # of some of which no `aux` is known
    for name, value in whole.items():
        torch.testing.assert_close(divided[name], value, rtol=1e-6, atol=1e-9, msg=name)
    np.testing.assert_allclose(other_logs, logs, rtol=1e-5)


def test_tasks_share_encoder_and_optimiser_and_every_head_learns(rows, tmp_path):
    model = tasks("bin", "vq", "aux")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = tracer(model, tmp_path, rows, max_steps=3)
    trainer.train()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}
    assert {"classifier.weight", "task_classifiers.vq.weight", "task_classifiers.aux.weight"} <= moved
    assert {"loss", "vq_loss", "vq_accuracy", "bin_loss", "aux_accuracy"} <= set(trainer.state.log_history[0])


def test_published_class_weights_follow_the_model_s_labels(rows, tmp_path):
    known = [row for row in rows if row["vq"] != "sq"]
    model = tasks("bin", "vq", task_labels={"vq": ["bonafide", "svq"]})
    settings = {"unknown_labels": "mask"}
    trainer = tracer(model, tmp_path, known, class_weights="baseline", **settings)
    assert {task: weights.tolist() for task, weights in trainer.class_weights.items()} == {
        "bin": pytest.approx([0.9, 0.1]),
        "vq": pytest.approx([0.1, 0.3]),
    }
    for alike in (None, "equal"):
        trainer = tracer(model, tmp_path, known, class_weights=alike, **settings)
        assert all(weights.tolist() == [1.0, 1.0] for weights in trainer.class_weights.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": "paper"}, "`class_weights` is one of 'sastnet', 'baseline', 'equal'.*got 'paper'"),
        ({"class_weights": {"aux": {}}}, "names the task aux, but the model's are bin, vq"),
        ({"class_weights": {"vq": {"mvq": 1.0}}}, "task 'vq' needs a positive weight for each of bonafide, mvq"),
        ({"class_weights": {"bin": {"bonafide": 0, "spoof": 1}}}, "task 'bin' needs a positive weight"),
        ({"task_weights": {"vq": 1.0}}, "`task_weights` needs a positive weight for each of bin, vq"),
        ({"unknown_labels": "drop"}, "`unknown_labels` is one of 'error', 'mask', got 'drop'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(rows, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        tracer(tasks("bin", "vq"), tmp_path, rows, **settings)


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_the_known_clips_by_task(rows, tmp_path):
    trainer = tracer(tasks("bin", "aux"), tmp_path, None, rows)
    prediction = trainer.predict(rows)
    logits, labels = prediction.predictions, prediction.label_ids
    assert logits.shape == (21, 6) and labels.shape == (21, 2)
    known = labels[:, 1] != UNKNOWN
    truth, guess = labels[known, 1], logits[known, 2:].argmax(1)
    found = {name.removeprefix("test_"): value for name, value in prediction.metrics.items()}
    assert known.sum() == 17
    assert found["aux_accuracy"] == accuracy_score(truth, guess)
    assert found["aux_weighted_f1"] == pytest.approx(f1_score(truth, guess, average="weighted", zero_division=0))
    macro = f1_score(truth, guess, average="macro", labels=range(4), zero_division=0)
    assert found["aux_macro_f1"] == pytest.approx(macro)
    assert found["mean_macro_f1"] == pytest.approx((macro + found["bin_macro_f1"]) / 2)
    scores = logits[:, 0] - logits[:, 1]
    assert found["bin_eer"] == eer(scores[labels[:, 0] == 0], scores[labels[:, 0] == 1]).eer
    losses = [found["bin_loss"], found["aux_loss"]]
    assert found["loss"] == pytest.approx(sum(losses) / 2)
    expected = F.cross_entropy(torch.tensor(logits[known, 2:]).double(), torch.tensor(truth))
    assert losses[1] == pytest.approx(expected.item())
    assert "aux_eer" not in found


def test_one_task_has_bare_names_and_a_set_without_its_classes_no_measure(rows, tmp_path):
    trainer = tracer(tasks("aux"), tmp_path, None, rows)
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_accuracy", "eval_weighted_f1", "eval_macro_f1"} <= set(metrics)
    assert "eval_eer" not in metrics and "eval_aux_loss" not in metrics
    assert "eval_macro_f1" not in trainer.evaluate(rows[-4:])


def test_evaluations_leave_no_clip_out_and_do_not_hang_on_their_batches(rows, tmp_path):
    found = []
    for size in (4, 32):
        settings = {"per_device_eval_batch_size": size, "dataloader_drop_last": True, "class_weights": "sastnet"}
        prediction = tracer(tasks("vq", "dec").eval(), tmp_path, None, **settings).predict(rows)
        assert len(prediction.predictions) == len(rows)
        found.append([prediction.metrics[f"test_{name}"] for name in ("loss", "vq_loss", "dec_macro_f1")])
    np.testing.assert_allclose(found, [found[0]] * 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("names", "given", "kept"),
    [
        (("vq",), "macro_f1", "macro_f1"),
        (("bin",), "eer", "eer"),
        (("vq", "dec"), "macro_f1", "mean_macro_f1"),
        (("vq", "dec"), "dec_weighted_f1", "dec_weighted_f1"),
        (("bin", "dec"), "eval_bin_eer", "eval_bin_eer"),
    ],
)
def test_the_best_metric_is_completed_where_it_is_clear(rows, tmp_path, names, given, kept):
    trainer = tracer(tasks(*names), tmp_path, rows, rows, metric_for_best_model=given, **BEST)
    assert trainer.args.metric_for_best_model == kept
    assert trainer.args.greater_is_better == ("f1" in kept)
    only = tracer(tasks(*names), tmp_path, rows, {"dev": rows}, metric_for_best_model="macro_f1", **BEST)
    assert only.args.metric_for_best_model == ("dev_macro_f1" if len(names) == 1 else "dev_mean_macro_f1")


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (("vq",), "eer", "is one of accuracy, weighted_f1, macro_f1, loss, got 'eer'"),
        (("vq", "dec"), "aux_macro_f1", "is one of vq_accuracy, .*dec_loss, mean_accuracy, .*got 'aux_macro_f1'"),
        (("vq", "aux"), "aux_macro_f1", "'aux_macro_f1' is no measure of a set of 4 clips with 0 known classes"),
        (("bin", "vq"), "bin_eer", "'bin_eer' is no measure of a set of 4 clips with 1 known classes of the task bin"),
    ],
)
def test_a_best_metric_that_will_not_be_there_is_refused_at_once(rows, tmp_path, names, given, message):
    with pytest.raises(ValueError, match=message):
        tracer(tasks(*names), tmp_path, rows, rows[-4:], metric_for_best_model=given, **BEST)


def test_the_best_checkpoint_by_f1_is_kept(rows, tmp_path):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    model = tasks("vq", "dec")
    trainer = tracer(model, tmp_path, rows, rows, load_best_model_at_end=True, **settings)
    trainer.train()
    assert trainer.state.best_metric == max(logged(trainer, "eval_mean_macro_f1"))
    assert trainer.evaluate()["eval_mean_macro_f1"] == trainer.state.best_metric


def test_weights_can_come_as_text(tmp_path):
    args = TracingConfig(str(tmp_path), task_weights='{"vq": 2}', class_weights='{"vq": {"bonafide": 1}}')
    assert args.task_weights == {"vq": 2} and args.class_weights == {"vq": {"bonafide": 1}}
    assert TracingConfig(str(tmp_path), class_weights="sastnet").class_weights == "sastnet"
