"""Pickles that call what they may, with what it was not made for; each is a few hundred bytes."""

import struct
import tarfile
from collections.abc import Iterator

from hostile_case import Case, writes
from hostile_zips import archive

MANY = 10**7
STORAGE = {"data/0": bytes(64)}
START = b"\x80\x02"


def number(value: int) -> bytes:
    """Push a number of eight bytes."""
    return b"\x8a" + struct.pack("<Bq", 8, value)


def text(value: str) -> bytes:
    """Push a text."""
    encoded = value.encode(errors="surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def function(name: str) -> bytes:
    """Push a function or class."""
    module, _, last = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def called(name: str, *arguments: bytes, step: bytes = b"R") -> bytes:
    """Call it."""
    return function(name) + b"(" + b"".join(arguments) + b"t" + step


def storage(kind: str = "FloatStorage") -> bytes:
    """Push a storage of sixteen numbers, of each kind another one."""
    key = "0" if kind == "FloatStorage" else kind
    return b"(" + text("storage") + function(f"torch.{kind}") + text(key) + text("cpu") + number(16) + b"tQ"


def tensor(size: int, stride: int, kind: str = "FloatStorage") -> bytes:
    """Push a tensor on a storage of sixteen numbers."""
    hooks = called("collections.OrderedDict")
    axes = (b"(" + number(size) + b"t", b"(" + number(stride) + b"t")
    return called("torch._utils._rebuild_tensor_v2", storage(kind), number(0), *axes, b"\x89", hooks)


WIDE = tensor(MANY, 0)
INDICES = tensor(MANY, 0, "LongStorage")
DOUBLED = b"K\x01\x85q\x01" + b"".join(b"h" + bytes([at]) + b"\x86q" + bytes([at + 1]) for at in range(1, 60))
SHAPE = b"(" + number(MANY) + b"t"


def _values() -> Iterator[tuple[str, bytes, str]]:
    given, unneeded = "with what no state dict gives it", "which no state dict of dense tensors"
    tuples, steps = "it has tuples in each other", "it takes more steps"
    none = "it sets attributes of what has none"
    for name in ("set", "Counter"):
        home = "__builtin__" if name == "set" else "collections"
        for step in (b"R", b"\x81"):
            called_so = f"by {step!r}"
            yield f"{name} of an expanded tensor {called_so}", called(f"{home}.{name}", WIDE, step=step), given
            doubled = called(f"{home}.{name}", b"](" + DOUBLED + b"e", step=step)
            yield f"{name} of a doubled tuple {called_so}", doubled, tuples
    yield "OrderedDict of a doubled tuple", called("collections.OrderedDict", b"](" + DOUBLED + b"N\x86e"), tuples
    yield "OrderedDict of an expanded tensor", called("collections.OrderedDict", WIDE), given
    yield "a doubled tuple as a key", b"}" + DOUBLED + b"Ns", tuples
    yield "a doubled tuple", DOUBLED, tuples
    yield "Size of an expanded tensor", called("torch.Size", INDICES), given
    shape = called("torch._utils._rebuild_tensor", storage(), number(0), INDICES, INDICES)
    yield "a shape that is a tensor", shape, given
    yield "an entry of a tensor", WIDE + b"NK\x01s", "it sets entries of what is no mapping"
    yield "attributes from a tensor", called("collections.OrderedDict") + WIDE + b"b", none
    attributes = b"}" + text("data") + WIDE + b"s"
    parameter = called("torch._utils._rebuild_parameter_with_state", tensor(4, 1), b"\x89", b"N", attributes)
    yield "a parameter's attributes", parameter, given
    yield "torch.Tensor", called("torch.Tensor", number(MANY)), unneeded
    yield "torch.FloatTensor of a list", called("torch.FloatTensor", b"](" + b"K\x01" * 9 + b"e"), unneeded
    coo = called("torch.serialization._get_layout", text("torch.sparse_coo"))
    csr = called("torch.serialization._get_layout", text("torch.sparse_csr"))
    square = b"(" + number(MANY) * 2 + b"t"
    sparse = "torch._utils._rebuild_sparse_tensor"
    yield "coordinates", called(sparse, coo, b"(" + INDICES + WIDE + square + b"\x89t"), unneeded
    yield "rows", called(sparse, csr, b"(" + INDICES * 2 + WIDE + square + b"t"), unneeded
    quantizer = b"(" + function("torch.per_channel_affine") + WIDE + INDICES + number(0) + b"t"
    hooks = called("collections.OrderedDict")
    scales = (storage("QInt8Storage"), number(0), SHAPE, b"(" + number(0) + b"t", quantizer, b"\x89", hooks)
    yield "scales", called("torch._utils._rebuild_qtensor", *scales), unneeded
    # Cheap once, and repeated by few bytes each.
    entries = b"}q\x01(" + b"".join(b"M" + struct.pack("<H", key) + b"N" for key in range(20_000)) + b"u"
    yield "attributes a thousand times", entries + b"](" + b"cargparse\nNamespace\n)\x81h\x01b" * 1000 + b"e", steps
    yield (
        "a set a thousand times",
        b"](" + b"K\x01" * 20_000 + b"eq\x01](" + b"c__builtin__\nset\nh\x01\x85R" * 1000 + b"e",
        steps,
    )
    letters = text("a" * 100_000) + b"q\x01" + text("latin1") + b"q\x02"
    yield (
        "bytes a thousand times",
        letters + b"](" + b"c_codecs\nencode\nh\x01h\x02\x86R" * 1000 + b"e",
        "copies its texts",
    )
    words = b"(" + text("b" * 100_000) + b"q\x01" + text("b" * 100_000) + b"q\x02"
    yield "equal texts as keys", words + b"}(h\x01N" + b"h\x02N" * 5000 + b"ut", steps
    bags = b"}h\x01Nsq\x03}h\x02Nsq\x04" + called("argparse.Namespace") + b"h\x03bh\x04b" * 1000
    yield "attributes of equal texts", words + bags + b"t", steps
    state = called("torch._utils._rebuild_parameter_with_state", tensor(4, 1), b"\x89", b"N", b"Nh\x01\x86")
    yield "a parameter's attributes a thousand times", entries + b"](" + state * 100 + b"e", steps
    view = (storage(), number(0), b"(K\x04t", b"(K\x01t")
    yield "hooks that are a list", called("torch._utils._rebuild_tensor_v2", *view, b"\x89", b"]"), given
    no_function = "it calls what is no function"
    yield "a call of a text", text("collections.OrderedDict") + b")R", no_function
    yield "a call with a list", function("argparse.Namespace") + b"]R", no_function
    yield "an entry behind a mapping", b"}K\x01a", "it appends to what is no list"
    yield "attributes of a mapping", b"}}" + text("a") + b"K\x01sb", none
    yield "attributes of a counter", called("collections.Counter") + b"}" + text("a") + b"K\x01sb", none
    yield "attributes that are a list", called("argparse.Namespace") + b"]b", none
    for name, key in (("a long text as its key", text("k" * 65)), ("a long text as its device", text("0"))):
        device = text("cpu" if "key" in name else "c" * 65)
        named = b"(" + text("storage") + function("torch.FloatStorage") + key + device + number(16) + b"tQ"
        yield f"a storage with {name}", named, "that is no storage"
    yield "storages with tuples as keys", (
        b"(" + text("storage") + function("torch.FloatStorage") + b"K\x01\x85" + text("cpu") + number(16) + b"tQ"
    ), "that is no storage"  # fmt: skip
    yield (
        "tuples of one hash",
        b"}(" + b"".join(number(at) + number(-at) + b"\x86N" for at in range(2000)) + b"u",
        "tuples as keys",
    )
    keyed = "it has keys that are neither"
    yield "a long text in a tuple as a key", b"}" + text("a" * 257) + b"\x85Ns", keyed
    yield (
        "long bytes in a tuple as a key",
        b"}" + called("_codecs.encode", text("a" * 257), text("latin1")) + b"\x85Ns",
        keyed,
    )
    yield "a large tuple as a key", b"}(" + b"K\x01" * 65 + b"tNs", keyed


def call_cases() -> Iterator[Case]:
    """Yield all of them, beside a sound tensor."""
    for name, value, says in _values():
        pickled = START + b"}(" + text("model") + b"}" + text("w") + tensor(4, 1) + b"s" + text("x") + value + b"u."
        yield Case("costly call", name, writes(archive(pickled, STORAGE)), suffix=".pth", says=says)
    long = START + b"N" * 2**19 + b"."
    old = writes(long * 5)
    yield Case("costly pickle", "five of many steps, legacy", old, suffix=".pth", says="steps")
    pickles = {f"{at}.pkl": long for at in range(3)}
    yield Case(
        "costly pickle", "three of many steps", writes(archive(START + b"}.", pickles)), suffix=".pth", says="steps"
    )
    for name, size in (("nothing", 0), ("three gibibytes", 3 * 2**30)):
        content = _header(tarfile.GNUTYPE_LONGNAME, size) * 3000 + _header(tarfile.REGTYPE, 0) + bytes(1024)
        yield Case("costly call", f"tar with long names of {name}", writes(content), suffix=".tar", says="tar archive")


def _header(kind: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo("a")
    entry.type, entry.size = kind, size
    return entry.tobuf(format=tarfile.USTAR_FORMAT)
