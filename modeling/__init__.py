"""Models that travel to the Hub. Importing this package registers all of them with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .configuration_aasist import AasistConfig
from .configuration_audio_llm import AudioLLMDetectorConfig
from .configuration_qwen_audio import QwenAudioConfig, QwenAudioEncoderConfig
from .configuration_sastnet import SASTNetConfig
from .feature_extraction_aasist import AasistFeatureExtractor
from .feature_extraction_audio_llm import AudioLLMFeatureExtractor
from .feature_extraction_sastnet import SASTNetFeatureExtractor
from .modeling_aasist import AasistForAudioClassification, AasistModel, AasistModelOutput, AasistOutput
from .modeling_audio_llm import AudioLLMForAudioClassification, AudioLLMOutput
from .modeling_qwen_audio import QwenAudioForConditionalGeneration, QwenAudioModel
from .modeling_qwen_audio_encoder import QwenAudioEncoder
from .modeling_sastnet import SASTNetForAudioClassification, SASTNetModel, SASTNetModelOutput, SASTNetOutput
from .processing_qwen_audio import QwenAudioProcessor


AutoConfig.register(AasistConfig.model_type, AasistConfig)
AutoModel.register(AasistConfig, AasistModel)
AutoModelForAudioClassification.register(AasistConfig, AasistForAudioClassification)
AutoFeatureExtractor.register(AasistConfig, AasistFeatureExtractor)
AutoConfig.register(AudioLLMDetectorConfig.model_type, AudioLLMDetectorConfig)
AutoModelForAudioClassification.register(AudioLLMDetectorConfig, AudioLLMForAudioClassification)
AutoFeatureExtractor.register(AudioLLMDetectorConfig, AudioLLMFeatureExtractor)
AutoConfig.register(QwenAudioConfig.model_type, QwenAudioConfig)
AutoModel.register(QwenAudioConfig, QwenAudioModel)
AutoModelForMultimodalLM.register(QwenAudioConfig, QwenAudioForConditionalGeneration)
AutoProcessor.register(QwenAudioConfig, QwenAudioProcessor)

AutoConfig.register(SASTNetConfig.model_type, SASTNetConfig)
AutoModel.register(SASTNetConfig, SASTNetModel)
AutoModelForAudioClassification.register(SASTNetConfig, SASTNetForAudioClassification)
AutoFeatureExtractor.register(SASTNetConfig, SASTNetFeatureExtractor)

# What `save_pretrained` copies beside the weights, so that the Auto classes load it where spooftrace is not installed.
AasistConfig.register_for_auto_class()
AasistFeatureExtractor.register_for_auto_class()
AasistModel.register_for_auto_class("AutoModel")
AasistForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
AudioLLMDetectorConfig.register_for_auto_class()
AudioLLMFeatureExtractor.register_for_auto_class()
AudioLLMForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
QwenAudioConfig.register_for_auto_class()
QwenAudioProcessor.register_for_auto_class()
QwenAudioModel.register_for_auto_class("AutoModel")
QwenAudioForConditionalGeneration.register_for_auto_class("AutoModelForMultimodalLM")
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
    "AudioLLMDetectorConfig",
    "AudioLLMFeatureExtractor",
    "AudioLLMForAudioClassification",
    "AudioLLMOutput",
    "QwenAudioConfig",
    "QwenAudioEncoder",
    "QwenAudioEncoderConfig",
    "QwenAudioForConditionalGeneration",
    "QwenAudioModel",
    "QwenAudioProcessor",
    "SASTNetConfig",
    "SASTNetFeatureExtractor",
    "SASTNetForAudioClassification",
    "SASTNetModel",
    "SASTNetModelOutput",
    "SASTNetOutput",
]
