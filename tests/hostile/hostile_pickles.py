"""Pickles that run code, or take far more time or memory than their size, in every format that PyTorch has had."""

import io
import pickle
import struct
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hostile_archive import whole_archive
from hostile_case import Case, saves, small_state, writes
from hostile_state import LEGACY_START, MAGIC, View, part_of, unzipped, whole_views, zipped
from hostile_zips import archive

WEIGHT = "classifier.weight"
FOREIGN, DAMAGED = "objects other than tensors", "truncated, damaged, or no checkpoint"
NAMELESS, UNFIT = "no tensors by name", "does not fit"


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
            # Texts of protocol 0, and names on the stack of protocol 4, are no steps of a file of torch.save.
            says = {0: "it has the step 0x56", 2: FOREIGN, 4: "it is of protocol 4"}[protocol]
            for where, content in (("zip", archive(pickled)), ("legacy", legacy(pickled)), ("bare", pickled)):
                title = f"{name}, protocol {protocol}, {where}"
                begins = says if content[0] in b"P\x80" else "does not begin as a file of torch.save"
                yield Case("pickle of code", title, writes(content), suffix=".pth", says=begins)
        old = tar(called(module, function, argument))
        yield Case("pickle of code", f"{name}, tar", writes(old), suffix=".tar", says="tar archive")
    pickled, path = called("os", "mkdir", place), _text(place, 2)
    ends = {
        "a module's source": (
            b"\x80\x02((X\x06\x00\x00\x00modulecargparse\nNamespace\nX\x04\x00\x00\x00x.pyX\x01\x00\x00\x00ytQ.",
            "no storage"),
        "INST": (b"\x80\x02(" + path + b"ios\nmkdir\n.", "it has the step 0x69"),
        "OBJ": (b"\x80\x02(cos\nmkdir\n" + path + b"o.", "it has the step 0x6f"),
        "NEWOBJ": (b"\x80\x02cos\nmkdir\n(" + path + b"t\x81.", FOREIGN),
        "NEWOBJ_EX": (b"\x80\x02cos\nmkdir\n(" + path + b"t}\x92.", "it has the step 0x92"),
        "BUILD": (b"\x80\x02cargparse\nNamespace\n)\x81cos\nmkdir\nb.", "sets attributes of what has none"),
        "BUILD of a function": (
            b"\x80\x02cos\nmkdir\n}" + _text("__setstate__", 2) + path + b"sb.", "sets attributes of what has none"),
        "EXT1": (b"\x80\x02\x82\x01.", "it has the step 0x82"),
        "PERSID": (b"\x80\x02Pstorage\n.", "it has the step 0x50"),
        "BINPERSID": (b"\x80\x02K\x01Q.", "no storage"),
        "in the second pickle": (MAGIC + pickled, FOREIGN),
        "in the third pickle": (MAGIC + pickle.dumps(1001, 2) + pickled, FOREIGN),
        "in the fourth pickle": (LEGACY_START + pickled, FOREIGN),
        "in the keys": (LEGACY_START + pickle.dumps({}, protocol=2) + pickled, FOREIGN),
        "after a sound pickle": (pickle.dumps({}, protocol=2) + pickled, FOREIGN),
        "behind a state dict": (LEGACY_START + pickle.dumps({"a": 1}, protocol=2) + pickled, FOREIGN),
    }  # fmt: skip
    for name, (content, says) in ends.items():
        yield Case("pickle of code", name, writes(content), suffix=".bin", says=says)
    for layout in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        old = tar(pickled, layout)
        yield Case("pickle of code", f"tar of layout {layout}", writes(old), suffix=".tar", says="tar archive")
    unmarked = bytearray(tar(pickled, tarfile.USTAR_FORMAT))
    unmarked[257:265] = bytes(8)
    unmarked[148:156] = f"{sum(unmarked[:148]) + 256 + sum(unmarked[156:512]):06o}\0 ".encode()
    yield Case("pickle of code", "tar without a mark", writes(bytes(unmarked)), suffix=".tar", says="tar archive")
    whole = whole_archive()
    records = {
        "data.pkl": FOREIGN, "constants.pkl": "TorchScript", "version": DAMAGED, "byteorder": DAMAGED,
        ".data/serialization_id": DAMAGED,
        # Never looked at.
        "code/__torch__.py": "",
    }  # fmt: skip
    for name, says in records.items():
        content, outcome = whole.holding({f"archive/{name}".encode(): pickled}).written(), "refused" if says else "read"
        yield Case("pickle of code", f"as {name}", writes(content), outcome, ".pt", says=says, whole=not says)


def costly() -> Iterator[Case]:
    """Yield pickles that ask for more than they give."""
    for name, (pickled, says) in _costly():
        for where, content in (("zip", archive(pickled)), ("legacy", legacy(pickled))):
            yield Case("costly pickle", f"{name}, {where}", writes(content), suffix=".pth", says=says)
    for depth in (900, 10_000):
        beside = b"](" * depth + b"e" * depth
        for where, content in (("zip", zipped(whole_views(), beside)), ("legacy", unzipped(whole_views(), beside))):
            title = f"lists {depth} deep beside the weights, {where}"
            if depth < 1000:
                yield Case("costly pickle", title, writes(content), "read", ".pth", whole=True)
            else:
                yield Case("costly pickle", title, writes(content), suffix=".pth", says="nested deeper than 1000")
    for name, views, says, old in _storages():
        for where, content, words in (("zip", zipped(views), says), ("legacy", unzipped(views), old)):
            title, outcome = f"{name}, {where}", "refused" if words else "read"
            yield Case("costly pickle", title, writes(content), outcome, ".pth", says=words, whole=not words)
    for name, views, says in _parts():
        outcome = "refused" if says else "read"
        yield Case("costly pickle", name, writes(unzipped(views)), outcome, ".pth", says=says, whole=not says)


def _costly() -> Iterator[tuple[str, tuple[bytes, str]]]:
    start, unneeded, steps = b"\x80\x02", "which no state dict of dense tensors", "more steps than a file of its size"
    for number in (10**9, 6 * 10**9, 10**13):
        size = struct.pack("<Bq", 8, number)
        made = start + b"c__builtin__\nbytearray\n(\x8a" + size + b"tR."
        yield f"bytearray of {number}", (made, "bytearray with what no state dict gives it")
        yield f"Tensor of {number}", (start + b"ctorch\nFloatTensor\n(\x8a" + size + b"tR.", unneeded)
        weight = start + b"}X\x01\x00\x00\x00wctorch\nTensor\n(\x8a" + size + b"tRs."
        yield f"weight of {number}", (weight, unneeded)
    letters = b"".join(chr(0x100 + place % 5000).encode() for place in range(400_000))
    text = b"X" + struct.pack("<I", len(letters)) + letters
    for codec in ("punycode", "idna"):
        encoded = start + b"c_codecs\nencode\n(" + text + _text(codec, 2) + b"tR."
        yield f"text as {codec}", (encoded, "encode with what no state dict gives it")
    # A tuple as a key: its hash goes down through all of them, and so does its end.
    for depth, says in ((1000, "it has keys that are neither"), (1_000_000, "it has tuples in each other")):
        yield f"tuples {depth} deep as a key", (start + b"})" + b"\x85" * depth + b"K\x01s.", says)
        deep = start + b"c__builtin__\nset\n(])" + b"\x85" * depth + b"atR."
        yield f"tuples {depth} deep in a set", (deep, says)
    # Whole numbers with one hash.
    keys = b"".join(b"\x8a\x0b" + (number * (2**61 - 1)).to_bytes(11, "little") + b"N" for number in range(1, 60_000))
    yield "numbers of one hash", (start + b"}(" + keys + b"u.", "numbers that are too long")
    yield "a number of one hash as a key", (start + b"}\x8a\x09" + b"\x01" * 9 + b"Ns.", "it has keys that are neither")
    yield "a long number", (start + b"\x8a\x41" + b"\x01" * 65 + b".", "numbers that are too long")
    yield "mappings in each other's mappings", (start + _laughs(), NAMELESS)
    yield "a million numbers", (start + b"](" + b"K\x01" * 1_000_000 + b"e.", "holds a list")
    yield "twenty million marks", (start + b"(" * 20_000_000 + b"N.", "nested deeper than 1000")
    numbered = b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(1_000_000))
    yield "a million entries", (start + b"}(" + numbered + b"u.", steps)
    yield "a million objects", (start + b"](" + b"cargparse\nNamespace\n)\x81" * 1_000_000 + b"e.", steps)
    yield "a number of a million digits", (b"I" + b"9" * 1_000_000 + b"\n.", "it has the step 0x49")
    ends = {
        "text beyond the file": b"X\xff\xff\xff\xff.", "long beyond the file": b"\x8a\xff.",
        "nothing but a mark": b"(.", "an empty stack": b".", "no end": b"}", "a place cut short": b"j\x01",
    }  # fmt: skip
    for name, end in ends.items():
        says = "numbers that are too long" if name.startswith("long") else "it is truncated or damaged. Fetch"
        yield name, (start + end, says)


def _laughs() -> bytes:
    """Each of nine mappings holds the next under every key that a state dict may be under."""
    wrappers = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "net")
    pickled = b"}q\x00"
    for level in range(12):
        entries = b"".join(_text(key, 2) + b"h" + bytes([level]) for key in wrappers)
        # What is left on the stack below the last one is nobody's.
        pickled += b"}(" + entries + b"uq" + bytes([level + 1])
    return pickled + b"."


def _storages() -> Iterator[tuple[str, Mapping[str, View], str, str]]:
    """A whole network in which one tensor is larger than its storage, or this than it is in the file.

    Yields:
        What it is called, the tensors, and what is said of them in an archive and in an old file; nothing where they
        are sound.
    """
    views = whole_views()
    true = views[WEIGHT]
    classes, features = true.size
    none, few, other = DAMAGED, "more than its storage", "has a storage that is not as large as its tensors have it"
    yield "no lie", views, "", ""

    def changed(view: View) -> Mapping[str, View]:
        return views | {WEIGHT: view}

    for count in (10**6, 3 * 10**7, 10**9, 10**12):
        yield f"{count} classes of one row", changed(replace(true, size=(count, features), stride=(0, 0))), few, few
        absent = replace(true, size=(count, features))
        yield f"{count} numbers that are not there", changed(absent), none, none
        yield f"a storage of {count}", changed(replace(true, numel=count)), other, other
        yield f"an offset of {count}", changed(replace(true, offset=count)), none, none
    everything = {name: replace(view, numel=10**9) for name, view in views.items()}
    yield "storages that all go to the end", everything, other, other
    one = replace(true, stride=(0, 1), numel=features, data=(true.data or b"")[: 4 * features])
    yield "one row for all classes", changed(one), few, few
    windows = replace(true, stride=(1, 1), numel=classes + features, data=true.data[: 4 * (classes + features)])
    yield "windows over each other", changed(windows), few, few
    yield "a negative size", changed(replace(true, size=(-classes, features))), none, none
    yield "a negative stride", changed(replace(true, stride=(-features, 1))), none, none
    yield "a negative offset", changed(replace(true, offset=-4)), none, none
    yield "a negative storage", changed(replace(true, numel=-true.numel)), other, other
    yield "sizes that overflow", changed(replace(true, size=(2**32, 2**32), stride=(0, 0))), none, none
    given = "_rebuild_tensor_v2 with what no state dict gives it"
    yield "a thousand axes", changed(replace(true, size=(1,) * 1000, stride=(0,) * 1000)), given, given
    # Only old files say of what a storage is a part.
    yield "a part of parts", changed(replace(true, part=b"(" + b"K\x01" * 4 + b"t")), "", "that is no storage"
    dense = "sparse, quantized or without data"
    quantized = replace(true, kind="QInt8Storage", data=(true.data or b"")[: true.numel])
    yield "quantized numbers", changed(quantized), dense, dense
    for title, key in (("that is not there", "none"), ("named by half a letter", "\ud800")):
        yield f"a storage {title}", changed(replace(true, key=key, data=None)), other, "lists other storages"
    # Each of them would be a copy.
    equal = {name: view for name, view in views.items() if name in ("bn1.weight", "bn1.running_var")}
    cased = {name: replace(view, key=key) for (name, view), key in zip(equal.items(), "aA", strict=True)}
    yield "two storages of one name", views | cased, "two storages in one record", ""


def _parts() -> Iterator[tuple[str, Mapping[str, View], str]]:
    """A whole network whose storages are parts of one: as many numbers as they need, or more that are others' too."""
    views = whole_views()
    floats = {name: view for name, view in views.items() if view.kind == "FloatStorage"}
    data = b"".join(view.data for view in floats.values())
    for title, others, says in (("of one", False, ""), ("that overlap", True, "bytes of tensors, and has")):
        place, made = 0, {}
        for name, view in floats.items():
            size = len(data) // 4 - place if others else view.numel
            part = part_of(f"part {view.key}", place, size)
            made[name] = replace(view, numel=len(data) // 4, data=data, part=part, key="whole")
            place += view.numel
        yield f"storages that are parts {title}", views | made, says


def _quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def odd_contents() -> Iterator[Case]:
    """Yield files of `torch.save` that hold something else than a state dict."""
    from collections import Counter, OrderedDict

    alone, unneeded, mixed = "instead of named tensors", "which no state dict of dense tensors", "mixes its tensors"
    contents: dict[str, tuple[Any, str]] = {
        "list": ([1, 2], alone), "number": (3, alone), "text": ("w", alone), "nothing": (None, alone),
        "tensor": (torch.zeros(2), alone), "tuple": ((torch.zeros(1),), alone),
        "empty": ({}, NAMELESS), "numbers": ({"a": 1}, NAMELESS), "counter": (Counter("abc"), NAMELESS),
        "keys are numbers": ({1: torch.zeros(1)}, NAMELESS), "ordered": (OrderedDict(a=1), NAMELESS),
        "keys are tuples": ({(1, 2): torch.zeros(1)}, NAMELESS), "bytes": ({"w": b"abc"}, NAMELESS),
        "set": ({"w": {1, 2}}, NAMELESS),
        "wrappers": ({"model": {"state_dict": {"net": {"model": {}}}}}, NAMELESS),
        "mixed": ({"w": torch.zeros(1), "epoch": 3}, mixed),
        "long names": ({"w" * 10**6: torch.zeros(1), "v": 1}, mixed),
        "many others": ({f"{n}": n for n in range(1000)} | {"w": torch.zeros(1)}, mixed),
        "sparse": ({"w": torch.eye(3).to_sparse()}, unneeded), "quantized": ({"w": _quantized()}, unneeded),
        "meta": ({"w": torch.empty(10**12, device="meta")}, unneeded),
        "complex": ({"w": torch.ones(2, dtype=torch.complex64)}, UNFIT), "another network": (small_state(), UNFIT),
        "escape codes": ({"\x1b[2J" * 9: torch.zeros(1)}, UNFIT), "a module": (torch.nn.Linear(2, 2), FOREIGN),
    }  # fmt: skip
    for name, (content, says) in contents.items():
        for new in (True, False):
            # An old file has a module's source as well, under the name of a storage.
            words = "that is no storage" if name == "a module" and not new else says
            title = f"{name}, {'zip' if new else 'legacy'}"
            yield Case("odd content", title, saves(content, zipped=new), suffix=".pt", says=words)


def pickle_cases(canary: Path) -> Iterator[Case]:
    """Yield all of them."""
    yield from code(canary)
    yield from costly()
    yield from odd_contents()
