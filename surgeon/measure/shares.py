"""Shares of a whole number, as the decimal numbers that they print as."""

import math
from fractions import Fraction


def part(share: float, whole: int) -> int:
    """Give `floor(share · whole)`.

    Args:
        share: 0 … 1, taken as the decimal number that it prints as.
        whole: at least 0.
    """
    # As a binary number, 0.29 is a little less than 0.29, and of 100 filters it would give 28.
    return math.floor(Fraction(repr(float(share))) * whole)
