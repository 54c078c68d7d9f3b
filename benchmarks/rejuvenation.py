"""Does neural rejuvenation help? VGG-19 from scratch on CIFAR-10, as in the paper's tables 4 and 5 but smaller.

Every run of a seed starts from the same random weights, sees the same images in the same order, has the same number of
epochs and is scored on the whole test set after its last one. Results are appended to a file of JSON lines and finished
runs are skipped; several processes share the work with `--part 1/2` and `--part 2/2`.

    python benchmarks/rejuvenation.py --report docs/rejuvenation-vgg19.md
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from surgeon.tuning import TuningConfig, evaluate, make_accelerator

ROOT = Path(__file__).resolve().parents[1]
CONTROL = "plain training"


@dataclass(frozen=True)
class Arm:
    """One way to train: the method's options, or None without it; how many rounds; and the paper's top-1."""

    options: Mapping[str, Any] | None = None
    rounds: int = 1
    paper: str = "–"


ARMS = {
    CONTROL: Arm(paper="94.56"),
    "in place": Arm({}),
    "reallocated, all resources": Arm({"in_place": False}, paper="95.81"),
    "reallocated, all resources, twice": Arm({"in_place": False}, rounds=2, paper="95.97"),
    "reallocated, half of the resources": Arm({"in_place": False, "resource": 0.5, "below": 0.25}, paper="95.81"),
    "connections kept, all resources": Arm({"in_place": False, "cross": "keep"}),
    "cross-attention, all resources": Arm({"in_place": False, "cross": "attend"}),
}


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, list(ARMS), ROOT / "benchmarks/results/rejuvenation.jsonl")
    parser.add_argument("--network", default="vgg19", help="a function of models/cifar_vgg.py")
    parser.add_argument("--width", type=float, default=1.0, help="share of its widths")
    parser.add_argument("--images", type=int, default=2_000, help="training images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--sparsify", type=int, default=8, help="epochs in which channels die, of all rounds together")
    parser.add_argument("--delta-lambda", type=float, default=0.01)
    parser.add_argument("--lr", type=float, default=0.05)
    options = parser.parse_args()
    finish_series(
        options,
        _keys(options),
        lambda: image_config(_network(options, 0)),
        lambda key, data: _run(options, key, data),
        lambda rows: _report(options, rows),
    )


def _keys(options: argparse.Namespace) -> list[tuple[Any, ...]]:
    schedule = (options.network, options.width, options.images, options.batch, options.epochs, options.lr)
    dying = (options.sparsify, options.delta_lambda)
    return [
        (arm, seed, *schedule, *(() if ARMS[arm].options is None else dying))
        for seed in range(options.seeds)
        for arm in options.arms
    ]


def _network(options: argparse.Namespace, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    architecture = parse_architecture(f"{ROOT}/models/cifar_vgg.py:{options.network}")
    return build(replace(architecture, arguments={"width": options.width})).eval()


def _run(options: argparse.Namespace, key: tuple[Any, ...], data: Mapping[str, DataLoader[Any]]) -> dict[str, Any]:
    name, seed, *_ = key
    arm, model = ARMS[name], _network(options, seed)
    order = torch.Generator().manual_seed(seed)
    train = DataLoader(data["train"].dataset, batch_size=options.batch, shuffle=True, generator=order)
    given: dict[str, Any] = {
        "val": data["scored"],
        "calibration": DataLoader(data["train"].dataset, batch_size=BATCH),
        "epochs": options.epochs,
        "tuning": TuningConfig(opt="momentum", lr=options.lr, weight_decay=1e-4),
        "seed": seed,
    }
    start = time.perf_counter()
    if arm.options is None:
        record = surgeon.finetune(model, train, **given)
    else:
        dying = {"sparsify": options.sparsify // arm.rounds, "n": arm.rounds, "delta_lambda": options.delta_lambda}
        record = surgeon.apply(
            model, "neural-rejuvenation", train=train, cross=arm.options.get("cross", "remove"), **given, **dying,
            **{name: value for name, value in arm.options.items() if name != "cross"},
        )  # fmt: skip
    seconds = time.perf_counter() - start
    return {
        "top1": evaluate(model, data["test"], accelerator=make_accelerator()).top1,
        "train_loss": record.epochs[-1]["train_loss"],
        "epochs": [epoch["top1"] for epoch in record.epochs],
        "utilization": [(epoch["operation"] or {}).get("utilization") for epoch in record.epochs],
        "lambda": [(epoch["operation"] or {}).get("lambda") for epoch in record.epochs],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "skipped": list(record.skipped),
        "seconds": seconds,
    }


def _report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    control = {row["key"][1]: row["top1"] for row in rows if row["key"][0] == CONTROL}
    network = options.network if options.width == 1 else f"{options.network} at {options.width:g} of its widths"
    lines = [
        f"Top-1 in percent on all CIFAR-10 test images after the last of {options.epochs} epochs on {options.images:,} "
        f"training images, mean ± standard deviation of {options.seeds} seeds; SGD with momentum 0.9, batches of "
        f"{options.batch}, learning rate {options.lr} falling as a cosine; of these epochs at most {options.sparsify} "
        f"with the penalty, Δλ = {options.delta_lambda}. The paper's: 50,000 images, its tables 4 and 5.",
        "",
        f"| {network} | top-1 | − plain, paired | parameters, million | seconds | paper's top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for name in options.arms:
        mine = [row for row in rows if row["key"][0] == name]
        paired = [row["top1"] - control[row["key"][1]] for row in mine if row["key"][1] in control]
        cells = [
            spread([row["top1"] for row in mine]),
            "–" if name == CONTROL else spread(paired, signed=True),
            f"{statistics.mean(row['parameters'] for row in mine) / 1e6:.2f}",
            f"{statistics.mean(row['seconds'] for row in mine):.0f}",
            ARMS[name].paper,
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Utilization before every epoch (mean over the seeds that still make channels die):", ""]
    for name in options.arms:
        if ARMS[name].options is not None:
            lines.append(f"- {name}: {_curve([row['utilization'] for row in rows if row['key'][0] == name])}")
    return "\n".join(lines) + "\n"


def _curve(runs: list[list[float | None]]) -> str:
    means = []
    for epoch in zip(*runs, strict=True):
        known = [value for value in epoch if value is not None]
        if known:
            means.append(f"{statistics.mean(known):.2f}")
    return ", ".join(means) or "–"


if __name__ == "__main__":
    main()
