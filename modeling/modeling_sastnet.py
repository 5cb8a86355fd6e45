"""SASTNet: who made this codec speech? Semantics from Whisper, acoustics from a masked autoencoder with several decoders.

"Towards Generalized Source Tracing for Codec-Based Deepfake Speech" (arXiv 2506.07294).
"""

import os
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Wav2Vec2Model
from transformers import initialization as init
from transformers.utils import ModelOutput

from .aasist import GraphBackend, ResidualEncoder
from .audio_mae import MaskedEncoder, MultiDecoderMAE, PatchDecoder, draw_kept_patches, masked_errors, patchify
from .configuration_sastnet import SASTNetConfig
from .cross_modal import CrossModalTransformer
from .kaldi_filter_bank import KaldiFilterBank
from .lora import HUB_OPTIONS
from .packed_attention import PackedAttention
from .pretrained_waveform_model import PreTrainedWaveformModel
from .sastnet_loss import automatic_weighted_loss, margin_reconstruction_loss
from .sastnet_parts import find_parts, put_parts
from .whisper_semantics import WhisperSemantics


MODULE_NAME = __name__.split(".")[-1]
POOLING = 3  # of tokens and of their projection, before the back-end


@dataclass
class SASTNetModelOutput(ModelOutput):
    """
    Output of [`SASTNetModel`].

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, 5 * graph_dims[1])`): One vector per clip.
        decoder_errors (`torch.FloatTensor` of shape `(batch_size, num_decoders)`, *optional*):
            Mean squared error of each decoder over the masked patches, or over all where nothing was masked.
        reconstruction_errors (`torch.FloatTensor` of shape `(batch_size, num_decoders, num_patches)`, *optional*):
            Mean squared error of each decoder on each patch; patch `t * grid_size[1] + f` lies at time `t`, feature `f`.
        attentions (`dict[str, torch.FloatTensor]`, *optional*):
            Of the transformers `"semantic_to_acoustic"` (queries are Whisper's steps, keys the autoencoder's tokens),
            `"acoustic_to_semantic"` (the other way round) and `"fusion"` (queries acoustic, keys semantic), each
            `(batch_size, layers, heads, queries, keys)`. The class token comes first among the acoustic ones.
    """

    embeddings: torch.FloatTensor | None = None
    decoder_errors: torch.FloatTensor | None = None
    reconstruction_errors: torch.FloatTensor | None = None
    attentions: dict[str, torch.FloatTensor] | None = None


@dataclass
class SASTNetOutput(ModelOutput):
    """
    Output of [`SASTNetForAudioClassification`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*, returned with `labels`):
            In training the automatically weighted sum of the two losses below, otherwise `classification_loss`.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`): In the order of `config.id2label`.
        classification_loss (`torch.FloatTensor` of shape `()`, *optional*): Cross-entropy with `config.class_weights`.
        reconstruction_loss (`torch.FloatTensor` of shape `()`, *optional*): In training alone.
        embeddings (`torch.FloatTensor`): See [`SASTNetModelOutput`].
        decoder_errors (`torch.FloatTensor`, *optional*): See [`SASTNetModelOutput`].
        reconstruction_errors (`torch.FloatTensor`, *optional*): See [`SASTNetModelOutput`].
        attentions (`dict[str, torch.FloatTensor]`, *optional*): See [`SASTNetModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    classification_loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    embeddings: torch.FloatTensor | None = None
    decoder_errors: torch.FloatTensor | None = None
    reconstruction_errors: torch.FloatTensor | None = None
    attentions: dict[str, torch.FloatTensor] | None = None


class SASTNetPreTrainedModel(PreTrainedWaveformModel):
    config: SASTNetConfig
    base_model_prefix = "sastnet"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoModel": f"{MODULE_NAME}.SASTNetModel",
        "AutoModelForAudioClassification": f"{MODULE_NAME}.SASTNetForAudioClassification",
    }

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers, where what is loaded would be trained, Whisper too."""
        loaded, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        if loaded.config.use_semantics:
            loaded.base_model.semantics.requires_grad_(False)
        return (loaded, report) if output_loading_info else loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """As in [`PreTrainedWaveformModel`]; Xavier's law for packed projections, N(0, 0.02) for tokens."""
        super()._init_weights(module)
        if isinstance(module, PackedAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, SASTNetForAudioClassification):
            init.ones_(module.loss_weights)
        elif isinstance(module, (MaskedEncoder, PatchDecoder)):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, std=0.02)


class SASTNetModel(SASTNetPreTrainedModel):
    """
    Waveform -> wav2vec 2.0 and masked autoencoder, Whisper -> cross-modal fusion -> AASIST back-end -> clip embedding.

    With the full configuration and four classes, [`SASTNetForAudioClassification`] has 637,664,590 parameters, of which
    549,510,478 are trained. The public implementation counts 792,068,044 and 549,969,868: it carries Whisper's decoder
    (153,580,800) and a projection head (459,392, trained), neither of which is ever used, and stores the autoencoder's
    sine tables as frozen parameters (363,264). The two weights of the loss are counted here and not there.
    """

    def __init__(self, config: SASTNetConfig):
        super().__init__(config)
        size = config.mae_hidden_size
        if config.frontend == "wav2vec2":
            self.wav2vec2 = Wav2Vec2Model(config.wav2vec2_config)
            if config.feature_size is not None:
                self.feature_projection = nn.Linear(config.wav2vec2_config.hidden_size, config.feature_size)
        else:
            self.filter_bank = KaldiFilterBank(config)
        if config.use_semantics:
            self.semantics = WhisperSemantics(config)
            self.semantic_to_acoustic = CrossModalTransformer(config)
            self.acoustic_to_semantic = CrossModalTransformer(config)
            self.fusion = CrossModalTransformer(config)
        self.mae = MultiDecoderMAE(config)
        self.backend_projection = nn.Linear(size, config.num_filters)
        self.encoder = ResidualEncoder(config)
        self.backend = GraphBackend(config)
        self.post_init()

    def semantic_features(self, input_values: torch.Tensor) -> torch.Tensor:
        """What the frozen Whisper encoder makes of waveforms `(batch_size, num_samples)`, to be kept and given to `forward`:
        `(batch_size, semantic_frames // 2, mae_hidden_size)`."""
        if not self.config.use_semantics:
            raise ValueError("this model has no Whisper encoder: `use_semantics=False` in its configuration.")
        return self.semantics(input_values)

    def acoustic_image(self, input_values: torch.Tensor) -> torch.Tensor:
        """What the autoencoder sees and reconstructs: waveforms `(batch_size, num_samples)` -> `(batch_size, 1, frames,
        feature_width)`."""
        if self.config.frontend == "mel":
            return self.filter_bank(input_values)[:, None]
        features = self.wav2vec2(input_values.to(self.wav2vec2.dtype)).last_hidden_state
        if self.config.feature_size is not None:
            features = self.feature_projection(features)
        return features[:, None]

    def forward(
        self,
        input_values: torch.Tensor,
        semantic_features: torch.Tensor | None = None,
        output_decoder_errors: bool | None = None,
        output_reconstruction_errors: bool = False,
        output_attentions: bool = False,
        return_dict: bool | None = None,
    ) -> SASTNetModelOutput | tuple[torch.Tensor, ...]:
        """
        Patches are masked in training mode alone, at random from torch's generator.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`):
                Mono waveforms in [-1, 1] at `config.sampling_rate`, of `config.window_samples` or fewer.
            semantic_features (`torch.FloatTensor`, *optional*): Of [`~SASTNetModel.semantic_features`], if they were kept.
            output_decoder_errors (`bool`, *optional*): Whether to compare reconstructions; by default in training.
            output_reconstruction_errors (`bool`, *optional*, defaults to `False`): Whether to return them patch by patch.
            output_attentions (`bool`, *optional*, defaults to `False`): Whether to return the cross-modal attention.

        Raises:
            `ValueError`: for waveforms of another shape, too short or too long, so few patches left by the mask that the
                back-end has none, and semantic features of another shape or for a model without.
        """
        self._check_waveforms(input_values)
        image = self.acoustic_image(input_values)
        kept = self._draw_mask(image) if self.training else None
        tokens, patches = self.mae(image, kept)
        if not self.config.keep_cls_token:
            tokens = tokens[:, 1:]
        semantic = self._semantic_steps(input_values, semantic_features, tokens.dtype)
        attentions = None
        if semantic is not None:
            tokens, attentions = self._fuse(tokens, semantic, output_attentions)
        errors, means = None, None
        if output_reconstruction_errors or (self.training if output_decoder_errors is None else output_decoder_errors):
            errors, means = self._decoder_errors(patches, image, kept)
        output = SASTNetModelOutput(
            embeddings=self._embed(tokens),
            decoder_errors=means,
            reconstruction_errors=errors if output_reconstruction_errors else None,
            attentions=attentions,
        )
        return self.returned(output, return_dict)

    def _check_waveforms(self, input_values: torch.Tensor):
        config = self.config
        if input_values.ndim != 2:
            raise ValueError(
                f"`input_values` must have the shape (batch_size, num_samples), got {tuple(input_values.shape)}; the model "
                "takes mono waveforms."
            )
        if not config.minimum_samples <= input_values.shape[1] <= config.window_samples:
            raise ValueError(
                f"this model takes {config.minimum_samples} samples, one patch, to {config.window_samples} "
                f"({config.window_samples / config.sampling_rate:.2f} s), got {input_values.shape[1]}. The feature extractor "
                "cuts longer clips and repeats shorter ones."
            )

    def _semantic_steps(
        self, input_values: torch.Tensor, kept_features: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """Those that were kept, or else Whisper's; `None` for a model without."""
        if kept_features is None:
            return self.semantics(input_values).to(dtype) if self.config.use_semantics else None
        if not self.config.use_semantics:
            raise ValueError("this model takes no `semantic_features`: `use_semantics=False` in its configuration.")
        expected = (len(input_values), self.config.semantic_frames // 2, self.config.mae_hidden_size)
        if tuple(kept_features.shape) != expected:
            raise ValueError(f"`semantic_features` must have the shape {expected}, got {tuple(kept_features.shape)}.")
        return kept_features.to(dtype)

    def _decoder_errors(
        self, patches: torch.Tensor, image: torch.Tensor, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See [`masked_errors`]."""
        target = patchify(image, self.config.patch_size)
        return masked_errors(patches, target.detach() if self.config.detach_target else target, kept)

    def _draw_mask(self, image: torch.Tensor) -> torch.Tensor | None:
        if self.config.mask_ratio == 0:
            return None
        steps = image.shape[2] // self.config.patch_size
        return draw_kept_patches(self.config, len(image), steps, image.device)

    def _fuse(
        self, acoustic: torch.Tensor, semantic: torch.Tensor, output_attentions: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        """`(batch, tokens, dim)`, `(batch, semantic steps, dim)` -> `(batch, tokens, dim)`, attention by transformer"""
        by_acoustic, first = self.acoustic_to_semantic(acoustic, semantic, output_attentions)
        by_semantic, second = self.semantic_to_acoustic(semantic, acoustic, output_attentions)
        fused, third = self.fusion(by_acoustic, by_semantic, output_attentions)
        attentions = {"acoustic_to_semantic": first, "semantic_to_acoustic": second, "fusion": third}
        return fused, attentions if output_attentions else None

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, dim)` -> clip embedding `(batch, hidden_size)`"""
        if tokens.shape[1] < POOLING:
            raise ValueError(
                f"the back-end pools {POOLING} tokens and got {tokens.shape[1]}: give longer clips, or lower `mask_ratio`."
            )
        features = self.backend_projection(tokens).transpose(1, 2)
        features = F.max_pool2d(features[:, None], POOLING)  # (batch, 1, num_filters // 3, tokens // 3)
        return self.backend(self.encoder(features))[0]


class SASTNetForAudioClassification(SASTNetPreTrainedModel):
    """SASTNetModel -> dropout -> linear -> logits of one task, index 0 for bona fide."""

    def __init__(self, config: SASTNetConfig):
        super().__init__(config)
        self.sastnet = SASTNetModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        # Of reconstruction and classification in the loss; they are learned with the rest and saved with it.
        self.loss_weights = nn.Parameter(torch.ones(2))
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        wav2vec2: str | os.PathLike | None = None,
        whisper: str | os.PathLike | None = None,
        audiomae: str | os.PathLike | None = None,
        wav2vec2_revision: str = "main",
        whisper_revision: str = "main",
        **kwargs,
    ) -> "SASTNetForAudioClassification":
        """
        A model of pretrained parts, ready to be trained; what is not named starts at random.

        Args:
            wav2vec2 (`str` or `os.PathLike`, *optional*):
                A wav2vec 2.0 model on the Hub or in a folder, such as `"facebook/wav2vec2-xls-r-300m"`, or a W2V2-AASIST
                detector of this package whose tuned encoder is to be taken.
            whisper (`str` or `os.PathLike`, *optional*): A Whisper model, such as `"openai/whisper-small"`.
            audiomae (`str` or `os.PathLike`, *optional*):
                AudioMAE's `mae_pretrained_base.pth`, under CC BY-NC 4.0, which `config.weight_licenses` then records. Its
                encoder is taken, and the first layers of its decoder for every decoder here.
            wav2vec2_revision, whisper_revision (`str`, *optional*, defaults to `"main"`): Branch, tag or commit.
            kwargs: Fields of [`SASTNetConfig`]; `attn_implementation`, `token` and the like, as `from_pretrained` has them.

        Raises:
            `ValueError`: if a part lacks weights or has another size, or if its configuration is given beside it.
            `TypeError`: for a field that there is not.
            `huggingface_hub.errors.StrictDataclassError`: if the model has no place for it; see [`SASTNetConfig`].
            `OSError`: if one cannot be found or reached.
        """
        hub_options = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        known = {*SASTNetConfig.__dataclass_fields__, "attn_implementation"}
        if unknown := sorted(kwargs.keys() - known):
            raise TypeError(f"there is no option {', '.join(unknown)}: SASTNetConfig names the fields of a model.")
        parts = find_parts(wav2vec2, whisper, audiomae, wav2vec2_revision, whisper_revision, **hub_options)
        model = cls(SASTNetConfig(**parts.complete(kwargs)))
        put_parts(model.sastnet, parts)
        return model

    def semantic_features(self, input_values: torch.Tensor) -> torch.Tensor:
        """See [`SASTNetModel.semantic_features`]."""
        return self.sastnet.semantic_features(input_values)

    def freeze_frontend(self):
        """Excludes wav2vec 2.0 from training; everything behind it remains trainable, Whisper never is."""
        if self.config.frontend == "wav2vec2":
            self.sastnet.wav2vec2.requires_grad_(False)

    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        semantic_features: torch.Tensor | None = None,
        output_reconstruction_errors: bool = False,
        output_attentions: bool = False,
        return_dict: bool | None = None,
    ) -> SASTNetOutput | tuple[torch.Tensor, ...]:
        """
        In evaluation mode nothing is masked and the result depends on the clip alone.

        Args:
            input_values (`torch.FloatTensor` of shape `(batch_size, num_samples)`): See [`SASTNetModel`].
            labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*): Class indices of `config.id2label`.
            semantic_features (`torch.FloatTensor`, *optional*): See [`SASTNetModel`].
            output_reconstruction_errors (`bool`, *optional*, defaults to `False`): See [`SASTNetModel`].
            output_attentions (`bool`, *optional*, defaults to `False`): See [`SASTNetModel`].

        Raises:
            `ValueError`: for labels that are not one class per clip; see [`SASTNetModel`] for the rest.
        """
        if labels is not None:
            self._check_labels(labels, len(input_values))
        outputs = self.sastnet(
            input_values,
            semantic_features=semantic_features,
            output_decoder_errors=self.training and labels is not None,
            output_reconstruction_errors=output_reconstruction_errors,
            output_attentions=output_attentions,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.embeddings))
        losses = {} if labels is None else self._losses(logits, outputs.decoder_errors, labels)
        output = SASTNetOutput(logits=logits, **losses, **outputs)
        return self.returned(output, return_dict)

    def _check_labels(self, labels: torch.Tensor, batch_size: int):
        if tuple(labels.shape) != (batch_size,):
            raise ValueError(f"`labels` must have the shape {(batch_size,)}, got {tuple(labels.shape)}.")
        strangers = labels[(labels < 0) | (labels >= self.config.num_labels)]
        if len(strangers):
            raise ValueError(
                f"labels of the task {self.config.task!r} are 0 to {self.config.num_labels - 1} "
                f"({', '.join(self.config.label2id)}), got {sorted(set(strangers.tolist()))}: leave other clips out."
            )

    def _losses(
        self, logits: torch.Tensor, decoder_errors: torch.Tensor | None, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        precision = torch.promote_types(logits.dtype, torch.float32)
        class_weights = torch.tensor(self.config.class_weights, dtype=precision, device=logits.device)
        classification = F.cross_entropy(logits.to(precision), labels, class_weights)
        if not self.training:
            return {"loss": classification, "classification_loss": classification}
        reconstruction = margin_reconstruction_loss(
            decoder_errors, labels, self.config.margin, self.config.margin_reading
        )
        losses = torch.stack([reconstruction, classification])
        return {
            "loss": automatic_weighted_loss(losses, self.loss_weights),
            "classification_loss": classification,
            "reconstruction_loss": reconstruction,
        }


__all__ = [
    "SASTNetForAudioClassification",
    "SASTNetModel",
    "SASTNetModelOutput",
    "SASTNetOutput",
    "SASTNetPreTrainedModel",
]
