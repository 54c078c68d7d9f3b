import math

import numpy as np
import pytest
import torch
from torch import Tensor

from surgeon.errors import DataError, OptionError
from surgeon.methods.self_organizing_map import SelfOrganizingMap, self_organizing_map


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_map(samples: np.ndarray, weights: np.ndarray, sigmas: tuple[float, ...]) -> np.ndarray:
    """Equations 5, 7 and 8 as they stand, one sample and one node at a time, in float64."""
    samples, weights = samples.astype(np.float64), weights.astype(np.float64)
    for sigma in sigmas:
        numerator, denominator = np.zeros_like(weights), np.zeros(len(weights))
        for sample in samples:
            distances = [float(((sample - node) ** 2).sum()) for node in weights]
            # Nodes beyond the last occupied one have equal weights: the tie is the lowest's, whatever the rounding.
            best = next(node for node, near in enumerate(distances) if near <= min(distances) * (1 + 1e-9))
            for node in range(len(weights)):
                share = math.exp(-abs(best - node) / sigma)
                numerator[node] += share * sample
                denominator[node] += share
        weights = numerator / denominator[:, None]
    return weights


def naive_errors(samples: np.ndarray, weights: np.ndarray) -> tuple[list[int], float, float]:
    distances = np.linalg.norm(samples[:, None].astype(np.float64) - weights[None].astype(np.float64), axis=2)
    order = np.argsort(distances, axis=1, kind="stable")
    apart = np.abs(order[:, 0] - order[:, 1]) != 1
    return order[:, 0].tolist(), float(distances.min(axis=1).mean()), float(apart.mean())


def clustered(samples: int, size: int, seed: int = 0) -> Tensor:
    centres = torch.randn(6, size, generator=generator(seed)) * 3
    which = torch.randint(6, (samples,), generator=generator(seed + 1))
    return centres[which] + torch.randn(samples, size, generator=generator(seed + 2)) + 5


def test_three_samples_and_two_nodes_by_hand() -> None:
    # One epoch at sigma = 0.4, so h(1) = exp(-2.5). From weights 0 and 10 the samples 0 and 2 go to node 0 and 9 to
    # node 1: node 0 becomes (0 + 2 + 9 h) / (2 + h), node 1 becomes (9 + (0 + 2) h) / (1 + 2 h).
    h = math.exp(-2.5)
    result = self_organizing_map(
        torch.tensor([[0.0], [2.0], [9.0]]),
        2,
        generator=generator(),
        init=torch.tensor([[0.0], [10.0]]),
        epochs=1,
        final_sigma=0.4,
    )
    first, second = (2 + 9 * h) / (2 + h), (9 + 2 * h) / (1 + 2 * h)
    assert result.weights.flatten().tolist() == pytest.approx([first, second], rel=1e-6)
    assert result.units.tolist() == [0, 0, 1]
    assert result.quantization_error == pytest.approx((first + (2 - first) + (9 - second)) / 3, rel=1e-6)
    assert result.topographic_error == 0


def test_sigma_falls_geometrically_from_half_the_chain_to_below_half_a_node() -> None:
    result = self_organizing_map(clustered(50, 3), 32, generator=generator(), epochs=3, final_sigma=0.25)
    assert result.sigmas == pytest.approx((16, 2, 0.25))
    assert self_organizing_map(clustered(50, 3), 64, generator=generator()).sigmas[-1] < 0.5


@pytest.mark.parametrize(("samples", "nodes", "size"), [(40, 7, 3), (25, 12, 1), (60, 2, 16), (9, 20, 4)])
def test_agrees_with_the_equations_term_by_term(samples: int, nodes: int, size: int) -> None:
    data = clustered(samples, size)
    start = torch.randn(nodes, size, generator=generator(7)) + 5
    result = self_organizing_map(data, nodes, generator=generator(), init=start, epochs=12)
    expected = naive_map(data.numpy(), start.numpy(), result.sigmas)
    np.testing.assert_allclose(result.weights.numpy(), expected, rtol=1e-5)


def test_errors_agree_with_a_full_table_of_distances() -> None:
    data = clustered(300, 5)
    result = self_organizing_map(data, 17, generator=generator())
    units, quantization_error, topographic_error = naive_errors(data.numpy(), result.weights.numpy())
    assert result.units.tolist() == units
    assert result.quantization_error == pytest.approx(quantization_error, rel=1e-5)
    assert result.topographic_error == pytest.approx(topographic_error)
    assert 0 < topographic_error < 1


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clustered(500, 4)
    whole = self_organizing_map(data, 8, generator=generator())
    monkeypatch.setattr("surgeon.methods.self_organizing_map._CPU_CHUNK", 12 * 7)
    pieces = self_organizing_map(data, 8, generator=generator())
    assert pieces.units.tolist() == whole.units.tolist()
    torch.testing.assert_close(pieces.weights, whole.weights)
    assert pieces.quantization_error == pytest.approx(whole.quantization_error)
    assert pieces.topographic_error == whole.topographic_error


def test_a_large_offset_costs_no_precision() -> None:
    # The spread is a thousandth of the offset: squares of uncentred float32 samples would drown it.
    data = (torch.randn(200, 4, generator=generator()) * 64).round() / 64
    plain = self_organizing_map(data, 9, generator=generator())
    shifted = self_organizing_map(data + 1024, 9, generator=generator())
    assert shifted.units.tolist() == plain.units.tolist()
    assert shifted.quantization_error == pytest.approx(plain.quantization_error, rel=1e-4)


def test_float64_samples_are_computed_in_float64() -> None:
    data = clustered(40, 3).double()
    start = torch.randn(5, 3, generator=generator(7), dtype=torch.float64) + 5
    result = self_organizing_map(data, 5, generator=generator(), init=start, epochs=8)
    assert result.weights.dtype == torch.float64
    np.testing.assert_allclose(result.weights.numpy(), naive_map(data.numpy(), start.numpy(), result.sigmas), 1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_is_unrolled_in_order(seed: int) -> None:
    # Samples along a half circle, in random order: the chain has to follow it from one end to the other.
    angle = torch.rand(400, generator=generator(seed)) * math.pi
    data = torch.stack([angle.cos(), angle.sin()], 1)
    result = self_organizing_map(data, 20, generator=generator())
    units = result.units[angle.argsort()]
    steps = units.diff()
    assert bool((steps <= 0).all()) or bool((steps >= 0).all())
    assert result.topographic_error == 0
    assert sorted(set(units.tolist())) == list(range(20))


def test_the_principal_axis_does_not_depend_on_the_seed() -> None:
    data = torch.randn(300, 6, generator=generator()) * torch.tensor([9.0, 1, 1, 1, 1, 1])
    one, other = (self_organizing_map(data, 10, generator=generator(seed)) for seed in (0, 1))
    assert one.units.tolist() == other.units.tolist()
    # The chain runs along the axis of the largest spread, towards its positive end.
    assert bool((one.weights[:, 0].diff() > 0).all())


@pytest.mark.parametrize("init", ["pca", "random"])
def test_the_same_seed_gives_the_same_bytes(init: str) -> None:
    data = clustered(200, 3)
    one, again = (self_organizing_map(data, 16, generator=generator(3), init=init) for _ in range(2))
    assert torch.equal(one.weights, again.weights)
    assert torch.equal(one.units, again.units)


def test_the_random_start_depends_on_the_seed() -> None:
    one, other = (
        self_organizing_map(clustered(200, 3), 16, generator=generator(seed), init="random", epochs=1)
        for seed in (0, 1)
    )
    assert not torch.equal(one.weights, other.weights)


def test_one_node_is_the_mean_of_the_samples() -> None:
    data = clustered(50, 3)
    result = self_organizing_map(data, 1, generator=generator())
    torch.testing.assert_close(result.weights[0], data.mean(0))
    assert result.units.tolist() == [0] * 50
    assert result.topographic_error == 0


@pytest.mark.parametrize("init", ["pca", "random"])
def test_more_nodes_than_samples_leaves_nodes_empty_and_finite(init: str) -> None:
    data = torch.tensor([[0.0, 0.0], [4.0, 0.0], [9.0, 3.0]])
    result = self_organizing_map(data, 300, generator=generator(), init=init, final_sigma=0.2)
    assert bool(result.weights.isfinite().all())
    assert len(set(result.units.tolist())) == 3
    assert result.quantization_error < 0.1
    assert bool((result.weights.amin(0) >= -1e-5).all())
    assert bool((result.weights.amax(0) <= data.amax(0) + 1e-5).all())


def test_a_node_out_of_reach_keeps_its_weights() -> None:
    # At sigma = 0.001 a neighbour's share, exp(-1000), is zero in float64.
    start = torch.tensor([[0.0], [50.0], [10.0]])
    result = self_organizing_map(
        torch.tensor([[1.0], [9.0]]), 3, generator=generator(), init=start, epochs=1, final_sigma=0.001
    )
    assert result.weights.flatten().tolist() == pytest.approx([1, 50, 9])


@pytest.mark.parametrize("init", ["pca", "random"])
def test_equal_samples_all_go_to_the_first_node(init: str) -> None:
    result = self_organizing_map(torch.full((30, 4), 2.5), 6, generator=generator(), init=init)
    assert result.units.tolist() == [0] * 30
    assert result.weights.flatten().tolist() == [2.5] * 24
    assert (result.quantization_error, result.topographic_error) == (0, 0)


def test_a_distance_that_two_nodes_share_goes_to_the_lower_one() -> None:
    result = self_organizing_map(
        torch.tensor([[0.0], [-8.0], [8.0]]),
        2,
        generator=generator(),
        init=torch.tensor([[-4.0], [4.0]]),
        epochs=1,
        final_sigma=0.001,
    )
    assert result.weights.flatten().tolist() == [-4, 8]


def test_samples_with_a_gradient_leave_no_graph() -> None:
    result = self_organizing_map(clustered(20, 2).requires_grad_(), 4, generator=generator())
    assert isinstance(result, SelfOrganizingMap)
    assert not result.weights.requires_grad


@pytest.mark.parametrize(
    ("samples", "options", "named"),
    [
        (torch.empty(0, 4), {}, r"\[0, 4\]"),
        (torch.empty(4, 0), {}, r"\[4, 0\]"),
        (torch.ones(4, 2, 2), {}, r"\[4, 2, 2\]"),
        (torch.ones(4, 2, dtype=torch.int64), {}, "int64"),
        (torch.ones(4, 2), {"nodes": 0}, "0 nodes"),
        (torch.ones(4, 2), {"epochs": 0}, "0 epochs"),
        (torch.ones(4, 2), {"final_sigma": 0.5}, "0.5"),
        (torch.ones(4, 2), {"final_sigma": 0.0}, "0.0"),
        (torch.ones(4, 2), {"init": "spiral"}, "spiral"),
        (torch.ones(4, 2), {"init": torch.ones(3, 3)}, r"\[3, 3\]"),
    ],
)
def test_options_out_of_range_are_refused(samples: Tensor, options: dict, named: str) -> None:
    with pytest.raises(OptionError, match=named):
        self_organizing_map(samples, **{"nodes": 3, "generator": generator(), **options})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    data = clustered(30, 3)
    data[17, 1] = value
    with pytest.raises(DataError, match="not finite"):
        self_organizing_map(data, 4, generator=generator())
