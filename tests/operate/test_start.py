"""What a job's network starts from: the weights, the teacher, what is compared, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_jobs import interrupt, make_job, run, weights
from torch import nn
from two_stages import CLASSES, loader, make_network

import surgeon
from surgeon.errors import OutputError, SurgeonError
from surgeon.operate.job import Job
from surgeon.operate.job_inputs import Opened, open_job
from surgeon.operate.start import open_start
from surgeon.progress import no_progress

WIDE = """
from torch import nn


class Wide(nn.Sequential):
    def __init__(self, width=4, num_classes=7):
        parts = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*parts, nn.Linear(width, num_classes))
        self.num_classes = num_classes


def wider(num_classes=7):
    return Wide(9, num_classes)
"""


def opened(job: Job) -> Opened:
    return open_job(job, no_progress, lambda text: None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "two.safetensors"
    surgeon.save(path, make_network())
    return path


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An architecture of 7 classes by default, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("wide.py").write_text(WIDE)
    return "wide.py:Wide"


def test_the_seed_alone_decides_the_random_weights(checkpoint: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = open_start(make_job(None)).model
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(weights(first), weights(open_start(make_job(checkpoint)).model))
    assert not torch.equal(weights(first), weights(open_start(make_job(None, seed=6)).model))
    assert not torch.equal(weights(first), weights(make_network()))


def test_the_teacher_original_and_what_is_compared_with_are_the_checkpoint_in_the_file(checkpoint: Path) -> None:
    inputs = opened(make_job(checkpoint, teacher="original"))
    assert isinstance(inputs.teacher, nn.Module)
    assert inputs.reference is inputs.teacher
    assert inputs.compared
    assert torch.equal(weights(inputs.teacher), weights(make_network()))
    assert not torch.equal(weights(inputs.model), weights(make_network()))


def test_a_checkpoint_is_its_own_teacher_as_before(checkpoint: Path) -> None:
    inputs = opened(make_job(checkpoint, teacher="original", init="checkpoint"))
    assert (inputs.teacher, inputs.reference, inputs.compared) == ("original", None, True)
    assert torch.equal(weights(inputs.model), weights(make_network()))


def test_with_a_checkpoint_answers_are_compared_with_its_own(checkpoint: Path) -> None:
    record = run(make_job(checkpoint, recipe={"init": "random"}))
    assert record.checkpoint["path"] == str(checkpoint)
    assert record.recipe == {"init": "random"}
    start = open_start(make_job(checkpoint)).model
    answers, wanted = (torch.cat([model(batch) for batch, _ in loader()]) for model in (start, make_network()))
    assert record.stages[0].agreement == pytest.approx((answers.argmax(1) == wanted.argmax(1)).double().mean().item())
    drift = (answers - wanted).norm() / wanted.norm()
    assert record.stages[0].drift == pytest.approx(drift.item(), rel=1e-4)
    assert any(f"measured against {checkpoint}" in note for note in record.notes)
    written = load_file(checkpoint.with_name("two-finetuned.safetensors"))
    assert not torch.equal(written["head.weight"], make_network().head.weight)


def test_without_a_checkpoint_nothing_is_compared_and_the_result_is_named_after_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = run(make_job(None))
    assert record.checkpoint == {}
    assert record.output == "Two-finetuned.safetensors"
    assert [(stage.drift, stage.agreement) for stage in record.stages] == [(None, None)] * 2
    assert all(stage.top1 is not None for stage in record.stages)
    assert any("no checkpoint to compare" in note for note in record.notes)
    assert json.loads((tmp_path / "Two-finetuned.json").read_text())["checkpoint"] == {}


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet18.a1_in1k", "resnet18.a1_in1k-reinit.safetensors"),
        ("torchvision:resnet18", "resnet18-reinit.safetensors"),
        ("a/b.py:c3_32", "c3_32-reinit.safetensors"),
    ],
)
def test_every_spelling_of_an_architecture_names_a_result(arch: str, name: str) -> None:
    assert make_job(None, arch=arch, method="reinit").result == Path(name)


def test_the_number_of_classes_is_that_of_the_data(wide: str) -> None:
    run(make_job(None, arch=wide))
    result = surgeon.load("Wide-finetuned.safetensors", wide)
    assert result.num_classes == CLASSES


def test_a_method_repeats_its_operation_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"criterion": "l1", "ratio": 0.5, "every": 1}
    record = run(make_job(None, method="reinit", options=options, epochs=2))
    assert {edit.get("epoch") for edit in record.edits} == {None, 1}
    assert (tmp_path / "Two-reinit.safetensors").exists()


def test_a_method_that_mixes_two_gets_a_second_random_network(checkpoint: Path) -> None:
    job = make_job(checkpoint, method="filter-grafting", options={"every": 1}, epochs=2)
    inputs = opened(job)
    assert inputs.partner is not None
    assert not torch.equal(weights(inputs.partner), weights(inputs.model))
    assert inputs.partner_file == {}
    assert run(job).partner == {"trained": True}
    assert opened(make_job(checkpoint, method="reinit")).partner is None


def test_the_teacher_may_have_another_architecture(wide: str, checkpoint: Path) -> None:
    teacher = open_start(make_job(None, arch="wide.py:wider")).model
    surgeon.save("teacher.safetensors", teacher)
    job = make_job(checkpoint, init="checkpoint", teacher="teacher.safetensors", teacher_arch="wide.py:wider")
    found = opened(job).teacher
    assert isinstance(found, nn.Module)
    assert torch.equal(weights(found), weights(teacher))
    assert run(job).stages[-1].name == "finetuned"


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"init": "checkpoint"}, "no checkpoint to start from"),
        ({"arch": None}, "nothing says which network it is"),
        ({"images": None}, "knows nothing that they could be synthesized from"),
        ({"teacher": "original"}, "CHECKPOINT before the options"),
        ({"arch": "resnet18nonsense"}, "resnet18nonsense"),
    ],
)
def test_refusals(others: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SurgeonError) as refused:
        run(make_job(None, **others))
    assert words in f"{refused.value.problem} {refused.value.remedy}"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_goes_on_and_ends_with_the_same_weights(checkpoint: Path) -> None:
    left_alone = make_job(checkpoint, epochs=3, output=checkpoint.with_name("alone.safetensors"))
    run(left_alone)
    job = make_job(checkpoint, epochs=3, output=checkpoint.with_name("stopped.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        run(job, on_epoch=interrupt)
    with pytest.raises(OutputError, match="state of another run"):
        run(make_job(checkpoint, epochs=3, output=job.output, init="checkpoint"))
    said: list[str] = []
    run(job, say=said.append)
    assert any("continues" in text for text in said)
    assert left_alone.result.exists()
    one, other = load_file(left_alone.result), load_file(job.result)
    assert all(torch.equal(one[name], other[name]) for name in one)
