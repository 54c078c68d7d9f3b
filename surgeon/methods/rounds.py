"""Rounds of fine-tuning in full and with a part held at zero, which RePr and dense-sparse-dense training have.

Source: Prakash et al., RePr: Improved Training of Convolutional Filters, algorithm 1; "iterations" are epochs here.
"""

from dataclasses import dataclass
from typing import ClassVar

from surgeon.errors import OptionError
from surgeon.methods.base import Phase, option

FULL = "full network"
LARGEST = 10**6
"""Epochs and rounds that anybody could mean."""


@dataclass(frozen=True)
class Rounds:
    """The options of how long and how often; ranges are checked when the config is made."""

    NAME: ClassVar[str]
    """The method's name, for messages."""

    s1: int = option(20, "S1: epochs of the full network before each time that a part of it is dropped, at least 1", 20)
    s2: int = option(10, "S2: epochs of the network without that part, at least 1", 10)
    n: int = option(3, "N: how often this is repeated, at least 1", 3)

    def __post_init__(self) -> None:
        for name in ("s1", "s2", "n"):
            value = getattr(self, name)
            if not 1 <= value <= LARGEST:
                raise OptionError(
                    f"The option {name} of {self.NAME} is {value}.", f"Give a whole number in 1..{LARGEST:,}."
                )


def phases_of(config: Rounds, epochs: int, part: str) -> tuple[Phase, ...]:
    """Return the phases of a fine-tuning: in each round S1 epochs in full and S2 without a part, and the rest in full.

    A round takes place only if at least one epoch follows it: what has started anew must learn.

    Args:
        config: S1, S2 and N.
        epochs: of the fine-tuning.
        part: what the network is called while a part of it is held at zero.

    Raises:
        OptionError: not even one round has room.
    """
    length = config.s1 + config.s2
    rounds = min(config.n, (epochs - 1) // length)
    if rounds < 1:
        raise OptionError(
            f"{config.NAME} needs {length + 1} epochs of fine-tuning or more, s1 + s2 + 1, and there are {epochs}.",
            f"Give --epochs {config.n * length + 1} or more (epochs= in Python) for {_rounds(config.n)}, and "
            "--sched none or multistep, so that what comes back last learns as well; or a smaller s1 and s2.",
        )
    phases = []
    for number in range(rounds):
        start = number * length
        phases += [Phase(start, FULL, False, number + 1), Phase(start + config.s1, part, True, number + 1)]
    return (*phases, Phase(rounds * length, FULL, False, 0))


def missing_rounds(config: Rounds, phases: tuple[Phase, ...]) -> str | None:
    """Return the sentence that not all rounds have room, or None where they do."""
    rounds = max(phase.round for phase in phases)
    if rounds == config.n:
        return None
    needed = config.n * (config.s1 + config.s2) + 1
    return f"Of {_rounds(config.n)} only {rounds} will take place: all of them need {needed} epochs."


def _rounds(number: int) -> str:
    return "1 round" if number == 1 else f"{number} rounds"
