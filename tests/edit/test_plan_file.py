"""Plans in files: what comes back does the same, and no file does harm."""

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import surgeon
from surgeon.coupling.graph import Part, Scaling
from surgeon.edit.plan import Blend, Edit, Mix, Plan, Reinitialize, Reorder, Rescale, Set, changes
from surgeon.edit.plan_file import KINDS, encode
from surgeon.edit.plan_reader import decode
from surgeon.errors import CheckpointError, OutputError, PlanError, SurgeonError
from surgeon.operate.record import plan_dict
from surgeon.operate.replay import rehearse
from surgeon.operate.stored_plan import HEADER_KEY, StoredPlan, open_plan

EXAMPLE = torch.zeros(2, 1, 8, 8)
CLASSES = 3


class Residual(nn.Module):
    """A stem, one block with a skip connection, a grouped convolution, and a classifier over flattened features."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        hidden = width + 2
        self.conv1, self.norm1 = nn.Conv2d(width, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.conv2, self.norm2 = nn.Conv2d(hidden, width, 3, padding=1), nn.BatchNorm2d(width)
        self.grouped = nn.Conv2d(width, 4, 1, groups=2)
        self.head = nn.Linear(4 * 4, CLASSES)
        self.num_classes = CLASSES

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stream = self.norm(self.stem(images)).relu()
        hidden = self.norm1(self.conv1(stream)).relu()
        stream = (stream + self.norm2(self.conv2(hidden))).relu()
        return self.head(nn.functional.adaptive_avg_pool2d(self.grouped(stream).relu(), 2).flatten(1))


def make_network(seed: int = 0, width: int = 6) -> Residual:
    generator = torch.Generator().manual_seed(seed)
    model = Residual(width).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.3
                tensor.copy_(noise.abs() + 0.2 if "norm" in name and tensor.dim() == 1 else noise)
    return model


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    labels = torch.arange(12) % CLASSES
    return [
        (torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + labels[:, None, None, None], labels)
    ]


def reordering(model: nn.Module) -> Plan:
    groups = surgeon.trace(model, EXAMPLE).groups
    edits = tuple(Reorder(group, torch.arange(group.size).roll(1)) for group in groups)
    return Plan("by-hand", {}, (), edits)


def made(method: str, layers: tuple[str, ...] = (), **options: Any) -> Callable[[nn.Module], Plan]:
    def make(model: nn.Module) -> Plan:
        partner = make_network(7, model.get_parameter("stem.weight").shape[0]) if method == "filter-grafting" else None
        data = batches() if method == "sofm" else None
        return surgeon.plan(model, method, layers, data, seed=3, example_input=EXAMPLE, partner=partner, **options)

    return make


WAYS: dict[str, Callable[[nn.Module], Plan]] = {
    "reorder": reordering,
    "sofm": made("sofm", ("conv1", "norm2")),
    "sofm-preserve": made("sofm", ("conv1", "norm2"), merge="preserve", consumers="zero"),
    "reinit": made("reinit", criterion="ortho"),
    "regeneration": made("channel-regeneration"),
    "regeneration-preserve": made("channel-regeneration", preserve=True, threshold=2.0),
    "kernel-reactivation": made("kernel-reactivation", alpha=0.9, beta=0.9, gamma=0.5),
    "weight-evolution": made("weight-evolution", alpha=0.9, beta=0.9),
    "grafting": made("filter-grafting"),
}


@functools.cache
def planned(way: str, width: int = 6) -> Plan:
    return WAYS[way](make_network(width=width))


def after(model: nn.Module, plan: Plan) -> dict[str, torch.Tensor]:
    twin = copy.deepcopy(model)
    surgeon.execute(twin, plan)
    return twin.state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_from_a_file_does_the_same(tmp_path: Path, way: str) -> None:
    model = make_network()
    plan = planned(way)
    surgeon.save_plan(plan, tmp_path / "plan.safetensors")
    loaded = surgeon.load_plan(tmp_path / "plan.safetensors")
    assert [type(edit) for edit in loaded.edits] == [type(edit) for edit in plan.edits]
    assert plan_dict(loaded) == plan_dict(plan)
    assert not equal(after(model, plan), model.state_dict())
    assert equal(after(model, loaded), after(model, plan))
    # What is written again is the same file, so that nothing was lost that the network does not show.
    surgeon.save_plan(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "plan.safetensors").read_bytes()


def test_these_plans_hold_every_kind_of_edit() -> None:
    kinds = {type(edit) for way in WAYS for edit in planned(way).edits}
    assert kinds == set(KINDS.values())


def test_the_sofm_plans_merge_as_they_say() -> None:
    folded = {way: [edit.folded for edit in planned(way).edits if isinstance(edit, Mix)] for way in WAYS}
    assert not any(folded["sofm"])
    assert all(folded["sofm-preserve"])
    assert folded["sofm"]
    assert folded["sofm-preserve"]


def test_what_edits_share_is_stored_once(tmp_path: Path) -> None:
    plan = planned("reorder")
    scaled = planned("regeneration-preserve").edits[0]
    assert isinstance(scaled, Rescale)
    both = Plan("by-hand", {}, (), (*plan.edits, *plan.edits, scaled, scaled))
    surgeon.save_plan(both, tmp_path / "both.safetensors")
    loaded = surgeon.load_plan(tmp_path / "both.safetensors")
    assert len({edit.group for edit in loaded.edits if isinstance(edit, Reorder)}) == len(plan.edits)
    assert len({edit.scaling for edit in loaded.edits if isinstance(edit, Rescale)}) == 1
    tensors, _ = encode(both)
    assert len(tensors) == len(encode(Plan("by-hand", {}, (), (*plan.edits, scaled)))[0])


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    surgeon.save_plan(planned("grafting"), tmp_path / "plan.safetensors")
    with safetensors.safe_open(tmp_path / "plan.safetensors", "pt") as file:
        assert json.loads(file.metadata()[HEADER_KEY])["method"] == "filter-grafting"
        other = file.get_tensor("edits/0/other")
    assert torch.equal(other, make_network(7).stem.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.safetensors"]


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    edit = Set("head.bias", torch.tensor([0, 2]), values, "raised")
    surgeon.save_plan(Plan("by-hand", {"share": 0.1}, (), (edit,)), tmp_path / "plan.safetensors")
    (loaded,) = surgeon.load_plan(tmp_path / "plan.safetensors").edits
    assert isinstance(loaded, Set)
    assert loaded.values.dtype == torch.bfloat16
    assert torch.equal(loaded.values, values)


def test_the_filters_axis_and_every_reasons_count_come_back(tmp_path: Path) -> None:
    blocks, values = torch.tensor([2, 8]), torch.arange(4.0)
    edit = Set("up.weight", blocks, values, "raised", filter_size=4, columns=3, block_size=2)
    kept = Set("up.weight", blocks, torch.zeros(1), "set to zero", filter_size=4, block_size=2, held=True)
    reasons = {"norm.weight": {"a gate reads them": 3, "a slice fixes them": 1}}
    scaling = Scaling(1, (Part("norm.weight", 0, None, torch.tensor([0, -1]), divided=False),), reasons)
    scaled = Rescale(scaling, torch.ones(1, dtype=torch.float64))
    surgeon.save_plan(Plan("by-hand", {}, (), (edit, scaled, kept)), tmp_path / "plan.safetensors")
    first, second, third = surgeon.load_plan(tmp_path / "plan.safetensors").edits
    assert isinstance(first, Set)
    assert isinstance(second, Rescale)
    assert isinstance(third, Set)
    assert (first.filter_size, first.columns, first.block_size) == (4, 3, 2)
    assert (first.held, third.held) == (False, True)
    assert second.scaling.reasons == reasons
    # The blocks are entries 4, 5 and 16, 17, which lie in kernels 1 and 4 of rows of three.
    (change,) = changes(first)
    assert (change.dim, change.positions.tolist()) == (1, [1])


def test_refusals_when_saving(tmp_path: Path) -> None:
    plan = planned("regeneration")
    with pytest.raises(PlanError, match="edits nothing"):
        surgeon.save_plan(Plan("by-hand", {}, (), ()), tmp_path / "plan.safetensors")
    with pytest.raises(OutputError, match=r"suffix \.pt"):
        surgeon.save_plan(plan, tmp_path / "plan.pt")
    with pytest.raises(PlanError, match="JSON cannot express"):
        surgeon.save_plan(Plan("by-hand", {"layers": {1, 2}}, (), plan.edits), tmp_path / "plan.safetensors")
    factors = Rescale(surgeon.trace(make_network(), EXAMPLE).scaling, torch.zeros(1))
    with pytest.raises(PlanError, match="float64"):
        surgeon.save_plan(Plan("by-hand", {}, (), (factors,)), tmp_path / "plan.safetensors")
    assert not list(tmp_path.iterdir())
    surgeon.save_plan(plan, tmp_path / "plan.safetensors")
    with pytest.raises(OutputError, match="exists"):
        surgeon.save_plan(plan, tmp_path / "plan.safetensors")


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_for_another_network_changes_nothing(tmp_path: Path, way: str) -> None:
    surgeon.save_plan(planned(way, 10), tmp_path / "plan.safetensors")
    model = make_network(width=4)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PlanError, match=r"(?i)plan.*anew"):
        surgeon.execute(model, surgeon.load_plan(tmp_path / "plan.safetensors"))
    assert equal(before, model.state_dict())
    with pytest.raises(PlanError):
        rehearse(model, open_plan(tmp_path / "plan.safetensors"))
    assert equal(before, model.state_dict())


@pytest.mark.parametrize("way", WAYS)
def test_a_rehearsal_leaves_the_network_as_it_was(way: str) -> None:
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    rehearse(model, StoredPlan(planned(way), Path("plan.safetensors"), ""))
    assert equal(before, model.state_dict())


def test_a_rehearsal_knows_the_networks_modules() -> None:
    plan = Plan("by-hand", {}, ("[/red]",), planned("regeneration").edits)
    with pytest.raises(PlanError, match="modules that the network does not have"):
        rehearse(make_network(), StoredPlan(plan, Path("plan.safetensors"), ""))


# Hostile files.


def test_a_plan_for_a_narrower_network_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plan.safetensors"
    surgeon.save_plan(planned("kernel-reactivation", width=6), path)
    wider = make_network(width=8)
    before = copy.deepcopy(wider.state_dict())
    with pytest.raises(PlanError, match="was made for a"):
        surgeon.execute(wider, surgeon.load_plan(path))
    assert equal(before, wider.state_dict())


def sound() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return a small plan of all kinds of edits as a file holds it."""
    mixed = planned("sofm-preserve").edits
    edits: list[Edit] = [
        next(edit for edit in mixed if isinstance(edit, Mix)),
        next(edit for edit in mixed if isinstance(edit, Reinitialize)),
        planned("reorder").edits[-1],
        planned("regeneration-preserve").edits[0],
        Set("head.bias", torch.tensor([0, 2]), torch.tensor([1.0, 2.0]), "raised"),
        Blend("head.weight", torch.ones(CLASSES, 16), 0.5),
    ]
    tensors, text = encode(Plan("by-hand", {"ratio": 0.5}, ("conv1",), tuple(edits), {"conv1": {"nodes": 3}}, ("a.",)))
    return tensors, json.loads(text)


def put(content: Any, path: tuple[str | int, ...], value: Any) -> None:
    for step in path[:-1]:
        content = content[step]
    content[path[-1]] = value


GROUP = ("groups", 0)
MEMBER = (*GROUP, "members", 0)
NORM = (*GROUP, "writers", 0, "norm")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("edits", 0, "kind"), "resize", "kind is not one of: reorder, mix"),
        (("edits", 0, "kind"), "os.system", "kind is not one of"),
        (("edits", 0, "kind"), ["mix"], "kind is not one of"),
        (("edits", 0), "mix", "not an edit"),
        (("edits", 0, "extra"), 1, "not an object of kind, group"),
        (("edits",), {}, "not a list"),
        (("edits", 0, "group"), 2, "a whole number from 0 to 1"),
        (("edits", 0, "group"), True, "whole number"),
        (("edits", 0, "group"), -1, "whole number"),
        (("edits", 0, "channels"), "missing", "name of a tensor"),
        (("edits", 0, "channels"), "edits/4/values", "int64 tensor"),
        (("edits", 0, "producers"), "edits/5/other", "float64"),
        (("edits", 1, "seed"), 2**70, "seed is not a whole number"),
        (("edits", 1, "seed"), 1.5, "seed is not a whole number"),
        (("edits", 1, "consumers"), "burn", "one of: random, zero, keep"),
        (("edits", 2, "permutation"), "edits/1/channels", "permutation"),
        (("edits", 3, "scaling"), 1, "whole number from 0 to 0"),
        (("edits", 4, "what"), "[/red]", "not words"),
        (("edits", 4, "filter_size"), 0, "filter_size"),
        (("edits", 4, "block_size"), 0, "block_size is not a whole number"),
        (("edits", 4, "block_size"), 3, "block_size is not a divisor of filter_size"),
        (("edits", 4, "filter_size"), 2**62 + 1, "filter_size is not a whole number"),
        (("edits", 4, "columns"), 0, "columns is not a whole number"),
        (("edits", 4, "columns"), "2", "columns is not a whole number"),
        (("edits", 4, "tensor"), "\x1b[31m", "printable"),
        (("edits", 4, "held"), 1, "true or false"),
        (("edits", 4, "held"), True, "false where values are not zero"),
        (("edits", 5, "share"), 1.5, "number from 0 to 1"),
        (("edits", 5, "share"), float("nan"), "number from 0 to 1"),
        (("edits", 5, "other"), "edits/4/blocks", "floating-point"),
        ((*GROUP, "size"), 10**12, "row for each of 1000000000000 channels"),
        ((*GROUP, "members"), [], "at least one"),
        ((*MEMBER, "role"), "owner", "one of: producer, affine"),
        ((*MEMBER, "dim"), -1, "whole number from 0"),
        ((*MEMBER, "rows"), [3], "range"),
        ((*MEMBER, "rows"), [3, 3], "range"),
        ((*MEMBER, "rows"), [0, 1], "positions from 0 to 0"),
        ((*NORM, "eps"), -1, "number from 0"),
        ((*NORM, "eps"), 10**400, "number from 0"),
        ((*NORM, "running_mean"), "head.weight", "BatchNorms can be folded"),
        (("scalings", 0, "size"), 0, "whole number from 1"),
        (("scalings", 0, "parts", 0, "divided"), 1, "true or false"),
        (("scalings", 0, "reasons"), {"norm.weight": "a sentence"}, "not an object"),
        (("scalings", 0, "reasons"), {"norm.weight": {"a sentence": 0}}, "whole number from 1"),
        (("scalings", 0, "reasons"), {"norm.weight": {"a\nb": 1}}, "printable"),
        (("version",), 1, "another format"),
        (("version",), 2, "another format"),
        (("version",), 4, "another format"),
        (("method",), "x" * 2000, "at most 1000"),
        (("method",), None, "text"),
        (("options", "ratio"), [1], "text, a finite number"),
        (("options", "ratio"), float("inf"), "text, a finite number"),
        (("targets",), "conv1", "not a list"),
        (("figures", "conv1"), 3, "not an object"),
        (("figures", "conv1"), {"nodes": [[[[[[1]]]]]]}, "nested"),
        (("skipped", 0), "a\nb", "printable"),
    ],
)
def test_what_a_hostile_file_says_is_refused(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, words: str
) -> None:
    tensors, content = sound()
    decode(tensors, json.dumps(content), "plan")
    put(content, path, value)
    safetensors.torch.save_file(tensors, tmp_path / "plan.safetensors", {HEADER_KEY: json.dumps(content)})
    with pytest.raises(PlanError, match=words) as refused:
        surgeon.load_plan(tmp_path / "plan.safetensors")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("edits/1/channels", torch.tensor([8]), "positions from 0 to"),
        ("edits/0/channels", torch.tensor([-1]), "positions from 0 to"),
        ("edits/0/channels", torch.tensor([0, 0]), "each of them once"),
        ("edits/0/channels", torch.tensor(0), "1 axes"),
        ("edits/0/channels", torch.tensor([0.0]), "int64"),
        ("edits/0/producers", torch.zeros(1, 1, dtype=torch.float64), "with the shape"),
        ("edits/2/permutation", torch.tensor([0]), "a permutation of"),
        ("edits/3/factors", torch.zeros(1, dtype=torch.float64), "with the shape"),
        ("edits/4/blocks", torch.tensor([-3, 1]), "positions from 0"),
        ("edits/4/blocks", torch.tensor([1, 1]), "each of them once"),
        ("edits/4/values", torch.ones(3), "2 finite numbers"),
        ("edits/4/values", torch.tensor([1.0, float("nan")]), "2 finite numbers"),
        ("edits/4/values", torch.ones(2, dtype=torch.float8_e4m3fn), "floating-point"),
        ("edits/5/other", torch.ones(2, dtype=torch.bool), "floating-point"),
        ("groups/0/0/positions", torch.zeros(2, 0, dtype=torch.int64), "a row for each"),
        ("groups/0/0/positions", torch.full((8, 1), -1), "positions from 0"),
        ("scalings/0/0/scale", torch.tensor([10**6]), "positions from -1"),
    ],
)
def test_hostile_tensors_are_refused(tmp_path: Path, name: str, value: torch.Tensor, words: str) -> None:
    tensors, content = sound()
    assert name in tensors
    tensors[name] = value
    safetensors.torch.save_file(tensors, tmp_path / "plan.safetensors", {HEADER_KEY: json.dumps(content)})
    with pytest.raises(PlanError, match=words):
        surgeon.load_plan(tmp_path / "plan.safetensors")


def test_factors_must_be_positive() -> None:
    tensors, content = sound()
    tensors["edits/3/factors"] = torch.zeros_like(tensors["edits/3/factors"])
    with pytest.raises(PlanError, match="positive"):
        decode(tensors, json.dumps(content), "plan")


def test_a_small_file_cannot_ask_for_endless_work() -> None:
    tensors, content = sound()
    tensors["groups/0/0/positions"] = torch.arange(2**18)[None].expand(content["groups"][0]["size"], -1)
    content["edits"] = content["edits"][1:2] * 200
    with pytest.raises(PlanError, match="less than"):
        decode(tensors, json.dumps(content), "plan")


def test_a_number_of_blocks_cannot_ask_for_endless_work() -> None:
    tensors, content = sound()
    tensors["edits/4/values"] = torch.ones(1)
    content["edits"][4] |= {"filter_size": 2**40, "block_size": 2**40}
    with pytest.raises(PlanError, match="less than"):
        decode(tensors, json.dumps(content), "plan")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '{"version": 1}', "x" * (2**24 + 1)],
    ids=["empty", "open", "list", "null", "deep lists", "deep objects", "long number", "no fields", "too long"],
)
def test_hostile_texts_are_refused(tmp_path: Path, text: str) -> None:
    tensors, _ = sound()
    safetensors.torch.save_file(tensors, tmp_path / "plan.safetensors", {HEADER_KEY: text})
    with pytest.raises(PlanError):
        surgeon.load_plan(tmp_path / "plan.safetensors")


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a file that exists"):
        surgeon.load_plan(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="not a file that exists"):
        surgeon.load_plan(tmp_path)
    surgeon.save(tmp_path / "network.safetensors", make_network())
    with pytest.raises(CheckpointError, match="holds no plan"):
        surgeon.load_plan(tmp_path / "network.safetensors")
    torch.save(make_network().state_dict(), tmp_path / "pickled.safetensors")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        surgeon.load_plan(tmp_path / "pickled.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    surgeon.save_plan(planned("sofm"), tmp_path / "plan.safetensors")
    content = (tmp_path / "plan.safetensors").read_bytes()
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            surgeon.load_plan(tmp_path / "cut.safetensors")


def every_place(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for step, value in inside:
        yield (*path, step)
        yield from every_place(value, (*path, step))


JUNK = (None, True, -1, 0, 1, 7, 10**400, 0.5, float("nan"), float("inf"), "", "conv1.weight", [], [0, 1], {}, {"a": 1})


def test_whatever_stands_anywhere_a_plan_is_refused_or_fits_or_changes_nothing() -> None:
    tensors, content = sound()
    model = make_network()
    before = copy.deepcopy(model.state_dict())
    refusals = []
    for path in every_place(content):
        for junk in JUNK:
            changed = copy.deepcopy(content)
            put(changed, path, junk)
            try:
                plan = decode(tensors, json.dumps(changed), "plan")
                plan.changes()
                rehearse(model, StoredPlan(plan, Path("plan.safetensors"), ""))
            except SurgeonError as error:
                refusals.append(str(error))
    assert len(refusals) > 1000
    assert all(text.isprintable() for text in refusals)
    assert equal(before, model.state_dict())


def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    surgeon.save_plan(planned("sofm-preserve"), tmp_path / "plan.safetensors")
    content = (tmp_path / "plan.safetensors").read_bytes()
    generator = torch.Generator().manual_seed(0)
    model = make_network()
    for place in torch.randint(len(content), (200,), generator=generator).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        (tmp_path / "flipped.safetensors").write_bytes(flipped)
        with contextlib.suppress(SurgeonError):
            rehearse(model, open_plan(tmp_path / "flipped.safetensors"))
