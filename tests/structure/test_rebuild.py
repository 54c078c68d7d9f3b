"""A network is given the structure that another one remembers."""

import torch
from torch import Tensor, nn

from surgeon.structure import CrossAttentionConv2d, CrossSets, Structure, rebuild, sizes_of, structure_of

STRUCTURE = Structure(
    {
        "0": {"out_channels": 5},
        "1": {"num_features": 5},
        "3": {"in_channels": 5, "out_channels": 6, "groups": 1},
        "6": {"in_features": 6},
    },
    {"3": CrossSets((4, 5), (0, 4))},
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    ).eval()  # fmt: skip


def test_layers_have_the_sizes_and_the_network_runs() -> None:
    model = network()
    parameters = dict(model.named_parameters())
    rebuild(model, STRUCTURE, lambda name, tensor, shape: tensor.new_ones(shape))
    assert sizes_of(model[0]) == {"in_channels": 3, "out_channels": 5, "groups": 1}
    assert sizes_of(model[6]) == {"in_features": 6, "out_features": 2}
    assert isinstance(model[3], CrossAttentionConv2d)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(tensor is parameters[name] for name, tensor in model.named_parameters())
    assert model(torch.ones(1, 3, 4, 4)).shape == (1, 2)
    assert structure_of(model) == STRUCTURE


def test_what_fills_is_asked_by_the_names_of_the_state() -> None:
    asked: dict[str, tuple[int, ...]] = {}

    def fill(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        asked[name] = shape
        return tensor.new_zeros(shape)

    model = nn.Sequential(network())
    widths = {f"0.{name}": sizes for name, sizes in STRUCTURE.widths.items()}
    before = model.state_dict()
    rebuild(model, Structure(widths), fill)
    after = model.state_dict()
    assert asked == {name: tuple(after[name].shape) for name in after if after[name].shape != before[name].shape}
    assert asked["0.0.weight"] == (5, 3, 3, 3)


def test_without_memory_it_stays_without_memory() -> None:
    model = network().to("meta")
    rebuild(model, STRUCTURE)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert model(torch.ones(1, 3, 4, 4, device="meta")).shape == (1, 2)


def test_a_structure_takes_the_place_of_another_one() -> None:
    model = network()
    rebuild(model, STRUCTURE)
    other = Structure(
        {**STRUCTURE.widths, "3": {"in_channels": 5, "out_channels": 9}, "6": {"in_features": 9}},
        {"3": CrossSets((0,), (1, 2))},
    )
    rebuild(model, other)
    assert model(torch.ones(1, 3, 4, 4)).shape == (1, 2)
    assert model[3].written_new.tolist() == [0]
    assert len(model[3].order) == 9
    assert structure_of(model) == other


def test_what_has_the_builders_sizes_is_no_difference() -> None:
    model, stock, attention = network(), network(), {"3": CrossSets((4, 5), (0, 3))}
    rebuild(model, STRUCTURE)
    rebuild(model, Structure({"0": {"out_channels": 4}, "1": {"num_features": 5}}, attention))
    # What the second structure leaves out is as it was built, too.
    assert structure_of(model).widths == {"1": {"num_features": 5}}
    assert sizes_of(model[3]) == sizes_of(stock[3])
    rebuild(model, Structure({"1": {"num_features": 4}}, attention))
    assert not structure_of(model).widths
    assert repr(model).replace("CrossAttentionConv2d", "Conv2d") == repr(stock)
    rebuild(stock, Structure({"6": {"in_features": 8, "out_features": 2}}))
    assert not structure_of(stock)
