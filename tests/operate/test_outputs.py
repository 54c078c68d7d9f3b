"""What a job reads stays, and what others have put where it writes."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from small_jobs import make_job

from surgeon.errors import OutputError
from surgeon.operate.job import ExemplarJob, Job
from surgeon.operate.job_checks import check_outputs


def reading(folder: Path, what: str, name: str) -> Job:
    """Return a job, which may overwrite, on a file of this name."""
    path = folder / name
    path.write_bytes(b"precious")
    job = make_job(folder / "in.safetensors", output=folder / "o.safetensors", overwrite=True, init="checkpoint")
    if what == "recipe":
        return dataclasses.replace(job, also_read=(("the recipe", path),))
    changed: Any = str(path) if what == "teacher" else f"{path}:build" if what == "arch" else path
    return dataclasses.replace(job, **{what: changed})


@pytest.mark.parametrize("what", ["checkpoint", "partner", "teacher", "recipe"])
@pytest.mark.parametrize("name", ["o.safetensors", "o-best.safetensors", "o.json", "card.md"])
def test_no_output_replaces_an_input_whatever_may_be_overwritten(tmp_path: Path, what: str, name: str) -> None:
    job = dataclasses.replace(reading(tmp_path, what, name), reports={tmp_path / "card.md": str})
    with pytest.raises(OutputError, match=f"{name} would replace an input or another output: the {what}"):
        check_outputs(job)


def test_the_same_file_is_known_by_every_name(tmp_path: Path) -> None:
    job = reading(tmp_path, "checkpoint", "in.safetensors")
    check_outputs(job)
    for link in (os.link, os.symlink):
        best = tmp_path / "o-best.safetensors"
        link(tmp_path / "in.safetensors", best)
        with pytest.raises(OutputError, match="the checkpoint"):
            check_outputs(job)
        best.unlink()


def test_what_describes_a_network_is_an_input_too(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the code of the network"):
        check_outputs(dataclasses.replace(reading(tmp_path, "arch", "net.py"), reports={tmp_path / "net.py": str}))
    named = reading(tmp_path, "checkpoint", "in.safetensors")
    with pytest.raises(OutputError, match=r"config.json beside the checkpoint"):
        check_outputs(dataclasses.replace(named, output=tmp_path / "config.safetensors"))


def test_a_plan_is_neither_written_over_an_input_nor_mistaken_for_a_result(tmp_path: Path) -> None:
    job = reading(tmp_path, "partner", "p.safetensors")
    check_outputs(dataclasses.replace(job, plan_output=job.result))
    with pytest.raises(OutputError, match="the partner"):
        check_outputs(dataclasses.replace(job, plan_output=tmp_path / "p.safetensors"))


def test_exemplars_that_will_be_made_replace_no_input(tmp_path: Path) -> None:
    job = reading(tmp_path, "teacher", "o.exemplars.safetensors")
    check_outputs(job)
    nothing: Any = None
    made = ExemplarJob(config=nothing, images=nothing, vary=nothing)
    with pytest.raises(OutputError, match="the teacher"):
        check_outputs(dataclasses.replace(job, images=None, exemplars=made))
