"""Folders of images: a folder a class, with or without a folder a split."""

import os
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch
from PIL.Image import Image
from torchvision.datasets import ImageFolder

from surgeon.bounded_file import open_regular
from surgeon.checkpoint.display import listed
from surgeon.data.images import LabelledImages
from surgeon.errors import DataError
from surgeon.printable import printable

TRAINING = "train"
VALIDATIONS = ("val", "validation", "test")

_REMEDY = "Give a folder with one folder of images a class, or with train/ and val/ of such folders."


@dataclass(frozen=True)
class Splits:
    """The images of a data set, as far as it divides them itself.

    Args:
        train: the training images, or all of them.
        val: the validation images; None where the data set has no second split.
        training_notes: what a reader of the results of training should know.
    """

    train: LabelledImages
    val: LabelledImages | None
    training_notes: tuple[str, ...] = ()


class _Classes(ImageFolder):
    """torchvision's ImageFolder, but hidden folders are no classes."""

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = sorted(folder.name for folder in _folders(Path(directory)))
        return names, {name: label for label, name in enumerate(names)}


def open_folder(root: Path) -> Splits:
    """Find the images of a folder, without reading any.

    Args:
        root: with one folder a class, or with train/ and one of val/, validation/ and test/.

    Raises:
        DataError: it is missing or no folder, or its classes have no images or differ between its splits.
    """
    try:
        _check_folder(root)
        return _splits(root)
    except (OSError, ValueError) as error:
        problem = f"The folder {printable(str(root))} cannot be read: {printable(str(error))}."
        raise DataError(problem, "Check its permissions.") from error


def _splits(root: Path) -> Splits:
    validation = next((root / name for name in VALIDATIONS if _is_split(root / name)), None)
    training = root / TRAINING if _is_split(root / TRAINING) else None
    if training is None:
        return Splits(_images(validation or root), None)
    if validation is None:
        return Splits(_images(training), None)
    splits = Splits(_images(training), _images(validation), validation_notes(validation.name))
    _check_same_classes(splits, training, validation)
    return splits


def validation_notes(name: str) -> tuple[str, ...]:
    """A caution, where the only validation images are a test set."""
    return ("The test split serves for validation: its scores choose the best epoch.",) if name == "test" else ()


def _is_split(folder: Path) -> bool:
    """A class may be named like a split: a split has folders in it."""
    return folder.is_dir() and bool(_folders(folder))


def _folders(folder: Path) -> list[Path]:
    return [Path(entry) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"The data {printable(str(root))} does not exist.", _REMEDY)
    if not root.is_dir():
        raise DataError(f"The data {printable(str(root))} is no folder.", _REMEDY)


def _images(root: Path) -> LabelledImages:
    if not _folders(root):
        raise DataError(f"The folder {printable(str(root))} has no folders of classes in it.", _REMEDY)
    folder = _Classes(str(root), allow_empty=True)
    labels = torch.tensor(folder.targets, dtype=torch.int64)
    counts = torch.bincount(labels, minlength=len(folder.classes))
    empty = [name for name, count in zip(folder.classes, counts.tolist(), strict=True) if count == 0]
    if empty:
        raise DataError(
            f"The folder {printable(str(root))} has no images for the classes {listed(empty)}.",
            "Put .jpg, .png, .bmp, .ppm, .pgm, .tif or .webp images into them, or remove them.",
        )
    paths = _Paths([path for path, _ in folder.samples])
    return LabelledImages(tuple(folder.classes), labels, paths.read, paths.where, paths.paths)


@dataclass(frozen=True)
class _Paths:
    paths: list[str]

    def read(self, index: int) -> Image:
        with open_regular(Path(self.paths[index])) as file, PIL.Image.open(file) as image:
            image.load()
            return image

    def where(self, index: int) -> str:
        return self.paths[index]


def _check_same_classes(splits: Splits, training: Path, validation: Path) -> None:
    assert splits.val is not None
    differing = sorted(set(splits.train.classes) ^ set(splits.val.classes))
    if differing:
        first, second = printable(str(training)), printable(str(validation))
        raise DataError(
            f"The classes of {first} and {second} differ in {listed(differing)}.",
            "Give both the same folders of classes.",
        )
