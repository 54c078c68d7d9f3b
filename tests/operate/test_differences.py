"""How far the tensors of two networks are from each other: figures worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from surgeon.coupling.graph import ChannelGroup, Member
from surgeon.operate import differences as module
from surgeon.operate.differences import ChannelDifference, Sides, differences

INF, NAN = math.inf, math.nan


def places(*rows: tuple[int, ...]) -> Tensor:
    return torch.tensor(rows)


def test_figures_of_a_matrix_that_carries_a_group_on_each_axis() -> None:
    first = {"w": torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]), "same": torch.ones(2)}
    second = {"w": torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, -1.0]]), "same": torch.ones(2)}
    rows = ChannelGroup("rows", 2, (Member("w", 0, "producer", places((1,), (0,))),), True)
    columns = ChannelGroup("columns", 1, (Member("w", 1, "consumer", places((0, 2)), slice(1, 2)),), True)
    found = differences(first, second, [rows, columns])
    (tensor,) = found.tensors
    assert (tensor.name, tensor.shape, tensor.values, tensor.not_finite) == ("w", (2, 3), 1, 0)
    assert (tensor.relative, tensor.largest) == (pytest.approx(1 / 5), 1.0)
    assert (tensor.rows, tensor.which) == (1, "1")
    assert tensor.channels == (ChannelDifference("rows", 0, 1, 2, "0"), ChannelDifference("columns", 1, 1, 1, "0"))
    assert found.equal == 1
    assert found.relative == pytest.approx(1 / math.sqrt(27))
    assert not found.same


def test_what_only_one_has_and_what_differs_in_shape_or_type_is_named() -> None:
    first = {
        "a": torch.ones(2),
        "shape": torch.ones(2, 3),
        "type": torch.ones(2),
        "n.num_batches_tracked": torch.tensor(3),
    }
    second = {
        "b": torch.ones(2),
        "shape": torch.ones(6),
        "type": torch.ones(2).half(),
        "n.num_batches_tracked": torch.tensor(9),
    }
    found = differences(first, second)
    assert (found.only_in_first, found.only_in_second) == (("a",), ("b",))
    assert found.shapes == (Sides("shape", "[2, 3]", "[6]"),)
    assert found.dtypes == (Sides("type", "float32", "float16"),)
    assert found.counters == (Sides("n.num_batches_tracked", "3", "9"),)
    assert (found.tensors, found.equal, found.relative) == ((), 1, 0.0)


@pytest.mark.parametrize(
    ("one", "other", "values", "not_finite", "largest"),
    [
        ([NAN, INF, -0.0], [NAN, INF, 0.0], 0, 0, None),
        ([1.0, INF, 2.0], [1.0, -INF, 4.0], 2, 1, 2.0),
        ([1.0, NAN, 2.0], [1.0, 1.0, 2.0], 1, 1, 0.0),
        ([NAN], [1.0], 1, 1, None),
    ],
)
def test_what_is_not_finite_is_counted_and_not_measured(
    one: list[float], other: list[float], values: int, not_finite: int, largest: float | None
) -> None:
    found = differences({"x": torch.tensor(one)}, {"x": torch.tensor(other)})
    assert len(found.tensors) == (values > 0)
    for tensor in found.tensors:
        assert (tensor.values, tensor.not_finite, tensor.largest) == (values, not_finite, largest)
        assert tensor.relative is None or math.isfinite(tensor.relative)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bool,
        torch.uint8,
        torch.int64,
        torch.uint16,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float64,
        torch.complex64,
    ],
)
def test_every_type_is_compared(dtype: torch.dtype) -> None:
    one, other = (torch.tensor(values).to(dtype) for values in ([0, 1, 1], [0, 1, 0]))
    (tensor,) = differences({"x": one}, {"x": other}).tensors
    assert (tensor.which, tensor.largest) == ("2", 1.0)
    assert tensor.relative == pytest.approx(1 / math.sqrt(2))
    assert differences({"x": one}, {"x": one.clone()}).same


def test_numbers_tensors_without_values_and_a_first_of_zeros() -> None:
    first = {"number": torch.tensor(2.0), "empty": torch.ones(0, 3), "zeros": torch.zeros(2)}
    second = {"number": torch.tensor(1.0), "empty": torch.ones(0, 3), "zeros": torch.ones(2)}
    number, zeros = differences(first, second).tensors
    assert (number.shape, number.rows, number.which, number.relative) == ((), 1, "0", 0.5)
    assert (zeros.relative, zeros.largest) == (None, 1.0)


def test_tensors_compared_in_pieces_give_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    first = {"x": torch.randn(7, 3, 2, generator=generator)}
    second = {"x": first["x"].clone()}
    second["x"][5:, 1] += 1
    (whole,) = differences(first, second).tensors
    monkeypatch.setattr(module, "LARGEST_PIECE", 12)
    (pieces,) = differences(first, second).tensors
    assert pieces.which == "5-6"
    assert (pieces.values, pieces.largest) == (whole.values, whole.largest)
    assert pieces.relative == pytest.approx(whole.relative)
