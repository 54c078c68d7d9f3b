"""One tiny network for every coupling pattern, each with its groups worked out by hand: `NETWORKS` by name."""

from networks import attentions, convolutions, gates, norms, parameters, plumbing, positions
from networks.base import NETWORKS, Net, Network, Want, WantedGroup

__all__ = [
    "NETWORKS",
    "Net",
    "Network",
    "Want",
    "WantedGroup",
    "attentions",
    "convolutions",
    "gates",
    "norms",
    "parameters",
    "plumbing",
    "positions",
]
