"""Several processes on the command line: one writer, one voice, and none left waiting for another that has failed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import timm
import torch
from safetensors.torch import load_file, save_file

TESTS = Path(__file__).resolve().parents[1]
NETWORK = """
import os
from torch import nn
from surgeon.errors import DataError

def build():
    if os.environ.get("FAILING") == os.environ.get("RANK", "none"):
        raise DataError("This process fails alone.", "Let it be.")
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
"""


def launch(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `surgeon apply` in two processes on a small network."""
    (folder / "network.py").write_text(NETWORK)
    torch.manual_seed(0)
    save_file(run_path(str(folder / "network.py"))["build"]().state_dict(), folder / "in.safetensors")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "surgeon", "apply",
        "in.safetensors", "--arch", "network.py:build", "--method", "channel-regeneration", "--data", "digits",
        "--input-size", "1,8,8", "--limit", "20", "--batch-size", "4", "--workers", "0", "--epochs", "1", *arguments,
    ]  # fmt: skip
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_processes_write_one_result_and_tell_of_it_once(tmp_path: Path) -> None:
    result = launch(tmp_path, "--set", "threshold=2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("channel-regeneration on") == 1
    assert result.stdout.splitlines()[-2:] == ["in-channel-regeneration.safetensors", "in-channel-regeneration.json"]
    note = "2 processes with batches of 4 train as one with batches of 8; the learning rate is as given."
    assert result.stderr.count(note) == 1
    assert result.stderr.count("epoch   1") == 1
    assert note in json.loads((tmp_path / "in-channel-regeneration.json").read_text())["notes"]
    names = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert names == {
        "network.py",
        "in.safetensors",
        "in-channel-regeneration.safetensors",
        "in-channel-regeneration.json",
    }


def test_a_process_that_fails_alone_ends_all_with_its_own_message(tmp_path: Path) -> None:
    result = launch(tmp_path, FAILING="1")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    place = lines.index("Error: This process fails alone.")
    assert lines[place + 1] == "Let it be."
    # The other process, which finds nobody to talk to, has nothing to add.
    assert [line for line in lines if line.startswith("Error: ")] == [lines[place]]
    assert "onnection" not in result.stderr
    assert not list(tmp_path.glob("in-channel-regeneration*"))


def test_accelerate_divides_a_network_and_the_result_is_one_file_that_timm_loads(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=10)
    save_file(model.state_dict(), tmp_path / "in.safetensors")
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2",
        "--main_process_port", "0", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
        "--fsdp_transformer_layer_cls_to_wrap", "BasicBlock,Bottleneck",
        "-m", "surgeon", "apply", "in.safetensors", "--arch", "test_resnet", "--method", "channel-regeneration",
        "--set", "threshold=2", "--data", "digits", "--input-size", "3,32,32", "--limit", "24", "--batch-size", "4",
        "--workers", "0", "--epochs", "2", "--every", "1", "--model-ema",
    ]  # fmt: skip
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    notes = json.loads((tmp_path / "in-channel-regeneration.json").read_text())["notes"]
    assert "Each process trains a part of the network (FSDP)." in notes
    tuned = load_file(tmp_path / "in-channel-regeneration.safetensors")
    model.load_state_dict(tuned)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).isfinite().all()
