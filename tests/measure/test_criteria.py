"""Every criterion against numbers worked by hand."""

import pytest
import torch

from surgeon.measure.criteria import (
    CRITERIA,
    activation,
    apoz,
    gamma,
    l1,
    l2,
    layerwise,
    oracle,
    ortho,
    random,
    taylor,
)

FILTERS = torch.tensor([[[[3.0, -4.0]]], [[[0.5, 0.0]]]])
OUTPUTS = torch.tensor([[[1.0, -3.0], [0.0, 2.0]], [[-2.0, -4.0], [6.0, 1.0]]])
"""Two images, two filters, two positions."""


def test_norms() -> None:
    assert l1(FILTERS).tolist() == [7, 0.5]
    assert l2(FILTERS).tolist() == [5, 0.5]


def test_norms_of_the_filters_of_a_transposed_convolution() -> None:
    # Column 0 holds 3 and 0.5, column 1 holds -4 and 0.
    weight = FILTERS.reshape(2, 2, 1, 1)
    assert l1(weight, 1).tolist() == [3.5, 4]
    assert l2(weight, 1).tolist() == pytest.approx([9.25**0.5, 4])


def test_overlap() -> None:
    # The cosine is 3 / 5, and there are two filters.
    assert ortho(FILTERS).tolist() == pytest.approx([0.3, 0.3])


def test_scale() -> None:
    assert gamma(torch.tensor([-2.0, 0.5, 0.0])).tolist() == [2, 0.5, 0]


def test_chance_follows_its_generator() -> None:
    first, again = (random(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.tolist() == again.tolist()
    assert len(set(first.tolist())) == 5
    assert not torch.equal(first, random(5, torch.Generator().manual_seed(4)))


def test_mean_magnitudes_of_outputs() -> None:
    assert activation(OUTPUTS).tolist() == [[2, 1], [3, 3.5]]


def test_share_of_zeros_counts_what_a_relu_would_clear() -> None:
    assert apoz(OUTPUTS).tolist() == [[0.5, 0.5], [1, 0]]
    assert apoz(OUTPUTS).tolist() == apoz(OUTPUTS.relu()).tolist()


def test_taylor_sums_over_positions_before_the_magnitude() -> None:
    gradients = torch.tensor([[[1.0, 1.0], [5.0, 2.0]], [[1.0, -1.0], [1.0, -6.0]]])
    # |1 - 3| / 2, |0 + 4| / 2; |-2 + 4| / 2, |6 - 6| / 2.
    assert taylor(OUTPUTS, gradients).tolist() == [[1, 2], [1, 0]]


def test_a_layers_scores_have_norm_one_or_stay_zero() -> None:
    assert layerwise(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert layerwise(torch.zeros(3)).tolist() == [0, 0, 0]


def test_oracle_is_the_drop() -> None:
    assert oracle(0.75, torch.tensor([0.25, 1.0])).tolist() == [0.5, -0.25]


def test_the_table_says_which_end_is_weak_and_what_is_read() -> None:
    assert {name for name, criterion in CRITERIA.items() if criterion.weakest == "largest"} == {"ortho", "apoz"}
    assert {name for name, known in CRITERIA.items() if known.needs_data} == {"activation", "apoz", "taylor", "oracle"}
    scores = torch.tensor([1.0, 3.0, 2.0])
    assert CRITERIA["ortho"].strength(scores).argmin() == 1
    assert CRITERIA["l1"].strength(scores).argmin() == 0
    assert all(name == criterion.name for name, criterion in CRITERIA.items())
