"""Configuration of detectors that ask an audio language model: the model inside, the prompt, and the words that answer."""

from collections.abc import Mapping

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .audio_llm_backbones import find_backbone
from .configuration_qwen_audio import QwenAudioConfig


LABELS = ("bonafide", "spoof")

# The question and the words of ALLM4ADD (arXiv 2505.11079). In Qwen's vocabulary both words are single tokens.
DEFAULT_PROMPT = "Is this audio real or fake?"
DEFAULT_LABEL_WORDS = {"bonafide": "Real", "spoof": "Fake"}

# ALLM4ADD's adapters, for all linear layers of the decoder.
DEFAULT_LORA = {"r": 64, "lora_alpha": 16, "lora_dropout": 0.05}


def complete_lora(lora: Mapping | None, model_type: str) -> dict | None:
    """
    The settings of the adapters with every default filled in.

    Raises:
        `ValueError`: for an unknown key or a value that makes no adapter.
    """
    if lora is None:
        return None
    defaults = {**DEFAULT_LORA, "target_modules": find_backbone(model_type).lora_targets}
    unknown = set(lora) - set(defaults)
    if unknown:
        raise ValueError(f"`lora` has no key {sorted(unknown)}; it has {', '.join(defaults)}.")
    settings = {**defaults, **{key: value for key, value in lora.items() if value is not None}}
    targets = settings["target_modules"]
    if isinstance(targets, str) or not targets:
        raise ValueError(
            "`lora['target_modules']` is a list of layer names such as q_proj, which are looked for in the language model "
            f"alone, got {targets!r}."
        )
    if not isinstance(settings["r"], int) or settings["r"] < 1:
        raise ValueError(f"`lora['r']` is a rank, an integer of at least 1, got {settings['r']!r}.")
    if not isinstance(settings["lora_alpha"], (int, float)) or not settings["lora_alpha"] > 0:
        raise ValueError(f"`lora['lora_alpha']` is a positive number, got {settings['lora_alpha']!r}.")
    return {**settings, "target_modules": [*targets]}


@strict
class AudioLLMDetectorConfig(PreTrainedConfig):
    r"""
    Configuration of [`AudioLLMForAudioClassification`].

    [`AudioLLMForAudioClassification.from_backbone_pretrained`] fills it in from a published model and its processor: token
    ids are kept here, so that a detector takes audio alone and no text that comes with it can change the question.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            The audio language model, of any kind in `BACKBONES`. Defaults to `Qwen2AudioConfig()`, whose 12.7 billion
            parameters no published model has: the published Qwen2-Audio has 8.4 billion.
        prompt (`str`, *optional*, defaults to `"Is this audio real or fake?"`): The question, for reading.
        system_prompt (`str`, *optional*): What stands before it, for reading; `None` is the chat template's own.
        label_words (`dict[str, str]`, *optional*):
            The answer that stands for each label, a single token each. Defaults to `{"bonafide": "Real", "spoof": "Fake"}`.
        label_token_ids (`dict[str, int]`, *optional*): Their token ids; without them no model can be made.
        prompt_ids_before (`list[int]`, *optional*): Token ids of the whole prompt in front of the audio embeddings.
        prompt_ids_after (`list[int]`, *optional*): Token ids behind them, up to where the answer begins.
        audio_token_id (`int`, *optional*): The token that audio embeddings take the place of.
        pad_token_id (`int`, *optional*, defaults to 0): Fills up shorter rows of a batch; masked.
        lora (`dict`, *optional*):
            Low-rank adapters in a frozen language model. Keys, all optional: `r` (64), `lora_alpha` (16), `lora_dropout`
            (0.05), and `target_modules`, names of linear layers (all of the decoder's), looked for in the language model
            alone.
        train_encoder (`bool`, *optional*, defaults to `False`):
            Whether the audio encoder is trained as well, all of it but for its fixed positions, and belongs to checkpoints.
        base_model_name_or_path (`str`, *optional*):
            The published model that was adapted. Where it is named, checkpoints leave it out.
        base_revision (`str`, *optional*): Its commit on the Hub; `None` for a folder.
        base_sha256 (`str`, *optional*): The digest of its tensors.
        sampling_rate (`int`, *optional*, defaults to 16000): Of the waveform, in hertz.
        window_samples (`int`, *optional*, defaults to 480000): The longest clip in one pass, in samples; 30 s.
        calibration (`dict`, *optional*):
            `{"scale": float, "bias": float, "fitted_on": str}`: the probability of bona fide speech is
            `sigmoid(scale * score + bias)`, where the score is the log-odds of bona fide.
        training_corpora (`list[str]`, *optional*):
            Names of the corpora that the detector was fine-tuned on. What the base model has heard is not known.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type, or values that do not fit together.
    """

    model_type = "audio_llm_detector"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2_audio")}

    backbone_config: dict | PreTrainedConfig | None = None
    prompt: str = DEFAULT_PROMPT
    system_prompt: str | None = None
    label_words: dict | None = None
    label_token_ids: dict | None = None
    prompt_ids_before: list[int] | tuple[int, ...] | None = None
    prompt_ids_after: list[int] | tuple[int, ...] | None = None
    audio_token_id: int | None = None
    pad_token_id: int | None = 0
    lora: dict | None = None
    train_encoder: bool = False
    base_model_name_or_path: str | None = None
    base_revision: str | None = None
    base_sha256: str | None = None
    sampling_rate: int = 16_000
    window_samples: int = 480_000
    calibration: dict | None = None
    training_corpora: list[str] | tuple[str, ...] | None = None

    def __post_init__(self, **kwargs):
        self.id2label = dict(enumerate(LABELS))
        self.label2id = {label: index for index, label in enumerate(LABELS)}
        self.label_words = dict(self.label_words or DEFAULT_LABEL_WORDS)
        if self.pad_token_id is None:
            self.pad_token_id = 0
        # transformers does not know this one where spooftrace is not installed.
        if (
            isinstance(self.backbone_config, dict)
            and self.backbone_config.get("model_type") == QwenAudioConfig.model_type
        ):
            self.backbone_config = QwenAudioConfig(**self.backbone_config)
        super().__post_init__(**kwargs)
        self.lora = complete_lora(self.lora, self.backbone_config.model_type)

    @property
    def leaves_base_out(self) -> bool:
        """Whether checkpoints hold only what was trained."""
        return self.base_model_name_or_path is not None

    @property
    def label_ids(self) -> list[int]:
        """Token ids of the answers in the order of the logits, bona fide first."""
        return [self.label_token_ids[label] for label in LABELS]

    def to_dict(self) -> dict:
        """As in transformers, without how a base model that checkpoints leave out was held in memory."""
        values = super().to_dict()
        if self.leaves_base_out:  # else it would be looked for in 4 bits, and scored so
            values["backbone_config"].pop("quantization_config", None)
        return values

    def validate_architecture(self):
        """Part of `@strict`: checks how the fields fit together."""
        find_backbone(self.backbone_config.model_type)
        for name in ("label_words", "label_token_ids"):
            value = getattr(self, name)
            if value is not None and set(value) != set(LABELS):
                raise ValueError(f"`{name}` needs the keys {' and '.join(LABELS)}, got {sorted(value)}.")
        if self.label_token_ids is not None and len(set(self.label_ids)) < len(LABELS):
            raise ValueError(f"`label_token_ids` must differ, got {self.label_token_ids}.")
        for name in ("prompt_ids_before", "prompt_ids_after"):
            if self.audio_token_id is not None and self.audio_token_id in (getattr(self, name) or ()):
                raise ValueError(f"`{name}` holds the audio token {self.audio_token_id}; a prompt has one audio slot.")
        if self.window_samples < 1:
            raise ValueError(f"`window_samples` must be positive, got {self.window_samples}.")
        if self.calibration is not None and not {"scale", "bias"} <= set(self.calibration):
            raise ValueError(f"`calibration` needs the keys 'scale' and 'bias', got {sorted(self.calibration)}.")


__all__ = ["AudioLLMDetectorConfig"]
