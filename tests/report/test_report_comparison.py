"""The page of a comparison."""

from pathlib import Path
from typing import Any

import pytest
from hand_written import record, written

from surgeon.errors import DataError
from surgeon.report.build import make_report
from surgeon.report.comparison import ComparisonRecord, differences_chart, read_records
from surgeon.report.networks import Files
from surgeon.report.panel import Missing, Picture

KEPT = ("method", "options", "targets", "stages", "epochs", "tuning", "device", "recipe", "notes")


def row(name: str, mean: float, difference: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    figures = {"top1": {"mean": mean, "deviation": 1.5, "count": 2}}
    return {"name": name, "figures": figures, "difference": difference, "p_value": None, "verdict": "", **others}


def comparison(**change: Any) -> dict[str, Any]:
    """Return the record of a comparison of two seeds, in which the second run of sofm failed."""
    runs = [
        {"name": name, "seed": seed, "folder": f"{name}-{seed}", "reason": None} | {one: found[one] for one in KEPT}
        for name, seed, found in (
            ("control", 0, record("finetune")), ("control", 1, record("finetune", seed=1)), ("sofm", 0, record()),
        )
    ]  # fmt: skip
    runs.append({"name": "sofm", "seed": 1, "folder": "sofm-1", "reason": "The loss is <NaN>."})
    difference = {"mean": -10.0, "low": -12.0, "high": -8.0, "deviation": 1.0, "p_value": 0.02, "seeds": [0, 1]}
    shared = record()
    return {
        "surgeon": "0.1.0",
        "verdict": "The method sofm is worse.",
        "arch": shared["arch"],
        "checkpoint": shared["checkpoint"],
        "data": shared["data"],
        "recipe": {"methods": "sofm", "seeds": 2},
        "notes": ["Only other seeds are spoken of."],
        "rows": [row("control", 70.0), row("sofm", 60.0, difference, p_value=0.02, verdict="worse")],
        "runs": runs,
        **change,
    }


def test_a_comparison_is_shown_with_its_differences(tmp_path: Path) -> None:
    path = written(tmp_path, "comparison.json", comparison())
    found = read_records(path)
    assert isinstance(found, ComparisonRecord)
    assert [(run.title, run.arch, run.edits) for run in found.runs] == [
        ("control, seed 0", "resnet18", ()), ("control, seed 1", "resnet18", ()), ("sofm, seed 0", "resnet18", ())
    ]  # fmt: skip
    chart = differences_chart(found)
    assert isinstance(chart, Picture)
    assert chart.table.rows[1] == ("sofm", 60.0, 1.5, 2, -10.0, -12.0, -8.0, 0.02, "worse")
    assert "sofm -10.00" in chart.caption
    report = make_report([found], Files())
    assert [picture.key for picture in report.pictures] == ["differences", "stages", "epochs"]
    for text in ("The method sofm is worse.", "The loss is &lt;NaN&gt;.", "Only other seeds", "sofm, seed 0"):
        assert text in report.html
    assert "surgeon compare --recipe comparison.json -o again input.safetensors" in report.html
    assert "surgeon apply" not in report.html


def test_a_runs_own_record_knows_its_edits(tmp_path: Path) -> None:
    (tmp_path / "sofm-0").mkdir()
    written(tmp_path / "sofm-0", "result.json", record())
    # A record that leads out of the comparison's folder leads nowhere.
    written(tmp_path, "result.json", record("finetune", targets=["outside"]))
    content = comparison()
    content["runs"][0]["folder"] = "inside/.."
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "runs").mkdir()
    found = read_records(written(tmp_path / "inside", "comparison.json", content))
    assert isinstance(found, ComparisonRecord)
    assert found.runs[0].targets == ()
    found = read_records(written(tmp_path, "comparison.json", comparison()))
    assert isinstance(found, ComparisonRecord)
    assert [len(run.edits) for run in found.runs] == [0, 0, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 1},
        {"runs": [{}]},
        {"runs": []},
        {"verdict": 1},
        {"rows": [{"name": "a"}]},
        {"notes": {}},
        {"rows": [{}] * 1001},
    ],
)
def test_a_comparison_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        read_records(written(tmp_path, "comparison.json", comparison(**change)))


def test_a_comparison_without_a_pair_says_so(tmp_path: Path) -> None:
    found = read_records(written(tmp_path, "comparison.json", comparison(rows=[row("control", 70.0)])))
    assert isinstance(found, ComparisonRecord)
    assert isinstance(differences_chart(found), Missing)
