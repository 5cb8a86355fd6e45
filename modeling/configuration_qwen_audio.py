"""Configuration of Qwen-Audio v1: a Whisper-like encoder in front of a Qwen decoder with fused attention projections."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


@strict
class QwenAudioEncoderConfig(PreTrainedConfig):
    r"""
    Configuration of [`QwenAudioEncoder`]; the defaults are the published `Qwen/Qwen-Audio(-Chat)`.

    Args:
        num_mel_bins (`int`, *optional*, defaults to 80): Bands of the log-mel spectrogram.
        max_source_positions (`int`, *optional*, defaults to 1500):
            Positions after the strided convolution, 20 ms each: the encoder hears `2 * max_source_positions` mel frames of
            10 ms at most.
        hidden_size (`int`, *optional*, defaults to 1280): Width of the encoder; its feed-forward layers have four times that.
        num_hidden_layers (`int`, *optional*, defaults to 32): Transformer blocks.
        num_attention_heads (`int`, *optional*, defaults to 20): Attention heads of each block.
        output_dim (`int`, *optional*, defaults to 4096): Width of the decoder, to which the encoder projects.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type, or values that do not fit together.
    """

    model_type = "qwen_audio_encoder"
    base_config_key = "audio_config"

    num_mel_bins: int = 80
    max_source_positions: int = 1500
    hidden_size: int = 1280
    num_hidden_layers: int = 32
    num_attention_heads: int = 20
    output_dim: int = 4096
    initializer_range: float | int = 0.02

    def validate_architecture(self):
        """Part of `@strict`: checks how the fields fit together."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size={self.hidden_size}` of the encoder is no multiple of its `num_attention_heads="
                f"{self.num_attention_heads}`."
            )
        if self.hidden_size % 2 or self.hidden_size < 4:
            raise ValueError(
                f"`hidden_size={self.hidden_size}` of the encoder must be even and at least 4: its position table is half "
                "sines, half cosines."
            )


@strict
class QwenAudioConfig(PreTrainedConfig):
    r"""
    Configuration of [`QwenAudioModel`] and [`QwenAudioForConditionalGeneration`].

    The defaults are the published `Qwen/Qwen-Audio(-Chat)` (arXiv 2311.07919). Its `config.json` has other names, which
    `spooftrace convert qwen-audio` translates; note that `intermediate_size` there counts both halves of the gated layer.

    Args:
        audio_config (`dict` or `QwenAudioEncoderConfig`, *optional*): The audio encoder.
        vocab_size (`int`, *optional*, defaults to 155947): Rows of the embedding and of the output head.
        hidden_size (`int`, *optional*, defaults to 4096): Width of the decoder.
        intermediate_size (`int`, *optional*, defaults to 11008): Width of each half of the gated feed-forward layer.
        num_hidden_layers (`int`, *optional*, defaults to 32): Decoder layers.
        num_attention_heads (`int`, *optional*, defaults to 32): Attention heads, of keys and values too.
        head_dim (`int`, *optional*, defaults to 128): Width of a head.
        rms_norm_eps (`float`, *optional*, defaults to 1e-5): Added to the mean square in the norms.
        rotary_emb_base (`float`, *optional*, defaults to 10000.0): Base of the rotary embedding.
        seq_length (`int`, *optional*, defaults to 2048): Tokens seen in pretraining, past which the next two settings act.
        use_dynamic_ntk (`bool`, *optional*, defaults to `True`):
            Whether a longer prompt stretches the rotary base, in evaluation mode only.
        use_logn_attn (`bool`, *optional*, defaults to `True`):
            Whether queries past `seq_length` are scaled by the logarithm of their position, in evaluation mode only.
        max_position_embeddings (`int`, *optional*, defaults to 8192): Longest sequence the model is meant for.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of new weights.
        use_cache (`bool`, *optional*, defaults to `True`): Whether to return keys and values for decoding.
        audio_token_id (`int`, *optional*, defaults to 151851): The token whose places take the encoder's output.
        audio_bos_token_id (`int`, *optional*, defaults to 155163): The tag `<audio>`, replaced by a learned row.
        audio_eos_token_id (`int`, *optional*, defaults to 155164): The tag `</audio>`, replaced by a learned row.
        pad_token_id (`int`, *optional*, defaults to 151643): `<|endoftext|>`.
        eos_token_id (`int` or `list[int]`, *optional*, defaults to 151645): `<|im_end|>`, which ends a turn.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type, or values that do not fit together.
    """

    model_type = "qwen_audio"
    sub_configs_defaults = {"audio_config": SubConfigSpec(config_class=QwenAudioEncoderConfig)}
    keys_to_ignore_at_inference = ["past_key_values"]

    audio_config: dict | PreTrainedConfig | None = None
    vocab_size: int = 155_947
    hidden_size: int = 4096
    intermediate_size: int = 11_008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    head_dim: int = 128
    rms_norm_eps: float = 1e-5
    rotary_emb_base: float | int = 10_000.0
    seq_length: int = 2048
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    max_position_embeddings: int = 8192
    initializer_range: float | int = 0.02
    use_cache: bool = True
    audio_token_id: int = 151_851
    audio_bos_token_id: int = 155_163
    audio_eos_token_id: int = 155_164
    pad_token_id: int | None = 151_643
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 151_645
    tie_word_embeddings: bool = False

    def validate_architecture(self):
        """Part of `@strict`: checks how the fields fit together."""
        if self.audio_config.output_dim != self.hidden_size:
            raise ValueError(
                f"`audio_config.output_dim={self.audio_config.output_dim}` must equal the decoder's `hidden_size="
                f"{self.hidden_size}`: audio rows take the place of token embeddings."
            )
        if self.head_dim < 4 or self.head_dim % 2:
            raise ValueError(f"`head_dim={self.head_dim}` must be even and at least 4 for the rotary embedding.")
        if self.tie_word_embeddings:
            raise ValueError("`tie_word_embeddings` must be False: Qwen-Audio has an output head of its own.")
        for name in ("audio_token_id", "audio_bos_token_id", "audio_eos_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"`{name}={getattr(self, name)}` is outside the vocabulary of {self.vocab_size}.")


__all__ = ["QwenAudioConfig", "QwenAudioEncoderConfig"]
