"""Does RePr help? C^3(32) from scratch on CIFAR-10, as in the paper's tables 1 and 2 but smaller, with its controls.

Every run of a seed starts from the same random weights, sees the same images in the same order, has the same number of
epochs and is scored on the whole test set after its last one. Rankings that need images take held-out training images
that nothing is trained on. Results are appended to a file of JSON lines and finished runs are skipped; several
processes share the work with `--part 1/2` and `--part 2/2`.

    python benchmarks/repr.py --report docs/repr-c3.md
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cifar10 import spread
from decoded import BATCH
from series import add_options, finish_series
from torch import nn
from torch.utils.data import DataLoader

import surgeon
from surgeon.checkpoint import build
from surgeon.checkpoint.architecture import parse_architecture
from surgeon.data import image_config
from surgeon.measure.weights import orthogonality_sums
from surgeon.tuning import TuningConfig, evaluate, make_accelerator

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Arm:
    """One way to train: a method or none, what is added to the loss, and the paper's top-1 with 100 epochs."""

    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    teacher: bool = False
    orthogonal_loss: float = 0.0
    paper: str = "–"


ARMS = {
    "standard": Arm(paper="72.1"),
    "standard, orthogonality loss 0.01": Arm(orthogonal_loss=0.01, paper="72.8"),
    "standard, distillation": Arm(teacher=True, paper="74.8"),
    "repr, ortho": Arm("repr", paper="76.4"),
    "repr, oracle": Arm("repr", {"criterion": "oracle"}),
    "repr, random": Arm("repr", {"criterion": "random"}),
    "repr, ortho, orthogonality loss 0.01": Arm("repr", orthogonal_loss=0.01, paper="76.7"),
    "repr, ortho, distillation": Arm("repr", teacher=True, paper="83.1"),
    "dsd": Arm("dsd"),
}


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, list(ARMS), ROOT / "benchmarks/results/repr.jsonl")
    parser.add_argument("--checkpoints", default=ROOT.parent / "shared/data/checkpoints", type=Path)
    parser.add_argument("--images", type=int, default=5_000, help="training images")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--s1", type=int, default=8)
    parser.add_argument("--s2", type=int, default=4)
    parser.add_argument("--n", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    options = parser.parse_args()
    finish_series(
        options,
        _keys(options),
        lambda: image_config(_teacher(options)),
        lambda key, data: _run(options, key, data),
        lambda rows: _report(options, rows),
    )


def _keys(options: argparse.Namespace) -> list[tuple[Any, ...]]:
    schedule = (options.images, options.epochs, options.s1, options.s2, options.n, options.lr)
    return [(arm, seed, *schedule) for seed in range(options.seeds) for arm in options.arms]


def _teacher(options: argparse.Namespace) -> nn.Module:
    path = next(options.checkpoints.glob("resnet20-*.th"))
    return surgeon.load(path, f"{ROOT}/models/cifar_resnet.py:resnet20")


def _student(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build(parse_architecture(f"{ROOT}/models/cifar_plain.py:c3_32")).eval()


def _run(options: argparse.Namespace, key: tuple[Any, ...], data: Mapping[str, DataLoader[Any]]) -> dict[str, Any]:
    name, seed, *_ = key
    arm, model = ARMS[name], _student(seed)
    order = torch.Generator().manual_seed(seed)
    train = DataLoader(data["train"].dataset, batch_size=BATCH, shuffle=True, generator=order)
    given: dict[str, Any] = {
        "val": data["scored"],
        "calibration": data["held out"],
        "epochs": options.epochs,
        "tuning": TuningConfig(
            opt="momentum", lr=options.lr, sched="none", weight_decay=0.0, orthogonal_loss=arm.orthogonal_loss
        ),
        "teacher": _teacher(options) if arm.teacher else None,
        "seed": seed,
    }
    start = time.perf_counter()
    if arm.method is None:
        record = surgeon.finetune(model, train, **given)
    else:
        rounds = {"s1": options.s1, "s2": options.s2, "n": options.n}
        record = surgeon.apply(model, arm.method, train=train, **given, **rounds, **arm.options)
    seconds = time.perf_counter() - start
    convolutions = [module.weight.detach() for module in model.modules() if isinstance(module, nn.Conv2d)]
    return {
        "top1": evaluate(model, data["test"], accelerator=make_accelerator()).top1,
        "train_loss": record.epochs[-1]["train_loss"],
        "epochs": [epoch["top1"] for epoch in record.epochs],
        "overlap": float(torch.cat([orthogonality_sums(weight) for weight in convolutions]).sum()),
        "seconds": seconds,
    }


def _report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    control = {row["key"][1]: row["top1"] for row in rows if row["key"][0] == "standard"}
    lines = [
        f"Top-1 in percent on all CIFAR-10 test images after the last of {options.epochs} epochs on {options.images:,} "
        f"training images, mean ± standard deviation of {options.seeds} seeds; SGD with momentum 0.9, learning rate "
        f"{options.lr}, S1 = {options.s1}, S2 = {options.s2}, N = {options.n}. The overlap is the sum over all filters "
        "of eq. 2. The paper's: 50,000 images, 100 epochs, S1 = 20, S2 = 10, N = 3, its tables 1 and 2.",
        "",
        "| C^3(32) | top-1 | − standard, paired | overlap | seconds | paper's top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for name in options.arms:
        mine = [row for row in rows if row["key"][0] == name]
        paired = [row["top1"] - control[row["key"][1]] for row in mine if row["key"][1] in control]
        cells = [
            spread([row["top1"] for row in mine]),
            "–" if name == "standard" else spread(paired, signed=True),
            spread([row["overlap"] for row in mine]),
            f"{statistics.mean(row['seconds'] for row in mine):.0f}",
            ARMS[name].paper,
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
