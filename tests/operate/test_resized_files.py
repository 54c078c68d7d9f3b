"""Jobs that start from the file of a resized network: what they write, and what they refuse."""

from pathlib import Path

import pytest
import torch
from small_jobs import ARCH, make_job, run
from two_stages import EXAMPLE, make_network

import surgeon
from surgeon.errors import OptionError, PlanError
from surgeon.operate.job_inputs import open_job
from surgeon.progress import no_progress
from surgeon.structure import CrossSets, Structure, rebuild, structure_of

STRUCTURE = Structure(
    {
        "one.0": {"out_channels": 4},
        "one.1": {"num_features": 4},
        "two.0": {"in_channels": 4, "out_channels": 9},
        "two.1": {"num_features": 9},
        "head": {"in_features": 9},
    },
    {"two.0": CrossSets(written=(8,), read=(2, 3))},
)


def saved(path: Path, structure: Structure) -> Path:
    model = make_network()
    torch.manual_seed(0)
    rebuild(model, structure, lambda name, tensor, shape: torch.rand(shape) / 4 + 0.1)
    surgeon.save(path, model)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path / "a.safetensors", STRUCTURE)


def test_a_fine_tuned_network_keeps_its_structure(file: Path) -> None:
    job = make_job(file, init="checkpoint")
    record = run(job)
    assert record.resized
    tuned, before = surgeon.load(job.result, ARCH), surgeon.load(file, ARCH)
    assert structure_of(tuned) == structure_of(before) == STRUCTURE
    assert torch.isfinite(tuned(EXAMPLE)).all()
    assert not torch.equal(tuned.two[0].weight, before.two[0].weight)


def test_random_weights_of_a_resized_network_are_refused(file: Path) -> None:
    with pytest.raises(OptionError, match="were resized"):
        open_job(make_job(file), no_progress, lambda text: None)


@pytest.mark.parametrize(
    "structure",
    [
        Structure(),
        Structure(STRUCTURE.widths),
        Structure(STRUCTURE.widths, {"two.0": CrossSets((7,), (2, 3))}),
    ],
)
def test_a_partner_of_another_structure_is_refused(file: Path, tmp_path: Path, structure: Structure) -> None:
    other = saved(tmp_path / "b.safetensors", structure)
    job = make_job(file, method="filter-grafting", partner=other, init="checkpoint")
    with pytest.raises(PlanError, match="layers of other sizes than the network, or other cross-attention"):
        open_job(job, no_progress, lambda text: None)
