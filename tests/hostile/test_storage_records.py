"""Archives of `torch.save`: the record of a storage has its numbers and no others; and archives of 64 bits."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hostile_calls import START, called, function, number, text
from hostile_zips import archive

from surgeon.checkpoint.read import read
from surgeon.errors import CheckpointError

ONES, TWOS = struct.pack("<16f", *[1] * 16), struct.pack("<400f", *[2] * 400)
RECORDS = {"data/0": ONES, "data/1": TWOS}


def tensor(numel: int, key: str = "0", kind: str = "Float") -> bytes:
    """Push a vector of four numbers on a storage."""
    storage = (
        b"(" + text("storage") + function(f"torch.{kind}Storage") + text(key) + text("cpu") + number(numel) + b"tQ"
    )
    axes = b"(" + number(4) + b"t", b"(" + number(1) + b"t"
    return called(
        "torch._utils._rebuild_tensor_v2", storage, number(0), *axes, b"\x89", called("collections.OrderedDict")
    )  # fmt: skip


def pickled(*tensors: bytes) -> bytes:
    return START + b"}(" + b"".join(text(str(at)) + one for at, one in enumerate(tensors)) + b"u."


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("numel", [4, 15, 17, 40, 416, 0, -1, 2**40, 2**61])
def test_a_storage_of_another_size_than_its_record_is_refused(tmp_path: Path, numel: int, suffix: str) -> None:
    """One that goes on beyond it, into the next record or what is in memory behind a copy; or one that ends before."""
    path = tmp_path / f"one{suffix}"
    path.write_bytes(archive(pickled(tensor(numel)), RECORDS))
    with pytest.raises(CheckpointError, match="not as large as its tensors have it"):
        read(path)


@pytest.mark.parametrize(
    "tensors",
    [
        [tensor(16, "2")], [tensor(16, "")], [tensor(16, "../data/0")], [tensor(16, "1")], [tensor(16, "0", "Double")],
        [tensor(16, "0", "Half")], [tensor(16, "0", "Byte")], [tensor(16), tensor(16, "1")],
    ],
    ids=range(8),
)  # fmt: skip
def test_a_storage_without_a_record_of_its_own_is_refused(tmp_path: Path, tensors: list[bytes]) -> None:
    (tmp_path / "one.pth").write_bytes(archive(pickled(*tensors), RECORDS))
    with pytest.raises(CheckpointError, match="not as large as its tensors have it"):
        read(tmp_path / "one.pth")


@pytest.mark.parametrize("other", [tensor(8, "0", "Double"), tensor(16, "0", "Int"), tensor(17)], ids=range(3))
def test_a_storage_of_two_types_or_sizes_is_refused(tmp_path: Path, other: bytes) -> None:
    (tmp_path / "one.pth").write_bytes(archive(pickled(tensor(16), other), RECORDS))
    with pytest.raises(CheckpointError, match="two storages under one key"):
        read(tmp_path / "one.pth")


def test_storages_as_large_as_their_records(tmp_path: Path) -> None:
    content = archive(pickled(tensor(16), tensor(400, "1"), tensor(16)), RECORDS)
    for name in ("one.pth", "one.safetensors"):
        (tmp_path / name).write_bytes(content)
        found = read(tmp_path / name).tensors
        assert {key: value.tolist() for key, value in found.items()} == {"0": [1] * 4, "1": [2] * 4, "2": [1] * 4}


def large(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return an archive with every number in 64 bits, as if it had more than 4 GiB."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", -1)
        return archive(pickled(tensor(16), tensor(400, "1")), RECORDS)


def test_archives_with_numbers_of_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = large(monkeypatch)
    place = content.index(b"PK\x01\x02")
    # The sizes and the start of the first record are elsewhere, and there is a second end.
    assert content[place + 20 : place + 28] == content[place + 42 : place + 46] * 2 == b"\xff" * 8
    assert b"PK\x06\x06" in content
    assert b"PK\x06\x07" in content
    (tmp_path / "one.pth").write_bytes(content)
    wanted = torch.load(io.BytesIO(content), weights_only=True)
    found = read(tmp_path / "one.pth").tensors
    assert {key: value.tolist() for key, value in found.items()} == {"0": [1] * 4, "1": [2] * 4}
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)


@pytest.mark.parametrize("field", [0, 1, 2])
@pytest.mark.parametrize("change", [1, -1, 8, 2**32, 2**63])
def test_numbers_of_64_bits_that_are_not_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: int, change: int
) -> None:
    """The size, the packed size and the start of a storage's record."""
    content = bytearray(large(monkeypatch))
    entry = content.index(b"archive/data/0", content.index(b"PK\x01\x02"))
    place = entry + len(b"archive/data/0") + 4 + 8 * field
    (value,) = struct.unpack_from("<Q", content, place)
    assert value == (64, 64, content.index(b"archive/data/0") - 30)[field]
    struct.pack_into("<Q", content, place, (value + change) % 2**64)
    (tmp_path / "one.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"record|truncated|as large"):
        read(tmp_path / "one.pth")


def test_a_number_of_64_bits_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(large(monkeypatch))
    entry = content.index(b"archive/data/0", content.index(b"PK\x01\x02"))
    place = entry + len(b"archive/data/0")
    assert struct.unpack_from("<HH", content, place) == (1, 24)
    # Extras of another kind: nothing tells where the record is.
    struct.pack_into("<H", content, place, 2)
    (tmp_path / "one.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="beyond its end"):
        read(tmp_path / "one.pth")


def test_a_record_of_which_only_the_start_has_64_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a small one behind 4 GiB: its sizes are where they always are."""
    content = bytearray(large(monkeypatch))
    entry = content.index(b"archive/data/0", content.index(b"PK\x01\x02"))
    extras = entry + len(b"archive/data/0")
    (start,) = struct.unpack_from("<Q", content, extras + 4 + 16)
    struct.pack_into("<II", content, entry - 26, 64, 64)
    struct.pack_into("<HHQHH12x", content, extras, 1, 8, start, 0x9999, 12)
    (tmp_path / "one.pth").write_bytes(content)
    assert read(tmp_path / "one.pth").tensors["0"].tolist() == [1] * 4


@pytest.mark.parametrize("change", [1, -1, 2**48, 2**63, -(2**63)])
def test_an_end_of_64_bits_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int) -> None:
    content = bytearray(large(monkeypatch))
    place = content.index(b"PK\x06\x07") + 8
    (end,) = struct.unpack_from("<Q", content, place)
    assert content[end : end + 4] == b"PK\x06\x06"
    struct.pack_into("<Q", content, place, (end + change) % 2**64)
    (tmp_path / "one.pth").write_bytes(content)
    # What PyTorch itself refuses is said in other words.
    with pytest.raises(CheckpointError, match="is truncated or damaged"):
        read(tmp_path / "one.pth")
