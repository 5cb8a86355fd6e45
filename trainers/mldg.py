"""First-order meta-learning domain generalisation, on the trainable parameters alone.

Li et al. 2018, "Learning to generalize: Meta-learning for domain generalization" (arXiv 1710.03463), as used for detectors
of fake speech in arXiv 2502.10838: the attacks are the domains. Per step some of them are set aside; a copy of the
parameters takes one step on the others, F, and the gradient of the loss G on those set aside, taken there, is added. The
gradient of the step itself is left out (first order), so nothing has to be copied but the parameters that are trained.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import nn


InnerOptimizer = Literal["adam", "sgd"]
ADAM_EPSILON = 1e-8


class MetaStep(NamedTuple):
    """
    Losses of one step, both detached; the gradients are in the parameters' `.grad`.

    Args:
        train_loss: F at the parameters, the mean over the meta-train domains.
        test_loss: G at the adapted parameters, the mean over the meta-test domains.
        domain_losses: mean loss of every domain, those of the meta-test ones at the adapted parameters, `[num_domains]`.
    """

    train_loss: torch.Tensor
    test_loss: torch.Tensor
    domain_losses: torch.Tensor


def split_domains(num_domains: int, num_test: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A random split of domain numbers into meta-train and meta-test, each sorted."""
    order = torch.randperm(num_domains, generator=generator)
    return order[num_test:].sort().values, order[:num_test].sort().values


def inner_update(gradient: torch.Tensor, learning_rate: float, optimizer: InnerOptimizer) -> torch.Tensor:
    """
    What one step of a fresh optimiser subtracts.

    Adam's first step has both moments corrected to the gradient itself, so it is `lr * g / (|g| + eps)`; its state is new
    in every iteration, as in DomainBed.
    """
    if optimizer == "sgd":
        return learning_rate * gradient
    return learning_rate * gradient / (gradient.abs() + ADAM_EPSILON)


def meta_step(
    parameters: Sequence[nn.Parameter],
    losses_of: Callable[[torch.Tensor], torch.Tensor],
    split: tuple[torch.Tensor, torch.Tensor],
    *,
    beta: float = 1.0,
    learning_rate: float = 1e-3,
    optimizer: InnerOptimizer = "adam",
    weight: float = 1.0,
    scale: Callable[[torch.Tensor], torch.Tensor] = lambda loss: loss,
) -> MetaStep:
    """
    Adds `weight * (grad F + beta * grad G)` to the `.grad` of the parameters, which come back unchanged.

    Under several processes both gradients are averaged over them, the first one before the inner step: as many processes
    do together what one does with the joint batch.

    Args:
        parameters: those that are trained.
        losses_of: domain numbers -> the mean loss of each of these domains, `[len(domains)]`, by a new forward pass.
        split: meta-train and meta-test domains.
        beta: weight of the meta-test gradient.
        learning_rate: of the inner step.
        optimizer: of the inner step.
        weight: of the whole step, `1 / n` where n steps are accumulated.
        scale: a loss scaler's; the gradients that are left in `.grad` are scaled, the inner step is not.
    """
    train_domains, test_domains = split
    train_losses = losses_of(train_domains)
    train_gradients, factor = _gradients(train_losses.mean(), parameters, scale)
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, gradient in zip(parameters, train_gradients, strict=True):
            if factor is not None:  # too large a scale is for the scaler to notice, not for the meta-test pass
                gradient = torch.nan_to_num(gradient / factor, nan=0.0, posinf=0.0, neginf=0.0)
            parameter.sub_(inner_update(gradient, learning_rate, optimizer))
    try:
        test_losses = losses_of(test_domains)
        test_gradients, _ = _gradients(test_losses.mean(), parameters, scale)
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
    for parameter, train, test in zip(parameters, train_gradients, test_gradients, strict=True):
        if parameter.grad is None:  # laid out as the parameter, which fused optimisers rely on; a gradient may not be
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.add_(train, alpha=weight).add_(test, alpha=weight * beta)
    domain_losses = train_losses.new_empty(len(train_domains) + len(test_domains)).detach()
    domain_losses[train_domains], domain_losses[test_domains] = train_losses.detach(), test_losses.detach()
    return MetaStep(train_losses.mean().detach(), test_losses.mean().detach(), domain_losses)


def _gradients(
    loss: torch.Tensor, parameters: Sequence[nn.Parameter], scale: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """
    Gradients of a loss, averaged over the processes, and by how much they are scaled, if they are.

    `torch.autograd.grad` passes the hooks by with which DistributedDataParallel would wait for parameters that the loss
    does not reach.
    """
    scaled = scale(loss)
    factor = None if scaled is loss else scale(torch.ones_like(loss))
    gradients = torch.autograd.grad(scaled, parameters, allow_unused=True)
    gradients = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(gradients, parameters, strict=True)
    ]
    return average_over_processes(gradients), factor


def average_over_processes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The mean of each tensor over all processes, in one message; alone, the tensors themselves."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1 or not tensors:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [tensor.numel() for tensor in tensors]
    return [part.view_as(tensor) for part, tensor in zip(flat.split(sizes), tensors, strict=True)]
