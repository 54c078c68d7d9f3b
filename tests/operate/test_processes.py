"""Two processes do what one does with batches as large as theirs together; the one is the oracle.

They do so each with the whole network, and with one that is divided between them.
"""

import pytest
import torch
from applied_together import RUNS, run_all
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


@pytest.fixture(scope="module", params=LAUNCHED)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """What either process has at the end."""
    found = together(run_all, tmp_path_factory.mktemp("together"), **LAUNCHED[request.param])
    assert all(own["weight-evolution"]["divided"] == bool(LAUNCHED[request.param]) for own in found)
    return found


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
