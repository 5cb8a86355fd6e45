"""SASTNet's losses: the margin by which the right decoder has to be the better one, and the weights that are learned."""

import torch
import torch.nn.functional as F


def margin_reconstruction_loss(
    errors: torch.Tensor, labels: torch.Tensor, margin: float, reading: str = "each"
) -> torch.Tensor:
    """
    The true class's decoder reconstructs well, and better than the others (arXiv 2506.07294, equation 2).

    `e_y + mean over i != y of max(0, margin + e_y - e_i)` with `reading="each"`, as the public code has it, or
    `e_y + max(0, margin + e_y - mean of e_i)` with `"mean"`, as the paper does; averaged over the clips. The plain mean
    error where there is one decoder.

    Args:
        errors: mean squared error of each decoder on the masked patches, `(batch, decoders)`.
        labels: classes, `(batch,)`.
    """
    if errors.shape[1] == 1:
        return errors.mean()
    own = errors.gather(1, labels[:, None])  # (batch, 1)
    is_other = torch.ones_like(errors, dtype=torch.bool).scatter(1, labels[:, None], False)
    others = errors[is_other].view(len(errors), -1)  # (batch, decoders - 1)
    if reading == "mean":
        others = others.mean(dim=1, keepdim=True)
    return (own[:, 0] + F.relu(margin + own - others).mean(dim=1)).mean()


def automatic_weighted_loss(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """
    `sum of 0.5 L_i / w_i^2 + ln(1 + w_i^2)`: uncertainty weighting that keeps the loss positive.

    Liebel and Koerner 2018 (arXiv 1805.06334), after Kendall et al. 2017 (arXiv 1705.07115).

    Args:
        losses, weights: `(losses,)`.
    """
    return (0.5 * losses / weights.square() + torch.log1p(weights.square())).sum()
