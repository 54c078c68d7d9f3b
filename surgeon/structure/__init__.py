"""How a network differs in its build from what its architecture's builder makes: widths, and cross-attention."""

from surgeon.structure.cross_attention import ATTENDING, CrossAttentionConv2d, attend, attendable
from surgeon.structure.rebuild import rebuild
from surgeon.structure.sizes import set_sizes, shapes_at, sizes_of
from surgeon.structure.structure import CrossSets, Structure, built_sizes, remember, structure_of
from surgeon.structure.within import structure_within

__all__ = [
    "ATTENDING",
    "CrossAttentionConv2d",
    "CrossSets",
    "Structure",
    "attend",
    "attendable",
    "built_sizes",
    "rebuild",
    "remember",
    "set_sizes",
    "shapes_at",
    "sizes_of",
    "structure_of",
    "structure_within",
]
