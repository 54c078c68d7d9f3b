"""Accuracy while the channels of a layer are taken away, the strongest first (figure 6 of channel regeneration)."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from surgeon.coupling.graph import CouplingGraph, Layer, Norm
from surgeon.errors import LayerError, SurgeonError
from surgeon.report.drawing import DASHES, MARKERS, SERIES, line_width, picture, sheet
from surgeon.report.images import Images
from surgeon.report.panel import Missing, Panel, Table, brief, in_words
from surgeon.report.records import Run
from surgeon.tuning import evaluate

TITLE = "Accuracy while the strongest channels are ablated"
STEPS = 12
"""Numbers of channels, from none to all, at which the accuracy is measured."""


def ablation_chart(
    models: Mapping[str, nn.Module], graph: CouplingGraph, run: Run, images: Images, layer: str | None
) -> Panel:
    """Return the accuracy against the number of channels of one layer that are set to zero.

    Args:
        models: by name; they are left as they were.
        graph: their coupling graph.
        run: of the layers that it edited the middle one is taken.
        images: whose validation images are asked about.
        layer: another layer, or None.

    Source: Sharma, Foroosh, Channel Regeneration, figure 6: the channels are sorted by their γ, and weight and bias of
        the largest k are set to zero.
    """
    if not images.real:
        return Missing(TITLE, f"The labels of {images.name} are nobody's judgement.", "Give real images with --data.")
    try:
        name, norm = _chosen(graph, run, layer)
        counts = _steps(next(iter(models.values())).get_parameter(str(norm.weight)).numel())
        curves = {label: ablated(model, norm, counts, images) for label, model in models.items()}
    except SurgeonError as error:
        return Missing(TITLE, error.problem, error.remedy)
    with sheet(3.4) as figure:
        axes = figure.add_subplot()
        for number, (label, values) in enumerate(curves.items()):
            axes.plot(
                counts, values, color=SERIES[number], linestyle=DASHES[number], marker=MARKERS[number],
                linewidth=line_width(number), label=brief(label),
            )  # fmt: skip
        axes.set_xlabel(f"channels of {name} set to zero, largest |γ| first")
        axes.set_ylabel("top-1 (%)")
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")
        rows = tuple(
            (label, count, value)
            for label, values in curves.items()
            for count, value in zip(counts, values, strict=True)
        )
        told = [f"{label} {in_words(values, ' %')}" for label, values in curves.items()]
        caption = (
            f"top-1 on the validation images of {images.name} while the channels of {name} with the largest |γ| are "
            f"set to zero, more and more of them: {'; '.join(told)}. Where channels contribute alike, it falls "
            "gradually."
        )
        return picture(figure, "ablation", TITLE, caption, Table(("network", "channels at zero", "top-1 %"), rows))


@torch.no_grad()
def ablated(model: nn.Module, norm: Norm, counts: Sequence[int], images: Images) -> list[float]:
    """Return a network's top-1, in percent, while its strongest channels give zero.

    Args:
        model: the network; it is left as it was.
        norm: the BatchNorm of the channels, with a scale.
        counts: numbers of channels.
        images: whose validation images are asked about.
    """
    tensors = [model.get_parameter(key) for key in (norm.weight, norm.bias) if key is not None]
    kept = [tensor.clone() for tensor in tensors]
    order = kept[0].abs().argsort(descending=True, stable=True)
    reached = []
    try:
        for count in counts:
            for tensor in tensors:
                tensor[order[:count].to(tensor.device)] = 0
            reached.append(evaluate(model, images.val, accelerator=images.accelerator, track=images.track).top1)
    finally:
        for tensor, before in zip(tensors, kept, strict=True):
            tensor.copy_(before)
    return reached


def _steps(channels: int) -> list[int]:
    return sorted({round(channels * step / (STEPS - 1)) for step in range(STEPS)})


def _chosen(graph: CouplingGraph, run: Run, layer: str | None) -> tuple[str, Norm]:
    """Return the layer whose channels are ablated, and its BatchNorm.

    Raises:
        LayerError: there is none.
    """
    normed = [one for one in graph.layers if one.convolution and _norm(one) is not None]
    if layer is not None:
        normed = [one for one in normed if layer in one.names or one.name.startswith(f"{layer}.")]
    else:
        edited = {edit.tensor for edit in run.edits}
        normed = [one for one in normed if one.writer is not None and one.writer.weight in edited] or normed
    middle = normed[len(normed) // 2] if normed else None
    norm = None if middle is None else _norm(middle)
    if middle is None or norm is None:
        raise LayerError(
            f"No convolution {'' if layer is None else f'in {layer} '}has a BatchNorm with scales right behind it.",
            "Name a layer of the network with --layer.",
        )
    return middle.name, norm


def _norm(layer: Layer) -> Norm | None:
    norm = None if layer.writer is None else layer.writer.norm
    return None if norm is None or norm.weight is None else norm
