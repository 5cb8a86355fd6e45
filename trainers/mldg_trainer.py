"""Meta-learning over attack types as a `transformers.Trainer`."""

from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from spooftrace.data_scripts.rows import Row
from spooftrace.data_scripts.sampling import partition_bonafide
from spooftrace.trainers.clips import ClipDataset, collate, column
from spooftrace.trainers.detection_trainer import DetectionTrainer, label_names
from spooftrace.trainers.mldg import average_over_processes, meta_step, split_domains
from spooftrace.trainers.mldg_config import MLDGConfig
from spooftrace.trainers.samplers import DomainBatchSampler, DomainError


class MLDGTrainer(DetectionTrainer):
    """
    Trains a detector so that a step on some attacks helps on others; see `spooftrace.trainers.mldg`.

    Every batch holds all domains. Under gradient accumulation whole meta-steps are accumulated, each with a split of its
    own. Logged beside what the Trainer logs: `meta_train_loss`, `meta_test_loss` and `domain_loss/NAME`.

    Args:
        model, args, train_dataset, eval_dataset, processing_class, augment, kwargs: as for [`DetectionTrainer`], with
            [`MLDGConfig`]; training rows also have the column of the domains.

    Raises:
        DomainError: for fewer than two domains, more set aside than would leave one, a domain without one of the labels,
            or a batch that cannot hold them.
        KeyError: for an unknown column.
        ValueError: under FSDP or DeepSpeed, which divide the parameters that the inner step moves.
    """

    def __init__(self, model: nn.Module, args: MLDGConfig | None = None, **kwargs: Any):
        self.domain_names: list[str] = []
        self._micro_step = (-1, 0)  # the optimiser's step, and the accumulated parts of it so far
        super().__init__(model, args or MLDGConfig(output_dir="detector"), **kwargs)
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise ValueError(
                "meta-learning runs on one process or under DistributedDataParallel; FSDP and DeepSpeed divide the "
                "parameters that its inner step moves. Train low-rank adapters: they are small enough."
            )
        if self.train_dataset is not None:
            self._domain_sampler()  # its checks come before the first step

    def prepare_train(self, rows: Any, args: MLDGConfig) -> ClipDataset:
        clips = super().prepare_train(rows, args)
        domains = domains_of(rows, args.domain_column, args.seed)
        self.domain_names = sorted(set(domains))
        if args.num_meta_test_domains >= len(self.domain_names):
            counts = ", ".join(f"{name!r}: {domains.count(name)} clips" for name in self.domain_names)
            raise DomainError(
                f"{args.num_meta_test_domains} domains set aside leave none of {len(self.domain_names)} to train on "
                f"({counts}): lower `num_meta_test_domains`, or give another `domain_column` than {args.domain_column!r}."
            )
        numbers = {name: number for number, name in enumerate(self.domain_names)}
        clips.domains = [numbers[name] for name in domains]
        return clips

    def _domain_sampler(self) -> DomainBatchSampler:
        return DomainBatchSampler(
            self.train_dataset.domains,
            self.train_dataset.labels,
            self.args.clips_per_domain,
            balanced=self.args.balance_labels,
            processes=self.args.world_size,
            seed=self.args.seed,
        )

    def get_train_dataloader(self) -> DataLoader:
        """Batches of all domains; each process gets a part that holds all of them, too."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset.")
        self.sampler = self._domain_sampler()
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.sampler,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        return prepare_data_loader(
            loader,
            device=self.accelerator.device,
            num_processes=self.args.world_size,
            process_index=self.args.process_index,
            split_batches=True,
            put_on_device=True,
            dispatch_batches=False,
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The triangle of the paper, from the minimum to the full learning rate and back."""
        if self.lr_scheduler is None:
            low, steps = self.args.minimum_learning_rate / self.args.learning_rate, self.args.cycle_steps
            triangle = partial(_triangle, low=low, steps=steps)
            self.lr_scheduler = LambdaLR(optimizer if optimizer is not None else self.optimizer, triangle)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One meta-step; its loss is F + beta G."""
        model.train()
        inputs, args = self._prepare_inputs(inputs), self.args
        # The bare model: both gradients are averaged over the processes by hand, the first before the inner step.
        bare, scaler = self.accelerator.unwrap_model(model), self.accelerator.scaler
        split = split_domains(len(self.domain_names), args.num_meta_test_domains, self._next_generator())
        statistics = _BatchNormStatistics(bare, args.batch_norm)
        step = meta_step(
            [parameter for parameter in bare.parameters() if parameter.requires_grad],
            partial(self._domain_losses, bare, inputs, statistics, split[1]),
            split,
            beta=args.beta,
            learning_rate=args.inner_learning_rate,
            optimizer=args.inner_optimizer,
            weight=1 / self.current_gradient_accumulation_steps,
            **({} if scaler is None else {"scale": scaler.scale}),
        )
        statistics.settle()
        self.note("meta_train_loss", step.train_loss)
        self.note("meta_test_loss", step.test_loss)
        for name, loss in zip(self.domain_names, step.domain_losses, strict=True):
            self.note(f"domain_loss/{name}", loss)
        return (step.train_loss + args.beta * step.test_loss) / self.current_gradient_accumulation_steps

    def _next_generator(self) -> torch.Generator:
        """The same split of the domains on every process, and again after a resumption."""
        step, part = self._micro_step
        self._micro_step = (step, part + 1) if step == self.state.global_step else (self.state.global_step, 1)
        draw = np.random.SeedSequence([self.args.seed, *self._micro_step]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(draw >> 1))

    def _domain_losses(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        statistics: "_BatchNormStatistics",
        meta_test: torch.Tensor,
        domains: torch.Tensor,
    ) -> torch.Tensor:
        """Mean loss of each of the domains, `[len(domains)]`, by a forward pass over their clips."""
        if domains is meta_test:
            statistics.keep()
        chosen = torch.isin(inputs["domain"], domains.to(inputs["domain"].device))
        numbers, labels = inputs["domain"][chosen], inputs["labels"][chosen]
        with self.compute_loss_context_manager():
            logits = model(input_values=inputs["input_values"][chosen]).logits
        losses = torch.stack([self.mean_loss(logits[numbers == d], labels[numbers == d]) for d in domains.tolist()])
        self.require_finite(losses, inputs)
        return losses


class _BatchNormStatistics:
    """Which passes of a meta-step move the running statistics; see `MLDGConfig.batch_norm`."""

    def __init__(self, model: nn.Module, policy: str):
        self.layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.policy = policy
        self._kept: list[torch.Tensor] = []
        if policy == "frozen":
            for layer in self.layers:
                layer.eval()

    def _buffers(self) -> list[torch.Tensor]:
        return [buffer for layer in self.layers for buffer in layer.buffers()]

    def keep(self) -> None:
        """Remembers what the meta-test pass must not change, its backward pass under checkpointing included."""
        if self.policy == "meta-train":
            self._kept = [buffer.clone() for buffer in self._buffers()]

    def settle(self) -> None:
        """Undoes what was not wanted, and takes the mean of the statistics over the processes."""
        for buffer, value in zip(self._buffers(), self._kept, strict=False):
            buffer.copy_(value)
        statistics = [buffer for buffer in self._buffers() if buffer.is_floating_point()]
        for buffer, value in zip(statistics, average_over_processes(statistics), strict=True):
            buffer.copy_(value)


def domains_of(rows: Any, name: str, seed: int) -> list[str]:
    """
    The domain of every row: the value of a column, or, for bona fide rows without one, any of them at random.

    The bona fide clips are dealt out evenly, and alike whatever the order of the rows.

    Raises:
        KeyError: for an unknown column.
        DomainError: for spoofs without a value.
    """
    values, labels, names = column(rows, name), column(rows, "label"), label_names(rows)
    spelled = [names[label] if isinstance(label, int) and names else label for label in labels]
    homeless = sum(value is None and label != "bonafide" for value, label in zip(values, spelled, strict=True))
    if homeless:
        raise DomainError(f"{homeless} spoofs of {len(spelled)} rows have no {name!r}: name it, or leave them out.")
    trials = [
        Row(
            f"{identity}",
            "bonafide" if value is None else "spoof",
            "training",
            attack_id=None if value is None else str(value),
        )
        for identity, value in zip(_identities(rows, len(values)), values, strict=True)
    ]
    if all(trial.label == "spoof" for trial in trials):
        return [trial.attack_id for trial in trials]
    placed = partition_bonafide(trials, seed=seed)
    return [placed[trial.utterance_id] for trial in trials]


def _identities(rows: Any, size: int) -> list[str]:
    names = rows.column_names if hasattr(rows, "column_names") else (rows[0] if size else ())
    return column(rows, "utterance_id") if "utterance_id" in names else [f"{index:09}" for index in range(size)]


def _triangle(step: int, low: float, steps: int) -> float:
    """From `low` to 1 and back in `steps` steps, again and again."""
    place = (step % steps) / steps
    return low + (1 - low) * (1 - abs(2 * place - 1))
