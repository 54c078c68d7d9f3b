"""The examples of the documentation, run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def example(page: str, section: str) -> str:
    """Return the Python code of a section of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"## {section}\n")
    assert found, f"{page} has no section {section}"
    (code,) = re.findall(r"```python\n(.*?)```", rest.split("\n## ")[0], re.DOTALL)
    return code


def test_a_segmentation_network_is_operated_on_and_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(example("tuning.md", "Any task"), "docs/tuning.md", "exec"), names)
    learnt, record = names["learnt"], names["record"]
    losses = [epoch["train_loss"] for epoch in learnt.epochs]
    assert losses[-1] < losses[0] / 2
    assert [stage.name for stage in record.stages] == ["original", "operated", "recalibrated", "finetuned"]
    assert record.stages[-1].metrics["mean IoU"] > 0.5 > learnt.stages[0].metrics["mean IoU"]
    assert len(capsys.readouterr().out.splitlines()) == len(learnt.stages) + len(record.stages)
