from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader, TensorDataset

from surgeon.errors import DataError, LayerError
from surgeon.measure.accumulate import add_rows
from surgeon.measure.activations import _Sums, class_means


class Net(nn.Module):
    """A stem and two layers, one of which gives a pair; `pool` runs twice and `unused` never."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.pair = Pair()
        self.unused = nn.Identity()
        self.flat = Flat()
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.stem(images))
        x, _ = self.pair(self.pool(self.pool(x)))
        self.flat(x)
        return self.head(x.mean((2, 3)))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)


def data(images: int = 50, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3, 10, 10, generator=generator), torch.randint(classes, (images,), generator=generator)


def measure(model: nn.Module, modules: list[str], batches: Iterable[Any], num_classes: int, **options: Any) -> Any:
    return class_means(model, modules, batches, num_classes, device="cpu", **options)


def test_means_by_hand() -> None:
    images = torch.tensor([[1.0, 10.0], [3.0, 30.0], [-5.0, 7.0]]).reshape(3, 2, 1, 1)
    batches = [(images[:2], torch.tensor([2, 0])), (images[2:], torch.tensor([2]))]
    measured = measure(nn.Sequential(nn.ReLU()), ["0"], batches, 4)["0"]
    assert measured.count.tolist() == [1, 0, 2, 0]
    assert measured.mean.dtype == torch.float32
    assert measured.mean.tolist() == [
        [[[3.0]], [[30.0]]],
        [[[0.5]], [[8.5]]],
    ]


def test_classes_without_images_take_no_memory() -> None:
    # Ten classes of 200,000, one batch after the other and in no order.
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor([199_999, 7, 60_000, 8, 0, 500, 3, 100_000, 44, 9])
    images, labels = torch.randn(60, 3, 8, 8, generator=generator), classes[torch.arange(60) % 10]
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    batches = list(zip(images.split(7), labels.split(7), strict=True))
    measured = measure(model, ["0"], batches, 200_000)["0"]
    assert measured.count.nonzero().flatten().tolist() == sorted(classes.tolist())
    assert measured.mean.untyped_storage().nbytes() <= 20 * 4 * 64 * 4
    # Bitwise what a table of all classes holds where there are images.
    small = torch.tensor([sorted(classes.tolist()).index(label) for label in labels.tolist()])
    dense = torch.zeros(10, 4 * 64)
    with torch.no_grad():
        for batch, rows in zip(images.split(7), small.split(7), strict=True):
            dense.index_add_(0, rows, model(batch).flatten(1))
    assert torch.equal(measured.mean.flatten(1), dense / 6)


def test_agrees_with_all_outputs_kept_in_float64_for_several_modules_at_once() -> None:
    images, labels = data()
    model = Net()
    loader = DataLoader(TensorDataset(images, labels), batch_size=7)
    measured = measure(model, ["stem.0", "relu", "head"], loader, 5)
    with torch.no_grad():
        model.double().eval()
        stem = model.stem[0](images.double())
        relu = model.stem(images.double()).relu()
        expected = {"stem.0": stem, "relu": relu, "head": model(images.double())}
    for name, outputs in expected.items():
        means = torch.stack([outputs[labels == label].mean(0) for label in range(5)])
        torch.testing.assert_close(measured[name].mean.double(), means, rtol=1e-5, atol=1e-6)
        assert measured[name].count.tolist() == labels.bincount(minlength=5).tolist()


def test_a_module_is_read_before_a_later_one_overwrites_its_output() -> None:
    images, labels = data()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    measured = measure(model, ["0"], [(images, labels)], 5)["0"]
    assert float(measured.mean.min()) < 0


def test_float32_sums_hold_over_fifty_thousand_images() -> None:
    # One class takes all: the longest sum there is, of values that are all positive, as after a ReLU.
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(50_000, 16, 1, 1, generator=generator) + 0.1
    batches = [(batch, torch.zeros(len(batch), dtype=torch.int64)) for batch in images.split(128)]
    measured = measure(nn.Sequential(nn.Identity()), ["0"], batches, 1)["0"]
    expected = images.double().mean(0, keepdim=True)
    assert float(((measured.mean.double() - expected) / expected).abs().max()) < 2e-5


def test_hooks_are_removed_and_modes_restored_module_by_module() -> None:
    model = Net().train()
    model.stem[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, ["relu"], [data()], 5)
    assert model.training
    assert model.stem.training
    assert not model.stem[1].training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_runs_in_evaluation_mode_without_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5)).train()
    images, labels = data()
    measured = measure(model, ["0", "1"], [(images, labels)], 5)
    torch.testing.assert_close(measured["1"].mean, measured["0"].mean)
    assert not measured["0"].mean.requires_grad


def test_hooks_and_modes_are_put_back_after_an_interruption() -> None:
    model = Net().train()

    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield data()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, ["relu"], interrupted(), 5)
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())


def test_sums_beyond_the_budget_are_the_same_on_the_cpu() -> None:
    images, labels = data()
    model = Net()
    roomy = measure(model, ["stem.0", "head"], [(images, labels)], 5)
    tight = measure(model, ["stem.0", "head"], [(images, labels)], 5, budget_bytes=0)
    for name in roomy:
        assert torch.equal(roomy[name].mean, tight[name].mean)
        assert tight[name].mean.device.type == "cpu"


def test_sums_stay_on_the_device_until_the_budget_is_spent() -> None:
    # Each sum of 2 classes and 3 x 4 values takes 96 bytes; the meta device stands for an accelerator.
    sums = _Sums(num_classes=2, budget_bytes=2 * 96)
    for name in ("first", "second"):
        sums.start(torch.zeros(6, dtype=torch.int64), "cpu")
        sums.add(name, torch.ones(6, 3, 4, device="meta"))
    assert [total.device.type for total in sums.total.values()] == ["meta", "meta"]
    assert sums._place((2, 3, 4), torch.device("meta")).type == "cpu"


def test_classes_that_only_other_processes_see_are_rows_of_zeros() -> None:
    sums = _Sums(num_classes=9, budget_bytes=2**20)
    sums.start(torch.tensor([5, 2, 5]), "cpu")
    sums.add("one", torch.tensor([[1.0], [10.0], [2.0]]))
    assert sums.taken("one", torch.tensor([0, 2, 5, 8])).tolist() == [[0], [10], [3], [0]]


def test_progress_is_told_of_every_batch_and_the_number_of_images() -> None:
    seen: list[int] = []

    def track(batches: Iterable[Any], description: str, total_images: int | None = None) -> Iterator[Any]:
        assert total_images == 50
        for batch in batches:
            seen.append(len(batch[0]))
            yield batch

    measure(Net(), ["relu"], DataLoader(TensorDataset(*data()), batch_size=20), 5, track=track)
    assert seen == [20, 20, 10]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("pair", "'pair' is no floating-point tensor but tuple"),
        ("pool", "'pool' runs more than once"),
        ("unused", "'unused' does not run"),
        ("stem.9", "no module named 'stem.9'"),
        ("flat", "'flat' has shape"),
    ],
)
def test_modules_that_have_no_one_output_an_image_are_refused_by_name(module: str, said: str) -> None:
    model = Net()
    with pytest.raises(LayerError, match=said):
        measure(model, ["relu", module], [data()], 5)
    assert all(not inner._forward_hooks for inner in model.modules())


def test_images_of_several_sizes_are_refused() -> None:
    images, labels = data()
    with pytest.raises(LayerError, match="'relu' changes its shape"):
        measure(Net(), ["relu"], [(images, labels), (pad(images, (0, 1, 0, 1)), labels)], 5)


@pytest.mark.parametrize("label", [-1, 5, 100])
def test_labels_out_of_range_are_refused(label: int) -> None:
    images, labels = data()
    labels[3] = label
    with pytest.raises(DataError, match=f"label {label} is out of range for 5 classes"):
        measure(Net(), ["relu"], [(images, labels)], 5)


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        measure(Net(), ["relu"], [], 5)


def test_a_module_named_twice_is_measured_once() -> None:
    images, labels = data()
    twice = measure(Net(), ["relu", "relu"], [(images, labels)], 5)
    assert list(twice) == ["relu"]


def test_rows_are_added_alike_by_both_ways_of_adding() -> None:
    index = torch.tensor([2, 0, 2, 2])
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    sums = torch.ones(4, 2)
    add_rows(sums, index, rows)
    assert sums.tolist() == [[4, 5], [1, 1], [14, 17], [1, 1]]
    # The call that CUDA takes, here on the CPU.
    other = torch.ones(4, 2)
    other.index_put_((index,), rows, accumulate=True)
    assert torch.equal(other, sums)
