"""Multi-head attention whose three input projections share one weight, and sinusoidal position tables."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class XavierLinear(nn.Linear):
    """A linear layer that starts with Xavier's uniform law and no bias, as AudioMAE and MulT do."""

    def reset_parameters(self):
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class PackedAttention(nn.Module):
    """Scaled dot-product attention of queries over keys and values (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * hidden_size))
        self.out_proj = XavierLinear(hidden_size, hidden_size)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, queries, dim)`, `(batch, keys, dim)` twice -> `(batch, queries, dim)` and, on request, the attention
        `(batch, heads, queries, keys)`"""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(states, weight, bias).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for states, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )  # each (batch, heads, steps, dim / heads)
        attention = None
        if output_attentions:
            attention = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=-1)
            attended = attention @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), attention


def grid_positions(height: int, width: int, dim: int) -> torch.Tensor:
    """
    Positions on a grid as sines and cosines, `(height * width, dim)`, row by row.

    The first half of the channels encodes the column and the second the row, each as [sin | cos] of `index / 10000^(i / n)`
    with n = dim / 4 (MAE, He et al. 2021, arXiv 2111.06377).
    """
    rate = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim // 4))
    rows, columns = (torch.arange(size, dtype=torch.float64, device="cpu")[:, None] * rate for size in (height, width))
    rows, columns = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (rows, columns))
    table = torch.cat([columns.expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], dim=2)
    return table.flatten(0, 1).float()


def step_positions(length: int, dim: int) -> torch.Tensor:
    """
    Positions in a sequence as sines and cosines, `(length, dim)`, the first of them 1.

    [sin | cos] of `index * exp(-i ln(10000) / (dim / 2 - 1))`, as in MulT (Tsai et al. 2019, arXiv 1906.00295), where 0 is
    the index of padding.
    """
    half = dim // 2
    rate = torch.exp(torch.arange(half, dtype=torch.float64, device="cpu") * (-math.log(10000.0) / (half - 1)))
    angles = torch.arange(1, length + 1, dtype=torch.float64, device="cpu")[:, None] * rate
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
