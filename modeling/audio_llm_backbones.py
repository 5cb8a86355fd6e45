"""What differs between audio language models: names of parts, and how a batch of log-mel clips becomes audio embeddings.

A new backbone is one entry of `BACKBONES`, keyed by the `model_type` of its configuration. All of them read a log-mel
frame every 10 ms and put one embedding for every 40 ms in place of the prompt's audio tokens.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import transformers
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from .audio_tokens import encoder_positions, num_audio_tokens
from .modeling_qwen_audio import QwenAudioForConditionalGeneration


# The second convolution looks two frames beyond a clip's end: with two frames of the clip's own padding kept, nothing
# changes in what it sees there.
SPARE_FRAMES = 2


@dataclass(frozen=True)
class Backbone:
    """
    One kind of audio language model.

    Args:
        model_class (`str` or `type`): The class with the output head, or its name in transformers.
        encode (`Callable`):
            `(model, input_features, feature_attention_mask) -> audio_embeds`: the audio embeddings of all clips one after
            the other, of shape `(sum of num_audio_tokens, hidden_size)`. A clip's embeddings depend on that clip alone.
        embed (`Callable`):
            `(model, input_ids, audio_embeds) -> inputs_embeds` of shape `(batch_size, length, hidden_size)`.
        decoder (`str`): Path of the decoder without its head, which takes `inputs_embeds`.
        encoder_modules (`tuple[str, ...]`): Paths of all that lies between log-mel frames and audio embeddings.
        fixed (`tuple[str, ...]`): Parameters of the encoder that are never trained, by the end of their names.
        lora_anchor (`str`): A regular expression that the names of all decoder layers hold, and none of the encoder's.
        lora_targets (`tuple[str, ...]`): Linear layers of the decoder that adapters stand beside by default.
        renamed (`tuple[tuple[str, str], ...]`): Beginnings of names in adapters that older releases made -> now.
    """

    model_class: str | type[PreTrainedModel]
    encode: Callable[[PreTrainedModel, torch.Tensor, torch.Tensor], torch.Tensor]
    embed: Callable[[PreTrainedModel, torch.Tensor, torch.Tensor], torch.Tensor]
    decoder: str = "model.language_model"
    encoder_modules: tuple[str, ...] = ("model.audio_tower", "model.multi_modal_projector")
    fixed: tuple[str, ...] = ("embed_positions.weight",)
    lora_anchor: str = r"language_model\."
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    renamed: tuple[tuple[str, str], ...] = (
        ("language_model.model.", "model.language_model."),
        ("audio_tower.", "model.audio_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    )

    @property
    def cls(self) -> type[PreTrainedModel]:
        return getattr(transformers, self.model_class) if isinstance(self.model_class, str) else self.model_class

    def in_encoder(self, name: str) -> bool:
        """Whether a parameter belongs to the audio encoder and can be trained."""
        return name.startswith(tuple(f"{path}." for path in self.encoder_modules)) and not name.endswith(self.fixed)

    def current_name(self, name: str) -> str:
        """What a parameter of the plain model is called today."""
        for old, new in self.renamed:
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    def lora_pattern(self, targets: Iterable[str]) -> str:
        """What peft matches the names of whole modules with, so that the encoder's like-named layers stay out."""
        return rf".*{self.lora_anchor}.*\.({'|'.join(re.escape(target) for target in targets)})"


def cut_frames(
    input_features: torch.Tensor, feature_attention_mask: torch.Tensor, limit: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Takes away the padding behind the longest clip of a batch, but for two frames.

    Args:
        input_features (`torch.FloatTensor` of shape `(batch_size, num_mel_bins, num_frames)`): Padded log-mel frames.
        feature_attention_mask (`torch.LongTensor` of shape `(batch_size, num_frames)`): 1 for frames of the clips.
        limit (`int`): The most frames that the encoder has positions for.

    Raises:
        `ValueError`: for a clip that is longer, or padding that ends with it.
    """
    longest = int(feature_attention_mask.sum(-1).max())
    wanted = min(longest + SPARE_FRAMES + longest % 2, limit)
    if longest > limit or input_features.shape[-1] < wanted:
        raise ValueError(
            f"a clip of {longest} log-mel frames needs {wanted} with its padding and at most {limit}, got "
            f"{input_features.shape[-1]}: AudioLLMFeatureExtractor cuts and pads as needed."
        )
    return input_features[..., :wanted], feature_attention_mask[..., :wanted]


def encode_whisper(
    model: PreTrainedModel, input_features: torch.Tensor, feature_attention_mask: torch.Tensor
) -> torch.Tensor:
    """
    Whisper's encoder with pooled output and a projector, over as many positions as the longest clip needs.

    transformers insists on 30 s of frames; positions are absolute and padding is masked, so that fewer give the same.
    """
    tower, projector = model.model.audio_tower, model.model.multi_modal_projector
    input_features, mask = cut_frames(input_features, feature_attention_mask, 2 * tower.max_source_positions)
    frames = mask.sum(-1)
    hidden_states = F.gelu(tower.conv1(input_features.to(tower.conv1.weight.dtype)))
    hidden_states = F.gelu(tower.conv2(hidden_states)).transpose(1, 2)  # (batch, frames // 2, hidden_size)
    hidden_states = hidden_states + tower.embed_positions.weight[: hidden_states.shape[1]]
    hidden_states = F.dropout(hidden_states, tower.dropout, tower.training)
    attention_mask = create_bidirectional_mask(
        config=tower.config,
        inputs_embeds=hidden_states,
        attention_mask=_first(hidden_states.shape[1], encoder_positions(frames)),
    )
    for layer in tower.layers:
        hidden_states = layer(hidden_states, attention_mask)
    hidden_states = tower.layer_norm(tower.avg_pooler(hidden_states.transpose(1, 2)).transpose(1, 2))
    return projector(hidden_states)[_first(hidden_states.shape[1], num_audio_tokens(frames))]


def encode_packed(
    model: PreTrainedModel, input_features: torch.Tensor, feature_attention_mask: torch.Tensor
) -> torch.Tensor:
    """An encoder that works on windows of each clip and leaves the padding out by itself."""
    features = model.get_audio_features(input_features, feature_attention_mask, return_dict=True)
    return features.last_hidden_state


def _first(length: int, counts: torch.Tensor) -> torch.Tensor:
    """`(batch_size, length)`, true at the first `counts` positions of each row."""
    return torch.arange(length, device=counts.device) < counts[:, None]


def embed_audio(model: PreTrainedModel, input_ids: torch.Tensor, audio_embeds: torch.Tensor) -> torch.Tensor:
    """Token embeddings, with audio embeddings in place of the audio tokens."""
    embeds = model.get_input_embeddings()(input_ids)
    places = (input_ids == model.config.audio_token_id)[..., None]
    return embeds.masked_scatter(places, audio_embeds.to(embeds.device, embeds.dtype))


def encode_qwen_audio(
    model: PreTrainedModel, input_features: torch.Tensor, feature_attention_mask: torch.Tensor
) -> torch.Tensor:
    """Qwen-Audio's encoder, which cuts the padding and takes every clip by itself already."""
    return model.transformer.get_audio_features(input_features, feature_attention_mask)


def embed_qwen_audio(model: PreTrainedModel, input_ids: torch.Tensor, audio_embeds: torch.Tensor) -> torch.Tensor:
    """As elsewhere, and the tags around the audio have learned embeddings of their own."""
    return model.transformer.merge_audio(input_ids, audio_embeds)


BACKBONES = {
    "qwen_audio": Backbone(
        QwenAudioForConditionalGeneration,
        encode_qwen_audio,
        embed_qwen_audio,
        decoder="transformer",
        encoder_modules=("transformer.audio",),
        fixed=("positional_embedding",),
        lora_anchor=r"transformer\.h\.",
        lora_targets=("c_attn", "c_proj", "w1", "w2"),  # ALLM4ADD's
        renamed=(),
    ),
    "qwen2_audio": Backbone("Qwen2AudioForConditionalGeneration", encode_whisper, embed_audio),
    "qwen2_5_omni_thinker": Backbone(
        "Qwen2_5OmniThinkerForConditionalGeneration",
        encode_packed,
        embed_audio,
        encoder_modules=("model.audio_tower",),
        fixed=("audio_bos_eos_token.weight",),  # which nothing reaches
    ),
    "audioflamingo3": Backbone("AudioFlamingo3ForConditionalGeneration", encode_whisper, embed_audio),
}

# Published models that hold one of the above -> where its configuration lies in theirs.
NESTED = {"qwen2_5_omni": "thinker_config"}

# What the public repository of Qwen-Audio v1 calls itself.
PUBLISHED_QWEN_AUDIO = "qwen"


def find_backbone(model_type: str) -> Backbone:
    """
    Raises:
        `ValueError`: for a model that is not known, or that has to be converted first.
    """
    if model_type == PUBLISHED_QWEN_AUDIO:
        raise ValueError(
            "this is Qwen-Audio v1 as published (or another Qwen v1), whose code transformers 5 cannot run: download it, "
            "convert it by `spooftrace convert qwen-audio DIR OUT_DIR`, and name OUT_DIR instead."
        )
    if model_type not in BACKBONES:
        raise ValueError(
            f"{model_type!r} is no audio language model that is known here: {', '.join([*BACKBONES, *NESTED])}. Another "
            "one is an entry of BACKBONES in audio_llm_backbones.py."
        )
    return BACKBONES[model_type]
