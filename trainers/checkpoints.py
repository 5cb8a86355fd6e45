"""Which checkpoint of a run is whole."""

import json
import os
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


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
