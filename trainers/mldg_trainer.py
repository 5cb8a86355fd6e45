"""Meta-learning over attack types as a `transformers.Trainer`."""

from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import TrainOutput

from spooftrace.data_scripts.rows import Row
from spooftrace.data_scripts.sampling import partition_bonafide
from spooftrace.trainers.batch_norm import BatchNormStatistics
from spooftrace.trainers.clips import ClipDataset, collate, column, label_names, spelled_labels
from spooftrace.trainers.detection_trainer import DetectionTrainer
from spooftrace.trainers.mldg import average_over_processes, meta_step, split_domains
from spooftrace.trainers.mldg_config import MLDGConfig
from spooftrace.trainers.samplers import DomainBatchSampler, DomainError


class MLDGTrainer(DetectionTrainer):
    """
    Trains a detector so that a step on some attacks helps on others; see `spooftrace.trainers.mldg`.

    Every batch holds all domains. Under gradient accumulation the gradients of whole meta-steps are averaged, each at the
    same parameters and with a split of its own: n parts of m clips are not one part of n * m clips. Logged beside what the Trainer logs: `meta_train_loss`, `meta_test_loss` and `domain_loss/NAME`.

    Args:
        model, args, train_dataset, eval_dataset, processing_class, augment, augment_batch, kwargs: as for [`DetectionTrainer`], with
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
            domain_names=self.domain_names,
            label_names=sorted(self.label2id, key=self.label2id.__getitem__),
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
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
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

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        self._micro_step, self._sums, self._note_weights = (-1, 0), {}, {}
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One meta-step; its loss is F + beta G."""
        model.train()
        inputs, args = self._prepare_inputs(inputs), self.args
        # The bare model: both gradients are averaged over the processes by hand, the first before the inner step.
        bare, scaler = self.accelerator.unwrap_model(model), self.accelerator.scaler
        split = split_domains(len(self.domain_names), args.num_meta_test_domains, self._next_generator())
        statistics = BatchNormStatistics(bare)
        if args.batch_norm == "frozen":
            statistics.freeze()
        step = meta_step(
            [parameter for parameter in bare.parameters() if parameter.requires_grad],
            partial(self._domain_losses, bare, inputs, statistics, split[1], self._mean_weights(inputs)),
            split,
            beta=args.beta,
            learning_rate=args.inner_learning_rate,
            optimizer=args.inner_optimizer,
            weight=1 / self.current_gradient_accumulation_steps,
            **({} if scaler is None else {"scale": scaler.scale}),
        )
        self._share_statistics(statistics)
        self.note("meta_train_loss", step.train_loss)
        self.note("meta_test_loss", step.test_loss)
        for name, loss in zip(self.domain_names, step.domain_losses, strict=True):
            self.note(f"domain_loss/{name}", loss)
        return (step.train_loss + args.beta * step.test_loss) / self.current_gradient_accumulation_steps

    def _mean_weights(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The weight of each domain's clips, as a mean over the processes, `[num_domains]`."""
        numbers, labels = inputs["domain"], inputs["labels"]
        weights = torch.ones(len(self.label2id)) if self.class_weights is None else self.class_weights
        sums = torch.zeros(len(self.domain_names), device=labels.device)
        sums.index_add_(0, numbers, weights.to(labels.device)[labels])
        return sums if self.class_weights is None else average_over_processes([sums])[0]

    def _share_statistics(self, statistics: BatchNormStatistics) -> None:
        """Undoes what was not to move the running statistics, and takes their mean over the processes."""
        statistics.restore()
        if self.args.batch_norm != "frozen":
            moved = [buffer for buffer in statistics.buffers if buffer.is_floating_point()]
            for buffer, value in zip(moved, average_over_processes(moved), strict=True):
                buffer.copy_(value)

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
        statistics: BatchNormStatistics,
        meta_test: torch.Tensor,
        weights: torch.Tensor,
        domains: torch.Tensor,
    ) -> torch.Tensor:
        """(Weighted) mean loss of each of the domains, `[len(domains)]`, by a forward pass over their clips."""
        chosen = torch.isin(inputs["domain"], domains.to(inputs["domain"].device))
        numbers, labels = inputs["domain"][chosen], inputs["labels"][chosen]
        statistics.restore()
        with self.compute_loss_context_manager():
            logits = model(input_values=inputs["input_values"][chosen]).logits
        if domains is not meta_test or self.args.batch_norm == "both":
            statistics.keep()
        of_clips, _ = self.losses(logits, labels)
        losses = torch.stack([of_clips[numbers == domain].sum() / weights[domain] for domain in domains.tolist()])
        self.require_finite(losses, inputs)
        return losses


def domains_of(rows: Any, name: str, seed: int) -> list[str]:
    """
    The domain of every row: the value of a column, or, for bona fide rows without one, any of them at random.

    The bona fide clips are dealt out evenly, and alike whatever the order of the rows.

    Raises:
        KeyError: for an unknown column.
        DomainError: for spoofs without a value.
    """
    values, spelled = column(rows, name), spelled_labels(column(rows, "label"), label_names(rows))
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
