"""Interrupted training: which checkpoint is whole, and Ctrl-C as a wish to stop after the step."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


# Launchers pass the signal on that a terminal has sent to their processes already.
ECHO_SECONDS = 2.0
_NOTICE = b"\nInterrupted: a checkpoint follows after this step. Once more stops at once.\n"


def last_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The whole checkpoint of the most steps; `None` without any. One that was cut short by `kill -9` is passed over."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    steps = {int(folder.name.rpartition("-")[2]): folder for folder in folders if folder.name[-1].isdigit()}
    return next((steps[step] for step in sorted(steps, reverse=True) if is_whole(steps[step])), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether the trainer's state, which is written last, is there and can be read."""
    try:
        return "global_step" in json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


class Interruption:
    """
    While it is entered, the first Ctrl-C (SIGINT) is only noted; another one, a moment later, ends the process as ever.

    Python takes signals in its main thread alone; elsewhere nothing changes.
    """

    def __init__(self):
        self.noted_at: float | None = None
        self._process, self._previous = 0, None

    def __enter__(self) -> None:
        self.noted_at, self._process = None, os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _note(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:
            return  # a worker of the data loader, which the terminal signals too; the main process decides
        if self.noted_at is None:
            self.noted_at = time.monotonic()
            os.write(2, _NOTICE)  # printing is not safe here: the signal may have come in the middle of a print
        elif time.monotonic() - self.noted_at > ECHO_SECONDS:
            raise KeyboardInterrupt

    def is_wished(self, device: torch.device) -> bool:
        """Whether any process was interrupted; all of them have to ask at the same step."""
        noted = self.noted_at is not None
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return noted
        flag = torch.tensor(float(noted), device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)
