"""Models that travel to the Hub. Importing this package registers all of them with the Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_aasist import AasistConfig
from .feature_extraction_aasist import AasistFeatureExtractor
from .modeling_aasist import AasistForAudioClassification, AasistModel, AasistModelOutput, AasistOutput


AutoConfig.register(AasistConfig.model_type, AasistConfig)
AutoModel.register(AasistConfig, AasistModel)
AutoModelForAudioClassification.register(AasistConfig, AasistForAudioClassification)
AutoFeatureExtractor.register(AasistConfig, AasistFeatureExtractor)

# What `save_pretrained` copies beside the weights, so that the Auto classes load it where spooftrace is not installed.
AasistConfig.register_for_auto_class()
AasistFeatureExtractor.register_for_auto_class()
AasistModel.register_for_auto_class("AutoModel")
AasistForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = [
    "AasistConfig",
    "AasistFeatureExtractor",
    "AasistForAudioClassification",
    "AasistModel",
    "AasistModelOutput",
    "AasistOutput",
]
