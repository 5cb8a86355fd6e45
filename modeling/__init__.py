"""Models that travel to the Hub. Importing this package registers all of them with the Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_aasist import AasistConfig
from .configuration_sastnet import SASTNetConfig
from .feature_extraction_aasist import AasistFeatureExtractor
from .feature_extraction_sastnet import SASTNetFeatureExtractor
from .modeling_aasist import AasistForAudioClassification, AasistModel, AasistModelOutput, AasistOutput
from .modeling_sastnet import SASTNetForAudioClassification, SASTNetModel, SASTNetModelOutput, SASTNetOutput


AutoConfig.register(AasistConfig.model_type, AasistConfig)
AutoModel.register(AasistConfig, AasistModel)
AutoModelForAudioClassification.register(AasistConfig, AasistForAudioClassification)
AutoFeatureExtractor.register(AasistConfig, AasistFeatureExtractor)

AutoConfig.register(SASTNetConfig.model_type, SASTNetConfig)
AutoModel.register(SASTNetConfig, SASTNetModel)
AutoModelForAudioClassification.register(SASTNetConfig, SASTNetForAudioClassification)
AutoFeatureExtractor.register(SASTNetConfig, SASTNetFeatureExtractor)

# What `save_pretrained` copies beside the weights, so that the Auto classes load it where spooftrace is not installed.
AasistConfig.register_for_auto_class()
AasistFeatureExtractor.register_for_auto_class()
AasistModel.register_for_auto_class("AutoModel")
AasistForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
SASTNetConfig.register_for_auto_class()
SASTNetFeatureExtractor.register_for_auto_class()
SASTNetModel.register_for_auto_class("AutoModel")
SASTNetForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")

__all__ = [
    "AasistConfig",
    "AasistFeatureExtractor",
    "AasistForAudioClassification",
    "AasistModel",
    "AasistModelOutput",
    "AasistOutput",
    "SASTNetConfig",
    "SASTNetFeatureExtractor",
    "SASTNetForAudioClassification",
    "SASTNetModel",
    "SASTNetModelOutput",
    "SASTNetOutput",
]
