"""Waveforms of any length -> SASTNet's window of 5.14 s."""

from .feature_extraction_aasist import AasistFeatureExtractor


class SASTNetFeatureExtractor(AasistFeatureExtractor):
    """
    As [`AasistFeatureExtractor`], with the window of SASTNet: the first 82,200 samples (5.1375 s at 16 kHz), and shorter
    clips repeated to fill it. The model makes Whisper's and Kaldi's spectrograms of the waveform itself.
    """

    def __init__(self, sampling_rate: int = 16_000, window_samples: int = 82_200, **kwargs):
        super().__init__(sampling_rate=sampling_rate, window_samples=window_samples, **kwargs)


__all__ = ["SASTNetFeatureExtractor"]
