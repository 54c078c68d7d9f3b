from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.errors import DataError
from surgeon.measure.bn import recalibrate


def labelled(images: Tensor) -> tuple[Tensor, Tensor]:
    return images, torch.zeros(len(images), dtype=torch.int64)


def network() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5), nn.BatchNorm2d(2, momentum=None))


def test_statistics_by_hand_count_every_image_once() -> None:
    # Four images of mean 1 and two of mean 7 make a mean of 3; the batches' unbiased variances are 4/3 and 2.
    layer = nn.BatchNorm2d(1)
    layer.running_mean.fill_(100)
    first = torch.tensor([0.0, 0.0, 2.0, 2.0]).reshape(4, 1, 1, 1)
    second = torch.tensor([6.0, 8.0]).reshape(2, 1, 1, 1)
    assert recalibrate(nn.Sequential(layer), [labelled(first), labelled(second)], device="cpu") == 1
    assert layer.running_mean.item() == pytest.approx(3)
    assert layer.running_var.item() == pytest.approx((4 / 3 * 4 + 2 * 2) / 6)


def test_one_batch_gives_its_own_statistics_to_every_layer() -> None:
    images = torch.randn(30, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 5
    model = network()
    assert recalibrate(model, [labelled(images)], device="cpu") == 2
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, images.transpose(0, 1).flatten(1).var(1))
    # Dropout is off: the second layer sees normalized images, not scaled and zeroed ones.
    torch.testing.assert_close(model[2].running_mean, torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(model[2].running_var, torch.ones(2), atol=5e-3, rtol=0)


def test_a_fixed_layer_keeps_every_bit_and_normalizes_by_them() -> None:
    images = torch.randn(30, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 5
    model = network()
    model[0].running_mean.fill_(4)
    model[0].running_var.fill_(9 - model[0].eps)
    before = {key: value.clone() for key, value in model[0].state_dict().items()}
    assert recalibrate(model, [labelled(images)], device="cpu", fixed=[model[0]]) == 1
    assert all(torch.equal(value, before[key]) for key, value in model[0].state_dict().items())
    torch.testing.assert_close(model[2].running_mean, ((images - 4) / 3).mean((0, 2, 3)))


def test_modes_momenta_and_the_global_generator_are_left_alone() -> None:
    model = network().train()
    model[0].eval()
    model[0].momentum = 0.25
    state = torch.get_rng_state()
    recalibrate(model, [labelled(torch.randn(8, 2, 3, 3, generator=torch.Generator()))], device="cpu")
    assert [module.training for module in model] == [False, True, True]
    assert model.training
    assert (model[0].momentum, model[2].momentum) == (0.25, None)
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_and_momenta_are_put_back_after_an_interruption() -> None:
    model = network().eval()

    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield labelled(torch.ones(4, 2, 3, 3))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, interrupted(), device="cpu")
    assert not any(module.training for module in model.modules())
    assert model[0].momentum == 0.1


def test_a_last_batch_of_one_image_is_left_out() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1))
    images = torch.tensor([1.0, 3.0, 500.0]).reshape(3, 1, 1, 1)
    assert recalibrate(model, [labelled(images[:2]), labelled(images[2:])], device="cpu") == 1
    assert model[0].running_mean.item() == pytest.approx(2)


@pytest.mark.parametrize("batches", [[], [labelled(torch.ones(1, 2, 3, 3))]])
def test_too_few_images_are_refused_and_change_nothing(batches: list[tuple[Tensor, Tensor]]) -> None:
    model = network()
    model[0].running_mean.fill_(4)
    with pytest.raises(DataError, match="two or more images"):
        recalibrate(model, batches, device="cpu")
    assert model[0].running_mean.tolist() == [4, 4]


def test_a_network_without_running_statistics_reads_no_image() -> None:
    def unread() -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError("the images were read")
        yield

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4))
    assert recalibrate(model, unread(), device="cpu") == 0


def test_progress_is_told_of_every_batch() -> None:
    seen: list[tuple[int, int | None]] = []

    def track(batches: Iterable[Any], description: str, total_images: int | None = None) -> Iterator[Any]:
        for batch in batches:
            seen.append((len(batch[0]), total_images))
            yield batch

    loader = DataLoader(TensorDataset(*labelled(torch.ones(10, 2, 3, 3))), batch_size=4)
    recalibrate(network(), loader, device="cpu", track=track)
    assert seen == [(4, 10), (4, 10), (2, 10)]
