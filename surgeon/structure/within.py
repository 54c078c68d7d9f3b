"""How a network differs from what its builder makes, by what its modules are: whoever wraps it remembers nothing."""

from torch import nn

from surgeon.structure.cross_attention import CrossAttentionConv2d
from surgeon.structure.sizes import sizes_of
from surgeon.structure.structure import CrossSets, Structure, structure_of


def structure_within(model: nn.Module) -> Structure:
    """Return the structure of a network with that of all its parts, by the modules' names in it.

    Of a network inside a wrapper or inside another network, its structure is found too; of layers that were replaced
    since, the sizes that stand there now.

    Args:
        model: any network.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    widths: dict[str, dict[str, int]] = {}
    attention: dict[str, CrossSets] = {}
    for prefix, part in model.named_modules():
        if isinstance(part, CrossAttentionConv2d):
            attention[prefix] = part.sets
        for own, remembered in structure_of(part).widths.items():
            name = f"{prefix}.{own}".strip(".")
            sizes = sizes_of(modules[name]) if name in modules else None
            if sizes is not None and remembered.keys() <= sizes.keys():
                widths[name] = {attribute: sizes[attribute] for attribute in remembered}
    return Structure(widths, attention)
