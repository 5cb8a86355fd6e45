"""Waveforms of any length -> windows of one length, by the cropping and padding rules of the published systems."""

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import TensorType

from .waveforms import as_batch, checked


CROPS = ("first", "random", "full")


class AasistFeatureExtractor(SequenceFeatureExtractor):
    """
    Cuts or repeats mono waveforms to the window that the models of the AASIST family take.

    Args:
        sampling_rate (`int`, *optional*, defaults to 16000): Sampling rate of the waveforms, in hertz.
        window_samples (`int`, *optional*, defaults to 64600):
            Length of the window in samples; 64,600 (4.0375 s) is AASIST's. Shorter clips are repeated to fill it.
        crop (`str`, *optional*, defaults to `"first"`):
            Which part of a longer clip is taken: `"first"`, the rule of all published evaluations and of
            SSL_Anti-spoofing's training; `"random"`, AASIST's rule in training; `"full"`, all of it.
        do_normalize (`bool`, *optional*, defaults to `False`):
            Whether to scale each window to zero mean and unit variance. The published models take the raw waveform.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        sampling_rate: int = 16_000,
        window_samples: int = 64_600,
        crop: str = "first",
        do_normalize: bool = False,
        **kwargs,
    ):
        if crop not in CROPS:
            raise ValueError(f"`crop` must be one of {', '.join(CROPS)}, got {crop!r}.")
        if window_samples < 1:
            raise ValueError(f"`window_samples` must be positive, got {window_samples}.")
        kwargs = {"feature_size": 1, "padding_value": 0.0, "return_attention_mask": False, **kwargs}
        super().__init__(sampling_rate=sampling_rate, **kwargs)
        self.window_samples = window_samples
        self.crop = crop
        self.do_normalize = do_normalize

    def __call__(
        self,
        raw_speech: np.ndarray | list[float] | list[np.ndarray] | list[list[float]],
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        crop: str | None = None,
        generator: np.random.Generator | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            raw_speech: One mono waveform or a list of them, in [-1, 1].
            sampling_rate (`int`, *optional*): Sampling rate of the waveforms, checked against the extractor's.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.
            crop (`str`, *optional*): Overrides the extractor's rule for this call.
            generator (`np.random.Generator`, *optional*): Draws the position of `"random"` crops.

        Returns:
            `BatchFeature` with `input_values` of shape `(batch_size, window_samples)`.

        Raises:
            `ValueError`: for another sampling rate, more than one channel, an empty clip, values that are not finite,
            or clips of different lengths under `crop="full"`.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"The model takes {self.sampling_rate} Hz, got {sampling_rate} Hz: resample the audio first."
            )
        crop = crop or self.crop
        if crop not in CROPS:
            raise ValueError(f"`crop` must be one of {', '.join(CROPS)}, got {crop!r}.")
        generator = generator or np.random.default_rng()
        clips = [self._fit(checked(clip, index), crop, generator) for index, clip in enumerate(as_batch(raw_speech))]
        lengths = {len(clip) for clip in clips}
        if len(lengths) > 1:
            raise ValueError(
                f"Clips of different lengths cannot share a batch, got {sorted(lengths)} samples: the graph has no padding "
                "mask. Pass them one by one, or use crop='first'."
            )
        if self.do_normalize:
            # The epsilon is that of transformers' wav2vec 2.0 feature extractor.
            clips = [(clip - clip.mean()) / np.sqrt(clip.var() + 1e-7) for clip in clips]
        return BatchFeature({"input_values": np.stack(clips)}, tensor_type=return_tensors)

    def _fit(self, clip: np.ndarray, crop: str, generator: np.random.Generator) -> np.ndarray:
        surplus = len(clip) - self.window_samples
        if surplus < 0:
            return np.resize(clip, self.window_samples)  # np.resize repeats the clip to the new length
        if crop == "full":
            return clip
        start = int(generator.integers(surplus + 1)) if crop == "random" else 0
        return clip[start : start + self.window_samples]


__all__ = ["AasistFeatureExtractor"]
