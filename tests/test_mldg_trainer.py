"""Meta-learning as a Trainer: each step equals one written out by hand, and domains that cannot be trained on are named."""

import copy
import json
import os
import signal

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from training_jobs import (
    ATTACKS,
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

from spooftrace.trainers import mldg_trainer
from spooftrace.trainers.batch_norm import BatchNormStatistics
from spooftrace.trainers.clips import collate
from spooftrace.trainers.detection_trainer import NonFiniteLossError
from spooftrace.trainers.mldg import meta_step
from spooftrace.trainers.mldg_config import MLDGConfig
from spooftrace.trainers.mldg_trainer import domains_of
from spooftrace.trainers.samplers import DomainError


INNER_RATE, BETA = 0.01, 0.5


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def splits(monkeypatch) -> list:
    """Every split of the domains that training draws."""
    drawn, split_domains = [], mldg_trainer.split_domains

    def recorded(*args):
        drawn.append(split_domains(*args))
        return drawn[-1]

    monkeypatch.setattr(mldg_trainer, "split_domains", recorded)
    return drawn


def batches_of(trainer, number: int) -> list[dict]:
    """The first batches of the first epoch."""
    sampler = trainer._domain_sampler()
    return [collate([trainer.train_dataset[draw] for draw in batch]) for batch, _ in zip(sampler, range(number))]  # noqa: B905


def meta_gradients(model, batch, split, weights=(1.0, 1.0)) -> tuple[dict, torch.nn.Module, torch.nn.Module]:
    """Written out with copies of the whole model: gradients, the model after its first pass, the adapted one after both."""

    def mean_over_domains(network, domains):
        mine = [place for place, domain in enumerate(batch["domain"].tolist()) if domain in domains.tolist()]
        logits, total = network(input_values=batch["input_values"][mine]).logits, 0.0
        for domain in domains.tolist():
            places = [place for place, index in enumerate(mine) if batch["domain"][index] == domain]
            of_clips = [F.cross_entropy(logits[place], batch["labels"][mine[place]]) for place in places]
            shares = [weights[int(batch["labels"][mine[place]])] for place in places]
            total = total + sum(a * b for a, b in zip(of_clips, shares, strict=True)) / sum(shares)
        return total / len(domains)

    first = copy.deepcopy(model)
    first.zero_grad()
    mean_over_domains(first, split[0]).backward()
    adapted = copy.deepcopy(first)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    for mine, theirs in zip(adapted.parameters(), first.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    torch.optim.Adam(trained, lr=INNER_RATE).step()
    adapted.zero_grad()
    mean_over_domains(adapted, split[1]).backward()
    pairs = zip(first.named_parameters(), adapted.parameters(), strict=True)
    sums = {
        name: torch.zeros_like(p) if p.grad is None else p.grad + BETA * q.grad
        for (name, p), q in pairs
        if p.requires_grad
    }
    return sums, first, adapted


@pytest.mark.parametrize(("parts", "class_weights"), [(1, None), (2, {"bonafide": 0.9, "spoof": 0.1})])
def test_training_equals_what_is_written_out_by_hand(rows, tmp_path, splits, parts, class_weights):
    """Steps of AdamW under the cycle of the learning rate, three of one meta-step, two of two."""
    steps = 4 - parts
    model = exact(tiny_aasist(**NO_DROPOUT))
    reference = copy.deepcopy(model)
    trainer = trainer_of(
        "mldg",
        model,
        tmp_path,
        rows,
        max_steps=steps,
        beta=BETA,
        inner_learning_rate=INNER_RATE,
        batch_norm="frozen",
        gradient_accumulation_steps=parts,
        class_weights=class_weights,
        balance_labels=parts == 1,
        learning_rate=1e-3,
        minimum_learning_rate=1e-4,
        cycle_steps=4,
        weight_decay=0.1,
        max_grad_norm=0.5,
    )
    decayed = set(trainer.get_decay_parameter_names(model))
    batches = batches_of(trainer, steps * parts)
    trainer.train()
    named = dict(reference.named_parameters())
    groups = [
        {"params": [p for name, p in named.items() if name in decayed], "weight_decay": 0.1},
        {"params": [p for name, p in named.items() if name not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    weights = (0.9, 0.1) if class_weights else (1.0, 1.0)
    assert len(splits) == steps * parts
    cycle = (1e-4, 5.5e-4, 1e-3)[:steps]
    for step, rate in enumerate(cycle):
        places = range(step * parts, (step + 1) * parts)
        found = [meta_gradients(reference, batches[place], splits[place], weights)[0] for place in places]
        for name, parameter in named.items():
            parameter.grad = sum(gradients[name] for gradients in found) / parts
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter, named[name], rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    np.testing.assert_allclose(rates, cycle)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("policy", ["frozen", "meta-train", "both"])
def test_running_statistics_move_by_the_passes_that_the_policy_names(rows, tmp_path, splits, policy, checkpointed):
    model = exact(tiny_aasist(**NO_DROPOUT), frozen_statistics=False).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    plain = copy.deepcopy(model)
    settings = {"batch_norm": policy, "activation_checkpointing": checkpointed, "inner_learning_rate": INNER_RATE}
    trainer = trainer_of("mldg", model, tmp_path, rows, max_steps=1, beta=BETA, **settings)
    trainer.train()
    if policy == "frozen":
        for layer in plain.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()
    _, first, adapted = meta_gradients(plain, batches_of(trainer, 1)[0], splits[0])
    expected = dict((adapted if policy == "both" else first).named_buffers())
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, expected[name], msg=name)
    moved = [name for name in before if not torch.equal(before[name], expected[name])]
    assert bool(moved) == (policy != "frozen")
    log = trainer.state.log_history[0]
    logits = plain(input_values=batches_of(trainer, 1)[0]["input_values"]).logits.detach()  # of all domains at once
    if policy == "frozen":  # where normalisation does not hang on the company in the batch
        batch, domain = batches_of(trainer, 1)[0], int(splits[0][0][0])
        mine = batch["domain"] == domain
        loss = F.cross_entropy(logits[mine], batch["labels"][mine])
        assert log[f"domain_loss/{ATTACKS[domain]}"] == pytest.approx(float(loss), rel=1e-6)


def test_all_trainable_parameters_move_and_no_frozen_one_does(rows, tmp_path):
    model = tiny_lora(tmp_path / "encoder")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer_of("mldg", model, tmp_path / "out", rows, max_steps=3).train()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        # What nothing reaches has a gradient of zero here, so that weight decay moves it, but for vectors.
        if ".unused_norm." not in name:
            assert moved == parameter.requires_grad, name


def test_what_is_logged(rows, tmp_path, splits):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "logging_steps": 2, "max_steps": 2, "beta": BETA}
    settings["metric_for_best_model"] = "dev_eer"
    trainer = trainer_of("mldg", tiny_aasist(), tmp_path, rows, {"dev": rows, "other": rows[3:12]}, **settings)
    trainer.train()
    first = trainer.state.log_history[0]
    assert {f"domain_loss/{attack}" for attack in ATTACKS} | {"meta_train_loss", "meta_test_loss"} <= set(first)
    assert first["loss"] == pytest.approx(first["meta_train_loss"] + BETA * first["meta_test_loss"], rel=1e-5)
    mean = np.mean([first[f"domain_loss/{attack}"] for attack in ATTACKS])
    # Two domains in three are in the meta-train loss of each step.
    assert mean == pytest.approx((2 * first["meta_train_loss"] + first["meta_test_loss"]) / 3, rel=1e-5)
    assert {"learning_rate", "grad_norm", "epoch"} <= set(first)
    found = set().union(*trainer.state.log_history)
    assert {"eval_dev_eer", "eval_other_eer", "eval_dev_loss", "eval_other_loss"} <= found


def test_bf16_is_used_and_the_parameters_stay_in_float32(rows, tmp_path):
    seen, model = set(), tiny_aasist()
    model.classifier.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    trainer_of("mldg", model, tmp_path, rows, bf16=True, max_steps=2).train()
    assert seen == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


def test_a_loss_that_is_not_a_number_ends_training_with_the_clips_named(rows, tmp_path):
    model = tiny_aasist()
    trainer = trainer_of("mldg", model, tmp_path, rows, max_steps=4)
    trainer.add_callback(At(1, lambda: model.classifier.bias.data.fill_(float("inf"))))
    with pytest.raises(NonFiniteLossError, match="at step 1; .*non_finite_loss_process_0.json"):
        trainer.train()
    record = json.loads((tmp_path / "non_finite_loss_process_0.json").read_text())
    second = batches_of(trainer, 2)[1]
    assert record["step"] == 1 and record["utterance_ids"] == second["utterance_id"]


def test_too_large_a_loss_scale_is_left_to_the_scaler():
    """It shows in the gradients, for which the scaler skips the step, and not in the meta-test loss."""
    model = torch.nn.Linear(3, 2)
    inputs, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])

    def losses(domains):
        return torch.stack([F.cross_entropy(model(inputs[d : d + 2]), labels[d : d + 2]) for d in domains])

    split = torch.tensor([0, 1]), torch.tensor([2])
    step = meta_step(list(model.parameters()), losses, split, scale=lambda loss: loss * 1e30 * 1e30)
    assert step.test_loss.isfinite() and not model.weight.grad.isfinite().all()


def refusal(rows, tmp_path, **overrides) -> str:
    with pytest.raises(DomainError) as caught:
        trainer_of("mldg", tiny_aasist(), tmp_path, rows, **overrides)
    return str(caught.value)


def test_domains_that_cannot_be_trained_on_are_refused_with_their_counts(rows, tmp_path):
    one = [row for row in rows if row["attack_id"] in (None, "A01")]
    assert "none of 1 to train on ('A01': 13 clips)" in refusal(one, tmp_path)
    assert "none of 3 to train on ('A01': 7 clips" in refusal(rows, tmp_path, num_meta_test_domains=3)
    assert "3 clips of a domain cannot hold its 2 labels alike" in refusal(rows, tmp_path, clips_per_domain=3)
    own = [{**row, "own": row["attack_id"] or "studio"} for row in rows]
    text = refusal(own, tmp_path, domain_column="own")
    assert text.startswith("every domain needs clips of both labels: A01: 0 bonafide, 4 spoof;")
    assert "studio: 9 bonafide, 0 spoof" in text
    nameless = [{**row, "attack_id": None} if row["label"] == "spoof" else row for row in rows[:15]]
    assert "6 spoofs of 15 rows have no 'attack_id'" in refusal(nameless, tmp_path)
    with pytest.raises(KeyError, match="21 of 21 rows have no 'room'; there are attack_id, audio"):
        trainer_of("mldg", tiny_aasist(), tmp_path, rows, domain_column="room")


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"inner_optimizer": "lion"}, "`inner_optimizer` is one of 'adam', 'sgd', got 'lion'"),
        ({"batch_norm": "none"}, "`batch_norm` is one of 'meta-train', 'both', 'frozen'"),
        ({"beta": -1.0}, "`beta` and `inner_learning_rate` are at least 0"),
        ({"num_meta_test_domains": 0}, "at least 1, got 0 and 4"),
        ({"cycle_steps": 1}, "`cycle_steps` is at least 2"),
        ({"learning_rate": 1e-8}, "lies between 0 and `learning_rate`"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, setting, text):
    with pytest.raises(ValueError, match=text):
        MLDGConfig(str(tmp_path), **setting)


def test_bona_fide_clips_are_dealt_to_the_domains_alike_whatever_the_order(rows):
    domains = domains_of(rows, "attack_id", seed=1)
    genuine = [domain for domain, row in zip(domains, rows, strict=True) if row["label"] == "bonafide"]
    assert sorted(genuine) == sorted(ATTACKS * 3)
    assert [d for d, row in zip(domains, rows, strict=True) if row["attack_id"]] == [
        row["attack_id"] for row in rows if row["attack_id"]
    ]
    assert domains_of(rows[::-1], "attack_id", seed=1) == domains[::-1]
    assert domains_of(rows, "attack_id", seed=2) != domains


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, rows) -> dict:
    trainer = noisy_trainer("mldg", tmp_path_factory.mktemp("uninterrupted"), rows)
    trainer.train()
    return state_of(trainer)


@pytest.mark.parametrize(("step", "workers"), [(4, 0), (3, 1)])  # in an epoch of four steps, and at its end
def test_ctrl_c_leaves_a_checkpoint_from_which_training_goes_on_to_the_bit(
    rows, tmp_path, uninterrupted, step, workers
):
    trainer = noisy_trainer("mldg", tmp_path, rows, workers)
    trainer.add_callback(At(step, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt, match=f"after step {step + 1}"):
        trainer.train()
    trainer = noisy_trainer("mldg", tmp_path, rows, workers)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 9
    assert_same(state_of(trainer), uninterrupted)


def test_accumulated_meta_steps_resume_to_the_bit(rows, tmp_path):
    settings = {"gradient_accumulation_steps": 3, "max_steps": 4}  # epochs of four batches: one step of 3, one of 1
    whole = noisy_trainer("mldg", tmp_path / "whole", rows, **settings)
    whole.train()
    parts = noisy_trainer("mldg", tmp_path / "parts", rows, **settings)
    parts.add_callback(At(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    resumed = noisy_trainer("mldg", tmp_path / "parts", rows, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same(state_of(resumed), state_of(whole))


def test_the_splits_follow_the_seed(rows, tmp_path):
    def draws(seed: int) -> list[int]:
        trainer = trainer_of("mldg", tiny_aasist(), tmp_path, rows, seed=seed)
        return [int(torch.randint(2**40, (), generator=trainer._next_generator())) for _ in range(3)]

    first = draws(1)
    assert first == draws(1) and first != draws(2) and len(set(first)) == 3


@pytest.mark.parametrize(("policy", "shared"), [("meta-train", True), ("both", True), ("frozen", False)])
def test_running_statistics_are_the_mean_over_the_processes(rows, tmp_path, monkeypatch, policy, shared):
    trainer = trainer_of("mldg", tiny_aasist(), tmp_path, rows, batch_norm=policy)
    statistics = BatchNormStatistics(trainer.model)
    before = [buffer.clone() for buffer in statistics.buffers if buffer.is_floating_point()]
    monkeypatch.setattr(mldg_trainer, "average_over_processes", lambda tensors: [tensor + 1 for tensor in tensors])
    statistics.keep()
    trainer._share_statistics(statistics)
    after = [buffer for buffer in statistics.buffers if buffer.is_floating_point()]
    assert before
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old + 1 if shared else old)
