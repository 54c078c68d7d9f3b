"""Shares are rounded down as the decimal numbers that they print as."""

import pytest

from surgeon.measure.shares import part


@pytest.mark.parametrize(
    ("share", "whole", "expected"), [(0.29, 100, 29), (0.3, 10, 3), (0.5, 5, 2), (0, 7, 0), (1, 7, 7), (1e-7, 10**7, 1)]
)
def test_by_hand(share: float, whole: int, expected: int) -> None:
    assert part(share, whole) == expected
