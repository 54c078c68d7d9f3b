"""Give a network the structure that another one of its architecture remembers."""

from torch import Tensor, nn

from surgeon.structure.cross_attention import attend
from surgeon.structure.sizes import Fill, Shape, set_sizes
from surgeon.structure.structure import Structure, remember, structure_of


def empty(name: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Return a tensor of any values with the dtype and device of another one, without memory where that has none."""
    return tensor.new_empty(shape)


def rebuild(model: nn.Module, structure: Structure, fill: Fill = empty) -> None:
    """Give a network a structure, in place; its parameters stay the same objects, and it remembers the structure.

    Args:
        model: as its architecture's builder makes it, or of a structure that this one replaces layer by layer.
        structure: sizes and sets that fit the network's layers.
        fill: makes the tensors of other shapes, which it is asked for by their names in the network's state.
    """
    before = structure_of(model)
    assert before.widths.keys() <= structure.widths.keys()
    assert before.attention.keys() <= structure.attention.keys()
    for name, sizes in structure.widths.items():
        # Bound at once: the loop's variable is another one's by the time of a later call.
        def named(own: str, tensor: Tensor, shape: Shape, layer: str = name) -> Tensor:
            return fill(f"{layer}.{own}" if layer else own, tensor, shape)

        set_sizes(model.get_submodule(name), sizes, named)
    for name, sets in structure.attention.items():
        attend(model, name, sets)
    remember(model, structure)
