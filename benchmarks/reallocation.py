"""Are other widths exact? Dead channels are removed from networks, and channels are added, and all of it is counted.

Of every family of channel groups that can be resized and has BatchNorm scales, a share of the channels gets scales of
zero, at random. Then, on one image:
- Utilization tells how many parameters and operations are left without them, and so does the cost at other widths.
  Both must be what the network has once they are removed, to the last unit: counted over its parameters, and by
  `torch.utils.flop_counter`.
- A float64 copy with random weights must compute what it computes with nothing reading them, up to rounding, and
  recorded anew must have the channel groups predicted.
- Then every group that can be resized is grown, and the same must hold.

    python benchmarks/reallocation.py [--dead 0.3] [--networks resnet50 models/cifar_vgg.py:vgg19]
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import surgeon
from surgeon.checkpoint import build
from surgeon.checkpoint.architecture import parse_architecture
from surgeon.coupling.graph import ChannelGroup, CouplingGraph
from surgeon.edit.execute import execute
from surgeon.edit.plan import Plan, Resize, Width
from surgeon.edit.resizable import families, unresizable
from surgeon.edit.resized import prove_resize
from surgeon.errors import SurgeonError
from surgeon.measure.cost import cost
from surgeon.measure.utilization import dead_groups, utilization

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = """models/cifar_vgg.py:vgg19 models/cifar_resnet.py:resnet56 models/cifar_densenet.py:densenet40 resnet50
seresnet50 resnext50_32x4d mobilenetv1_100 mobilenetv2_100 mobilenetv3_large_100 efficientnet_b0 densenet121
regnety_008 inception_v3 torchvision:googlenet res2net50_26w_4s ghostnet_100 mixnet_s hrnet_w18_small dla34
torchvision:shufflenet_v2_x1_0""".split()
COLUMNS = ("network", "groups", "left alone", "channels", "parameters", "MFLOPs", "counted", "difference", "seconds")
Result = TypeVar("Result")
Cost = tuple[int, int]


def main() -> None:
    """Print a table, and exit with 1 where a prediction fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="ARCH", help="spelt as for `surgeon --arch`")
    parser.add_argument("--dead", type=float, default=0.3, help="share of the channels that die")
    parser.add_argument("--grow", type=float, default=0.25, help="share of the channels that are added afterwards")
    parser.add_argument("--side", type=int, default=96, help="of the images, where a network is not made for 32 pixels")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    failures: list[str] = []
    for name in options.networks:
        architecture = str(ROOT / name) if name.startswith("models/") else name
        torch.manual_seed(0)
        model = build(parse_architecture(architecture)).eval()
        side = 32 if name.startswith("models/") else options.side
        for row in _rows(model, name, torch.randn(2, 3, side, side), options, failures):
            print("| " + " | ".join(row) + " |", flush=True)
    for failure in failures:
        print(failure)
    sys.exit(bool(failures))


def _rows(
    model: nn.Module, name: str, images: Tensor, options: argparse.Namespace, failures: list[str]
) -> list[tuple[str, ...]]:
    """Remove what is dead from a network, grow it, and return a row for each."""
    graph = surgeon.trace(model, images)
    count = len(graph.groups)
    reasons, asked = _timed(lambda: unresizable(model, graph, graph.groups, images))
    if reasons:
        print(
            f"{name}: {len(reasons)} groups are left alone; the first: {next(iter(reasons.values()))}", file=sys.stderr
        )
    chosen = [group for group in graph.groups if group not in reasons]
    _kill(model, graph, chosen, options.dead)
    tensors = model.state_dict(keep_vars=True)
    dead = dead_groups(graph, tensors)
    used = utilization(graph, tensors)
    widths = [Width(group, _others(group, numbers), 0) for group, numbers in dead.items()]
    predicted = cost(graph, tensors, {width.group: width.size for width in widths})
    if predicted != (used.effective_parameters, used.effective_flops):
        failures.append(f"{name}: utilization and the cost without the dead channels disagree.")
    first = _row(model, f"{name}, dead removed", images, widths, predicted, failures)
    graph = surgeon.trace(model, images)
    left = unresizable(model, graph, graph.groups, images)
    chosen = [group for group in graph.groups if group not in left]
    widths = [Width(group, torch.arange(group.size), max(1, round(options.grow * group.size))) for group in chosen]
    sizes = {width.group: width.size for width in widths}
    second = _row(
        model, f"{name}, grown", images, widths, cost(graph, model.state_dict(keep_vars=True), sizes), failures
    )
    return [
        (first[0], str(count), str(len(reasons)), *first[1:-1], f"{asked:.1f} + {first[-1]}"),
        (second[0], str(len(graph.groups)), str(len(left)), *second[1:]),
    ]


def _row(
    model: nn.Module, name: str, images: Tensor, widths: Sequence[Width], predicted: Cost, failures: list[str]
) -> tuple[str, ...]:
    """Give a network other widths, and return what was predicted, what is counted, and how far its outputs are."""
    edit = Resize(tuple(widths), seed=0)
    try:
        difference = f"{prove_resize(model, edit, images):.0e}"
    except SurgeonError as error:
        difference = "wrong"
        failures.append(f"{name}: {error}")
    _, seconds = _timed(lambda: execute(model, Plan("reallocation", {}, (), (edit,))))
    counted = _counted(model, images[:1])
    if counted != predicted:
        failures.append(f"{name}: {predicted} parameters and operations were predicted, and {counted} counted.")
    changed = sum(width.dropped.numel() + width.add for width in widths)
    return (
        name,
        str(changed),
        f"{predicted[0]:,}",
        f"{predicted[1] / 1e6:,.6f}",
        "the same" if counted == predicted else f"{counted[0]:,}, {counted[1] / 1e6:,.6f}",
        difference,
        f"{seconds:.1f}",
    )


def _kill(model: nn.Module, graph: CouplingGraph, groups: Sequence[ChannelGroup], share: float) -> None:
    """Give random channels BatchNorm scales of zero, as many in each group of a family; all others random ones."""
    tensors = model.state_dict(keep_vars=True)
    scales = {norm.weight for norm in graph.norms.values() if norm.weight is not None}
    for key in sorted(scales):
        nn.init.uniform_(tensors[key], 0.5, 1.5)
    for family in families(graph, groups):
        for group in family:
            numbers = torch.randperm(group.size)[: min(int(share * group.size), group.size - 2)]
            for member in group.members:
                if member.tensor in scales:
                    tensors[member.tensor].data[member.positions[numbers].flatten()] = 0


def _others(group: ChannelGroup, dead: Tensor) -> Tensor:
    return torch.tensor(sorted(set(range(group.size)) - set(dead.tolist())))


def _counted(model: nn.Module, image: Tensor) -> Cost:
    """Return the number of parameters, and the operations for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops()


def _timed(call: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


if __name__ == "__main__":
    main()
