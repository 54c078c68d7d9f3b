"""What one process measures alone and two measure together; it runs in either."""

import random
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from two_stages import CLASSES, Two

from surgeon.coupling.trace import trace
from surgeon.measure.activations import class_means
from surgeon.measure.bn import recalibrate
from surgeon.measure.criteria import CRITERIA
from surgeon.measure.scores import filter_scores
from surgeon.processes import (
    add_up,
    add_up_by_name,
    count,
    from_main,
    index,
    is_main,
    same_tensors,
    shared,
    synchronized_batch_norm,
)

IMAGES, BATCH = 13, 4
"""13 images in batches of 4 of all processes together: the last batch is a single image, one process's alone."""


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(IMAGES, 1, 8, 8, generator=generator) + 0.5, torch.arange(IMAGES) % CLASSES


def network() -> nn.Module:
    torch.manual_seed(3)
    return Two()


def measure() -> dict[str, Any]:
    model, (pixels, labels) = network(), images()
    loader = DataLoader(TensorDataset(pixels, labels), batch_size=BATCH // count())
    layers = trace(model, pixels[:2]).layers
    means = class_means(model, ["one", "two"], loader, CLASSES, device="cpu")
    batches = list(DataLoader(TensorDataset(pixels, labels), batch_size=BATCH))
    result: dict[str, Any] = {
        "means": {name: (known.mean, known.count) for name, known in means.items()},
        "means of a list": class_means(model, ["two"], batches, CLASSES, device="cpu")["two"].mean,
        "one image": class_means(model, ["two"], [(pixels[:1], labels[:1])], CLASSES, device="cpu")["two"].mean,
    }
    for name in (name for name, criterion in CRITERIA.items() if criterion.needs_data):
        result[name] = filter_scores(model, layers, name, loader, device="cpu")
    result["oracle, read again"] = filter_scores(model, layers, "oracle", loader, device="cpu", budget_bytes=700)
    result["ran"] = recalibrate(model, loader, device="cpu")
    result["recalibrated"] = model.state_dict()
    return {**result, **exchange(), "normalized": normalized()}


def exchange() -> dict[str, Any]:
    """What processes hand to each other; each of them starts with something else."""
    own = torch.full((2,), float(index() + 1))
    known = {"all": torch.ones(2), f"only {index()}": torch.ones(1)}
    torch.manual_seed(index())
    random.seed(index())
    weight = nn.Parameter(torch.rand(3))
    same_tensors([weight])
    shuffled = TensorDataset(torch.arange(7))
    loader = DataLoader(shuffled, batch_size=2, sampler=RandomSampler(shuffled))
    return {
        "sum": add_up(own),
        "sums": add_up_by_name(known),
        "main": from_main(["said by", index()]),
        "is main": is_main(),
        "weight": weight.detach(),
        "seen": [batch[0].tolist() for batch in shared(loader, even=False)],
    }


def normalized() -> dict[str, torch.Tensor]:
    """Outputs, gradients and statistics of BatchNorms on this process's part of seven images."""
    pixels = torch.randn(7, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 + 5
    aims = torch.randn(7, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    part = slice(7 * index() // count(), 7 * (index() + 1) // count())
    values = pixels[part].clone().requires_grad_()
    torch.manual_seed(0)
    layers = {"plain": nn.BatchNorm2d(4), "timm": BatchNormAct2d(4), "average": nn.BatchNorm2d(4, momentum=None)}
    layers["bare"] = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    model = nn.Sequential(*layers.values()).double()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    with synchronized_batch_norm(model):
        output = model(values)
        ((output - aims[part]) ** 2).sum().backward()
    gradients = {name: add_up(parameter.grad) for name, parameter in model.named_parameters()}
    found = {"output": output.detach(), "input": values.grad, "evaluated": model.eval()(pixels[:2]).detach()}
    return {**found, **gradients, **dict(model.named_buffers())}
