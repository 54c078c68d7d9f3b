"""Ranges that several methods' options share."""

from surgeon.errors import OptionError


def check_share(method: str, name: str, value: float) -> None:
    """Refuse a share that chooses nothing or everything.

    Raises:
        OptionError: the value is not between 0 and 1.
    """
    if not 0 < value < 1:
        raise OptionError(f"The option {name} of {method} is {value}.", "Give a number above 0 and below 1.")


def check_every(method: str, value: int | None) -> None:
    """Refuse a period of no epochs.

    Raises:
        OptionError: the value is below 1.
    """
    if value is not None and value < 1:
        raise OptionError(f"The option every of {method} is {value}.", "Give a whole number of at least 1, or none.")
