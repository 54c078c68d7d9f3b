import pytest
import torch

from surgeon.measure.weights import ROWS, filter_norms, orthogonality_sums


def test_norms_of_filters_by_hand() -> None:
    # Filter 0 holds 3, -4, 0, 0; filter 1 holds 1, 1, 1, -1.
    weight = torch.tensor([[[[3.0, -4.0]], [[0.0, 0.0]]], [[[1.0, 1.0]], [[1.0, -1.0]]]])
    assert filter_norms(weight).tolist() == [5, 2]
    assert filter_norms(weight, p=1).tolist() == [7, 4]


def test_norms_along_another_axis_are_those_of_its_slices() -> None:
    weight = torch.tensor([[[[3.0, -4.0]], [[0.0, 0.0]]], [[[1.0, 1.0]], [[1.0, -1.0]]]])
    assert filter_norms(weight, p=1, dim=1).tolist() == [9, 2]
    assert filter_norms(weight, p=1, dim=-1).tolist() == [5, 6]


def test_norms_of_a_vector_are_magnitudes() -> None:
    assert filter_norms(torch.tensor([-2.0, 0.5])).tolist() == [2, 0.5]


def test_orthogonality_sums_by_hand() -> None:
    # Directions at 0, 60 and 90 degrees, of any length: |cos| is 1/2, 0 and sqrt(3)/2.
    root = 3**0.5 / 2
    weight = torch.tensor([[4.0, 0.0], [0.5, root], [0.0, -0.1]]).reshape(3, 2, 1, 1)
    expected = [(0.5 + 0) / 3, (0.5 + root) / 3, (0 + root) / 3]
    assert orthogonality_sums(weight).tolist() == pytest.approx(expected, rel=1e-6)


def test_orthogonality_sums_of_the_other_axis() -> None:
    weight = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert orthogonality_sums(weight, dim=1).tolist() == pytest.approx([0.5**0.5 / 2] * 2)


def test_orthonormal_filters_do_not_overlap_and_copies_overlap_fully() -> None:
    assert orthogonality_sums(torch.eye(4).reshape(4, 4, 1, 1)).tolist() == [0] * 4
    assert orthogonality_sums(torch.ones(4, 9)).tolist() == pytest.approx([3 / 4] * 4)


def test_a_filter_of_zeros_counts_its_own_diagonal_alone() -> None:
    assert orthogonality_sums(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist() == [0, 0.5]


def test_overlaps_of_more_filters_than_are_compared_at_a_time() -> None:
    # Two full blocks and a part of one, against all pairs at once in double precision.
    weight = torch.randn(2 * ROWS + 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = weight / (weight**2).sum(1, keepdim=True).sqrt()
    expected = (directions @ directions.T - torch.eye(len(weight))).abs().mean(1)
    assert torch.allclose(orthogonality_sums(weight), expected, rtol=1e-12, atol=0)
