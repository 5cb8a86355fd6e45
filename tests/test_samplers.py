"""What is drawn follows from seed, epoch and place alone, and every batch holds what it promises."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spooftrace.trainers.samplers import DomainBatchSampler, DomainError, SeededRandomSampler


def table(sizes: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Domains and labels of a corpus with so many clips of label 0 and of label 1 in each domain."""
    domains = [number for number, pair in enumerate(sizes) for _ in range(sum(pair))]
    labels = [label for pair in sizes for label, size in enumerate(pair) for _ in range(size)]
    return domains, labels


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_every_batch_holds_every_domain_and_label_alike(sizes, share, processes, seed):
    domains, labels = table(sizes)
    sampler = DomainBatchSampler(domains, labels, 2 * share, processes=processes, seed=seed)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        assert len(batch) == sampler.batch_size == processes * len(sizes) * 2 * share
        size = len(batch) // processes
        for part in (batch[start : start + size] for start in range(0, len(batch), size)):
            counts = Counter((domains[draw.index], labels[draw.index]) for draw in part)
            assert counts == {(domain, label): share for domain in range(len(sizes)) for label in (0, 1)}
    drawn = Counter(draw.index for batch in batches for draw in batch)
    largest = max(max(pair) for pair in sizes)
    for (domain, label), pool in sampler.pools.items():
        times = [drawn[index] for index in pool]
        assert max(times) - min(times) <= 1, (domain, label)  # the whole pool, before any clip again
        assert len(pool) < largest or min(times) >= 1


def test_the_same_seed_and_epoch_draw_the_same_and_others_do_not():
    domains, labels = table([(5, 7), (6, 4)])
    sampler = DomainBatchSampler(domains, labels, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    assert list(DomainBatchSampler(domains, labels, seed=3)) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(DomainBatchSampler(domains, labels, seed=4)) != first


def test_without_balance_a_domain_is_drawn_as_it_comes():
    domains, labels = table([(1, 9), (1, 9)])
    sampler = DomainBatchSampler(domains, labels, 5, balanced=False)
    batches = list(sampler)
    assert len(batches) == 2
    assert sorted(draw.index for batch in batches for draw in batch) == list(range(20))


@pytest.mark.parametrize(
    ("sizes", "clips", "text"),
    [
        ([(3, 3)], 2, "at least two domains, got 1 .*3 of label 0, 3 of label 1"),
        ([], 2, "got 0 .no clips"),
        ([(3, 3), (0, 4)], 2, "every domain needs clips of both labels.*domain 1: 0 of label 0, 4 of label 1"),
        (
            [(3, 3), *[(2, 0)] * 7],
            2,
            "both labels: domain 1: .*domain 5: 2 of label 0, 0 of label 1; and 2 more .of 8 domains",
        ),
        ([(3, 3), (3, 3)], 3, "3 clips of a domain cannot hold its 2 labels alike"),
    ],
)
def test_domains_that_cannot_be_trained_on_are_refused_with_their_counts(sizes, clips, text):
    with pytest.raises(DomainError, match=text):
        DomainBatchSampler(*table(sizes), clips)


def test_a_random_order_holds_every_row_once_with_a_seed_of_its_own():
    sampler = SeededRandomSampler(50, seed=1)
    first = list(sampler)
    assert sorted(draw.index for draw in first) == list(range(50))
    assert len({draw.seed for draw in first}) == 50
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert [draw.index for draw in sampler] != [draw.index for draw in first]
