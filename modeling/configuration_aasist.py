"""Configuration of the AASIST family: one graph-attention back-end behind three front ends."""

from collections.abc import Mapping
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, Wav2Vec2Config
from transformers.configuration_utils import SubConfigSpec

from .source_tasks import complete_task_labels, index_classes


# The reference trains and runs its front end without any of the noise that transformers adds by default, and fairseq's
# XLSR-53 was itself trained without. `mask_time_prob` keeps its value, so that `masked_spec_embed` exists as it does in
# the published checkpoints, although SpecAugment is off.
QUIET_WAV2VEC2 = {
    "activation_dropout": 0.0,
    "apply_spec_augment": False,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "hidden_dropout": 0.0,
    "layerdrop": 0.0,
}

# XLSR-53 and XLS-R 300M share one architecture (Conneau et al. 2020, Babu et al. 2021).
XLSR_300M = {
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}

# What the published systems use behind each front end; any of it can be overridden. Pooling is (frequency, time)
# after each residual block.
_FRONTEND_DEFAULTS = {
    "sinc": {
        "encoder_channels": [32, 32, 64, 64, 64, 64],
        "encoder_pooling": [[1, 3]] * 6,
        "node_aggregation": "max",
        "num_filters": 70,
        "pool_ratios": [0.5, 0.7, 0.5],
    },
    "mel": {
        "encoder_channels": [32, 48, 64],
        "encoder_pooling": [[1, 1], [2, 1], [2, 2]],
        "node_aggregation": "max",
        "num_filters": 60,
        "pool_ratios": [0.5, 0.5, 0.5],
    },
    "wav2vec2": {
        "encoder_channels": [32, 32, 64, 64, 64, 64],
        "encoder_pooling": [[1, 1]] * 6,
        "node_aggregation": "attention",
        "num_filters": 128,
        "pool_ratios": [0.5, 0.5, 0.5],
    },
}

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")

# alpha / r = 2: the reading of "scaling factor 2" that keeps an adapter's strength when its rank changes.
DEFAULT_SCALING = 2


def complete_lora(lora: Mapping | None) -> dict | None:
    """
    The settings of the adapters with every default filled in.

    Raises:
        `ValueError`: for an unknown key or a value that makes no adapter.
    """
    if lora is None:
        return None
    rank = lora.get("r", 4)
    defaults = {
        "r": rank,
        "lora_alpha": DEFAULT_SCALING * rank,
        "lora_dropout": 0.0,
        "target_modules": list(ATTENTION_PROJECTIONS),
        "base_model_name_or_path": None,
        "base_revision": None,
        "base_sha256": None,
    }
    unknown = set(lora) - set(defaults)
    if unknown:
        raise ValueError(f"`lora` has no key {sorted(unknown)}; it has {', '.join(defaults)}.")
    settings = {**defaults, **{key: value for key, value in lora.items() if value is not None}}
    targets = settings["target_modules"] = [*settings["target_modules"]]
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"`lora['r']` is a rank, an integer of at least 1, got {rank!r}.")
    if not isinstance(settings["lora_alpha"], (int, float)) or not settings["lora_alpha"] > 0:
        raise ValueError(f"`lora['lora_alpha']` is a positive number, got {settings['lora_alpha']!r}.")
    if not targets or not set(targets) <= set(ATTENTION_PROJECTIONS):
        raise ValueError(f"`lora['target_modules']` are some of {', '.join(ATTENTION_PROJECTIONS)}, got {targets}.")
    return settings


@strict
class AasistConfig(PreTrainedConfig):
    r"""
    Configuration of [`AasistModel`] and [`AasistForAudioClassification`].

    The defaults of `frontend="sinc"` are the published AASIST (Jung et al. 2022, arXiv 2110.01200); AASIST-L is
    `encoder_channels=[32, 32, 24, 24, 24, 24], graph_dims=[24, 32], pool_ratios=[0.4, 0.5, 0.7]`. The defaults of
    `frontend="wav2vec2"` are the W2V2-AASIST of Tak et al. 2022 (arXiv 2202.12233) with the XLSR-53 architecture.
    Fields whose default is `None` take the value that goes with the front end.

    Args:
        frontend (`str`, *optional*, defaults to `"sinc"`):
            `"sinc"`: fixed band-pass filters on the waveform. `"mel"`: log filter-bank energies, computed in the model.
            `"wav2vec2"`: a wav2vec 2.0 encoder followed by a linear projection.
        wav2vec2_config (`dict` or `Wav2Vec2Config`, *optional*):
            The wav2vec 2.0 encoder, only with `frontend="wav2vec2"`. Defaults to the XLSR-53 / XLS-R 300M architecture.
            A `dict` is completed with dropouts and layerdrop 0 and no SpecAugment; an instance is taken as it is.
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate of the waveform, in hertz.
        lora (`dict`, *optional*):
            Low-rank adapters in a frozen wav2vec 2.0; `None` trains the encoder as it is. Keys, all optional: `r` (4), the
            rank; `lora_alpha` (`2 * r`), where `lora_alpha / r` scales the adapters: the "scaling factor 2" of the paper is
            read as this ratio, and `lora_alpha=2` is the other reading; `lora_dropout` (0.0); `target_modules`, any of
            `q_proj`, `k_proj`, `v_proj` and `out_proj` (all); and, filled in by
            [`AasistForAudioClassification.from_wav2vec2_pretrained`], `base_model_name_or_path`, `base_revision` and
            `base_sha256`, the encoder that the adapters belong to.
        num_filters (`int`, *optional*):
            Height of the map that enters the encoder: band-pass filters (`sinc`, 70), bands of the filter bank (`mel`,
            60), or the size of the projection (`wav2vec2`, 128).
        sinc_kernel_size (`int`, *optional*, defaults to 129): Taps of each band-pass filter, an odd number.
        filter_scale (`str`, *optional*, defaults to `"linear"`): `"mel"` or `"linear"` spacing of the `mel` front end.
        n_fft (`int`, *optional*, defaults to 512): FFT size of the `mel` front end, in samples.
        win_lengths (`list[int]`, *optional*, defaults to `[512, 192]`):
            Hann windows of the `mel` front end, in samples; each gives the encoder one map.
        hop_length (`int`, *optional*, defaults to 160): Hop of the `mel` front end, in samples.
        min_frequency (`float`, *optional*, defaults to 50.0): Lower edge of the filter bank, in hertz.
        max_frequency (`float`, *optional*, defaults to 7200.0): Upper edge of the filter bank, in hertz.
        texture_size (`int`, *optional*, defaults to 7):
            Side of the cosine patterns whose local energy the `mel` encoder looks at, in bands and frames.
        encoder_channels (`list[int]`, *optional*):
            Output channels of each residual block; with `mel`, of the projection and of each residual block.
        encoder_pooling (`list[list[int]]`, *optional*):
            Max-pooling `[frequency, time]` after each residual block; with `mel`, strides of the projection and of each
            residual block.
        encoder_dropout (`float`, *optional*, defaults to 0.05): Dropout of whole channels in the `mel` encoder.
        node_aggregation (`str`, *optional*):
            How the encoder's map becomes graph nodes: `"max"` of the absolute values, or a learned `"attention"`.
        graph_dims (`list[int]`, *optional*, defaults to `[64, 32]`):
            Node size in the two homogeneous layers and in the four heterogeneous ones.
        pool_ratios (`list[float]`, *optional*):
            Kept share of the spectral nodes, of the temporal nodes, and of both in each branch.
        temperatures (`list[float]`, *optional*, defaults to `[2.0, 2.0, 100.0]`):
            Temperature of the attention over spectral nodes, over temporal nodes, and in the heterogeneous layers.
        graph_dropout (`float`, *optional*, defaults to 0.2): Dropout on the nodes that enter a graph layer.
        pool_dropout (`float`, *optional*, defaults to 0.3): Dropout on the scoring path of graph pooling.
        branch_dropout (`float`, *optional*, defaults to 0.2): Dropout before the two branches are merged.
        classifier_dropout (`float`, *optional*, defaults to 0.5): Dropout before the classifier.
        tasks (`list[str]`, *optional*, defaults to `["bin"]`):
            What the model answers, some of `"bin"`, `"vq"`, `"aux"` and `"dec"` (the source-tracing tasks of CodecFake+,
            arXiv 2501.08238). Several tasks share the front end, the encoder and the making of graph nodes; each has its
            own graph and classifier. The class names of the first one are `id2label`.
        task_labels (`dict[str, list[str]]`, *optional*):
            Classes of each task: `"bonafide"` followed by some of the taxonomy's, in its order. Defaults to all of them; a
            model of the task `"bin"` alone goes by `id2label`, and this is `None` unless it is given.
        calibration (`dict`, *optional*):
            `{"scale": float, "bias": float, "fitted_on": str}`: the probability of bona fide speech is
            `sigmoid(scale * score + bias)`, where the score is the log-odds of bona fide.
        training_corpora (`list[str]`, *optional*):
            Names of the corpora, or of the collections of speech, that the weights were trained on, for evaluations to
            say what a test set has in common with them. `None` is unknown.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: for a value of the wrong type, or values that do not fit together.
    """

    model_type = "aasist"
    sub_configs_defaults = {"wav2vec2_config": SubConfigSpec(config_class=Wav2Vec2Config, optional=True)}

    frontend: Literal["sinc", "mel", "wav2vec2"] = "sinc"
    wav2vec2_config: dict | PreTrainedConfig | None = None
    lora: dict | None = None
    sampling_rate: int = 16_000
    num_filters: int | None = None
    sinc_kernel_size: int = 129
    filter_scale: Literal["mel", "linear"] = "linear"
    n_fft: int = 512
    win_lengths: list[int] | tuple[int, ...] = (512, 192)
    hop_length: int = 160
    min_frequency: float | int = 50.0
    max_frequency: float | int = 7200.0
    texture_size: int = 7
    encoder_channels: list[int] | tuple[int, ...] | None = None
    encoder_pooling: list | tuple | None = None
    encoder_dropout: float | int = 0.05
    node_aggregation: Literal["max", "attention"] | None = None
    graph_dims: list[int] | tuple[int, ...] = (64, 32)
    pool_ratios: list[float] | tuple[float, ...] | None = None
    temperatures: list[float] | tuple[float, ...] = (2.0, 2.0, 100.0)
    graph_dropout: float | int = 0.2
    pool_dropout: float | int = 0.3
    branch_dropout: float | int = 0.2
    classifier_dropout: float | int = 0.5
    tasks: list[str] | tuple[str, ...] = ("bin",)
    task_labels: dict | None = None
    calibration: dict | None = None
    training_corpora: list[str] | tuple[str, ...] | None = None

    def __post_init__(self, **kwargs):
        for name, value in _FRONTEND_DEFAULTS[self.frontend].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.frontend == "wav2vec2" and not isinstance(self.wav2vec2_config, PreTrainedConfig):
            self.wav2vec2_config = {**QUIET_WAV2VEC2, **(self.wav2vec2_config or XLSR_300M)}
        self.lora = complete_lora(self.lora)
        self._complete_tasks(kwargs.get("num_labels"))
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = {0: "bonafide", 1: "spoof"}
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: int(index) for index, label in self.id2label.items()}
        super().__post_init__(**kwargs)

    def _complete_tasks(self, num_labels: int | None):
        """Fills in `task_labels`; `id2label` and `num_labels` have to agree with the first task where they are given."""
        labels = complete_task_labels(self.tasks, self.task_labels)
        self.tasks = list(self.tasks)
        if self.tasks == ["bin"] and self.task_labels is None:
            return
        self.task_labels = labels
        first = self.tasks[0]
        self.id2label = index_classes(first, labels[first], self.id2label, num_labels)

    @property
    def hidden_size(self) -> int:
        """Size of the clip embedding of one task: maximum and mean of both kinds of node, and the master node."""
        return 5 * self.graph_dims[1]

    @property
    def num_spectral_nodes(self) -> int:
        """Spectral graph nodes before pooling; their positional embedding fixes the number."""
        if self.frontend == "mel":
            height = (self.num_filters - self.texture_size) // 2 + 1  # patterns at every second band
            for stride, _ in self.encoder_pooling:
                height = -(-height // stride)  # padded convolutions round up
            return height
        height = self.num_filters // 3  # 3 x 3 pooling of the map
        for pool_frequency, _ in self.encoder_pooling:
            height //= pool_frequency
        return height

    def validate_architecture(self):
        """Part of `@strict`: checks how the fields fit together."""
        if (self.frontend == "wav2vec2") != (self.wav2vec2_config is not None):
            raise ValueError(
                f"`wav2vec2_config` goes with `frontend='wav2vec2'` alone, got frontend={self.frontend!r}."
            )
        if self.lora is not None and self.frontend != "wav2vec2":
            raise ValueError(f"`lora` adapts `frontend='wav2vec2'` alone, got frontend={self.frontend!r}.")
        if len(self.encoder_channels) != len(self.encoder_pooling):
            raise ValueError(
                "`encoder_channels` and `encoder_pooling` need one entry per residual block, got "
                f"{len(self.encoder_channels)} and {len(self.encoder_pooling)}."
            )
        check_backend(self)
        self._validate_filters()

    def _validate_filters(self):
        if self.texture_size < 2:
            raise ValueError(f"`texture_size` must be at least 2, got {self.texture_size}.")
        if self.sinc_kernel_size % 2 == 0:
            raise ValueError(f"`sinc_kernel_size` must be odd, got {self.sinc_kernel_size}.")
        if not self.win_lengths or not all(0 < length <= self.n_fft for length in self.win_lengths):
            raise ValueError(f"`win_lengths={list(self.win_lengths)}` must lie in 1 to `n_fft={self.n_fft}`.")
        if not 0 <= self.min_frequency < self.max_frequency <= self.sampling_rate / 2:
            raise ValueError(
                "`min_frequency` < `max_frequency` must lie between 0 and half of the sampling rate, got "
                f"{self.min_frequency}, {self.max_frequency} at {self.sampling_rate} Hz."
            )


def check_backend(config: PreTrainedConfig):
    """Raises `ValueError` where the fields of the graph back-end, or of the decision behind it, do not fit together."""
    for name, length in (("graph_dims", 2), ("pool_ratios", 3), ("temperatures", 3)):
        if len(getattr(config, name)) != length:
            raise ValueError(f"`{name}` needs {length} values, got {list(getattr(config, name))}.")
    if not all(0 < ratio <= 1 for ratio in config.pool_ratios):
        raise ValueError(f"`pool_ratios` are kept shares in (0, 1], got {list(config.pool_ratios)}.")
    if config.num_spectral_nodes < 1:
        raise ValueError(f"`num_filters={config.num_filters}` leaves no spectral node after pooling; raise it.")
    if config.calibration is not None and not {"scale", "bias"} <= set(config.calibration):
        raise ValueError(f"`calibration` needs the keys 'scale' and 'bias', got {sorted(config.calibration)}.")


__all__ = ["AasistConfig"]
