"""Qwen-Audio v1 (arXiv 2311.07919), native: audio encoder -> Qwen decoder -> next-token logits.

Modules carry the published names, fused `c_attn` included, so that the state dict has the published keys and published
low-rank adapters (on `c_attn`, `c_proj`, `w1`, `w2`) fit. A sequence's output depends on that sequence alone: positions
count from its own first token, and each clip is heard without the padding that its batch brings.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, slice_logits_to_keep
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .audio_tokens import num_audio_tokens
from .configuration_qwen_audio import QwenAudioConfig
from .modeling_qwen_audio_encoder import QwenAudioEncoder, eager_attention_forward


MODULE_NAME = __name__.split(".")[-1]
# A class carries one Auto class and saves its entry alone; the code of the other travels anyway.
AUTO_MAP = {
    "AutoModel": f"{MODULE_NAME}.QwenAudioModel",
    "AutoModelForMultimodalLM": f"{MODULE_NAME}.QwenAudioForConditionalGeneration",
}


def ntk_factor(lengths: torch.Tensor, seq_length: int) -> torch.Tensor:
    """
    How much the rotary base is stretched for prompts of so many tokens: 1 up to `seq_length`, then 3, 7, 15 ...

    The dynamic form of NTK-aware scaling: `2 ** ceil(log2(length / seq_length) + 1) - 1`.
    """
    doublings = torch.ceil(torch.log2(lengths.double() / seq_length) + 1)
    return (2.0**doublings - 1).clamp(min=1).float()


def rotary_embedding(
    position_ids: torch.Tensor, factor: torch.Tensor, config: QwenAudioConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Cosines and sines `(batch, 1, length, head_dim)`, in float32, for positions `(batch, length)` and stretches `(batch,)`.

    Made anew in each pass: a stored table would be lost where models are built on the meta device.
    """
    exponents = torch.arange(0, config.head_dim, 2, device=position_ids.device, dtype=torch.float32) / config.head_dim
    base = config.rotary_emb_base * factor ** (config.head_dim / (config.head_dim - 2))
    frequencies = base[:, None] ** -exponents
    angles = position_ids[:, None, :, None].float() * frequencies[:, None, None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Turns pairs of coordinates half a head apart; in float32, then back to the type of `states`."""
    first, second = states.float().chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (states.float() * cosines + turned * sines).to(states.dtype)


class QwenAudioTextAttention(nn.Module):
    """Causal self-attention with queries, keys and values from one projection."""

    def __init__(self, config: QwenAudioConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        width = config.num_attention_heads * config.head_dim
        self.c_attn = nn.Linear(config.hidden_size, 3 * width)
        self.c_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        query_scale: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        `(batch, length, hidden_size)` -> the same, and the attention weights where they exist; `query_scale` is of shape
        `(batch, 1, length, 1)`.
        """
        batch, length, _ = hidden_states.shape
        query, key, value = (
            part.view(batch, length, -1, self.head_dim).transpose(1, 2)
            for part in self.c_attn(hidden_states).chunk(3, dim=-1)
        )
        query, key = rotate(query, *position_embeddings), rotate(key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if query_scale is not None:
            query = query * query_scale.to(query.dtype)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, **kwargs)
        return self.c_proj(mixed.reshape(batch, length, -1)), weights


class QwenAudioMLP(nn.Module):
    """Gated feed-forward layer: `w2` is the gate."""

    def __init__(self, config: QwenAudioConfig):
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, length, hidden_size)` -> the same"""
        return self.c_proj(self.w1(hidden_states) * F.silu(self.w2(hidden_states)))


class QwenAudioTextLayer(GradientCheckpointingLayer):
    """Pre-norm decoder layer."""

    def __init__(self, config: QwenAudioConfig, layer_idx: int):
        super().__init__()
        self.ln_1 = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn = QwenAudioTextAttention(config, layer_idx)
        self.ln_2 = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = QwenAudioMLP(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        """`(batch, length, hidden_size)` -> the same"""
        hidden_states = hidden_states + self.attn(self.ln_1(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class QwenAudioPreTrainedModel(PreTrainedModel):
    config: QwenAudioConfig
    base_model_prefix = "transformer"
    _input_embed_layer = "wte"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["QwenAudioTextLayer", "QwenAudioEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": QwenAudioTextLayer, "attentions": QwenAudioTextAttention}
    # The loss is a mean over the labels of one batch: Trainer has to divide it under gradient accumulation.
    accepts_loss_kwargs = False

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers; a saved folder loads as the bare model and with its head, without spooftrace too."""
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, **kwargs)


class QwenAudioModel(QwenAudioPreTrainedModel):
    """Audio encoder and decoder without the output head."""

    def __init__(self, config: QwenAudioConfig):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.audio = QwenAudioEncoder(config.audio_config)
        self.h = nn.ModuleList(QwenAudioTextLayer(config, index) for index in range(config.num_hidden_layers))
        self.ln_f = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()

    def get_audio_features(
        self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The rows of all clips one after the other, `(audio tokens of all clips, hidden_size)`.

        Args:
            input_features (`torch.FloatTensor` of shape `(num_clips, num_mel_bins, frames)`): See [`QwenAudioEncoder`].
            feature_attention_mask (`torch.LongTensor` of shape `(num_clips, frames)`, *optional*): All ones by default.
        """
        rows = self.audio(input_features, feature_attention_mask).last_hidden_state
        if feature_attention_mask is None:
            return rows.flatten(0, 1)
        tokens = num_audio_tokens(feature_attention_mask.sum(1)).to(rows.device)
        return rows[torch.arange(rows.shape[1], device=rows.device) < tokens[:, None]]

    def merge_audio(self, input_ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """
        Embeddings of a prompt, `(batch_size, length, hidden_size)`: the audio rows and the learned tags in their places.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): Tokens, with a place for each row.
            rows (`torch.FloatTensor` of shape `(audio tokens of all clips, hidden_size)`): See [`get_audio_features`].

        Raises:
            `ValueError`: if there are more or fewer places than rows.
        """
        embeds = self.wte(input_ids)
        places = input_ids == self.config.audio_token_id
        if int(places.sum()) != len(rows):
            raise ValueError(
                f"The text has {int(places.sum())} audio tokens (id {self.config.audio_token_id}), the clips need {len(rows)}: "
                "prepare both with one call of the processor."
            )
        embeds = embeds.masked_scatter(places[..., None], rows.to(embeds.device, embeds.dtype))
        tags = (self.config.audio_bos_token_id, self.config.audio_eos_token_id)
        for tag, row in zip(tags, self.audio.audio_bos_eos_token.weight, strict=True):
            embeds = torch.where((input_ids == tag)[..., None], row.to(embeds.device, embeds.dtype), embeds)
        return embeds

    def _stretch(self, position_ids: torch.Tensor, cache: Cache | None) -> torch.Tensor:
        """The rotary base's factor for each sequence, chosen by the prompt and kept while it is continued from a cache."""
        if cache is not None and cache.get_seq_length() > 0 and hasattr(cache, "ntk_factor"):
            return cache.ntk_factor.to(position_ids.device)
        if self.training or not self.config.use_dynamic_ntk:
            return torch.ones(len(position_ids), device=position_ids.device)
        return ntk_factor(position_ids.amax(1) + 1, self.config.seq_length)

    def _query_scale(self, position_ids: torch.Tensor) -> torch.Tensor | None:
        """Logarithmic scaling past the pretraining length, `(batch, 1, length, 1)` (Su 2021, "log-n" attention)."""
        if self.training or not self.config.use_logn_attn:
            return None
        scale = torch.log((position_ids + 1).float()) / math.log(self.config.seq_length)
        return scale.clamp(min=1)[:, None, :, None]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`):
                Tokens; the places of `audio_token_id` take the audio rows, clip by clip in reading order.
            attention_mask (`torch.LongTensor` of shape `(batch_size, length so far)`, *optional*):
                1 for tokens and 0 for padding, on either side.
            input_features (`torch.FloatTensor` of shape `(num_clips, num_mel_bins, frames)`, *optional*): Log-mel clips.
            feature_attention_mask (`torch.LongTensor` of shape `(num_clips, frames)`, *optional*): 1 for a clip's frames.
            position_ids (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): Counted from `attention_mask`.
            past_key_values (`Cache`, *optional*): What went before; it is extended in place.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, length, hidden_size)`, *optional*):
                Instead of `input_ids`, with the audio already in its places.
            use_cache (`bool`, *optional*): Whether to return keys and values.

        Raises:
            `ValueError`: if clips and audio tokens do not match, or there are both or neither of ids and embeddings.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either `input_ids` or `inputs_embeds`, not both or neither.")
        if input_features is not None:
            if input_ids is None:
                raise ValueError("`input_features` need `input_ids`, which tell the places of the audio.")
            inputs_embeds = self.merge_audio(
                input_ids, self.get_audio_features(input_features, feature_attention_mask)
            )
        elif inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = self._count_positions(inputs_embeds, attention_mask, past_key_values)
        hidden_states = self._decode(inputs_embeds, attention_mask, position_ids, past_key_values, **kwargs)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states, past_key_values=past_key_values if use_cache else None
        )

    def _count_positions(
        self, embeds: torch.Tensor, attention_mask: torch.Tensor | None, cache: Cache | None
    ) -> torch.Tensor:
        """Each token's place among the tokens of its own sequence, `(batch, length)`; 0 for padding before it."""
        batch, length = embeds.shape[:2]
        if attention_mask is None or attention_mask.ndim != 2:
            past = cache.get_seq_length() if cache is not None else 0
            return (torch.arange(length, device=embeds.device) + past).expand(batch, -1)
        return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -length:].to(embeds.device)

    def _decode(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        cache: Cache | None,
        **kwargs,
    ) -> torch.Tensor:
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
        )
        position_ids = position_ids.expand(len(hidden_states), -1)
        factor = self._stretch(position_ids, cache)
        if cache is not None:
            cache.ntk_factor = factor
        position_embeddings = rotary_embedding(position_ids, factor, self.config)
        query_scale = self._query_scale(position_ids)
        for layer in self.h:
            hidden_states = layer(
                hidden_states,
                position_embeddings=position_embeddings,
                query_scale=query_scale,
                attention_mask=mask,
                past_key_values=cache,
                **kwargs,
            )
        return self.ln_f(hidden_states)


class QwenAudioForConditionalGeneration(QwenAudioPreTrainedModel, GenerationMixin):
    """QwenAudioModel -> output head -> next-token logits."""

    def __init__(self, config: QwenAudioConfig):
        super().__init__(config)
        self.transformer = QwenAudioModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """
        Args, besides those of [`QwenAudioModel`]:
            labels (`torch.LongTensor` of shape `(batch_size, length)`, *optional*):
                The tokens themselves, -100 where they do not count; they are shifted here. The loss is their mean
                cross-entropy.
            logits_to_keep (`int` or `torch.LongTensor`, *optional*, defaults to 0):
                How many last positions get logits, 0 for all, or which ones; the loss counts these alone.
        """
        outputs = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            input_features=input_features,
            feature_attention_mask=feature_attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            following = F.pad(labels[:, 1:], (0, 1), value=-100)
            kept = slice_logits_to_keep(following[..., None], logits_to_keep)
            loss = F.cross_entropy(logits.float().flatten(0, -2), kept.flatten().to(logits.device))
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(self, *args, is_first_iteration: bool | None = False, **kwargs) -> dict:
        """As in transformers; the audio goes in with the prompt and is in the cache afterwards."""
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs["input_features"] = inputs["feature_attention_mask"] = None
        return inputs


__all__ = [
    "QwenAudioForConditionalGeneration",
    "QwenAudioModel",
    "QwenAudioPreTrainedModel",
    "ntk_factor",
]
