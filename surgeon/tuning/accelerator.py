"""The device and the precision that a network is trained in."""

import os

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.utils import get_int_from_env, parse_flag_from_env, patch_environment

from surgeon.errors import OptionError
from surgeon.tuning.config import MixedPrecision
from surgeon.tuning.sharding import asked_for, check_configuration


def make_accelerator(
    mixed_precision: MixedPrecision = "auto", *, cpu: bool = False, accumulate: int = 1
) -> Accelerator:
    """Open the device, or the devices that `accelerate launch` gave to this process.

    Args:
        mixed_precision: "auto" takes what `accelerate launch` was told, else bf16 or fp16 where the device computes
            in it, and never mixes on a CPU; "no", "fp16" and "bf16" are taken as they are.
        cpu: stay on the CPU even where there is another device, as `ACCELERATE_USE_CPU=true` says too.
        accumulate: batches whose gradients are added up for one update, at least 1; `accelerate launch` overrules it.

    Raises:
        OptionError: the device, or a device opened earlier in this process, does not allow that precision, or the
            network is to be divided among devices in a way that is not supported.
    """
    _refuse_division()
    cpu = cpu or _several_on_cpu()
    device = PartialState(cpu=cpu).device
    chosen = _automatic_precision(device) if mixed_precision == "auto" else mixed_precision
    if chosen == "fp16" and device.type == "cpu":
        raise OptionError(
            "The CPU does not train in fp16 mixed precision.",
            "Choose the mixed precision no or bf16, or another device.",
        )
    if asked_for():
        check_configuration(chosen)
    # Images in pinned memory are then copied while the device still computes on the batch before.
    transfer = DataLoaderConfiguration(non_blocking=True)
    try:
        # What is sharded is the business of `sharding`, on every kind of device.
        with patch_environment(ACCELERATE_USE_FSDP="false"):
            return Accelerator(
                mixed_precision=chosen, cpu=cpu, dataloader_config=transfer, gradient_accumulation_steps=accumulate
            )
    except ValueError as error:
        raise OptionError(
            f"The mixed precision {chosen} cannot be used on {device} in this process: {error}",
            "Choose one device and one precision a process.",
        ) from error


def accumulation(accelerator: Accelerator, batches: int) -> int:
    """Return how many batches make one update where so many are asked for.

    Args:
        accelerator: may have a number of its own already, which counts where `batches` is 1.
        batches: at least 1; `accelerate launch` overrules it.
    """
    if batches > 1 and "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in os.environ:
        return batches
    return int(accelerator.gradient_accumulation_steps)


def _refuse_division() -> None:
    """Refuse what `accelerate launch` may ask for and this package cannot do, rather than do something else."""
    for kind in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if parse_flag_from_env(f"ACCELERATE_USE_{kind}"):
            raise OptionError(
                f"accelerate is configured for {kind}, which divides the network among devices, and channels are "
                "edited in whole tensors.",
                "Launch without it, or for a network that does not fit one device with --use_fsdp --fsdp_version 2.",
            )


def _several_on_cpu() -> bool:
    """Tell whether this is one of several processes that have nothing but the CPU.

    accelerate takes each of them for a run of its own unless it is told.
    """
    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return True
    return get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"], 1) > 1 and (
        not torch.accelerator.is_available()
    )


def _automatic_precision(device: torch.device) -> str:
    launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION")
    if launched_with is not None:
        return launched_with
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "xpu":
        return "bf16" if torch.xpu.is_bf16_supported() else "fp16"
    return "no"
