"""Which tensor axes of a network move together."""

from surgeon.coupling.graph import Carried, ChannelGroup, CouplingGraph, FrozenAxis, Member, Norm, Writer
from surgeon.coupling.trace import trace

__all__ = ["Carried", "ChannelGroup", "CouplingGraph", "FrozenAxis", "Member", "Norm", "Writer", "trace"]
