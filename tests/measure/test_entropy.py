import math

import pytest
import torch

from surgeon.measure.entropy import histogram_entropy


def test_entropy_by_hand() -> None:
    # Over 0 … 10 in two bins: 0, 1, 2 on the left, and 10 on the right.
    values = torch.tensor([[0.0, 1], [2, 10]])
    expected = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert histogram_entropy(values, bins=2) == pytest.approx(expected, rel=1e-12)


def test_a_value_between_two_bins_is_in_the_upper_one_and_the_largest_in_the_last() -> None:
    # Bins [0, 1), [1, 2), [2, 3), [3, 4] hold 1, 1, 0 and 2 of the four values.
    expected = 2 * (1 / 4) * math.log(4) + 1 / 2 * math.log(2)
    assert histogram_entropy(torch.tensor([0.0, 1, 3, 4]), bins=4) == pytest.approx(expected, rel=1e-12)


def test_one_value_in_each_of_ten_bins_is_the_most_there_can_be() -> None:
    assert histogram_entropy(torch.arange(10.0) - 3) == pytest.approx(math.log(10), rel=1e-12)


def test_equal_values_hold_nothing() -> None:
    assert histogram_entropy(torch.full((3, 3), -0.7)) == 0
    assert histogram_entropy(torch.zeros(1)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_entropy_agrees_with_a_count_in_plain_python(dtype: torch.dtype) -> None:
    values = torch.randn(100, 700, generator=torch.Generator().manual_seed(0)).to(dtype)
    numbers = values.flatten().tolist()
    low, high = min(numbers), max(numbers)
    counts = [0] * 10
    for number in numbers:
        counts[min(9, int((number - low) / (high - low) * 10))] += 1
    expected = -sum(count / len(numbers) * math.log(count / len(numbers)) for count in counts if count)
    assert histogram_entropy(values) == pytest.approx(expected, abs=1e-6)


def test_scale_and_shift_of_the_values_do_not_matter() -> None:
    values = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert histogram_entropy(values * 8 - 2) == pytest.approx(histogram_entropy(values), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_values_stay_as_they_are(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 0.25, 1.0], dtype=dtype)
    histogram_entropy(values)
    assert values.tolist() == [0.0, 0.25, 1.0]
