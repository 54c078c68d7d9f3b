"""With which arguments a network may have been built, by how it differs from what a checkpoint holds."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from surgeon.checkpoint.code_file import NUM_CLASSES
from surgeon.checkpoint.fit import Misfit
from surgeon.structure import built_sizes, structure_of

# A network's attribute that shows whether it has auxiliary classifiers, and the builder's argument that decides it.
AUXILIARY = (("aux_logits", "aux_logits"), ("aux_classifier", "aux_loss"))

# What builders call the number of input channels: timm, and most others.
INPUT_CHANNELS = ("in_chans", "in_channels")
CONVOLUTION_AXES = 4
MOST_GUESSES = 3


def _auxiliary_arguments(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The opposite of what the network has, where tensors of one side are without counterpart."""
    if any(misfit.found is None or misfit.wanted is None for misfit in found):
        for attribute, argument in AUXILIARY:
            if hasattr(skeleton, attribute):
                yield {argument: not getattr(skeleton, attribute)}


def _channels_argument(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The checkpoint's number of input channels, where the first misshapen convolution differs in these only."""
    del skeleton
    for wanted, given in _guiding(found):
        if len(wanted) == len(given) == CONVOLUTION_AXES and wanted[:1] + wanted[2:] == given[:1] + given[2:]:
            yield from ({argument: given[1]} for argument in INPUT_CHANNELS)
            return


def _classes_argument(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The checkpoint's size, where misshapen tensors differ in their first axis only: the classifier's come last.

    Other tensors may be misshapen too: then the classifier shall not be listed among them.
    """
    del skeleton
    sizes = [given[0] for wanted, given in _guiding(found) if wanted and given and wanted[1:] == given[1:]]
    yield from ({NUM_CLASSES: size} for size in list(dict.fromkeys(reversed(sizes)))[:MOST_GUESSES])


def misshapen(found: list[Misfit]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The network's and the file's shape of the tensors that differ in it."""
    pairs = [
        (tuple(misfit.wanted.shape), tuple(misfit.found.shape))
        for misfit in found
        if misfit.wanted is not None and misfit.found is not None
    ]
    return [(wanted, given) for wanted, given in pairs if wanted != given]


def _guiding(found: list[Misfit]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Those of which the file's has numbers: no network was built with none of anything."""
    return [(wanted, given) for wanted, given in misshapen(found) if all(given)]


def _added_classifier(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The common size of surplus tensors, for networks that have no classifier by default."""
    del skeleton
    surplus = [misfit.found for misfit in found if misfit.wanted is None and misfit.found is not None]
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in surplus}
    if len(sizes) == 1 and len(surplus) == len(found) and surplus[0].numel() and all(sizes):
        yield {NUM_CLASSES: sizes.pop()}


def _first_layer(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The input channels of the first convolution, where it is the structure that gives it others than the builder."""
    del found
    first = next((name for name, module in skeleton.named_modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and (size := _resized_to(skeleton, first, "in_channels")) is not None:
        yield from ({argument: size} for argument in INPUT_CHANNELS)


def _last_layer(skeleton: nn.Module, found: list[Misfit]) -> Iterator[dict[str, Any]]:
    """The output size of the last layer, where it is the structure that gives it another than the builder."""
    del found
    layers = [name for name, module in skeleton.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for attribute in ("out_features", "out_channels"):
        if layers and (size := _resized_to(skeleton, layers[-1], attribute)) is not None:
            yield {NUM_CLASSES: size}


def _resized_to(skeleton: nn.Module, name: str, attribute: str) -> int | None:
    """A size that a structure gives a layer, where it is not the builder's."""
    size = structure_of(skeleton).widths.get(name, {}).get(attribute)
    return None if size is None or size == built_sizes(skeleton)[name][attribute] else size


def resizings(skeleton: nn.Module) -> int:
    """How many sizes of layers the structure changes."""
    widths = structure_of(skeleton).widths
    return sum(_resized_to(skeleton, name, size) is not None for name, sizes in widths.items() for size in sizes)


GUESSES: tuple[Callable[[nn.Module, list[Misfit]], Iterator[dict[str, Any]]], ...] = (
    _auxiliary_arguments,
    _channels_argument,
    _classes_argument,
    _added_classifier,
    _first_layer,
    _last_layer,
)
"""Each proposes arguments for a skeleton whose tensors differ from a file's, in the order in which they are tried."""
