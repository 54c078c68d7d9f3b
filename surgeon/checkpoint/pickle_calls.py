"""What a pickle may call, and with what: all else is refused before PyTorch's restricted unpickler calls it.

Each call is looked at with the kinds of its arguments in place of the arguments. What it costs is taken from what the
file may cost in all, so that no call of a few bytes on something large is repeated at will.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import torch

STEPS_OF_ANY_FILE, BYTES_OF_A_STEP = 2**20, 128
"""What a step makes has at most about 128 bytes, so that all of it is no more than the file and 128 MiB."""

LONGEST_NAME = 64
MOST_AXES = 64
LARGEST_TUPLE = 2**16
STORAGE_PARTS, VIEW_PARTS = (5, 6), 3
"""A mark, the class, the key, the device, how many numbers; before PyTorch 1.6 also which part it is of another."""
LARGEST_KEY, LONGEST_IN_KEY, MOST_TUPLE_KEYS = 64, 256, 1000
"""Numbers can be chosen such that any number of tuples have one hash; each is then compared with all before it."""


class PickleError(ValueError):
    """A pickle that is not loaded; the message goes on from `it`."""


class DamagedPickleError(PickleError):
    """A pickle that ends early, or takes what is not there."""


class ForeignObjectError(PickleError):
    """A pickle that makes an object of a class that is no part of a state dict; the message is the class."""


class Kind(Enum):
    """What a value is, as far as calls differ by it."""

    FLAT = auto()
    TEXT = auto()
    BYTES = auto()
    TUPLE = auto()
    LIST = auto()
    MAPPING = auto()
    ATTRIBUTES = auto()
    GLOBAL = auto()
    STORAGE = auto()
    TENSOR = auto()
    OTHER = auto()


@dataclass(slots=True, eq=False)
class Value:
    """What is known of a value without making it.

    Attributes:
        kind: what it is.
        size: of a tuple the values in it and in the tuples in it, each as often as it is there; of a list its entries;
            of a mapping the steps that a copy of it takes; of a text or bytes how many.
        hashed: whether its hash takes no more time than its size, and is not chosen by the file.
        parts: of a tuple or list.
        name: of a global, or a short text.
        tensors: whether a mapping has tensors as values.
        number: of a whole number.
        names: of a mapping the keys that are short texts, and "" for all others.
    """

    kind: Kind
    size: int = 1
    hashed: bool = False
    parts: Sequence["Value"] = ()
    name: str = ""
    tensors: bool = False
    number: int | None = None
    names: set[str] | frozenset[str] = frozenset()


@dataclass(frozen=True)
class Storage:
    """What a pickle says of numbers that are beside it in the file.

    Attributes:
        key: where they are.
        kind: of which type, as in `ITEM_BYTES`.
        size: how many.
    """

    key: str
    kind: str
    size: int

    @property
    def nbytes(self) -> int:
        """Of all numbers."""
        return self.size * ITEM_BYTES[self.kind]


FLAT = Value(Kind.FLAT, hashed=True)
OTHER = Value(Kind.OTHER)


@dataclass
class Budget:
    """What all pickles of one file may cost together.

    Args:
        file_bytes: of the whole file.
    """

    file_bytes: int
    steps: int = field(init=False)
    encoded: int = 0
    tuple_keys: int = 0

    def __post_init__(self) -> None:
        self.steps = STEPS_OF_ANY_FILE + self.file_bytes // BYTES_OF_A_STEP

    def spend(self, steps: int) -> None:
        """Take steps."""
        self.steps -= steps
        if self.steps < 0:
            raise PickleError("it takes more steps than a file of its size needs")

    def encode(self, size: int) -> None:
        """Copy bytes of the file: torch.save has each of them made from a text, and those then made changeable."""
        self.encoded += size
        if self.encoded > 2 * self.file_bytes:
            raise PickleError("it copies its texts more often than they are there")

    def hash(self, keys: Sequence[Value]) -> int:
        """Make values the keys of a mapping or the members of a set.

        Returns:
            The steps that it took, and that each copy of them takes: equal texts are compared to their ends.
        """
        steps = 0
        for key in keys:
            if not key.hashed or (key.kind is Kind.TUPLE and key.size > LARGEST_KEY):
                raise PickleError("it has keys that are neither text, usual numbers nor small tuples of those")
            self.tuple_keys += key.kind is Kind.TUPLE
            steps += key.size if key.kind is Kind.TUPLE else 1 + key.size // BYTES_OF_A_STEP
        if self.tuple_keys > MOST_TUPLE_KEYS:
            raise PickleError(f"it has more than {MOST_TUPLE_KEYS} tuples as keys")
        self.spend(steps)
        return steps


def tuple_of(parts: Sequence[Value]) -> Value:
    """Put values into a tuple.

    Raises:
        PickleError: it is too large, with what is in it.
    """
    size = 1 + sum(part.size if part.kind is Kind.TUPLE else 1 for part in parts)
    if size > LARGEST_TUPLE:
        raise PickleError(f"it has tuples in each other with more than {LARGEST_TUPLE} values")
    return Value(Kind.TUPLE, size, all(map(_is_hashed_inside, parts)), tuple(parts))


def _is_hashed_inside(part: Value) -> bool:
    words = part.kind in (Kind.TEXT, Kind.BYTES)
    return part.hashed and not (words and part.size > LONGEST_IN_KEY)


def call(function: Value, arguments: Value, budget: Budget) -> Value:
    """Look at a call.

    Returns:
        What it returns.

    Raises:
        PickleError: no state dict needs it.
    """
    if function.kind is not Kind.GLOBAL or arguments.kind is not Kind.TUPLE:
        raise DamagedPickleError("it calls what is no function")
    if function.name not in CALLS and not TENSORS.fullmatch(function.name):
        raise ForeignObjectError(function.name.removeprefix("builtins."))
    rule = CALLS.get(function.name)
    if rule is None:
        raise PickleError(f"it calls {function.name}, which no state dict of dense tensors with data needs")
    result = rule(arguments.parts, budget)
    if result is None:
        raise PickleError(f"it calls {function.name} with what no state dict gives it")
    return result


def build(target: Value, state: Value, budget: Budget) -> None:
    """Look at attributes that an object is given.

    Raises:
        PickleError: no state dict needs them.
    """
    ordered = target.kind is Kind.MAPPING and target.name == ORDERED
    if not (ordered or target.kind is Kind.ATTRIBUTES) or state.kind is not Kind.MAPPING:
        raise PickleError("it sets attributes of what has none in a state dict")
    # What an object is given is found before what its class has: its methods would be what the file says.
    if not state.names <= {METADATA} if ordered else _shadows(state, argparse.Namespace):
        raise PickleError("it sets attributes that no state dict has")
    budget.spend(state.size)


Rule = Callable[[Sequence[Value], Budget], Value | None]

ORDERED = "collections.OrderedDict"
METADATA = "_metadata"
"""What a state dict tells of the modules: the only attribute that torch gives one."""

STORAGES = re.compile(r"torch\.(?:cuda\.|storage\.)?(\w+)Storage")
ITEM_BYTES = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8,
    "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1, "Untyped": 1,
    "QUInt8": 1, "QInt8": 1, "QInt32": 4,
}  # fmt: skip
"""Of each number of a storage."""

TENSORS = re.compile(r"torch\._utils\._rebuild_\w+|torch\.(\w+\.)*(\w*Tensor|\w*Storage|Parameter)")


def _is_flat(value: Value) -> bool:
    return value.kind in (Kind.FLAT, Kind.TEXT)


def _are_numbers(value: Value) -> bool:
    return (
        value.kind is Kind.TUPLE and value.size <= MOST_AXES + 1 and all(part.kind is Kind.FLAT for part in value.parts)
    )


def _is_optional_mapping(value: Value) -> bool:
    return value.kind is Kind.FLAT or (value.kind is Kind.MAPPING and not value.tensors)


def _is_attributes(value: Value) -> bool:
    """Whether a tensor may be given them: one mapping, or two."""
    both = value.kind is Kind.TUPLE and len(value.parts) == 2
    parts = value.parts if both else [value]
    return all(_is_optional_mapping(part) and not _shadows(part, torch.nn.Parameter) for part in parts)


def _shadows(attributes: Value, owner: type) -> bool:
    """Whether any of them stands before what the class has, or what Python looks for."""
    return any(hasattr(owner, name) or name.startswith("__") for name in attributes.names)


def _is_tensor(value: Value) -> bool:
    return value.kind is Kind.TENSOR


def _is_storage(value: Value) -> bool:
    return value.kind is Kind.STORAGE


def _is_number(value: Value) -> bool:
    return value.kind is Kind.FLAT


def _is_name(value: Value) -> bool:
    return value.kind is Kind.TEXT and value.size <= LONGEST_NAME


def _is_global(value: Value) -> bool:
    return value.kind is Kind.GLOBAL


def _entries(value: Value) -> int:
    """What a copy costs of a mapping, or of a pair of them."""
    return sum(one.size for one in (value, *value.parts[:2]) if one.kind is Kind.MAPPING)


def _signature(kind: Kind, *checks: Callable[[Value], bool], least: int | None = None) -> Rule:
    """The rule of what takes arguments of these kinds, the last of which may be left out down to `least` of them."""

    def rule(arguments: Sequence[Value], budget: Budget) -> Value | None:
        few = len(checks) if least is None else least
        if not few <= len(arguments) <= len(checks):
            return None
        if not all(check(one) for check, one in zip(checks, arguments, strict=False)):
            return None
        budget.spend(sum(map(_entries, arguments)))
        return Value(kind)

    return rule


def _text_to_bytes(arguments: Sequence[Value], budget: Budget) -> Value | None:
    match arguments:
        case [Value(kind=Kind.TEXT) as text, Value(kind=Kind.TEXT, name="latin1" | "latin-1")]:
            budget.encode(text.size)
            return Value(Kind.BYTES, text.size, hashed=True)
    return None


def _bytearray(arguments: Sequence[Value], budget: Budget) -> Value | None:
    """Of nothing, of bytes, or of a text: a number would be how many bytes to make."""
    match arguments:
        case [Value(kind=Kind.BYTES) as given]:
            budget.encode(given.size)
            return OTHER
    return OTHER if not arguments or _text_to_bytes(arguments, budget) else None


def _keys(arguments: Sequence[Value], budget: Budget) -> int | None:
    """What a copy costs of the keys that come of no argument, or of one list, tuple or mapping."""
    if not arguments:
        return 0
    if len(arguments) > 1 or arguments[0].kind not in (Kind.LIST, Kind.TUPLE, Kind.MAPPING):
        return None
    (given,) = arguments
    budget.spend(given.size)
    return given.size + budget.hash(given.parts)


def _set(arguments: Sequence[Value], budget: Budget) -> Value | None:
    return None if _keys(arguments, budget) is None else OTHER


def _counter(arguments: Sequence[Value], budget: Budget) -> Value | None:
    size = _keys(arguments, budget)
    if size is None:
        return None
    names = {name for given in arguments for name in given.names | names_of(given.parts)}
    return Value(Kind.MAPPING, size, name="collections.Counter", names=names)


def _ordered(arguments: Sequence[Value], budget: Budget) -> Value | None:
    """Without arguments; Python 2 gave it a list of keys and values."""
    entries: Sequence[Value] = ()
    if arguments:
        if len(arguments) > 1 or arguments[0].kind is not Kind.LIST:
            return None
        entries = arguments[0].parts
    if any(entry.kind not in (Kind.LIST, Kind.TUPLE) or len(entry.parts) != 2 for entry in entries):
        return None
    keys = [entry.parts[0] for entry in entries]
    size = budget.hash(keys)
    tensors = any(holds_tensors(entry.parts[1]) for entry in entries)
    return Value(Kind.MAPPING, size, name=ORDERED, tensors=tensors, names=names_of(keys))


def names_of(keys: Iterable[Value]) -> set[str]:
    """Return what a mapping with these keys has as `names`."""
    return {key.name if key.kind is Kind.TEXT else "" for key in keys}


def storage_of(value: Value) -> Storage | None:
    """Return the storage in whose place torch.save writes this, or None where it writes no such thing."""
    if value.kind is not Kind.TUPLE or len(value.parts) not in STORAGE_PARTS:
        return None
    _, type_, key, location, numbers, *part_of = value.parts
    inner = part_of[0].parts if part_of and part_of[0].kind is Kind.TUPLE else part_of
    if len(inner) > VIEW_PARTS or not all(_is_number(one) or _is_name(one) for one in inner):
        return None
    known = STORAGES.fullmatch(type_.name) if _is_global(type_) else None
    if known is None or known[1] not in ITEM_BYTES or numbers.number is None:
        return None
    return Storage(key.name, known[1], numbers.number) if _is_name(key) and _is_name(location) else None


def holds_tensors(value: Value) -> bool:
    """Whether an attribute must not be set to it."""
    return value.kind in (Kind.TENSOR, Kind.STORAGE)


def _size(arguments: Sequence[Value], _budget: Budget) -> Value | None:
    return arguments[0] if len(arguments) == 1 and _are_numbers(arguments[0]) else None


def _with_attributes(arguments: Sequence[Value], budget: Budget) -> Value | None:
    """A tensor that a function of the same kind makes, and its attributes."""
    match arguments:
        case [
            Value(kind=Kind.GLOBAL, name="torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor_v3") as made,
            Value(kind=Kind.GLOBAL, name="torch.Tensor" | "torch.nn.parameter.Parameter"),
            Value(kind=Kind.TUPLE) as inner,
            attributes,
        ] if _is_attributes(attributes):
            budget.spend(_entries(attributes))
            return call(made, inner, budget)
    return None


_VIEW = (_is_storage, _is_number, _are_numbers, _are_numbers)
_HOOKED = (_is_number, _is_optional_mapping)

CALLS: Mapping[str, Rule] = {
    ORDERED: _ordered,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.complex": _signature(Kind.OTHER, _is_number, _is_number),
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _text_to_bytes,
    "argparse.Namespace": _signature(Kind.ATTRIBUTES),
    "torch.Size": _size,
    "torch.device": _signature(Kind.OTHER, _is_name, _is_number, least=1),
    "torch.serialization._get_layout": _signature(Kind.OTHER, _is_name),
    "torch.nn.parameter.Parameter": _signature(Kind.TENSOR, _is_tensor, _is_number, least=1),
    "torch._utils._rebuild_tensor": _signature(Kind.TENSOR, *_VIEW),
    "torch._utils._rebuild_tensor_v2": _signature(Kind.TENSOR, *_VIEW, *_HOOKED, _is_optional_mapping, least=6),
    "torch._utils._rebuild_tensor_v3": _signature(
        Kind.TENSOR, *_VIEW, *_HOOKED, _is_global, _is_optional_mapping, least=7
    ),
    "torch._utils._rebuild_parameter": _signature(Kind.TENSOR, _is_tensor, *_HOOKED),
    "torch._utils._rebuild_parameter_with_state": _signature(Kind.TENSOR, _is_tensor, *_HOOKED, _is_attributes),
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
}
"""What torch.save writes of state dicts, of what trainers keep beside them, and of optimizers."""
