"""Let Torch-Pruning and surgeon analyse the same networks, one JSON line of standard input each."""

import json
import signal
import sys
import time
import warnings
from types import FrameType
from typing import Any

import torch
import torch_pruning
import zoo_catalogue
import zoo_worker
from torch import nn

RATIO = 0.25
"""Share of the channels that the one pruning step removes."""
LIMIT = 60.0
"""Seconds of processor time after which Torch-Pruning counts as not having answered."""


class OutOfTimeError(Exception):
    """The limit is reached."""


def main() -> None:
    """Answer every line of standard input: the name of an architecture, its image size, and which library to ask."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    zoo_worker.warm_up()
    for line in sys.stdin:
        question = json.loads(line)
        answers.write(json.dumps(compare(question["architecture"], question["size"])) + "\n")
        answers.flush()


def compare(name: str, size: int | None) -> dict[str, Any]:
    """Return what Torch-Pruning makes of a network: whether it builds the graph, prunes, and the network still runs."""
    specimen = zoo_catalogue.build(name, size, meta=False, batch=1)
    part = specimen.model.get_submodule(specimen.submodule) if specimen.submodule else specimen.model
    zoo_worker.initialize(part)
    row: dict[str, Any] = {"builds": False, "prunes": False, "runs": False, "message": ""}
    example = specimen.example[0] if len(specimen.example) == 1 else specimen.example
    signal.signal(signal.SIGPROF, _give_up)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    start = time.process_time()
    try:
        pruner = torch_pruning.pruner.BasePruner(
            part,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            ignored_layers=_classifiers(part),
        )
        row |= {"builds": True, "seconds": round(time.process_time() - start, 3)}
        before = _layer_parameters(part)
        pruner.step()
        row["prunes"] = _layer_parameters(part) < before
        row["message"] = "" if row["prunes"] else "Nothing was removed."
        with torch.no_grad():
            part(*specimen.example)
        row["runs"] = bool(row["prunes"])
    except OutOfTimeError:
        row["message"] = f"No answer within {LIMIT:.0f} s of processor time."
    except zoo_worker.FAILURES as error:
        row["message"] = zoo_worker.describe(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return row


def _give_up(number: int, frame: FrameType | None) -> None:
    raise OutOfTimeError


def _layer_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose outputs are the network's; Torch-Pruning has to be told."""
    ask = getattr(model, "get_classifier", None)
    if callable(ask):
        found = ask()
        layers = found if isinstance(found, (tuple, list)) else [found]
        return [layer for layer in layers if isinstance(layer, nn.Module)]
    return [
        module
        for module in model.modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) in (1000, 21, 400)
    ]


if __name__ == "__main__":
    main()
