"""Give a network the structure that another one of its architecture remembers."""

from collections.abc import Mapping

from torch import Tensor, nn

from surgeon.structure.cross_attention import attend
from surgeon.structure.sizes import Fill, Shape, set_sizes, sizes_of
from surgeon.structure.structure import Structure, built_sizes, remember, remember_built, structure_of

Sizes = Mapping[str, Mapping[str, int]]


def empty(name: str, tensor: Tensor, shape: Shape) -> Tensor:
    """Return a tensor of any values with the dtype and device of another one, without memory where that has none."""
    return tensor.new_empty(shape)


def rebuild(model: nn.Module, structure: Structure, fill: Fill = empty) -> None:
    """Give a network a structure, in place; its parameters stay the same objects, and it remembers the structure.

    Args:
        model: as its architecture's builder makes it, or of a structure that this one replaces layer by layer: what
            this one does not name gets the builder's sizes.
        structure: sizes and sets that fit the network's layers; layers that have the builder's sizes by it are not
            remembered as different.
        fill: makes the tensors of other shapes, which it is asked for by their names in the network's state.
    """
    assert structure_of(model).attention.keys() <= structure.attention.keys()
    built = _built(model, structure.widths)
    for name, sizes in {**built, **structure.widths}.items():
        # Bound at once: the loop's variable is another one's by the time of a later call.
        def named(own: str, tensor: Tensor, shape: Shape, layer: str = name) -> Tensor:
            return fill(f"{layer}.{own}" if layer else own, tensor, shape)

        set_sizes(model.get_submodule(name), sizes, named)
    for name, sets in structure.attention.items():
        attend(model, name, sets)
    different = {name: sizes for name, sizes in structure.widths.items() if not sizes.items() <= built[name].items()}
    remember_built(model, {name: built[name] for name in different})
    remember(model, Structure(different, structure.attention))


def _built(model: nn.Module, widths: Sizes) -> dict[str, Mapping[str, int]]:
    """Return the builder's sizes of the layers that have others, and of those that are to have some."""
    found = dict(built_sizes(model))
    for name in widths:
        if name not in found:
            sizes = sizes_of(model.get_submodule(name))
            assert sizes is not None, f"{name} has no sizes of which it is known what follows"
            found[name] = sizes
    return found
