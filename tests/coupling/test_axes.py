"""Index arithmetic of layouts, against values worked out by hand."""

import numpy as np
import pytest

from surgeon.coupling.axes import (
    Block,
    Kind,
    Layout,
    Leg,
    collapse,
    index_along,
    mix_dims,
    preferred,
    reduce,
    rigid_dim,
    uniform_dim,
    with_own_legs,
)
from surgeon.coupling.ledger import Ledger
from surgeon.coupling.views import expand, merge_dim, permute, refine, reshape, take

WHY = "In conv, aten.op fixes the positions."


def free(ledger: Ledger, *sizes: int) -> tuple[tuple[Leg, ...], Block]:
    """Return legs and a block of fresh elements along them."""
    legs = tuple(Leg(size, Kind.FREE) for size in sizes)
    return legs, Block(legs, ledger.fresh(*sizes))


def image(ledger: Ledger, channels: int = 6, height: int = 2, width: int = 3) -> Layout:
    """Return the layout of `[2, C, H, W]`: a batch of images with free channels."""
    legs, block = free(ledger, channels)
    return Layout((rigid_dim(2, "batch"), legs, rigid_dim(height, "rows"), rigid_dim(width, "columns")), (block,))


def sizes(layout: Layout) -> list[list[str]]:
    """Return every dimension's legs as size and first letter of the kind, e.g. `6f`."""
    return [[f"{leg.size}{leg.kind.value[0]}" for leg in dim] for dim in layout.dims]


def facts(ledger: Ledger) -> list[tuple[list[list[int]], list[int] | None]]:
    """Return the facts as plain lists: the columns, and the keys."""
    return [
        ([column.tolist() for column in fact.columns], None if fact.keys is None else fact.keys.tolist())
        for fact in ledger.facts
    ]


@pytest.mark.parametrize(
    ("legs", "best"),
    [
        ([2, 16], 16),  # two heads of 16 channels: the channels within a head
        ([16, 8], 8),  # an inner leg of 8 is not small
        ([16, 4], 16),  # pixel-shuffle factors give way to the channels
        ([2, 4], 4),
        ([4, 4], 4),
        ([3, 64, 2, 2], 64),
    ],
)
def test_preferred_leg(legs: list[int], best: int) -> None:
    candidates = [Leg(size, Kind.FREE) for size in legs]
    chosen = preferred(candidates)
    assert chosen.size == best
    # Of equal legs the inner one.
    assert chosen is max(reversed(candidates), key=lambda leg: leg.size == best)


def test_index_along_counts_row_major() -> None:
    ledger = Ledger()
    (a, b, c), block = free(ledger, 2, 3, 4)
    assert index_along(block, [a]).shape == (2, 1, 1)
    assert index_along(block, [c, a])[:, 0, :].tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert np.broadcast_to(index_along(block, [a, b, c]), (2, 3, 4)).ravel().tolist() == list(range(24))


def test_splitting_a_channel_dimension_into_groups_moves_nothing() -> None:
    ledger = Ledger()
    layout = reshape(image(ledger), [2, 2, 3, 2, 3], ledger, WHY)
    assert sizes(layout) == [["2r"], ["2f"], ["3f"], ["2r"], ["3r"]]
    assert layout.blocks[0].legs == (*layout.dims[1], *layout.dims[2])
    assert layout.blocks[0].labels.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert facts(ledger) == []


def test_a_channel_shuffle_is_a_split_a_transpose_and_a_join() -> None:
    ledger = Ledger()
    layout = reshape(image(ledger), [2, 2, 3, 2, 3], ledger, WHY)
    layout = reshape(permute(layout, [0, 2, 1, 3, 4]), [2, 6, 2, 3], ledger, WHY)
    layout, leg = merge_dim(layout, 1, ledger, WHY)
    block = layout.block_of(leg)
    assert block.labels.tolist() == [0, 3, 1, 4, 2, 5]
    assert facts(ledger) == []


def test_flattening_channels_with_pixels_keeps_them_apart_until_they_have_to_be_one() -> None:
    ledger = Ledger()
    layout = reshape(image(ledger, 2, 1, 3), [2, 6], ledger, WHY)
    assert sizes(layout) == [["2r"], ["2f", "3r"]]
    layout, leg = merge_dim(layout, 1, ledger, WHY)
    assert (leg.size, leg.kind) == (6, Kind.FREE)
    # Copies 2..7 of the channels 0 and 1, one for each pixel, each keyed by its pixel.
    assert layout.blocks[0].labels.tolist() == [2, 3, 4, 5, 6, 7]
    assert facts(ledger) == [
        ([[2, 3, 4, 5, 6, 7], [0, 0, 0, 1, 1, 1]], None),
        ([[2, 3, 4, 5, 6, 7]], [0, 1, 2, 0, 1, 2]),
    ]


def test_reshape_across_factors_that_do_not_nest() -> None:
    ledger = Ledger()
    layout = reshape(image(ledger, 6, 2, 1), [2, 4, 3], ledger, WHY)
    assert sizes(layout) == [["2r"], ["4f"], ["3f"]]
    copies = layout.blocks[0].labels
    assert copies.shape == (4, 3)
    # Position (i, j) is place 3i + j, which is channel (3i + j) // 2.
    united = dict(zip(*facts(ledger)[0][0], strict=True))
    assert [united[e] for e in copies.ravel().tolist()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_cut_merges_with_the_inner_neighbour_where_only_that_fits() -> None:
    # Six channels, each written twice in a row, seen as 4 × 3: the batch in front must stay out of it.
    ledger = Ledger()
    legs, block = free(ledger, 6)
    layout = Layout((rigid_dim(2, "batch"), legs + uniform_dim(2)), (block,))
    layout = reshape(layout, [2, 4, 3], ledger, WHY)
    assert sizes(layout) == [["2r"], ["4f"], ["3f"]]


def test_two_kinds_of_channels_in_one_dimension_freeze_when_they_have_to_be_one() -> None:
    ledger = Ledger()
    (a,), first = free(ledger, 2)
    (b,), second = free(ledger, 3)
    layout, leg = merge_dim(Layout(((a, b),), (first, second)), 0, ledger, WHY)
    assert (leg.size, leg.kind) == (6, Kind.RIGID)
    assert layout.blocks == ()
    assert [(elements.tolist(), why) for elements, why in ledger.frozen] == [([0, 1], WHY), ([2, 3, 4], WHY)]


def test_reshape_of_ones_and_uniform_dimensions() -> None:
    ledger = Ledger()
    layout = expand(Layout(((), uniform_dim(2), rigid_dim(3, "rows"))), [4, 2, 3])
    assert sizes(reshape(layout, [8, 1, 3, 1], ledger, WHY)) == [["4u", "2u"], [], ["3r"], []]
    _, leg = merge_dim(reshape(layout, [8, 3], ledger, WHY), 0, ledger, WHY)
    assert (leg.size, leg.kind) == (8, Kind.UNIFORM)


def test_refine_gives_both_the_same_legs() -> None:
    ledger = Ledger()
    first = Layout(((Leg(2, Kind.RIGID), Leg(6, Kind.RIGID)),))
    second = Layout(((Leg(4, Kind.RIGID), Leg(3, Kind.RIGID)),))
    first, second = refine(first, second, 0, ledger, WHY)
    assert sizes(first) == sizes(second) == [["2r", "2r", "3r"]]
    first = Layout(((Leg(2, Kind.RIGID), Leg(3, Kind.RIGID)),))
    second = Layout(((Leg(3, Kind.RIGID), Leg(2, Kind.RIGID)),))
    first, second = refine(first, second, 0, ledger, WHY)
    assert sizes(first) == sizes(second) == [["6r"]]


def test_take_cuts_a_set_of_channels_out() -> None:
    ledger = Ledger()
    layout = take(image(ledger), 1, 1, 6, 2, ledger, WHY)
    assert layout.blocks[0].labels.tolist() == [1, 3, 5]
    assert facts(ledger) == [([[1, 3, 5]], None)]
    assert take(layout, 1, 0, 3, 1, ledger, WHY) is layout


def test_take_of_one_channel_leaves_none_free() -> None:
    ledger = Ledger()
    layout = take(image(ledger), 1, 4, 5, 1, ledger, WHY)
    assert (sizes(layout)[1], layout.blocks) == ([], ())
    # The channel is told apart from the others all the same.
    assert facts(ledger) == [([[4]], None)]


def test_take_of_whole_groups_cuts_the_outer_leg_only() -> None:
    ledger = Ledger()
    grid = reshape(image(ledger, 12), [2, 4, 3, 2, 3], ledger, WHY)
    joined = reshape(grid, [2, 12, 2, 3], ledger, WHY)
    cut = take(joined, 1, 3, 9, 1, ledger, WHY)
    assert sizes(cut)[1] == ["2f", "3f"]
    assert cut.blocks[0].labels.tolist() == [[3, 4, 5], [6, 7, 8]]
    unaligned = take(joined, 1, 1, 3, 1, ledger, WHY)
    assert sizes(unaligned)[1] == ["2f"]
    assert unaligned.blocks[0].labels.tolist() == [1, 2]


def test_collapse_makes_one_channel_of_what_lies_along_a_leg() -> None:
    ledger = Ledger()
    (a, b), block = free(ledger, 2, 3)
    result = collapse(block, [a], ledger)
    assert (result.legs, result.labels.tolist()) == ((b,), [0, 1, 2])
    assert facts(ledger) == [
        ([[3, 4, 5], [0, 1, 2]], None),
        ([[0, 3, 1, 4, 2, 5]], [0, 1, 0, 1, 0, 1]),
    ]


def test_a_sum_over_all_channels_does_not_ask_for_their_order() -> None:
    ledger = Ledger()
    layout = reduce(image(ledger), [1], ledger, WHY)
    assert (sizes(layout), layout.blocks) == ([["2r"], [], ["2r"], ["3r"]], ())
    assert facts(ledger) == []
    assert ledger.frozen == []


def test_a_sum_over_branches_ties_their_channels_together() -> None:
    ledger = Ledger()
    branches = reshape(image(ledger, 6), [2, 2, 3, 2, 3], ledger, WHY)
    layout = reduce(branches, [1], ledger, WHY)
    assert sizes(layout) == [["2r"], [], ["3f"], ["2r"], ["3r"]]
    assert layout.blocks[0].labels.tolist() == [0, 1, 2]
    assert facts(ledger)[0] == ([[3, 4, 5], [0, 1, 2]], None)


def test_a_sum_over_the_channels_of_a_head_leaves_the_heads_in_their_places() -> None:
    ledger = Ledger()
    heads = reshape(image(ledger, 20), [2, 2, 10, 2, 3], ledger, WHY)
    layout = reduce(heads, [2], ledger, WHY)
    assert (sizes(layout)[1], layout.blocks) == (["2r"], ())
    assert facts(ledger) == [([list(range(20))], [0] * 10 + [1] * 10)]


def test_mixing_pixels_leaves_channels_alone_and_freezes_what_stands_along_them() -> None:
    ledger = Ledger()
    layout = image(ledger)
    assert mix_dims(layout, [2, 3], ledger, WHY, "pixels").blocks == layout.blocks
    mixed = mix_dims(layout, [1], ledger, WHY, "steps")
    assert mixed.blocks == ()
    assert (mixed.dims[1][0].kind, mixed.dims[1][0].meaning) == (Kind.RIGID, "steps")
    assert [(elements.tolist(), why) for elements, why in ledger.frozen] == [([0, 1, 2, 3, 4, 5], WHY)]


def test_mixing_the_pixels_of_a_pixel_shuffle_ties_its_factors_to_the_channels() -> None:
    ledger = Ledger()
    layout = permute(reshape(image(ledger, 6, 1, 1), [2, 3, 2, 1, 1], ledger, WHY), [0, 1, 3, 2, 4])
    layout = reshape(layout, [2, 3, 2, 1], ledger, WHY)
    mixed = mix_dims(layout, [2, 3], ledger, WHY, "pixels")
    assert sizes(mixed) == [["2r"], ["3f"], ["2r"], []]
    assert mixed.blocks[0].labels.tolist() == [0, 2, 4]
    assert facts(ledger)[0] == ([[1, 3, 5], [0, 2, 4]], None)


def test_expand_repeats_the_same_values() -> None:
    ledger = Ledger()
    legs, block = free(ledger, 4)
    layout = expand(Layout((legs, ()), (block,)), [5, 4, 3])
    assert sizes(layout) == [["5u"], ["4f"], ["3u"]]
    assert layout.blocks == (block,)


def test_own_legs_are_the_same_layout_with_other_legs() -> None:
    ledger = Ledger()
    layout = image(ledger)
    other = with_own_legs(layout)
    assert sizes(other) == sizes(layout)
    assert not {leg for dim in other.dims for leg in dim} & {leg for dim in layout.dims for leg in dim}
    assert other.blocks[0].legs == other.dims[1]
    assert other.blocks[0].labels is layout.blocks[0].labels
