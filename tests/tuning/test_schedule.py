import math

import pytest
import torch
from torch import nn

from surgeon.errors import OptionError
from surgeon.tuning import TuningConfig, create_schedule


def rates(config: TuningConfig, updates_per_epoch: int) -> list[float]:
    """The learning rate of every update, as the loop steps it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = create_schedule(optimizer, config, updates_per_epoch)
    seen = []
    for update in range(config.epochs * updates_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"])
        if schedule is not None:
            schedule.step_update(update + 1)
    return seen


def test_cosine_falls_every_update():
    # lr/2 · (1 + cos(π t/4)), t = 0…3
    expected = [0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5))]
    assert rates(TuningConfig(epochs=2, lr=0.1), 2) == pytest.approx(expected, rel=1e-12)


def test_warmup_climbs_linearly_within_the_epochs():
    # From 1e-5 to 0.1 in 4 updates; then the cosine of 8 updates goes on at t = 4.
    climb = [1e-5 + t * (0.1 - 1e-5) / 4 for t in range(4)]
    fall = [0.05 * (1 + math.cos(math.pi * t / 8)) for t in range(4, 8)]
    assert rates(TuningConfig(epochs=4, lr=0.1, warmup_epochs=2), 2) == pytest.approx(climb + fall, rel=1e-12)


def test_warmup_to_a_small_rate_climbs_too():
    climb = rates(TuningConfig(epochs=4, lr=1e-6, warmup_epochs=2), 2)[:4]
    assert climb == pytest.approx([1e-7 + t * (1e-6 - 1e-7) / 4 for t in range(4)], rel=1e-9)


def test_step_divides_by_ten_after_each_third():
    assert rates(TuningConfig(epochs=3, lr=1.0, sched="step"), 2) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_multistep_divides_by_ten_after_a_half_and_three_quarters():
    # timm counts updates from 1 here, so the rate falls with the last update before the milestone.
    expected = [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert rates(TuningConfig(epochs=4, lr=1.0, sched="multistep"), 2) == pytest.approx(expected)


def test_multistep_takes_its_own_milestones_and_rate():
    config = TuningConfig(epochs=5, lr=1.0, sched="multistep", decay_milestones=(1, 3), decay_rate=0.2)
    # As above, the rate falls with the last update before the milestone.
    expected = [1, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04, 0.04, 0.04, 0.04]
    assert rates(config, 2) == pytest.approx(expected)


def test_none_leaves_the_rate_alone():
    assert rates(TuningConfig(epochs=2, lr=0.3, sched="none"), 2) == [0.3] * 4


@pytest.mark.parametrize("name", ["plateau", "cosinus"])
def test_a_schedule_that_cannot_be_is_refused(name):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(OptionError, match=name):
        create_schedule(optimizer, TuningConfig(sched=name), 2)
