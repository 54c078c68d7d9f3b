"""Sound files that end early, or in which bytes were changed by chance."""

import io
import pickletools
import random
import re
from collections.abc import Iterator

import torch
from hostile_case import Case, cut, laid_out, small_state, whole_state, writes

ADDRESS = re.compile(rb"X[\x0a-\x14]\0\0\0\d{10,20}")
MARKS = b'{}[]:,"'
EMPTY = "is empty"
RECORDS = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07")


def saved(tensors: dict[str, torch.Tensor], *, zipped: bool) -> bytes:
    """Return what `torch.save` writes, the same bytes every time."""
    if not zipped:
        # The old format orders storages by where they are in memory: there is to be one, under a name of our own.
        tensors = {name: value for name, value in tensors.items() if value.is_floating_point()}
        storage, place = torch.cat([value.reshape(-1) for value in tensors.values()]), 0
        for name, value in tensors.items():
            tensors[name] = storage[place : place + value.numel()].view(value.shape)
            place += value.numel()
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue() if zipped else ADDRESS.sub(b"X\x01\0\0\x000", buffer.getvalue())


def truncated() -> Iterator[Case]:
    """Yield files that end at a boundary of their structure, or a byte beside it."""
    content = laid_out(small_state(), {"architecture": "resnet18"})
    length = int.from_bytes(content[:8], "little")
    places = [place for place, letter in enumerate(content[: 8 + length]) if letter in MARKS]
    places += [8 + length, 8 + length + 24, 8 + length + 40, len(content) - 1, *range(9)]
    for place, rest in cut(content, places):
        says = EMPTY if not place else "ends before its header" if place < 8 + length else "lies outside the file"
        yield Case("truncated safetensors", f"at {place}", writes(rest), says=says)
    content = saved(small_state(), zipped=True)
    places = [place + step for mark in RECORDS for place in _places(content, mark) for step in (0, 4, 30)]
    for place, rest in cut(content, [*places, *range(1, 5), len(content) - 1, len(content) - 2]):
        # Before the mark of an archive is whole, it begins with a letter.
        says = EMPTY if not place else "does not begin as a file of" if place < 4 else " is truncated or damaged"
        yield Case("truncated zip", f"at {place}", writes(rest), suffix=".pth", says=says)
    content = saved(small_state(), zipped=False)
    steps = _opcodes(content)
    for place, rest in cut(content, [*steps, len(content) - 1, len(content) - 100]):
        says = EMPTY if not place else "is truncated or damaged" if place <= steps[-1] else "is truncated"
        yield Case("truncated pickle", f"at {place}", writes(rest), suffix=".pth", says=says)
    for suffix, whole in _wholes():
        for share in (0.001, 0.5, 0.999):
            place = int(len(whole) * share)
            yield Case(
                "truncated network", f"{suffix}, at {place}", writes(whole[:place]), suffix=suffix, says="truncated"
            )
        behind = {".safetensors": "behind its last tensor", ".pt": "does not end as an archive"}
        says = behind.get(suffix, "goes on behind its last storage")
        longer = writes(whole + b"\0")
        yield Case("truncated network", f"{suffix}, longer", longer, suffix=suffix, says=says)


def _wholes() -> list[tuple[str, bytes]]:
    state = whole_state()
    return [
        (".safetensors", laid_out(state, {"architecture": "x"})), (".pt", saved(state, zipped=True)),
        (".th", saved(state, zipped=False)),
    ]  # fmt: skip


def _places(content: bytes, mark: bytes) -> Iterator[int]:
    place = content.find(mark)
    while place >= 0:
        yield place
        place = content.find(mark, place + 1)


def _opcodes(content: bytes) -> list[int]:
    """Where every fourth step of the pickles in an old file begins, and where each of them ends."""
    stream, places = io.BytesIO(content), []
    for _ in range(5):
        start = stream.tell()
        steps = [start + (place or 0) for _, _, place in pickletools.genops(content[start:])]
        stream.seek(steps[-1] + 1)
        places += [*steps[::4], steps[-1]]
    return places


def mutated(seed: int, each: int) -> Iterator[Case]:
    """Yield sound files with bytes changed, removed, inserted or doubled by chance, mostly where the structure is.

    Args:
        seed: of all changes.
        each: files of each of six sound ones.
    """
    chance = random.Random(seed)
    smalls = [
        (".safetensors", laid_out(small_state(), {"architecture": "resnet18"})),
        (".pth", saved(small_state(), zipped=True)), (".pth", saved(small_state(), zipped=False)),
    ]  # fmt: skip
    for number, (suffix, content) in enumerate([*smalls, *_wholes()]):
        for turn in range(each):
            changed = _changed(bytearray(content), chance)
            name = f"{number}, {turn}"
            # What holds no network cannot become one.
            outcome = "refused" if number < len(smalls) else "either"
            yield Case("mutated", name, writes(bytes(changed)), suffix=suffix, outcome=outcome)


def _changed(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 1, 2, 4))):
        # The beginning and the end of a file say what the rest is.
        place = min(int(chance.expovariate(1 / 300)), len(content) - 1)
        if chance.random() < 0.4:
            place = len(content) - 1 - place
        kind = chance.randrange(5)
        if kind == 0:
            content[place] = chance.randrange(256)
        elif kind == 1:
            content[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del content[place : place + chance.choice((1, 2, 8, 100))]
        elif kind == 3:
            content[place:place] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4, 8))))
        else:
            content[place:place] = content[place : place + chance.choice((1, 8, 64))]
        content = content or bytearray(b"\0")
    return content


def damage_cases(seed: int, each: int) -> Iterator[Case]:
    """Yield all of them."""
    yield from truncated()
    yield from mutated(seed, each)
