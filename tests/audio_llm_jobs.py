"""Audio language models of two layers in training, for the tests of it and for the processes that they start.

One of two processes that work together: audio_llm_jobs.py DIR
"""

import json
import os
import sys
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


def joint_run(folder: Path, rows: list[dict], processes: int, name: str) -> dict:
    """Four steps of eight clips in double precision, however many processes share them, from a base in `folder`."""
    model = doubled(detector(base_of(folder), train_encoder=True))
    settings = {"per_device_train_batch_size": 4 // processes, "gradient_accumulation_steps": 2, "max_steps": 4}
    settings |= {"optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "label_mask": "reference"}
    weights = {"bonafide": 0.75, "spoof": 0.25}
    trainer = trainer_of(base_of(folder), model, folder / name, rows, rows, class_weights=weights, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    parameters = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    return {"parameters": parameters, "losses": losses, "metrics": trainer.evaluate()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    result = joint_run(folder, json.loads((folder / "rows.json").read_text()), 2, rank)
    torch.save(result, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
