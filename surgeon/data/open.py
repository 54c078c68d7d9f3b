"""Open a data set by its name: a folder, one of timm's names, or the embedded digits."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from surgeon.data import digits, named
from surgeon.data.config import ImageConfig
from surgeon.data.folder import Splits, open_folder
from surgeon.data.image_data import ImageData
from surgeon.data.images import ImageTensors, LabelledImages
from surgeon.data.sampling import hold_out as held_out
from surgeon.data.sampling import stratified_subset
from surgeon.data.streams import open_stream
from surgeon.data.synthetic import is_synthetic, open_synthetic
from surgeon.data.transforms import Transform, evaluation_transform, training_transform
from surgeon.data.unreadable import Unreadable
from surgeon.errors import DataError

FEWEST_CLASSES = 2


def open_data(
    spec: str,
    config: ImageConfig,
    *,
    limit: int | None = None,
    seed: int = 0,
    hold_out: float = 0.1,
    root: Path | None = None,
    download: bool = False,
    auto_augment: str | None = None,
    erasing: float = 0.0,
    classes: int | None = None,
    skip_bad_images: bool = False,
) -> ImageData:
    """Open a data set without reading its images.

    Args:
        spec: a folder of images, a name that timm's factory knows (`torch/…`, `hfds/…`, `wds/…`), `digits`,
            `exemplars:FILE` (images that were synthesized from a checkpoint), or `random` (noise, for tests).
        config: the network's input; exemplars keep their own size.
        limit: at most so many training and so many validation images, with the classes in proportion; all of them
            where it is None.
        seed: of the subset, of the held-out images and of the random variation.
        hold_out: share of the images that serves for validation where the data set has no second split, in [0, 1);
            with 0 all images serve for both, which is right where nothing is trained.
        root: the folder of a `torch/…` data set (./data by default), or the cache of a `hfds/…` one.
        download: let torchvision fetch a `torch/…` data set that is missing.
        auto_augment: see `training_transform`, like the next.
        erasing: how likely a rectangle of a training image is replaced by noise.
        classes: of the network; only `random` has to be told.
        skip_bad_images: leave out images that cannot be read, up to a tenth of them. In the place of each stands the
            next one of its class that can be read, of the same split: all counts stay what they are, and what stands
            where is the same in every epoch and every run. `ImageData.skipping` tells which they are.

    Raises:
        DataError: the data set is missing, empty, has one class only, has classes that differ between its splits, or is
            a stream of which no image can be left out.
        OptionError: timm does not know the augmentation policy, or the probability of erasing is out of range.
    """
    if limit is not None and limit < 1:
        raise DataError(f"A limit of {limit} leaves no images.", "Give a limit of at least 1.")
    if not 0 <= hold_out < 1:
        raise DataError(f"A held-out share of {hold_out} is out of range.", "Give a share from 0 to below 1.")

    def vary(config: ImageConfig) -> Transform:
        return training_transform(config, small=False, flip=True, auto_augment=auto_augment, erasing=erasing)

    varied = vary(config)
    if is_synthetic(spec):
        return open_synthetic(spec, config, vary, limit=limit, seed=seed, classes=classes)
    if named.prefix(spec) in named.STREAMS:
        if skip_bad_images:
            raise DataError(
                f"Images of the stream {spec} cannot be left out: nothing tells one from another.",
                "Leave --skip-bad-images out, or give a folder of images.",
            )
        return _streamed(spec, config, varied, limit, seed, root)
    splits = _open(spec, root, download)
    for part in (splits.train, splits.val):
        if part is not None:
            _check_labels(part, spec)
    is_digits = spec == digits.NAME
    if is_digits:
        # The digits fill their 8x8 pixels: a crop of the middle would cut them.
        config = replace(config, crop_pct=1.0)
    varied = training_transform(config, small=is_digits, flip=not is_digits, auto_augment=auto_augment, erasing=erasing)
    return _image_data(spec, splits, config, varied, limit, seed, hold_out, skip_bad_images)


def check_classes(data: ImageData, num_outputs: int) -> None:
    """Hold the classes of a data set against the classifier's outputs.

    Raises:
        DataError: they differ in number. A stream that does not tell its classes passes.
    """
    if data.classes and len(data.classes) != num_outputs:
        raise DataError(
            f"The data {data.name} has {len(data.classes)} classes, and the classifier {num_outputs} outputs.",
            "Give the data that the network was trained for, or a network with a classifier for this data.",
        )


def _open(spec: str, root: Path | None, download: bool) -> Splits:
    if spec == digits.NAME:
        return digits.open_digits()
    if named.prefix(spec):
        return named.open_named(spec, root, download)
    return open_folder(Path(spec))


def _check_labels(images: LabelledImages, spec: str) -> None:
    if not len(images.labels):
        raise DataError(f"The data {spec} has no images.", "Give a data set with images.")
    if len(images.classes) < FEWEST_CLASSES:
        raise DataError(f"The data {spec} has one class only.", "Give images of at least two classes.")
    if int(images.labels.min()) < 0 or int(images.labels.max()) >= len(images.classes):
        raise DataError(f"The data {spec} has images without a label.", "Give a data set whose images are labelled.")


def _image_data(
    spec: str,
    splits: Splits,
    config: ImageConfig,
    varied: Transform,
    limit: int | None,
    seed: int,
    hold_out: float,
    skip: bool,
) -> ImageData:
    val_images = splits.val or splits.train
    # A set that is divided has one for both parts.
    sets = (splits.train,) if splits.val is None else (splits.train, splits.val)
    skipping = tuple((images, Unreadable(len(images.labels))) for images in sets) if skip else ()
    bad_train, bad_val = (skipping[0][1], skipping[-1][1]) if skipping else (None, None)
    train, val, notes = _divided(splits, seed, hold_out)
    if limit is not None:
        notes += _limit_notes(limit, train, val, splits.train)
        train = train[stratified_subset(splits.train.labels[train], limit, seed)]
        val = val[stratified_subset(val_images.labels[val], limit, seed)]
    channels, unchanged = config.input_size[0], evaluation_transform(config)
    return ImageData(
        name=spec,
        classes=splits.train.classes,
        train=ImageTensors(splits.train, train, channels, varied, seed, bad_train),
        calibration=ImageTensors(splits.train, train, channels, unchanged, unreadable=bad_train),
        val=ImageTensors(val_images, val, channels, unchanged, unreadable=bad_val),
        notes=notes,
        training_notes=splits.training_notes,
        skipping=skipping,
    )


def _divided(splits: Splits, seed: int, share: float) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Indices of the training and of the validation images, and a note where the data set did not divide them."""
    count = len(splits.train.labels)
    if splits.val is not None:
        return torch.arange(count), torch.arange(len(splits.val.labels)), ()
    if share == 0:
        return torch.arange(count), torch.arange(count), ("There is no second split: all images are used.",)
    train, val = held_out(splits.train.labels, share, seed)
    if not len(val):
        raise DataError("Every class of the data has one image only.", "Give a data set with more images of a class.")
    _check_kept(splits.train, train, share)
    note = f"There is no second split: {len(val)} of the {count} images are held out for validation (seed {seed})."
    return train, val, (note,)


def _check_kept(images: LabelledImages, train: Tensor, share: float) -> None:
    classes = len(images.classes)
    before, after = (torch.bincount(labels, minlength=classes) for labels in (images.labels, images.labels[train]))
    lost = int(((before > 0) & (after == 0)).sum())
    if lost:
        raise DataError(
            f"Holding out {100 * share:g} % of the images leaves no training image for {lost} of {classes} classes.",
            "Hold out a smaller share with --hold-out, or give more images.",
        )


def _limit_notes(limit: int, train: Tensor, val: Tensor, images: LabelledImages) -> tuple[str, ...]:
    counts = ((min(limit, len(part)), len(part)) for part in (train, val))
    kept, kept_val = (f"{used} of {count}" for used, count in counts)
    notes = [f"Limited to {kept} training and {kept_val} validation images."]
    without = len(images.classes) - limit
    if without > 0:
        notes.append(f"The limit leaves {without} of {len(images.classes)} classes without images.")
    return tuple(notes)


def _streamed(
    spec: str, config: ImageConfig, varied: Transform, limit: int | None, seed: int, root: Path | None
) -> ImageData:
    unchanged = evaluation_transform(config)
    channels = config.input_size[0]
    train, calibration, val = (
        open_stream(spec, root, split, transform, channels=channels, limit=limit, seed=seed, shuffle=shuffle)
        for split, transform, shuffle in (
            ("train", varied, True),
            ("train", unchanged, False),
            ("validation", unchanged, False),
        )
    )
    notes = () if train.classes else ("The stream does not tell its classes: they are not checked.",)
    return ImageData(spec, train.classes, train, calibration, val, notes)
