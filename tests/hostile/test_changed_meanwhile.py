"""A file that is changed while it is read or used: what is made of it is what was hashed, or it is refused."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hostile_case import ARCH, whole_state

import surgeon
from surgeon.checkpoint import build, find_architecture
from surgeon.checkpoint.fit import fit
from surgeon.checkpoint.load import open_checkpoint
from surgeon.checkpoint.read import read
from surgeon.errors import CheckpointError
from surgeon.operate.diff import diff

FORMATS = (".pt", ".safetensors", ".th")
TICK = 0.02
"""Seconds after which a change of a file shows by its time."""


def write(path: Path, factor: float = 1.0) -> Path:
    """Save the network, in the old format of torch where the suffix is .th; always in as many bytes."""
    state = {name: tensor * factor if tensor.is_floating_point() else tensor for name, tensor in whole_state().items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    time.sleep(TICK)
    return path


def erase(path: Path) -> None:
    """Overwrite the classifier with zeros where it is, as it may be in a file that is mapped, and hide the time."""
    before = path.stat()
    wanted = whole_state()["classifier.weight"].numpy().tobytes()
    place = path.read_bytes().index(wanted)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(len(wanted)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def before_call(
    monkeypatch: pytest.MonkeyPatch, where: Callable[..., Any], name: str, deed: Callable[[], None]
) -> None:
    """Do something just before a function calls another one."""
    called = where.__globals__[name]

    def both(*arguments: Any, **named: Any) -> Any:
        deed()
        return called(*arguments, **named)

    monkeypatch.setitem(where.__globals__, name, both)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("moment", ["build", "fit"])
def test_a_change_between_reading_and_building_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, moment: str
) -> None:
    path = write(tmp_path / f"one{suffix}")
    with monkeypatch.context() as patch:
        before_call(patch, open_checkpoint, moment, lambda: erase(path))
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            open_checkpoint(path, ARCH)
    model, checkpoint = open_checkpoint(path, ARCH)
    assert model.get_parameter("classifier.weight").abs().max() == 0
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_change_that_is_taken_back_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Other content while the tensors are read, the same while it is hashed; the time of both is that of the first."""
    path = write(tmp_path / f"one{suffix}")
    content, times = path.read_bytes(), path.stat()

    def restore() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    reader = "read_safetensors" if suffix == ".safetensors" else "read_torch"
    before_call(monkeypatch, read, reader, lambda: erase(path))
    before_call(monkeypatch, read, "_sha256", restore)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        read(path)


@pytest.mark.parametrize("deed", ["replaced", "gone", "a pipe"])
def test_another_file_or_none_in_its_place_is_seen(tmp_path: Path, deed: str) -> None:
    path = write(tmp_path / "one.safetensors")
    checkpoint = read(path)
    model = build(find_architecture(checkpoint, ARCH), checkpoint)
    fit(model, checkpoint)
    if deed == "replaced":
        write(tmp_path / "two.safetensors").replace(path)
    else:
        path.unlink()
    if deed == "a pipe":
        os.mkfifo(path)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        fit(model, checkpoint)


@pytest.mark.parametrize("changed", [0, 1])
def test_a_change_while_files_are_compared_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: int
) -> None:
    paths = [write(tmp_path / "one.safetensors"), write(tmp_path / "two.pt", 2.0)]
    paths = paths if changed == 0 else paths[::-1]

    def example(model: object) -> torch.Tensor:
        return torch.zeros(1, 3, 32, 32)

    with monkeypatch.context() as patch:
        before_call(patch, diff, "_differ", lambda: erase(tmp_path / "one.safetensors"))
        with pytest.raises(CheckpointError, match=r"one\.safetensors was changed while it was read"):
            diff(*paths, arch=ARCH, example=example)
    assert not diff(*paths, arch=ARCH, example=example).same


def test_a_file_that_nobody_changes_is_no_trouble(tmp_path: Path) -> None:
    """Looked at by others, and read again."""
    path = write(tmp_path / "one.safetensors")
    checkpoint = read(path)
    path.read_bytes()
    checkpoint.check_unchanged()
    assert surgeon.load(path, ARCH).get_parameter("classifier.weight").equal(whole_state()["classifier.weight"])
    checkpoint.check_unchanged()
