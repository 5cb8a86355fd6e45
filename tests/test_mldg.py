"""One meta-step is what a plain copy of the model does with loops; and what is left out is left out."""

import copy

import pytest
import torch
from torch import nn

from spooftrace.trainers.mldg import inner_update, meta_step, split_domains


NUM_DOMAINS = 5


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).double()
    model[0].bias.requires_grad_(False)
    return model


def clips() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 2, (20,), generator=generator)
    return inputs, labels, torch.arange(20) % NUM_DOMAINS


def losses_by(model: nn.Module):
    inputs, labels, domains = clips()

    def losses(chosen: torch.Tensor) -> torch.Tensor:
        mine = torch.isin(domains, chosen)
        logits = model(inputs[mine])
        return torch.stack(
            [nn.functional.cross_entropy(logits[domains[mine] == d], labels[mine][domains[mine] == d]) for d in chosen]
        )

    return losses


def reference(model: nn.Module, split, beta: float, optimizer: str, rate: float) -> dict[str, torch.Tensor]:
    """grad F(theta) + beta * grad G(theta'), by a copy of the model and torch's own optimiser, domain by domain."""
    inputs, labels, domains = clips()

    def mean_over_domains(network: nn.Module, chosen: torch.Tensor) -> torch.Tensor:
        mine = [index for index in range(20) if domains[index] in chosen]
        logits = network(inputs[mine])
        total = 0.0
        for domain in chosen:
            rows = [place for place, index in enumerate(mine) if domains[index] == domain]
            losses = [-logits[row].log_softmax(0)[labels[mine[row]]] for row in rows]
            total = total + sum(losses) / len(losses)
        return total / len(chosen)

    model = copy.deepcopy(model)
    mean_over_domains(model, split[0]).backward()
    adapted = copy.deepcopy(model)
    for mine, theirs in zip(adapted.parameters(), model.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    kinds[optimizer]([p for p in adapted.parameters() if p.requires_grad], lr=rate).step()
    adapted.zero_grad()
    mean_over_domains(adapted, split[1]).backward()
    return {
        name: p.grad + beta * q.grad
        for (name, p), q in zip(model.named_parameters(), adapted.parameters(), strict=True)
        if p.requires_grad
    }


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_a_meta_step_equals_a_hand_written_one(optimizer, beta):
    model = small_model()
    split = split_domains(NUM_DOMAINS, 2, torch.Generator().manual_seed(3))
    expected = reference(model, split, beta, optimizer, 0.05)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = meta_step(parameters, losses_by(model), split, beta=beta, learning_rate=0.05, optimizer=optimizer)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])  # back where it was, to the bit
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-12, atol=1e-14)
        else:
            assert parameter.grad is None
    assert step.domain_losses[split[0]].mean() == pytest.approx(float(step.train_loss), abs=1e-12)
    assert step.domain_losses[split[1]].mean() == pytest.approx(float(step.test_loss), abs=1e-12)


def test_the_meta_test_gradient_is_taken_at_the_adapted_parameters():
    model, split = small_model(), split_domains(NUM_DOMAINS, 2, torch.Generator())
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(rate: float) -> torch.Tensor:
        model.zero_grad()
        meta_step(parameters, losses_by(model), split, learning_rate=rate)
        return parameters[0].grad.clone()

    assert torch.equal(gradient(0.0), gradient(0.0))
    assert not torch.allclose(gradient(0.0), gradient(0.1))


def test_accumulated_steps_add_up_to_their_mean():
    model = small_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    splits = [split_domains(NUM_DOMAINS, 2, torch.Generator().manual_seed(seed)) for seed in range(4)]
    singles = []
    for split in splits:
        model.zero_grad()
        meta_step(parameters, losses_by(model), split)
        singles.append([p.grad.clone() for p in parameters])
    model.zero_grad()
    for split in splits:
        meta_step(parameters, losses_by(model), split, weight=1 / 4)
    for parameter, *grads in zip(parameters, *singles, strict=True):
        torch.testing.assert_close(parameter.grad, sum(grads) / 4)


def test_a_loss_scaler_scales_the_gradients_and_not_the_inner_step():
    model, split = small_model(), split_domains(NUM_DOMAINS, 2, torch.Generator())
    parameters = [p for p in model.parameters() if p.requires_grad]
    meta_step(parameters, losses_by(model), split, learning_rate=0.05, optimizer="sgd")
    plain = [p.grad.clone() for p in parameters]
    model.zero_grad()
    meta_step(parameters, losses_by(model), split, learning_rate=0.05, optimizer="sgd", scale=lambda loss: 1024 * loss)
    for parameter, gradient in zip(parameters, plain, strict=True):
        torch.testing.assert_close(parameter.grad / 1024, gradient)


def test_parameters_come_back_when_a_pass_fails():
    model, split = small_model(), split_domains(NUM_DOMAINS, 2, torch.Generator())
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    losses = losses_by(model)

    def failing(domains: torch.Tensor) -> torch.Tensor:
        if domains is split[1]:
            raise RuntimeError("out of memory")
        return losses(domains)

    with pytest.raises(RuntimeError, match="memory"):
        meta_step(parameters, failing, split)
    assert all(torch.equal(p, value) for p, value in zip(parameters, before, strict=True))


def test_parameters_that_the_loss_does_not_reach_get_a_gradient_of_zero():
    model, unused = small_model(), nn.Parameter(torch.ones(3, dtype=torch.float64))
    split = split_domains(NUM_DOMAINS, 1, torch.Generator())
    meta_step([*(p for p in model.parameters() if p.requires_grad), unused], losses_by(model), split)
    assert torch.equal(unused, torch.ones(3)) and not unused.grad.any()


def test_a_fresh_adam_moves_every_parameter_by_its_learning_rate():
    gradient = torch.tensor([3.0, -0.2, 0.0, 1e-3])
    torch.testing.assert_close(
        inner_update(gradient, 0.01, "adam"), torch.tensor([0.01, -0.01, 0.0, 0.01]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(inner_update(gradient, 0.01, "sgd"), 0.01 * gradient)


def test_splits_are_disjoint_whole_and_all_drawn():
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(300):
        train, test = split_domains(6, 2, generator)
        assert len(train) == 4 and len(test) == 2
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(6))
        seen.add(tuple(test.tolist()))
    assert len(seen) == 15  # six over two
