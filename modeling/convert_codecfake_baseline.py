"""The published W2V2-AASIST baselines of codec source tracing -> our naming, with every key accounted for.

Single-task (S), dual-task (D) and multi-task (M1, M2) models of arXiv 2505.12994: wav2vec 2.0 under fairseq's names, one
residual encoder, and a graph with a classifier for each task.
"""

import os
from collections.abc import Iterable, Mapping

import torch

from .configuration_aasist import AasistConfig
from .convert_aasist import rename_key as rename_trunk
from .convert_common import (
    ConversionError,
    ConversionReport,
    finish,
    quiet_wav2vec2,
    read_checkpoint,
    rename_state_dict,
    swap_classes,
    without_parallel_prefix,
)
from .convert_names import rename_graph_key
from .modeling_aasist import AasistForAudioClassification
from .source_tasks import TASK_LABELS


BRANCHES = {
    "bin": "binary_branch",
    "vq": "multiclass_branch_qs",
    "aux": "multiclass_branch_as",
    "dec": "multiclass_branch_ds",
}


def find_tasks(keys: Iterable[str]) -> list[str]:
    """The tasks that a checkpoint has a branch for, in the order of `TASK_LABELS`."""
    modules = {key.partition(".")[0] for key in keys}
    return [task for task in TASK_LABELS if BRANCHES[task] in modules]


def rename_branch_key(key: str, task: str, is_first: bool) -> str | None:
    """Our name for a tensor of the branch of `task`, without the branch's own name, or `None` for a stranger."""
    if key in ("out_layer.weight", "out_layer.bias"):
        return key.replace("out_layer", "classifier" if is_first else f"task_classifiers.{task}")
    ours = rename_graph_key(key)
    return ours and f"aasist.{'backend' if is_first else f'task_graphs.{task}'}.{ours}"


def rename_key(key: str, tasks: list[str]) -> tuple[str | None, str | None]:
    """Our name for a tensor, or the reason to drop it, or neither for a stranger."""
    module, _, rest = key.partition(".")
    for task in tasks:
        if module == BRANCHES[task]:
            return rename_branch_key(rest, task, task == tasks[0]), None
    # What is left has the names of SSL_Anti-spoofing, but for a graph of its own.
    ours, reason = rename_trunk(key)
    own_graph = ours is not None and (rename_graph_key(key) is not None or module == "out_layer")
    return (None, None) if own_graph else (ours, reason)


def _check_classes(state: Mapping[str, torch.Tensor], tasks: list[str]):
    for task in tasks:
        bias = state.get(f"{BRANCHES[task]}.out_layer.bias")
        expected = len(TASK_LABELS[task])
        if bias is None or len(bias) != expected:
            found = "no classifier" if bias is None else f"{len(bias)} classes"
            raise ConversionError(
                f"'{BRANCHES[task]}' has {found}; the task {task!r} has the {expected} classes "
                f"{', '.join(TASK_LABELS[task])}."
            )


def convert_codecfake_baseline(
    checkpoint: str | os.PathLike, wav2vec2_config: str | os.PathLike | None = None
) -> tuple[AasistForAudioClassification, ConversionReport]:
    """
    Converts a file of `Wav2Vec2_baseline` in `CodecFake/CodecFake_Source_Tracing`.

    Args:
        checkpoint: A `.pth` file of plain tensors or a `.safetensors` file; its tensors tell the tasks.
        wav2vec2_config:
            A `config.json` (or folder, or Hub name) of the wav2vec 2.0 encoder, whose attention heads no tensor tells;
            XLS-R 300M's by default.

    Raises:
        `ConversionError`: if any tensor is missing, unknown or of another shape, or there is no branch for any task.
    """
    report = ConversionReport(source=os.path.basename(checkpoint), model="W2V2-AASIST (CodecFake+ baseline)")
    published = without_parallel_prefix(read_checkpoint(checkpoint), report)
    tasks = find_tasks(published)
    if not tasks:
        raise ConversionError(
            f"{str(checkpoint)!r} is no baseline of CodecFake+: it has none of the branches {', '.join(BRANCHES.values())}."
        )
    _check_classes(published, tasks)
    state = rename_state_dict(published, lambda key: rename_key(key, tasks), report)
    if tasks[0] == "bin":
        swap_classes(state, "classifier", report)
    report.notes.append(f"Tasks, read from the branches: {', '.join(tasks)}.")
    report.notes.append("The front end takes the raw waveform: do_normalize is False, as in the reference.")
    config = AasistConfig(frontend="wav2vec2", wav2vec2_config=quiet_wav2vec2(wav2vec2_config), tasks=tasks)
    return finish(AasistForAudioClassification(config), state, report)


__all__ = ["convert_codecfake_baseline"]
