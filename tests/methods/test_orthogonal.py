"""New filters in the place of dropped ones: by hand, against numpy, and where there is no room."""

import numpy as np
import pytest
import torch
from torch import Tensor

from surgeon.methods.orthogonal import orthogonal_filters

SIZES = [(3, 2, 12), (5, 4, 12), (9, 6, 12), (10, 7, 12), (0, 5, 4), (4, 3, 9), (6, 1, 8)]
"""Kept filters, dropped ones and numbers in each, such that kept and own past leave room."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=seeded(seed), dtype=torch.float64)


def directions(values: Tensor) -> np.ndarray:
    array = values.double().numpy()
    norms = np.sqrt((array**2).sum(1, keepdims=True))
    return array / np.where(norms > 0, norms, 1)


def check_norms(found: Tensor) -> None:
    assert found.dtype == torch.float64
    assert np.allclose(np.linalg.norm(found.numpy(), axis=1), 1, atol=1e-12)


def check_orthogonal(found: Tensor, kept: Tensor, past: Tensor) -> None:
    check_norms(found)
    for bound, filters in ((1e-10, found), (1e-5, found.float())):
        own = (directions(filters) * directions(past)).sum(1)
        assert np.abs(directions(filters) @ directions(kept).T).max(initial=0) < bound
        assert np.abs(own).max() < bound


def check_distinct(found: Tensor) -> None:
    cosines = np.abs(directions(found) @ directions(found).T)
    np.fill_diagonal(cosines, 0)
    assert cosines.max() < 1 - 1e-9


def test_in_two_dimensions_the_one_direction_across_is_found() -> None:
    found = orthogonal_filters(torch.zeros(0, 2), rows([3, 4]), seeded())
    assert torch.allclose(found.abs(), rows([0.8, 0.6]), atol=1e-15)
    assert found[0, 0] * found[0, 1] < 0


def test_in_three_dimensions_the_cross_product_of_kept_and_past_is_found() -> None:
    found = orthogonal_filters(rows([2, 0, 0]), rows([1, 5, 0]), seeded())
    assert torch.allclose(found.abs(), rows([0, 0, 1]), atol=1e-15)


def test_where_kept_filters_span_the_plane_the_less_covered_of_its_directions_is_taken() -> None:
    # The kept filters cover the first axis three times, the second once; the past covers it once more.
    kept, past = rows([1, 0], [-1, 0], [2, 0], [0, 1]), rows([0, 7])
    found = orthogonal_filters(kept, past, seeded())
    assert torch.allclose(found.abs(), rows([0, 1]), atol=1e-15)


def test_a_past_that_tips_the_balance_is_avoided() -> None:
    # The axes are covered 2 and 1 times without the past, 2 and 3 times with these two.
    kept, past = rows([1, 0], [1, 0], [0, 1], [0, 1]), rows([0, 1])
    found = orthogonal_filters(kept, past, seeded())
    assert torch.allclose(found.abs(), rows([1, 0]), atol=1e-15)


def test_what_was_placed_counts_as_covered() -> None:
    # Covered 3, 1, 1: the new filters take the second and third axis, in whatever order, not one of them twice.
    kept = rows([1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1])
    found = orthogonal_filters(kept, rows([1, 0, 0], [1, 0, 0]), seeded())
    assert torch.allclose(found @ found.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(found[:, 0], torch.zeros(2, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_filters_are_orthogonal_to_kept_ones_and_their_own_past(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    kept, past = drawn(size[0], size[2], 1).to(dtype), drawn(size[1], size[2], 2).to(dtype)
    found = orthogonal_filters(kept, past, seeded())
    check_orthogonal(found, kept, past)
    check_distinct(found)


@pytest.mark.parametrize(("kept", "past", "size"), [(4, 5, 14), (2, 9, 20), (0, 3, 6)])
def test_with_room_for_all_they_are_orthogonal_to_each_other_and_all_pasts(kept: int, past: int, size: int) -> None:
    known, before = drawn(kept, size, 3), drawn(past, size, 4)
    found = orthogonal_filters(known, before, seeded())
    assert np.abs(found.numpy() @ found.numpy().T - np.eye(past)).max() < 1e-12
    assert np.abs(found.numpy() @ directions(torch.cat([known, before])).T).max() < 1e-12


def test_room_that_only_repeated_rows_leave_is_used() -> None:
    # By their number 8 + 2 · 6 rows need 20 dimensions; by what they span, 3 + 1 + 6 need 10.
    kept = drawn(3, 10, 5)[torch.tensor([0, 1, 2, 0, 1, 2, 1, 1])] * torch.arange(1, 9)[:, None]
    past = drawn(1, 10, 6).repeat(6, 1)
    found = orthogonal_filters(kept, past, seeded())
    check_orthogonal(found, kept, past)
    assert np.abs(found.numpy() @ found.numpy().T - np.eye(6)).max() < 1e-10


def test_nearly_parallel_kept_filters_are_avoided_just_as_well() -> None:
    kept = drawn(1, 8, 7) + 1e-5 * drawn(6, 8, 8)
    past = drawn(5, 8, 9)
    check_orthogonal(orthogonal_filters(kept, past, seeded()), kept, past)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_without_room_the_directions_covered_least_are_taken(count: int) -> None:
    kept, past = drawn(30, 8, 10), drawn(count, 8, 11)
    found = orthogonal_filters(kept, past, seeded())
    check_norms(found)
    rest = directions(torch.cat([kept, past]))
    covered = np.linalg.svd(rest, compute_uv=False)[::-1] ** 2
    # A batch has the least sum that orthonormal rows can have.
    assert np.isclose(((found.numpy() @ rest.T) ** 2).sum(), covered[:count].sum(), rtol=1e-10)
    assert np.abs(found.numpy() @ found.numpy().T - np.eye(count)).max() < 1e-10


def test_without_room_every_batch_takes_the_least_of_what_is_covered_by_then() -> None:
    kept, past = drawn(30, 6, 12), drawn(8, 6, 13)
    found = orthogonal_filters(kept, past, seeded()).numpy()
    covered = directions(kept).T @ directions(kept)
    for start in (0, 3, 6):
        batch, own = found[start : start + 3], directions(past)[start : start + 3]
        gram = covered + own.T @ own
        least = np.linalg.eigh(gram)[0][: len(batch)].sum()
        assert np.isclose(np.trace(batch @ gram @ batch.T), least, rtol=1e-10)
        covered = covered + batch.T @ batch
    check_distinct(torch.from_numpy(found))


def test_in_a_crowded_room_all_filters_differ_though_no_past_lies_there() -> None:
    # Twenty filters in four dimensions that their pasts say nothing about.
    kept = torch.eye(9, dtype=torch.float64)[:5]
    past = torch.cat([drawn(20, 5, 14), torch.zeros(20, 4)], 1)
    found = orthogonal_filters(kept, past, seeded())
    check_orthogonal(found, kept, past)
    check_distinct(found)
    covered = np.linalg.eigvalsh(found.numpy().T @ found.numpy())[-4:]
    assert covered.min() > 1, "some of the room is left empty"


def test_the_last_direction_goes_to_one_filter_alone() -> None:
    kept = torch.eye(4, dtype=torch.float64)[:3]
    past = rows([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])
    found = orthogonal_filters(kept, past, seeded())
    check_norms(found)
    assert torch.allclose(found[0].abs(), rows([0, 0, 0, 1])[0], atol=1e-12)
    check_distinct(found)


def test_where_the_last_direction_is_ones_own_past_another_is_found() -> None:
    kept = torch.eye(4, dtype=torch.float64)[[0, 0, 0, 1, 1, 2]]
    past = rows([0, 0, 0, 5])
    found = orthogonal_filters(kept, past, seeded())
    # The third axis and the past's are covered once, the others more often.
    assert torch.allclose(found[:, :2], torch.zeros(1, 2, dtype=torch.float64), atol=1e-12)
    check_norms(found)


def test_a_single_weight_is_one_or_minus_one() -> None:
    for kept in (torch.zeros(0, 1), torch.ones(3, 1)):
        found = orthogonal_filters(kept, torch.full((40, 1), 0.5), seeded())
        assert set(found.flatten().tolist()) == {1.0, -1.0}


@pytest.mark.parametrize("size", [(2, 2, 12), (2, 8, 12), (0, 3, 3)])
@pytest.mark.parametrize("useless", [0.0, float("nan"), float("inf")])
def test_rows_without_a_direction_constrain_nothing(size: tuple[int, int, int], useless: float) -> None:
    kept, past = drawn(size[0], size[2], 15), drawn(size[1], size[2], 16)
    nothing = torch.zeros(2, size[2], dtype=torch.float64)
    nothing[0, 0] = useless
    past[1] = nothing[0]
    found = orthogonal_filters(torch.cat([kept, nothing]), past, seeded())
    check_orthogonal(found, kept, past.nan_to_num(0.0, 0.0))


@pytest.mark.parametrize("size", [(0, 4, 4), (0, 2, 9), (2, 3, 5)])
def test_with_nothing_but_zeros_the_directions_are_random_and_orthogonal(size: tuple[int, int, int]) -> None:
    kept, past = torch.zeros(size[0], size[2]), torch.zeros(size[1], size[2])
    found = orthogonal_filters(kept, past, seeded())
    assert np.abs(found.numpy() @ found.numpy().T - np.eye(size[1])).max() < 1e-10
    assert (found.abs() > 1e-3).sum() > found.numel() / 2, "the axes are no random directions"


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_size_of_the_weights_does_not_matter(scale: float) -> None:
    kept, past = drawn(5, 12, 17), drawn(6, 12, 18)
    check_orthogonal(orthogonal_filters(kept * scale, past * scale, seeded()), kept, past)


@pytest.mark.parametrize("size", [(3, 2, 12), (9, 6, 12), (30, 6, 8)])
def test_a_seed_decides_and_arguments_stay_as_they_are(size: tuple[int, int, int]) -> None:
    kept, past = drawn(size[0], size[2], 19), drawn(size[1], size[2], 20)
    copies = kept.clone(), past.clone()
    first = orthogonal_filters(kept, past, seeded(1))
    state = torch.get_rng_state()
    assert first.equal(orthogonal_filters(kept, past, seeded(1)))
    assert not first.equal(orthogonal_filters(kept, past, seeded(2)))
    assert torch.get_rng_state().equal(state), "global random numbers were drawn"
    assert kept.equal(copies[0])
    assert past.equal(copies[1])
