"""Arguments of [`MLDGTrainer`]."""

from dataclasses import dataclass, field
from typing import Literal

from spooftrace.trainers.detection_config import DetectionConfig, check_choices


@dataclass
class MLDGConfig(DetectionConfig):
    r"""
    Arguments of [`MLDGTrainer`], beside those of [`DetectionConfig`].

    The paper (arXiv 2502.10838) gives: one inner step by Adam at 1e-3, AdamW outside, a learning rate that cycles between
    1e-7 and 1e-5, a mini-batch of every domain in each iteration, and early stopping after ten evaluations without
    improvement. What it leaves out has a default with its reason here.

    Args:
        domain_column (`str`, *optional*, defaults to `"attack_id"`):
            The column whose values are the domains. Bona fide clips without a value are divided among them at random.
        clips_per_domain (`int`, *optional*, defaults to 4):
            Clips of every domain on each device per step. Not given; six domains of four are close to the 24 clips that
            AASIST is trained with. `per_device_train_batch_size` plays no part.
        balance_labels (`bool`, *optional*, defaults to `True`):
            Whether half of a domain's clips are bona fide. Not given; with nine spoofs to a genuine clip, as in ASVspoof
            2019 LA, two in three mini-batches of four would hold no genuine clip, and their gradient only moves the
            threshold.
        num_meta_test_domains (`int`, *optional*, defaults to 2):
            Domains set aside in each step ("some subset"); DomainBed's number, a third of the six.
        beta (`float`, *optional*, defaults to 1.0): Weight of the meta-test gradient. Not given; DomainBed's default.
        inner_learning_rate (`float`, *optional*, defaults to 1e-3): Of the step on the meta-train domains.
        inner_optimizer (`str`, *optional*, defaults to `"adam"`):
            `"adam"`, with a new state in every iteration as in DomainBed (whether the paper keeps it is not given), or
            `"sgd"`, as the paper's fifth equation is written.
        batch_norm (`str`, *optional*, defaults to `"meta-train"`):
            Which forward passes update the running statistics: `"meta-train"`, those at the parameters that are kept;
            `"both"`; or `"frozen"`, none, and the statistics are used for normalisation in training, too. DomainBed never
            updates them, which leaves a back-end that is trained from scratch with its initial ones.
        learning_rate (`float`, *optional*, defaults to 1e-5): The middle of the cycle.
        cycle_steps (`int`, *optional*, defaults to 4000): Not given; PyTorch's default, 2,000 steps each way.
        num_train_epochs (`float`, *optional*, defaults to 100):
            Not given; as AASIST and SSL_Anti-spoofing train, so that early stopping decides.

    The paper does not give these either, and they are as in `TrainingArguments` or peft: gradients are clipped to a norm of
    1, AdamW has betas of 0.9 and 0.999, the precision is float32, and adapters have no dropout, a random A and a B of zeros.
    Weight decay is SSL_Anti-spoofing's, 1e-4.
    """

    domain_column: str = field(default="attack_id", metadata={"help": "The column whose values are the domains."})
    clips_per_domain: int = field(default=4, metadata={"help": "Clips of every domain on each device per step."})
    balance_labels: bool = field(default=True, metadata={"help": "Whether half of a domain's clips are bona fide."})
    num_meta_test_domains: int = field(default=2, metadata={"help": "Domains set aside in each step."})
    beta: float = field(default=1.0, metadata={"help": "Weight of the meta-test gradient."})
    inner_learning_rate: float = field(default=1e-3, metadata={"help": "Of the step on the meta-train domains."})
    inner_optimizer: Literal["adam", "sgd"] = field(default="adam", metadata={"help": "Of the inner step."})
    batch_norm: Literal["meta-train", "both", "frozen"] = field(
        default="meta-train", metadata={"help": "Which forward passes update the running statistics."}
    )

    cycle_steps: int | None = field(default=4000, metadata={"help": "Steps of a whole cycle of the learning rate."})
    learning_rate: float = field(default=1e-5, metadata={"help": "The middle of the cycle."})
    num_train_epochs: float = field(default=100, metadata={"help": "Epochs at most."})
    early_stopping_patience: int | None = field(
        default=10, metadata={"help": "Evaluations without improvement after which training ends."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_choices(self, "inner_optimizer", "batch_norm")
        if self.num_meta_test_domains < 1 or self.clips_per_domain < 1:
            raise ValueError(
                "`num_meta_test_domains` and `clips_per_domain` are at least 1, got "
                f"{self.num_meta_test_domains} and {self.clips_per_domain}."
            )
        if not (self.beta >= 0 and self.inner_learning_rate >= 0):
            raise ValueError(
                f"`beta` and `inner_learning_rate` are at least 0, got {self.beta} and {self.inner_learning_rate}."
            )
