"""`surgeon diff`: what it says of two files, in words and as JSON, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from command_line import ARCH, DIGITS, call, small_network
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import surgeon
from surgeon.checkpoint.architecture import Architecture
from surgeon.structure import CrossSets, Structure, rebuild

TRACED = (1, 3, 32, 32)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A small network's checkpoint, whose header names the architecture."""
    path = tmp_path / "a.safetensors"
    surgeon.save(path, small_network(), architecture=Architecture("timm", "test_resnet", {"num_classes": 10}))
    return path


def edited(first: Path, edit: Any, name: str = "b.safetensors") -> Path:
    """Save an edited copy of a checkpoint beside it."""
    model = surgeon.load(first)
    with torch.no_grad():
        edit(model)
    path = first.with_name(name)
    surgeon.save(path, model)
    return path


def shuffle(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for group in surgeon.trace(model, torch.zeros(TRACED)).groups:
        surgeon.permute(model, group, torch.randperm(group.size, generator=generator))


def test_cross_attention_makes_another_network_of_the_same_tensors(
    first: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attending(model: nn.Module) -> None:
        rebuild(model, Structure({}, {"layer4.0.conv2": CrossSets((1,), (2,))}))

    second = edited(first, attending)
    text = told(monkeypatch, capsys, first, second, "--exit-code", code=1)
    assert re.search(r"None of \d+ tensors that both hold in the same shape differs in its values\.", text)
    assert "By their headers the layers of A and B have other sizes, or other cross-attention." in text
    third = edited(second, lambda model: None, "c.safetensors")
    assert "B holds the same tensors as A" in told(monkeypatch, capsys, second, third, "--exit-code")


def change(model: nn.Module) -> None:
    model.get_submodule("layer4.0.conv1").weight[3:5] *= 2


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0
) -> str:
    """Return what `diff` prints on a wide screen."""
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, "diff", *arguments) == code
    return capsys.readouterr().out


def read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(told(monkeypatch, capsys, *arguments, "--json"))
    return result


def test_the_same_tensors_are_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    second = edited(first, lambda model: None)
    assert "B holds the same tensors as A" in told(monkeypatch, capsys, first, second, "--exit-code")
    found = read(monkeypatch, capsys, first, second)
    assert (found["same"], found["permutation"], found["not_searched"]) == (True, None, None)
    assert found["found"]["tensors"] == []
    assert found["first"]["architecture"] == "test_resnet"


def test_a_reordered_network_is_recognized_and_its_orders_undo_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    second = edited(first, shuffle)
    text = told(monkeypatch, capsys, first, second)
    assert "B is A with the channels of" in text
    assert "otherwise the same" in text
    assert told(monkeypatch, capsys, first, second, "--exit-code", code=1) == text
    for arguments, code in ((["--exit-code"], 2), ([], 1)):
        assert call(monkeypatch, "diff", first, first.with_name("missing.safetensors"), *arguments) == code
        assert capsys.readouterr().err.startswith("Error: ")
    found = read(monkeypatch, capsys, first, second)
    permutation = found["permutation"]
    assert (found["same"], permutation["exact"], permutation["tensors"], permutation["relative"]) == (
        False,
        True,
        [],
        0,
    )
    assert len(found["found"]["tensors"]) > 10
    model = surgeon.load(second)
    groups = {group.name: group for group in surgeon.trace(model, torch.zeros(TRACED)).groups}
    assert permutation["groups_searched"] == len(groups)
    for entry in permutation["groups"]:
        assert entry["moved"] == sum(place != channel for place, channel in enumerate(entry["order"]))
        surgeon.permute(model, groups[entry["group"]], entry["order"])
    wanted = load_file(first)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_what_remains_different_after_reordering_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    second = edited(first, lambda model: (change(model), shuffle(model)))
    text = told(monkeypatch, capsys, first, second)
    assert "1 still differ" in text
    assert "(3-4)" in text
    found = read(monkeypatch, capsys, first, second)
    (tensor,) = found["permutation"]["tensors"]
    assert (tensor["name"], tensor["rows"], tensor["which"]) == ("layer4.0.conv1.weight", 2, "3-4")
    weight = load_file(first)["layer4.0.conv1.weight"].double()
    assert tensor["relative"] == pytest.approx(float(weight[3:5].norm() / weight.norm()))
    assert found["permutation"]["relative"] < found["found"]["relative"]


def test_a_reordered_network_in_another_precision_is_put_back_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    second = edited(first, shuffle)
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(second).items()
    }
    save_file(halves, second)
    found = read(monkeypatch, capsys, first, second)
    permutation = found["permutation"]
    assert found["found"]["relative"] > 0.5
    assert permutation["relative"] < 1e-3
    assert not permutation["exact"]
    assert permutation["groups"]
    assert permutation["closest"] is None
    assert {entry["second"] for entry in found["found"]["dtypes"]} == {"float16"}


def test_a_reordered_network_with_other_classes_is_recognized(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    second = edited(first, shuffle)
    tensors = load_file(second)
    tensors["fc.weight"], tensors["fc.bias"] = tensors["fc.weight"][:4].clone(), tensors["fc.bias"][:4].clone()
    save_file(tensors, second)
    text = told(monkeypatch, capsys, first, second)
    assert "B is A with the channels of" in text
    assert "and the same in every value that can be compared" in text
    found = read(monkeypatch, capsys, first, second)
    assert found["permutation"]["exact"]
    assert [entry["name"] for entry in found["found"]["shapes"]] == ["fc.bias", "fc.weight"]


def test_edited_channels_are_named_by_their_group_where_nothing_is_reordered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    found = read(monkeypatch, capsys, first, edited(first, change))
    assert found["permutation"]["groups"] == []
    (tensor,) = found["found"]["tensors"]
    assert {(one["dim"], one["channels"], one["which"]) for one in tensor["channels"]} >= {(0, 2, "3-4")}
    assert "No other order of the channels" in told(monkeypatch, capsys, first, first.with_name("b.safetensors"))


def test_networks_with_nothing_in_common_are_no_reordered_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    second = first.with_name("b.safetensors")
    surgeon.save(second, small_network(seed=1), architecture=Architecture("timm", "test_resnet", {"num_classes": 10}))
    found = read(monkeypatch, capsys, first, second)
    assert found["permutation"]["groups"] == []
    assert found["permutation"]["tensors"] == found["found"]["tensors"]


def test_an_order_that_is_closest_by_chance_is_no_reordering(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Depthwise kernels have so few values that the closest order takes away more than a tenth of the distance.
    paths = [tmp_path / f"{seed}.safetensors" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        model = timm.create_model("test_efficientnet", num_classes=10)
        surgeon.save(path, model, architecture=Architecture("timm", "test_efficientnet", {"num_classes": 10}))
    found = read(monkeypatch, capsys, *paths)
    permutation = found["permutation"]
    assert (permutation["groups"], permutation["exact"]) == ([], False)
    assert permutation["closest"] < 0.9 * permutation["relative"] == 0.9 * found["found"]["relative"]
    text = told(monkeypatch, capsys, *paths)
    assert f"the relative L2 distance is {permutation['closest']:.3g}; networks with nothing in common can" in text
    assert "reordered" not in text
    assert "reordering" not in text
    assert "No other order" not in text


def test_without_an_architecture_tensors_are_compared_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_file({"w": torch.ones(3, 2), "gone": torch.ones(1)}, one)
    save_file({"w": torch.tensor([[1.0, 1], [1, 1], [1, 3]]), "v[red]\x1b[31m": torch.ones(1)}, other)
    text = told(monkeypatch, capsys, one, other)
    assert "Permutations of channels were not looked for. The network of" in text
    assert "axis 0: 1 of 3 (2)" in text
    assert "1 tensor in A alone: gone." in text
    assert "v[red]\\x1b[31m" in text
    assert "\x1b" not in text
    found = read(monkeypatch, capsys, one, other)
    assert "is unknown" in found["not_searched"]
    assert found["found"]["only_in_second"] == ["v[red]\x1b[31m"]


def test_code_that_a_file_names_is_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, trap = tmp_path / "net.py", tmp_path / "trap"
    code.write_text(f"open({str(trap)!r}, 'w')\ndef net():\n    raise SystemExit\n")
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({"w": torch.full((2,), value)}, tmp_path / f"{name}.safetensors", {"architecture": f"{code}:net"})
    found = read(monkeypatch, capsys, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert "is not run on a checkpoint's word" in found["not_searched"]
    assert not trap.exists()


TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.two.weight, self.head = self.one.weight, nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.head(self.two(torch.relu(self.one(torch.relu(self.stem(x))))))

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Tied()

    def forward(self, x):
        return self.model(x)
"""


def test_shared_tensors_and_prefixes_are_followed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = tmp_path / "tied.py"
    code.write_text(TIED)
    arch = f"{code}:Wrapped"
    space: dict[str, Any] = {}
    exec(TIED, space)
    torch.manual_seed(0)
    model = space["Wrapped"]()
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    surgeon.save(one, model)
    for group in surgeon.trace(model, torch.zeros(1, 3, 8, 8)).groups:
        surgeon.permute(model, group, list(reversed(range(group.size))))
    surgeon.save(other, model)
    found = read(monkeypatch, capsys, one, other, "--arch", arch, "--input-size", "3,8,8")
    assert found["permutation"]["exact"]
    assert found["permutation"]["groups"][0]["order"] == [5, 4, 3, 2, 1, 0]


def test_two_sets_of_weights_of_one_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "both.pt"
    torch.save({"model": {"w": torch.ones(2)}, "model_ema": {"w": torch.zeros(2)}}, path)
    found = read(monkeypatch, capsys, path, path, "--weights", "model", "--other-weights", "model_ema")
    assert (found["first"]["weights"], found["second"]["weights"]) == ("model", "model_ema")
    assert found["found"]["relative"] == 1
    assert read(monkeypatch, capsys, path, path, "--weights", "model")["same"]


def test_headers_shapes_types_counters_and_architectures_that_differ_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tensors: dict[str, Tensor] = {"w": torch.ones(3), "t": torch.ones(2), "n.num_batches_tracked": torch.tensor(4)}
    others = {"w": torch.ones(4), "t": torch.ones(2).half(), "n.num_batches_tracked": torch.tensor(5)}
    one, other = tmp_path / "resnet18.safetensors", tmp_path / "resnet34.safetensors"
    save_file(tensors, one, {"made": "by hand"})
    save_file(others, other)
    text = told(monkeypatch, capsys, one, other)
    for words in ("The architecture of A is resnet18, that of B resnet34.", "by hand", "[4]", "float16", "│ 4 │ 5 │"):
        assert words in text
    assert "None of 1 tensor that both hold in the same shape differs in its values." in text


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint at all", b"\x80\x04cposix\nsystem\n."])
def test_files_that_are_no_checkpoints_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "b.pt"
    if content is not None:
        path.write_bytes(content)
    assert call(monkeypatch, "diff", DIGITS, path) == 1
    assert capsys.readouterr().err.startswith("Error: ")


def test_an_architecture_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], first: Path
) -> None:
    second = edited(first, change)
    assert call(monkeypatch, "diff", first, second, "--arch", ARCH) == 1
    assert "does not fit" in capsys.readouterr().err
    assert call(monkeypatch, "diff", first, second, "--arch", "no_such_network") == 1
