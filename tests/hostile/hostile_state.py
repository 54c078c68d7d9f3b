"""A pickle of a whole network's tensors, step by step: whatever is not said otherwise is true."""

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from hostile_archive import archive_of
from hostile_calls import START, called, function, number, text
from hostile_case import whole_state

KINDS = {torch.float32: "FloatStorage", torch.int64: "LongStorage"}
WIDTHS = {"FloatStorage": 4, "LongStorage": 8, "QInt8Storage": 1}
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
LEGACY_START = MAGIC + pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": True}, protocol=2)


@dataclass(frozen=True)
class View:
    """What a file says of a tensor.

    Attributes:
        size: of its axes.
        stride: of them, in numbers.
        numel: of its storage.
        offset: of its first number.
        data: the bytes of its storage in the file; None where it is not there.
        kind: of the storage.
        part: what an old file says of which part the storage is of another one; nothing is the usual.
        key: of the storage.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    numel: int
    offset: int = 0
    data: bytes | None = field(default=b"", repr=False)
    kind: str = "FloatStorage"
    part: bytes = b"N"
    key: str = "0"


def part_of(key: str, offset: int, size: int) -> bytes:
    """Return what an old file says of a storage that is a part of another one."""
    return b"(" + text(key) + number(offset) + number(size) + b"t"


def _pickled(view: View, *, old: bool) -> bytes:
    def axes(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + function(f"torch.{view.kind}") + text(view.key) + text("cpu")
    storage += number(view.numel) + (view.part if old else b"") + b"tQ"
    hooks = called("collections.OrderedDict")
    shape = (axes(view.size), axes(view.stride))
    return called("torch._utils._rebuild_tensor_v2", storage, number(view.offset), *shape, b"\x89", hooks)


def whole_views() -> dict[str, View]:
    """Return what a sound file says of the tensors of the network that all whole files are for."""
    return {
        name: View(
            tuple(tensor.shape), tensor.stride(), tensor.numel(), data=tensor.numpy().tobytes(),
            kind=KINDS[tensor.dtype], key=str(at),
        )
        for at, (name, tensor) in enumerate(whole_state().items())
    }  # fmt: skip


def zipped(views: Mapping[str, View], beside: bytes = b"") -> bytes:
    """Return an archive with these tensors by name, and a value beside their state dict."""
    records = {"data.pkl": _state(views, beside, old=False), "byteorder": b"little", "version": b"3\n"}
    # Case is nothing to the reader of PyTorch.
    stored = {f"data/{view.key.lower()}": view.data for view in views.values() if view.data is not None}
    return archive_of(records | stored).written()


def unzipped(views: Mapping[str, View], beside: bytes = b"") -> bytes:
    """Return a file of PyTorch before 1.6 with these tensors by name, and a value beside their state dict."""
    content = LEGACY_START + _state(views, beside, old=True)
    blocks = {view.key: (view.kind, view.data) for view in views.values() if view.data is not None}
    content += pickle.dumps(list(blocks), protocol=2)
    for kind, data in blocks.values():
        content += struct.pack("<q", len(data) // WIDTHS[kind]) + data
    return content


def _state(views: Mapping[str, View], beside: bytes, *, old: bool) -> bytes:
    state = b"}(" + b"".join(text(name) + _pickled(view, old=old) for name, view in views.items()) + b"u"
    return START + b"}(" + text("model") + state + (text("beside") + beside if beside else b"") + b"u."
