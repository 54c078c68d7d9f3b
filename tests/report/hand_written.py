"""Records as runs write them, with figures that are easy to check."""

import json
from pathlib import Path
from typing import Any

from surgeon.report.comparison import read_records
from surgeon.report.records import Run


def stage(name: str, top1: float | None, **others: Any) -> dict[str, Any]:
    empty = {"top5": None, "loss": None, "drift": None, "agreement": None, "seconds": 1.0, "target": None}
    return {"name": name, "top1": top1, **empty, "metrics": {}, **others}


def epoch(number: int, top1: float | None, **others: Any) -> dict[str, Any]:
    figures = {"lr": 0.1, "train_loss": 1.0, "top5": None, "loss": None, "seconds": 1.0, "images_per_second": 9.0}
    return {
        "epoch": number, "top1": top1, **figures, "operation": None, "metrics": {}, "phase": None, **others
    }  # fmt: skip


def record(
    method: str = "sofm", top1: tuple[float, ...] = (50.0, 70.0), seed: int = 0, **others: Any
) -> dict[str, Any]:
    """Return a record whose epochs reach these accuracies, from 80 % at the start."""
    operated = [] if method == "finetune" else [stage("operated", 12.5, target="layer1")]
    edits = [
        {"tensor": "layer1.0.conv1.weight", "dim": 0, "channels": 3, "positions": "0-1,4", "what": "averaged"},
        {"tensor": "layer1.0.bn1.weight", "dim": 0, "channels": 3, "positions": "0-1,4", "what": "averaged"},
        {
            "tensor": "layer1.0.conv2.weight",
            "dim": 1,
            "channels": 1,
            "positions": "2",
            "what": "started anew",
            "epoch": 1,
        },
    ]
    return {
        "surgeon": "0.1.0",
        "method": method,
        "options": {} if method == "finetune" else {"ratio": 0.5, "every": None},
        "seed": seed,
        "targets": [] if method == "finetune" else ["layer1"],
        "edits": [] if method == "finetune" else edits,
        "figures": {} if method == "finetune" else {"layer1.0.conv1": {"channels": 8, "surviving": 3}},
        "skipped": [],
        "stages": [stage("original", 80.0), *operated, stage("finetuned", top1[-1])],
        "epochs": [epoch(number, value) for number, value in enumerate(top1)],
        "tuning": {"lr": 0.1, "seed": seed},
        "arch": "resnet18",
        "checkpoint": {"path": "input.safetensors", "sha256": "0" * 64},
        "output": "output.safetensors",
        "data": {"name": "digits", "kind": "images"},
        "device": "cpu",
        "recipe": {"data": "digits", "lr": 0.1, "set": {"ratio": "0.5"}, "seed": seed},
        "notes": [],
        "versions": {"python": "3.11.0"},
        **others,
    }  # fmt: skip


def written(folder: Path, name: str, content: Any) -> Path:
    """Write a record to a file and return its path."""
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read_run(path: Path) -> Run:
    """Read the record of one run."""
    found = read_records(path)
    assert isinstance(found, tuple)
    return found[0]
