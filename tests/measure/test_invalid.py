import pytest
import torch

from surgeon.measure.invalid import PIECE, invalid_filters, invalid_kernels, kernel_norms, lowest, mean_magnitudes


def layer(*magnitudes: float, kernels: int = 1, size: int = 1) -> torch.Tensor:
    """Return a weight whose filters hold one magnitude each, with alternating signs."""
    weight = torch.tensor(magnitudes).reshape(-1, 1, 1, 1).repeat(1, kernels, size, size)
    weight[:, :, ::2] *= -1
    return weight


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    # 0.29 · 100 is 28.999999999999996 in binary numbers; a share that rounds down to nothing gives nothing.
    [(0.29, 100, 29), (0.3, 10, 3), (0.1, 19, 1), (0.1, 9, 0), (1e-5, 100, 0), (0, 7, 0), (1, 7, 7)],
)
def test_a_share_is_rounded_down_as_a_decimal_number(share: float, count: int, expected: int) -> None:
    assert lowest(torch.arange(count), share).tolist() == list(range(expected))


def test_the_lowest_come_first_and_the_earlier_of_equal_ones() -> None:
    values = torch.tensor([[3.0, 1, 2, 1, 1], [5.0, 5, 5, 5, 5]])
    assert lowest(values, 0.6).tolist() == [[1, 3, 4], [0, 1, 2]]


def test_mean_magnitudes_by_hand() -> None:
    weight = torch.tensor([[[[3.0, -4.0]], [[0.0, 1.0]]], [[[1.0, 1.0]], [[1.0, -5.0]]]])
    assert mean_magnitudes(weight).tolist() == [2, 2]
    assert mean_magnitudes(weight, dim=1).tolist() == [9 / 4, 7 / 4]


def test_norms_of_kernels_by_hand() -> None:
    weight = torch.tensor([[[[3.0, -4.0]], [[0.0, 1.0]]], [[[1.0, 1.0]], [[1.0, -5.0]]]])
    assert kernel_norms(weight).tolist() == [[7, 1], [2, 6]]
    assert kernel_norms(weight, filters=1).tolist() == [[7, 2], [1, 6]]
    assert kernel_norms(weight, chosen=torch.tensor([1])).tolist() == [[2, 6]]
    assert kernel_norms(weight, filters=1, chosen=torch.tensor([1, 0])).tolist() == [[1, 6], [7, 2]]


def test_an_invalid_filter_is_weak_in_the_network_and_in_its_layer() -> None:
    # Ten filters, alpha = 0.5: the five weakest of all are a0 … a3 (0.1 … 0.4) and b2 (0.5).
    # beta = 0.5: the three weakest of a's six are a0, a1, a2; the two weakest of b's four are b2 (0.5) and b3 (0.8).
    weights = {"a": layer(0.1, 0.2, 0.3, 0.4, 0.9, 1.0), "b": layer(2.0, 3.0, 0.5, 0.8)}
    invalid = invalid_filters(weights, {"a": 0, "b": 0}, alpha=0.5, beta=0.5)
    assert invalid["a"].tolist() == [True, True, True, False, False, False]
    assert invalid["b"].tolist() == [False, False, True, False]


def test_layers_are_compared_by_the_mean_and_not_by_the_sum() -> None:
    # Sums: 9 · 0.1 = 0.9 for the wide filters against 0.5; means: 0.1 against 0.5.
    weights = {"narrow": layer(0.5, 0.5), "wide": layer(0.1, 0.1, size=3)}
    invalid = invalid_filters(weights, {"narrow": 0, "wide": 0}, alpha=0.5, beta=0.5)
    assert invalid["narrow"].tolist() == [False, False]
    assert invalid["wide"].tolist() == [True, False]


def test_of_equal_filters_the_earlier_layer_and_place_is_weaker() -> None:
    weights = {"first": layer(1.0, 1.0, 1.0, 1.0), "second": layer(1.0, 1.0, 1.0, 1.0)}
    invalid = invalid_filters(weights, {"first": 0, "second": 0}, alpha=0.7, beta=0.5)
    # Five of eight: all of the first layer and one of the second.
    assert invalid["first"].tolist() == [True, True, False, False]
    assert invalid["second"].tolist() == [True, False, False, False]


def test_filters_of_a_transposed_convolution_lie_along_the_second_axis() -> None:
    weight = layer(0.3, 0.1, 0.2, 0.4, kernels=5, size=3).transpose(0, 1)
    assert weight.shape == (5, 4, 3, 3)
    assert invalid_filters({"up": weight}, {"up": 1}, 0.5, 0.5)["up"].tolist() == [False, True, True, False]


def test_without_layers_there_are_no_invalid_filters() -> None:
    assert invalid_filters({}, {}, 0.2, 0.3) == {}


def test_tiny_differences_of_half_precision_weights_are_ranked_in_full_precision() -> None:
    # Means 2049/2048 and 1 of 2048 weights: in half precision both sums would be 2048.
    weight = torch.ones(2, 2048, 1, 1, dtype=torch.float16)
    weight[0, 0] = 2
    assert invalid_filters({"a": weight}, {"a": 0}, 0.5, 0.5)["a"].tolist() == [False, True]


def weight_of_norms(norms: list[list[float]], *size: int) -> torch.Tensor:
    """Return a weight whose kernels have these L1 norms, all in their first entry."""
    flat = torch.zeros(len(norms), len(norms[0]), torch.Size(size).numel())
    flat[:, :, 0] = -torch.tensor(norms)
    return flat.reshape(len(norms), len(norms[0]), *size)


NORMS = [[5.0, 1, 4, 2, 3], [1.0, 1, 1, 1, 1], [9.0, 8, 0, 6, 7]]


@pytest.mark.parametrize("size", [(3,), (1, 2), (3, 3), (2, 2, 2)])
def test_the_weakest_kernels_of_invalid_filters(size: tuple[int, ...]) -> None:
    # floor(0.5 · 5) = 2 kernels: numbers 1 and 3 of filter 0, numbers 2 and 3 of filter 2; filter 1 is valid.
    invalid = torch.tensor([True, False, True])
    kernels, norms = invalid_kernels(weight_of_norms(NORMS, *size), 0, invalid, 0.5)
    assert kernels.tolist() == [[1, 3], [2, 3]]
    assert norms.tolist() == [NORMS[0], NORMS[2]]


def test_kernels_of_a_transposed_convolution_are_counted_along_the_first_axis() -> None:
    weight = weight_of_norms(NORMS, 2, 2).transpose(0, 1)
    invalid = torch.tensor([False, False, True])
    kernels, norms = invalid_kernels(weight, 1, invalid, 0.6)
    assert kernels.tolist() == [[2, 3, 4]]
    assert norms.tolist() == [NORMS[2]]


def test_kernels_of_one_weight_are_never_invalid() -> None:
    invalid = torch.tensor([True, True, True])
    assert invalid_kernels(weight_of_norms(NORMS, 1, 1), 0, invalid, 0.5)[0].shape == (3, 0)
    assert invalid_kernels(torch.tensor(NORMS), 0, invalid, 0.5)[0].shape == (3, 0)


@pytest.mark.parametrize(
    ("invalid", "gamma"), [([False, False, False], 0.5), ([True, True, True], 0.1), ([True, True, True], 0)]
)
def test_no_invalid_filter_or_too_small_a_share_gives_no_kernel(invalid: list[bool], gamma: float) -> None:
    kernels, _ = invalid_kernels(weight_of_norms(NORMS, 3, 3), 0, torch.tensor(invalid), gamma)
    assert kernels.numel() == 0
    assert kernels.dtype == torch.int64


def test_filters_of_more_weights_than_are_added_up_at_a_time() -> None:
    weight = torch.randn(5, PIECE // 16, 3, 3, generator=torch.Generator().manual_seed(0))
    assert kernel_norms(weight).equal(weight.flatten(2).double().abs().sum(2))
    assert torch.allclose(mean_magnitudes(weight), weight.double().abs().mean((1, 2, 3)), rtol=1e-12)
    many = torch.randn(PIECE // 16, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    assert kernel_norms(many).equal(many.flatten(2).double().abs().sum(2))
    some = torch.arange(0, len(many), 3)
    assert kernel_norms(many, chosen=some).equal(many[some].flatten(2).double().abs().sum(2))
