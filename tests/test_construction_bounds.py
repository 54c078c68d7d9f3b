"""What a builder may make and compute on a checkpoint's word."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import surgeon
from surgeon.checkpoint import construction
from surgeon.checkpoint.arguments import checked
from surgeon.checkpoint.construction import ExcessError, bounded
from surgeon.checkpoint.state_dict import stored_bytes
from surgeon.errors import ArchitectureError, CheckpointError

FEW = 2**20


def described(tmp_path: Path, name: str, arguments: dict[str, Any]) -> Path:
    """Return a file of one small tensor whose header asks for a network."""
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(2)}, path, {"architecture": name, "architecture_args": json.dumps(arguments)})
    return path


def test_whatever_a_builder_raises_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = described(tmp_path, "csatv2", {"depths": [3000, 1, 1, 1]})
    with pytest.raises(ArchitectureError, match=r"csatv2 cannot be built with .*: StopIteration\. Pass another"):
        surgeon.load(path)


def test_a_builder_that_computes_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(construction, "MOST_CALLS", 20_000)
    monkeypatch.setattr(construction, "LEEWAY", 10**6)
    path = described(tmp_path, "convit_tiny", {"num_heads": 4096})
    with pytest.raises(ArchitectureError, match="more than 20000 calls of torch"):
        surgeon.load(path)


def test_what_has_no_memory_yet_counts_before_all_of_it_is_made() -> None:
    # Each takes as many bytes.
    with bounded(2**20):
        for _ in range(construction.LEEWAY):
            torch.nn.Linear(512, 512, bias=False, device="meta")
        with pytest.raises(ExcessError, match="more than 1048576 bytes"):
            torch.nn.Linear(512, 512, bias=False, device="meta")


def test_a_single_number_too_many_is_no_classifier(tmp_path: Path) -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    save_file({**state, "more": torch.tensor(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="more"):
        surgeon.load(tmp_path / "a.safetensors", "test_efficientnet")


def test_a_builder_that_computes_without_torch_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(construction, "MOST_STEPS", 300_000)
    path = described(tmp_path, "tiny_vit_5m_224", {"window_sizes": [7, 7, 14, 7]})
    with pytest.raises(ArchitectureError, match="more than 300000 steps"):
        surgeon.load(path)
    assert sys.getprofile() is None


def test_the_steps_of_what_a_library_builds_by_itself_are_not_counted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(construction, "MOST_STEPS", 10)
    model = timm.create_model("test_vit", num_classes=1000)
    save_file(model.state_dict(), tmp_path / "a.safetensors", {"architecture": "test_vit"})
    surgeon.load(tmp_path / "a.safetensors")


def test_steps_are_left_to_a_profiler_that_counts_already() -> None:
    def own(*given: object) -> None:
        del given

    sys.setprofile(own)
    try:
        with bounded(None):
            assert sys.getprofile() is own
    finally:
        sys.setprofile(None)


def test_storages_that_begin_at_one_place_count_as_the_larger_one() -> None:
    whole = torch.UntypedStorage(16)
    large, small = (torch.empty(0, dtype=torch.uint8).set_(storage) for storage in (whole, whole[:4]))
    assert stored_bytes({"a": large, "b": small}) == stored_bytes({"a": small, "b": large}) == 16


def test_what_is_computed_counts_before_anything_keeps_it() -> None:
    with bounded(4 * FEW):
        torch.zeros(FEW)
        torch.zeros(100 * FEW, device="meta").repeat(2)
        with pytest.raises(ExcessError, match=f"it computes {8 * FEW} bytes"):
            torch.zeros(FEW).repeat(2)
    assert torch.zeros(FEW).repeat(2).nbytes == 8 * FEW
    with bounded(None):
        assert torch.zeros(FEW).repeat(2).nbytes == 8 * FEW


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ({"num_heads": 2**14}, True),
        ({"num_heads": 2**14 + 1}, False),
        ({"width_factor": 65536.0}, False),
        ({"embed_dim": 65536}, True),
        ({"num_classes": 60_000}, True),
        ({"num_classes": 60_000.0}, False),
        ({"num_classes": 2**16 + 1}, False),
        ({"stage": {"num_classes": 60_000}}, False),
        ({"rope_temperature": 10_000.0}, True),
        ({"depths": [16384, 16384]}, True),
        ({"depths": [16384, 16384, 1]}, False),
        ({"widths": [65536] * 100}, True),
    ],
)
def test_numbers_are_no_larger_than_a_network_s(arguments: dict[str, Any], taken: bool) -> None:
    if taken:
        assert checked(arguments, "here", {65536}) == arguments
        return
    with pytest.raises(ArchitectureError, match="no tensor of the file is of such a size"):
        checked(arguments, "here", {65536})
