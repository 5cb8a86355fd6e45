"""Rows, models and trainers of source tracing, for its tests."""

from pathlib import Path

import torch
from tiny_sastnet import tiny_sastnet_config
from training_jobs import NO_DROPOUT, exact, tiny_aasist, write_corpus

from spooftrace.modeling import SASTNetForAudioClassification
from spooftrace.modeling.source_tasks import TASK_LABELS
from spooftrace.trainers.sastnet_config import SASTNetTrainingConfig
from spooftrace.trainers.sastnet_trainer import SASTNetTrainer
from spooftrace.trainers.tracing_config import TracingConfig
from spooftrace.trainers.tracing_trainer import TracingTrainer


SASTNET_SAMPLES = 8_000
CODECS = {"A01": ("mvq", "none", "time"), "A02": ("svq", "semantic", "frequency"), "A03": ("sq", None, None)}
SILENT = {"graph_dropout": 0.0, "pool_dropout": 0.0, "branch_dropout": 0.0, "classifier_dropout": 0.0}


def codec_rows(folder: Path, **numbers) -> list[dict]:
    """The rows of `write_corpus` with the codec attributes of three systems, of which the last is half unknown."""
    return with_codecs(write_corpus(folder, **numbers))


def with_codecs(rows: list[dict]) -> list[dict]:
    """Rows with the codec attributes of their systems."""
    nothing = (None, None, None)
    return [row | dict(zip(("vq", "aux", "dec"), CODECS.get(row["attack_id"], nothing), strict=True)) for row in rows]


def tiny_net(seed: int = 0, **fields) -> SASTNetForAudioClassification:
    torch.manual_seed(seed)
    return SASTNetForAudioClassification(tiny_sastnet_config(**fields))


def tracer(model, folder: Path, rows, eval_dataset=None, callbacks=(), **overrides) -> TracingTrainer:
    """A trainer on the CPU that writes nothing and evaluates nothing but what `overrides` ask for."""
    is_sastnet = isinstance(model, SASTNetForAudioClassification)
    settings = {
        "num_samples": SASTNET_SAMPLES if is_sastnet else 2_400,
        "learning_rate": 1e-3,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "use_cpu": True,
        "report_to": "none",
        "per_device_train_batch_size": 7,
        "max_steps": 4,
        **overrides,
    }
    kind, config = (SASTNetTrainer, SASTNetTrainingConfig) if is_sastnet else (TracingTrainer, TracingConfig)
    arguments = config(output_dir=str(folder), **settings)
    return kind(model, arguments, train_dataset=rows, eval_dataset=eval_dataset, callbacks=list(callbacks))


def joint_tracing_run(kind: str, folder: Path, rows: list[dict], processes: int, seed: int) -> dict:
    """
    Five steps in double precision with nothing random; the joint batch has the same size on any number of processes.

    Args:
        kind: `"sastnet"`, or `"tracing"` for three tasks whose classes are not all known.
        seed: of the model's parameters; those of the first process count.
    """
    if kind == "sastnet":
        quiet = {**SILENT, "fusion_dropout": 0.0, "mask_ratio": 0.0}
        model = tiny_net(seed, frontend="mel", use_semantics=False, task="vq", **quiet)
    else:
        model = tiny_aasist(seed, tasks=["bin", "aux", "dec"], **NO_DROPOUT)
    task = "vq" if kind == "sastnet" else "aux"
    # Exact in binary, as the sums of the two processes are compared with those of one.
    weights = {task: {label: 0.25 if label == "bonafide" else 0.75 for label in TASK_LABELS[task]}}
    settings = {"per_device_train_batch_size": 8 // processes, "max_steps": 5, "rawboost": 0}
    trainer = tracer(exact(model), folder, rows, class_weights=weights, **settings)
    trainer.train()
    return {
        "parameters": {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()},
        "log": [{key: entry[key] for key in entry if "loss" in key} for entry in trainer.state.log_history],
        "metrics": {key: value for key, value in trainer.evaluate(rows[6:17]).items() if key.endswith(("loss", "f1"))},
    }


def logged(trainer: TracingTrainer, name: str) -> list[float]:
    """Every value of that name in the log."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
