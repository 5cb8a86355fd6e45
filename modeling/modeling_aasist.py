"""The AASIST family: sinc, filter-bank or wav2vec 2.0 front end -> residual encoder -> graph attention -> logits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.utils import ModelOutput

from .aasist import GraphBackend, GraphHead, ResidualEncoder
from .aasist_adapters import PreTrainedAdaptedModel
from .configuration_aasist import QUIET_WAV2VEC2, AasistConfig
from .frontends import MelFrontend, SincFrontend
from .lora import HUB_OPTIONS, adapted_key, add_lora, encoder_digest, load_encoder, resolve_commit
from .source_tasks import UNKNOWN
from .texture_encoder import TextureEncoder, texture_minimum_frames


@dataclass
class AasistModelOutput(ModelOutput):
    """
    Output of [`AasistModel`].

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, num_tasks * 5 * graph_dims[1])`):
            One vector per clip and task, in the order of `config.tasks`: maximum magnitude and mean of the temporal
            nodes, the same of the spectral nodes, and the master node.
        spectral_scores (`torch.FloatTensor` of shape `(batch_size, num_spectral_nodes)`, *optional*):
            How much graph pooling weighs each spectral node in the graph of the first task, in (0, 1), low frequencies
            first. Only with `output_node_scores=True`.
        temporal_scores (`torch.FloatTensor` of shape `(batch_size, num_temporal_nodes)`, *optional*):
            The same for the temporal nodes, in order of time.
    """

    embeddings: torch.FloatTensor | None = None
    spectral_scores: torch.FloatTensor | None = None
    temporal_scores: torch.FloatTensor | None = None


@dataclass
class AasistOutput(ModelOutput):
    """
    Output of [`AasistForAudioClassification`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `labels`):
            Mean over the tasks of the mean cross-entropy over the clips whose class is known.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Of the first task, before the softmax, in the order of `config.id2label`. The score of a clip is the log-odds of
            bona fide, for two classes `logits[:, label2id["bonafide"]] - logits[:, label2id["spoof"]]`, higher for genuine
            speech.
        embeddings (`torch.FloatTensor` of shape `(batch_size, num_tasks * 5 * graph_dims[1])`):
            See [`AasistModelOutput`].
        spectral_scores (`torch.FloatTensor`, *optional*): See [`AasistModelOutput`].
        temporal_scores (`torch.FloatTensor`, *optional*): See [`AasistModelOutput`].
        task_logits (`dict[str, torch.FloatTensor]`, *optional*, returned by models of several tasks):
            Logits `(batch_size, classes)` of every task, each in the order of `config.task_labels[task]`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    spectral_scores: torch.FloatTensor | None = None
    temporal_scores: torch.FloatTensor | None = None
    task_logits: dict[str, torch.FloatTensor] | None = None


class Wav2Vec2Frontend(nn.Module):
    """Waveform -> wav2vec 2.0 -> linear projection -> 3 x 3 max-pooling."""

    def __init__(self, config: AasistConfig):
        super().__init__()
        self.wav2vec2 = Wav2Vec2Model(config.wav2vec2_config)
        if config.lora is not None:
            add_lora(self.wav2vec2, config.lora)
        self.projection = nn.Linear(config.wav2vec2_config.hidden_size, config.num_filters)

    def pool(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, hidden_size)` -> `(batch, 1, num_filters // 3, frames // 3)`"""
        features = self.projection(hidden_states).transpose(1, 2)
        return F.max_pool2d(features[:, None], 3)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """`(batch, num_samples)` -> `(batch, 1, num_filters // 3, frames // 3)`, one frame every 20 ms"""
        return self.pool(self.wav2vec2(input_values).last_hidden_state)


MODULE_NAME = __name__.split(".")[-1]
FRONTENDS = {"sinc": SincFrontend, "mel": MelFrontend, "wav2vec2": Wav2Vec2Frontend}


class AasistPreTrainedModel(PreTrainedAdaptedModel):
    config: AasistConfig
    base_model_prefix = "aasist"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": f"{MODULE_NAME}.AasistModel",
        "AutoModelForAudioClassification": f"{MODULE_NAME}.AasistForAudioClassification",
    }


class AasistModel(AasistPreTrainedModel):
    """Waveform -> front end -> residual encoder -> graph attention, one graph per task -> clip embedding."""

    def __init__(self, config: AasistConfig):
        super().__init__(config)
        self.frontend = FRONTENDS[config.frontend](config)
        self.encoder = (TextureEncoder if config.frontend == "mel" else ResidualEncoder)(config)
        self.backend = GraphBackend(config)
        self.task_graphs = nn.ModuleDict({task: GraphHead(config) for task in config.tasks[1:]})
        self.post_init()
        self.leave_base_out()

    def freeze_frontend(self):
        """Excludes the wav2vec 2.0 encoder from training; its projection, encoder and graph remain trainable."""
        if self.config.frontend == "wav2vec2":
            self.frontend.wav2vec2.requires_grad_(False)

    def forward(
        self, input_values: torch.Tensor, output_node_scores: bool = False, return_dict: bool | None = None
    ) -> AasistModelOutput | tuple[torch.Tensor, ...]:
        """
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`):
                Mono waveforms in [-1, 1] at `config.sampling_rate`, all of one length (there is no padding mask).
            output_node_scores (`bool`, *optional*, defaults to `False`): Whether to return the nodes' pooling scores.

        Raises:
            `ValueError`: if `input_values` is not two-dimensional or too short for one graph node.
        """
        if input_values.ndim != 2:
            raise ValueError(
                f"`input_values` must have the shape (batch_size, num_samples), got {tuple(input_values.shape)}; "
                "the model takes mono waveforms."
            )
        self._check_length(input_values.shape[1])
        hidden_states = self.encoder(self.frontend(input_values))  # (batch, channels, height, width)
        embeddings, spectral_scores, temporal_scores = self._read_graphs(hidden_states)
        output = AasistModelOutput(
            embeddings=embeddings,
            spectral_scores=spectral_scores if output_node_scores else None,
            temporal_scores=temporal_scores if output_node_scores else None,
        )
        return self.returned(output, return_dict)

    def _read_graphs(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The embeddings of all tasks side by side, and the node scores of the first."""
        if not self.task_graphs:
            return self.backend(hidden_states)
        nodes = self.backend.nodes(hidden_states)
        embedding, *scores = self.backend.read(*nodes)
        others = [graph(*nodes)[0] for graph in self.task_graphs.values()]
        return torch.cat([embedding, *others], dim=1), *scores

    def _check_length(self, num_samples: int):
        minimum = minimum_samples(self.config)
        if num_samples < minimum:
            raise ValueError(
                f"Clips of {num_samples} samples are too short for this model: it needs {minimum} "
                f"({minimum / self.config.sampling_rate:.3f} s). The feature extractor repeats short clips."
            )


def minimum_samples(config: AasistConfig) -> int:
    """Shortest input, in samples, that leaves one temporal graph node."""
    if config.frontend == "mel":  # its strided convolutions are padded: only the texture map needs several frames
        return (texture_minimum_frames(config.texture_size) - 1) * config.hop_length
    frames = 1
    for _, pool_time in config.encoder_pooling:
        frames *= pool_time
    if config.frontend == "sinc":
        return 3 * frames + config.sinc_kernel_size - 1
    length = 3 * frames
    encoder = config.wav2vec2_config
    for kernel, stride in zip(reversed(encoder.conv_kernel), reversed(encoder.conv_stride), strict=True):
        length = (length - 1) * stride + kernel
    return length


def loss_over_tasks(logits: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """
    Mean over the tasks that have a known class in the batch of their mean cross-entropy; 0 where nothing is known.

    Args:
        logits: `(batch_size, classes)` of each task.
        labels: `(batch_size, num_tasks)`, -100 where the class is not known.
    """
    known = (labels != UNKNOWN).sum(dim=0)
    columns = zip(logits.values(), labels.unbind(dim=1), strict=True)
    sums = [F.cross_entropy(task, column, ignore_index=UNKNOWN, reduction="sum") for task, column in columns]
    means = torch.stack(sums) / known.clamp(min=1)
    return means.sum() / (known > 0).sum().clamp(min=1)


class AasistForAudioClassification(AasistPreTrainedModel):
    """AasistModel -> dropout -> linear -> logits, index 0 for bona fide and 1 for spoof by default.

    With several tasks, one linear layer for each.
    """

    def __init__(self, config: AasistConfig):
        super().__init__(config)
        self.aasist = AasistModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.task_classifiers = nn.ModuleDict(
            {task: nn.Linear(config.hidden_size, len(config.task_labels[task])) for task in config.tasks[1:]}
        )
        self.post_init()
        self.leave_base_out()

    @classmethod
    def from_wav2vec2_pretrained(
        cls, wav2vec2_name_or_path: str | os.PathLike, revision: str = "main", **config_kwargs
    ) -> "AasistForAudioClassification":
        """
        A detector with a pretrained wav2vec 2.0 front end and a freshly initialised back-end, ready to be trained.

        Args:
            wav2vec2_name_or_path (`str` or `os.PathLike`):
                A wav2vec 2.0 model on the Hub or in a folder, for example `"facebook/wav2vec2-large-xlsr-53"`. Its
                dropouts, layerdrop and SpecAugment are switched off.
            revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit of the wav2vec 2.0 repository.
            config_kwargs: Further fields of [`AasistConfig`].

        Raises:
            `ValueError`: if the repository lacks any weight of the encoder.
            `TypeError`: for a field that there is not.
        """
        hub_options = {name: config_kwargs.pop(name) for name in HUB_OPTIONS if name in config_kwargs}
        known = {*AasistConfig.__dataclass_fields__, "attn_implementation", "num_labels"}
        if unknown := sorted(config_kwargs.keys() - known):
            raise TypeError(f"there is no option {', '.join(unknown)}: AasistConfig names the fields of a model.")
        commit = resolve_commit(wav2vec2_name_or_path, revision, **hub_options)
        hub_options["revision"] = commit or revision
        encoder_config = Wav2Vec2Config.from_pretrained(wav2vec2_name_or_path, **hub_options, **QUIET_WAV2VEC2)
        encoder = load_encoder(wav2vec2_name_or_path, encoder_config, **hub_options)
        if config_kwargs.get("lora") is not None:
            # A folder is found from wherever the detector is loaded.
            name = os.path.abspath(wav2vec2_name_or_path) if commit is None else os.fspath(wav2vec2_name_or_path)
            config_kwargs["lora"] = {
                **config_kwargs["lora"],
                "base_model_name_or_path": name,
                "base_revision": commit,
                "base_sha256": encoder_digest(encoder.state_dict()),
            }
        model = cls(AasistConfig(frontend="wav2vec2", wav2vec2_config=encoder_config, **config_kwargs))
        targets = (model.config.lora or {}).get("target_modules", [])
        state = {adapted_key(name, targets): value for name, value in encoder.state_dict().items()}
        model.wav2vec2.load_state_dict(state, strict=not targets)  # the adapters are not in it
        return model

    def freeze_frontend(self):
        """Excludes the wav2vec 2.0 encoder from training; everything behind it remains trainable."""
        self.aasist.freeze_frontend()

    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_node_scores: bool = False,
        return_dict: bool | None = None,
    ) -> AasistOutput | tuple[torch.Tensor, ...]:
        """
        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`):
                Mono waveforms in [-1, 1] at `config.sampling_rate`, all of one length.
            labels (`torch.LongTensor`, *optional*):
                Class indices, -100 where the class is not known: of shape `(batch_size,)` for a model of one task,
                `(batch_size, num_tasks)` in the order of `config.tasks` for one of several.
            output_node_scores (`bool`, *optional*, defaults to `False`): Whether to return the nodes' pooling scores.

        Raises:
            `ValueError`: if `input_values` is not two-dimensional or too short for one graph node, or if `labels` are not
                one per clip and task.
        """
        outputs = self.aasist(input_values, output_node_scores=output_node_scores, return_dict=True)
        logits = self._classify(outputs.embeddings)
        output = AasistOutput(
            loss=None if labels is None else loss_over_tasks(logits, self._label_columns(labels, len(input_values))),
            logits=logits[self.config.tasks[0]],
            task_logits=logits if len(logits) > 1 else None,
            **outputs,
        )
        return self.returned(output, return_dict)

    def _classify(self, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(batch, num_tasks * hidden_size)` -> logits `(batch, classes)` of each task, in the order of the tasks"""
        classifiers = [self.classifier, *self.task_classifiers.values()]
        parts = embeddings.split(self.config.hidden_size, dim=1)
        outputs = [classify(self.dropout(part)) for classify, part in zip(classifiers, parts, strict=True)]
        return dict(zip(self.config.tasks, outputs, strict=True))

    def _label_columns(self, labels: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Labels of shape `(batch_size, num_tasks)`, also for a single task."""
        num_tasks = len(self.config.tasks)
        expected = (batch_size,) if num_tasks == 1 else (batch_size, num_tasks)
        if tuple(labels.shape) != expected:
            raise ValueError(
                f"`labels` must have the shape {expected} for the tasks {', '.join(self.config.tasks)}, got "
                f"{tuple(labels.shape)}; -100 stands for a class that is not known."
            )
        return labels.view(batch_size, num_tasks)


__all__ = [
    "AasistForAudioClassification",
    "AasistModel",
    "AasistModelOutput",
    "AasistOutput",
    "AasistPreTrainedModel",
    "minimum_samples",
]
