"""Two processes do what one does with batches as large as theirs together; the one is the oracle.

They do so each with the whole network, and with one that is divided between them.
"""

import shutil
from pathlib import Path

import pytest
import torch
from applied_together import REGROUPED, RUNS, begin_all, go_on_with_all, run_all
from together import together

CLOSE = {"rtol": 1e-6, "atol": 1e-6}
"""Measurements and losses are summed up in float32, in another order."""


LAUNCHED = {
    "whole": {},
    "divided": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
        "FSDP_MIN_NUM_PARAMS": "20",
    },
}


@pytest.fixture(scope="module")
def begun_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    begin_all(folder)
    return folder


@pytest.fixture(scope="module", params=LAUNCHED)
def launched(request: pytest.FixtureRequest, begun_alone: Path, tmp_path_factory: pytest.TempPathFactory):
    """What either process has at the end, and the folder of what they have begun together."""
    folder = tmp_path_factory.mktemp("together")
    shutil.copytree(begun_alone, folder / "alone")
    begun = {"BEGUN_ALONE": str(folder / "alone"), "BEGUN_TOGETHER": str(folder / "both")}
    (folder / "both").mkdir()
    found = together(run_all, folder, **LAUNCHED[request.param], **begun)
    assert all(own["weight-evolution"]["divided"] == bool(LAUNCHED[request.param]) for own in found)
    return found, folder / "both"


@pytest.fixture(scope="module")
def both(launched):
    return launched[0]


@pytest.fixture(scope="module")
def alone():
    return run_all()


@pytest.mark.parametrize("method", RUNS)
def test_two_processes_end_with_the_same_weights_bit_for_bit(both, method: str) -> None:
    first, second = (own[method] for own in both)
    assert all(torch.equal(first["tensors"][key], second["tensors"][key]) for key in first["tensors"])


@pytest.mark.parametrize("method", RUNS)
def test_two_processes_plan_and_learn_what_one_does(both, alone, method: str) -> None:
    expected = alone[method]
    for own in both:
        assert own[method]["edits"] == expected["edits"]
        assert own[method]["edits"]
        for name in ("tensors", "numbers", "training"):
            torch.testing.assert_close(own[method][name], expected[name], **CLOSE)
        assert own[method]["stages"] == expected["stages"]


def test_two_processes_go_on_with_what_one_began(both, alone) -> None:
    for method in REGROUPED:
        first, second = (own["gone on"][method] for own in both)
        for name in ("tensors", "training"):
            torch.testing.assert_close(first[name], alone[method][name], **CLOSE)
        assert all(torch.equal(first["tensors"][key], second["tensors"][key]) for key in first["tensors"])
        assert any("processes 1 (now 2)" in note for note in first["notes"])
        assert any("batch-size 8 (now 4)" in note for note in first["notes"])


def test_one_process_goes_on_with_what_two_began(launched, alone) -> None:
    for method, end in go_on_with_all(launched[1]).items():
        for name in ("tensors", "training"):
            torch.testing.assert_close(end[name], alone[method][name], **CLOSE)
        assert any("processes 2 (now 1)" in note for note in end["notes"])


def test_a_signal_to_one_process_stops_all_after_the_same_update_with_a_state(both) -> None:
    for place, own in enumerate(both):
        # Four batches an epoch. What one was asked in the second batch, both know after the third.
        ended, states, same = own["stopped"]["epoch 2/2"]
        assert ended == "KeyboardInterrupt"
        # Only the main process writes; the other goes on from what that sends.
        assert states == ([None, [3, 3]] if place == 0 else [])
        assert same
        ended, states, same = own["stopped"]["evaluating"]
        assert ended == "KeyboardInterrupt"
        assert states == ([None, None] if place == 0 else [])
        assert same


def test_no_two_processes_vary_images_alike(both) -> None:
    first, second = (own["stopped"]["drawn"] for own in both)
    # Two epochs of four batches, and three evaluations of two images that are nothing but ones.
    assert len(first) == len(second) == 2 * 4 + 3 * 2
    assert set(first) & set(second) == {1.0}
    assert len(set(first) | set(second)) == 1 + 2 * 8


def test_what_would_let_a_process_wait_in_vain_is_told_by_all(both) -> None:
    for place, own in enumerate(both):
        found = own["stopped"]
        if own["weight-evolution"]["divided"]:
            # Who has a part of a layer only waits for those that use it.
            assert found["idle"] == "done"
        else:
            assert "no part in the loss" in found["idle"]
            assert "idle.weight, idle.bias. Freeze them with --freeze" in found["idle"]
        assert found["refused"] == "PlanError: Process 0 has no plan. Make one."
        assert found["failed"] == [
            "RuntimeError: unexpected",
            "SurgeonError: The main process has failed. Its own message says why.",
        ][place]  # fmt: skip
