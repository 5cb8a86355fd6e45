"""Configuration of SASTNet, its baselines without wav2vec 2.0 or Whisper, and its readings where paper and code differ."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, Wav2Vec2Config, WhisperConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_aasist import QUIET_WAV2VEC2, XLSR_300M, check_backend
from .source_tasks import SASTNET_CLASS_WEIGHTS, TASK_LABELS, complete_task_labels, index_classes


# openai/whisper-small, as far as its encoder goes.
WHISPER_SMALL = {
    "d_model": 768,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "encoder_layers": 12,
    "max_source_positions": 1500,
    "num_mel_bins": 80,
}

# Kaldi's and Whisper's spectrograms count their frames in samples of this rate.
SAMPLING_RATE = 16_000

# Fields that count layers, heads and features.
COUNTS = (
    "mae_hidden_size",
    "mae_num_layers",
    "mae_num_heads",
    "mae_intermediate_size",
    "decoder_hidden_size",
    "decoder_num_layers",
    "decoder_num_heads",
    "decoder_intermediate_size",
    "aggregation_num_heads",
    "fusion_num_layers",
    "fusion_num_heads",
    "fusion_intermediate_size",
)

# Kaldi's frames: 25 ms every 10 ms, none beyond the ends of the clip.
FRAME_LENGTH, FRAME_SHIFT = 400, 160


@strict
class SASTNetConfig(PreTrainedConfig):
    r"""
    Configuration of [`SASTNetModel`] and [`SASTNetForAudioClassification`].

    The defaults are SASTNet as published (arXiv 2506.07294), for the quantiser task. Where the paper and its public code
    differ, a field chooses, and its default is what the published checkpoints were trained with. The rows of the paper's
    ablation: `frontend="mel", use_semantics=False, num_decoders=1` is S-MAE; without `num_decoders`, M-MAE;
    `frontend="mel"` alone, Whisper + M-MAE; `use_semantics=False` alone, W2V2 + M-MAE.

    Some differences leave nothing to choose. Tokens keep their natural order, as in the public code's training; at inference
    that code permutes them at random. The decoders are plain transformer layers that attend globally, though AudioMAE's,
    whose weights they begin with, are of another kind. Differences of training, data and measures are told by the trainer's
    arguments, `SASTNetTrainingConfig`, and by the recipes.

    Args:
        task (`str`, *optional*, defaults to `"vq"`):
            What is asked: `"bin"`, genuine or not; `"vq"`, the quantiser; `"aux"`, the auxiliary objective of the codec;
            `"dec"`, the domain that its decoder works in.
        task_labels (`dict[str, list[str]]`, *optional*):
            The classes of the task, `{task: ["bonafide", ...]}`, some of those in `TASK_LABELS`; all by default. The paper
            calls the auxiliary task three-class, its code and checkpoints have four with bona fide.
        frontend (`str`, *optional*, defaults to `"wav2vec2"`):
            What the masked autoencoder sees: projected wav2vec 2.0 features, or `"mel"`, Kaldi's log filter bank.
        use_semantics (`bool`, *optional*, defaults to `True`):
            Whether a frozen Whisper encoder and the three cross-modal transformers are there.
        num_decoders (`int`, *optional*):
            Decoders of the masked autoencoder: one per class (`None`), or 1.
        wav2vec2_config (`dict` or `Wav2Vec2Config`, *optional*):
            The wav2vec 2.0 encoder, XLS-R 300M by default. A `dict` is completed with dropouts and layerdrop 0.
        whisper_config (`dict` or `WhisperConfig`, *optional*):
            The Whisper encoder, whisper-small by default; its width has to be `mae_hidden_size`.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Sampling rate of the waveform, in hertz; another one only with wav2vec 2.0 alone.
        window_samples (`int`, *optional*, defaults to 82200): Longest input in samples (5.1375 s); it sizes the tables.
        feature_size (`int`, *optional*, defaults to 128):
            Width of the autoencoder's input: bands of the filter bank, or the size of the projection. `None` leaves
            wav2vec 2.0 features as they are, which is the paper's wording of its reconstruction target.
        fbank_mean (`float`, *optional*, defaults to -8.7086): Mean of the filter bank over the training corpus.
        fbank_std (`float`, *optional*, defaults to 4.4163):
            Its standard deviation; the input is scaled to half of that. Without silence: -6.1276 and 3.8073.
        semantic_frames (`int`, *optional*, defaults to 256):
            Whisper's output steps of 20 ms that are used, pooled in pairs. The paper cuts at the end of the clip; its
            clips all last 5.14 s, which are 256 steps.
        whisper_context (`int`, *optional*):
            Steps that Whisper's encoder attends to, of the 1,500 (30 s) that it was trained with. `None` is all of them, and
            what the checkpoints were trained with; fewer, at least `semantic_frames`, save most of its time and change the
            logits somewhat.
        patch_size (`int`, *optional*, defaults to 16): Side of the square patches, in frames and features.
        mae_hidden_size (`int`, *optional*, defaults to 768): Width of the autoencoder's encoder and of all that follows.
        mae_num_layers (`int`, *optional*, defaults to 12): Its layers.
        mae_num_heads (`int`, *optional*, defaults to 12): Its attention heads.
        mae_intermediate_size (`int`, *optional*, defaults to 3072): Width inside its feed-forward layers.
        decoder_hidden_size (`int`, *optional*, defaults to 512): Width of each decoder.
        decoder_num_layers (`int`, *optional*, defaults to 8): Layers of each decoder.
        decoder_num_heads (`int`, *optional*, defaults to 16): Attention heads of each decoder.
        decoder_intermediate_size (`int`, *optional*, defaults to 2048): Width inside its feed-forward layers.
        aggregation_num_heads (`int`, *optional*, defaults to 16): Heads of the attention over all decoders' outputs.
        mask_ratio (`float`, *optional*, defaults to 0.4): Share of the patches to mask in training.
        mask_mode (`str`, *optional*, defaults to `"2d"`):
            `"2d"`: half of the ratio in whole time steps and half in whole feature rows, each rounded in favour of masking
            (7 of 16 patches with the defaults). `"random"`: single patches.
        fusion_num_layers (`int`, *optional*, defaults to 2): Layers of each cross-modal transformer.
        fusion_num_heads (`int`, *optional*, defaults to 16): Their attention heads.
        fusion_intermediate_size (`int`, *optional*, defaults to 3072): Width inside their feed-forward layers.
        fusion_dropout (`float`, *optional*, defaults to 0.1): Dropout on their inputs and residual branches.
        keep_cls_token (`bool`, *optional*, defaults to `True`):
            Whether the autoencoder's class token goes on to fusion and back-end, 129 steps, or only the 128 patches of the
            paper.
        detach_target (`bool`, *optional*, defaults to `False`):
            Whether the reconstruction target is cut off from the gradient. In the public code it trains the front end.
        margin (`float`, *optional*, defaults to 0.1): By how much the true class's decoder has to be the better one.
        margin_reading (`str`, *optional*, defaults to `"each"`):
            `"each"`: the hinge of every other decoder, averaged. `"mean"`: the hinge of their mean error, equation 2 of the
            paper.
        class_weights (`list[float]`, *optional*):
            Weight of each class in the cross-entropy. `None` takes those of the public code, `[1, 1, ...]` is the paper's
            unweighted loss.
        num_filters (`int`, *optional*, defaults to 128): Size of the projection that enters the AASIST back-end.
        encoder_channels (`list[int]`, *optional*, defaults to `[32, 32, 64, 64, 64, 64]`): See [`AasistConfig`].
        graph_dims (`list[int]`, *optional*, defaults to `[64, 32]`): See [`AasistConfig`].
        pool_ratios (`list[float]`, *optional*, defaults to `[0.5, 0.5, 0.5]`): See [`AasistConfig`].
        temperatures (`list[float]`, *optional*, defaults to `[2.0, 2.0, 100.0]`): See [`AasistConfig`].
        graph_dropout (`float`, *optional*, defaults to 0.2): See [`AasistConfig`].
        pool_dropout (`float`, *optional*, defaults to 0.3): See [`AasistConfig`].
        branch_dropout (`float`, *optional*, defaults to 0.2): See [`AasistConfig`].
        classifier_dropout (`float`, *optional*, defaults to 0.5): Dropout before the classifier.
        calibration (`dict`, *optional*): As in [`AasistConfig`]; for the task `"bin"`.
        training_corpora (`list[str]`, *optional*): Names of the corpora that the weights were trained on.
        weight_licenses (`dict[str, str]`, *optional*):
            Licences of weights that these were made from, by their source. AudioMAE's are CC BY-NC 4.0.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type, or values that do not fit together.
    """

    model_type = "sastnet"
    sub_configs_defaults = {
        "wav2vec2_config": SubConfigSpec(config_class=Wav2Vec2Config, optional=True),
        "whisper_config": SubConfigSpec(config_class=WhisperConfig, optional=True),
    }

    task: Literal["bin", "vq", "aux", "dec"] = "vq"
    task_labels: dict | None = None
    frontend: Literal["wav2vec2", "mel"] = "wav2vec2"
    use_semantics: bool = True
    num_decoders: int | None = None
    wav2vec2_config: dict | PreTrainedConfig | None = None
    whisper_config: dict | PreTrainedConfig | None = None
    sampling_rate: int = 16_000
    window_samples: int = 82_200
    feature_size: int | None = 128
    fbank_mean: float | int = -8.7086
    fbank_std: float | int = 4.4163
    semantic_frames: int = 256
    whisper_context: int | None = None
    patch_size: int = 16
    mae_hidden_size: int = 768
    mae_num_layers: int = 12
    mae_num_heads: int = 12
    mae_intermediate_size: int = 3072
    decoder_hidden_size: int = 512
    decoder_num_layers: int = 8
    decoder_num_heads: int = 16
    decoder_intermediate_size: int = 2048
    aggregation_num_heads: int = 16
    mask_ratio: float | int = 0.4
    mask_mode: Literal["2d", "random"] = "2d"
    fusion_num_layers: int = 2
    fusion_num_heads: int = 16
    fusion_intermediate_size: int = 3072
    fusion_dropout: float | int = 0.1
    keep_cls_token: bool = True
    detach_target: bool = False
    margin: float | int = 0.1
    margin_reading: Literal["each", "mean"] = "each"
    class_weights: list[float] | tuple[float, ...] | None = None
    num_filters: int = 128
    encoder_channels: list[int] | tuple[int, ...] = (32, 32, 64, 64, 64, 64)
    graph_dims: list[int] | tuple[int, ...] = (64, 32)
    pool_ratios: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    temperatures: list[float] | tuple[float, ...] = (2.0, 2.0, 100.0)
    graph_dropout: float | int = 0.2
    pool_dropout: float | int = 0.3
    branch_dropout: float | int = 0.2
    classifier_dropout: float | int = 0.5
    calibration: dict | None = None
    training_corpora: list[str] | tuple[str, ...] | None = None
    weight_licenses: dict | None = None

    def __post_init__(self, **kwargs):
        if self.frontend == "wav2vec2" and not isinstance(self.wav2vec2_config, PreTrainedConfig):
            self.wav2vec2_config = {**QUIET_WAV2VEC2, **(self.wav2vec2_config or XLSR_300M)}
        if self.use_semantics and self.whisper_config is None:
            self.whisper_config = dict(WHISPER_SMALL)
        self.task_labels = complete_task_labels([self.task], self.task_labels)
        labels = self.task_labels[self.task]
        self.id2label = index_classes(self.task, labels, self.id2label, kwargs.pop("num_labels", None))
        self.label2id = {label: index for index, label in self.id2label.items()}
        if self.num_decoders is None:
            self.num_decoders = len(self.id2label)
        if self.class_weights is None:
            known = dict(zip(TASK_LABELS[self.task], SASTNET_CLASS_WEIGHTS[self.task], strict=True))
            self.class_weights = [known[label] for label in self.label2id]
        super().__post_init__(**kwargs)

    @property
    def tasks(self) -> list[str]:
        """The one task, as several are listed in [`AasistConfig`]."""
        return [self.task]

    @property
    def encoder_pooling(self) -> list[list[int]]:
        """The back-end's residual blocks keep the size of their map."""
        return [[1, 1]] * len(self.encoder_channels)

    @property
    def node_aggregation(self) -> str:
        """The back-end's way from map to graph nodes; see [`AasistConfig`]."""
        return "attention"

    @property
    def hidden_size(self) -> int:
        """Size of the clip embedding."""
        return 5 * self.graph_dims[1]

    @property
    def num_spectral_nodes(self) -> int:
        """Spectral graph nodes before pooling, after 3 x 3 pooling of the projection."""
        return self.num_filters // 3

    @property
    def feature_width(self) -> int:
        """Width of what the autoencoder sees."""
        return self.wav2vec2_config.hidden_size if self.feature_size is None else self.feature_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches of the longest input, over time and over features."""
        return self.num_frames(self.window_samples) // self.patch_size, self.feature_width // self.patch_size

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform at the autoencoder's input; none or fewer for one that is too short."""
        if self.frontend == "mel":
            return (num_samples - FRAME_LENGTH) // FRAME_SHIFT + 1
        encoder = self.wav2vec2_config
        for kernel, stride in zip(encoder.conv_kernel, encoder.conv_stride, strict=True):
            num_samples = (num_samples - kernel) // stride + 1
        return num_samples

    @property
    def minimum_samples(self) -> int:
        """Shortest input in samples: one patch over time."""
        steps = self.patch_size
        if self.frontend == "mel":
            return (steps - 1) * FRAME_SHIFT + FRAME_LENGTH
        encoder = self.wav2vec2_config
        for kernel, stride in zip(reversed(encoder.conv_kernel), reversed(encoder.conv_stride), strict=True):
            steps = (steps - 1) * stride + kernel
        return steps

    def validate_architecture(self):
        """Part of `@strict`: checks how the fields fit together."""
        self._validate_frontends()
        self._validate_classes()
        self._validate_widths()
        self._validate_patches()
        check_backend(self)

    def _validate_frontends(self):
        for name, present in (
            ("wav2vec2_config", self.frontend == "wav2vec2"),
            ("whisper_config", self.use_semantics),
        ):
            if present != (getattr(self, name) is not None):
                raise ValueError(
                    f"`{name}` goes with `frontend='wav2vec2'` or `use_semantics=True`, got frontend={self.frontend!r} and "
                    f"use_semantics={self.use_semantics}."
                )
        if not self.fbank_std > 0:
            raise ValueError(f"`fbank_std` is above 0, got {self.fbank_std}.")
        if self.sampling_rate != SAMPLING_RATE and (self.frontend == "mel" or self.use_semantics):
            raise ValueError(
                f"Kaldi's and Whisper's spectrograms are made of waveforms at {SAMPLING_RATE} Hz, got "
                f"`sampling_rate={self.sampling_rate}`: resample the audio."
            )
        if self.use_semantics:
            self._validate_whisper()

    def _validate_classes(self):
        if self.num_decoders not in (1, len(self.id2label)):
            raise ValueError(
                f"`num_decoders` is 1 or one for each of the {len(self.id2label)} classes, got {self.num_decoders}."
            )
        if len(self.class_weights) != len(self.id2label) or not all(weight > 0 for weight in self.class_weights):
            raise ValueError(
                f"`class_weights` needs a positive number for each of {', '.join(self.label2id)}, got "
                f"{list(self.class_weights)}."
            )

    def _validate_widths(self):
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is at least 1, got {getattr(self, name)}.")
        for width, heads in (
            ("mae_hidden_size", "mae_num_heads"),
            ("mae_hidden_size", "aggregation_num_heads"),
            ("mae_hidden_size", "fusion_num_heads"),
            ("decoder_hidden_size", "decoder_num_heads"),
        ):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(
                    f"`{width}={getattr(self, width)}` is no multiple of `{heads}={getattr(self, heads)}`."
                )
        for name in ("mae_hidden_size", "decoder_hidden_size"):
            if getattr(self, name) % 4:
                raise ValueError(
                    f"`{name}` must be a multiple of 4 for its position tables, got {getattr(self, name)}."
                )

    def _validate_patches(self):
        if self.feature_size is None and self.frontend == "mel":
            raise ValueError("`feature_size` is the number of mel bands with `frontend='mel'`, got None.")
        if self.patch_size < 1 or self.feature_width < 1 or self.feature_width % self.patch_size:
            raise ValueError(
                f"features of width {self.feature_width} cannot be cut into patches of `patch_size={self.patch_size}`."
            )
        if self.grid_size[0] < 1:
            raise ValueError(f"`window_samples={self.window_samples}` is shorter than a patch; raise it.")
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` lies in [0, 1), got {self.mask_ratio}.")

    def _validate_whisper(self):
        whisper = self.whisper_config
        if whisper.d_model != self.mae_hidden_size:
            raise ValueError(
                f"the Whisper encoder has the width {whisper.d_model}, but the transformers that join it to the autoencoder "
                f"need `mae_hidden_size={self.mae_hidden_size}`."
            )
        context = whisper.max_source_positions if self.whisper_context is None else self.whisper_context
        if not 2 <= self.semantic_frames <= context <= whisper.max_source_positions:
            raise ValueError(
                "2 <= `semantic_frames` <= `whisper_context` <= `whisper_config.max_source_positions` must hold, got "
                f"{self.semantic_frames}, {context} and {whisper.max_source_positions}."
            )


__all__ = ["SASTNetConfig"]
