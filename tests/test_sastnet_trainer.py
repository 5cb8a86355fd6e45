"""Training SASTNet: both losses whatever their batches, the learned weights, the schedule, the cache, and resumption."""

import math
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tracing_jobs import SILENT, codec_rows, logged, tiny_net, tracer
from training_jobs import At, assert_same, exact, state_of, tiny_aasist

from spooftrace.modeling import SASTNetForAudioClassification
from spooftrace.modeling.source_tasks import SASTNET_CLASS_WEIGHTS
from spooftrace.trainers.sastnet_config import SASTNetTrainingConfig
from spooftrace.trainers.sastnet_trainer import SASTNetTrainer, cosine_by_epoch


QUIET = {**SILENT, "fusion_dropout": 0.0}
MEL = {"frontend": "mel", "use_semantics": False, "task": "dec"}  # the quickest member of the family


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return codec_rows(tmp_path_factory.mktemp("corpus"))


# --- loss ------------------------------------------------------------------------------------------------------------


def test_a_batch_s_loss_is_the_model_s_own(rows, tmp_path):
    model = tiny_net(task="vq", **QUIET)
    model.loss_weights.data = torch.tensor([0.8, 1.3])
    trainer = tracer(model, tmp_path, rows)
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    model.train()
    torch.manual_seed(3)
    expected = model(input_values=inputs["input_values"], labels=inputs["labels"][:, 0])
    torch.manual_seed(3)
    loss = trainer.compute_loss(model, inputs)
    torch.testing.assert_close(loss, expected.loss)
    reconstruction, classification = expected.reconstruction_loss, expected.classification_loss
    by_hand = 0.5 * (reconstruction / 0.64 + classification / 1.69) + math.log(1.64) + math.log(2.69)
    torch.testing.assert_close(loss, by_hand)


def test_accumulated_batches_equal_one_of_all_their_clips(rows, tmp_path):
    def after(size: int, parts: int):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts, "max_steps": 2}
        model = exact(tiny_net(mask_ratio=0.0, **MEL, **QUIET))  # masks are drawn batch by batch
        trainer = tracer(model, tmp_path, rows, rawboost=0, dataloader_drop_last=False, **settings)
        trainer.train()
        names = ("loss", "reconstruction_loss", "classification_loss", "classification_weight")
        return dict(model.named_parameters()), [logged(trainer, name)[:1] for name in names]

    whole, logs = after(16, 1)
    divided, other_logs = after(4, 4)  # the second step has the one clip that is left of 17
    for name, value in whole.items():
        torch.testing.assert_close(divided[name], value, rtol=1e-6, atol=1e-9, msg=name)
    np.testing.assert_allclose(other_logs[:2], logs[:2], rtol=1e-5)
    assert not torch.equal(whole["loss_weights"], torch.ones(2))


def test_whisper_stays_and_all_that_reaches_the_loss_moves(rows, tmp_path):
    model = tiny_net(task="vq")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tracer(model, tmp_path, rows, max_steps=2).train()
    still = {name for name, parameter in model.named_parameters() if torch.equal(before[name], parameter)}
    frozen = {name for name in before if name.startswith("sastnet.semantics.")}
    assert frozen and frozen <= still
    assert {"loss_weights", "sastnet.mae.decoders.3.mask_token", "sastnet.feature_projection.weight"} & still == set()


def test_the_class_weights_are_the_model_s_unless_others_are_given(rows, tmp_path):
    model = tiny_net(**MEL)
    trainer = tracer(model, tmp_path, rows)
    assert trainer.class_weights["dec"].tolist() == pytest.approx(SASTNET_CLASS_WEIGHTS["dec"])
    tracer(model, tmp_path, rows, class_weights="equal")
    assert model.config.class_weights == [1.0, 1.0, 1.0]  # what the checkpoint was trained with
    logits, labels = torch.randn(3, 3), torch.tensor([[0], [2], [1]])
    expected = F.cross_entropy(logits, labels[:, 0], torch.tensor([0.2, 0.4, 0.4]))
    torch.testing.assert_close(trainer.mean_loss(logits, labels), expected)


def test_both_losses_and_their_weights_are_logged(rows, tmp_path):
    trainer = tracer(tiny_net(**MEL), tmp_path, rows, max_steps=2)
    trainer.train()
    names = {f"{part}_{kind}" for part in ("reconstruction", "classification") for kind in ("loss", "weight")}
    assert names | {"loss", "accuracy"} <= set(trainer.state.log_history[0])
    first, second = logged(trainer, "reconstruction_weight")
    assert first == 1.0 != second


def test_evaluation_is_the_plain_deterministic_forward_pass(rows, tmp_path):
    model = tiny_net(task="vq")
    trainer = tracer(model, tmp_path, None, rows)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(trainer.predict(rows))
    np.testing.assert_array_equal(found[0].predictions, found[1].predictions)
    model.eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(trainer.eval_dataset[3]["input_values"])[None]).logits
    np.testing.assert_allclose(found[0].predictions[3:4], expected, rtol=1e-4, atol=1e-5)
    assert found[0].metrics["test_loss"] > 0


# --- optimiser and schedule ------------------------------------------------------------------------------------------


def test_the_learned_weights_have_a_rate_of_their_own_and_no_decay(rows, tmp_path):
    trainer = tracer(tiny_net(**MEL), tmp_path, rows, learning_rate=5e-6)
    main, own = trainer.create_optimizer().param_groups
    assert [parameter.shape for parameter in own["params"]] == [(2,)]
    assert (own["lr"], own["weight_decay"]) == (1e-3, 0.0)
    assert (main["lr"], main["weight_decay"]) == (5e-6, 1e-4)
    assert len(main["params"]) + 1 == sum(parameter.requires_grad for parameter in trainer.model.parameters())


# 17 clips: two whole steps to an epoch.
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_train_epochs": 3, "max_steps": -1}, [1, 1, 0.75, 0.75, 0.25, 0.25]),
        ({"max_steps": 3}, [1, 1, 0.5]),
        ({"max_steps": 4, "cosine_step": "step"}, [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]),
    ],
)
def test_both_rates_follow_the_cosine(rows, tmp_path, settings, expected):
    seen = []
    trainer = tracer(tiny_net(**MEL), tmp_path, rows, learning_rate=1e-4, logging_strategy="no", **settings)
    for step in range(len(expected)):
        trainer.add_callback(At(step, lambda: seen.append([group["lr"] for group in trainer.optimizer.param_groups])))
    trainer.train()
    np.testing.assert_allclose(seen, [[1e-4 * factor, 1e-3 * factor] for factor in expected])


def test_the_published_schedule_ends_at_nothing():
    assert cosine_by_epoch(0, 40, 7160) == 1.0
    assert cosine_by_epoch(7159, 40, 7160) == 1.0 > cosine_by_epoch(7160, 40, 7160)
    assert cosine_by_epoch(40 * 7160, 40, 7160) == 0.0 < cosine_by_epoch(40 * 7160 - 1, 40, 7160)


def test_the_defaults_are_the_published_recipe(tmp_path):
    args = SASTNetTrainingConfig(str(tmp_path), use_cpu=True)
    found = {name: getattr(args, name) for name in ("learning_rate", "weight_decay", "num_train_epochs", "seed")}
    assert found == {"learning_rate": 5e-6, "weight_decay": 1e-4, "num_train_epochs": 40, "seed": 1234}
    assert (args.per_device_train_batch_size, args.num_samples, args.crop, args.rawboost) == (12, 82_200, "start", 5)
    assert (args.max_grad_norm, args.dataloader_drop_last, args.bf16) == (0.0, True, False) and "adamw" in args.optim


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 82_200}, "`num_samples` lies between .* and 16400 for this model, got 82200"),
        ({"num_samples": 500}, "`num_samples` lies between"),
        ({"cosine_step": "batch"}, "`cosine_step` is one of 'epoch', 'step', got 'batch'"),
        ({"warmup_steps": 5}, "`cosine_step='epoch'` begins at the full learning rate"),
        ({"loss_weights_learning_rate": -1.0}, "`loss_weights_learning_rate` is at least 0, got -1.0"),
        ({"feature_cache_bytes": 0}, "`feature_cache_bytes` is at least 1, got 0"),
        ({"cycle_steps": 10}, "a schedule of its own"),
    ],
)
def test_settings_that_do_not_fit_are_refused(rows, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        tracer(tiny_net(**MEL), tmp_path, rows, **settings)


def test_a_model_of_another_family_is_refused(tmp_path):
    with pytest.raises(TypeError, match="got AasistForAudioClassification: use TracingTrainer"):
        SASTNetTrainer(tiny_aasist(), SASTNetTrainingConfig(str(tmp_path), use_cpu=True))


# --- frozen features -------------------------------------------------------------------------------------------------


def test_kept_features_spare_the_encoder_and_change_nothing(rows, tmp_path):
    calls = []
    model = tiny_net(task="vq", use_semantics=True)
    model.sastnet.semantics.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    plain = tracer(model, tmp_path / "plain", None, rows).predict(rows)
    assert sum(calls) == len(rows)
    settings = {"feature_cache": str(tmp_path / "cache"), "per_device_eval_batch_size": 4}
    predictions = []
    for _ in range(2):
        calls.clear()
        trainer = tracer(model, tmp_path / "cached", None, rows, **settings)
        predictions.append(trainer.predict(rows).predictions)
    assert not calls and (trainer.feature_cache.found, trainer.feature_cache.computed) == (len(rows), 0)
    np.testing.assert_allclose(predictions[0], plain.predictions, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(*predictions)


def test_another_encoder_has_entries_of_its_own(rows, tmp_path):
    settings = {"feature_cache": str(tmp_path / "cache")}
    tracer(tiny_net(task="vq"), tmp_path, None, rows[:3], **settings).predict(rows[:3])
    other = tiny_net(task="vq")
    next(other.sastnet.semantics.encoder.parameters()).data.add_(0.1)
    for model in (other, tiny_net(task="vq", semantic_frames=40)):
        trainer = tracer(model, tmp_path, None, rows[:3], **settings)
        trainer.predict(rows[:3])
        assert trainer.feature_cache.computed == 3


def test_what_another_version_computed_is_not_taken(rows, tmp_path, monkeypatch):
    settings, computed = {"feature_cache": str(tmp_path / "cache")}, []
    for version in ("1", "1", "2"):
        monkeypatch.setattr("transformers.__version__", version)
        trainer = tracer(tiny_net(task="vq"), tmp_path, None, rows[:3], **settings)
        trainer.predict(rows[:3])
        computed.append(trainer.feature_cache.computed)
    assert computed == [3, 0, 3]


def test_features_are_those_of_the_encoder_that_a_checkpoint_brings(rows, tmp_path):
    model = tiny_net(task="vq")
    model.save_pretrained(tmp_path / "checkpoint")
    next(model.sastnet.semantics.encoder.parameters()).data.add_(0.1)
    trainer = tracer(model, tmp_path, None, rows[:3], feature_cache=str(tmp_path / "cache"))
    before = trainer.predict(rows[:3]).predictions
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint"))
    after = trainer.predict(rows[:3]).predictions
    assert trainer.feature_cache.found == 0 and not np.array_equal(before, after)


def test_clips_that_are_augmented_anew_are_not_kept(rows, tmp_path):
    trainer = tracer(tiny_net(task="vq"), tmp_path, rows, feature_cache=str(tmp_path / "cache"), max_steps=1)
    trainer.train()
    assert trainer.args.rawboost == 5 and not list((tmp_path / "cache").glob("*/*"))


def test_training_without_augmentation_finds_its_clips_again(rows, tmp_path):
    model = tiny_net(task="vq")
    trainer = tracer(model, tmp_path, rows, feature_cache=str(tmp_path / "cache"), rawboost=0, max_steps=6)
    trainer.train()  # two epochs
    assert trainer.feature_cache.computed == 21 == trainer.feature_cache.found


# --- resumption ------------------------------------------------------------------------------------------------------


def noisy(folder, rows, **overrides) -> SASTNetTrainer:
    """Masks, dropout, RawBoost; three steps to an epoch, with evaluations and checkpoints in their midst."""
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 5}
    settings |= {"load_best_model_at_end": True, "num_train_epochs": 3, "num_samples": 4_000, **overrides}
    return tracer(tiny_net(**{**MEL, "task": "vq"}), folder, rows, rows[::3], **settings)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, rows) -> dict:
    trainer = noisy(tmp_path_factory.mktemp("whole"), rows)
    trainer.train()
    return state_of(trainer)


class KilledError(Exception):
    """Ends a run at once, without a checkpoint."""


def killed():
    raise KilledError


@pytest.mark.parametrize(("step", "stop", "error"), [(2, "signal", KeyboardInterrupt), (3, "kill", KilledError)])
def test_an_interrupted_run_ends_as_one_that_was_not_to_the_bit(rows, tmp_path, uninterrupted, step, stop, error):
    trainer = noisy(tmp_path, rows)
    trainer.add_callback(At(step, killed if stop == "kill" else lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(error):
        trainer.train()
    resumed = noisy(tmp_path, rows)
    resumed.train(resume_from_checkpoint=True)
    assert_same(state_of(resumed), uninterrupted)
    assert not torch.equal(uninterrupted["model"]["loss_weights"], torch.ones(2))


def test_the_learned_weights_are_saved_with_the_model(rows, tmp_path):
    model = tiny_net(**MEL)
    trainer = tracer(model, tmp_path, rows, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    loaded = SASTNetForAudioClassification.from_pretrained(tmp_path / "checkpoint-2")
    assert torch.equal(loaded.loss_weights, model.loss_weights)
