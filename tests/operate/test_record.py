"""What a record says, as any reader of JSON understands it."""

import json
import math

import pytest

from surgeon.operate import run
from surgeon.operate.record import Record, Stage


def refused(name: str) -> None:
    pytest.fail(f"{name} is no JSON")


def test_figures_that_are_no_numbers_are_null() -> None:
    stage = Stage("operated", 10.0, 50.0, math.nan, math.inf, 0.5, 1.0)
    record = Record(
        method="sofm",
        options={"ratio": 0.5, "sizes": (1, math.nan)},
        seed=0,
        targets=("layer1",),
        edits=(),
        figures={"layer1": {"error": -math.inf, "nodes": 3}},
        skipped=(),
        stages=(stage,),
        epochs=({"epoch": 0, "loss": math.nan},),
    )
    read = json.loads(record.to_json(), parse_constant=refused)
    assert read["stages"][0] | {"seconds": 0} == {
        "name": "operated", "top1": 10.0, "top5": 50.0, "loss": None, "drift": None, "agreement": 0.5, "seconds": 0,
        "target": None, "metrics": {},
    }  # fmt: skip
    assert read["options"] == {"ratio": 0.5, "sizes": [1, None]}
    assert read["figures"] == {"layer1": {"error": None, "nodes": 3}}
    assert read["epochs"] == [{"epoch": 0, "loss": None}]
    assert read["targets"] == ["layer1"]


@pytest.mark.parametrize(
    ("first", "last", "told"), [(0.5, math.nan, True), (math.nan, math.nan, False), (0.5, 9.0, False)]
)
def test_answers_that_are_no_numbers_any_more_are_told(first: float, last: float, told: bool) -> None:
    stages = tuple(
        Stage(name, 10.0, 50.0, loss, None, None, 1.0) for name, loss in (("original", first), ("finetuned", last))
    )
    record = Record("finetune", {}, 0, (), (), {}, (), stages, ())
    said = run._answers_lost(record)
    assert bool(said) is told
    assert all("nan" in text and "learning rate" in text for text in said)
