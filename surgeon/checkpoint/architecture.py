"""Find out which network a checkpoint belongs to; nothing a checkpoint says is ever imported or run."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torchvision

from surgeon.checkpoint import arguments as architecture_arguments
from surgeon.checkpoint.display import listed, shown
from surgeon.checkpoint.read import Checkpoint
from surgeon.errors import ArchitectureError

TORCHVISION_PREFIX = "torchvision:"
SEPARATORS = "-_."
HEADER_KEY = "architecture"
HEADER_ARGUMENTS_KEY = "architecture_args"

_REMEDY = "Pass --arch with a timm name, torchvision:NAME or file.py:function."


@dataclass(frozen=True)
class Architecture:
    """Which network to build, and with which arguments.

    Args:
        source: where its builder is.
        name: a timm name (with or without a tag), a torchvision name, or `file.py:function`.
        arguments: keyword arguments of the builder, such as num_classes; values that JSON can express.
    """

    source: Literal["timm", "torchvision", "file"]
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The spelling of `--arch`."""
        return f"{TORCHVISION_PREFIX}{self.name}" if self.source == "torchvision" else self.name


def parse_architecture(text: str) -> Architecture:
    """Read the spelling of `--arch`.

    Args:
        text: a timm name, `torchvision:NAME`, or `file.py:function`.

    Raises:
        ArchitectureError: there is no such network.
    """
    if text.startswith(TORCHVISION_PREFIX):
        return _torchvision(text.removeprefix(TORCHVISION_PREFIX))
    if names_file(text):
        return _file(text)
    if not timm.is_model(text) or not _has_known_tag(text):
        raise _unknown("timm", text, timm.list_models())
    return Architecture("timm", text)


def find_architecture(checkpoint: Checkpoint, arch: str | None = None) -> Architecture:
    """Find the network of a checkpoint.

    Args:
        checkpoint: what `read` returned.
        arch: the user's word. Without it the header's is taken, else that of a config.json beside the file, else the
            file's name, if that starts with exactly one timm name.

    Raises:
        ArchitectureError: the network is unknown or ambiguous, or the checkpoint names a file of code.
    """
    if arch is not None:
        architecture = parse_architecture(arch)
        return replace(architecture, arguments=_matching_arguments(checkpoint, architecture))
    for candidate in (_from_header(checkpoint), _from_config(checkpoint)):
        if candidate is not None:
            return candidate
    return _from_name(checkpoint.path)


def names_file(text: str) -> bool:
    """Whether a spelling of `--arch` means a file of code."""
    return text.endswith(".py") or text.rpartition(":")[0].endswith(".py")


def split_file(name: str) -> tuple[Path, str]:
    """The file and the function of `file.py:function`; the path may hold colons of its own."""
    file, _, function = name.rpartition(":")
    return Path(file), function


def _torchvision(name: str) -> Architecture:
    names = torchvision.models.list_models()
    if name not in names:
        raise _unknown("torchvision", name, names)
    return Architecture("torchvision", name)


def _has_known_tag(name: str) -> bool:
    """Whether what follows the dot in a name of timm's, if anything, is one of the network's published weights."""
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        return False
    return True


def _file(text: str) -> Architecture:
    if text.endswith(".py"):
        raise ArchitectureError(f"{text} names a file without a function.", f"Pass --arch {text}:FUNCTION.")
    path, function = split_file(text)
    if not path.is_file():
        raise ArchitectureError(f"The file {path} of the architecture {text} does not exist.", "Check its path.")
    if not function.isidentifier():
        raise ArchitectureError(f"{text} names no function of {path}.", f"Pass --arch {path}:FUNCTION.")
    return Architecture("file", text)


def _unknown(library: str, name: str, names: Sequence[str]) -> ArchitectureError:
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; the nearest names are {listed(near)}" if near else ""
    return ArchitectureError(f"{library} has no network named {shown(name)!r}{hint}.", _REMEDY)


def _matching_arguments(checkpoint: Checkpoint, architecture: Architecture) -> dict[str, Any]:
    """The header's arguments, where the header names the same network as the user."""
    named = checkpoint.metadata.get(HEADER_KEY, "")
    if architecture.source == "file" and names_file(named):
        own, other = split_file(architecture.name), split_file(named)
        same = (own[0].name, own[1]) == (other[0].name, other[1])
    else:
        same = named == str(architecture)
    return _header_arguments(checkpoint) if same else {}


def _header_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    text = checkpoint.metadata.get(HEADER_ARGUMENTS_KEY, "{}")
    return architecture_arguments.from_text(text, f"the header of {checkpoint.path}", _sizes(checkpoint))


def _sizes(checkpoint: Checkpoint) -> frozenset[int]:
    """What the axes of a file's tensors measure."""
    return frozenset(size for tensor in checkpoint.tensors.values() for size in tensor.shape)


def _from_header(checkpoint: Checkpoint) -> Architecture | None:
    text = checkpoint.metadata.get(HEADER_KEY)
    if text is None:
        return None
    return replace(_described(text, checkpoint.path), arguments=_header_arguments(checkpoint))


def _from_config(checkpoint: Checkpoint) -> Architecture | None:
    config_path = checkpoint.path.with_name("config.json")
    if not config_path.is_file():
        return None
    described = architecture_arguments.from_config_file(config_path, _sizes(checkpoint))
    if described is None:
        return None
    text, arguments = described
    return replace(_described(text, config_path), arguments=arguments)


def _described(text: str, origin: Path) -> Architecture:
    """The network that a checkpoint names: a library's only, since a file of code could do anything."""
    if names_file(text):
        raise ArchitectureError(
            f"{origin} names the code {shown(text)} as its network, which is not run on a checkpoint's word.",
            f"If you trust that file, pass --arch {shown(text)} with the path where it lies.",
        )
    return parse_architecture(text)


def _from_name(path: Path) -> Architecture:
    begins = [name for name in timm.list_models() if path.name.startswith(name)]
    whole = [name for name in begins if path.name[len(name)] in SEPARATORS]
    longest = max(begins, key=len, default="")
    # Names that end at a separator extend each other, so the longest is the one that the file's author wrote out.
    if longest in whole:
        return Architecture("timm", longest)
    remedy = _torchvision_remedy(path) or _REMEDY
    if begins:
        raise ArchitectureError(f"The name of {path} may mean {' or '.join(begins)}, or another network.", remedy)
    raise ArchitectureError(
        f"The network of {path} is unknown: it has no header and no config.json that names it, and its name starts "
        "with no timm name.",
        remedy,
    )


def _torchvision_remedy(path: Path) -> str | None:
    names = [name for name in torchvision.models.list_models() if path.name.startswith(name)]
    whole = [name for name in names if path.name[len(name)] in SEPARATORS]
    if not whole:
        return None
    return f"If it is torchvision's, pass --arch {TORCHVISION_PREFIX}{max(whole, key=len)}."
