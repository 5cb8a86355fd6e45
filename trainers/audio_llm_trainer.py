"""Supervised fine-tuning of an audio language model that detects fake speech, as any `transformers.Trainer`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, ProcessorMixin

import spooftrace
from spooftrace.modeling import AudioLLMFeatureExtractor
from spooftrace.trainers.allm4add_data import check_questions
from spooftrace.trainers.audio_llm_clips import AudioLLMCollator, WholeClipDataset
from spooftrace.trainers.audio_llm_config import AudioLLMTrainingConfig
from spooftrace.trainers.audio_llm_labels import Answers, base_processor, read_answers
from spooftrace.trainers.clips import label_names
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.feature_cache import FeatureCache, content_key, encoder_digest
from spooftrace.trainers.length_sampler import LengthGroupedSampler, clip_lengths


# Of a batch, what the model's forward takes: sound, or what the encoder has made of it, and the conversation.
_SOUND = ("input_features", "feature_attention_mask", "audio_embeds", "audio_lengths")
_CONVERSATION = ("input_ids", "attention_mask", "target_ids")


class AudioLLMTrainer(DetectionTrainer):
    """
    Teaches an audio language model the answer to one question about clips, and evaluates by equal error rate.

    ```python
    model = AudioLLMForAudioClassification.from_backbone_pretrained("Qwen/Qwen2-Audio-7B-Instruct", lora={})
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained("Qwen/Qwen2-Audio-7B-Instruct")
    arguments = AudioLLMTrainingConfig("out", bf16=True, activation_checkpointing=True)
    trainer = AudioLLMTrainer(model, arguments, train_dataset=train, eval_dataset=dev, processing_class=extractor)
    ```

    What is trained follows from the model: adapters in its language model, its audio encoder where `train_encoder` is set, or
    all of a model without either. Trained parameters are held in float32, since small steps get lost in bfloat16.

    The vocabulary's logits are made where a token is learned and nowhere else. The loss of a step is the mean over its
    learned tokens, however they are divided into accumulated batches and among processes.

    Args:
        model ([`AudioLLMForAudioClassification`]): what is trained.
        args: see [`AudioLLMTrainingConfig`].
        processing_class ([`AudioLLMFeatureExtractor`]): of the base model, saved beside the detector.
        processor: of the base model, whose chat template writes the answers; by default the one published with it.
        answers: token ids of the answers, where there is no processor.
        kwargs: of [`DetectionTrainer`], but for `augment_batch`.

    Raises:
        ValueError: for answers and a `label_mask` that do not fit the model, rows that ask another question than it, a
            model without anything to train, a cache of features where the encoder is trained, an `augment_batch`, and as
            [`DetectionTrainer`].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: AudioLLMTrainingConfig | None = None,
        *,
        processing_class: AudioLLMFeatureExtractor,
        processor: ProcessorMixin | None = None,
        answers: Answers | None = None,
        **kwargs: Any,
    ):
        if kwargs.get("augment_batch") is not None:
            raise ValueError(
                "`augment_batch` alters waveforms where the model is, which gets log-mel frames of them here: leave it out; "
                "`augment` alters waveforms while they are read."
            )
        args = args or AudioLLMTrainingConfig(output_dir="detector")
        if answers is None:
            answers = read_answers(processor or base_processor(model.config), model.config)
        answers.check(model.config, args.label_mask)
        _check_trained(model, args)
        self.feature_extractor, self.question = processing_class, model.config.prompt
        caches = args.feature_cache is not None
        self.collator = AudioLLMCollator(processing_class, model.config, answers, args.label_mask, caches)
        self._num_targets = torch.tensor([self.collator.num_targets(label) for label in range(len(answers.words))])
        _hold_in_float32(model)
        super().__init__(model, args, processing_class=processing_class, **kwargs)
        self.data_collator, self.feature_cache = self.collator, None
        if caches:
            self.feature_cache = FeatureCache(args.feature_cache, args.feature_cache_bytes)
            self._encoder = self._digest(model)

    # Data

    def clips(self, rows: Any, args: AudioLLMTrainingConfig, **options: Any) -> WholeClipDataset:
        check_questions(rows, self.question)
        options |= {"num_samples": args.num_samples, "augment": self.augment}
        return WholeClipDataset(rows, self.label2id, label_names=label_names(rows), **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        if not self.args.group_by_length:
            return super()._get_train_sampler(train_dataset)
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        batches = self.args.gradient_accumulation_steps * self.args.world_size
        lengths = clip_lengths(dataset.rows, dataset.num_samples)
        self.sampler = LengthGroupedSampler(lengths, self.args.train_batch_size * batches, self.args.seed)
        return self.sampler

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        waveforms = inputs.pop("waveforms", None)
        inputs = super()._prepare_inputs(inputs)
        return inputs if waveforms is None else {**inputs, **self._encoded(waveforms)}

    # Loss

    def run_model(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        names = (*_SOUND, *_CONVERSATION) if model.training else _SOUND
        return model(**{name: inputs[name] for name in names if name in inputs})

    def total_weight(self, labels: torch.Tensor) -> torch.Tensor:
        """What the losses of the clips are divided by, `[]`: their learned tokens, times their class weights."""
        return (self._clip_weights(labels) * self._num_targets.to(labels.device)[labels]).sum()

    def training_loss(self, outputs: Any, inputs: dict[str, Any], total_weight: torch.Tensor | None) -> torch.Tensor:
        labels = inputs["labels"]
        total_weight = self.total_weight(labels) if total_weight is None else total_weight
        return (outputs.target_losses * self._clip_weights(labels)).sum() / total_weight

    def _clip_weights(self, labels: torch.Tensor) -> torch.Tensor:
        weights = torch.ones(len(self.label2id)) if self.class_weights is None else self.class_weights
        return weights.to(labels.device)[labels]

    # Features of a frozen encoder

    def _digest(self, model: PreTrainedModel) -> str:
        """Of all that decides what the encoder makes of a waveform, rounding included."""
        encoder = nn.ModuleList(model.backbone.get_submodule(path) for path in model.parts.encoder_modules)
        return encoder_digest(
            encoder,
            attention=encoder[0].config._attn_implementation,
            backbone=model.config.backbone_config.to_diff_dict(),
            feature_extractor=json.loads(self.feature_extractor.to_json_string()),
            precision=str(self.accelerator.mixed_precision),
            device=self.args.device.type,
            versions=[spooftrace.__version__, transformers.__version__, torch.__version__],
        )

    def _encoded(self, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """`audio_embeds`, `[total, hidden_size]`, and `audio_lengths`, `[batch]`, of clips, from the cache where they are."""
        # The type is another one after an evaluation wholly in half precision.
        digest = f"{self._encoder} {self.accelerator.unwrap_model(self.model).dtype}"
        keys = [content_key(digest, torch.from_numpy(waveform)) for waveform in waveforms]
        found = {key: entry["audio_embeds"] for key in keys if (entry := self.feature_cache.get(key)) is not None}
        missing = {key: place for place, key in enumerate(keys) if key not in found}
        if missing:
            clips = self._encode([waveforms[place] for place in missing.values()])
            for key, embeds in zip(missing, clips, strict=True):
                found[key] = embeds
                self.feature_cache.put(key, {"audio_embeds": embeds})
        embeds = [found[key].to(self.args.device) for key in keys]
        lengths = torch.tensor([len(part) for part in embeds], device=self.args.device)
        return {"audio_embeds": torch.cat(embeds), "audio_lengths": lengths}

    @torch.no_grad()
    def _encode(self, waveforms: list[np.ndarray]) -> list[torch.Tensor]:
        """What the encoder makes of each clip, `[audio tokens, hidden_size]`, on the CPU."""
        model = self.accelerator.unwrap_model(self.model)
        features = self.feature_extractor(waveforms, return_tensors="pt").to(self.args.device)
        was_training = model.training
        model.eval()
        with self.accelerator.autocast():
            embeds, lengths = model.encode_audio(**features)
        model.train(was_training)
        return [part.clone() for part in embeds.cpu().split(lengths.tolist())]

    # Checkpoints

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """
        As in transformers, where a checkpoint belongs to the base model that the detector has.

        Raises:
            ValueError: where it belongs to another one.
        """
        path = Path(resume_from_checkpoint) / "config.json"
        saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        ours = self.accelerator.unwrap_model(self.model).config.base_sha256
        if saved.get("base_sha256") != ours:
            raise ValueError(
                f"{resume_from_checkpoint} was trained on another base model (digest {str(saved.get('base_sha256'))[:16]}) than "
                f"the detector has ({str(ours)[:16]}): give the same one and the same revision of it."
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)


def _check_trained(model: PreTrainedModel, args: AudioLLMTrainingConfig) -> None:
    """
    Raises:
        ValueError: for a model without anything to train, and a cache of features that cannot serve.
    """
    trained = [name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(
            "nothing in the model would be trained: make it with `lora={}`, or with `train_encoder=True`."
        )
    if args.feature_cache is not None and any(map(model.parts.in_encoder, trained)):
        raise ValueError("`feature_cache` keeps what a frozen encoder gives, and this one is trained: leave it out.")
    if args.feature_cache is not None and args.fsdp:
        raise ValueError(
            "`feature_cache` runs the encoder by itself, which FSDP has divided up: leave one of them out."
        )


def _hold_in_float32(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
