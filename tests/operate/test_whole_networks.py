"""Methods that edit a whole network at once: schedules, partners, moments, and what the record says."""

import copy
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset
from two_stages import CLASSES, EXAMPLE, Two

import surgeon
from surgeon.edit.plan import Plan, Set
from surgeon.errors import DataError, LayerError, OptionError, PlanError
from surgeon.operate import carrying
from surgeon.operate.moments import forget


def make_network(seed: int = 0) -> Two:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Two().eval()
        with torch.no_grad():
            model.one[1].weight.uniform_(0.1, 2)
            model.two[1].weight.uniform_(0.1, 2)
        return model


def loader(count: int = 24) -> DataLoader[Any]:
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + labels[:, None, None, None]
    return DataLoader(TensorDataset(images, labels), 8)


def run(model: nn.Module, method: str, layers: tuple[str, ...] | str = (), **options: Any) -> Any:
    loaders = {"train": loader(), "val": loader(), "calibration": loader()}
    return surgeon.apply(model, method, layers, example_input=EXAMPLE, **{**loaders, "epochs": 2, **options})


def test_one_operation_on_the_whole_network_and_one_fine_tuning() -> None:
    record = run(make_network(), "channel-regeneration")
    assert record.targets == ()
    assert [stage.name for stage in record.stages] == ["original", "operated", "recalibrated", "finetuned"]
    assert [stage.target for stage in record.stages] == [None, *["the whole network"] * 3]
    assert {edit["tensor"] for edit in record.edits} == {"one.1.weight", "two.1.weight"}
    assert record.stages[-1].top1 == record.epochs[-1]["top1"]


def test_layers_narrow_it_and_are_found_inside_modules() -> None:
    record = run(make_network(), "channel-regeneration", ("two",), epochs=0, threshold="max")
    assert record.targets == ("two",)
    assert {edit["tensor"] for edit in record.edits} == {"two.1.weight"}
    assert run(make_network(), "channel-regeneration", "two", epochs=0, threshold="max").targets == ("two",)
    with pytest.raises(LayerError, match="'three' matches no module"):
        run(make_network(), "channel-regeneration", ("three",))


def test_repetitions_stand_in_the_record_and_reactivate_less_and_less() -> None:
    options = {"alpha": 0.9, "beta": 0.9, "gamma": 0.5}
    record = run(make_network(), "kernel-reactivation", epochs=4, every=2, **options)
    assert [epoch["epoch"] for epoch in record.epochs if epoch["operation"]] == [2]
    assert {edit["tensor"] for edit in record.edits} == {"two.0.weight"}
    (repeated,) = (epoch["operation"]["figures"] for epoch in record.epochs if epoch["operation"])
    # 7 filters of 6 kernels; half-way through, the cosine has halved the share of 0.5, and 1.5 kernels are one.
    assert record.figures["two.0"]["reactivated_kernels"] == 7 * 3
    assert repeated["two.0"]["reactivated_kernels"] == 7


def test_preserve_leaves_the_answers_alone_until_training() -> None:
    record = run(make_network(), "channel-regeneration", epochs=0, preserve=True)
    assert record.edits
    # What keeps the function keeps the statistics: measuring them anew would undo it.
    assert [stage.name for stage in record.stages] == ["original", "operated"]
    assert record.stages[1].drift < 1e-5
    assert record.stages[1].agreement == 1.0


def test_a_partner_stays_as_it_is_without_repetition() -> None:
    model, partner = make_network(0), make_network(1)
    before = copy.deepcopy(partner.state_dict())
    own = copy.deepcopy(model.state_dict())
    record = run(model, "filter-grafting", partner=partner, epochs=0, recalibrate=False)
    assert all(torch.equal(before[key], value) for key, value in partner.state_dict().items())
    share = record.figures["one.0"]["share"]
    expected = share * own["one.0.weight"] + (1 - share) * before["one.0.weight"]
    torch.testing.assert_close(model.one[0].weight.detach(), expected)


def test_a_partner_that_trains_along_is_grafted_in_turn() -> None:
    model, partner = make_network(0), make_network(1)
    first, second = copy.deepcopy(model.state_dict()), copy.deepcopy(partner.state_dict())
    record = run(model, "filter-grafting", partner=partner, epochs=1, every=1, recalibrate=False)
    # One exchange before the only epoch, and no epoch of the partner's: no exchange is left that would need it.
    share = record.figures["one.0"]["share"]
    expected = (1 - share) * second["one.0.weight"] + share * first["one.0.weight"]
    torch.testing.assert_close(partner.one[0].weight.detach(), expected)
    assert record.partner == {"trained": True}


def test_a_partner_trains_between_two_exchanges_and_is_given_back() -> None:
    model, partner = make_network(0), make_network(1)
    record = run(model, "filter-grafting", partner=partner, epochs=3, every=1)
    assert [bool(epoch["operation"]) for epoch in record.epochs] == [False, True, True]
    assert not partner.training
    again, other = make_network(0), make_network(1)
    run(again, "filter-grafting", partner=other, epochs=3, every=1)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in partner.state_dict().items())
    idle, lonely = make_network(0), make_network(1)
    run(idle, "filter-grafting", partner=lonely, epochs=1, every=1)
    # The partner of three epochs has learnt in two of them; that of one epoch was only mixed.
    assert not torch.equal(partner.head.weight, lonely.head.weight)


def test_a_partner_trains_as_the_network_does() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    run(make_network(0), "filter-grafting", partner=make_network(1), epochs=2, every=1, accelerator=accelerator)
    assert accelerator.gradient_accumulation_steps == 3


def test_repetitions_make_the_optimizer_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(optimizer: SGD, model: Two, made: Plan) -> None:
        momentum = optimizer.state[model.one[1].weight]["momentum_buffer"]
        before = momentum.clone()
        forget(optimizer, model, made)
        (edit,) = (edit for edit in made.edits if isinstance(edit, Set) and edit.tensor == "one.1.weight")
        seen.append((before[edit.entries].abs().min(), momentum[edit.entries].abs().max()))

    monkeypatch.setattr(carrying, "forget", spy)
    run(make_network(), "channel-regeneration", epochs=3, every=1)
    assert len(seen) == 2
    assert all(before > 0 and after == 0 for before, after in seen)


class Wider(Two):
    """The same with a wider second stage."""

    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Sequential(nn.Conv2d(6, 9, 3), nn.BatchNorm2d(9), nn.ReLU())
        self.head = nn.Linear(9, CLASSES)


def test_a_partner_of_another_shape_and_no_partner_are_refused() -> None:
    with pytest.raises(PlanError, match=r"two\.0"):
        run(make_network(), "filter-grafting", partner=Wider().eval())
    with pytest.raises(OptionError, match="mixes two networks"):
        run(make_network(), "filter-grafting")


def test_data_driven_criteria_measure_and_need_images() -> None:
    record = run(make_network(), "reinit", epochs=0, criterion="activation", ratio=0.3)
    assert sum(layer["renewed"] for layer in record.figures.values()) == int(0.3 * 14)
    with pytest.raises(DataError, match="taylor"):
        surgeon.plan(make_network(), "reinit", example_input=EXAMPLE, criterion="taylor")


def test_the_oracle_says_how_long_it_will_take() -> None:
    said: list[str] = []
    run(make_network(), "reinit", epochs=0, criterion="oracle", ratio=0.2, say=said.append)
    (sentence,) = said
    assert "for each of 14 filters" in sentence


@pytest.mark.parametrize(("blocks", "block_size"), [([0, 7, 60], 1), ([0, 7, 40], 9), ([1, 4], 54)])
def test_forget_clears_the_momentum_of_set_entries_only(blocks: list[int], block_size: int) -> None:
    model = make_network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    momentum = optimizer.state[model.two[0].weight]["momentum_buffer"]
    momentum.fill_(1)
    edit = Set("two.0.weight", torch.tensor(blocks), torch.zeros(1), "set", filter_size=54, block_size=block_size)
    forget(optimizer, model, Plan("test", {}, (), (edit,)))
    expected = torch.ones(momentum.numel() // block_size, block_size)
    expected[blocks] = 0
    assert torch.equal(momentum.reshape(expected.shape), expected)
