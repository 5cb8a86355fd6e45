"""Arguments of [`SASTNetTrainer`]."""

from dataclasses import dataclass, field
from typing import Literal

from spooftrace.trainers.detection_config import check_choices
from spooftrace.trainers.tracing_config import TracingConfig


@dataclass
class SASTNetTrainingConfig(TracingConfig):
    r"""
    Arguments of [`SASTNetTrainer`], beside those of [`TracingConfig`].

    Where no other source is named, the defaults are those of the paper (arXiv 2506.07294) and of its public code: AdamW with
    a weight decay of 1e-4 on all parameters, 40 epochs of 12 clips to a step, the last incomplete one left out, no clipping
    of gradients, RawBoost 5 on whole clips, of which the first 5.1375 s are taken, float32, seed 1234. The public code stops
    every epoch after eleven steps, a leftover that is not repeated here. It keeps every epoch's weights and chooses none;
    here the epoch of the best `metric_for_best_model` on the evaluation set is kept.

    Args:
        learning_rate (`float`, *optional*, defaults to 5e-6): As in the paper; the code's own default is 1e-5.
        cosine_step (`str`, *optional*, defaults to `"epoch"`):
            When the learning rate, which falls to 0 by a cosine over all epochs, changes: after every `"epoch"`, as in the
            public code, or after every `"step"`. Only with `lr_scheduler_type="cosine"`.
        loss_weights_learning_rate (`float`, *optional*, defaults to 1e-3):
            Of the two learned weights of the loss, which have no weight decay and follow the same cosine.
        feature_cache (`str`, *optional*):
            A folder to keep what the frozen Whisper encoder makes of a clip. RawBoost, device augmentation and random crops
            make another waveform of a training clip in every epoch: then it serves the evaluation sets alone. What was
            computed in a batch of another size may differ in the last bit. None by default.
        feature_cache_bytes (`int`, *optional*, defaults to 4 GiB):
            Space for it. One clip needs 394 kB with the full configuration, the 1,470 clips of a development list of
            CodecFake+ 0.6 GB, its 85,930 training clips 34 GB.
    """

    cosine_step: Literal["epoch", "step"] = field(
        default="epoch", metadata={"help": "When the cosine of the learning rate goes on."}
    )
    loss_weights_learning_rate: float = field(
        default=1e-3, metadata={"help": "Learning rate of the learned weights of the loss."}
    )
    feature_cache: str | None = field(default=None, metadata={"help": "Folder for features of the frozen encoder."})
    feature_cache_bytes: int = field(default=4 * 2**30, metadata={"help": "Space for them."})

    learning_rate: float = field(default=5e-6, metadata={"help": "Learning rate of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Norm that gradients are clipped to; 0 for none."})
    num_train_epochs: float = field(default=40, metadata={"help": "Epochs."})
    per_device_train_batch_size: int = field(default=12, metadata={"help": "Clips per device and forward pass."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Whether an incomplete batch is left out."})
    num_samples: int = field(default=82_200, metadata={"help": "Length of a training clip at 16 kHz."})
    crop: Literal["random", "start"] = field(default="start", metadata={"help": "Where a longer clip is cut."})
    rawboost: int = field(default=5, metadata={"help": "RawBoost algorithm on training clips, 0 (none) to 8."})
    seed: int = field(default=1234, metadata={"help": "Seed of everything random."})

    def __post_init__(self):
        super().__post_init__()
        check_choices(self, "cosine_step")
        if not self.loss_weights_learning_rate >= 0:
            raise ValueError(
                f"`loss_weights_learning_rate` is at least 0, got {self.loss_weights_learning_rate}: 0 leaves them at 1."
            )
        if self.feature_cache_bytes < 1:
            raise ValueError(f"`feature_cache_bytes` is at least 1, got {self.feature_cache_bytes}.")
        if self.cosine_step == "epoch" and self.lr_scheduler_type == "cosine" and self.warmup_steps:
            raise ValueError(
                f"`cosine_step='epoch'` begins at the full learning rate, got warmup_steps={self.warmup_steps}: leave it "
                "out, or set `cosine_step` to 'step'."
            )
