"""Convolutions in full float32 on CUDA, for as long as any thread scores.

By default cuDNN keeps 10 bits of each factor ([TF32](https://docs.pytorch.org/docs/stable/notes/cuda.html)), and picks
its algorithm by the size of the batch: a score would depend on the clips beside it.
"""

import threading
from types import TracebackType

import torch


class ExactConvolutions:
    """
    A context that several threads may be in at once.

    The setting is the process's: the first thread to come sets it, and only the last to leave may put it back, or one
    thread would restore what another had set and the process would never be as before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = ""

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.backends.cudnn.conv.fp32_precision
                torch.backends.cudnn.conv.fp32_precision = "ieee"
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.backends.cudnn.conv.fp32_precision = self._before


exact_convolutions = ExactConvolutions()
