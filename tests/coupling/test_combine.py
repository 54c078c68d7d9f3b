"""What happens where tensors meet, against values worked out by hand."""

import numpy as np
import pytest

from surgeon.coupling.axes import Block, Kind, Layout, Leg, rigid_dim, uniform_dim
from surgeon.coupling.combine import combine, contract
from surgeon.coupling.concatenate import concatenate
from surgeon.coupling.ledger import Ledger
from surgeon.coupling.solve import Solution, solve
from surgeon.coupling.views import reshape

WHY = "In add, aten.add fixes the positions{detail}."


class Scene:
    """A ledger, and layouts made of letters: `c8` a free axis, `r8` a rigid one, `u8` a uniform one, `1` nothing."""

    def __init__(self) -> None:
        self.ledger = Ledger()

    def layout(self, *dims: str) -> Layout:
        blocks, made = [], []
        for dim in dims:
            size = int(dim[1:] or 1)
            if dim[0] == "c":
                leg = Leg(size, Kind.FREE)
                elements = self.ledger.fresh(size)
                self.ledger.separate(elements)
                blocks.append(Block((leg,), elements))
                made.append((leg,))
            else:
                made.append({"r": rigid_dim(size, "rows"), "u": uniform_dim(size)}.get(dim[0], ()))
        return Layout(tuple(made), tuple(blocks))

    def solve(self) -> Solution:
        return solve(self.ledger)

    def groups(self) -> set[frozenset[frozenset[int]]]:
        """Return the groups, each a set of channels, each a set of elements."""
        solution = self.solve()
        result: dict[int, set[frozenset[int]]] = {}
        for channel, group in enumerate(solution.group.tolist()):
            if group >= 0:
                members = frozenset(np.flatnonzero(solution.channel == channel).tolist())
                result.setdefault(group, set()).add(members)
        return {frozenset(channels) for channels in result.values()}

    def frozen(self) -> dict[int, str]:
        """Return the reason of every frozen element."""
        return {element: why for elements, why in self.ledger.frozen for element in elements.tolist()}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def channels(*columns: range) -> frozenset[frozenset[int]]:
    """Return channels whose elements stand at the same place of the ranges."""
    return frozenset(frozenset(row) for row in zip(*columns, strict=True))


def kinds(layout: Layout) -> list[list[str]]:
    return [[f"{leg.size}{leg.kind.value[0]}" for leg in dim] for dim in layout.dims]


def test_equal_dimensions_unite_place_by_place(scene: Scene) -> None:
    result = combine(scene.layout("r2", "c4", "r3"), scene.layout("r2", "c4", "r3"), scene.ledger, WHY)
    assert kinds(result) == [["2r"], ["4f"], ["3r"]]
    assert scene.groups() == {channels(range(4), range(4, 8))}


def test_broadcast_dimensions_keep_what_the_other_has(scene: Scene) -> None:
    result = combine(scene.layout("c4", "1"), scene.layout("u4", "c3"), scene.ledger, WHY)
    assert kinds(result) == [["4f"], ["3f"]]
    assert scene.groups() == {channels(range(4)), channels(range(4, 7))}


def test_dimensions_are_aligned_from_the_right(scene: Scene) -> None:
    result = combine(scene.layout("r2", "r5", "c4"), scene.layout("c4"), scene.ledger, WHY)
    assert kinds(result) == [["2r"], ["5r"], ["4f"]]
    assert scene.groups() == {channels(range(4), range(4, 8))}


def test_channels_that_meet_fixed_positions_freeze_for_that_reason(scene: Scene) -> None:
    result = combine(scene.layout("c4"), scene.layout("r4"), scene.ledger, WHY)
    assert (kinds(result), result.blocks) == ([["4r"]], ())
    assert scene.frozen() == dict.fromkeys(range(4), "In add, aten.add fixes the positions: they meet rows.")
    assert scene.groups() == set()


def test_a_grid_of_channels_meets_one_of_its_sides(scene: Scene) -> None:
    # Ten heads of 2: the inner side is small, so that the heads are the channels and the side ties them.
    grid = reshape(scene.layout("c20"), [10, 2], scene.ledger, "")
    result = combine(grid, scene.layout("c10", "1"), scene.ledger, WHY)
    assert kinds(result) == [["10f"], ["2r"]]
    assert scene.groups() == {channels(range(0, 20, 2), range(1, 20, 2), range(20, 30))}


def test_a_grid_of_channels_keeps_those_that_the_other_does_not_see(scene: Scene) -> None:
    # Two heads of 10: a number for each head fixes the heads, and the channels within each stay free.
    grid = reshape(scene.layout("c20"), [2, 10], scene.ledger, "")
    result = combine(grid, scene.layout("c2", "1"), scene.ledger, WHY)
    assert kinds(result) == [["2r"], ["10f"]]
    assert scene.groups() == {channels(range(10)), channels(range(10, 20))}
    assert set(scene.frozen()) == {20, 21}


def test_two_grids_that_share_a_side_fix_it_and_keep_their_own(scene: Scene) -> None:
    # Keys [heads, channels, ·] times values [heads, ·, channels].
    keys = reshape(scene.layout("c6"), [2, 3, 1], scene.ledger, "")
    values = reshape(scene.layout("c8"), [2, 1, 4], scene.ledger, "")
    result = combine(keys, values, scene.ledger, WHY)
    assert kinds(result) == [["2r"], ["3f"], ["4f"]]
    assert scene.groups() == {
        channels(range(3)),
        channels(range(3, 6)),
        channels(range(6, 10)),
        channels(range(10, 14)),
    }


def test_a_grid_that_meets_two_other_axes_freezes_with_both(scene: Scene) -> None:
    # Weight columns of a layer that reads the flattened product of two sets of channels.
    weight = reshape(scene.layout("c6"), [2, 3], scene.ledger, "")
    product = scene.layout("c2", "c3")
    for first, second in ((weight, product), (product, weight)):
        combine(first, second, scene.ledger, WHY)
    assert scene.groups() == set()
    assert set(scene.frozen()) == set(range(11))


def test_a_tensor_and_its_transpose_unite_crosswise(scene: Scene) -> None:
    layout = scene.layout("c4", "1")
    swapped = Layout(layout.dims[::-1], layout.blocks)
    result = combine(layout, swapped, scene.ledger, WHY)
    assert kinds(result) == [["4f"], ["4f"]]
    assert [block.legs for block in result.blocks] == [result.dims[0], result.dims[1]]
    assert scene.groups() == {channels(range(4))}


def test_the_larger_operand_stands_for_both(scene: Scene) -> None:
    gain, weight = scene.layout("c4", "1"), scene.layout("c4", "c3")
    for first, second in ((gain, weight), (weight, gain)):
        result = combine(first, second, scene.ledger, WHY)
        assert sorted(block.labels.tolist() for block in result.blocks) == [[4, 5, 6, 7], [8, 9, 10]]


def test_concatenation_puts_channels_side_by_side(scene: Scene) -> None:
    parts = [scene.layout("r2", "c3"), scene.layout("r2", "c2")]
    result = concatenate(parts, 1, scene.ledger, WHY, WHY)
    assert kinds(result) == [["2r"], ["5f"]]
    assert result.blocks[0].labels.tolist() == [0, 1, 2, 3, 4]
    assert scene.groups() == {channels(range(3)), channels(range(3, 5))}


def test_concatenation_along_another_dimension_unites(scene: Scene) -> None:
    result = concatenate([scene.layout("r2", "c3"), scene.layout("r5", "c3")], 0, scene.ledger, WHY, WHY)
    assert kinds(result) == [["7r"], ["3f"]]
    assert scene.groups() == {channels(range(3), range(3, 6))}


def test_a_tensor_joined_to_itself_holds_each_channel_twice(scene: Scene) -> None:
    layout = scene.layout("r2", "c3")
    result = concatenate([layout, layout], 1, scene.ledger, WHY, WHY)
    # The second turn gets elements of its own, tied to the first.
    assert result.blocks[0].labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert scene.groups() == {channels(range(3), range(3, 6))}


def test_joined_constants_are_channels_and_joined_pixels_are_not(scene: Scene) -> None:
    parts = [scene.layout("c2"), scene.layout("u3"), scene.layout("r2")]
    result = concatenate(parts, 0, scene.ledger, WHY, WHY)
    assert result.blocks[0].labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert scene.groups() == {channels(range(2)), channels(range(2, 5))}
    assert scene.frozen() == dict.fromkeys([5, 6], "In add, aten.add fixes the positions: they meet rows.")


def test_padding_on_both_sides_is_one_set_and_other_constants_are_sets_of_their_own(scene: Scene) -> None:
    pads = [Layout(((Leg(2, Kind.UNIFORM, "the padding"),),)) for _ in range(2)]
    concatenate([pads[0], scene.layout("c3"), pads[1]], 0, scene.ledger, WHY, WHY)
    concatenate([scene.layout("u2"), scene.layout("u3")], 0, scene.ledger, WHY, WHY)
    concatenate([scene.layout("u2"), scene.layout("c2"), scene.layout("u2")], 0, scene.ledger, WHY, WHY)
    sizes = sorted(len(group) for group in scene.groups())
    assert sizes == [2, 2, 2, 3, 4]


def test_stacking_interleaves_or_unites_as_the_next_reshape_asks(scene: Scene) -> None:
    first, second = (scene.layout("c3", "1") for _ in range(2))
    stacked = concatenate([first, second], 1, scene.ledger, WHY, WHY)
    assert kinds(stacked) == [["3f"], ["2f"]]
    assert reshape(stacked, [6], scene.ledger, "").blocks[0].labels.T.ravel().tolist() in (
        [0, 3, 1, 4, 2, 5],
        [0, 1, 2, 3, 4, 5],
    )
    assert scene.groups() == {channels(range(3)), channels(range(3, 6))}


def test_a_linear_layer_reads_one_axis_and_writes_another(scene: Scene) -> None:
    tokens, weight = scene.layout("r2", "r5", "c4"), scene.layout("c3", "c4")
    operands = [(tokens, ["b", "t", "i"]), (weight, ["o", "i"])]
    result = contract(operands, ["b", "t", "o"], scene.ledger, WHY)
    assert kinds(result) == [["2r"], ["5r"], ["3f"]]
    assert result.blocks[0].labels.tolist() == [4, 5, 6]
    assert scene.groups() == {channels(range(4), range(7, 11)), channels(range(4, 7))}


def test_scores_of_attention_tie_queries_to_keys_within_each_head(scene: Scene) -> None:
    queries, keys = (reshape(scene.layout("r5", "c20"), [5, 2, 10], scene.ledger, "") for _ in range(2))
    scores = contract([(queries, ["q", "h", "c"]), (keys, ["k", "h", "c"])], ["h", "q", "k"], scene.ledger, WHY)
    assert (kinds(scores), scores.blocks) == ([["2r"], ["5r"], ["5r"]], ())
    assert scene.groups() == {
        channels(range(10), range(20, 30)),
        channels(range(10, 20), range(30, 40)),
    }
