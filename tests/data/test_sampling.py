"""Stratified subsets and hold-outs, and the order of an epoch."""

import torch

from surgeon.data.sampling import EpochSampler, hold_out, stratified_subset


def _labels(*counts: int) -> torch.Tensor:
    """Labels in a fixed disorder, with so many of each class."""
    ordered = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(9))]


def _counts(labels: torch.Tensor, indices: torch.Tensor, classes: int) -> list[int]:
    return torch.bincount(labels[indices], minlength=classes).tolist()


def test_a_subset_keeps_the_proportions() -> None:
    labels = _labels(100, 300, 600)
    assert _counts(labels, stratified_subset(labels, 100, seed=0), 3) == [10, 30, 60]
    assert _counts(labels, stratified_subset(labels, 10, seed=0), 3) == [1, 3, 6]


def test_a_balanced_subset_differs_by_one_image_at_most() -> None:
    labels = _labels(50, 50, 50)
    for limit in (1, 2, 3, 7, 100, 149):
        counts = _counts(labels, stratified_subset(labels, limit, seed=3), 3)
        assert sum(counts) == limit
        assert max(counts) - min(counts) <= 1


def test_a_subset_is_sorted_unique_and_given_by_the_seed() -> None:
    labels = _labels(40, 60)
    first = stratified_subset(labels, 30, seed=1)
    assert torch.equal(first, first.unique())
    assert torch.equal(first, stratified_subset(labels, 30, seed=1))
    assert not torch.equal(first, stratified_subset(labels, 30, seed=2))


def test_a_limit_beyond_the_data_takes_everything() -> None:
    assert stratified_subset(_labels(2, 3), 99, seed=0).tolist() == [0, 1, 2, 3, 4]


def test_hold_out_takes_a_tenth_of_every_class_and_at_least_one() -> None:
    labels = _labels(100, 25, 4, 2)
    train, val = hold_out(labels, 0.1, seed=0)
    # 10 of 100, 3 of 25 (2.5 rounded up), 1 of 4, 1 of 2.
    assert _counts(labels, val, 4) == [10, 3, 1, 1]
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(131))


def test_hold_out_leaves_the_only_image_of_a_class_for_training() -> None:
    labels = _labels(20, 1)
    train, val = hold_out(labels, 0.1, seed=0)
    assert _counts(labels, train, 2) == [18, 1]
    assert _counts(labels, val, 2) == [2, 0]


def test_hold_out_is_given_by_the_seed() -> None:
    labels = _labels(50, 50)
    assert torch.equal(hold_out(labels, 0.1, seed=5)[1], hold_out(labels, 0.1, seed=5)[1])
    assert not torch.equal(hold_out(labels, 0.1, seed=5)[1], hold_out(labels, 0.1, seed=6)[1])


def test_every_epoch_is_a_new_permutation_named_by_its_number() -> None:
    sampler = EpochSampler(20, seed=4, shuffle=True)
    epochs = [list(sampler) for _ in range(2)]
    assert len(sampler) == 20
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(index for _, index in epoch) == list(range(20))
    assert [index for _, index in epochs[0]] != [index for _, index in epochs[1]]


def test_an_epoch_can_be_repeated_by_its_number() -> None:
    sampler = EpochSampler(20, seed=4, shuffle=True)
    _, second = list(sampler), list(sampler)
    again = EpochSampler(20, seed=4, shuffle=True)
    again.set_epoch(1)
    assert list(again) == second


def test_without_shuffling_the_order_is_the_datas() -> None:
    assert list(EpochSampler(3, seed=4, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]
