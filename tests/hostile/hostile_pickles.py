"""Pickles that run code, or take far more time or memory than their size, in every format that PyTorch has had."""

import io
import pickle
import struct
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from hostile_case import Case, small_state, writes
from hostile_zips import archive

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
LEGACY_START = MAGIC + pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": True}, protocol=2)


def legacy(pickled: bytes) -> bytes:
    """Return a file of PyTorch before 1.6 that holds a pickle and no storage."""
    return LEGACY_START + pickled + pickle.dumps([], protocol=2)


def tar(pickled: bytes, layout: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a file of PyTorch before 0.2."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for name, content in (("sys_info", b""), ("pickle", pickled), ("tensors", pickled), ("storages", pickled)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def called(module: str, name: str, *arguments: str, protocol: int = 2) -> bytes:
    """Return a pickle that calls a function with texts."""
    start = b"\x80" + bytes([protocol]) if protocol >= 2 else b""
    texts = b"".join(_text(one, protocol) for one in arguments)
    function = (
        _text(module, protocol) + _text(name, protocol) + b"\x93"
        if protocol >= 4
        else f"c{module}\n{name}\n".encode()
    )  # fmt: skip
    return start + function + b"(" + texts + b"tR."


def _text(text: str, protocol: int) -> bytes:
    encoded = text.encode()
    if protocol == 0:
        return b"V" + encoded + b"\n"
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def code(canary: Path) -> Iterator[Case]:
    """Yield files that make the canary where anything in them is executed."""
    place, python = str(canary), f"__import__('os').mkdir({str(canary)!r})"
    calls = {
        "os.mkdir": ("os", "mkdir", place), "posix.mkdir": ("posix", "mkdir", place),
        "os.system": ("os", "system", f"mkdir {canary}"),
        "subprocess": ("subprocess", "getoutput", f"mkdir {canary}"),
        "eval": ("builtins", "eval", python), "exec": ("builtins", "exec", python),
        "old eval": ("__builtin__", "eval", python),
        "timeit": ("timeit", "timeit", python), "runpy": ("runpy", "_run_code", python),
        "torch's": ("torch.serialization", "os.mkdir", place),
        "numpy's": ("numpy.testing._private.utils", "runstring", python),
        "pathlib": ("pathlib", "os.mkdir", place),
    }  # fmt: skip
    for name, (module, function, argument) in calls.items():
        for protocol in (0, 2, 4):
            pickled = called(module, function, argument, protocol=protocol)
            for where, content in (("zip", archive(pickled)), ("legacy", legacy(pickled)), ("bare", pickled)):
                yield Case("pickle of code", f"{name}, protocol {protocol}, {where}", writes(content), suffix=".pth")
        yield Case("pickle of code", f"{name}, tar", writes(tar(called(module, function, argument))), suffix=".tar")
    pickled = called("os", "mkdir", place)
    ends = {
        "a module's source": b"\x80\x02((X\x06\x00\x00\x00modulecargparse\nNamespace\n"
        b"X\x04\x00\x00\x00x.pyX\x01\x00\x00\x00ytQ.",
        "instance": f"(ios\nmkdir\nV{canary}\n.".encode().replace(b"(i", b"(", 1),
        "INST": f"(V{canary}\nios\nmkdir\n.".encode(),
        "OBJ": f"(cos\nmkdir\nV{canary}\no.".encode(),
        "NEWOBJ": f"\x80\x02cos\nmkdir\n(V{canary}\nt\x81.".encode("latin1"),
        "NEWOBJ_EX": f"\x80\x04cos\nmkdir\n(V{canary}\nt}}\x92.".encode("latin1"),
        "BUILD": f"\x80\x02cargparse\nNamespace\n)\x81}}V__setstate__\ncos\nmkdir\nsbV{canary}\nb.".encode("latin1"),
        "EXT1": b"\x80\x02\x82\x01.", "PERSID": b"Pstorage\n.", "BINPERSID": b"\x80\x02K\x01Q.",
        "in the second pickle": MAGIC + pickled, "in the third pickle": MAGIC + pickle.dumps(1001, 2) + pickled,
        "in the fourth pickle": LEGACY_START + pickled,
        "in the keys": LEGACY_START + pickle.dumps({}, protocol=2) + pickled,
        "after a sound pickle": pickle.dumps({}, protocol=2) + pickled,
        "behind a state dict": LEGACY_START + pickle.dumps({"a": 1}, protocol=2) + pickled,
    }  # fmt: skip
    for name, content in ends.items():
        yield Case("pickle of code", name, writes(content), suffix=".bin")
    for layout in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        yield Case("pickle of code", f"tar of layout {layout}", writes(tar(pickled, layout)), suffix=".tar")
    content = bytearray(tar(pickled, tarfile.USTAR_FORMAT))
    content[257:265] = bytes(8)
    content[148:156] = f"{sum(content[:148]) + 256 + sum(content[156:512]):06o}\0 ".encode()
    yield Case("pickle of code", "tar without a mark", writes(bytes(content)), suffix=".tar")
    for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version", ".data/serialization_id", "byteorder"):
        yield Case("pickle of code", f"as {name}", writes(archive(b"\x80\x02}.", {name: pickled})), suffix=".pt")


def costly() -> Iterator[Case]:
    """Yield pickles that ask for more than they give."""
    for name, pickled in _costly():
        for where, content in (("zip", archive(pickled)), ("legacy", legacy(pickled))):
            yield Case("costly pickle", f"{name}, {where}", writes(content), suffix=".pth")
    for name, pickled in _storages():
        content = archive(pickled, {"data/0": bytes(64)})
        yield Case("costly pickle", f"{name}, zip", writes(content), suffix=".pth")
        keys = pickle.dumps(["0"], protocol=2)
        content = LEGACY_START + pickled.replace(b"tQ", b"NtQ") + keys + struct.pack("<q", 16) + bytes(64)
        yield Case("costly pickle", f"{name}, legacy", writes(content), suffix=".pth")


def _costly() -> Iterator[tuple[str, bytes]]:
    start = b"\x80\x02"
    for number in (10**9, 6 * 10**9, 10**13):
        size = struct.pack("<Bq", 8, number)
        yield f"bytearray of {number}", start + b"c__builtin__\nbytearray\n(\x8a" + size + b"tR."
        yield f"Tensor of {number}", start + b"ctorch\nFloatTensor\n(\x8a" + size + b"tR."
        yield f"weight of {number}", start + b"}X\x01\x00\x00\x00wctorch\nTensor\n(\x8a" + size + b"tRs."
    letters = b"".join(chr(0x100 + place % 5000).encode() for place in range(400_000))
    text = b"X" + struct.pack("<I", len(letters)) + letters
    for codec in ("punycode", "idna"):
        name = b"X" + struct.pack("<I", len(codec)) + codec.encode()
        yield f"text as {codec}", start + b"c_codecs\nencode\n(" + text + name + b"tR."
    # A tuple as a key: its hash goes down through all of them, and so does its end.
    for depth in (1000, 1_000_000):
        yield f"tuples {depth} deep as a key", start + b"})" + b"\x85" * depth + b"K\x01s."
        yield f"tuples {depth} deep in a set", start + b"c__builtin__\nset\n(])" + b"\x85" * depth + b"atR."
        yield f"lists {depth} deep", start + b"}X\x05\x00\x00\x00model" + b"](" * depth + b"e" * depth + b"s."
    # Whole numbers with one hash.
    keys = b"".join(b"\x8a\x0b" + (number * (2**61 - 1)).to_bytes(11, "little") + b"N" for number in range(1, 60_000))
    yield "numbers of one hash", start + b"}(" + keys + b"u."
    yield "mappings in each other's mappings", start + _laughs()
    yield "a million numbers", start + b"](" + b"K\x01" * 1_000_000 + b"e."
    yield "twenty million marks", start + b"(" * 20_000_000 + b"N."
    numbered = b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(1_000_000))
    yield "a million entries", start + b"}(" + numbered + b"u."
    yield "a million objects", start + b"](" + b"cargparse\nNamespace\n)\x81" * 1_000_000 + b"e."
    yield "text beyond the file", start + b"X\xff\xff\xff\xff."
    yield "long beyond the file", start + b"\x8b\xff\xff\xff\x7f."
    yield "a number of a million digits", b"I" + b"9" * 1_000_000 + b"\n."
    yield "nothing but a mark", start + b"(."
    yield "an empty stack", start + b"."
    yield "no end", start + b"}"


def _laughs() -> bytes:
    """Each of nine mappings holds the next under every key that a state dict may be under."""
    wrappers = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "net")
    pickled = b"}q\x00"
    for level in range(12):
        entries = b"".join(_text(key, 2) + b"h" + bytes([level]) for key in wrappers)
        pickled += b"0}(" + entries + b"uq" + bytes([level + 1])
    return pickled + b"."


def _storages() -> Iterator[tuple[str, bytes]]:
    """Tensors on a storage of 16 numbers that are larger than it."""

    def tensor(size: tuple[int, ...], stride: tuple[int, ...], numel: int = 16, offset: int = 0) -> bytes:
        def numbers(values: tuple[int, ...]) -> bytes:
            return b"(" + b"".join(b"\x8a" + struct.pack("<Bq", 8, value) for value in values) + b"t"

        storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu\x8a"
        storage += struct.pack("<Bq", 8, numel) + b"tQ"
        rest = b"\x8a" + struct.pack("<Bq", 8, offset) + numbers(size) + numbers(stride)
        built = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"\x89ccollections\nOrderedDict\n)RtR"
        return b"\x80\x02}X\x11\x00\x00\x00classifier.weight" + built + b"s."

    yield "sixteen numbers", tensor((4, 4), (4, 1))
    for count in (10**6, 3 * 10**7, 10**9, 10**12):
        yield f"{count} classes of one row", tensor((count, 256), (0, 0))
        yield f"{count} numbers that are not there", tensor((count, 256), (256, 1))
        yield f"a storage of {count}", tensor((4, 4), (4, 1), numel=count)
        yield f"an offset of {count}", tensor((4, 4), (4, 1), offset=count)
    yield "a negative size", tensor((-4, 4), (4, 1))
    yield "a negative stride", tensor((4, 4), (-4, 1))
    yield "a negative offset", tensor((4, 4), (4, 1), offset=-4)
    yield "a negative storage", tensor((4, 4), (4, 1), numel=-16)
    yield "sizes that overflow", tensor((2**32, 2**32), (0, 0))
    yield "a thousand axes", tensor((1,) * 1000, (0,) * 1000)
    yield "windows over each other", tensor((8, 8), (1, 1))


def _quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def odd_contents() -> Iterator[Case]:
    """Yield files of `torch.save` that hold something else than a state dict."""
    from collections import Counter, OrderedDict

    contents = {
        "list": [1, 2], "number": 3, "text": "w", "nothing": None, "empty": {}, "tensor": torch.zeros(2),
        "numbers": {"a": 1}, "tuple": (torch.zeros(1),), "keys are numbers": {1: torch.zeros(1)},
        "keys are tuples": {(1, 2): torch.zeros(1)}, "counter": Counter("abc"), "ordered": OrderedDict(a=1),
        "mixed": {"w": torch.zeros(1), "epoch": 3}, "sparse": {"w": torch.eye(3).to_sparse()},
        "quantized": {"w": _quantized()},
        "meta": {"w": torch.empty(10**12, device="meta")}, "complex": {"w": torch.ones(2, dtype=torch.complex64)},
        "another network": small_state(), "wrappers": {"model": {"state_dict": {"net": {"model": {}}}}},
        "bytes": {"w": b"abc"}, "set": {"w": {1, 2}}, "a module": torch.nn.Linear(2, 2),
        "escape codes": {"\x1b[2J" * 9: torch.zeros(1)}, "long names": {"w" * 10**6: torch.zeros(1), "v": 1},
        "many others": {f"{n}": n for n in range(1000)} | {"w": torch.zeros(1)},
    }  # fmt: skip
    for name, content in contents.items():
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            where = "zip" if zipped else "legacy"
            yield Case("odd content", f"{name}, {where}", writes(buffer.getvalue()), suffix=".pt")


def pickle_cases(canary: Path) -> Iterator[Case]:
    """Yield all of them."""
    yield from code(canary)
    yield from costly()
    yield from odd_contents()
