"""What a file stores in another type than it is computed with is written back in the file's, and never as infinity."""

from collections.abc import Callable
from math import inf, nan
from pathlib import Path

import pytest
import torch
from operate.small_jobs import ARCH, make_job, run
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from two_stages import make_network

import surgeon
from surgeon.checkpoint.precision import NO_NUMBERS, TOO_LARGE, fitting_types, in_words, unfit
from surgeon.checkpoint.state_dict import strip_prefix
from surgeon.errors import OutputError

MIXED = {"one.0.weight": torch.float16, "one.0.bias": torch.bfloat16, "two.1.running_var": torch.float64}
"""By state-dict key of the network of two stages; the rest of the file is in float32."""


def types_of(tensors: dict[str, Tensor]) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in tensors.items()}


def stored(path: Path, types: dict[str, torch.dtype] | torch.dtype) -> dict[str, Tensor]:
    """Write the network of two stages in these types, and return what was written."""
    given = types if isinstance(types, dict) else dict.fromkeys(make_network().state_dict(), types)
    state = make_network().state_dict()
    tensors = {
        name: value.to(given.get(name, value.dtype)) if value.is_floating_point() else value
        for name, value in state.items()
    }
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize(
    "types", [torch.float16, torch.bfloat16, torch.float64, MIXED], ids=["float16", "bfloat16", "float64", "mixed"]
)
def test_what_is_loaded_and_saved_is_the_same_bits_in_the_same_types(
    tmp_path: Path, types: dict[str, torch.dtype] | torch.dtype
) -> None:
    before = stored(tmp_path / "a.safetensors", types)
    model = surgeon.load(tmp_path / "a.safetensors", ARCH)
    assert all(value.dtype == torch.float32 for value in model.parameters())
    surgeon.save(tmp_path / "b.safetensors", model)
    after = load_file(tmp_path / "b.safetensors")
    assert types_of(after) == types_of(before)
    assert all(torch.equal(after[name].float(), before[name].float()) for name in before)


def test_what_was_cast_since_is_written_as_it_was_cast_and_what_is_asked_for_goes_first(tmp_path: Path) -> None:
    stored(tmp_path / "a.safetensors", torch.float16)
    model = surgeon.load(tmp_path / "a.safetensors", ARCH)
    surgeon.save(tmp_path / "wide.safetensors", model, types={})
    assert load_file(tmp_path / "wide.safetensors")["one.0.weight"].dtype == torch.float32
    surgeon.save(tmp_path / "double.safetensors", model.double())
    assert load_file(tmp_path / "double.safetensors")["one.0.weight"].dtype == torch.float64


class Within(nn.Module):
    """A network around another one, as code for training makes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, Within], ids=["DataParallel", "compile", "own"])
def test_wrappers_do_not_hide_the_types_of_the_file(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    before = stored(tmp_path / "a.safetensors", MIXED)
    wrapped = wrap(surgeon.load(tmp_path / "a.safetensors", ARCH))
    surgeon.save(tmp_path / "b.safetensors", wrapped)
    after = strip_prefix(load_file(tmp_path / "b.safetensors"))
    assert types_of(after) == types_of(before)


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 65504.0), (torch.float8_e4m3fn, 448.0)])
def test_values_too_large_for_the_files_type_are_refused_by_name(
    tmp_path: Path, dtype: torch.dtype, largest: float
) -> None:
    stored(tmp_path / "a.safetensors", dtype)
    model = surgeon.load(tmp_path / "a.safetensors", ARCH)
    with torch.no_grad():
        model.head.bias[1] = -largest
    surgeon.save(tmp_path / "fits.safetensors", model)
    assert load_file(tmp_path / "fits.safetensors")["head.bias"][1].float() == -largest
    with torch.no_grad():
        model.head.bias[1] = -1.1 * largest
    with pytest.raises(OutputError, match=r"Values of head.bias are too large for float") as caught:
        surgeon.save(tmp_path / "b.safetensors", model)
    assert "types={}" in caught.value.remedy
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("dtype", "value", "trouble"),
    [
        (torch.float16, 65510.0, None), (torch.float16, -65519.0, None), (torch.float16, 65520.0, TOO_LARGE),
        (torch.bfloat16, 3.4e38, TOO_LARGE), (torch.bfloat16, 3.39e38, None),
        (torch.float8_e4m3fn, 448.0, None), (torch.float8_e4m3fn, 449.0, TOO_LARGE),
        (torch.float8_e5m2, 57344.0, None), (torch.float8_e5m2, -60000.0, TOO_LARGE),
        (torch.float16, nan, NO_NUMBERS), (torch.float16, -inf, NO_NUMBERS), (torch.float64, nan, NO_NUMBERS),
    ],
)  # fmt: skip
def test_what_a_type_does_not_hold_is_told_by_what_is_written(
    dtype: torch.dtype, value: float, trouble: str | None
) -> None:
    found = unfit({"w": torch.tensor([0.0, value, 1.0]), "v": torch.zeros(0)}, {"w": dtype, "v": dtype, "u": dtype})
    assert found == ({} if trouble is None else {"w": trouble})


def test_values_that_are_no_numbers_are_not_called_too_large(tmp_path: Path) -> None:
    stored(tmp_path / "a.safetensors", torch.float16)
    model = surgeon.load(tmp_path / "a.safetensors", ARCH)
    with torch.no_grad():
        model.head.bias[1] = nan
        model.head.weight[0, 0] = 1e5
    with pytest.raises(OutputError, match=r"Values of head\.bias are NaN or infinite\."):
        surgeon.save(tmp_path / "b.safetensors", model)
    types, notes = fitting_types(model, [model.state_dict()])
    assert {"head.weight", "head.bias"} & types.keys() == set()
    assert notes == [
        "head.bias is written in the type that it is computed with: some values are NaN or infinite.",
        "head.weight is written in the type that it is computed with: some values are too large for float16.",
    ]


def test_an_operation_is_done_in_float32_and_written_in_the_types_of_the_file(tmp_path: Path) -> None:
    before = stored(tmp_path / "a.safetensors", MIXED)
    job = make_job(
        tmp_path / "a.safetensors", method="reinit", init="checkpoint", layers=("two.0",), images=None, epochs=0,
        output=tmp_path / "b.safetensors", seed=0,
    )  # fmt: skip
    record = run(job)
    after = load_file(tmp_path / "b.safetensors")
    assert types_of(after) == types_of(before)
    edited = {edit["tensor"] for edit in record.edits}
    assert edited == {"two.0.weight", "two.0.bias", *(f"two.1.{name}" for name in ("weight", "bias"))} | {
        "two.1.running_mean", "two.1.running_var",
    }  # fmt: skip
    assert all(torch.equal(after[name], before[name]) for name in before if name not in edited)
    assert not torch.equal(after["two.0.weight"], before["two.0.weight"])
    counts = "bfloat16 (1 tensor) and float16 (1 tensor) and float32 (11 tensors) and float64 (1 tensor)"
    assert any(f"stores weights in {counts}" in note for note in record.notes)


def test_what_outgrows_the_files_type_is_kept_as_it_was_computed_and_reported(tmp_path: Path) -> None:
    before = stored(tmp_path / "a.safetensors", torch.float16)
    job = make_job(
        tmp_path / "a.safetensors", method="channel-regeneration", init="checkpoint", layers=("two",), images=None,
        epochs=0, output=tmp_path / "b.safetensors", options={"threshold": 7e4}, seed=0,
    )  # fmt: skip
    said: list[str] = []
    record = run(job, say=said.append)
    after = load_file(tmp_path / "b.safetensors")
    assert types_of(after) == types_of(before) | {"two.1.weight": torch.float32}
    assert (after["two.1.weight"] == 7e4).all()
    sentence = "two.1.weight is written in the type that it is computed with: some values are too large for float16."
    assert sentence in record.notes
    assert sentence in said


def test_what_becomes_zero_in_the_files_type_is_told(tmp_path: Path) -> None:
    stored(tmp_path / "a.safetensors", torch.float8_e4m3fn)
    model = surgeon.load(tmp_path / "a.safetensors", ARCH)
    assert fitting_types(model, [model.state_dict()])[1] == []
    # The smallest value of the type is 2 ** -9; a half of it goes to the even one of its neighbours, which is zero.
    with torch.no_grad():
        model.one[1].bias[:] = torch.tensor([2.0**-9, -(2.0**-10), 1e-4, *[0.0] * (len(model.one[1].bias) - 3)])
        model.head.bias[:] = torch.tensor([1.0, 2.0, 2.0**-8])
    types, notes = fitting_types(model, [model.state_dict()])
    assert types["one.1.bias"] == torch.float8_e4m3fn
    assert notes == [
        "2 values of 3 other than zero (67 %) become zero in one.1.bias: too small for float8_e4m3fn, which the file "
        "has them in. All figures are of the network as it was before. To keep them, start from a copy of the "
        "checkpoint in float32."
    ]
    surgeon.save(tmp_path / "b.safetensors", model)
    assert load_file(tmp_path / "b.safetensors")["one.1.bias"].float().count_nonzero() == 1


def test_of_several_states_that_is_told_which_loses_most() -> None:
    model = nn.Linear(1, 200, bias=False)
    vars(model)["surgeon_types"] = {"weight": torch.float16}
    state = {"weight": torch.full((200, 1), 1.0)}
    few, more = ({"weight": state["weight"].index_fill(0, torch.arange(count), 1e-9)} for count in (2, 3))
    # One of a hundred is the ordinary loss of rounding.
    assert fitting_types(model, [state, few])[1] == []
    (note,) = fitting_types(model, [state, few, more])[1]
    assert note.startswith("3 values of 200 other than zero (1.5 %) become zero in weight: too small for float16")


def test_a_run_tells_what_its_file_has_lost_to_rounding(tmp_path: Path) -> None:
    tensors = stored(tmp_path / "a.safetensors", torch.float8_e4m3fn)
    save_file(tensors | {"two.1.weight": torch.zeros(8).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    job = make_job(
        tmp_path / "a.safetensors", method="channel-regeneration", init="checkpoint", layers=("two",), images=None,
        epochs=0, output=tmp_path / "b.safetensors", options={"threshold": 1e-4}, seed=0,
    )  # fmt: skip
    said: list[str] = []
    record = run(job, say=said.append)
    (note,) = [one for one in record.notes if "become zero" in one]
    assert note in said


def test_types_are_counted() -> None:
    assert in_words([torch.float16, torch.float32, torch.float16]) == "float16 (2 tensors) and float32 (1 tensor)"


def test_a_network_that_came_from_no_file_is_written_as_it_is(tmp_path: Path) -> None:
    surgeon.save(tmp_path / "a.safetensors", nn.Linear(2, 2).half())
    assert types_of(load_file(tmp_path / "a.safetensors")) == {"weight": torch.float16, "bias": torch.float16}
