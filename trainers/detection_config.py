"""Arguments of [`DetectionTrainer`]."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments


@dataclass
class DetectionConfig(TrainingArguments):
    r"""
    Arguments of [`DetectionTrainer`], beside those of [`~transformers.TrainingArguments`].

    Defaults that differ from there: an evaluation and a checkpoint every epoch, of which the best by EER is kept; learning
    rate 1e-6 and weight decay 1e-4, as for fine-tuning all of W2V2-AASIST (Tak et al. 2022, arXiv 2202.12233); no columns
    are removed, and a loss that is not finite ends the training instead of being left out of the log.

    Args:
        num_samples (`int`, *optional*, defaults to 64600): Length of a training clip at 16 kHz; 4.04 s in most systems.
        crop (`str`, *optional*, defaults to `"random"`):
            Where a longer clip is cut: `"random"` in training, or `"start"`, always its beginning, as in SSL_Anti-spoofing.
            Evaluation uses the beginning.
        class_weights (`dict[str, float]`, *optional*):
            Weight of each label in the loss, such as `{"bonafide": 0.9, "spoof": 0.1}`; alike by default.
        rawboost (`int`, *optional*, defaults to 0): RawBoost algorithm, 0 (none) to 8, on training clips.
        augment_eval (`bool`, *optional*, defaults to `False`):
            Whether evaluation clips are altered too, as the published recipe does to its development set. A score that is
            meant to be compared is made without.
        early_stopping_patience (`int`, *optional*):
            Evaluations without a better `metric_for_best_model` after which training ends; never by default.
    """

    num_samples: int = field(default=64_600, metadata={"help": "Length of a training clip at 16 kHz."})
    crop: Literal["random", "start"] = field(default="random", metadata={"help": "Where a longer clip is cut."})
    class_weights: dict[str, float] | str | None = field(
        default=None, metadata={"help": 'Weight of each label in the loss, as in \'{"bonafide": 0.9, "spoof": 0.1}\'.'}
    )
    rawboost: int = field(default=0, metadata={"help": "RawBoost algorithm on training clips, 0 (none) to 8."})
    augment_eval: bool = field(default=False, metadata={"help": "Whether evaluation clips are altered too."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without improvement after which training ends."}
    )

    learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate of AdamW."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay of AdamW."})
    per_device_train_batch_size: int = field(default=14, metadata={"help": "Clips per device and forward pass."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Clips per device in evaluation."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning rate schedule."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: 'no', 'steps' or 'epoch'."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: 'no', 'steps', 'epoch' or 'best'."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Whether the best checkpoint is kept."})
    metric_for_best_model: str = field(default="eer", metadata={"help": "What 'best' means."})
    greater_is_better: bool = field(default=False, metadata={"help": "Whether a larger metric is better."})
    save_total_limit: int | None = field(default=3, metadata={"help": "Checkpoints that are kept."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between log entries."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "A loss that is not finite is an error."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator takes what it needs."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "The published architecture has layers that never reach the output."}
    )
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Inputs that are labels."}
    )
