"""Class-representative activations, before and after (figure 2 of the SOFM paper)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from surgeon.coupling.graph import CouplingGraph
from surgeon.errors import LayerError, SurgeonError
from surgeon.measure.activations import ClassMeans, class_means
from surgeon.operate.inputs import num_outputs
from surgeon.report.drawing import picture, sheet
from surgeon.report.images import Images
from surgeon.report.panel import Missing, Panel, Table, brief, cut
from surgeon.report.records import Run
from surgeon.tuning.sharding import on_device

TITLE = "Class-representative activations"
MOST_CLASSES, SIDE = 3, 14
"""Classes that are shown place by place, and the side of a feature map that is."""

MOST_CHANNELS = 512
LONGEST_CLASS = 12
"""Letters of a class beside its feature maps."""

EDGE = 0.99
"""Share of the activations that the colours tell apart; what is larger has the last one."""


def activations_chart(
    models: Mapping[str, nn.Module], graph: CouplingGraph, run: Run, images: Images, layer: str | None
) -> Panel:
    """Return what the channels of a layer show for every class, network by network.

    Args:
        models: by name, in the order of the columns.
        graph: their coupling graph.
        run: whose first target is shown.
        images: whose validation images are averaged by class.
        layer: another module to show, or None.
    """
    try:
        name = layer or (run.targets[0] if run.targets else graph.outputs.deepest())
        if name is None:
            raise LayerError("No module of the network gives feature maps.", "Name one with --layer.")
        # One network after the other: the means of a thousand classes may take gigabytes.
        answers = {label: _answer(_means(model, name, images), name) for label, model in models.items()}
    except SurgeonError as error:
        return Missing(TITLE, error.problem, error.remedy)
    return _drawn(answers, name, images)


@dataclass(frozen=True, eq=False)
class _Answer:
    """What is shown of a network's class means.

    Attributes:
        classes: labels that have images.
        count: images of each.
        columns: channels by classes, averaged over places: float32 `[C, classes]`.
        maps: feature maps of the first classes as rows: float32 `[C, places]`.
        numbers: mean, standard deviation and largest of all channels, for each class.
        channels: number of channels; `columns` and `maps` have at most 512.
    """

    classes: tuple[int, ...]
    count: tuple[int, ...]
    columns: Tensor
    maps: tuple[Tensor, ...]
    numbers: tuple[tuple[float, float, float], ...]
    channels: int


def _answer(means: ClassMeans, name: str) -> _Answer:
    """Return what is shown of class means.

    Raises:
        LayerError: they are no feature maps.
    """
    shape = means.mean.shape
    if len(shape) != 4:
        reason = f"The output of {name} has the shape {list(shape[1:])}, and is no feature map."
        raise LayerError(reason, "Name another module with --layer.")
    classes = means.count.nonzero().flatten()
    channels = means.mean.mean((2, 3))
    numbers = tuple((float(one.mean()), float(one.std(correction=0)), float(one.max())) for one in channels)
    return _Answer(
        tuple(classes.tolist()),
        tuple(means.count[classes].tolist()),
        channels[:, :MOST_CHANNELS].T.clone(),
        tuple(_flat(one[:MOST_CHANNELS]) for one in means.mean[:MOST_CLASSES]),
        numbers,
        shape[1],
    )


def _means(model: nn.Module, name: str, images: Images) -> ClassMeans:
    device = images.accelerator.device
    with on_device(model, device) as placed:
        found = class_means(
            placed, (name,), images.val, num_outputs(model), device=device, track=images.track
        )[name]  # fmt: skip
    model.cpu()
    return ClassMeans(found.mean.cpu(), found.count)


def _drawn(answers: Mapping[str, _Answer], name: str, images: Images) -> Panel:
    first = next(iter(answers.values()))
    shown = first.classes[:MOST_CLASSES]
    with sheet(1.0 + 1.9 * (1 + len(shown))) as figure:
        grid = figure.subplots(1 + len(shown), len(answers), squeeze=False)
        everything = torch.cat([part.flatten() for one in answers.values() for part in (one.columns, *one.maps)])
        low, high = (float(_quantile(everything, share)) for share in (1 - EDGE, EDGE))
        colours = {"cmap": "viridis", "vmin": low, "vmax": high, "interpolation": "none", "aspect": "auto"}
        for column, (label, one) in enumerate(answers.items()):
            for axes, values in zip(grid[:, column], (one.columns, *one.maps), strict=True):
                drawn = axes.imshow(values.numpy(), **colours)
                axes.grid(visible=False)
                axes.tick_params(labelleft=column == 0)
            grid[0, column].set_title(brief(label, LONGEST_CLASS))
            grid[0, column].set_xlabel("class")
            grid[-1, column].set_xlabel("place")
        grid[0, 0].set_ylabel("channel, all classes")
        for axes, label_of_class in zip(grid[1:, 0], shown, strict=True):
            axes.set_ylabel(f"channel, class {brief(images.called(label_of_class), LONGEST_CLASS)}")
        figure.colorbar(drawn, ax=grid.ravel().tolist(), label="mean activation", shrink=0.6)
        rows_of_numbers = tuple(
            (label, images.called(number), count, *numbers)
            for label, one in answers.items()
            for number, count, numbers in zip(one.classes, one.count, one.numbers, strict=True)
        )
        columns = ("network", "class", "images", "mean", "standard deviation over channels", "largest channel")
        caption = (
            f"Mean output of {name} over the validation images of {images.name}, class by class; a row of pixels for "
            f"each of {len(first.columns)} channels. Above: averaged over places, a column for each of "
            f"{len(first.classes)} classes. Below: the feature maps of class {', '.join(map(images.called, shown))}, "
            f"flattened. From left to right: {', '.join(answers)}. Channels that have merged look alike."
            f"{cut(MOST_CHANNELS, first.channels, 'channels')}"
        )
        return picture(figure, "activations", TITLE, caption, Table(columns, rows_of_numbers))


def _flat(feature: Tensor) -> Tensor:
    """Return feature maps `[C, H, W]` as rows `[C, places]`, at most 14x14 places each."""
    height, width = (min(length, SIDE) for length in feature.shape[1:])
    return adaptive_avg_pool2d(feature, (height, width)).flatten(1)


def _quantile(values: Tensor, share: float) -> Tensor:
    # torch.quantile takes 16 million values at most.
    ordered = values[values.isfinite()].sort().values
    return ordered[round(share * (len(ordered) - 1))] if len(ordered) else values.new_zeros(())
