"""SASTNet's training: reconstruction and classification, balanced by weights that are learned with the rest."""

import math
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

import spooftrace
from spooftrace.modeling import SASTNetForAudioClassification
from spooftrace.modeling.sastnet_loss import automatic_weighted_loss
from spooftrace.trainers.feature_cache import FeatureCache, content_key, encoder_digest
from spooftrace.trainers.sastnet_config import SASTNetTrainingConfig
from spooftrace.trainers.tracing_trainer import TracingTrainer


LOSS_PARTS = ("reconstruction", "classification")


class SASTNetTrainer(TracingTrainer):
    """
    Trains SASTNet (arXiv 2506.07294) with its margin reconstruction loss and its weighted cross-entropy.

    ```python
    model = SASTNetForAudioClassification.from_parts("facebook/wav2vec2-xls-r-300m", "openai/whisper-small", task="vq")
    trainer = SASTNetTrainer(model, SASTNetTrainingConfig("out"), train_dataset=train, eval_dataset=dev)
    ```

    Both losses of a step are means over all of its clips, whatever the accumulated batches and processes they are divided
    into, and the terms of the learned weights count once. Not the same as in one large batch are batch normalisation, which
    goes by the statistics of each batch, and what is random: dropout and masks are drawn batch by batch.

    The learned weights of the two losses are part of the model: they are saved, resumed and published with it. They have a
    learning rate of their own. Logged of the training, besides what [`TracingTrainer`] logs, are `reconstruction_loss`,
    `classification_loss`, and the learned weights themselves, `reconstruction_weight` and `classification_weight`: a loss
    is multiplied by `0.5 / weight ** 2`.

    Evaluation masks nothing, draws nothing and takes clips as they are. The public code masks its development set,
    augments it and leaves dropout on, so that its figures there are not comparable; `augment_eval` alters the clips.

    Args:
        model: see [`SASTNetForAudioClassification`].
        args: see [`SASTNetTrainingConfig`].
        kwargs: as for [`TracingTrainer`].

    Raises:
        TypeError: for a model of another family.
        ValueError: also for a length of clips that the model does not take.
    """

    def __init__(self, model: SASTNetForAudioClassification, args: SASTNetTrainingConfig | None = None, **kwargs: Any):
        if not isinstance(model, SASTNetForAudioClassification):
            raise TypeError(
                f"SASTNetTrainer trains SASTNetForAudioClassification, got {type(model).__name__}: use TracingTrainer."
            )
        args, config = args or SASTNetTrainingConfig(output_dir="tracer"), model.config
        if not config.minimum_samples <= args.num_samples <= config.window_samples:
            raise ValueError(
                f"`num_samples` lies between {config.minimum_samples} and {config.window_samples} for this model, got "
                f"{args.num_samples}."
            )
        self._plan: tuple[int, int] | None = None  # epochs, and steps to each
        super().__init__(model, args, **kwargs)
        self.feature_cache: FeatureCache | None = None
        self._encoders: dict[torch.dtype, str] = {}  # digests, by the precision that the encoder is in
        if args.feature_cache is not None and config.use_semantics:
            self.feature_cache = FeatureCache(args.feature_cache, args.feature_cache_bytes)

    # Loss

    def run_model(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        labels = inputs["labels"][:, 0] if model.training else None
        waveforms = inputs["input_values"]
        is_kept = self.feature_cache is not None and (not model.training or self._clips_come_again)
        features = self._semantics(waveforms) if is_kept else None
        return self.with_all_logits(model(input_values=waveforms, labels=labels, semantic_features=features))

    def total_weight(self, labels: torch.Tensor) -> torch.Tensor:
        """What the losses of the clips are divided by, `[2]`: their number, and the sum of their class weights."""
        weight = self.known_weight(labels)
        return torch.cat([weight.new_tensor([len(labels)]), weight])

    def mean_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, total_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The weighted cross-entropy alone; see [`TracingTrainer`]."""
        return super().mean_loss(logits, labels, None if total_weight is None else total_weight[1:])

    def training_loss(self, outputs: Any, inputs: dict[str, Any], total_weight: torch.Tensor | None) -> torch.Tensor:
        labels = inputs["labels"]
        share = 1.0 if total_weight is None else len(labels) / total_weight[0]  # of the step's clips
        classification = super().training_loss(outputs, inputs, total_weight) / share
        losses = torch.stack([outputs.reconstruction_loss.to(classification.dtype), classification])
        weights = self.accelerator.unwrap_model(self.model).loss_weights
        clips = torch.tensor(float(len(labels)), device=labels.device)
        for name, loss, weight in zip(LOSS_PARTS, losses.detach(), weights.detach(), strict=True):
            self.note(f"{name}_loss", loss * clips, clips)
            self.note(f"{name}_weight", weight)
        return share * automatic_weighted_loss(losses, weights)

    # Frozen features

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As in [`DetectionTrainer`]; the frozen encoder is the checkpoint's from now on."""
        super()._load_from_checkpoint(*args, **kwargs)
        self._encoders.clear()

    def _digest(self, model: SASTNetForAudioClassification) -> str:
        """Of all that decides the semantic features of a waveform, rounding included."""
        config, encoder = model.config, model.sastnet.semantics
        precision = next(encoder.parameters()).dtype  # another one after an evaluation wholly in half precision
        if precision not in self._encoders:
            self._encoders[precision] = encoder_digest(
                encoder,
                whisper=config.whisper_config.to_diff_dict(),
                attention=encoder.encoder.config._attn_implementation,
                frames=config.semantic_frames,
                context=config.whisper_context,
                precision=str(self.accelerator.mixed_precision),
                device=self.args.device.type,
                versions=[spooftrace.__version__, transformers.__version__, torch.__version__],
            )
        return self._encoders[precision]

    @property
    def _clips_come_again(self) -> bool:
        """Whether a training clip is the same waveform in every epoch."""
        return self.augment is None and self.augment_batch is None and self.args.crop == "start"

    @torch.no_grad()
    def _semantics(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Whisper's features of a batch, `[batch, steps, size]`, from the cache as far as they are there."""

        model = self.accelerator.unwrap_model(self.model)
        digest = self._digest(model)

        def compute(missing: list[int]) -> dict[str, torch.Tensor]:
            with self.accelerator.autocast():
                return {"semantic_features": model.semantic_features(waveforms[missing])}

        keys = [content_key(digest, waveform) for waveform in waveforms.cpu()]
        return self.feature_cache.rows(keys, compute)["semantic_features"].to(waveforms.device)

    # Optimiser and schedule

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As in the public code, all parameters but the learned weights of the loss."""
        return [name for name, _ in model.named_parameters() if not name.endswith("loss_weights")]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:  # the groups with and without weight decay; in the latter is nothing but these
            optimizer.param_groups[-1]["lr"] = self.args.loss_weights_learning_rate
        return optimizer

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple:
        """As in transformers; how many epochs there are, and steps to each, is noted for the schedule."""
        values = super().set_initial_training_values(*args, **kwargs)
        self._plan = values[0], values[1]
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The cosine that changes after every epoch, where `args.cosine_step` asks for it."""
        by_epoch = self.args.lr_scheduler_type == "cosine" and self.args.cosine_step == "epoch"
        if not by_epoch or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        epochs, steps = self._plan or (1, num_training_steps)
        cosine = partial(cosine_by_epoch, epochs=epochs, steps=steps)
        self.lr_scheduler = LambdaLR(optimizer if optimizer is not None else self.optimizer, cosine)
        self._created_lr_scheduler = True
        return self.lr_scheduler


def cosine_by_epoch(step: int, epochs: int, steps: int) -> float:
    """Half a cosine from 1 to 0 over `epochs` of so many `steps`, constant within each."""
    return 0.5 * (1 + math.cos(math.pi * min(step // steps, epochs) / epochs))
