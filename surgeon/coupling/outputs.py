"""What the outputs of modules carry: the way from a module's name to the channels in a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import fx

from surgeon.coupling.axes import Block, Layout, size_of
from surgeon.coupling.graph import Carried, ChannelGroup
from surgeon.coupling.solve import Solution
from surgeon.errors import LayerError


@dataclass
class Handed:
    """The tensors that a module hands to operations outside of it: layouts, nodes, and the last one's order."""

    layouts: list[Layout] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)
    order: int = -1


class Outputs:
    """What every module's output carries; worked out when asked for."""

    def __init__(
        self,
        handed: Mapping[str, Handed],
        parameters: Mapping[fx.Node, str],
        solution: Solution,
        index: np.ndarray,
        groups: Mapping[int, ChannelGroup],
    ) -> None:
        self._handed = handed
        self._parameters = parameters
        self._solution = solution
        self._index = index
        self._groups = groups

    @property
    def names(self) -> tuple[str, ...]:
        """The modules that compute something, in execution order."""
        return tuple(self._handed)

    def carried(self, name: str) -> tuple[Carried, ...]:
        """Return where the output of module `name` carries which groups."""
        return tuple(
            carried
            for layout in self._of(name).layouts
            for block in layout.blocks
            for carried in self._block(layout, block)
        )

    def reasons(self, name: str) -> tuple[str, ...]:
        """Return why channels of the module's output are frozen."""
        sentences: dict[str, None] = {}
        for layout in self._of(name).layouts:
            for block in layout.blocks:
                indices = np.unique(self._solution.reason[self._solution.channel[block.labels.ravel()]])
                sentences.update((self._solution.reasons[i], None) for i in indices.tolist() if i >= 0)
            sentences.update(
                (f"The output holds {leg.meaning}.", None)
                for dim in layout.dims[1:2]
                for leg in dim
                if leg.meaning and not layout.blocks
            )
        return tuple(sentences)

    def tensors_before(self, name: str) -> frozenset[str]:
        """Return the state-dict keys of everything that the module's output depends on."""
        stack = list(self._of(name).nodes)
        seen = set(stack)
        while stack:
            for source in stack.pop().all_input_nodes:
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
        return frozenset(self._parameters[node] for node in seen if node in self._parameters)

    def order(self, name: str) -> int:
        """Return when the module hands its last tensor on, counted in operations."""
        return self._of(name).order

    def tensors(self, name: str) -> int:
        """Return how many tensors the module hands to operations outside of it."""
        return len(self._of(name).layouts)

    def deepest(self) -> str | None:
        """Return the outermost module whose output carries free channels over an image, as late as possible."""
        candidates = [
            name
            for name, handed in self._handed.items()
            if any(all(layout.dims[2:]) and layout.dims[2:] for layout in handed.layouts) and self.carried(name)
        ]
        return max(candidates, key=lambda name: (self._handed[name].order, -name.count(".")), default=None)

    def _of(self, name: str) -> Handed:
        if name not in self._handed:
            raise LayerError(
                f"The network has no module '{name}' that computes anything.",
                "Choose one of the modules that `surgeon inspect` lists.",
            )
        return self._handed[name]

    def _block(self, layout: Layout, block: Block) -> list[Carried]:
        dims = [d for d, legs in enumerate(layout.dims) if set(legs) & set(block.legs)]
        free_dims = [d for d in dims if set(layout.dims[d]) & set(block.free)]
        if len(free_dims) != 1 or dims != free_dims:
            return []
        dim = free_dims[0]
        legs = layout.dims[dim]
        places = np.arange(size_of(legs)).reshape([leg.size for leg in legs])
        others = [axis for axis, leg in enumerate(legs) if leg not in block.legs]
        places = places.transpose([legs.index(leg) for leg in block.legs] + others).reshape(block.labels.size, -1)
        elements = block.labels.ravel()
        channels = self._solution.channel[elements]
        groups = self._solution.group[channels]
        result = []
        for group in np.unique(groups[groups >= 0]).tolist():
            chosen = np.flatnonzero(groups == group)
            order = np.lexsort((self._solution.rank[elements[chosen]], self._index[channels[chosen]]))
            chosen = chosen[order]
            present = np.unique(self._index[channels[chosen]])
            result.append(
                Carried(
                    self._groups[group],
                    torch.from_numpy(present),
                    dim,
                    torch.from_numpy(places[chosen].reshape(present.size, -1)),
                )
            )
        return result
