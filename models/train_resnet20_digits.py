"""Train ResNet-20 on the embedded digits: the recipe of `resnet20-digits.safetensors`, which lies beside this file."""

from pathlib import Path

import click
import torch
from cifar_resnet import CifarResNet, resnet20

from surgeon.checkpoint import Architecture, refuse_existing, save
from surgeon.data import ImageData, image_config, make_loader, open_data
from surgeon.errors import OutputError
from surgeon.tuning import EpochRecord, Tuned, TuningConfig, make_accelerator, tune

HERE = Path(__file__).resolve().parent
ARCHITECTURE = "models/cifar_resnet.py:resnet20"
BATCH_SIZE = 64


def new_network(classes: int, seed: int) -> CifarResNet:
    """Return an untrained ResNet-20 whose weights follow the seed.

    Args:
        classes: number of classes.
        seed: at least 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return resnet20(num_classes=classes)


def train(model: CifarResNet, data: ImageData, epochs: int, seed: int) -> Tuned:
    """Train by SGD with Nesterov momentum, from a learning rate of 0.1 along a cosine, after a warmup.

    Args:
        model: trained in place.
        data: training and validation images.
        epochs: at least 1.
        seed: at least 0.
    """
    config = TuningConfig(epochs=epochs, lr=0.1, weight_decay=5e-4, warmup_epochs=min(2, epochs - 1), seed=seed)
    return tune(
        model,
        make_loader(data.train, batch_size=BATCH_SIZE, shuffle=True, seed=seed),
        make_loader(data.val, batch_size=BATCH_SIZE),
        config,
        accelerator=make_accelerator(config.mixed_precision),
        on_epoch=tell,
    )


def tell(record: EpochRecord) -> None:
    """Print one line an epoch."""
    click.echo(
        f"epoch {record.epoch + 1:3d}  train loss {record.train_loss:.4f}  top-1 {record.top1:6.2f} %"
        f"  {record.images_per_second:.0f} images/s",
        err=True,
    )


@click.command()
@click.option("--epochs", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=HERE / "resnet20-digits.safetensors",
    help="The checkpoint to write.  [default: resnet20-digits.safetensors beside this file]",
)
@click.option("--overwrite", is_flag=True, help="Replace the checkpoint if it exists.")
def main(epochs: int, seed: int, out: Path, overwrite: bool) -> None:
    """Train ResNet-20 on the embedded digits and save the weights of the last epoch."""
    try:
        refuse_existing(out, overwrite)
    except OutputError as error:
        raise click.ClickException(str(error)) from error
    model = new_network(classes=10, seed=seed)
    data = open_data("digits", image_config(model), seed=seed)
    last = train(model, data, epochs, seed).epochs[-1]
    save(
        out,
        model,
        architecture=Architecture("file", ARCHITECTURE, {"num_classes": model.num_classes}),
        metadata={"dataset": data.name, "epochs": str(epochs), "seed": str(seed), "top1": f"{last.top1:.2f}"},
        overwrite=overwrite,
    )
    click.echo(f"{out}: top-1 {last.top1:.2f} % on the validation images of {data.name}")


if __name__ == "__main__":
    main()
