"""Which model of the Hub a result was made from, where its record shows it."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import timm

from surgeon.checkpoint.architecture import TORCHVISION_PREFIX, names_file


def is_timm(arch: str | None) -> bool:
    """Tell whether an architecture, spelled as in `--arch`, is one of timm's."""
    if arch is None or arch.startswith(TORCHVISION_PREFIX) or names_file(arch):
        return False
    return bool(timm.is_model(arch))


def base_model(record: Mapping[str, Any]) -> str | None:
    """Return the Hub's name of the weights that a run began with, or None where it is not known.

    The weights are known by their tag, such as `resnet18.a1_in1k`, in the architecture or in the input file's name: an
    architecture alone has weights of many trainings.

    Args:
        record: see `surgeon.report.card.card`.
    """
    arch, path = record["arch"], record["checkpoint"].get("path")
    if not is_timm(arch) or path is None or record["recipe"].get("init", "checkpoint") != "checkpoint":
        return None
    name = arch.partition(".")[0]
    for candidate in (arch, PurePath(path).stem):
        known = timm.models.get_pretrained_cfg(candidate) if candidate in _tagged(name) else None
        if known is not None and known.hf_hub_id:
            return str(known.hf_hub_id)
    return None


def _tagged(name: str) -> list[str]:
    return [one for one in timm.list_pretrained(f"{name}.*") if "." in one]
