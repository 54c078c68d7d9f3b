"""Data sets by the names of timm's factory: torch/…, hfds/…, and the streams wds/…, tfds/… and hfids/…."""

import io
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib import error as url_error
from urllib import request

import PIL.Image
import torch
from PIL.Image import Image
from timm.data import create_dataset
from torch import Tensor

from surgeon.bounded_file import open_regular
from surgeon.checkpoint.display import listed, shown
from surgeon.data.folder import Splits, validation_notes
from surgeon.data.images import LabelledImages
from surgeon.errors import DataError

TORCH, HUGGING_FACE = "torch", "hfds"
STREAMS = ("wds", "tfds", "hfids")
DEFAULT_ROOT = Path("data")
VALIDATIONS = ("validation", "val", "valid", "test")
SECONDS_TO_ANSWER = 10

# What the libraries behind timm's factory raise on names, folders and files that they do not find or know.
FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


def prefix(spec: str) -> str:
    """The family of a name of timm's, or "" for any other text."""
    head, separator, _ = spec.partition("/")
    return head.lower() if separator and head.lower() in (TORCH, HUGGING_FACE, *STREAMS) else ""


def open_named(spec: str, root: Path | None, download: bool) -> Splits:
    """Open a data set of torchvision (`torch/…`) or Hugging Face (`hfds/…`) through timm's factory.

    Args:
        spec: timm's name; after `hfds/`, a name of the Hub or a folder of parquet files.
        root: the folder that holds a torchvision data set, or the cache of Hugging Face's.
        download: let torchvision fetch what is missing.

    Raises:
        DataError: the data set is unknown, missing, or without labelled images.
    """
    try:
        return _open_torchvision(spec, root, download) if prefix(spec) == TORCH else _open_hugging_face(spec, root)
    except FAILURES as error:
        raise refusal(spec, error) from error


def refusal(spec: str, error: BaseException) -> DataError:
    """The error of a library, in one sentence that names the data set."""
    reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
    remedy = "Check its name; name the folder that holds it with --data-root, or fetch it with --download."
    if isinstance(error, ImportError):
        library = error.name or "the library that it needs"
        reason = f"{library} is not installed"
        remedy = f"Install it: pip install {library}." if error.name else "Install it with pip."
    elif prefix(spec) == HUGGING_FACE:
        remedy = "Check the name on the Hub, or give a folder of parquet files."
    return DataError(f"The data set {spec} cannot be opened: {shown(reason)}.", remedy)


@dataclass(frozen=True)
class _Torchvision:
    dataset: Any
    name: str

    def read(self, index: int) -> Image:
        if (path := self._path(index)) is None:
            return self.dataset[index][0]
        # The library opens whatever stands there.
        with open_regular(path):
            return self.dataset[index][0]

    def where(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def _path(self, index: int) -> Path | None:
        """The file of an image, where the data set keeps one for each."""
        if hasattr(self.dataset, "all_categories"):
            category, name = self.dataset.index[index]
            return Path(self.dataset.root, self.dataset.all_categories[category], name)
        # Of an ImageFolder, and of Places365.
        files = getattr(self.dataset, "imgs", None)
        return None if files is None else Path(files[index][0])


def _open_torchvision(spec: str, root: Path | None, download: bool) -> Splits:
    folder = str(root or DEFAULT_ROOT)
    train, val = (
        _torchvision_images(create_dataset(spec, root=folder, split=split, download=download), f"{spec} {split}")
        for split in ("train", "validation")
    )
    return Splits(train, val)


def _torchvision_images(dataset: Any, name: str) -> LabelledImages:
    labels = _torchvision_labels(dataset)
    stored = _Torchvision(dataset, name)
    classes = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
    return LabelledImages(tuple(str(one) for one in classes), labels, stored.read, stored.where)


def _torchvision_labels(dataset: Any) -> Tensor:
    targets = getattr(dataset, "targets", None)
    if targets is None:
        # iNaturalist keeps pairs of category and file name.
        targets = [category for category, _ in dataset.index]
    labels = torch.as_tensor(targets).long()
    # QMNIST keeps the writer and more beside the digit.
    return labels[:, 0] if labels.ndim > 1 else labels


@dataclass(frozen=True)
class _Reader:
    reader: Any
    name: str

    def read(self, index: int) -> Image:
        # Not by the reader's own item, for which it opens whatever stands at a path.
        stored = self.reader.dataset[index][self.reader.image_key]
        opened = io.BytesIO(stored["bytes"]) if stored["bytes"] else open_regular(Path(stored["path"]))
        with opened as file, PIL.Image.open(file) as image:
            image.load()
            return image

    def where(self, index: int) -> str:
        path = self.reader.filename(index)
        return f"{self.name}[{index}]{f' ({path})' if path else ''}"


def _open_hugging_face(spec: str, root: Path | None) -> Splits:
    datasets = import_module("datasets")
    _check_source(spec)
    cache = str(root) if root else None
    names = datasets.get_dataset_split_names(spec.partition("/")[2])
    training = "train" if "train" in names else names[0]
    validation = next((name for name in VALIDATIONS if name in names and name != training), None)
    train = _hugging_face_images(spec, training, cache)
    if validation is None:
        return Splits(train, None)
    return Splits(train, _hugging_face_images(spec, validation, cache), validation_notes(validation))


def _check_source(spec: str) -> None:
    """Refuse a folder that is missing, and a Hub that cannot be reached: the library would try for half a minute.

    Raises:
        DataError: there is no such folder, or no connection.
    """
    name = spec.partition("/")[2]
    if Path(name).exists():
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DataError(f"The folder {name} of {spec} does not exist.", "Check its path.")
    hub = import_module("huggingface_hub.constants")
    if hub.HF_HUB_OFFLINE:
        return
    try:
        request.urlopen(hub.ENDPOINT, timeout=SECONDS_TO_ANSWER).close()  # noqa: S310 (the library's own address)
    except url_error.HTTPError:
        return
    except OSError as failure:
        # Whose certificates are good the library decides for itself.
        if isinstance(getattr(failure, "reason", None), ssl.SSLError):
            return
        raise DataError(
            f"The data set {spec} cannot be opened: {hub.ENDPOINT} cannot be reached.",
            "Go online, set HF_HUB_OFFLINE=1 to use what was fetched before, or give a folder of parquet files.",
        ) from failure


def _hugging_face_images(spec: str, split: str, cache: str | None) -> LabelledImages:
    datasets = import_module("datasets")
    features = datasets.load_dataset(spec.partition("/")[2], split=split, cache_dir=cache).features
    image = _column(features, "image", datasets.Image, spec)
    label = _column(features, "label", datasets.ClassLabel, spec)
    reader = create_dataset(spec, root=cache, split=split, input_key=image, target_key=label).reader
    labels = torch.tensor(list(reader.dataset[label])).long()
    classes = tuple(reader.class_to_idx) or tuple(str(number) for number in range(int(labels.max()) + 1))
    stored = _Reader(reader, f"{spec} {split}")
    return LabelledImages(classes, labels, stored.read, stored.where)


def _column(features: Mapping[str, Any], usual: str, kind: type, spec: str) -> str:
    """The column of the usual name, or else the only one of its kind."""
    found = [usual] if usual in features else [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise DataError(
            f"The data set {spec} has {len(found)} columns for the {usual}, among {listed(features)}.",
            "Give a data set with one image and one class label a row.",
        )
    return found[0]
