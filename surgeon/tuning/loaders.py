"""Data loaders as a run reads them: batches on its device, shared among its processes."""

from typing import Any

from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, IterableDatasetShard, prepare_data_loader
from torch.utils.data import DataLoader

from surgeon.errors import DataError
from surgeon.processes import is_share, shared


def own_loader(loader: DataLoader[Any], accelerator: Accelerator, *, even: bool) -> DataLoader[Any]:
    """Return the loader of this process's share of the images, with its batches on the device.

    accelerate itself would repeat images, to give all processes as many and as large batches.

    Args:
        loader: of all images; a loader that this function returned is returned as it is.
        accelerator: device and processes.
        even: see `shared`.

    Raises:
        DataError: accelerate has divided the loader already.
    """
    if accelerator.num_processes == 1 or is_share(loader):
        return whole_loader(loader, accelerator)
    if isinstance(loader.batch_sampler, BatchSamplerShard) or isinstance(loader.dataset, IterableDatasetShard):
        raise DataError(
            "The data loader was divided among the processes already, in a way that repeats images.",
            "Give the loader as it was before `accelerator.prepare`.",
        )
    return whole_loader(shared(loader, even=even), accelerator)


def whole_loader(loader: DataLoader[Any], accelerator: Accelerator) -> DataLoader[Any]:
    """Return a loader of the same batches, on the device, in every process."""
    if accelerator.num_processes == 1:
        prepared: DataLoader[Any] = accelerator.prepare(loader)
        return prepared
    return prepare_data_loader(
        loader,
        device=accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
        non_blocking=accelerator.non_blocking,
    )
