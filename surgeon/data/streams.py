"""Data sets that can only be read from beginning to end: webdataset, TensorFlow, and Hugging Face's streams."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from surgeon.bounded_file import open_regular
from surgeon.checkpoint.display import shown
from surgeon.data import named
from surgeon.data.transforms import Transform
from surgeon.errors import DataError

WEBDATASET = "wds"
INFOS = ("_info.json", "info.json")
"""What timm looks for beside the shards, in this order."""


class ImageStream(IterableDataset[tuple[Tensor, int]]):
    """At most so many images of a stream of timm's.

    Args:
        stream: timm's IterableImageDataset, with its transform.
        limit: number of images of a pass over all workers; None for all of them.
    """

    def __init__(self, stream: Any, limit: int | None) -> None:
        self.stream = stream
        self.limit = limit

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, by label; () where the stream does not tell."""
        return tuple(self.stream.reader.class_to_idx or ())

    def prepare(self, workers: int) -> None:
        """Tell the stream how many workers will share it, before they start."""
        self.stream.set_loader_cfg(num_workers=workers)

    def set_epoch(self, epoch: int) -> None:
        """Number the next pass, on which alone the stream's order depends then. accelerate calls this."""
        self.stream.set_epoch(epoch)
        reader = self.stream.reader
        if hasattr(reader, "worker_seed"):
            # Read in this process, webdataset and TensorFlow would shuffle on from where the last pass ended. Workers
            # begin anew in every pass, each with a seed of its own.
            reader.ds, reader.worker_seed = None, reader.common_seed + epoch

    def __len__(self) -> int:
        length = len(self.stream)
        return length if self.limit is None else min(length, self.limit)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return islice(iter(self.stream), self._share())

    def _share(self) -> int | None:
        worker = get_worker_info()
        if self.limit is None or worker is None:
            return self.limit
        return (self.limit + worker.num_workers - 1 - worker.id) // worker.num_workers


def open_stream(
    spec: str,
    root: Path | None,
    split: str,
    transform: Transform,
    *,
    channels: int,
    limit: int | None,
    seed: int,
    shuffle: bool,
) -> ImageStream:
    """Open one split of a stream through timm's factory.

    Args:
        spec: timm's name; after `wds/`, the folder with the shards and their _info.json.
        root: the folder of TensorFlow's or the cache of Hugging Face's data sets.
        split: train or validation.
        transform: from an image to a tensor.
        channels: 3 for colour, 1 for gray.
        limit: number of images of a pass; None for all of them.
        seed: of the order.
        shuffle: a new order every epoch.

    Raises:
        DataError: the stream or its library is missing.
    """
    family, _, name = spec.partition("/")
    is_webdataset = family.lower() == WEBDATASET
    if is_webdataset:
        _check_files(spec, [os.path.join(name, part) for part in INFOS])
    try:
        stream = create_dataset(
            spec,
            root=name if is_webdataset else (str(root) if root else None),
            split=split,
            is_training=shuffle,
            input_img_mode="L" if channels == 1 else "RGB",
            seed=seed,
        )
    except named.FAILURES as error:
        raise named.refusal(spec, error) from error
    if is_webdataset:
        _check_files(spec, [os.path.join(name, shard) for shard in stream.reader.split_info.filenames])
    stream.transform = transform
    # timm would give each process a part of the stream, some images twice; whoever loads the batches shares them out.
    stream.reader.dist_rank, stream.reader.dist_num_replicas = 0, 1
    return ImageStream(stream, limit)


def _check_files(spec: str, paths: Iterable[str]) -> None:
    """Refuse to wait for a pipe; what does not exist here may be an address, which the library opens.

    Raises:
        DataError: one of the paths exists and is no regular file.
    """
    for path in filter(os.path.exists, paths):
        try:
            with open_regular(Path(path)):
                pass
        except OSError as error:
            raise DataError(
                f"The data set {spec} cannot be opened: {shown(path)} cannot be read ({error.strerror}).",
                "Give regular files as its shards.",
            ) from error
