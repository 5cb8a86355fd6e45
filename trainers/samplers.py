"""Which clips make a batch: every choice follows from the seed, the epoch and the place in it, so a run can resume.

Samplers yield [`Draw`]s, not bare numbers: a clip's crop and augmentation hang on the draw's own seed, and so on nothing
that workers, prefetching or an interruption could shift.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class DomainError(ValueError):
    """Domains that cannot be trained on; the message counts the clips of each."""


SHOWN = 5  # domains in an error


class Draw(NamedTuple):
    """A row of the dataset, and the seed of everything random that is done to it this time."""

    index: int
    seed: int


class SeededRandomSampler(Sampler):
    """All rows in random order, another one in each epoch.

    Args:
        size: number of rows.
        seed: of the order and of the draws.
    """

    def __init__(self, size: int, seed: int = 0):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order, seeds = rng.permutation(self.size), rng.integers(2**63, size=self.size)
        return (Draw(int(index), int(seed)) for index, seed in zip(order, seeds, strict=True))


class DomainBatchSampler(Sampler):
    """
    Batches with equally many clips of every domain; both labels alike in each where `balanced`.

    An epoch goes once through the largest pool of clips; smaller ones are shuffled anew when they run out. A batch
    consists of one part per process, each of which holds all domains, so that processes get like shares of it.

    Args:
        domains: number of the domain of each row.
        labels: number of the label of each row.
        clips_per_domain: in each part of a batch.
        balanced: whether a domain's clips are drawn label by label in turn. Otherwise as they come.
        processes: parts of a batch.
        seed: of all draws.
        domain_names, label_names: what error messages call them, instead of their numbers.

    Raises:
        DomainError: for fewer than two domains, a domain that lacks a label, or fewer clips to a domain than labels.
    """

    def __init__(
        self,
        domains: Sequence[int],
        labels: Sequence[int],
        clips_per_domain: int = 4,
        *,
        balanced: bool = True,
        processes: int = 1,
        seed: int = 0,
        domain_names: Sequence[str] | None = None,
        label_names: Sequence[str] | None = None,
    ):
        self.domains, self.labels = np.asarray(domains), np.asarray(labels)
        self.clips_per_domain, self.processes, self.seed, self.epoch = clips_per_domain, processes, seed, 0
        self._check(balanced, domain_names, label_names)
        self.pools: dict[tuple[int, int], list[int]] = {}
        for index, (domain, label) in enumerate(zip(self.domains.tolist(), self.labels.tolist(), strict=True)):
            self.pools.setdefault((domain, label if balanced else 0), []).append(index)
        self.pools = dict(sorted(self.pools.items()))
        self.num_domains, self.num_labels = len(set(self.domains.tolist())), len({label for _, label in self.pools})
        self.batch_size = self.processes * self.num_domains * clips_per_domain
        self.drop_last = True  # every batch is whole

    def _check(self, balanced: bool, domain_names: Sequence[str] | None, label_names: Sequence[str] | None) -> None:
        counts = Counter(zip(self.domains.tolist(), self.labels.tolist(), strict=True))
        known, labels = sorted({domain for domain, _ in counts}), sorted({label for _, label in counts})

        def row(domain: int) -> str:
            pairs = ((label_names[label] if label_names else f"of label {label}", label) for label in labels)
            cells = ", ".join(f"{counts[domain, label]} {name}" for name, label in pairs)
            return f"{domain_names[domain] if domain_names else f'domain {domain}'}: {cells}"

        def table(domains: Sequence[int]) -> str:
            more = f"; and {len(domains) - SHOWN} more" if len(domains) > SHOWN else ""
            return "; ".join(map(row, domains[:SHOWN])) + more

        if len(known) < 2:
            raise DomainError(
                f"meta-learning needs at least two domains, got {len(known)} ({table(known) or 'no clips'})."
            )
        lacking = [
            domain for domain in known if len(labels) < 2 or any(counts[domain, label] == 0 for label in labels)
        ]
        if lacking:
            raise DomainError(
                f"every domain needs clips of both labels: {table(lacking)} (of {len(known)} domains). Leave them out, "
                "or name another column as `domain_column`."
            )
        if balanced and self.clips_per_domain % len(labels):
            raise DomainError(
                f"{self.clips_per_domain} clips of a domain cannot hold its {len(labels)} labels alike: take a multiple "
                f"of {len(labels)}, or leave the labels unbalanced ({table(known)})."
            )

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        per_batch = self.processes * self.clips_per_domain // self.num_labels
        return math.ceil(max(map(len, self.pools.values())) / per_batch)

    def __iter__(self) -> Iterator[list[Draw]]:
        streams = {
            name: _endless(pool, np.random.default_rng([self.seed, self.epoch, number]))
            for number, (name, pool) in enumerate(self.pools.items())
        }
        share = self.clips_per_domain // self.num_labels
        for _ in range(len(self)):
            yield [next(stream) for _ in range(self.processes) for stream in streams.values() for _ in range(share)]


def _endless(pool: list[int], rng: np.random.Generator) -> Iterator[Draw]:
    """All rows of a pool in random order, again and again."""
    while True:
        for index in rng.permutation(pool):
            yield Draw(int(index), int(rng.integers(2**63)))
