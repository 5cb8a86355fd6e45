"""spooftrace: speech deepfake detection and source tracing in the Hugging Face ecosystem.

Importing the package is light: a version and lazy names. Touching a model name, or `import spooftrace.modeling`, loads
torch and transformers and registers every model with the Auto classes.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from spooftrace._version import __version__


_LAZY_NAMES = {
    "AasistConfig": "spooftrace.modeling",
    "AasistFeatureExtractor": "spooftrace.modeling",
    "AasistForAudioClassification": "spooftrace.modeling",
    "AasistModel": "spooftrace.modeling",
    "AudioError": "spooftrace.audio",
    "AudioLimits": "spooftrace.audio",
    "AudioLLMDetectorConfig": "spooftrace.modeling",
    "AudioLLMFeatureExtractor": "spooftrace.modeling",
    "AudioLLMForAudioClassification": "spooftrace.modeling",
    "Detection": "spooftrace.detector",
    "Detector": "spooftrace.detector",
    "QwenAudioConfig": "spooftrace.modeling",
    "QwenAudioForConditionalGeneration": "spooftrace.modeling",
    "QwenAudioModel": "spooftrace.modeling",
    "QwenAudioProcessor": "spooftrace.modeling",
    "Trace": "spooftrace.tracer",
    "Tracer": "spooftrace.tracer",
    "load_audio": "spooftrace.audio",
    "publish_model": "spooftrace.publish",
    "score_clips": "spooftrace.scoring",
}

__all__ = [
    "AasistConfig",
    "AasistFeatureExtractor",
    "AasistForAudioClassification",
    "AasistModel",
    "AudioError",
    "AudioLLMDetectorConfig",
    "AudioLLMFeatureExtractor",
    "AudioLLMForAudioClassification",
    "AudioLimits",
    "Detection",
    "Detector",
    "QwenAudioConfig",
    "QwenAudioForConditionalGeneration",
    "QwenAudioModel",
    "QwenAudioProcessor",
    "Trace",
    "Tracer",
    "__version__",
    "load_audio",
    "publish_model",
    "score_clips",
]

if TYPE_CHECKING:
    from spooftrace.audio import AudioError, AudioLimits, load_audio
    from spooftrace.detector import Detection, Detector
    from spooftrace.modeling import (
        AasistConfig,
        AasistFeatureExtractor,
        AasistForAudioClassification,
        AasistModel,
        AudioLLMDetectorConfig,
        AudioLLMFeatureExtractor,
        AudioLLMForAudioClassification,
        QwenAudioConfig,
        QwenAudioForConditionalGeneration,
        QwenAudioModel,
        QwenAudioProcessor,
    )
    from spooftrace.publish import publish_model
    from spooftrace.scoring import score_clips
    from spooftrace.tracer import Trace, Tracer


# In a clone, where this folder hides the installed package from `python -m` and scripts, the folders modeling/ and
# trainers/ lie beside it and not in it.
_root = os.path.dirname(__path__[0])
if not os.path.isdir(os.path.join(__path__[0], "modeling")) and os.path.isdir(os.path.join(_root, "modeling")):
    __path__.append(_root)


def __getattr__(name: str) -> Any:
    if name not in _LAZY_NAMES:
        raise AttributeError(f"module 'spooftrace' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
