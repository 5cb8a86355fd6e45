"""What every feature extractor asks of the waveforms it is given."""

import numpy as np


def as_batch(raw_speech) -> list:
    """
    One waveform or several, as arrays or lists -> a list of them.

    Raises:
        `ValueError`: for an array of more than two dimensions.
    """
    if isinstance(raw_speech, np.ndarray) and raw_speech.ndim > 2:
        raise ValueError(f"Only mono waveforms are supported, got an array of shape {raw_speech.shape}.")
    if isinstance(raw_speech, np.ndarray):
        return list(raw_speech) if raw_speech.ndim == 2 else [raw_speech]
    if len(raw_speech) == 0 or np.isscalar(raw_speech[0]):
        return [raw_speech]
    return list(raw_speech)


def checked(clip, index: int) -> np.ndarray:
    """
    The clip in float32, of shape `(num_samples,)`.

    Raises:
        `ValueError`: for more than one channel, an empty clip, or values that are not finite.
    """
    clip = np.asarray(clip, dtype=np.float32)
    if clip.ndim != 1:
        raise ValueError(f"Only mono waveforms are supported, clip {index} has the shape {clip.shape}.")
    if len(clip) == 0:
        raise ValueError(f"Clip {index} is empty.")
    if not np.isfinite(clip).all():
        raise ValueError(f"Clip {index} holds values that are not finite.")
    return clip
