"""Whether a network takes images is told without changing it."""

import pytest
import torch
from torch import nn

from surgeon.errors import DataError, TraceError
from surgeon.operate.images import check_input, trace_for_images


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(4), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 5)
    )


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((1, 26, 26), "takes images of 3 channels, and 1,26,26 has 1"),
        ((3, 8, 8), "cannot take images of 3,8,8"),
        ((3, 40, 40), "cannot take images of 3,40,40"),
    ],
)
def test_images_that_a_network_does_not_take(size: tuple[int, ...], problem: str) -> None:
    model = _network().train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for check in (check_input, trace_for_images):
        with pytest.raises(DataError, match=problem) as caught:
            check(model, torch.zeros(2, *size))
        assert "\n" not in str(caught.value)
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("first", "kind"), [(nn.Embedding(10, 4), "Embedding"), (nn.Conv1d(2, 4, 3), "Conv1d"), (nn.LSTM(8, 4), "LSTM")]
)
def test_a_network_of_sequences_is_not_told_to_take_other_images(first: nn.Module, kind: str) -> None:
    model = nn.Sequential(nn.Dropout(), first, nn.Linear(4, 3))
    with pytest.raises(DataError, match=f"takes no images: its first layer, '1', is of the kind {kind}") as caught:
        check_input(model, torch.zeros(1, 3, 8, 8))
    assert "surgeon.apply" in caught.value.remedy
    assert "--input-size" not in caught.value.remedy


def test_memory_that_runs_out_is_no_fault_of_the_images() -> None:
    class Hungry(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        check_input(Hungry(), torch.zeros(1, 3, 8, 8))


def test_images_that_it_takes() -> None:
    model = _network()
    images = torch.zeros(2, 3, 26, 26)
    check_input(model, images)
    assert trace_for_images(model, images).at("0")


class Branching(nn.Module):
    """Runs, but its path depends on values, which cannot be recorded."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if bool(images.sum() > 0) else images.amax((2, 3))


def test_the_reason_of_the_tracer_stands_where_the_images_are_not_at_fault() -> None:
    with pytest.raises(TraceError):
        trace_for_images(Branching(), torch.zeros(2, 3, 8, 8))
