"""Running statistics of batch normalisation, moved by the forward passes that are meant to and by no other."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNormStatistics:
    """
    The running statistics of a model, as they were when they were last kept.

    A backward pass under activation checkpointing runs parts of the model again, which moves the statistics once more:
    `keep` after each forward pass that counts, and `restore` after its backward pass.
    """

    def __init__(self, model: nn.Module):
        self.layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.keep()

    @property
    def buffers(self) -> list[torch.Tensor]:
        return [buffer for layer in self.layers for buffer in layer.buffers()]

    def freeze(self) -> None:
        """Normalises by the statistics as they are, in training too, until the model's next `train()`."""
        for layer in self.layers:
            layer.eval()

    def keep(self) -> None:
        self._kept = [buffer.clone() for buffer in self.buffers]

    def restore(self) -> None:
        for buffer, value in zip(self.buffers, self._kept, strict=True):
            buffer.copy_(value)
