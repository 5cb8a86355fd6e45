"""Audio language models of two layers in training, for the tests of it and for the processes that they start."""

from pathlib import Path

import torch
from audio_llm_models import write_base

from spooftrace.modeling import AudioLLMFeatureExtractor, AudioLLMForAudioClassification
from spooftrace.trainers.audio_llm_config import AudioLLMTrainingConfig
from spooftrace.trainers.audio_llm_trainer import AudioLLMTrainer


ADAPTERS = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0}
QUIET = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "logging_steps": 1,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}


def base_of(folder: Path, kind: str = "qwen2_audio") -> Path:
    """A base model in this folder, written if it is not there."""
    if not (folder / kind).exists():
        write_base(folder / kind, kind)
    return folder / kind


def detector(base: Path, seed: int = 0, **settings) -> AudioLLMForAudioClassification:
    """With adapters that nothing is random in, unless told otherwise."""
    torch.manual_seed(seed)
    return AudioLLMForAudioClassification.from_backbone_pretrained(base, **{"lora": ADAPTERS, **settings})


def doubled(model: AudioLLMForAudioClassification) -> AudioLLMForAudioClassification:
    """In double precision up to the head, so that sums in another order agree."""
    model.double()

    def widen(module, args, kwargs):
        return args, {**kwargs, "input_features": kwargs["input_features"].double()}

    model.register_forward_pre_hook(widen, with_kwargs=True)
    return model


def trainer_of(
    base: Path, model: AudioLLMForAudioClassification, folder: Path, rows: list[dict], eval_rows=None, **settings
) -> AudioLLMTrainer:
    """A trainer on the CPU that writes nothing and evaluates nothing but what the settings ask for."""
    settings = {"learning_rate": 1e-3, "per_device_train_batch_size": 4, "max_steps": 3, **QUIET, **settings}
    extractor = AudioLLMFeatureExtractor.from_backbone_pretrained(base)
    arguments = AudioLLMTrainingConfig(str(folder), **settings)
    return AudioLLMTrainer(model, arguments, train_dataset=rows, eval_dataset=eval_rows, processing_class=extractor)
