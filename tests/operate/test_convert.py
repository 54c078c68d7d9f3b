"""Networks as ONNX and as programs of torch.export: they compute the same, and need no surgeon."""

import json
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from command_line import call
from torch import Tensor, nn
from two_stages import make_network

import surgeon
from surgeon.errors import DataError, OptionError, OutputError, SurgeonError, TraceError
from surgeon.operate import convert as converting
from surgeon.operate.convert import convert
from surgeon.structure import CrossSets, Structure, rebuild

TWO = f"{Path(__file__).resolve().parents[1]}/two_stages.py:Two"
STRUCTURE = Structure(
    {
        "one.0": {"out_channels": 5},
        "one.1": {"num_features": 5},
        "two.0": {"in_channels": 5, "out_channels": 7},
        "two.1": {"num_features": 7},
        "head": {"in_features": 7},
    },
    {"two.0": CrossSets(written=(0, 6), read=(1,))},
)
SIZE = (1, 8, 8)
IMAGES = torch.linspace(-3, 3, 5 * 64).sin().reshape(5, *SIZE)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resized network with cross-attention, saved, loaded, fine-tuned and saved again."""
    model = make_network()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rebuild(model, STRUCTURE, lambda name, tensor, shape: torch.rand(shape) - 0.3)
    model.one[1].running_var.fill_(0.5)
    model.two[1].running_var.fill_(2)
    path = tmp_path_factory.mktemp("networks") / "two.safetensors"
    surgeon.save(path, model)
    tuned = surgeon.load(path, TWO).train()
    optimizer = torch.optim.SGD(tuned.parameters(), 0.1)
    for _ in range(3):
        nn.functional.cross_entropy(tuned(IMAGES), torch.arange(5) % 3).backward()
        optimizer.step()
    surgeon.save(path, tuned, overwrite=True)
    return path


@pytest.fixture(scope="module")
def answers(file: Path) -> Tensor:
    with torch.no_grad():
        return surgeon.load(file, TWO)(IMAGES)


def test_onnx_runtime_answers_like_the_loaded_network(
    file: Path, answers: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "convert", file, "--onnx", "--arch", TWO, "--input-size", "1,8,8", "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    path = file.with_suffix(".onnx")
    session = onnxruntime.InferenceSession(str(path))
    (answer,) = session.run(None, {"images": IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), answers, rtol=1e-5, atol=1e-5)
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [("output", ["batch", 3])]
    assert told["bytes"] == path.stat().st_size
    assert told["difference"] < 1e-5
    assert {name: told[name] for name in ("path", "kind", "batch", "size", "tried")} == {
        "path": str(path), "kind": "onnx", "batch": None, "size": [1, 8, 8], "tried": [1, 3]
    }  # fmt: skip
    assert b"site-packages" not in path.read_bytes()


def test_torch_alone_loads_the_program(
    file: Path, answers: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "convert", file, "--full", "--arch", TWO, "--input-size", "1,8,8") == 0
    path = file.with_suffix(".pt2")
    assert capsys.readouterr().out == f"{path}\n"
    for name in [name for name in sys.modules if name.partition(".")[0] in ("surgeon", "timm", "torchvision")]:
        monkeypatch.setitem(sys.modules, name, None)
    program = torch.export.load(path).module()
    torch.testing.assert_close(program(IMAGES), answers, rtol=1e-5, atol=1e-5)


def test_a_program_has_no_pickles_or_says_so_and_tells_nothing_of_folders(file: Path, tmp_path: Path) -> None:
    done = convert(surgeon.load(file, TWO), tmp_path / "a.pt2", "full", SIZE, batch=2)
    assert (done.batch, done.tried) == (2, (2, 2))
    assert done.spread > 1e-3
    with zipfile.ZipFile(done.path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    configured = [value for name, value in content.items() if name.endswith("model_weights_config.json")]
    assert not any(weight["use_pickle"] for text in configured for weight in json.loads(text)["config"].values())
    held = [name for name, value in content.items() if ".pt" in name and value.startswith((b"\x80", b"PK"))]
    # Older versions of torch list no weights, and pickle all of them.
    assert done.pickled == bool(held) == (not configured)
    assert not any(b".py" in value for value in content.values())


class Counting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(2, -1).sum(1)


class Choosing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


class Unknowing(nn.Module):
    """Its answers are not numbers."""

    def forward(self, images: Tensor) -> Tensor:
        return images / 0 * 0


def test_a_network_for_one_size_of_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    with pytest.raises(DataError, match="cannot take images"):
        convert(Counting(), path, "full", (3, 3, 3))
    assert not list(tmp_path.iterdir())


class Doubling(nn.Module):
    """Takes batches of one or two images."""

    def forward(self, images: Tensor) -> Tensor:
        assert len(images) in (1, 2)
        return images * len(images)


def test_a_network_for_few_sizes_of_batch_says_what_helps(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="--batch 1"):
        convert(Doubling(), tmp_path / "a.pt2", "full", SIZE)
    assert convert(Doubling(), tmp_path / "a.pt2", "full", SIZE, batch=2).difference == 0


def failing(kind: type[Exception]) -> Any:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise kind("no such operator\nand a long trace")

    return fail


def test_what_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TraceError, match="cannot be written as a program: "):
        convert(Choosing(), tmp_path / "a.pt2", "full", SIZE)
    with pytest.raises(OutputError, match=r"differ from the network's by inf .* not written"):
        convert(Unknowing(), tmp_path / "a.pt2", "full", SIZE)
    monkeypatch.setattr(torch.onnx, "export", failing(KeyError))
    with pytest.raises(TraceError, match=r"cannot be written as ONNX: .*no such operator"):
        convert(nn.Flatten(), tmp_path / "a.onnx", "onnx", SIZE)
    monkeypatch.setattr(converting, "LARGEST_ONNX", 2**10)
    with pytest.raises(OutputError, match=r"0\.0 GiB, and an ONNX file holds less than 2"):
        convert(nn.Sequential(nn.Flatten(), nn.Linear(64, 99)), tmp_path / "a.onnx", "onnx", SIZE)
    assert not list(tmp_path.iterdir())


def test_a_file_that_answers_otherwise_does_not_appear(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt2"
    path.write_text("before")
    monkeypatch.setattr(converting, "_full_answers", lambda path: lambda images: [torch.ones(len(images), 3)])
    with pytest.raises(OutputError, match="differ from the network's"):
        convert(surgeon.load(file, TWO), path, "full", SIZE, overwrite=True)
    monkeypatch.setattr(converting, "_full_answers", lambda path: lambda images: [torch.ones(len(images))])
    with pytest.raises(OutputError, match="by inf"):
        convert(surgeon.load(file, TWO), path, "full", SIZE, overwrite=True)
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt2"]


def test_the_difference_by_hand() -> None:
    # Answers [3, 4, ...] against [3, 4.5, ...]: 0.5 over the length 5.
    model = nn.Flatten()
    images = torch.zeros(1, 1, 1, 2)
    images[..., 0], images[..., 1] = 3, 4

    class Fixed(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return model(images)

    found = converting._tried(Fixed(), lambda given: [torch.tensor([[3.0, 4.5]])], (1, 1, 2), (1, 1))
    assert found == (pytest.approx(0.1), 0)


def test_answers_that_hardly_depend_on_the_images_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_network()
    for weight, words in ((1.0, False), (1e-6, True)):
        with torch.no_grad():
            model.head.weight.fill_(weight)
            model.head.bias.fill_(1)
        surgeon.save(tmp_path / "a.safetensors", model, overwrite=True)
        given = ["--full", "--arch", TWO, "--input-size", "1,8,8", "--overwrite"]
        assert call(monkeypatch, "convert", tmp_path / "a.safetensors", *given) == 0
        assert ("proves little" in capsys.readouterr().err) is words


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "either --onnx or --full"),
        (["--onnx", "--full"], 2, "either --onnx or --full"),
        (["--full", "--batch", "0"], 1, "--batch is '0'"),
        (["--full", "--batch", "many"], 1, "--batch is 'many'"),
        (["--full", "-o", "there.pt2"], 1, "there.pt2 exists"),
        (["--full", "-o", "a.onnx"], 1, "ends in .pt2"),
        (["--onnx", "-o", "a.pt2"], 1, "ends in .onnx"),
        (["--full", "-o", "none/a.pt2"], 1, "folder none does not exist"),
        (["--full"], 1, "missing.safetensors does not exist"),
    ],
)
def test_what_is_refused_before_a_network_is_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pt2").touch()
    assert call(monkeypatch, "convert", "missing.safetensors", *arguments) == code
    assert words in capsys.readouterr().err


def test_missing_libraries_are_named_with_their_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> Any:
        return None if name == "onnxscript" else find_spec(name)

    monkeypatch.setattr(converting, "find_spec", found)
    with pytest.raises(OptionError, match="onnxscript is not installed") as refused:
        convert(nn.Flatten(), tmp_path / "a.onnx", "onnx", SIZE)
    assert isinstance(refused.value, SurgeonError)
    assert "pip install '.[onnx]'" in refused.value.remedy
    assert convert(nn.Flatten(), tmp_path / "a.pt2", "full", SIZE).difference == 0
