"""What a network that was resized remembers of it, so that it can be built again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

ATTRIBUTE = "surgeon_structure"
BUILT = "surgeon_built_sizes"


@dataclass(frozen=True)
class CrossSets:
    """Which channels of a convolution with cross-attention are rejuvenated; the others have survived.

    Attributes:
        written: numbers of the output channels, ascending.
        read: numbers of the input channels, ascending.
    """

    written: tuple[int, ...]
    read: tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """How a network differs from what its builder makes.

    Attributes:
        widths: by module, its sizes by attribute (`out_channels` and so on), where any of them is another.
        attention: by module, the sets of the convolutions that are replaced by one with cross-attention.
    """

    widths: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    attention: Mapping[str, CrossSets] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether it differs at all."""
        return bool(self.widths or self.attention)


def structure_of(model: nn.Module) -> Structure:
    """Return how a network differs from what its builder made; nothing of one that was never changed."""
    found = vars(model).get(ATTRIBUTE, Structure())
    assert isinstance(found, Structure)
    return found


def remember(model: nn.Module, structure: Structure) -> None:
    """Let a network know how it differs from what its builder made."""
    # Into the dictionary, since nn.Module declares that it takes nothing but tensors and modules as attributes.
    vars(model)[ATTRIBUTE] = structure


def built_sizes(model: nn.Module) -> Mapping[str, Mapping[str, int]]:
    """Return the sizes by attribute that the builder gave the layers which have had others since."""
    found = vars(model).get(BUILT, {})
    assert isinstance(found, dict)
    return found


def remember_built(model: nn.Module, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Let a network know which sizes its builder gave to layers."""
    vars(model)[BUILT] = dict(sizes)
