import pytest
import torch
from torch import nn

from surgeon.tuning.average import Average


def counter(value: float) -> nn.BatchNorm1d:
    """A layer with a weight, a statistic and a whole number that are all this value."""
    layer = nn.BatchNorm1d(1)
    for tensor in layer.state_dict().values():
        tensor.fill_(value)
    return layer


def values(average: Average) -> list[float]:
    return [average.module.state_dict()[name].item() for name in ("weight", "running_mean", "num_batches_tracked")]


def test_three_updates_by_hand_and_the_decay_s_bound():
    # d = 0, 1 - 2^(-2/3) = 0.370039…, 1 - 3^(-2/3) = 0.519249…; with a decay of 0.4 the last is 0.4.
    for decay, last in ((0.9, 1 - 3 ** (-2 / 3)), (0.4, 0.4)):
        average = Average(counter(100), decay)
        assert values(average) == [100, 100, 100]
        average.update(counter(1))
        assert values(average) == [1, 1, 1]
        average.update(counter(2))
        second = 1 - 2 ** (-2 / 3)
        after_two = second * 1 + (1 - second) * 2
        assert values(average) == pytest.approx([after_two, after_two, 2])
        average.update(counter(4))
        after_three = last * after_two + (1 - last) * 4
        assert values(average) == pytest.approx([after_three, after_three, 4])
        assert average.updates == 3


def test_a_restart_forgets_the_past_and_the_warmup():
    average = Average(counter(0), 0.9)
    for value in (5, 6, 7):
        average.update(counter(value))
    average.restart(counter(1))
    assert values(average) == [1, 1, 1]
    average.update(counter(3))
    assert values(average) == [3, 3, 3]


def test_it_is_a_copy_in_evaluation_mode():
    layer = counter(1).train()
    average = Average(layer, 0.9)
    assert layer.training
    assert not average.module.training
    with torch.no_grad():
        layer.weight.fill_(9)
    assert values(average) == [1, 1, 1]
