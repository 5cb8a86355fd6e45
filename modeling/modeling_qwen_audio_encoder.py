"""The audio encoder of Qwen-Audio v1: log-mel -> two convolutions -> transformer -> average pooling -> the decoder's width.

A clip's output depends on that clip alone: mel frames past its own end are zeroed and masked, whatever the batch holds.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .audio_tokens import MIN_FRAMES, encoder_positions
from .configuration_qwen_audio import QwenAudioEncoderConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that shows its weights: `(batch, heads, length, head_dim)` -> `(batch, length, heads, head_dim)`."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def sinusoids(length: int, channels: int, max_timescale: float = 10_000.0) -> torch.Tensor:
    """Whisper's position table `(length, channels)`: sines in the left half, cosines in the right (Radford et al. 2022)."""
    half = channels // 2
    rates = torch.exp(-math.log(max_timescale) / (half - 1) * torch.arange(half, dtype=torch.float32))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def silenced(mel: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """
    Mel frames `(clips, bands, 2 * positions)`, zeroed where `inside` of shape `(clips, positions)` is false.

    Zeros are what the convolution sees past the end of a clip that is alone; the padded spectrogram has silence there,
    which is another value, and would make a clip's score depend on the longest one of its batch.
    """
    return mel * inside.repeat_interleave(2, dim=1)[:, None]


class QwenAudioAttention(nn.Module):
    """Self-attention over the whole clip; keys have no bias, as in Whisper."""

    def __init__(self, config: QwenAudioEncoderConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, positions, hidden_size)` -> the same, and the attention weights where they exist."""
        batch, positions, _ = hidden_states.shape
        heads = [
            project(hidden_states).view(batch, positions, -1, self.head_dim).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        ]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, weights = attend(self, *heads, attention_mask, scaling=self.scaling, **kwargs)
        return self.out(mixed.reshape(batch, positions, -1)), weights


class QwenAudioEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config: QwenAudioEncoderConfig):
        super().__init__()
        width = config.hidden_size
        self.attn = QwenAudioAttention(config)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """`(batch, positions, hidden_size)` -> the same"""
        hidden_states = hidden_states + self.attn(self.attn_ln(hidden_states), attention_mask, **kwargs)[0]
        return hidden_states + self.mlp(self.mlp_ln(hidden_states))


class QwenAudioEncoder(PreTrainedModel):
    """Log-mel spectrograms -> rows that take the place of token embeddings, 25 for each second."""

    config: QwenAudioEncoderConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["QwenAudioEncoderLayer"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": QwenAudioEncoderLayer, "attentions": QwenAudioAttention}

    def __init__(self, config: QwenAudioEncoderConfig):
        super().__init__(config)
        width = config.hidden_size
        self.conv1 = nn.Conv1d(config.num_mel_bins, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(config.max_source_positions, width))
        self.blocks = nn.ModuleList(QwenAudioEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Linear(width, config.output_dim)
        self.audio_bos_eos_token = nn.Embedding(2, config.output_dim)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """transformers' own rules, and the position table, which is computed rather than drawn."""
        super()._init_weights(module)
        if isinstance(module, QwenAudioEncoder):
            init.copy_(module.positional_embedding, sinusoids(*module.positional_embedding.shape))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutput:
        """
        Args:
            input_features (`torch.FloatTensor` of shape `(num_clips, num_mel_bins, frames)`):
                Log-mel spectrograms of the clips padded to 30 s, cut anywhere past twice the positions of the longest.
            feature_attention_mask (`torch.LongTensor` of shape `(num_clips, frames)`, *optional*):
                1 for the frames of the clip, which come first, and 0 for those of the padding. All frames by default.

        Returns:
            `BaseModelOutput` with `last_hidden_state` of shape `(num_clips, tokens of the longest clip, output_dim)`; of
            each row only its first `num_audio_tokens(frames)` count.

        Raises:
            `ValueError`: for another number of bands, or clips of no token or more than `max_source_positions`.
        """
        frames = self._count_frames(input_features, feature_attention_mask)
        positions = encoder_positions(frames)
        length = self._checked_length(input_features, positions)
        inside = torch.arange(length, device=positions.device) < positions[:, None]  # (clips, positions)
        mel = silenced(input_features[..., : 2 * length], inside).to(self.conv1.weight.dtype)
        hidden_states = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        hidden_states = hidden_states + self.positional_embedding[:length].to(hidden_states.dtype)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=inside.to(hidden_states.device)
        )
        for block in self.blocks:
            hidden_states = block(hidden_states, mask, **kwargs)
        pooled = F.avg_pool1d(hidden_states.transpose(1, 2), 2).transpose(1, 2)
        return BaseModelOutput(last_hidden_state=self.proj(self.ln_post(pooled)))

    def _count_frames(self, input_features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if input_features.ndim != 3 or input_features.shape[1] != self.config.num_mel_bins:
            raise ValueError(
                f"`input_features` must have the shape (clips, {self.config.num_mel_bins}, frames), got "
                f"{tuple(input_features.shape)}."
            )
        if mask is None:
            return torch.full(input_features.shape[:1], input_features.shape[2], device=input_features.device)
        if mask.shape != (input_features.shape[0], input_features.shape[2]):
            raise ValueError(
                f"`feature_attention_mask` must have the shape {(input_features.shape[0], input_features.shape[2])}, one "
                f"entry for each mel frame, got {tuple(mask.shape)}."
            )
        return mask.sum(1)

    def _checked_length(self, input_features: torch.Tensor, positions: torch.Tensor) -> int:
        """Positions of the longest clip."""
        length, shortest = int(positions.max()), int(positions.min())
        if shortest < encoder_positions(MIN_FRAMES):
            raise ValueError(
                f"Every clip needs at least {MIN_FRAMES} mel frames (480 samples at 16 kHz) to become one audio token."
            )
        if length > self.config.max_source_positions:
            raise ValueError(
                f"The encoder hears at most {2 * self.config.max_source_positions} mel frames, got {2 * length}: cut the "
                "audio into windows."
            )
        if input_features.shape[2] < 2 * length:
            raise ValueError(
                f"The longest clip needs {2 * length} mel frames, an even number, got {input_features.shape[2]}: take them "
                "from the padded spectrogram."
            )
        return length


__all__ = ["QwenAudioEncoder", "eager_attention_forward", "sinusoids"]
