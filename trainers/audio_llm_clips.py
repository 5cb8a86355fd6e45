"""Clips of their own lengths as the batches that an audio language model trains on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from spooftrace.modeling import AudioLLMFeatureExtractor
from spooftrace.modeling.audio_llm_backbones import num_audio_tokens
from spooftrace.modeling.audio_llm_prompts import make_input_ids
from spooftrace.trainers.audio_llm_labels import IGNORED, Answers, LabelMask
from spooftrace.trainers.clips import ClipDataset


class WholeClipDataset(ClipDataset):
    """As [`ClipDataset`], but a clip that is shorter than `num_samples` stays as it is."""

    def fit(self, waveform: np.ndarray, place: float) -> np.ndarray:
        return super().fit(waveform, place) if len(waveform) > self.num_samples else waveform.astype(np.float32)


class AudioLLMCollator:
    """
    Clips and their labels -> log-mel frames, and conversations in which the answer is given.

    All of a batch is padded to its longest clip, on the right: `input_features` `[batch, bands, frames]`,
    `feature_attention_mask` `[batch, frames]`; `input_ids`, `attention_mask` and `target_ids` `[batch, length]`, where what is
    not learned is -100; `labels` `[batch]`; `utterance_id` and, of clips that may be altered, `seed` are lists.

    Args:
        feature_extractor: of the base model.
        config (`AudioLLMDetectorConfig`): of the detector, with the prompt.
        answers: see there.
        mask: what is learned.
        keep_waveforms: whether the batch holds `waveforms`, a list of arrays, instead of frames, for a trainer that may
            have their features already.
    """

    def __init__(
        self,
        feature_extractor: AudioLLMFeatureExtractor,
        config: PreTrainedConfig,
        answers: Answers,
        mask: LabelMask = "answer",
        keep_waveforms: bool = False,
    ):
        self.feature_extractor, self.answers, self.mask = feature_extractor, answers, mask
        self.config, self.keep_waveforms = config, keep_waveforms

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        waveforms, labels = ([example[name] for example in examples] for name in ("input_values", "labels"))
        features = self.feature_extractor(waveforms, return_tensors="pt")
        frames = features["feature_attention_mask"].sum(-1)
        batch = {
            **({"waveforms": waveforms} if self.keep_waveforms else features),
            **self.conversations(num_audio_tokens(frames).tolist(), labels),
            "labels": torch.tensor(labels),
            "utterance_id": [example["utterance_id"] for example in examples],
        }
        if "seed" in examples[0]:
            batch["seed"] = [example["seed"] for example in examples]
        return batch

    def conversations(self, audio_lengths: Sequence[int], labels: Sequence[int]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `target_ids`, `[batch, length]`, for clips of so many audio tokens."""
        config = self.config
        said = [self.answers.tokens(label, self.mask) for label in labels]
        batch = make_input_ids(
            config.prompt_ids_before,
            config.prompt_ids_after,
            audio_lengths,
            config.audio_token_id,
            config.pad_token_id,
            said,
        )
        lengths = batch["attention_mask"].sum(-1).tolist()
        targets = torch.full_like(batch["input_ids"], IGNORED)
        for row, (answer, length) in enumerate(zip(said, lengths, strict=True)):
            ids = batch["input_ids"][row, :length].tolist()
            targets[row, :length] = torch.tensor(self.answers.targets(ids, length - len(answer), self.mask))
        return {**batch, "target_ids": targets}

    def num_targets(self, label: int) -> int:
        """Tokens that are predicted in a conversation with this answer; none predicts the first of all."""
        return int((self.conversations([1], [label])["target_ids"][0, 1:] != IGNORED).sum())
