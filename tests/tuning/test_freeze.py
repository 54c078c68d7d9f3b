import pytest
from torch import nn
from two_stages import Two

from surgeon.errors import LayerError
from surgeon.tuning.freeze import frozen_names, untrained_names

ONE = {f"one.0.{name}" for name in ("weight", "bias")}
ONE_NORM = {f"one.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
TWO_NORM = {name.replace("one", "two") for name in ONE_NORM}


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), set()),
        (("one",), ONE | ONE_NORM),
        (("*.1",), ONE_NORM | TWO_NORM),
        (("one.0", "two.1"), ONE | TWO_NORM),
        (("head.bias",), {"head.bias"}),
        (("*.0.weight",), {"one.0.weight", "two.0.weight"}),
    ],
)
def test_a_module_freezes_all_that_is_in_it_and_a_parameter_itself(patterns, frozen):
    assert frozen_names(Two(), patterns) == frozen


def test_what_is_not_trained_has_all_of_its_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    assert untrained_names(model, ["1"]) == {"0.weight", "1.weight", "1.bias", "2.bias"}
    assert untrained_names(model, []) == {"2.bias"}


def test_a_name_is_no_prefix():
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(11)))
    assert frozen_names(model, ["1"]) == {"1.weight"}


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(LayerError, match=r"'heads'") as caught:
        frozen_names(Two(), ["one", "heads"])
    assert "head" in caught.value.remedy.removesuffix(".").split(": ")[1].split(", ")
