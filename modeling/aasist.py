"""The AASIST back-end: residual encoder, graph attention over spectral and temporal nodes, readout.

Jung et al. 2022, "AASIST: Audio anti-spoofing using integrated spectro-temporal graph attention networks"
(arXiv 2110.01200), as the public implementations compute it. The graph has no padding mask: all clips of a batch have
one length.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer


# Columns of a map that a residual block treats at once in evaluation on a CPU, so that they stay in its cache.
TILE_WIDTH = 2048


def clip_by_clip(
    function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], maps: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """`function(maps)` for a function that treats clips apart, on a CPU one clip at a time.

    The maps of one clip stay in the processor's cache, and the memory of the last clip is used again for the next.
    """
    if maps.device.type != "cpu":
        return function(maps)
    outputs = [function(clip) for clip in maps.split(1)]
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


def pointwise(conv: nn.Conv2d, hidden_states: torch.Tensor) -> torch.Tensor:
    """A 1 x 1 convolution as one matrix product, with the channels in the last dimension."""
    return F.linear(hidden_states, conv.weight[:, :, 0, 0], conv.bias)


class ResidualBlock(GradientCheckpointingLayer):
    """Two 2 x 3 convolutions with a skip connection, then max-pooling."""

    def __init__(self, in_channels: int, out_channels: int, pooling: tuple[int, int], is_first: bool):
        super().__init__()
        if not is_first:
            # Dead weight: the published code normalises the input here and then convolves the input itself, so this
            # layer never reaches the output. It stays because every published checkpoint and parameter count has it.
            self.unused_norm = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=(2, 3), padding=(1, 1))
        self.norm = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=(2, 3), padding=(0, 1))
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=(1, 3), padding=(0, 1))
        else:
            self.shortcut = nn.Identity()
        self.pooling = tuple(pooling)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, in_channels, height, width)` -> `(batch, out_channels, height // pool, width // pool)`"""
        if self.training or hidden_states.device.type != "cpu" or hidden_states.shape[3] <= TILE_WIDTH:
            return self._pool(self._convolve(hidden_states))
        return torch.cat(list(self._tiles(hidden_states)), dim=3)

    def _tiles(self, hidden_states: torch.Tensor) -> Iterator[torch.Tensor]:
        """Slices of the output; each is computed with the two columns on either side that both convolutions see."""
        pool = self.pooling[1]
        step = TILE_WIDTH // pool * pool
        for start in range(0, hidden_states.shape[3] // pool * pool, step):
            left = min(start, 2)
            tile = self._convolve(hidden_states[..., start - left : start + step + 2])
            yield self._pool(tile[..., left : left + step])

    def _pool(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states if self.pooling == (1, 1) else F.max_pool2d(hidden_states, self.pooling)

    def _convolve(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # With channels innermost, convolution, normalisation and pooling are all faster on a CPU.
        hidden_states = hidden_states.to(memory_format=torch.channels_last)
        residual = self.shortcut(hidden_states)
        hidden_states = F.selu(self.norm(self.conv1(hidden_states)), inplace=True)  # height + 1
        return self.conv2(hidden_states).add_(residual)  # height again


class ResidualEncoder(nn.Module):
    """Map of filters over time -> channels over a smaller map."""

    def __init__(self, config):
        super().__init__()
        channels = [1, *config.encoder_channels]
        self.input_norm = nn.BatchNorm2d(1)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels[i], channels[i + 1], pooling, is_first=i == 0)
            for i, pooling in enumerate(config.encoder_pooling)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, 1, height, width)` -> `(batch, channels, height', width')`, in memory `channels_last`"""
        if self.training:  # batch normalisation needs the whole batch
            return self._encode(features)[0]
        return clip_by_clip(self._encode, features)[0]

    def _encode(self, features: torch.Tensor) -> tuple[torch.Tensor]:
        hidden_states = F.selu(self.input_norm(features))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return (hidden_states,)


class MaxNodes(nn.Module):
    """Nodes as the largest magnitude along the other axis (stand-alone AASIST)."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, channels, height, width)` -> nodes `(batch, height, channels)` and `(batch, width, channels)`"""
        magnitude = hidden_states.abs()
        return magnitude.amax(dim=3).transpose(1, 2), magnitude.amax(dim=2).transpose(1, 2)


class AttentiveNodes(nn.Module):
    """Nodes as learned weighted sums along the other axis (W2V2-AASIST, Tak et al. 2022, arXiv 2202.12233)."""

    def __init__(self, channels: int):
        super().__init__()
        self.input_norm = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, kernel_size=1)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.contract = nn.Conv2d(2 * channels, channels, kernel_size=1)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, channels, height, width)` -> nodes `(batch, height, channels)` and `(batch, width, channels)`"""
        return self._aggregate(hidden_states) if self.training else clip_by_clip(self._aggregate, hidden_states)

    def _aggregate(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_states = F.selu(self.input_norm(hidden_states), inplace=True).permute(0, 2, 3, 1)
        logits = F.selu(pointwise(self.expand, hidden_states), inplace=True)
        logits = self.norm(logits.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        logits = pointwise(self.contract, logits)  # (batch, height, width, channels)
        spectral = (hidden_states * logits.softmax(dim=2)).sum(dim=2)
        temporal = (hidden_states * logits.softmax(dim=1)).sum(dim=1)
        return spectral, temporal


def tanh_scores(hidden_states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`tanh(hidden_states) @ weight`, overwriting `hidden_states`: `(..., dim)`, `(dim, 1)` -> `(...)`

    By the identity tanh(x) = 2 sigmoid(2 x) - 1, as the logistic function is six times as fast on a CPU.
    """
    return (hidden_states.mul_(2).sigmoid_() @ (2 * weight))[..., 0] - weight.sum()


def pair_scores(
    rows: torch.Tensor, columns: torch.Tensor, projection: nn.Linear, weight: torch.Tensor
) -> torch.Tensor:
    """Attention logits of every pair, `weight . tanh(projection(row * column))`.

    `(batch, rows, dim)`, `(batch, columns, dim)` -> `(batch, rows, columns)`
    """
    pairs = rows[:, :, None] * columns[:, None]  # (batch, rows, columns, dim)
    return tanh_scores(projection(pairs), weight)


def self_pair_scores(nodes: torch.Tensor, projection: nn.Linear, weight: torch.Tensor) -> torch.Tensor:
    """[`pair_scores`] of the nodes with themselves: symmetric, so only one triangle is computed.

    `(batch, nodes, dim)` -> `(batch, nodes, nodes)`
    """
    count = nodes.shape[1]
    row, column = torch.triu_indices(count, count, device=nodes.device)
    pairs = nodes.index_select(1, row) * nodes.index_select(1, column)  # (batch, count * (count + 1) / 2, dim)
    triangle = tanh_scores(projection(pairs), weight)
    scores = triangle.new_zeros(len(nodes), count, count)
    scores[:, row, column] = triangle
    return scores + scores.triu(1).transpose(1, 2)


class GraphNorm(nn.BatchNorm1d):
    """Batch normalisation of node features over batch and nodes."""

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        return super().forward(nodes.flatten(0, 1)).view_as(nodes)


class GraphLayer(nn.Module):
    """Attention among nodes of one kind."""

    def __init__(self, in_dim: int, out_dim: int, temperature: float, dropout: float):
        super().__init__()
        self.temperature = temperature
        self.dropout = nn.Dropout(dropout)
        self.pair_projection = nn.Linear(in_dim, out_dim)
        self.pair_weight = nn.Parameter(torch.empty(out_dim, 1))
        self.attended_projection = nn.Linear(in_dim, out_dim)
        self.own_projection = nn.Linear(in_dim, out_dim)
        self.norm = GraphNorm(out_dim)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        """`(batch, nodes, in_dim)` -> `(batch, nodes, out_dim)`"""
        nodes = self.dropout(nodes)
        scores = self_pair_scores(nodes, self.pair_projection, self.pair_weight)
        attention = (scores / self.temperature).softmax(dim=-1)
        nodes = self.attended_projection(attention @ nodes) + self.own_projection(nodes)
        return F.selu(self.norm(nodes))


class HeterogeneousGraphLayer(nn.Module):
    """Attention among temporal and spectral nodes at once, and a master node that listens to all of them."""

    def __init__(self, in_dim: int, out_dim: int, temperature: float, dropout: float):
        super().__init__()
        self.temperature = temperature
        self.dropout = nn.Dropout(dropout)
        self.temporal_projection = nn.Linear(in_dim, in_dim)
        self.spectral_projection = nn.Linear(in_dim, in_dim)
        self.pair_projection = nn.Linear(in_dim, out_dim)
        self.temporal_pair_weight = nn.Parameter(torch.empty(out_dim, 1))
        self.spectral_pair_weight = nn.Parameter(torch.empty(out_dim, 1))
        self.cross_pair_weight = nn.Parameter(torch.empty(out_dim, 1))
        self.master_pair_projection = nn.Linear(in_dim, out_dim)
        self.master_pair_weight = nn.Parameter(torch.empty(out_dim, 1))
        self.attended_projection = nn.Linear(in_dim, out_dim)
        self.own_projection = nn.Linear(in_dim, out_dim)
        self.master_attended_projection = nn.Linear(in_dim, out_dim)
        self.master_own_projection = nn.Linear(in_dim, out_dim)
        self.norm = GraphNorm(out_dim)

    def _attention(self, temporal: torch.Tensor, spectral: torch.Tensor) -> torch.Tensor:
        """Attention of shape `(batch, nodes, nodes)`, temporal nodes first; the logits are symmetric."""
        projection = self.pair_projection
        cross = pair_scores(temporal, spectral, projection, self.cross_pair_weight)
        upper = torch.cat([self_pair_scores(temporal, projection, self.temporal_pair_weight), cross], dim=2)
        own = self_pair_scores(spectral, projection, self.spectral_pair_weight)
        lower = torch.cat([cross.transpose(1, 2), own], dim=2)
        return (torch.cat([upper, lower], dim=1) / self.temperature).softmax(dim=-1)

    def _update_master(self, nodes: torch.Tensor, master: torch.Tensor) -> torch.Tensor:
        scores = tanh_scores(self.master_pair_projection(nodes * master), self.master_pair_weight)
        attention = (scores / self.temperature).softmax(dim=1)  # (batch, nodes)
        attended = attention[:, None] @ nodes  # (batch, 1, in_dim)
        return self.master_attended_projection(attended) + self.master_own_projection(master)

    def forward(
        self, temporal: torch.Tensor, spectral: torch.Tensor, master: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Temporal, spectral and master nodes of size `in_dim` -> the same, of size `out_dim`"""
        sizes = [temporal.shape[1], spectral.shape[1]]
        nodes = torch.cat([self.temporal_projection(temporal), self.spectral_projection(spectral)], dim=1)
        nodes = self.dropout(nodes)
        attention = self._attention(*nodes.split(sizes, dim=1))
        master = self._update_master(nodes, master)
        nodes = self.attended_projection(attention @ nodes) + self.own_projection(nodes)
        temporal, spectral = F.selu(self.norm(nodes)).split(sizes, dim=1)
        return temporal, spectral, master


class GraphPool(nn.Module):
    """Keeps the best-scoring share of the nodes, in descending order of their score."""

    def __init__(self, dim: int, ratio: float, dropout: float):
        super().__init__()
        self.ratio = ratio
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(dim, 1)

    def forward(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, nodes, dim)` -> kept nodes `(batch, kept, dim)`, scores in (0, 1) of all nodes `(batch, nodes)`"""
        scores = torch.sigmoid(self.score(self.dropout(nodes)))  # (batch, nodes, 1)
        kept = max(int(nodes.shape[1] * self.ratio), 1)
        # The two branches are merged position by position, so the order is part of the function.
        order = scores.topk(kept, dim=1).indices.expand(-1, -1, nodes.shape[2])
        return (nodes * scores).gather(1, order), scores[..., 0]


class GraphBranch(nn.Module):
    """Two heterogeneous layers with pooling between them and a residual connection."""

    def __init__(self, config):
        super().__init__()
        in_dim, out_dim = config.graph_dims
        temperature, ratio = config.temperatures[2], config.pool_ratios[2]
        self.master = nn.Parameter(torch.empty(1, 1, in_dim))
        self.layer1 = HeterogeneousGraphLayer(in_dim, out_dim, temperature, config.graph_dropout)
        self.temporal_pool = GraphPool(out_dim, ratio, config.pool_dropout)
        self.spectral_pool = GraphPool(out_dim, ratio, config.pool_dropout)
        self.layer2 = HeterogeneousGraphLayer(out_dim, out_dim, temperature, config.graph_dropout)
        self.dropout = nn.Dropout(config.branch_dropout)

    def forward(self, temporal: torch.Tensor, spectral: torch.Tensor) -> list[torch.Tensor]:
        """Nodes of size `graph_dims[0]` -> temporal, spectral and master nodes of size `graph_dims[1]`"""
        temporal, spectral, master = self.layer1(temporal, spectral, self.master)
        temporal, spectral = self.temporal_pool(temporal)[0], self.spectral_pool(spectral)[0]
        update = self.layer2(temporal, spectral, master)
        return [self.dropout(old + new) for old, new in zip((temporal, spectral, master), update, strict=True)]


class GraphHead(nn.Module):
    """Spectral and temporal nodes -> graph attention -> clip embedding."""

    def __init__(self, config):
        super().__init__()
        self._build(config)

    def _build(self, config):
        channels, (dim, _) = config.encoder_channels[-1], config.graph_dims
        self.position = nn.Parameter(torch.empty(1, config.num_spectral_nodes, channels))
        self.spectral_layer = GraphLayer(channels, dim, config.temperatures[0], config.graph_dropout)
        self.temporal_layer = GraphLayer(channels, dim, config.temperatures[1], config.graph_dropout)
        self.spectral_pool = GraphPool(dim, config.pool_ratios[0], config.pool_dropout)
        self.temporal_pool = GraphPool(dim, config.pool_ratios[1], config.pool_dropout)
        self.branch1 = GraphBranch(config)
        self.branch2 = GraphBranch(config)

    def read(self, spectral: torch.Tensor, temporal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Nodes `(batch, height, channels)` and `(batch, width, channels)` -> embedding `(batch, 5 * graph_dims[1])`,
        scores of all spectral `(batch, height)` and temporal nodes `(batch, width)`"""
        spectral, spectral_scores = self.spectral_pool(self.spectral_layer(spectral + self.position))
        temporal, temporal_scores = self.temporal_pool(self.temporal_layer(temporal))
        branches = zip(self.branch1(temporal, spectral), self.branch2(temporal, spectral), strict=True)
        temporal, spectral, master = (torch.maximum(first, second) for first, second in branches)
        embedding = torch.cat(
            [temporal.abs().amax(1), temporal.mean(1), spectral.abs().amax(1), spectral.mean(1), master[:, 0]], dim=1
        )
        return embedding, spectral_scores, temporal_scores

    forward = read


class GraphBackend(GraphHead):
    """Encoder map -> spectral and temporal nodes -> graph attention -> clip embedding."""

    def _build(self, config):
        # First, as layers draw their initial weights in the order in which they were made.
        channels = config.encoder_channels[-1]
        self.nodes = AttentiveNodes(channels) if config.node_aggregation == "attention" else MaxNodes()
        super()._build(config)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`(batch, channels, height, width)` -> embedding and node scores, as [`GraphHead.read`] returns them"""
        return self.read(*self.nodes(hidden_states))


def init_graph(module: nn.Module):
    """The public code's laws for what a part of the graph holds itself: Xavier's for pair weights, N(0, 1) for free nodes."""
    if isinstance(module, (GraphLayer, HeterogeneousGraphLayer)):
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("pair_weight"):
                init.xavier_normal_(parameter)
    elif isinstance(module, GraphBranch):
        init.normal_(module.master)
    elif isinstance(module, GraphHead):
        init.normal_(module.position)
