"""Does `sofm` help? Others' CIFAR-10 ResNets, operated and fine-tuned, against the same fine-tuning alone.

Every run starts from the same checkpoint, sees the same images in the same order (by seed) and has the same budget; the
control differs in that no operation takes place (its BatchNorm statistics are recalibrated all the same, which alone
helps, because these checkpoints were trained on other pixels). Results are appended to a file of JSON lines, finished
runs are skipped, and `--report` writes mean and standard deviation over the seeds as Markdown.

    python benchmarks/cifar10.py --data ../shared/data/cifar10 --checkpoints ../shared/data/checkpoints
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import surgeon
from surgeon.data import image_config, make_loader, open_data
from surgeon.measure.bn import recalibrate
from surgeon.operate import apply
from surgeon.tuning import TuningConfig, evaluate, make_accelerator, tune

ROOT = Path(__file__).resolve().parents[1]
VARIANTS: dict[str, dict[str, Any]] = {
    "control": {},
    "mean": {"merge": "mean", "consumers": "random"},
    "preserve": {"merge": "preserve", "consumers": "zero"},
}
STAGES = ("original", "operated", "recalibrated", "finetuned")


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=ROOT.parent / "shared/data/cifar10", type=Path)
    parser.add_argument("--checkpoints", default=ROOT.parent / "shared/data/checkpoints", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--layers", nargs="+", default=["layer3"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--results", default=ROOT / "benchmarks/results/cifar10.jsonl", type=Path)
    parser.add_argument("--report", type=Path, help="write a Markdown table here")
    options = parser.parse_args()
    options.results.parent.mkdir(exist_ok=True)
    done = {tuple(row["key"]): row for row in _rows(options.results)}
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


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines())


def _keys(options: argparse.Namespace) -> list[tuple[Any, ...]]:
    budget = (",".join(options.layers), options.epochs, options.limit, options.lr)
    return [
        (model, variant, seed, *budget)
        for model in options.models
        for seed in range(options.seeds)
        for variant in VARIANTS
    ]


def _run(options: argparse.Namespace, key: tuple[Any, ...]) -> dict[str, Any]:
    model_name, variant, seed, *_ = key
    path = next(options.checkpoints.glob(f"{model_name}-*.th"))
    model = surgeon.load(path, f"{ROOT}/models/cifar_resnet.py:{model_name}")
    data = open_data(f"hfds/{options.data.resolve()}", image_config(model), limit=options.limit, seed=seed)
    train = make_loader(data.train, batch_size=128, shuffle=True, seed=seed)
    calibration, val = (make_loader(part, batch_size=128) for part in (data.calibration, data.val))
    tuning = TuningConfig(epochs=options.epochs, lr=options.lr, seed=seed)
    start = time.perf_counter()
    if variant == "control":
        stages = _control(model, train, val, calibration, tuning)
    else:
        record = apply(
            model, "sofm", options.layers, train=train, val=val, calibration=calibration, epochs=options.epochs,
            tuning=tuning, seed=seed, **VARIANTS[variant],
        )  # fmt: skip
        stages = {stage.name: stage.top1 for stage in record.stages}
    return {"key": list(key), "top1": stages, "seconds": time.perf_counter() - start}


def _control(model: Any, train: Any, val: Any, calibration: Any, tuning: TuningConfig) -> dict[str, float]:
    accelerator = make_accelerator()
    stages = {"original": evaluate(model, val, accelerator=accelerator).top1}
    recalibrate(model, calibration, device=accelerator.device)
    stages["recalibrated"] = evaluate(model, val, accelerator=accelerator).top1
    tuned = tune(model, train, val, tuning, accelerator=accelerator)
    stages["finetuned"] = tuned.epochs[-1].top1
    return stages


def _report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    layers = ", ".join(f"`{layer}`" for layer in options.layers)
    lines = [
        f"Top-1 in percent on {options.limit:,} CIFAR-10 test images, mean ± standard deviation of {options.seeds} "
        f"seeds; sofm on {layers}, {options.epochs} epochs on {options.limit:,} training images, SGD, learning rate "
        f"{options.lr}.",
        "",
        "| network | run | " + " | ".join(STAGES) + " | finetuned − control, paired |",
        "|---|---|" + "---|" * (len(STAGES) + 1),
    ]
    for model in options.models:
        control = {row["key"][2]: row["top1"]["finetuned"] for row in rows if row["key"][:2] == [model, "control"]}
        for variant in VARIANTS:
            mine = [row for row in rows if row["key"][:2] == [model, variant]]
            cells = [_spread([row["top1"][stage] for row in mine if stage in row["top1"]]) for stage in STAGES]
            paired = [row["top1"]["finetuned"] - control[row["key"][2]] for row in mine]
            cells.append("–" if variant == "control" else _spread(paired, signed=True))
            name = "control (no operation)" if variant == "control" else f"sofm, merge={variant}"
            lines.append(f"| {model} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float], *, signed: bool = False) -> str:
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{'+' if signed else ''}.2f} ± {deviation:.2f}"


if __name__ == "__main__":
    main()
