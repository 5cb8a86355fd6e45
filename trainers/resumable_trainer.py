"""Training that can be interrupted in any way and goes on as if it had not been, on the CPU to the bit."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from spooftrace.trainers.checkpoints import last_checkpoint
from spooftrace.trainers.hub_trainer import HubTrainer


# Launchers pass the signal on that a terminal has sent to their processes already.
ECHO_SECONDS = 2.0
_NOTICE = b"\nInterrupted: a checkpoint follows after this step. Once more stops at once.\n"


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


class _Epochs(TrainerCallback):
    """
    Tells the sampler its epoch, and the trainer when one is over.

    The way through accelerate's wrappers to the sampler ends early in a resumed, distributed run.
    """

    def __init__(self, trainer: "ResumableTrainer"):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.epoch_is_over = False
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(int(state.epoch))

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.epoch_is_over = True


class ResumableTrainer(HubTrainer):
    """
    A Trainer whose resumed runs end as they would have without the interruption.

    After Ctrl-C it finishes its step, saves a checkpoint and raises `KeyboardInterrupt`. Checkpoints that `kill -9` has cut
    short are passed over, evaluations leave the randomness of training alone, and a run that had come to its end makes no
    further step. What a step is made of has to follow from `sampler`, and the sampler's draws from its epoch: see
    `spooftrace.trainers.samplers`.
    """

    sampler: Sampler | None = None  # with a method `set_epoch`

    def __init__(self, *args: Any, **kwargs: Any):
        self.interruption, self.epoch_is_over, self._saved_step = Interruption(), False, -1
        super().__init__(*args, **kwargs)
        self.add_callback(_Epochs(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """
        As in transformers; `True` resumes from the last checkpoint that is whole.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when a checkpoint has been saved.
            ValueError: for `True` where there is no whole checkpoint.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir} holds no whole checkpoint to resume from.")
        if resume_from_checkpoint:
            resume_from_checkpoint = str(resume_from_checkpoint)
        self._saved_step = -1
        with self.interruption:
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """
        As in transformers, which would make no step at all and end as if all was well.

        Raises:
            ValueError: where incomplete batches are left out, and there is no other.
        """
        loader = super().get_train_dataloader()
        if not len(loader):
            raise ValueError(
                f"{len(self.train_dataset)} training clips make no batch of {self._train_batch_size} for each of "
                f"{self.args.world_size} processes: set `per_device_train_batch_size` lower, or `dataloader_drop_last` to "
                "false."
            )
        return loader

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in transformers; the randomness of training goes on as if there had been no evaluation."""
        with torch.random.fork_rng(devices=[]):  # a data loader draws a seed for its workers
            return super().evaluate(*args, **kwargs)

    def _run_epoch(self, *args: Any, resume_from_checkpoint: str | None = None, **kwargs: Any) -> None:
        # The base class makes a step before it looks whether a resumed run had come to its end.
        if resume_from_checkpoint is not None and self._has_ended():
            self.control.should_training_stop = True
            self._load_rng_state(resume_from_checkpoint)
            return
        super()._run_epoch(*args, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _has_ended(self) -> bool:
        stoppers = [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
        given_up = any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in stoppers)
        return given_up or self.state.global_step >= self.state.max_steps

    def _load_callback_state(self) -> None:
        """As in transformers; how long early stopping waits is what the arguments say now."""
        super()._load_callback_state()
        patience = getattr(self.args, "early_stopping_patience", None)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback) and patience is not None:
                callback.early_stopping_patience = patience

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # The state is written last: as long as it is missing, the checkpoint is not whole.
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        self._saved_step = self.state.global_step

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in transformers; the code that is saved is that of the model's own class, not of the one that FSDP makes."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        sharded = type(model)
        model.__class__ = next(kind for kind in sharded.__mro__ if not issubclass(kind, FSDPModule))
        try:
            super()._save(output_dir, state_dict)
        finally:
            model.__class__ = sharded

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # what follows is the state, by the first process

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ):
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        # A run resumed at the end of an epoch starts with the next one: what belongs to the end has to come first.
        if self.state.epoch == int(self.state.epoch) and not self.epoch_is_over:
            return
        if self.interruption.is_wished(self.args.device):
            if self._saved_step != self.state.global_step:
                self._save_checkpoint(model, trial)
            raise KeyboardInterrupt(
                f"interrupted after step {self.state.global_step}; a checkpoint lies in {self.args.output_dir}"
            )
