"""Waveforms of any length -> log-mel frames, as many as the longest clip of the batch needs, and a mask."""

import os

import numpy as np
from transformers import BatchFeature, PreTrainedConfig, WhisperFeatureExtractor
from transformers.utils import TensorType

from .audio_llm_backbones import SPARE_FRAMES
from .audio_tokens import MIN_FRAMES
from .waveforms import as_batch, checked


# Whisper's own window, which encoders were trained on, whatever the extractor's `chunk_length` allows.
MAX_SECONDS = 30

# What is taken over from a published file, which may tell how pictures are prepared as well.
SETTINGS = ("feature_size", "sampling_rate", "hop_length", "chunk_length", "n_fft", "padding_value", "dither")

# Whisper's own mask counts the frame that a clip ends in; Qwen-Audio counts whole frames alone.
WHOLE_FRAMES = ("qwen_audio",)


class AudioLLMFeatureExtractor(WhisperFeatureExtractor):
    """
    Whisper's log-mel frames without its padding to 30 s: equal, frame by frame, to what the padded clip gives.

    Longer clips are cut to the window; shorter ones stay as they are. [`Detector`] cuts long recordings into windows.

    Args:
        window_samples (`int`, *optional*):
            The longest clip, in samples. By default 30 s, or `chunk_length` seconds where that is less.
        whole_frames (`bool`, *optional*, defaults to `False`):
            Whether the mask leaves out the frame that a clip ends in, unless the clip fills it.
        kwargs: Of `WhisperFeatureExtractor`.
    """

    model_input_names = ["input_features", "feature_attention_mask"]

    def __init__(self, window_samples: int | None = None, whole_frames: bool = False, **kwargs):
        super().__init__(**{**kwargs, "return_attention_mask": True})
        if window_samples is None:
            window_samples = min(self.n_samples, MAX_SECONDS * self.sampling_rate)
        if not 1 <= window_samples <= self.n_samples:
            raise ValueError(
                f"`window_samples` lies between 1 and the {self.n_samples} samples of `chunk_length={self.chunk_length}`, "
                f"got {window_samples}."
            )
        self.window_samples = window_samples
        self.whole_frames = whole_frames

    @classmethod
    def from_backbone_pretrained(
        cls, name_or_path: str | os.PathLike, window_samples: int | None = None, **hub_options
    ) -> "AudioLLMFeatureExtractor":
        """
        The extractor of a published audio language model, as a detector around that model needs it.

        Args:
            name_or_path (`str` or `os.PathLike`): For example `"Qwen/Qwen2-Audio-7B-Instruct"`, or a folder.
            window_samples (`int`, *optional*): The longest clip, in samples.
            hub_options: `revision`, `token` and the like.
        """
        values, _ = PreTrainedConfig.get_config_dict(name_or_path, **hub_options)
        settings, _ = cls.get_feature_extractor_dict(name_or_path, **hub_options)
        own = {"window_samples": window_samples, "whole_frames": values.get("model_type") in WHOLE_FRAMES}
        return cls(**{name: settings[name] for name in SETTINGS if name in settings}, **own)

    def count_frames(self, num_samples: int) -> int:
        """Frames that the mask counts of a clip of so many samples."""
        samples = max(min(num_samples, self.window_samples), MIN_FRAMES * self.hop_length)
        return samples // self.hop_length if self.whole_frames else -(-samples // self.hop_length)

    def __call__(
        self,
        raw_speech: np.ndarray | list[float] | list[np.ndarray] | list[list[float]],
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            raw_speech: One mono waveform or a list of them, in [-1, 1], of any lengths.
            sampling_rate (`int`, *optional*): Sampling rate of the waveforms, checked against the extractor's.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            `BatchFeature` with `input_features` of shape `(batch_size, feature_size, num_frames)`, one frame every
            `hop_length` samples, and `feature_attention_mask` of shape `(batch_size, num_frames)`, 1 for frames of the clip.

        Raises:
            `ValueError`: for another sampling rate, more than one channel, an empty clip, or values that are not finite.
        """
        clips = [checked(clip, index)[: self.window_samples] for index, clip in enumerate(as_batch(raw_speech))]
        counts = np.array([self.count_frames(len(clip)) for clip in clips])
        shortest = MIN_FRAMES * self.hop_length
        clips = [np.pad(clip, (0, max(0, shortest - len(clip)))) for clip in clips]
        longest = -(-max(map(len, clips)) // self.hop_length)
        frames = min(longest + SPARE_FRAMES + longest % 2, self.nb_max_frames)
        features = super().__call__(
            clips,
            padding="max_length",
            max_length=frames * self.hop_length,
            sampling_rate=self.sampling_rate if sampling_rate is None else sampling_rate,
            return_attention_mask=False,
        )
        mask = np.arange(frames) < counts[:, None]
        return BatchFeature(
            {
                "input_features": np.asarray(features["input_features"]),
                "feature_attention_mask": mask.astype(np.int64),
            },
            tensor_type=return_tensors,
        )


__all__ = ["AudioLLMFeatureExtractor"]
