"""Fine-tuning on whole networks and on divided ones, in the same processes; float64, so that rounding does not grow."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pieces import images, network, shuffled
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from surgeon.checkpoint.tree_file import read_tree, write_tree
from surgeon.errors import DataError, DivergenceError, OptionError
from surgeon.processes import count, index
from surgeon.processes.division import local
from surgeon.tuning import Held, Saving, TuningConfig, clear_moments, evaluate, make_accelerator, tune
from surgeon.tuning.distill import Objective
from surgeon.tuning.epoch import train_epoch
from surgeon.tuning.run import Epoch, Run, prepare
from surgeon.tuning.sharding import on_device

BLOCKS = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block"}
LAYERS = {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "30"}


def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"img_size": 6, "patch_size": 3, "embed_dim": 16, "depth": 2, "num_heads": 2}
        return VisionTransformer(in_chans=1, num_classes=3, **sizes).double()


def convolutions() -> nn.Module:
    return network().double()


def data(count: int = 22) -> TensorDataset:
    pixels, labels = images(count).tensors
    return TensorDataset(pixels.double(), labels)


@contextmanager
def launched_with(**configuration: str) -> Iterator[None]:
    """Let this process look as if it had been launched with a configuration of FSDP, or none."""
    before = dict(os.environ)
    if configuration:
        os.environ.update({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **configuration})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def zero_a_filter(model: nn.Module) -> Callable[[int, Optimizer], dict[str, Any]]:
    """Edit the network between the epochs, as an operation that repeats does."""

    def edit(epoch: int, optimizer: Optimizer) -> dict[str, Any]:
        weight = next(parameter for name, parameter in model.named_parameters() if name.endswith("0.weight"))
        with torch.no_grad():
            weight[epoch] = 0
        clear_moments(optimizer, weight, epoch)
        return {"edited": epoch}

    return edit


def hold(model: nn.Module, held: Held) -> Callable[[int, Optimizer], dict[str, Any]]:
    """Hold a filter and single weights at zero in the second of three epochs."""

    def edit(epoch: int, optimizer: Optimizer) -> dict[str, Any]:
        if epoch == 2:
            held.release()
            return {}
        masks = {name: torch.zeros(tensor.shape, dtype=torch.bool) for name, tensor in model.named_parameters()}
        masks["0.weight"][1] = True
        masks["1.weight"][1] = True
        masks["8.weight"][:, ::2] = True
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                tensor.masked_fill_(masks[name], 0)
                clear_moments(optimizer, tensor, masks[name])
        held.hold(masks)
        return {"held": 8}

    return edit


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, str], dict[str, Any]]] = {
    "sgd": (convolutions, {"FSDP_RESHARD_AFTER_FORWARD": "false"}, {"opt": "sgd", "clip_grad": 0.5, "accumulate": 2}),
    "adamw": (convolutions, LAYERS, {"opt": "adamw", "clip_grad": 0.5, "lr": 1e-3}),
    "average": (convolutions, LAYERS, {"opt": "lamb", "model_ema": True, "lr": 1e-2}),
    "held": (convolutions, LAYERS, {"opt": "adamw", "clip_grad": 0.5, "lr": 1e-2, "model_ema": True}),
    "vit, sgd": (vit, BLOCKS, {"opt": "momentum", "clip_grad": 0.5, "freeze": ("patch_embed",)}),
    "vit, adamw": (vit, BLOCKS, {"opt": "adamw", "clip_grad": 0.5, "lr": 1e-3, "layer_decay": 0.7}),
}
FSDP = ("whole", "divided")


def tuned(case: str, **arguments: Any) -> dict[str, Any]:
    make, _, options = CASES[case]
    model, teacher = make(), make() if case == "sgd" else None
    config = TuningConfig(**{"epochs": 3, "lr": 0.05, **options})
    accelerator = make_accelerator(accumulate=config.accumulate)
    accelerator.gradient_accumulation_steps = config.accumulate
    held = Held()
    edits = {"adamw": zero_a_filter(model), "average": zero_a_filter(model), "held": hold(model, held)}
    found = tune(
        model,
        shuffled(data(), batch_size=4),
        DataLoader(data(9), batch_size=4),
        config,
        accelerator=accelerator,
        teacher=teacher,
        between_epochs=edits.get(case),
        held=held,
        **arguments,
    )
    return {
        "weights": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        "best": found.best_state,
        "losses": [(epoch.train_loss, epoch.loss, epoch.top1) for epoch in found.epochs],
        "modes": [module.training for module in model.modules()],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
    }


def resumed(folder: Path) -> dict[str, Any]:
    """Return how a run goes that takes up the states of another, between two epochs and within one."""
    paths: list[Path] = []

    def write(state: dict[str, Any]) -> None:
        paths.append(folder / f"{index()}-{len(paths)}.safetensors")
        write_tree(paths[-1], state)

    through = tuned("average", saving=Saving(write, every=2))
    states = [read_tree(path) for path in paths]
    within = next(state for state in states if state["epoch"] is not None and state["updates"] > 3)
    between = next(state for state in states if state["epoch"] is None and state["updates"] > 3)
    return {"through": through, "within": tuned("average", state=within), "between": tuned("average", state=between)}


def prepared(model: nn.Module) -> Run:
    config, loader = TuningConfig(opt="adamw", epochs=1), shuffled(data(), batch_size=4)
    return prepare(model, loader, config, make_accelerator(), Objective(), (), lambda batches, *rest, **more: batches)


def spoilt() -> str:
    """Return why no state is saved of a network of which one process has a NaN in its part."""
    run = prepared(vit())
    if index() == 1:
        local(run.module.head.weight).data[0, 0] = torch.nan
    try:
        Saving(lambda state: None).save(run)
    except DivergenceError as error:
        return str(error)
    return ""


def shares() -> dict[str, tuple[int, int]]:
    """Return how many numbers of the weights, gradients and moments this process has, and how many there are."""
    model = vit()
    run = prepared(model)
    gradients: list[int] = []
    inner = run.optimizer.optimizer
    step = inner.step
    inner.step = lambda *given: (gradients.append(sum(local(p.grad).numel() for p in run.module.parameters())), step())
    train_epoch(run, Epoch(0, run.lr))
    all_of_them = sum(parameter.numel() for parameter in model.parameters())
    remembered = [value for memory in inner.state.values() for value in memory.values() if value.dim()]
    return {
        "weights": (sum(local(p).numel() for p in run.module.parameters()), all_of_them),
        "gradients": (max(gradients), all_of_them),
        "moments": (sum(local(value).numel() for value in remembered), 2 * all_of_them),
    }


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.linear = nn.Linear(36, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scale * self.linear(pixels.flatten(1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.two.weight = self.one.weight

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(pixels.flatten(1))))


def refused(network: Callable[[], nn.Module] = Scaled, **options: Any) -> str:
    """Return why a network, or an optimizer, is refused, or nothing."""
    pixels, labels = images(8).tensors
    loader = DataLoader(TensorDataset(pixels, labels), batch_size=4)
    try:
        tune(network(), loader, loader, TuningConfig(epochs=1, **options), accelerator=make_accelerator())
    except OptionError as error:
        return str(error)
    return ""


def penalized() -> dict[str, torch.Tensor]:
    """Return the weights that whole networks learn with the orthogonal loss; the last batch cannot be halved."""
    model, loader = convolutions(), shuffled(data(21), batch_size=8 // count())
    config = TuningConfig(epochs=2, lr=0.05, accumulate=2, orthogonal_loss=0.05)
    tune(model, loader, DataLoader(data(9), batch_size=4), config, accelerator=make_accelerator())
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def run_all() -> dict[str, Any]:
    """Return what comes out, by kind and case."""
    found: dict[str, Any] = {kind: {} for kind in FSDP}
    for case, (_, configuration, _) in CASES.items():
        with launched_with():
            found["whole"][case] = tuned(case)
        with launched_with(**configuration):
            found["divided"][case] = tuned(case)
    with launched_with():
        found["penalized"] = penalized()
    with launched_with(**LAYERS):
        found["resumed"] = resumed(Path(os.environ["FOLDER"]))
    with launched_with(**BLOCKS):
        found["shares"] = shares()
        found["spoilt"] = spoilt()
        found["no such class"] = refused(freeze=("scale",))
    with launched_with(**LAYERS):
        found["tied in two units"] = refused(Tied)
    with launched_with(FSDP_AUTO_WRAP_POLICY="NO_WRAP"):
        found["tied in one unit"] = refused(Tied)
        found["orthogonal loss"] = refused(network, orthogonal_loss=0.1)
        found["frozen scalar"] = refused(freeze=("scale",))
        found["scalar"] = refused()
        found["channels last"] = refused(freeze=("scale",), channels_last="yes")
        found["optimizer"] = {
            name: refused(freeze=("scale",), opt=name) for name in ("adahessian", "muon", "lookahead_radam")
        }
        model = convolutions()
        accelerator = make_accelerator()
        with on_device(model, "cpu") as divided:
            found["evaluated"] = evaluate(divided, DataLoader(data(5), batch_size=2), accelerator=accelerator).images
        try:
            evaluate(model, DataLoader(data(1)), accelerator=accelerator)
        except DataError as error:
            found["one image"] = str(error)
    return found
