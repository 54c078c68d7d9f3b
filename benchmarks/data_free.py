"""Surgery without data: what exemplars are worth, against noise and against as many real images.

On others' CIFAR-10 ResNets, three questions:
- Do exemplars activate the channels as real images do? Class-representative activations (averaged over the image, each
  channel's mean over the classes taken off) are correlated with those of 2,000 real training images. Yardsticks: 2,000
  other real images, as many real images as there are exemplars, and noise.
- Does `sofm` put the same channels together? Two measures against the map of the 2,000 images: the nodes that most
  classes send a channel to are a partition of the channels, compared by the adjusted Rand index (1: equal, 0 on average
  for chance); and for every two channels, how many of the classes send both to one node, compared by correlation.
  Yardsticks: the map begun at random by another seed, on the same images, and every source against itself.
- What is left of top-1 on real test images? Every operation is recalibrated and fine-tuned on the images of one source
  alone, by the original's soft targets. The control differs in that no operation takes place. Beside it stands what a
  user without real images is told: agreement with the original, on the images of the source.

Results are appended to a file of JSON lines, finished runs are skipped, and `--report` writes Markdown.

    python benchmarks/data_free.py --report docs/data-free-cifar10.md
"""

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

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
from surgeon.tuning import TuningConfig, compare_logits, evaluate, logits, make_accelerator

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
    made = Exemplars(pixels, labels, CLASSES, UNKNOWN_FILE, seed, options.steps, UNKNOWN_FILE)
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
        begun = functools.partial(_votes, graph, layer)
        wanted = begun(reference[layer], 0)
        profile = _profile(reference[layer])
        anew = [begun(reference[layer], seed + 1, init="random") for seed in seeds]
        result[layer] = {"the same images, the map begun at random": _likeness(wanted, anew)}
        for name, measured in others.items():
            profiles = [_profile(each[layer]) for each in measured]
            # The map's seed differs too, though from principal components it changes next to nothing.
            votes = [begun(each[layer], seed + 1) for seed, each in enumerate(measured)]
            result[layer][name] = {
                "correlation": [_correlation(profile, each) for each in profiles],
                "correlation among themselves": [_correlation(*pair) for pair in itertools.combinations(profiles, 2)],
                **_likeness(wanted, votes),
            }
    return {"layers": result}


def _likeness(wanted: Tensor, others: list[Tensor]) -> dict[str, list[float]]:
    """Return how like a map is to others, and they to one another, by partition and by what is sent together."""
    pairs = list(itertools.combinations(others, 2))
    return {
        "partition": [_same_partition(wanted, each) for each in others],
        "partition among themselves": [_same_partition(*pair) for pair in pairs],
        "together": [_correlation(_together(wanted), _together(each)) for each in others],
        "together among themselves": [_correlation(*map(_together, pair)) for pair in pairs],
    }


def _same_partition(first: Tensor, second: Tensor) -> float:
    """The adjusted Rand index of the nodes that most classes send the channels to."""
    return float(adjusted_rand_score(first.argmax(0).tolist(), second.argmax(0).tolist()))


def _together(votes: Tensor) -> Tensor:
    """How often two channels come to one node, over two classes drawn apart, for every pair of channels."""
    shares = votes.double() / votes.sum(0)
    among = shares.T @ shares
    return among[torch.triu(torch.ones_like(among), diagonal=1) > 0]


def _correlation(first: Tensor, second: Tensor) -> float:
    return torch.corrcoef(torch.stack([first, second]))[0, 1].item()


def _profile(means: ClassMeans) -> Tensor:
    """Every class's mean activation of every channel, without what the channel shows for all classes, in one row."""
    assert bool((means.count > 0).all()), "every class has an image"
    pooled = means.mean.double().flatten(2).mean(2)
    return (pooled - pooled.mean(0)).flatten()


def _votes(graph: Any, layer: str, means: ClassMeans, seed: int, init: Literal["pca", "random"] = "pca") -> Tensor:
    """How many classes send every channel to every node, int64 [nodes, channels]."""
    carried = max(graph.outputs.carried(layer), key=lambda each: each.group.size)
    votes, _ = map_channels(means, carried, SofmConfig(init=init), torch.Generator().manual_seed(seed))
    return votes


def _surgery(options: argparse.Namespace, model_name: str, name: str, source: str, seed: int) -> dict[str, Any]:
    """Give top-1 on real test images after every stage, and agreement with the original on the source's images."""
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
    answers = [logits(each, calibration, accelerator=accelerator) for each in (network(options, model_name), model)]
    drift, agreement = compare_logits(*answers)
    return {"top1": top1, "agreement": agreement, "drift": drift}


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
        lines += _surgery_lines(options, {key[1:5]: done[key] for key in keys if key[0] == "surgery"})
    return "\n".join(lines) + "\n"


def _activation_lines(options: argparse.Namespace, rows: list[dict[str, Any]]) -> list[str]:
    columns = ("correlation", "partition", "together")
    lines = [
        f"Against {REAL_IMAGES:,} real training images, and in brackets of a source's seeds among themselves; mean ± "
        f"standard deviation of {options.seeds} seeds; exemplars of {options.steps} steps.",
        "",
        "| network | layer | images | activations: correlation | map: adjusted Rand index | map: sent together, "
        "correlation |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for layer, sources in row["layers"].items():
            for name, figures in sources.items():
                cells = [
                    f"{spread(figures[what])} ({spread(figures[f'{what} among themselves'])})"
                    if what in figures
                    else "–"
                    for what in columns
                ]
                lines.append(f"| {row['key'][1]} | {layer} | {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _surgery_lines(options: argparse.Namespace, rows: dict[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    lines = [
        f"Top-1 in percent on {options.test_images:,} real test images, mean ± standard deviation of {options.seeds} "
        f"seeds; {options.images} images of every source, {options.epochs} epochs in batches of at most "
        f"{options.batch_size}, learning rate {options.lr:g}, the original's soft targets alone. Agreement is on the "
        "source's own images after fine-tuning. merge=mean has random new consumers, merge=preserve zero ones.",
        "",
        "| network | run | images | agreement | recalibrated | finetuned | finetuned − untouched | "
        "finetuned − control, paired |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in options.models:
        seeds = range(options.seeds)
        untouched = rows[model, CONTROL, SOURCES[0], 0]["top1"]["original"]
        lines.append(f"| {model} | untouched | | | {untouched:.2f} | {untouched:.2f} | | |")
        for name, source in itertools.product(_names(options, model), SOURCES):
            mine = [rows[model, name, source, seed] for seed in seeds]
            control = [rows[model, CONTROL, source, seed]["top1"]["finetuned"] for seed in seeds]
            tuned = [each["top1"]["finetuned"] for each in mine]
            cells = [
                spread([100 * each["agreement"] for each in mine]),
                spread([each["top1"]["recalibrated"] for each in mine if "recalibrated" in each["top1"]]),
                spread(tuned),
                spread([each - untouched for each in tuned], signed=True),
                spread([each - other for each, other in zip(tuned, control, strict=True)], signed=True),
            ]
            if name == CONTROL:
                cells[-1] = "–"
            label = "control (no operation)" if name == CONTROL else name
            lines.append(f"| {model} | {label} | {source} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
