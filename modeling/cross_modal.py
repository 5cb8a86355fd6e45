"""Cross-modal transformer: one sequence asks another, layer after layer, with no attention within itself.

The encoder of MulT, Tsai et al. 2019 (arXiv 1906.00295), as SASTNet uses it. The public code takes a step whose first
feature is exactly zero for padding; here every step has its position.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .packed_attention import PackedAttention, XavierLinear, step_positions


class CrossModalLayer(GradientCheckpointingLayer):
    """Attention over the other sequence and a feed-forward network, on normalised input and added to it."""

    def __init__(self, config):
        super().__init__()
        size = config.mae_hidden_size
        self.norm1 = nn.LayerNorm(size)  # of query and memory alike
        self.attention = PackedAttention(size, config.fusion_num_heads)
        self.norm2 = nn.LayerNorm(size)
        self.fc1 = XavierLinear(size, config.fusion_intermediate_size)
        self.fc2 = XavierLinear(config.fusion_intermediate_size, size)
        self.dropout = nn.Dropout(config.fusion_dropout)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, steps, dim)`, `(batch, memory, dim)` twice -> `(batch, steps, dim)`, attention or `None`"""
        states = [self.norm1(part) for part in (query, key, value)]
        attended, attention = self.attention(*states, output_attentions=output_attentions)
        query = query + self.dropout(attended)
        hidden_states = self.dropout(F.relu(self.fc1(self.norm2(query))))
        return query + self.dropout(self.fc2(hidden_states)), attention


class CrossModalTransformer(nn.Module):
    """Layers that ask the same memory, between an embedding of positions and a last normalisation."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.fusion_num_layers))
        self.norm = nn.LayerNorm(config.mae_hidden_size)
        self.dropout = nn.Dropout(config.fusion_dropout)
        self.register_buffer("positions", self.compute_positions(), persistent=False)

    def compute_positions(self) -> torch.Tensor:
        steps, features = self.config.grid_size
        longest = max(1 + steps * features, self.config.semantic_frames // 2)
        return step_positions(longest, self.config.mae_hidden_size)

    def _embed(self, states: torch.Tensor) -> torch.Tensor:
        return math.sqrt(states.shape[2]) * states + self.positions[: states.shape[1]]

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, steps, dim)`, `(batch, memory, dim)` -> `(batch, steps, dim)` and, on request, the attention of all layers
        `(batch, layers, heads, steps, memory)`"""
        memory = self._embed(memory)
        hidden_states = self.dropout(self._embed(query))
        key, value = self.dropout(memory), self.dropout(memory)  # two draws: they differ in training
        attentions = []
        for layer in self.layers:
            hidden_states, attention = layer(hidden_states, key, value, output_attentions)
            attentions.append(attention)
        return self.norm(hidden_states), torch.stack(attentions, dim=1) if output_attentions else None
