"""The schedule of RePr and dense-sparse-dense training, epoch by epoch."""

import pytest

from surgeon.errors import OptionError
from surgeon.methods.base import Phase
from surgeon.methods.dsd import DSD, DsdConfig
from surgeon.methods.repr import REPR, ReprConfig
from surgeon.methods.rounds import Rounds, missing_rounds, phases_of


def starts(config: Rounds, epochs: int) -> list[tuple[int, bool, int]]:
    return [(phase.start, phase.holds, phase.round) for phase in phases_of(config, epochs, "part")]


def test_the_papers_three_rounds_take_ninety_epochs() -> None:
    expected = [
        (0, False, 1),
        (20, True, 1),
        (30, False, 2),
        (50, True, 2),
        (60, False, 3),
        (80, True, 3),
        (90, False, 0),
    ]
    assert starts(ReprConfig(), 100) == expected
    assert starts(ReprConfig(), 91) == expected
    assert REPR.phases is not None
    assert REPR.phases(ReprConfig(), 100)[1] == Phase(20, "sub-network", True, 1)


def test_a_round_that_nothing_would_follow_is_left_out_and_told() -> None:
    assert starts(ReprConfig(), 90) == [(0, False, 1), (20, True, 1), (30, False, 2), (50, True, 2), (60, False, 0)]
    assert missing_rounds(ReprConfig(), phases_of(ReprConfig(), 90, "part")) == (
        "Of 3 rounds only 2 will take place: all of them need 91 epochs."
    )
    assert missing_rounds(ReprConfig(), phases_of(ReprConfig(), 91, "part")) is None


def test_shortest_rounds() -> None:
    assert starts(DsdConfig(s1=1, s2=1, n=1), 2 + 1) == [(0, False, 1), (1, True, 1), (2, False, 0)]
    assert starts(DsdConfig(s1=2, s2=1, n=1), 10) == [(0, False, 1), (2, True, 1), (3, False, 0)]
    assert DSD.phases is not None
    assert [phase.name for phase in DSD.phases(DsdConfig(s1=1, s2=1, n=1), 3)] == [
        "full network", "sparse network", "full network",
    ]  # fmt: skip


@pytest.mark.parametrize("epochs", [0, 10, 30])
def test_too_few_epochs_are_refused_with_the_number_that_would_do(epochs: int) -> None:
    with pytest.raises(OptionError, match=rf"needs 31 epochs .* there are {epochs}\.") as error:
        phases_of(ReprConfig(), epochs, "part")
    assert "--epochs 91" in error.value.remedy
    assert starts(ReprConfig(), 31)


@pytest.mark.parametrize("name", ["s1", "s2", "n"])
@pytest.mark.parametrize("value", [0, -1, 10**6 + 1])
@pytest.mark.parametrize("config", [ReprConfig, DsdConfig])
def test_numbers_out_of_range_are_refused(config: type[Rounds], name: str, value: int) -> None:
    with pytest.raises(OptionError, match=f"The option {name} of {config.NAME} is {value}"):
        config(**{name: value})
