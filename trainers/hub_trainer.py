"""Training that pushes to the Hub, does not depend on it, and does not keep silent where a push has failed."""

import os
import tempfile
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import Trainer
from transformers.utils import logging

from spooftrace.hub import HubError, Push, ask_hub, is_transient, push_folder
from spooftrace.model_staging import stage_model


logger = logging.get_logger(__name__)

ATTEMPTS_AT_START = 3


class _Unpickled(str):
    """A token that is `None` once it is pickled: transformers saves its arguments beside each checkpoint, and pushes them."""

    def __reduce__(self) -> tuple[type, tuple]:
        return type(None), ()


class HubTrainer(Trainer):
    """
    A Trainer for which the Hub is a copy: with `push_to_hub=True`, a Hub that is away stops nothing, and every push that
    fails is logged and kept in `hub_problem`. What the Hub refuses for good, such as a token that may only read, still
    raises at the start.

    `hub_problem` is one line, or `None` where the last push was fine.
    """

    hub_problem: str | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        self._pushes: list[Future] = []
        super().__init__(*args, **kwargs)
        if self.args.hub_token:
            self.args.hub_token = _Unpickled(self.args.hub_token)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        As in transformers, where training goes on without the repository if the Hub is away.

        Raises:
            HubError: where the Hub refuses it.
        """
        try:
            self._make_repository(token, private, ATTEMPTS_AT_START)
        except HubError as error:
            if not (is_transient(error.__cause__) or isinstance(error.__cause__, OfflineModeIsEnabled)):
                raise
            self.hub_model_id = self.push_in_progress = None
            self._note(f"{error}. Training goes on, and everything is saved in {self.args.output_dir} alone")

    def _make_repository(self, token: str | None = None, private: bool | None = None, attempts: int = 1) -> None:
        make = partial(super().init_hf_repo, token=token, private=private)
        ask_hub(make, self._repository_name(), token=token or self.args.hub_token, attempts=attempts)

    def _repository_name(self) -> str:
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def _note(self, problem: str) -> None:
        self.hub_problem = problem
        logger.warning(f"not pushed: {problem}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in transformers, where there is a repository; what becomes of the push in the background is noted."""
        if not self.is_world_process_zero() or self.hub_model_id is None:
            return
        super()._push_from_checkpoint(checkpoint_folder)
        for job in getattr(self.push_in_progress, "jobs", []):
            if job not in self._pushes:
                self._pushes.append(job)
                job.add_done_callback(partial(self._pushed, self.state.global_step))

    def _pushed(self, step: int, job: Future) -> None:
        error = None if job.cancelled() else job.exception()
        if error is None:
            self.hub_problem = None
            return
        try:
            ask_hub(job.result, self._repository_name(), token=self.args.hub_token, attempts=1)
        except Exception as explained:  # noqa: BLE001  the client raises errors of many kinds
            self._note(f"step {step}: {explained}. Training goes on")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; at the end, pushes that have failed in between are counted."""
        result = super().train(*args, **kwargs)
        self._finish_current_push()
        failed = sum(1 for job in self._pushes if not job.cancelled() and job.exception() is not None)
        if failed:
            logger.warning(
                f"{failed} of {len(self._pushes)} pushes to {self._repository_name()} failed during training"
            )
        return result

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; with `push_to_hub=True`, `push_saved` follows, and what fails then is noted, not raised."""
        super().save_model(output_dir, _internal_call=True)
        if self.args.push_to_hub and not _internal_call:
            self.push_saved(output_dir)

    def push_saved(self, folder: str | os.PathLike | None = None) -> Push | None:
        """
        Pushes a saved model, with its card, in one commit, and compares what the Hub then holds.

        Args:
            folder: by default `args.output_dir`.

        Returns:
            The commit; `None` where it failed, which `hub_problem` tells, and in all processes but the first.
        """
        if not (self.args.push_to_hub and self.is_world_process_zero()):
            return None
        folder = Path(folder or self.args.output_dir)
        try:
            self._finish_current_push()
            if self.hub_model_id is None:
                self._make_repository(attempts=ATTEMPTS_AT_START)
            push = self._push_folder(folder)
        except (OSError, ValueError) as error:  # of the Hub, the disk, or what lies in the folder
            target = self._repository_name()
            self._note(f"{error}. It lies in {folder}: `spooftrace publish {folder} {target}` pushes it")
            return None
        self.hub_problem = None
        return push

    def _push_folder(self, folder: Path) -> Push:
        with tempfile.TemporaryDirectory() as target:
            stage_model(folder, self.hub_model_id, Path(target))
            return push_folder(
                target,
                self.hub_model_id,
                message="End of training",
                private=self.args.hub_private_repo,
                revision=self.args.hub_revision,
                token=self.args.hub_token,
            )
