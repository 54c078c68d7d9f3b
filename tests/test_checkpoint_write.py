"""Writing checkpoints and records: whole or not at all, and never over something without being told to."""

import errno
import fcntl
import json
import os
import resource
import stat
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from surgeon.checkpoint import Architecture, load, read, refuse_existing, save, write_text
from surgeon.checkpoint.write import remove_leftovers, replacing
from surgeon.errors import OutputError


def _small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["resnet18", "test_efficientnet", "test_vit"])
def test_timm_loads_what_was_saved(tmp_path: Path, name: str) -> None:
    original = timm.create_model(name, num_classes=9)
    path = tmp_path / "anything.safetensors"
    save(path, original, architecture=Architecture("timm", name, {"num_classes": 9}))
    model = timm.create_model(name, num_classes=9, checkpoint_path=path)
    state = original.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_what_was_saved_loads_without_arch(tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save(first, timm.create_model("test_resnet", num_classes=3), architecture=Architecture("timm", "test_resnet"))
    model = load(first)
    save(second, model)
    again = load(second)
    assert again.surgeon_architecture == Architecture("timm", "test_resnet", {"num_classes": 3})
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_the_header(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    architecture = Architecture("torchvision", "vgg11", {"num_classes": 4, "dropout": 0.1})
    save(path, _small(), architecture=architecture, metadata={"surgeon": "1", "seed": "0", "architecture": "old"})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "format": "pt",
        "architecture": "torchvision:vgg11",
        "architecture_args": '{"dropout": 0.1, "num_classes": 4}',
        "surgeon": "1",
        "seed": "0",
    }


def test_a_network_of_unknown_architecture_has_none_in_its_header(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(path, _small())
    assert read(path).metadata == {"format": "pt"}


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    # The library's own header is in the order of a hash map with a new seed for every call.
    model = _small()
    written = []
    for index in range(5):
        path = tmp_path / f"{index}.safetensors"
        save(path, model, metadata={letter: letter for letter in "zyxabc"})
        written.append(path.read_bytes())
    assert len(set(written)) == 1
    length = int.from_bytes(written[0][:8], "little")
    assert length % 8 == 0
    assert list(json.loads(written[0][8 : 8 + length])["__metadata__"]) == ["a", "b", "c", "format", "x", "y", "z"]


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[0].bias = nn.Parameter(torch.arange(8.0)[::2])
    model.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    path = tmp_path / "net.safetensors"
    save(path, model)
    tensors = read(path).tensors
    assert tensors["0.bias"].tolist() == [0, 2, 4, 6]
    assert torch.equal(tensors["turned"], torch.tensor([[0.0, 3], [1, 4], [2, 5]]))
    assert torch.equal(tensors["0.weight"], tensors["1.weight"])


def test_an_existing_file_stays_without_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_text("mine")
    for write in (
        lambda: save(path, _small()),
        lambda: write_text(path, "x"),
        lambda: refuse_existing(path, overwrite=False),
    ):
        with pytest.raises(OutputError, match="exists") as caught:
            write()
        assert "--overwrite" in caught.value.remedy
    assert _contents(tmp_path) == {"net.safetensors": b"mine"}
    refuse_existing(path, overwrite=True)
    save(path, _small(), overwrite=True)
    assert len(read(path).tensors) == 7


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(OutputError):
        write_text(path, "x")
    assert not (tmp_path / "elsewhere.json").exists()


@pytest.mark.parametrize("overwrite", [True, False])
def test_places_that_cannot_be_written(tmp_path: Path, overwrite: bool) -> None:
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    places = [folder, pipe, tmp_path / "none" / "x.safetensors", tmp_path / ("x" * 300 + ".safetensors")]
    for path in [*places, Path("a\0b.safetensors")]:
        with pytest.raises(OutputError) as caught:
            save(path, _small(), overwrite=overwrite)
        assert caught.value.remedy.endswith(".")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert _contents(tmp_path) == {}


def test_only_safetensors_are_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.pth"):
        save(tmp_path / "net.pth", _small())


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    write_text(path, "new", overwrite=True)
    assert _contents(tmp_path) == {"net.json": b"new"}


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    write_text(path, "x")
    usual = tmp_path / "usual"
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize(
    ("call", "overwrite"), [("os.fsync", True), ("os.fsync", False), ("os.replace", True), ("os.link", False)]
)
def test_an_interrupted_write_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, failure: BaseException, call: str
) -> None:
    path = tmp_path / "net.safetensors"
    if overwrite:
        path.write_text("mine")
    before = _contents(tmp_path)

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(call, fail)
    wanted = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(wanted) as caught:
        save(path, _small(), overwrite=overwrite)
    assert _contents(tmp_path) == before
    if isinstance(caught.value, OutputError):
        assert "No space left" in caught.value.problem


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.json"
    fsync = os.fsync

    def other_process(descriptor: int) -> None:
        path.write_text("theirs")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", other_process)
    with pytest.raises(OutputError, match="exists"):
        write_text(path, "ours")
    assert _contents(tmp_path) == {"net.json": b"theirs"}


def test_a_file_that_appears_at_the_last_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "net.json", os.link

    def other_process(source: Path, target: Path) -> None:
        path.write_text("theirs")
        link(source, target)

    monkeypatch.setattr("os.link", other_process)
    with pytest.raises(OutputError, match="exists"):
        write_text(path, "ours")
    assert _contents(tmp_path) == {"net.json": b"theirs"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_where_files_have_one_name_only_they_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", refuse)
    write_text(tmp_path / "net.json", "ours")
    with pytest.raises(OutputError, match="exists"):
        write_text(tmp_path / "net.json", "again")
    assert _contents(tmp_path) == {"net.json": b"ours"}


def test_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError) as caught:
            save(path, nn.Linear(500, 500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.problem == f"{path} cannot be written: File too large."
    assert _contents(tmp_path) == {}


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Extra(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

    with pytest.raises(OutputError, match="_extra_state"):
        save(tmp_path / "net.safetensors", Extra())
    assert _contents(tmp_path) == {}


def test_an_architecture_in_a_file_whose_name_is_no_text_does_not_lose_the_result(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", nn.Linear(2, 2), architecture=Architecture("file", "half\udcff.py:Net"))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["architecture"] == r"half\udcff.py:Net"


def test_what_a_killed_process_has_left_is_told_from_what_one_writes(tmp_path: Path) -> None:
    path, other = tmp_path / "net.json", tmp_path / "other.json"
    with replacing(path, False) as file:
        file.write(b"ours")
        (half,) = tmp_path.iterdir()
        # As a second process does that writes the same file, and as one that writes another.
        remove_leftovers(path)
        remove_leftovers(other)
        assert half.exists()
    assert _contents(tmp_path) == {"net.json": b"ours"}
    half.write_text("of a killed process")
    remove_leftovers(other)
    assert half.exists()
    remove_leftovers(path)
    assert _contents(tmp_path) == {"net.json": b"ours"}


def test_a_half_that_is_taken_away_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = fcntl.flock, []

    def take_away(descriptor: int, operation: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", take_away)
    write_text(tmp_path / "net.json", "ours")
    assert len(taken) == 1
    assert _contents(tmp_path) == {"net.json": b"ours"}


def test_on_a_disk_without_locks_leftovers_go_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "net.json"
    with replacing(path, False) as file:
        file.write(b"ours")
        (half,) = tmp_path.iterdir()
    half.write_text("of a killed process")
    remove_leftovers(path)
    assert _contents(tmp_path) == {"net.json": b"ours"}


def test_nothing_but_files_goes_as_a_leftover(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    with replacing(path, False):
        (half,) = tmp_path.iterdir()
    path.unlink()
    os.mkfifo(half)
    remove_leftovers(path)
    assert [one.name for one in tmp_path.iterdir()] == [half.name]
