"""AudioMAE with one decoder per class: patches -> masked encoder -> every decoder's reconstruction -> attention over them.

Masked autoencoders that listen, Huang et al. 2022 (arXiv 2207.06405); several decoders, arXiv 2506.07294. The decoders
here attend globally. Tokens stay in natural order, time by time, in training and in inference.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .packed_attention import PackedAttention, XavierLinear, grid_positions


LAYER_NORM_EPS = 1e-6


class SelfAttention(nn.Module):
    """Attention of all tokens over all tokens."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = XavierLinear(hidden_size, 3 * hidden_size)
        self.output = XavierLinear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, dim)` -> the same"""
        query, key, value = self.qkv(hidden_states).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)  # (batch, heads, tokens, dim / heads)
        return self.output(attended.transpose(1, 2).flatten(2))


class ViTLayer(GradientCheckpointingLayer):
    """Attention and feed-forward network, each on normalised input and added to it (Dosovitskiy et al. 2020)."""

    def __init__(self, hidden_size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.attention = SelfAttention(hidden_size, num_heads)
        self.norm2 = nn.LayerNorm(hidden_size, eps=LAYER_NORM_EPS)
        self.fc1 = XavierLinear(hidden_size, intermediate_size)
        self.fc2 = XavierLinear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, dim)` -> the same"""
        hidden_states = hidden_states + self.attention(self.norm1(hidden_states))
        return hidden_states + self.fc2(F.gelu(self.fc1(self.norm2(hidden_states))))


class PatchProjection(nn.Conv2d):
    """A convolution over patches that do not overlap; it starts with Xavier's law of the flattened patches."""

    def reset_parameters(self):
        nn.init.xavier_uniform_(self.weight.flatten(1))
        nn.init.zeros_(self.bias)


class MaskedEncoder(nn.Module):
    """Image of features over time -> patches, of which only the kept ones are looked at."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        size = config.mae_hidden_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, size))
        self.patch_projection = PatchProjection(1, size, kernel_size=config.patch_size, stride=config.patch_size)
        self.layers = nn.ModuleList(
            ViTLayer(size, config.mae_num_heads, config.mae_intermediate_size) for _ in range(config.mae_num_layers)
        )
        self.norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.register_buffer("positions", self.compute_positions(), persistent=False)

    def compute_positions(self) -> torch.Tensor:
        return grid_positions(*self.config.grid_size, self.config.mae_hidden_size)

    def forward(self, image: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, 1, frames, features)` and the numbers of kept patches `(batch, kept)` -> class token and kept patches
        `(batch, 1 + kept, dim)`"""
        tokens = self.patch_projection(image).flatten(2).transpose(1, 2)  # (batch, patches, dim)
        tokens = tokens + self.positions[: tokens.shape[1]]
        if kept is not None:
            tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)


class PatchDecoder(nn.Module):
    """Tokens of the kept patches -> all patches of the image."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        size = config.decoder_hidden_size
        self.mask_token = nn.Parameter(torch.empty(1, 1, size))
        self.embedding = XavierLinear(config.mae_hidden_size, size)
        self.layers = nn.ModuleList(
            ViTLayer(size, config.decoder_num_heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_layers)
        )
        self.norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.prediction = XavierLinear(size, config.patch_size**2)
        self.register_buffer("positions", self.compute_positions(), persistent=False)

    def compute_positions(self) -> torch.Tensor:
        return grid_positions(*self.config.grid_size, self.config.decoder_hidden_size)

    def forward(
        self, tokens: torch.Tensor, kept: torch.Tensor | None = None, num_patches: int | None = None
    ) -> torch.Tensor:
        """`(batch, 1 + kept, dim)` -> `(batch, num_patches, patch_size ** 2)`"""
        tokens = self.embedding(tokens)
        cls_token, patches = tokens[:, :1], tokens[:, 1:]
        if kept is not None:
            everywhere = self.mask_token.to(patches.dtype).expand(len(patches), num_patches, -1)
            patches = everywhere.scatter(1, kept[:, :, None].expand(-1, -1, patches.shape[2]), patches)
        tokens = torch.cat([cls_token, patches + self.positions[: patches.shape[1]]], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.prediction(self.norm(tokens))[:, 1:]


class DecoderAggregation(nn.Module):
    """The encoder's tokens ask all patches of all decoders."""

    def __init__(self, config):
        super().__init__()
        size, pixels = config.mae_hidden_size, config.patch_size**2
        self.key_expansion = XavierLinear(pixels, size)
        self.value_expansion = XavierLinear(pixels, size)
        self.attention = PackedAttention(size, config.aggregation_num_heads)

    def forward(self, tokens: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, dim)` and `(batch, decoders, num_patches, patch_size ** 2)` -> `(batch, tokens, dim)`"""
        patches = patches.flatten(1, 2)
        return self.attention(tokens, self.key_expansion(patches), self.value_expansion(patches))[0]


class MultiDecoderMAE(nn.Module):
    """
    Masked autoencoder with several decoders; what follows gets the attention over all that they reconstructed.

    Decoders run one after the other, so that in inference only their reconstructions add up. In training their layers are
    most of what the backward pass keeps; with activation checkpointing each keeps its input alone.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.encoder = MaskedEncoder(config)
        self.decoders = nn.ModuleList(PatchDecoder(config) for _ in range(config.num_decoders))
        self.aggregation = DecoderAggregation(config)

    def forward(self, image: torch.Tensor, kept: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`(batch, 1, frames, features)` and the kept patches `(batch, kept)`, `None` for all -> acoustic tokens
        `(batch, 1 + kept, dim)`, class token first, and reconstructions `(batch, decoders, num_patches, patch_size ** 2)`"""
        side = self.config.patch_size
        num_patches = (image.shape[2] // side) * (image.shape[3] // side)
        tokens = self.encoder(image, kept)
        patches = torch.stack([decoder(tokens, kept, num_patches) for decoder in self.decoders], dim=1)
        return self.aggregation(tokens, patches), patches


def patchify(image: torch.Tensor, side: int) -> torch.Tensor:
    """`(batch, 1, frames, features)` -> `(batch, num_patches, side ** 2)`, patches time by time; an incomplete last row of
    patches is left out"""
    return F.unfold(image, side, stride=side).transpose(1, 2)


def draw_kept_patches(config, batch_size: int, steps: int, device: torch.device) -> torch.Tensor:
    """
    The patches that a random mask leaves, `(batch_size, kept)`, each row in natural order.

    Args:
        config: of the model: `mask_mode` and `mask_ratio`.
        steps: patches over time; over features they are `config.grid_size[1]`.
    """
    height, width = steps, config.grid_size[1]
    if config.mask_mode == "random":
        return _draw(batch_size, height * width, 1 - config.mask_ratio, device)
    share = 1 - config.mask_ratio / 2
    rows = _draw(batch_size, height, share, device)
    columns = _draw(batch_size, width, share, device)
    return (rows[:, :, None] * width + columns[:, None]).flatten(1)


def _draw(batch_size: int, count: int, share: float, device: torch.device) -> torch.Tensor:
    """A random part of the numbers below `count` in ascending order, at least one of them."""
    kept = max(int(count * share), 1)
    return torch.rand(batch_size, count, device=device).argsort(dim=1)[:, :kept].sort(dim=1).values


def masked_errors(
    patches: torch.Tensor, target: torch.Tensor, kept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    How far the decoders are off.

    Args:
        patches: `(batch, decoders, num_patches, pixels)`.
        target: `(batch, num_patches, pixels)`.
        kept: `(batch, kept)`; `None` where nothing was masked.

    Returns:
        Mean squared errors of all patches, `(batch, decoders, num_patches)`, and their means over the masked ones, or over
        all where none was masked, `(batch, decoders)`. In single precision or better: a margin is about to tell them apart.
    """
    precision = torch.promote_types(patches.dtype, torch.float32)
    errors = (patches.to(precision) - target.to(precision)[:, None]).square().mean(dim=3)
    if kept is None or kept.shape[1] == target.shape[1]:
        return errors, errors.mean(dim=2)
    masked = torch.ones_like(errors[:, 0]).scatter(1, kept, 0.0)[:, None]
    return errors, (errors * masked).sum(dim=2) / masked.sum(dim=2)
