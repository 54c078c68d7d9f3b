"""Surgery without data: what exemplars are worth, against noise and against as many real images.

On others' CIFAR-10 ResNets, three questions:
- Do exemplars activate the channels as real images do? Class-representative activations (averaged over the image, each
  channel's mean over the classes taken off) are correlated with those of 2,000 real training images. Yardsticks: 2,000
  other real images, as many real images as there are exemplars, and noise.
- Does `sofm` put the same channels together? The nodes that most classes send a channel to are a partition of the
  channels; the adjusted Rand index is 1 for equal partitions and 0 on average for chance. Its yardstick is what another
  seed of the map alone does to it.
- What is left of top-1 on real test images? Every operation is recalibrated and fine-tuned on the images of one source
  alone, by the original's soft targets. The control differs in that no operation takes place.

Results are appended to a file of JSON lines, finished runs are skipped, and `--report` writes Markdown.

    python benchmarks/data_free.py --report docs/data-free-cifar10.md
"""

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cifar10 import CONTROL, ROOT, Variant, decoded, network, rows_of, spread, variants
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.utils.data import DataLoader

import surgeon
from surgeon.cli.exemplar_options import LEARNING_RATE
from surgeon.data import ImageData, image_config, make_loader, open_data
from surgeon.data.exemplars import Exemplars
from surgeon.data.synthetic import exemplar_data
from surgeon.data.transforms import training_transform
from surgeon.exemplars import SynthesisConfig, synthesize
from surgeon.measure.activations import ClassMeans, class_means
from surgeon.measure.bn import recalibrate
from surgeon.methods.sofm import SofmConfig, map_channels
from surgeon.operate import apply, finetune
from surgeon.operate.record import Stage
from surgeon.tuning import TuningConfig, evaluate, make_accelerator

CLASSES = 10
REAL_IMAGES = 2_000
SOURCES = ("exemplars", "noise", "real images")
STAGES = ("recalibrated", "finetuned")
UNKNOWN_FILE = "0" * 64


def main() -> None:
    """Run what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=ROOT.parent / "shared/data/cifar10", type=Path)
    parser.add_argument("--checkpoints", default=ROOT.parent / "shared/data/checkpoints", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet32"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=32, help="of every source")
    parser.add_argument("--steps", type=int, default=200, help="of making exemplars")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=LEARNING_RATE)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--only", choices=["activations", "surgery"], help="one part of the questions")
    parser.add_argument("--match", default="", help="only the operations whose names hold this text, and the control")
    parser.add_argument("--results", default=ROOT / "benchmarks/results/data_free.jsonl", type=Path)
    parser.add_argument("--report", type=Path, help="write Markdown tables here")
    options = parser.parse_args()
    options.results.parent.mkdir(exist_ok=True)
    done = {tuple(row["key"]): row for row in rows_of(options.results)}
    for key in _keys(options):
        if key not in done:
            done[key] = {"key": list(key), **_run(options, key)}
            with options.results.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
            print(json.dumps(done[key]), flush=True)
    text = _report(options, done)
    print(text)
    if options.report:
        options.report.write_text(text)


def _keys(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    made = (options.images, options.steps)
    tuned = (options.epochs, options.lr, options.batch_size, options.test_images)
    for model in options.models:
        if options.only != "surgery":
            yield ("activations", model, options.seeds, *made)
        if options.only != "activations":
            for seed, name, source in itertools.product(range(options.seeds), _names(options, model), SOURCES):
                yield ("surgery", model, name, source, seed, *made, *tuned)


def _operations(model: str) -> dict[str, Variant]:
    families = variants(model)
    in_place = {name: families["in-place"][name] for name in ("kernel-reactivation", "channel-regeneration")}
    return families["sofm"] | in_place


def _names(options: argparse.Namespace, model: str) -> list[str]:
    return [CONTROL, *(name for name in _operations(model) if options.match in name)]


def _run(options: argparse.Namespace, key: tuple[Any, ...]) -> dict[str, Any]:
    if key[0] == "activations":
        return _activations(options, key[1])
    return _surgery(options, *key[1:5])


@functools.cache
def _exemplars(checkpoints: Path, model_name: str, seed: int, count: int, steps: int) -> tuple[Tensor, Tensor]:
    model = network(argparse.Namespace(checkpoints=checkpoints), model_name)
    return synthesize(model, image_config(model), SynthesisConfig(count, steps, seed=seed), CLASSES)


def _images(options: argparse.Namespace, model_name: str, source: str, seed: int, count: int) -> ImageData:
    config = image_config(network(options, model_name))
    if source == "noise":
        return open_data("random", config, limit=count, seed=seed, classes=CLASSES)
    if source == "real images":
        return open_data(f"hfds/{options.data.resolve()}", config, limit=count, seed=seed)
    pixels, labels = _exemplars(options.checkpoints, model_name, seed, count, options.steps)
    made = Exemplars(pixels, labels, CLASSES, UNKNOWN_FILE, seed, options.steps)
    varied = training_transform(config, small=False, flip=True)
    return exemplar_data(made, config, varied, name=source, file=None, seed=seed)


def _activations(options: argparse.Namespace, model_name: str) -> dict[str, Any]:
    """Give, by layer, correlations of activations with and adjusted Rand indices against 2,000 real images."""
    model = network(options, model_name)
    graph = surgeon.trace(model, torch.zeros(2, *image_config(model).input_size))
    layers = sorted({variant.layer for variant in _operations(model_name).values() if variant.layer})
    seeds = range(options.seeds)

    def means(source: str, seed: int, count: int) -> dict[str, ClassMeans]:
        loader = decoded(_images(options, model_name, source, seed, count).calibration)
        return class_means(model, layers, loader, CLASSES, device="cpu")

    few = options.images
    reference = means("real images", options.seeds, REAL_IMAGES)
    others = {
        f"{REAL_IMAGES:,} other real images": [means("real images", seed, REAL_IMAGES) for seed in seeds],
        f"{few} real images": [means("real images", seed, few) for seed in seeds],
        f"{few} exemplars": [means("exemplars", seed, few) for seed in seeds],
        f"{few} images of noise": [means("noise", seed, few) for seed in seeds],
    }
    result: dict[str, Any] = {}
    for layer in layers:
        nodes = functools.partial(_nodes, graph, layer)
        wanted = nodes(reference[layer], 0)
        profile = _profile(reference[layer])
        result[layer] = {
            "the same images": {
                "correlation": [1.0],
                "overlap": [adjusted_rand_score(wanted, nodes(reference[layer], seed + 1)) for seed in seeds],
            }
        }
        for name, measured in others.items():
            profiles = [_profile(each[layer]) for each in measured]
            result[layer][name] = {
                "correlation": [torch.corrcoef(torch.stack([profile, each]))[0, 1].item() for each in profiles],
                # The map's seed differs too, as it does for the same images.
                "overlap": [
                    adjusted_rand_score(wanted, nodes(each[layer], seed + 1)) for seed, each in enumerate(measured)
                ],
                "among themselves": [
                    torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in itertools.combinations(profiles, 2)
                ],
            }
    return {"layers": result}


def _profile(means: ClassMeans) -> Tensor:
    """Every class's mean activation of every channel, without what the channel shows for all classes, in one row."""
    pooled = means.mean.double().flatten(2).mean(2)
    return (pooled - pooled.mean(0)).flatten()


def _nodes(graph: Any, layer: str, means: ClassMeans, seed: int) -> list[int]:
    """The node of every channel: the one that most classes send it to."""
    carried = max(graph.outputs.carried(layer), key=lambda each: each.group.size)
    counts, _ = map_channels(means, carried, SofmConfig(), torch.Generator().manual_seed(seed))
    nodes: list[int] = counts.argmax(0).tolist()
    return nodes


def _surgery(options: argparse.Namespace, model_name: str, name: str, source: str, seed: int) -> dict[str, Any]:
    """Give top-1 on real test images after every stage."""
    model = network(options, model_name)
    data = _images(options, model_name, source, seed, options.images)
    train = make_loader(data.train, batch_size=options.batch_size, shuffle=True, seed=seed)
    calibration = decoded(data.calibration)
    test = _test(options.checkpoints, options.data, model_name, options.test_images)
    accelerator = make_accelerator()
    top1: dict[str, float] = {}

    def on_stage(stage: Stage) -> None:
        if stage.name in STAGES or name == CONTROL:
            top1[stage.name] = evaluate(model, test, accelerator=accelerator).top1

    tuning = TuningConfig(epochs=options.epochs, lr=options.lr, teacher_weight=1.0, seed=seed)
    common: dict[str, Any] = {
        "calibration": calibration, "epochs": options.epochs, "tuning": tuning, "teacher": "original",
        "synthetic": True, "seed": seed, "accelerator": accelerator, "on_stage": on_stage,
    }  # fmt: skip
    if name == CONTROL:
        # As after an operation, the teacher is the checkpoint before its statistics were measured anew.
        common["teacher"] = network(options, model_name)
        untouched = evaluate(model, test, accelerator=accelerator).top1
        recalibrate(model, calibration, device=accelerator.device)
        finetune(model, train, **common)
        top1 |= {"recalibrated": top1["original"], "original": untouched}
    else:
        variant = _operations(model_name)[name]
        layers = [variant.layer] if variant.layer else []
        apply(model, variant.method, layers, train=train, **common, **variant.options)
    return {"top1": top1}


@functools.cache
def _test(checkpoints: Path, data: Path, model_name: str, count: int) -> DataLoader[Any]:
    """The test images, decoded once."""
    config = image_config(network(argparse.Namespace(checkpoints=checkpoints), model_name))
    return decoded(open_data(f"hfds/{data.resolve()}", config, limit=count).val)


def _report(options: argparse.Namespace, done: dict[tuple[Any, ...], dict[str, Any]]) -> str:
    keys = list(_keys(options))
    lines = []
    if options.only != "surgery":
        lines += _activation_lines(options, [done[key] for key in keys if key[0] == "activations"])
    if options.only != "activations":
        lines += _surgery_lines(options, {key[1:5]: done[key]["top1"] for key in keys if key[0] == "surgery"})
    return "\n".join(lines) + "\n"


def _activation_lines(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"Against {REAL_IMAGES:,} real training images, mean ± standard deviation of {options.seeds} seeds; "
        f"exemplars of {options.steps} steps.",
        "",
        "| network | layer | images | correlation | correlation among themselves | adjusted Rand index of the map |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for layer, sources in row["layers"].items():
            for name, figures in sources.items():
                cells = [spread(figures.get(what, [])) for what in ("correlation", "among themselves", "overlap")]
                lines.append(f"| {row['key'][1]} | {layer} | {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _surgery_lines(options: argparse.Namespace, top1: dict[tuple[Any, ...], dict[str, float]]) -> list[str]:
    lines = [
        f"Top-1 in percent on {options.test_images:,} real test images, mean ± standard deviation of {options.seeds} "
        f"seeds; {options.images} images of every source, {options.epochs} epochs in batches of at most "
        f"{options.batch_size}, learning rate {options.lr:g}, the original's soft targets alone.",
        "",
        "| network | run | images | original | recalibrated | finetuned | finetuned − control, paired |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in options.models:
        for name, source in itertools.product(_names(options, model), SOURCES):
            mine = [top1[model, name, source, seed] for seed in range(options.seeds)]
            control = [top1[model, CONTROL, source, seed]["finetuned"] for seed in range(options.seeds)]
            cells = [spread([each[stage] for each in mine if stage in each]) for stage in ("original", *STAGES)]
            paired = [each["finetuned"] - other for each, other in zip(mine, control, strict=True)]
            cells.append("–" if name == CONTROL else spread(paired, signed=True))
            label = "control (no operation)" if name == CONTROL else name
            lines.append(f"| {model} | {label} | {source} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
