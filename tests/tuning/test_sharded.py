"""Fully sharded training does what training on whole networks does; the latter, in as many processes, is the oracle."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from sharded_together import CASES, penalized, run_all
from together import together

from surgeon.errors import OptionError
from surgeon.tuning.sharding import check_accelerator

CLOSE = {"rtol": 1e-6, "atol": 1e-8}
"""Gradients are added up in another order, in float64; the losses in float32."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    """What either process has found."""
    folder: Path = tmp_path_factory.mktemp("together")
    return together(run_all, folder, FOLDER=str(folder))


@pytest.mark.parametrize("case", CASES)
def test_divided_networks_learn_what_whole_ones_do(both, case: str) -> None:
    for own in both:
        whole, divided = own["whole"][case], own["divided"][case]
        torch.testing.assert_close(divided["weights"], whole["weights"], **CLOSE)
        torch.testing.assert_close(divided["best"], whole["best"], **CLOSE)
        torch.testing.assert_close(divided["losses"], whole["losses"], rtol=1e-6, atol=1e-6)
        assert (divided["modes"], divided["trained"]) == (whole["modes"], whole["trained"])
    first, second = (own["divided"][case]["weights"] for own in both)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_orthogonal_loss_of_two_processes_is_that_of_one(both) -> None:
    alone = penalized()
    for own in both:
        torch.testing.assert_close(own["penalized"], alone, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(own["penalized"][name], both[0]["penalized"][name]) for own in both for name in alone)


@pytest.mark.parametrize("kind", ["weights", "gradients", "moments"])
def test_each_process_has_about_half(both, kind: str) -> None:
    own = [found["shares"][kind] for found in both]
    everything = own[0][1]
    assert sum(part for part, _ in own) == everything
    assert max(part for part, _ in own) < 0.55 * everything


@pytest.mark.parametrize("place", ["within", "between"])
def test_a_run_that_is_taken_up_ends_as_if_it_had_not_stopped(both, place: str) -> None:
    for own in both:
        torch.testing.assert_close(own["resumed"][place], own["resumed"]["through"], rtol=0, atol=0)


def test_a_nan_in_one_part_stops_all_processes(both) -> None:
    assert all(own["spoilt"].startswith("A weight or a running statistic became NaN or infinite") for own in both)


def test_what_cannot_be_divided_is_refused(both) -> None:
    for own in both:
        assert own["scalar"].startswith("FSDP cannot divide the parameter scale, which is a single number.")
        assert own["frozen scalar"] == ""
        assert "Could not find the transformer layer class Block" in own["no such class"]
        assert own["channels last"].startswith("With FSDP, weights cannot lie channels-last.")
        assert "does not work on parameters that FSDP divides" in own["optimizer"]["adahessian"]
        assert "the weights come out differently" in own["optimizer"]["muon"]
        assert own["optimizer"]["lookahead_radam"] == ""
        assert own["tied in two units"].startswith("FSDP cannot divide the network as it is configured")
        assert own["tied in one unit"] == ""
        assert own["orthogonal loss"].startswith("The orthogonal loss compares all filters of a layer, and FSDP")


def test_an_accelerator_that_divides_by_itself_is_refused() -> None:
    with pytest.raises(OptionError, match="was made for FSDP"):
        check_accelerator(SimpleNamespace(distributed_type=DistributedType.FSDP))


def test_a_divided_network_is_evaluated_on_every_image_once(both) -> None:
    assert [own["evaluated"] for own in both] == [5, 5]
    assert all(own["one image"].startswith("There are 1 images for 2 processes") for own in both)
