"""What a network is called with: example inputs of any structure, and images where none are given."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from surgeon.image_shape import image_shape


def call_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that an example input stands for.

    Args:
        example: a tuple of positional arguments, a mapping of keyword arguments, or a single positional argument.
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def fake_arguments(model: nn.Module, example: Any, mode: FakeTensorMode) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments for the model's forward pass, with tensors that have no storage.

    Args:
        model: the network.
        example: as for `call_arguments`; None for images of the model's configured size.
        mode: the mode that makes the tensors.
    """
    arguments, keywords = call_arguments(default_images(model) if example is None else example)

    def fake(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        with mode:
            return torch.empty(leaf.shape, dtype=leaf.dtype)

    return pytree.tree_map(fake, arguments), pytree.tree_map(fake, keywords)


def default_images(model: nn.Module) -> torch.Tensor:
    """Return two images of the size that a network is configured for, without storage."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.empty(2, *image_shape(model), dtype=dtype, device="meta")


def random_example(model: nn.Module, example: Any) -> Any:
    """Return an example of the same nesting, on which a network can be run: with random numbers in float64, on the CPU.

    Args:
        model: the network.
        example: as for `call_arguments`; of floating-point tensors only the shapes matter. None for images of the
            model's configured size.
    """
    generator = torch.Generator().manual_seed(0)

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64)

    return pytree.tree_map(drawn, default_images(model) if example is None else example)
