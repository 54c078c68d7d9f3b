"""Does a method help? Others' CIFAR-10 ResNets, operated and fine-tuned, against the same fine-tuning alone.

Every run starts from the same checkpoint, sees the same training images in the same order (by seed), has the same
budget and is scored on the whole test set. The control differs in that no operation takes place; its BatchNorm
statistics are recalibrated all the same, because that alone matters here: these checkpoints were trained on other
pixels. Results are appended to a file of JSON lines, finished runs are skipped, and `--report` writes mean and standard
deviation over the seeds as Markdown.

    python benchmarks/cifar10.py --variants sofm --report docs/sofm-cifar10.md
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import surgeon
from surgeon.data import image_config, make_loader, open_data
from surgeon.measure.bn import recalibrate
from surgeon.operate import apply
from surgeon.tuning import TuningConfig, evaluate, make_accelerator, tune

ROOT = Path(__file__).resolve().parents[1]
BATCH = 128
TEST_IMAGES = 10_000
CONTROL = "control"
STAGES = ("original", "operated", "recalibrated", "finetuned")


@dataclass(frozen=True)
class Variant:
    """One operation: its method, its target (empty for the method's own choice) and its options."""

    method: str
    layer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def variants(model: str) -> dict[str, dict[str, Variant]]:
    """Return the operations on one network by family; a local target is the inside of its last block."""
    inside = f"layer3.{(int(model.removeprefix('resnet')) - 2) // 6 - 1}.conv1"
    mean = {"merge": "mean", "consumers": "random"}
    preserve = {"merge": "preserve", "consumers": "zero"}
    return {
        "sofm": {
            "sofm on layer3, merge=mean": Variant("sofm", "layer3", mean),
            "sofm on layer3, merge=preserve": Variant("sofm", "layer3", preserve),
            "sofm inside the last block, merge=mean": Variant("sofm", inside, mean),
            "sofm inside the last block, merge=preserve": Variant("sofm", inside, preserve),
        },
        "in-place": {
            "channel-regeneration": Variant("channel-regeneration"),
            "channel-regeneration --preserve": Variant("channel-regeneration", options={"preserve": True}),
            "channel-regeneration --preserve --set max_factor=none": Variant(
                "channel-regeneration", options={"preserve": True, "max_factor": None}
            ),
            "kernel-reactivation": Variant("kernel-reactivation"),
            "weight-evolution": Variant("weight-evolution"),
            # Its partner is a copy of the same checkpoint that sees the images in another order.
            "filter-grafting --every 1": Variant("filter-grafting", options={"every": 1}),
            "reinit --criterion l2": Variant("reinit", options={"criterion": "l2"}),
        },
    }


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=ROOT.parent / "shared/data/cifar10", type=Path)
    parser.add_argument("--checkpoints", default=ROOT.parent / "shared/data/checkpoints", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--variants", default="sofm", choices=list(variants("resnet20")))
    parser.add_argument("--match", default="", help="run only the operations whose names hold this text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=10_000, help="training images")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--results", default=ROOT / "benchmarks/results/cifar10.jsonl", type=Path)
    parser.add_argument("--report", type=Path, help="write a Markdown table here")
    options = parser.parse_args()
    options.results.parent.mkdir(exist_ok=True)
    done = {tuple(row["key"]): row for row in rows_of(options.results)}
    for key in _keys(options):
        if key not in done:
            done[key] = _run(options, key)
            with options.results.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
            print(json.dumps(done[key]), flush=True)
    text = _report(options, [done[key] for key in _keys(options)])
    print(text)
    if options.report:
        options.report.write_text(text)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines())


def _names(options: argparse.Namespace, model: str) -> list[str]:
    return [CONTROL, *(name for name in variants(model)[options.variants] if options.match in name)]


def _keys(options: argparse.Namespace) -> list[tuple[Any, ...]]:
    return [
        (model, name, seed, options.epochs, options.limit, options.lr)
        for model in options.models
        for seed in range(options.seeds)
        for name in _names(options, model)
    ]


def _run(options: argparse.Namespace, key: tuple[Any, ...]) -> dict[str, Any]:
    model_name, name, seed, *_ = key
    model = network(options, model_name)
    spec, config = f"hfds/{options.data.resolve()}", image_config(model)
    data = open_data(spec, config, limit=options.limit, seed=seed)
    train = make_loader(data.train, batch_size=BATCH, shuffle=True, seed=seed)
    calibration, val = decoded(data.calibration), decoded(open_data(spec, config, seed=seed).val)
    tuning = TuningConfig(epochs=options.epochs, lr=options.lr, seed=seed)
    start = time.perf_counter()
    if name == CONTROL:
        stages = _control(model, train, val, calibration, tuning)
    else:
        variant = variants(model_name)[options.variants][name]
        partner = network(options, model_name) if variant.method == "filter-grafting" else None
        record = apply(
            model, variant.method, [variant.layer] if variant.layer else [], train=train, val=val,
            calibration=calibration, epochs=options.epochs, tuning=tuning, seed=seed, partner=partner,
            **variant.options,
        )  # fmt: skip
        stages = {stage.name: stage.top1 for stage in record.stages}
    return {"key": list(key), "top1": stages, "seconds": time.perf_counter() - start}


def network(options: argparse.Namespace, name: str) -> Any:
    path = next(options.checkpoints.glob(f"{name}-*.th"))
    return surgeon.load(path, f"{ROOT}/models/cifar_resnet.py:{name}")


def decoded(dataset: Any) -> DataLoader[Any]:
    """Return the images as one tensor: each of them is looked at many times, always alike."""
    images, labels = (torch.cat(parts) for parts in zip(*make_loader(dataset, batch_size=BATCH), strict=True))
    return DataLoader(TensorDataset(images, labels), batch_size=BATCH)


def _control(model: Any, train: Any, val: Any, calibration: Any, tuning: TuningConfig) -> dict[str, float]:
    accelerator = make_accelerator()
    stages = {"original": evaluate(model, val, accelerator=accelerator).top1}
    recalibrate(model, calibration, device=accelerator.device)
    stages["recalibrated"] = evaluate(model, val, accelerator=accelerator).top1
    tuned = tune(model, train, val, tuning, accelerator=accelerator)
    stages["finetuned"] = tuned.epochs[-1].top1
    return stages


def _report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"Top-1 in percent on all {TEST_IMAGES:,} CIFAR-10 test images, mean ± standard deviation of {options.seeds} "
        f"seeds; {options.epochs} epochs on {options.limit:,} training images, SGD, learning rate {options.lr}.",
        "",
        "| network | run | " + " | ".join(STAGES) + " | finetuned − control, paired |",
        "|---|---|" + "---|" * (len(STAGES) + 1),
    ]
    for model in options.models:
        control = {row["key"][2]: row["top1"]["finetuned"] for row in rows if row["key"][:2] == [model, CONTROL]}
        for name in _names(options, model):
            mine = [row for row in rows if row["key"][:2] == [model, name]]
            cells = [spread([row["top1"][stage] for row in mine if stage in row["top1"]]) for stage in STAGES]
            paired = [row["top1"]["finetuned"] - control[row["key"][2]] for row in mine]
            cells.append("–" if name == CONTROL else spread(paired, signed=True))
            label = "control (no operation)" if name == CONTROL else name
            lines.append(f"| {model} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], *, signed: bool = False) -> str:
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{'+' if signed else ''}.2f} ± {deviation:.2f}"


if __name__ == "__main__":
    main()
