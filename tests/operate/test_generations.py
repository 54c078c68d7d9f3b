"""Born-again networks: seeds, teachers and names of the generations, and which of them are trained again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_jobs import ARCH, interrupt, make_job, run, weights
from two_stages import make_network

import surgeon
from surgeon.errors import OptionError, OutputError
from surgeon.operate.generations import generations, unfinished
from surgeon.operate.job import Job

RECIPE = {"init": "random", "lr": 0.05, "workers": 0, "generations": 3}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    surgeon.save(tmp_path / "two.safetensors", make_network())
    return make_job(tmp_path / "two.safetensors", teacher="original", recipe=RECIPE)


@pytest.fixture
def trained(job: Job) -> tuple[Job, ...]:
    jobs = generations(job, 3)
    for one in jobs[:2]:
        run(one)
    return jobs


def left(jobs: tuple[Job, ...], recipe: dict[str, Any], **changed: Any) -> list[int]:
    """Return the places of the generations that would be trained with other options."""
    others = tuple(dataclasses.replace(one, recipe={**one.recipe, **recipe}, **changed) for one in jobs)
    pending = unfinished(others, lambda text: None)
    return [others.index(one) for one in pending]


def test_each_learns_from_the_one_before_with_a_seed_of_its_own(job: Job) -> None:
    first, second, third = generations(job, 3)
    names = ["two-finetuned-generation1.safetensors", "two-finetuned-generation2.safetensors"]
    folder = job.result.parent
    assert [one.result.name for one in (first, second, third)] == [*names, job.result.name]
    assert [one.teacher for one in (first, second, third)] == ["original", *(str(folder / name) for name in names)]
    assert len({job.seed, first.seed, second.seed, third.seed}) == 4
    assert [one.recipe["generations"] for one in (first, second, third)] == [1, 2, 3]
    assert [one.seed for one in generations(job, 2)] == [first.seed, second.seed]
    assert "generation 2 of 3" in second.notes[-1]


def test_one_generation_is_trained_whatever_is_there(job: Job) -> None:
    (only,) = generations(job, 1)
    assert only.seed != job.seed
    assert (only.result, only.teacher) == (job.result, "original")
    assert unfinished((only,), lambda text: None) == (only,)


def test_the_architecture_of_the_first_teacher_is_not_that_of_the_others(job: Job) -> None:
    first, second = generations(dataclasses.replace(job, teacher="large.safetensors", teacher_arch="resnet18"), 2)
    assert (first.teacher_arch, second.teacher_arch) == ("resnet18", None)


@pytest.mark.parametrize(
    ("count", "changed", "words"),
    [
        (0, {}, "0 generations are none"),
        (1, {"init": "checkpoint"}, "begin with random weights"),
        (2, {"teacher": None}, "learn from a teacher"),
    ],
)
def test_refusals(job: Job, count: int, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        generations(dataclasses.replace(job, **changed), count)


def test_a_generation_is_what_the_same_job_without_others_is(job: Job, trained: tuple[Job, ...]) -> None:
    """The first, and the second as a plain distillation from the first one's file."""
    run(dataclasses.replace(job, seed=trained[0].seed, output=job.result.with_name("alone.safetensors")))
    one, other = load_file(trained[0].result), load_file(job.result.with_name("alone.safetensors"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    output = job.result.with_name("second.safetensors")
    run(make_job(None, teacher=str(trained[0].result), seed=trained[1].seed, output=output))
    one, other = load_file(trained[1].result), load_file(output)
    assert all(torch.equal(one[name], other[name]) for name in one)
    first, second = (surgeon.load(each.result, ARCH) for each in trained[:2])
    assert not torch.equal(weights(first), weights(second))
    record = json.loads(trained[1].record.read_text())
    assert record["recipe"] == {**RECIPE, "generations": 2}
    assert any(str(trained[0].result) in note for note in record["notes"])


def test_finished_generations_are_used_again(trained: tuple[Job, ...]) -> None:
    said: list[str] = []
    assert unfinished(trained, said.append) == trained[2:]
    assert f"Generation 2 is finished, in {trained[1].result}" in said[0]
    assert left(trained, {"workers": 1}) == [2]
    assert left(trained, {"lr": 0.1}, resume_changed=True) == [2]
    # Only the newest is needed.
    trained[0].result.unlink()
    trained[0].record.unlink()
    assert left(trained, {}) == [2]


def test_generations_of_another_run_are_not(trained: tuple[Job, ...]) -> None:
    assert left(trained, {"lr": 0.1}, overwrite=True) == left(trained, {}, overwrite=True, restart=True) == [0, 1, 2]
    for recipe, restart in (({"lr": 0.1}, False), ({}, True)):
        with pytest.raises(OutputError, match=r"generation1\.safetensors exists"):
            left(trained, recipe, restart=restart)


def test_a_result_that_does_not_belong_to_its_record_or_checkpoint_is_not_used(trained: tuple[Job, ...]) -> None:
    assert trained[0].checkpoint is not None
    second = trained[1].result.read_bytes()
    trained[1].result.write_bytes(trained[0].result.read_bytes())
    assert left(trained, {}, overwrite=True) == [1, 2]
    trained[1].result.write_bytes(second[: len(second) // 2])
    assert left(trained, {}, overwrite=True) == [1, 2]
    trained[1].result.write_bytes(second)
    assert left(trained, {}, overwrite=True) == [2]
    surgeon.save(trained[0].checkpoint, surgeon.load(trained[0].result, ARCH), overwrite=True)
    assert left(trained, {}, overwrite=True) == [0, 1, 2]


def test_an_interrupted_generation_goes_on_from_its_state(job: Job) -> None:
    jobs = generations(job, 2)
    run(jobs[0])
    longer = tuple(dataclasses.replace(one, epochs=2) for one in jobs)
    with pytest.raises(KeyboardInterrupt):
        run(longer[1], on_epoch=interrupt)
    assert unfinished(longer, lambda text: None) == longer[1:]
    said: list[str] = []
    run(longer[1], say=said.append)
    assert any("continues at epoch 2 of 2" in text or "continues after" in text for text in said), said
    assert job.result.exists()
