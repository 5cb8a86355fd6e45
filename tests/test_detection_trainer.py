"""Empirical risk minimisation: what is learned, kept, logged and refused, and that an interruption changes nothing."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_jobs import (
    NO_DROPOUT,
    At,
    assert_same,
    exact,
    noisy_trainer,
    state_of,
    tiny_aasist,
    tiny_lora,
    trainer_of,
    write_corpus,
)
from transformers import AutoModelForAudioClassification

from spooftrace.metrics import eer
from spooftrace.trainers import resumable_trainer
from spooftrace.trainers.checkpoints import last_checkpoint
from spooftrace.trainers.clips import LabelError
from spooftrace.trainers.detection_config import DetectionConfig
from spooftrace.trainers.detection_trainer import NonFiniteLossError


WEIGHTS = {"bonafide": 0.9, "spoof": 0.1}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, rows) -> dict:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = noisy_trainer("erm", folder, rows)
    trainer.train()
    return {"state": state_of(trainer), "trainer": trainer, "folder": folder}


def parameters_after(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def test_all_trainable_parameters_move_and_no_frozen_one_does(rows, tmp_path):
    model = tiny_lora(tmp_path / "encoder")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    after = parameters_after(trainer_of("erm", model, tmp_path / "out", rows, max_steps=3))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # Weight decay would move it, but nothing reaches it, so that it has no gradient.
    assert moved == {name for name in trainable if ".unused_norm." not in name}
    assert any("lora_A" in name for name in moved) and any("lora_B" in name for name in moved)
    assert any(name.startswith("aasist.backend") for name in moved)


def test_checkpoints_of_adapters_hold_no_encoder_and_the_best_one_is_kept(rows, tmp_path):
    model = tiny_lora(tmp_path / "encoder")
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = trainer_of(
        "erm", model, tmp_path / "out", rows, {"dev": rows[4:14]}, max_steps=4, load_best_model_at_end=True, **settings
    )
    trainer.train()
    history = {entry["step"]: entry["eval_dev_eer"] for entry in trainer.state.log_history if "eval_dev_eer" in entry}
    best = min(history.values())
    step = next(step for step, value in history.items() if value == best)
    folder = tmp_path / "out" / f"checkpoint-{step}"
    assert trainer.state.best_model_checkpoint == str(folder)
    assert trainer.evaluate()["eval_dev_eer"] == best
    names = load_file(folder / "model.safetensors").keys()
    assert not any("wav2vec2" in name and "lora_" not in name for name in names)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    loaded = AutoModelForAudioClassification.from_pretrained(folder)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_accumulated_batches_equal_one_of_all_their_clips(rows, tmp_path, weights):
    def after(size: int, parts: int) -> tuple[dict, list]:
        trainer = trainer_of(
            "erm",
            exact(tiny_aasist(**NO_DROPOUT)),
            tmp_path / f"{size}x{parts}",
            rows,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            class_weights=weights,
            max_steps=2,  # the second one has the 5 clips that are left of 21
        )
        values = parameters_after(trainer)
        return values, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    whole, losses = after(16, 1)
    for size, parts in ((4, 4), (1, 16)):
        divided, other_losses = after(size, parts)
        for name, value in whole.items():
            torch.testing.assert_close(divided[name], value, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(other_losses, losses, rtol=1e-5)


def test_a_step_s_loss_is_the_weighted_mean_of_its_clips(rows, tmp_path):
    trainer = trainer_of("erm", tiny_aasist(**NO_DROPOUT), tmp_path, rows, class_weights=WEIGHTS, max_steps=1)
    logits, labels = torch.tensor([[1.0, 0.0], [0.2, 0.1], [-1.0, 2.0]]), torch.tensor([0, 1, 1])
    losses, weights = trainer.losses(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(losses.sum() / weights.sum(), expected)


def test_labels_can_be_smoothed(rows, tmp_path):
    trainer = trainer_of("erm", tiny_aasist(), tmp_path, rows, label_smoothing_factor=0.2)
    logits, labels = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([0, 1])
    losses, _ = trainer.losses(logits, labels)
    log_p = logits.log_softmax(1)
    expected = -0.9 * log_p[[0, 1], labels] - 0.1 * log_p[[0, 1], 1 - labels]
    torch.testing.assert_close(losses, expected)


def test_the_loss_of_an_evaluation_does_not_depend_on_its_batches(rows, tmp_path):
    model = tiny_aasist().eval()
    losses = []
    for size in (1, 4, 32):
        arguments = {"class_weights": WEIGHTS, "per_device_eval_batch_size": size}
        metrics = trainer_of("erm", model, tmp_path, None, rows, **arguments).evaluate()
        losses.append((metrics["eval_loss"], metrics["eval_eer"], metrics["eval_accuracy"]))
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=1e-6)


def test_eer_is_that_of_the_scores(rows, tmp_path):
    trainer = trainer_of("erm", tiny_aasist(), tmp_path, None, rows)
    prediction = trainer.predict(rows)  # raw rows, as any Trainer takes them
    scores = prediction.predictions[:, 0] - prediction.predictions[:, 1]
    genuine = prediction.label_ids == 0
    assert prediction.metrics["test_eer"] == eer(scores[genuine], scores[~genuine]).eer


def test_several_sets_have_keys_of_their_own_and_one_has_to_be_named(rows, tmp_path):
    sets = {"dev": rows[2:16], "genuine": rows[:5]}
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    with pytest.raises(ValueError, match="is one of dev_eer, dev_loss, dev_accuracy, genuine_eer, .*got 'eer'"):
        trainer_of("erm", tiny_aasist(), tmp_path, rows, sets, **best)
    with pytest.raises(ValueError, match="'genuine_eer' is no measure of a set with one label alone .5 clips"):
        trainer_of("erm", tiny_aasist(), tmp_path, rows, sets, metric_for_best_model="genuine_eer", **best)
    trainer = trainer_of("erm", tiny_aasist(), tmp_path, rows, sets, metric_for_best_model="eval_dev_eer", **best)
    trainer.args.max_steps = 2
    trainer.train()
    keys = set().union(*trainer.state.log_history)
    assert {"eval_dev_eer", "eval_dev_loss", "eval_genuine_accuracy", "eval_genuine_loss"} <= keys
    assert "eval_genuine_eer" not in keys
    assert trainer.state.best_metric is not None
    only = trainer_of("erm", tiny_aasist(), tmp_path, rows, {"dev": rows}, **best)
    assert only.args.metric_for_best_model == "dev_eer"


def test_training_ends_when_nothing_gets_better(rows, tmp_path):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    trainer = trainer_of(
        "erm",
        tiny_aasist(),
        tmp_path,
        rows,
        rows[5:12],
        learning_rate=0.0,  # but for the statistics of batch normalisation, which the loss would follow
        max_steps=50,
        early_stopping_patience=3,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        load_best_model_at_end=True,
        **settings,
    )
    trainer.train()
    history = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    best = int(np.argmax(history))
    assert len(history) == best + 4 < 50


def test_what_is_logged(uninterrupted):
    history = uninterrupted["trainer"].state.log_history
    assert {"loss", "learning_rate", "grad_norm", "epoch"} <= set(history[0])
    assert any("eval_eer" in entry for entry in history)


@pytest.mark.parametrize("mixed", [False, True])
def test_mixed_precision_leaves_the_parameters_in_float32(rows, tmp_path, mixed):
    seen = []
    model = tiny_aasist(**NO_DROPOUT)
    model.classifier.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    trainer = trainer_of("erm", model, tmp_path, rows, bf16=mixed, max_steps=2)
    after = parameters_after(trainer)
    assert set(seen) == {torch.bfloat16 if mixed else torch.float32}
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in after.values())


def test_activation_checkpointing_changes_nothing(rows, tmp_path):
    """Not even the running statistics, although parts of each pass run twice."""
    states = []
    for checkpointed in (False, True):
        trainer = trainer_of("erm", tiny_aasist(), tmp_path, rows, activation_checkpointing=checkpointed, max_steps=3)
        trainer.train()
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)


def test_a_loss_that_is_not_a_number_ends_training_with_the_clips_named(rows, tmp_path):
    model = tiny_aasist()
    trainer = trainer_of("erm", model, tmp_path, rows, max_steps=6)
    trainer.add_callback(At(2, lambda: model.classifier.bias.data.fill_(float("nan"))))
    batches = []
    loss = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **kwargs: batches.append(inputs) or loss(model, inputs, **kwargs)
    with pytest.raises(NonFiniteLossError, match="at step 2; .*non_finite_loss_process_0.json"):
        trainer.train()
    record = json.loads((tmp_path / "non_finite_loss_process_0.json").read_text())
    assert record == {"step": 2, "loss": "nan", "utterance_ids": batches[-1]["utterance_id"]}
    assert len(record["utterance_ids"]) == 4 and len(batches) == 3


def test_bad_input_is_refused_before_the_first_step(rows, tmp_path):
    with pytest.raises(LabelError, match=r"'fake' \(1 rows\)"):
        trainer_of("erm", tiny_aasist(), tmp_path, [*rows, {**rows[0], "label": "fake"}])
    with pytest.raises(ValueError, match="positive weight for each of bonafide, spoof"):
        trainer_of("erm", tiny_aasist(), tmp_path, rows, class_weights={"spoof": 1.0})
    with pytest.raises(ValueError, match="`crop` is one of 'random', 'start', got 'middle'"):
        DetectionConfig(str(tmp_path), crop="middle")
    with pytest.raises(ValueError, match="a schedule of its own"):
        DetectionConfig(str(tmp_path), cycle_steps=10, lr_scheduler_type="linear")
    with pytest.raises(ValueError, match="lies between 0 and `learning_rate`"):
        DetectionConfig(str(tmp_path), cycle_steps=10, minimum_learning_rate=1.0)


def test_class_weights_can_come_as_text(tmp_path):
    assert DetectionConfig(str(tmp_path), class_weights='{"bonafide": 0.9, "spoof": 0.1}').class_weights == WEIGHTS


def test_the_cycle_of_the_learning_rate(rows, tmp_path):
    settings = {"cycle_steps": 4, "minimum_learning_rate": 1e-4, "max_steps": 6}
    trainer = trainer_of("erm", tiny_aasist(), tmp_path, rows, per_device_train_batch_size=7, **settings)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    np.testing.assert_allclose(rates, [1e-4, 5.5e-4, 1e-3, 5.5e-4, 1e-4, 5.5e-4])


def interrupted(rows, folder, step: int, **overrides):
    trainer, before = noisy_trainer("erm", folder, rows, **overrides), signal.getsignal(signal.SIGINT)
    trainer.add_callback(At(step, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt, match=f"after step {step + 1}; a checkpoint lies in"):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is before
    return last_checkpoint(folder)


# Where a checkpoint is due, between two, and at the end of an epoch of three steps.
@pytest.mark.parametrize(("step", "workers"), [(3, 0), (4, 1), (2, 0)])
def test_ctrl_c_leaves_a_checkpoint_from_which_training_goes_on_to_the_bit(
    rows, tmp_path, uninterrupted, step, workers
):
    checkpoint = interrupted(rows, tmp_path, step)
    assert checkpoint.name == f"checkpoint-{step + 1}"
    trainer = noisy_trainer("erm", tmp_path, rows, workers)
    trainer.train(resume_from_checkpoint=True)
    assert_same(state_of(trainer), uninterrupted["state"])


def test_an_interruption_at_the_end_of_an_epoch_comes_after_its_evaluation(rows, tmp_path):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    whole = noisy_trainer("erm", tmp_path / "whole", rows, **settings)
    whole.train()
    interrupted(rows, tmp_path / "parts", 2, **settings)
    trainer = noisy_trainer("erm", tmp_path / "parts", rows, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert_same(state_of(trainer), state_of(whole))
    rates = [
        [entry["eval_eer"] for entry in each.state.log_history if "eval_eer" in entry] for each in (whole, trainer)
    ]
    assert rates[0] == rates[1] and len(rates[0]) == 3


def test_a_resumed_run_counts_on_where_early_stopping_was(rows, tmp_path):
    settings = {"learning_rate": 0.0, "early_stopping_patience": 3, "eval_steps": 1, "save_steps": 1, "max_steps": 40}
    settings |= {"metric_for_best_model": "accuracy", "greater_is_better": True}
    whole = noisy_trainer("erm", tmp_path / "whole", rows, **settings)
    whole.train()
    interrupted(rows, tmp_path / "parts", whole.state.global_step - 2, **settings)
    trainer = noisy_trainer("erm", tmp_path / "parts", rows, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == whole.state.global_step < 40
    trainer = noisy_trainer("erm", tmp_path / "parts", rows, **settings)
    trainer.train(resume_from_checkpoint=True)  # of a run that has given up
    assert trainer.state.global_step == whole.state.global_step
    patient = noisy_trainer("erm", tmp_path / "parts", rows, **settings | {"early_stopping_patience": 5})
    patient.train(resume_from_checkpoint=True)
    assert patient.state.global_step == whole.state.global_step + 2


def test_a_run_that_has_ended_makes_no_further_step_when_it_is_resumed(rows, tmp_path):
    states = []
    for resume in (False, True):
        trainer = noisy_trainer("erm", tmp_path, rows, max_steps=4)  # in the midst of an epoch
        trainer.train(resume_from_checkpoint=resume)
        states.append(state_of(trainer))
    assert_same(*states)


def test_the_first_ctrl_c_is_a_wish_its_echo_nothing_and_a_later_one_an_order(monkeypatch):
    interruption = resumable_trainer.Interruption()
    with interruption:
        assert not interruption.is_wished(torch.device("cpu"))
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # as a launcher passes it on
        assert interruption.is_wished(torch.device("cpu"))
        monkeypatch.setattr(resumable_trainer, "ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with interruption:  # the next run
        assert not interruption.is_wished(torch.device("cpu"))


def test_a_checkpoint_that_was_cut_short_is_passed_over(rows, tmp_path, uninterrupted):
    interrupted(rows, tmp_path, 5)
    broken = tmp_path / "checkpoint-7"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"cut sh")
    assert last_checkpoint(tmp_path).name == "checkpoint-6"
    (broken / "trainer_state.json").write_text('{"global_step": 7, "log_hi')
    assert last_checkpoint(tmp_path).name == "checkpoint-6"
    trainer = noisy_trainer("erm", tmp_path, rows)
    trainer.train(resume_from_checkpoint=True)
    assert_same(state_of(trainer), uninterrupted["state"])


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(rows, tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        noisy_trainer("erm", tmp_path, rows).train(resume_from_checkpoint=True)


def test_evaluations_leave_the_randomness_of_training_alone(rows, tmp_path, uninterrupted):
    trainer = noisy_trainer(
        "erm", tmp_path, rows, eval_strategy="no", save_strategy="no", load_best_model_at_end=False
    )
    trainer.train()
    moments = [value for state in trainer.optimizer.state_dict()["state"].values() for value in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, uninterrupted["state"]["optimizer"], strict=True))


@pytest.mark.parametrize(
    ("metric", "greater"), [("eer", False), ("dev_eer", False), ("loss", False), ("accuracy", True)]
)
def test_the_better_direction_follows_from_the_metric(tmp_path, metric, greater):
    assert DetectionConfig(str(tmp_path), metric_for_best_model=metric, use_cpu=True).greater_is_better is greater


def test_adapters_are_not_resumed_on_another_encoder(rows, tmp_path):
    trainer_of(
        "erm",
        tiny_lora(tmp_path / "encoder"),
        tmp_path / "out",
        rows,
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
    ).train()
    other = tiny_lora(tmp_path / "encoder")
    other.config.lora = {**other.config.lora, "base_sha256": "0" * 64}
    resumed = trainer_of("erm", other, tmp_path / "out", rows, max_steps=2)
    with pytest.raises(ValueError, match="trained on another encoder"):
        resumed.train(resume_from_checkpoint=True)
