"""What the AASIST and SASTNet families have in common as models of transformers."""

import os
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .aasist import init_graph
from .source_tasks import check_answers


class PreTrainedWaveformModel(PreTrainedModel):
    """
    Mono waveforms -> embeddings or logits, by way of the AASIST back-end.

    Raises:
        `ValueError`: for a configuration whose fields do not fit together, or whose labels are not those of its tasks.
    """

    main_input_name = "input_values"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    # Of wav2vec 2.0 and Whisper; the other transformers choose by themselves, and attention over graph nodes is no dot product.
    _supports_sdpa = True
    _supports_flash_attn = True
    # Losses are means over the clips of one batch: Trainer has to divide them under gradient accumulation.
    accepts_loss_kwargs = False
    # What `config.json` names for each Auto class: `module.Class` in the files beside it.
    auto_classes: ClassVar[dict[str, str]] = {}

    def __init__(self, config: PreTrainedConfig):
        # Once more: fields that are passed to `from_pretrained` are set after the configuration has checked itself.
        config.validate_architecture()
        check_answers(config.tasks, config.task_labels, config.id2label)
        super().__init__(config)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """As in transformers; a saved folder loads as the bare model and as the classifier, without spooftrace too."""
        # A class carries one Auto class; the entry of the other is added here, its code travels anyway.
        self.config.auto_map = dict(self.auto_classes)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def returned(self, output: ModelOutput, return_dict: bool | None) -> ModelOutput | tuple:
        """What a forward pass returns: its output, or a tuple of it where the call or else the configuration says so."""
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Each layer's own law, as in the public code, and tables by the `compute_NAME` of the module that holds them."""
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)):
            module.reset_parameters()
        init_graph(module)
        for name, buffer in module.named_buffers(recurse=False):
            if (compute := getattr(module, f"compute_{name}", None)) is not None:
                init.copy_(buffer, compute())


__all__ = ["PreTrainedWaveformModel"]
