"""Arguments of [`DetectionTrainer`]."""

from dataclasses import dataclass, field
from typing import Literal, get_args, get_type_hints

from transformers import TrainingArguments


@dataclass
class DetectionConfig(TrainingArguments):
    r"""
    Arguments of [`DetectionTrainer`], beside those of [`~transformers.TrainingArguments`].

    Defaults that differ from there: an evaluation and a checkpoint every epoch, of which the best by EER is kept; learning
    rate 1e-6 and weight decay 1e-4, as for fine-tuning all of W2V2-AASIST (Tak et al. 2022, arXiv 2202.12233); no columns
    are removed, a loss that is not finite ends the training instead of being left out of the log, and a resumed run counts
    on where early stopping was.

    With one evaluation set, or a mapping of one, `metric_for_best_model` may be a bare `"eer"`, `"loss"` or `"accuracy"`.
    With several it names the set too: `"dev_eer"`.

    Args:
        num_samples (`int`, *optional*, defaults to 64600): Length of a training clip at 16 kHz; 4.04 s in most systems.
        crop (`str`, *optional*, defaults to `"random"`):
            Where a longer clip is cut: `"random"` in training, or `"start"`, always its beginning, as in SSL_Anti-spoofing.
            Evaluation uses the beginning.
        class_weights (`dict[str, float]`, *optional*):
            Weight of each label in the loss, such as `{"bonafide": 0.9, "spoof": 0.1}`; alike by default. A step's loss is
            divided by the weights of all its clips, so that it depends neither on how they are divided into accumulated
            batches nor on how many processes share them.
        rawboost (`int`, *optional*, defaults to 0): RawBoost algorithm, 0 (none) to 8, on training clips.
        device_augmentation (`dict`, *optional*):
            Fields of [`DeviceAugmentationConfig`], such as `{"noise": 0.5, "min_snr": 0}`: what is done to training clips in
            batches where the model is, after RawBoost and cropping.
        augment_eval (`bool`, *optional*, defaults to `False`):
            Whether evaluation clips are altered too, as the published recipe does to its development set. A score that is
            meant to be compared is made without.
        early_stopping_patience (`int`, *optional*):
            Evaluations without a better `metric_for_best_model` after which training ends; never by default.
        cycle_steps (`int`, *optional*):
            Steps of a whole cycle of the learning rate, a straight way from `minimum_learning_rate` up to `learning_rate`
            and down again. By default the schedule is what `lr_scheduler_type` says.
        minimum_learning_rate (`float`, *optional*, defaults to 1e-7): Where the cycle begins and ends.
    """

    # Those of the command line that are JSON.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "class_weights", "device_augmentation"]

    num_samples: int = field(default=64_600, metadata={"help": "Length of a training clip at 16 kHz."})
    crop: Literal["random", "start"] = field(default="random", metadata={"help": "Where a longer clip is cut."})
    class_weights: dict[str, float] | str | None = field(
        default=None, metadata={"help": 'Weight of each label in the loss, as in \'{"bonafide": 0.9, "spoof": 0.1}\'.'}
    )
    rawboost: int = field(default=0, metadata={"help": "RawBoost algorithm on training clips, 0 (none) to 8."})
    device_augmentation: dict | str | None = field(
        default=None,
        metadata={"help": 'Alters training batches on the device, as in \'{"noise": 0.5, "codec": 0.2}\'.'},
    )
    augment_eval: bool = field(default=False, metadata={"help": "Whether evaluation clips are altered too."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without improvement after which training ends."}
    )
    cycle_steps: int | None = field(default=None, metadata={"help": "Steps of a whole cycle of the learning rate."})
    minimum_learning_rate: float = field(default=1e-7, metadata={"help": "Where the cycle begins and ends."})

    learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate of AdamW."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay of AdamW."})
    per_device_train_batch_size: int = field(default=14, metadata={"help": "Clips per device and forward pass."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Clips per device in evaluation."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: 'no', 'steps' or 'epoch'."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: 'no', 'steps', 'epoch' or 'best'."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Whether the best checkpoint is kept."})
    metric_for_best_model: str = field(default="eer", metadata={"help": "What 'best' means."})
    greater_is_better: bool | None = field(
        default=None, metadata={"help": "Whether a larger metric is better; by default that of accuracy alone."}
    )
    save_total_limit: int | None = field(default=3, metadata={"help": "Checkpoints that are kept."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between log entries."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "A loss that is not finite is an error."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Whether a resumed run counts on where early stopping was."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator takes what it needs."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "The published architecture has layers that never reach the output."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Inputs that are labels."}
    )

    def __post_init__(self):
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith(("eer", "loss"))
        super().__post_init__()
        check_choices(self, "crop")
        if self.num_samples < 1:
            raise ValueError(f"`num_samples` is at least 1, got {self.num_samples}.")
        if self.cycle_steps is not None:
            self._check_cycle()

    def _check_cycle(self):
        if self.cycle_steps < 2:
            raise ValueError(f"`cycle_steps` is at least 2, or None for no cycle, got {self.cycle_steps}.")
        if not 0 <= self.minimum_learning_rate <= self.learning_rate or not self.learning_rate:
            raise ValueError(
                "`minimum_learning_rate` lies between 0 and `learning_rate`, which is above 0, got "
                f"{self.minimum_learning_rate} and {self.learning_rate}."
            )
        if self.lr_scheduler_type != "constant" or self.warmup_steps:
            raise ValueError(
                f"`cycle_steps={self.cycle_steps}` is a schedule of its own: leave `lr_scheduler_type` and `warmup_steps` "
                f"out, or set `cycle_steps` to None, got {self.lr_scheduler_type} and {self.warmup_steps}."
            )


def check_choices(arguments: TrainingArguments, *names: str) -> None:
    """
    Raises:
        ValueError: where a field of literal choices has another value.
    """
    hints = get_type_hints(type(arguments))
    for name in names:
        choices = get_args(hints[name])
        if getattr(arguments, name) not in choices:
            raise ValueError(f"`{name}` is one of {', '.join(map(repr, choices))}, got {getattr(arguments, name)!r}.")
