"""One rule for every operation that networks use, by family. An operation without a rule freezes what it touches."""

from surgeon.coupling.context import Rule
from surgeon.coupling.rules import (
    attention,
    contraction,
    creation,
    normalization,
    pointwise,
    recurrent,
    reduction,
    shape,
    spatial,
)

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **contraction.RULES,
    **attention.RULES,
    **normalization.RULES,
    **recurrent.RULES,
    **spatial.RULES,
    **reduction.RULES,
    **shape.RULES,
    **creation.RULES,
}
"""Rules by the operation's name without the underscore of its in-place form, e.g. `aten.add`."""
