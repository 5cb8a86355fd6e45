"""Arguments of [`TracingTrainer`]."""

from dataclasses import dataclass, field
from typing import Literal

from spooftrace.trainers.detection_config import DetectionConfig, check_choices


@dataclass
class TracingConfig(DetectionConfig):
    r"""
    Arguments of [`TracingTrainer`], beside those of [`DetectionConfig`].

    Of one task, `metric_for_best_model` may be `"accuracy"`, `"weighted_f1"`, `"macro_f1"`, `"loss"`, and `"eer"` where the
    task is `"bin"`. Of several, the name begins with the task, as in `"vq_macro_f1"`, or with `"mean"`, their plain mean: a
    bare `"macro_f1"` is `"mean_macro_f1"`. As in [`DetectionConfig`], the name of one of several evaluation sets comes first.

    Args:
        class_weights (`dict[str, dict[str, float]]` or `str`, *optional*):
            Weight of each class in the loss by task, such as `{"dec": {"bonafide": 0.2, "time": 0.4, "frequency": 0.4}}`;
            `"sastnet"` or `"baseline"`, those of the public code of SASTNet and of its baselines; or `"equal"`. By default
            those that the model's configuration holds, which SASTNet's does, else alike. A task that is not named has
            its classes weighted alike.
        task_weights (`dict[str, float]`, *optional*):
            Weight of each task in the loss; alike by default, as in the published baselines of several tasks. The loss of a
            step is the weighted mean over the tasks that some clip of it has a known class of.
        unknown_labels (`str`, *optional*, defaults to `"error"`):
            What becomes of a class of the taxonomy that the model does not have: an `"error"` with the counts, or
            `"mask"`, as if it was not known.
        metric_for_best_model (`str`, *optional*, defaults to `"macro_f1"`): What "best" means.
    """

    _VALID_DICT_FIELDS = [*DetectionConfig._VALID_DICT_FIELDS, "task_weights"]

    class_weights: dict[str, dict[str, float]] | str | None = field(
        default=None, metadata={"help": "Weight of each class by task, or 'sastnet', 'baseline' or 'equal'."}
    )
    task_weights: dict[str, float] | str | None = field(
        default=None, metadata={"help": 'Weight of each task in the loss, as in \'{"bin": 1, "vq": 2}\'.'}
    )
    unknown_labels: Literal["error", "mask"] = field(
        default="error", metadata={"help": "What becomes of a class that the model does not have."}
    )
    metric_for_best_model: str = field(default="macro_f1", metadata={"help": "What 'best' means."})

    def __post_init__(self):
        super().__post_init__()
        check_choices(self, "unknown_labels")
