"""Data loaders as a run reads them: batches on its device, shared among its processes."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard, prepare_data_loader
from torch.utils.data import DataLoader

from surgeon.errors import DataError
from surgeon.processes import is_share, shared

PREPARED = "_is_accelerate_prepared"
"""accelerate's mark of what it has prepared itself."""

_MADE: WeakKeyDictionary[DataLoader[Any], dict[Any, DataLoader[Any]]] = WeakKeyDictionary()


def own_loader(loader: DataLoader[Any], accelerator: Accelerator, *, even: bool) -> DataLoader[Any]:
    """Return the loader of this process's share of the images, with its batches on the device.

    accelerate itself would repeat images, to give all processes as many and as large batches. A loader for evaluation
    (not `even`) is made once, however often it is asked for, so that workers that persist are there once too.

    Args:
        loader: of all images; a loader that this function returned is returned as it is.
        accelerator: device and processes.
        even: see `shared`.

    Raises:
        DataError: accelerate has divided the loader already.
    """
    if getattr(loader, PREPARED, False) and (accelerator.num_processes == 1 or is_share(loader)):
        return loader
    if isinstance(loader.batch_sampler, BatchSamplerShard) or isinstance(loader.dataset, IterableDatasetShard):
        raise DataError(
            "The data loader was divided among the processes already, in a way that repeats images.",
            "Give the loader as it was before `accelerator.prepare`.",
        )

    def make() -> DataLoader[Any]:
        return _prepared(loader if is_share(loader) else shared(loader, even=even), accelerator)

    return make() if even else _once(loader, "share", accelerator, make)


def whole_loader(loader: DataLoader[Any], accelerator: Accelerator) -> DataLoader[Any]:
    """Return a loader of the same batches, on the device, in every process; it is made once as well."""
    if getattr(loader, PREPARED, False):
        return loader
    return _once(loader, "whole", accelerator, lambda: _prepared(loader, accelerator))


def _once(
    loader: DataLoader[Any], kind: str, accelerator: Accelerator, make: Callable[[], DataLoader[Any]]
) -> DataLoader[Any]:
    """Return what was made of a loader before, or make it; with one process all kinds are the same."""
    key = kind if accelerator.num_processes > 1 else "whole", accelerator.device
    made = _MADE.setdefault(loader, {})
    if key not in made:
        made[key] = make()
    return made[key]


def _prepared(loader: DataLoader[Any], accelerator: Accelerator) -> DataLoader[Any]:
    if accelerator.num_processes == 1:
        prepared: DataLoader[Any] = accelerator.prepare(loader)
        return prepared
    prepared = prepare_data_loader(
        loader,
        device=accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
        non_blocking=accelerator.non_blocking,
    )
    setattr(prepared, PREPARED, True)
    return prepared
