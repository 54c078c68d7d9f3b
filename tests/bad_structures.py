"""A small network of timm's with a structure, and headers that ask for one that it cannot have."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import timm
import torch
from torch import nn

from surgeon.checkpoint.architecture import Architecture
from surgeon.checkpoint.structure_header import LONGEST_TEXT
from surgeon.structure import CrossSets, Structure, rebuild

NAME = "test_resnet"
STRUCTURE = Structure(
    {
        "layer3.0.conv1": {"in_channels": 48, "out_channels": 40, "groups": 1},
        "layer3.0.bn1": {"num_features": 40},
        "layer3.0.conv2": {"in_channels": 40, "out_channels": 24, "groups": 1},
        "layer3.0.bn2": {"num_features": 24},
        "layer3.0.conv3": {"in_channels": 24},
    },
    {"layer3.0.conv2": CrossSets(written=(3, 22, 23), read=(0, 39))},
)


def resized_network(structure: Structure = STRUCTURE) -> nn.Module:
    """Return the network with random weights and statistics, of which none is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(NAME, num_classes=10)
        rebuild(model, structure, lambda name, tensor, shape: torch.randn(shape).abs() / 8 + 0.1)
    vars(model)["surgeon_architecture"] = Architecture("timm", NAME, {"num_classes": 10})
    return model.eval()


def _changed(text: str, *path: str, to: Any) -> str:
    """Return JSON with one value replaced; a value that is None is removed."""
    described = copy.deepcopy(json.loads(text))
    place = described
    for name in path[:-1]:
        place = place[name]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(described)


def bad_structures(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield headers that a network cannot have, each with a name and words of the message that it must meet.

    Args:
        text: the header of `resized_network()`.
    """
    conv, last = "layer3.0.conv1", "layer3.0.conv2"

    def widths(name: str, sizes: Any) -> str:
        return _changed(text, "widths", name, to=sizes)

    def sets(written: Any, read: Any) -> str:
        return _changed(text, "attention", last, to={"written": written, "read": read})

    yield "not JSON", text[:-1], "is not JSON"
    yield "empty", "", "is not JSON"
    yield "a list", "[]", "does not consist of"
    yield "a number", "1", "does not consist of"
    yield "deep", "[" * 100_000, "nested deeper than 8"
    yield "deep inside", text[:-1] + ',"more":' + '{"a":' * 100_000 + "1" + "}" * 100_001, "nested deeper than 8"
    yield "long", text + " " * LONGEST_TEXT, "characters"
    yield "a long number", widths(conv, {"out_channels": 0}).replace(": 0", ": " + "9" * 5000), "is not JSON"
    yield "twice", text[:-1] + ',"version":1}', "has 'version' twice"
    yield "other names", _changed(text, "more", to=1), "does not consist of"
    yield "no version", _changed(text, "version", to=None), "does not consist of"
    yield "another version", _changed(text, "version", to=2), "version 2"
    yield "true as version", _changed(text, "version", to=True), "version True"
    yield "a fraction as version", _changed(text, "version", to=1.0), r"version 1\.0"
    yield "widths as a list", _changed(text, "widths", to=[]), "not by layer"
    yield "attention as text", _changed(text, "attention", to="all"), "not by layer"
    yield "sizes as a list", widths(conv, [40]), "whole numbers"
    yield "no sizes", widths(conv, {}), "whole numbers"
    for size in (0, -40, 40.0, True, "40", [40], 2**31, 2**63, 10**30):
        yield f"size {size!r}", widths(conv, {"out_channels": size}), "whole numbers"
    yield "NaN", text.replace(":40", ":NaN", 1), "whole numbers"
    yield "infinite", text.replace(":40", ":1e999", 1), "whole numbers"
    yield "no such layer", widths("layer9.conv1", {"out_channels": 4}), r"'layer9\.conv1', which the network lacks"
    yield "a strange name", widths("\x1b[31m" + "x" * 500, {"out_channels": 4}), "which the network lacks"
    yield "a private name", widths("__class__", {"out_channels": 4}), "which the network lacks"
    yield "the whole network", widths("", {"out_channels": 4}), "cannot be resized"
    yield "a layer without sizes", widths("act1", {"num_features": 4}), "cannot be resized"
    yield "a stage", widths("layer3", {"out_channels": 4}), "cannot be resized"
    for attribute in ("kernel_size", "weight", "num_features", "__dict__", "forward", "stride"):
        yield f"attribute {attribute}", widths(conv, {attribute: 4}), "which a Conv2d has not"
    yield "other shapes", widths(conv, {"in_channels": 48, "out_channels": 41, "groups": 1}), r"\[41, 48, 1, 1\]"
    yield "huge", widths(conv, {"in_channels": 2**31 - 1, "out_channels": 2**31 - 1}), r"and the file's is \[40, 48"
    yield "left out", widths(conv, None), r"layer3\.0\.conv1\.weight: file \[40, 48, 1, 1\], network \[\d+, 48, 1, 1\]"
    yield "groups that do not divide", widths(conv, {"in_channels": 48, "out_channels": 40, "groups": 3}), "go together"
    yield "more groups", widths(conv, {"in_channels": 96, "out_channels": 40, "groups": 2}), "reads 96 .* is given 48"
    yield "a norm's other size", widths("layer3.0.bn1", {"num_features": 39}), r"bn1\.weight of shape \[39\]"
    yield "sets that are text", sets("3", "0"), "not whole numbers"
    yield "sets of one side", _changed(text, "attention", last, to={"written": [3]}), "does not consist of"
    for numbers in ([3.0], [True], ["3"], [None], [[3]], [-1], [2**31], [10**30]):
        yield f"written {numbers}", sets(numbers, [0]), "not whole numbers"
    yield "descending", sets([4, 3], [0]), "do not ascend"
    yield "repeated", sets([3, 3], [0]), "do not ascend"
    yield "out of range", sets([24], [0]), "not one of its 24"
    yield "read out of range", sets([3], [40]), "not one of its 40"
    yield "nothing written", sets([], [0]), "0 of 24 written"
    yield "everything read", sets([3], list(range(40))), "40 of 40 read"
    yield (
        "attention of a norm",
        _changed(text, "attention", "layer3.0.bn2", to={"written": [1], "read": [1]}),
        "no plain convolution",
    )
    yield "attention of nothing", _changed(text, "attention", "x", to={"written": [1], "read": [1]}), "network lacks"
