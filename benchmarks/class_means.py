"""The class-mean pass, against a bare forward pass over the same loader in the same run.

Both read the same random images from the same DataLoader and run the same network in evaluation mode without gradient;
the class-mean pass also sums the output of one stage for every class. They take turns; the images a second, their
spread and the ratio of the medians are printed. Goal: at least 0.9 of the bare pass. As a control the bare pass runs
twice in every round: the ratio of it to itself says how far the machine's noise reaches.

    python benchmarks/class_means.py                      ResNet-18, 224 x 224, 1,000 classes, layer4
    python benchmarks/class_means.py --arch cifar         ResNet-20, 32 x 32, 10 classes, layer3
"""

import argparse
import importlib.util
import statistics
from pathlib import Path

import timm
import torch
from interleaved import interleaved, spread
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from surgeon.measure import class_means

MODELS = Path(__file__).resolve().parents[1] / "models"


def cifar_resnet20() -> nn.Module:
    """Build the ResNet-20 of models/cifar_resnet.py."""
    spec = importlib.util.spec_from_file_location("cifar_resnet", MODELS / "cifar_resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.resnet20()
    return model


@torch.no_grad()
def bare_pass(model: nn.Module, loader: DataLoader, device: torch.device) -> None:
    """Run the network over all images and keep nothing."""
    model.eval()
    for images, _ in loader:
        model(images.to(device, non_blocking=True))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measuring_pass(model: nn.Module, loader: DataLoader, device: torch.device, layer: str, classes: int) -> None:
    """Run the network over all images and average the layer's output over the images of each class."""
    class_means(model, [layer], loader, classes, device=device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="a timm name, or cifar (default: %(default)s)")
    parser.add_argument("--layer", help="module to measure (default: layer4, or layer3 of cifar)")
    parser.add_argument("--images", type=int, help="default: 128, or 2048 for cifar")
    parser.add_argument("--batch-size", type=int, help="default: 32, or 128 for cifar")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    cifar = arguments.arch == "cifar"
    size, classes = (32, 10) if cifar else (224, 1000)
    layer = arguments.layer or ("layer3" if cifar else "layer4")
    images = arguments.images or (2048 if cifar else 128)
    batch_size = arguments.batch_size or (128 if cifar else 32)
    device = torch.device(arguments.device)

    generator = torch.Generator().manual_seed(0)
    dataset = TensorDataset(
        torch.randn(images, 3, size, size, generator=generator), torch.randint(classes, (images,), generator=generator)
    )
    loader = DataLoader(dataset, batch_size, num_workers=arguments.workers, persistent_workers=arguments.workers > 0)
    model = (cifar_resnet20() if cifar else timm.create_model(arguments.arch)).to(device)

    seconds = interleaved(
        {
            "bare": lambda: bare_pass(model, loader, device),
            "class means": lambda: measuring_pass(model, loader, device, layer, classes),
            "bare again": lambda: bare_pass(model, loader, device),
        },
        arguments.repetitions,
    )
    print(f"{arguments.arch} at {size} x {size}, {layer}, {images} images in batches of {batch_size}, {device}")
    rates = {name: [images / one for one in values] for name, values in seconds.items()}
    for name, values in rates.items():
        print(f"{name:12} {spread(values, 1)} images/s")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"class means / bare: {medians['class means'] / medians['bare']:.3f}")
    print(f"bare again / bare: {medians['bare again'] / medians['bare']:.3f}")


if __name__ == "__main__":
    main()
