"""Arguments of [`AudioLLMTrainer`]."""

from dataclasses import dataclass, field
from typing import Literal

from spooftrace.trainers.audio_llm_labels import LabelMask
from spooftrace.trainers.detection_config import DetectionConfig, check_choices


@dataclass
class AudioLLMTrainingConfig(DetectionConfig):
    r"""
    Arguments of [`AudioLLMTrainer`], beside those of [`DetectionConfig`].

    Defaults are those of ALLM4ADD's public code (arXiv 2505.11079): five epochs of eight clips to a step, AdamW with b2 0.95
    and a weight decay of 0.1, a warm-up over 1 % of the steps and a cosine down to 0; whole clips of up to 30 s, without
    augmentation or weights. Its script says a learning rate of 4e-5, the names of its result folders 3e-5: which one the
    paper's figures are of is not known. It trains in bfloat16 and recomputes activations (`bf16`, `activation_checkpointing`,
    as in the shipped recipes; off by default, since they hang on the machine).

    What differs from that code: only the answer is learned, unless `label_mask` says otherwise; batches are padded to
    their longest clip and not to 512 tokens, and made of clips of like length; after every epoch the EER is measured, and
    the best epoch is kept, where the code keeps five and chooses none.

    The loss is the mean over all tokens that are learned in a step. The loss in evaluations is that of the choice between
    the two words.

    Args:
        label_mask (`str`, *optional*, defaults to `"answer"`):
            What is learned: `"answer"`, the label word, its full stop and the end of the turn, three tokens of a clip; or
            `"reference"`, which adds what the public code does: the tokens that begin and end every turn, and the
            newlines behind, eleven tokens in ChatML, the first of which nothing predicts.
        group_by_length (`bool`, *optional*, defaults to `True`):
            Whether a step has clips of like length, or random ones, as in the public code. Lengths are read from a column
            `duration`, in seconds, else from the files' headers.
        num_samples (`int`, *optional*, defaults to 480000): Where longer clips are cut, at 16 kHz; 30 s.
        feature_cache (`str`, *optional*):
            A folder to keep what the frozen encoder makes of a clip. RawBoost, and a random crop of a longer clip, make
            another waveform in every epoch: then it serves the evaluation sets alone. None by default.
        feature_cache_bytes (`int`, *optional*, defaults to 16 GiB):
            Space for it. A clip of 4 s needs 0.8 MB in bfloat16 (100 x 4096), the training clips of ASVspoof 2019 LA
            about 20 GB.
    """

    label_mask: LabelMask = field(
        default="answer", metadata={"help": "Tokens that are learned: 'answer', or 'reference' as in ALLM4ADD's code."}
    )
    feature_cache: str | None = field(default=None, metadata={"help": "Folder for features of the frozen encoder."})
    feature_cache_bytes: int = field(default=16 * 2**30, metadata={"help": "Space for them."})

    group_by_length: bool = field(default=True, metadata={"help": "Whether a step has clips of like length."})
    num_samples: int = field(default=480_000, metadata={"help": "Where longer clips are cut, at 16 kHz."})
    crop: Literal["random", "start"] = field(default="start", metadata={"help": "Where a longer clip is cut."})
    learning_rate: float = field(default=4e-5, metadata={"help": "Learning rate of AdamW."})
    adam_beta2: float = field(default=0.95, metadata={"help": "b2 of AdamW."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay of AdamW."})
    warmup_steps: float = field(default=0.01, metadata={"help": "Steps of warm-up, or their share below 1."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    num_train_epochs: float = field(default=5, metadata={"help": "Epochs."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Clips per device and forward pass."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Clips per device in evaluation."})
    save_total_limit: int | None = field(default=5, metadata={"help": "Checkpoints that are kept."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "What is trained takes part in every step."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_choices(self, "label_mask")
        if self.train_sampling_strategy != "random":
            raise ValueError(
                f"`train_sampling_strategy` is 'random' here, got {self.train_sampling_strategy!r}: `group_by_length` makes "
                "steps of clips of like length that can be resumed."
            )
        if self.device_augmentation:
            raise ValueError(
                "`device_augmentation` alters waveforms where the model is, which gets log-mel frames of them here: leave it "
                "out; `rawboost` alters waveforms while they are read."
            )
        if self.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor` has no place in the loss over tokens, got {self.label_smoothing_factor}: set it to 0."
            )
        if self.feature_cache_bytes < 1:
            raise ValueError(f"`feature_cache_bytes` is at least 1, got {self.feature_cache_bytes}.")
