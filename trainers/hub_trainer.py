"""Training that pushes to the Hub, does not depend on it, and does not keep silent where a push has failed."""

import os
import shutil
import tempfile
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from spooftrace.hub import Push, push_folder
from spooftrace.hub_repository import HubError, Repository, is_transient
from spooftrace.model_staging import stage_model
from spooftrace.publish import STALE


logger = logging.get_logger(__name__)

ATTEMPTS_AT_START = 3
LAST_CHECKPOINT = "last-checkpoint"  # the folder of transformers for `hub_strategy="checkpoint"`


class _Unpickled(str):
    """A token that is `None` once it is pickled: transformers saves its arguments beside each checkpoint, and pushes them."""

    def __reduce__(self) -> tuple[type, tuple]:
        return type(None), ()


class HubTrainer(Trainer):
    """
    A Trainer for which the Hub is a copy: with `push_to_hub=True`, a Hub that is away stops nothing, and every push that
    fails is logged and kept in `hub_problem`. What the Hub refuses for good, such as a token that may only read, still
    raises at the start.

    What goes up is the model as `spooftrace publish` would have it, with its card: never optimizers, pickles and whatever
    else lies in the output folder, but for the checkpoints of `hub_strategy="checkpoint"` and `"all_checkpoints"`. As in
    transformers, files that the repository `hub_model_id` holds already are replaced.

    `hub_problem` is one line, or `None` where the last push was fine.
    """

    hub_problem: str | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        self._pushes: list[Future] = []
        self._background = HfApi()  # for its thread alone
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
        api = HfApi(token=token or self.args.hub_token)
        Repository(api, self._repository_name(), "model", attempts).ask(make)

    def _repository_name(self) -> str:
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def _note(self, problem: str) -> None:
        self.hub_problem = " ".join(problem.split())
        logger.warning(f"not pushed: {self.hub_problem}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """
        As in transformers, but for what goes up; what becomes of the push in the background is noted.

        The files are copied, or linked, first: the checkpoint may be deleted before they are sent.
        """
        if not self.is_world_process_zero() or self.hub_model_id is None or self.args.hub_strategy == HubStrategy.END:
            return
        running = [job for job in getattr(self.push_in_progress, "jobs", ()) if not job.done()]
        if running and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        try:
            place = self._stage_checkpoint(Path(checkpoint_folder))
        except (OSError, ValueError) as error:
            self._note(f"step {self.state.global_step}: {error}. Training goes on")
            return
        job = self._background.run_as_future(self._push_staged, place, self._title())
        self._pushes.append(job)
        self.push_in_progress = PushInProgress([*running, job])
        job.add_done_callback(partial(self._pushed, self.state.global_step))

    def _stage_checkpoint(self, checkpoint: Path) -> tempfile.TemporaryDirectory:
        """A checkpoint as it is pushed: the model, and where it is asked for the whole of it in a folder."""
        place = tempfile.TemporaryDirectory(prefix=".push-", dir=self.args.output_dir, ignore_cleanup_errors=True)
        folders = {HubStrategy.CHECKPOINT: LAST_CHECKPOINT, HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        try:
            stage_model(checkpoint, self.hub_model_id, Path(place.name))
            if (name := folders.get(self.args.hub_strategy)) is not None:
                shutil.copytree(checkpoint, Path(place.name) / name, copy_function=_link)
        except BaseException:
            place.cleanup()
            raise
        return place

    def _push_staged(self, place: tempfile.TemporaryDirectory, title: str) -> Push:
        with place as folder:
            return self._push(folder, title)

    def _push(self, folder: str | os.PathLike, title: str, **options: Any) -> Push:
        """One commit; `options` of `push_folder` that are `None` are those of the arguments."""
        own = {
            "private": self.args.hub_private_repo,
            "revision": self.args.hub_revision,
            "token": self.args.hub_token,
        }
        own |= {name: value for name, value in options.items() if value is not None}
        replace = (*STALE, f"{LAST_CHECKPOINT}/*") if (Path(folder) / LAST_CHECKPOINT).is_dir() else STALE
        return push_folder(folder, self.hub_model_id, message=title, replace=replace, overwrite=True, **own)

    def _title(self) -> str:
        """Of a commit during training, in the words of transformers."""
        if self.args.save_strategy == SaveStrategy.STEPS:
            return f"Training in progress, step {self.state.global_step}"
        return f"Training in progress, epoch {int(self.state.epoch)}"

    def _pushed(self, step: int, job: Future) -> None:
        error = None if job.cancelled() else job.exception()
        if error is None:
            self.hub_problem = None
        else:
            self._note(f"step {step}: {error}. Training goes on")

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
            push = self._push_folder(folder, "End of training")
        except (OSError, ValueError) as error:  # of the Hub, the disk, or what lies in the folder
            target = self._repository_name()
            self._note(f"{error}. It lies in {folder}: `spooftrace publish {folder} {target}` pushes it")
            return None
        self.hub_problem = None
        return push

    def _push_folder(self, folder: Path, title: str, license: str | None = None, **options: Any) -> Push:
        with tempfile.TemporaryDirectory(prefix=".push-", dir=folder) as target:
            stage_model(folder, self.hub_model_id, Path(target), license=license)
            return self._push(target, title, **options)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
    ) -> Push | Future | None:
        """
        Saves the model and pushes it, as in transformers, with the card of `spooftrace publish`.

        Args:
            commit_message: title of the commit.
            blocking: wait for the push; else a `Future` of it is returned.
            token, revision, private: instead of those of the arguments.
            license: identifier of the licence, such as `apache-2.0`, for the card.

        Returns:
            The commit; `None` in all processes but the first.

        Raises:
            HubError: where it failed.
            ValueError: for a model that must not be published as it is.
        """
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        if self.hub_model_id is None:
            self._make_repository(token, private, ATTEMPTS_AT_START)
        options = {"license": license, "token": token, "revision": revision, "private": private}
        push = partial(self._push_folder, Path(self.args.output_dir), commit_message, **options)
        return push() if blocking else self._background.run_as_future(push)


def _link(source: str, target: str) -> None:
    """Copies a file of a checkpoint, which nobody changes any more, without its bytes where the disk can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
