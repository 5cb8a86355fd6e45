"""Small corpora, models and trainers, for the tests of training and for the processes that they start."""

import os
import random
from pathlib import Path

import numpy as np
import soundfile
import torch
from conftest import TINY_GRAPH, tiny_config, tiny_wav2vec2
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import TrainerCallback, Wav2Vec2Config, Wav2Vec2Model

from spooftrace.modeling import AasistForAudioClassification
from spooftrace.trainers.detection_config import DetectionConfig
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.mldg_config import MLDGConfig
from spooftrace.trainers.mldg_trainer import MLDGTrainer


NUM_SAMPLES = 2400  # 0.15 s
NO_DROPOUT = dict.fromkeys(("graph_dropout", "pool_dropout", "branch_dropout", "classifier_dropout"), 0.0)
ATTACKS = ("A01", "A02", "A03")


def write_corpus(folder: Path, genuine: int = 9, spoofs: int = 4, seed: int = 0) -> list[dict]:
    """Rows of short FLACs: noise is bona fide, and each attack adds its own tone; 2,000 to 4,000 samples each."""
    rng = np.random.default_rng(seed)
    kinds = [None] * genuine + [attack for attack in ATTACKS for _ in range(spoofs)]
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, attack in enumerate(kinds):
        wave = 0.1 * rng.standard_normal(int(rng.integers(2000, 4000)))
        if attack is not None:
            wave += 0.2 * np.sin(2 * np.pi * 700 * (1 + ATTACKS.index(attack)) * np.arange(len(wave)) / 16_000)
        path = folder / f"clip_{number:03}.flac"
        soundfile.write(path, wave, 16_000)
        label = "bonafide" if attack is None else "spoof"
        rows.append({"utterance_id": path.stem, "audio": str(path), "label": label, "attack_id": attack})
    return rows


def tiny_aasist(seed: int = 0, **overrides) -> AasistForAudioClassification:
    torch.manual_seed(seed)
    return AasistForAudioClassification(tiny_config("sinc", num_filters=24, sinc_kernel_size=17, **overrides))


def tiny_lora(folder: Path, **overrides) -> AasistForAudioClassification:
    """A detector with adapters in an encoder that lies in `folder`."""
    torch.manual_seed(0)
    if not folder.exists():
        Wav2Vec2Model(Wav2Vec2Config(**tiny_wav2vec2())).save_pretrained(folder)
    torch.manual_seed(1)
    sizes = {"lora": {"r": 2}, **TINY_GRAPH, **NO_DROPOUT, **overrides}
    return AasistForAudioClassification.from_wav2vec2_pretrained(folder, **sizes)


def exact(model: torch.nn.Module, frozen_statistics: bool = True) -> torch.nn.Module:
    """In double precision, so that sums in another order agree; batch normalisation by fixed statistics."""
    model.double()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "input_values": kwargs["input_values"].double()}),
        with_kwargs=True,
    )
    for layer in [module for module in model.modules() if isinstance(module, _BatchNorm) and frozen_statistics]:
        layer.eval()
        layer.train = lambda mode=True, layer=layer: layer
    return model


def trainer_of(kind: str, model, folder: Path, rows, eval_dataset=None, callbacks=(), **overrides) -> DetectionTrainer:
    """A trainer on the CPU that writes nothing and evaluates nothing but what `overrides` ask for."""
    settings = {
        "num_samples": NUM_SAMPLES,
        "learning_rate": 1e-3,
        "max_steps": 10,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
        "early_stopping_patience": None,
        "per_device_train_batch_size": 4,
        **({"num_meta_test_domains": 1, "clips_per_domain": 2} if kind == "mldg" else {}),
        **overrides,
    }
    trainer, config = {"erm": (DetectionTrainer, DetectionConfig), "mldg": (MLDGTrainer, MLDGConfig)}[kind]
    arguments = config(output_dir=str(folder), **settings)
    return trainer(model, arguments, train_dataset=rows, eval_dataset=eval_dataset, callbacks=list(callbacks))


def noisy_trainer(kind: str, folder: Path, rows, workers: int = 0, **overrides) -> DetectionTrainer:
    """Random crops, RawBoost and dropout; epochs of few steps, with evaluations and checkpoints in their midst."""
    settings = {
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "max_steps": 9,
        "dataloader_num_workers": workers,
        "rawboost": 5,
        **({"cycle_steps": 6} if kind == "mldg" else {"per_device_train_batch_size": 7}),  # 3 steps to an epoch, or 5
        **overrides,
    }
    if kind == "mldg":
        settings = {"clips_per_domain": 2, "gradient_accumulation_steps": 1, **settings}
    return trainer_of(kind, tiny_aasist(), folder, rows, rows[::3], **settings)


def state_of(trainer: DetectionTrainer) -> dict:
    """What training leaves: tensors of the model and of the optimiser, and the record of the best model."""
    moments = [value for state in trainer.optimizer.state_dict()["state"].values() for value in state.values()]
    return {
        "model": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "optimizer": [value.clone() for value in moments],
        "rate": trainer.lr_scheduler.get_last_lr(),
        "best": (trainer.state.best_metric, trainer.state.best_global_step, trainer.state.global_step),
        "random": torch.random.get_rng_state(),
    }


def assert_same(one: dict, other: dict) -> None:
    """To the bit."""
    assert (one["best"], one["rate"]) == (other["best"], other["rate"])
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert len(one["optimizer"]) == len(other["optimizer"])
    assert all(torch.equal(a, b) for a, b in zip(one["optimizer"], other["optimizer"], strict=True))
    assert torch.equal(one["random"], other["random"])


def train_to_the_end(kind: str, folder: Path, rows: list[dict], workers: int, resume: bool) -> None:
    """A job for a process that may be killed; what it comes to lies in `final.pt`."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    random.seed(os.getpid())  # nothing may hang on what a process finds
    trainer = noisy_trainer(kind, folder, rows, workers)
    trainer.train(resume_from_checkpoint=resume)
    torch.save(state_of(trainer), folder / "final.tmp")
    (folder / "final.tmp").rename(folder / "final.pt")


class At(TrainerCallback):
    """Calls a function at the beginning of one step (their count from 0)."""

    def __init__(self, step: int, function):
        self.step, self.function = step, function

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.function()
