"""The methods, one file each, and the one table of them.

The package can be called: `surgeon.methods()` returns their descriptions.
"""

import sys
from types import ModuleType

from surgeon.methods.base import Inputs, Method, Option
from surgeon.methods.channel_regeneration import CHANNEL_REGENERATION
from surgeon.methods.dsd import DSD
from surgeon.methods.filter_grafting import FILTER_GRAFTING
from surgeon.methods.kernel_reactivation import KERNEL_REACTIVATION
from surgeon.methods.neural_rejuvenation import NEURAL_REJUVENATION
from surgeon.methods.options import make_config
from surgeon.methods.reinit import REINIT
from surgeon.methods.repr import REPR
from surgeon.methods.sofm import SOFM
from surgeon.methods.weight_evolution import WEIGHT_EVOLUTION

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        SOFM,
        NEURAL_REJUVENATION,
        CHANNEL_REGENERATION,
        KERNEL_REACTIVATION,
        WEIGHT_EVOLUTION,
        FILTER_GRAFTING,
        REINIT,
        REPR,
        DSD,
    )
}


class _CallablePackage(ModuleType):
    """A package that is also the public function `surgeon.methods()`, in whatever order things are imported."""

    def __call__(self) -> tuple[Method, ...]:
        """Return the descriptions of all methods: name, paper, needs and options."""
        return tuple(METHODS.values())


sys.modules[__name__].__class__ = _CallablePackage

__all__ = ["METHODS", "Inputs", "Method", "Option", "make_config"]
