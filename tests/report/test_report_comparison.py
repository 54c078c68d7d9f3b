"""The page of a comparison."""

from pathlib import Path
from typing import Any

import pytest
from hand_written import record, written

from surgeon.errors import DataError
from surgeon.report.build import Report, make_report
from surgeon.report.comparison import ComparisonRecord, differences_chart, read_records
from surgeon.report.networks import Files
from surgeon.report.panel import Missing, Picture, Table

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


def test_two_comparisons_stay_apart(tmp_path: Path) -> None:
    found = []
    for name, digit in (("one", "0"), ("two", "1")):
        (tmp_path / name).mkdir()
        content = comparison(checkpoint={"path": "input.safetensors", "sha256": digit * 64})
        found.append(read_records(written(tmp_path / name, "comparison.json", content)))
    report = make_report(found, Files())
    assert [picture.key for picture in report.pictures] == ["differences-1", "differences-2", "stages", "epochs"]
    assert report.pictures[1].title == "Differences to the control (two/comparison.json)"
    assert "two/comparison.json: The method sofm is worse." in report.html
    labels = [row[0] for row in report.pictures[3].table.rows]
    assert list(dict.fromkeys(labels)) == [
        "sofm (one/comparison.json)",
        "sofm (two/comparison.json)",
        "finetune (control) (one/comparison.json)",
        "finetune (control) (two/comparison.json)",
    ]
    # Two seeds of each control, and not four of both.
    assert [row[5] for row in report.pictures[3].table.rows if row[0] == labels[-1]] == [2, 2]


def test_what_is_given_twice_counts_once(tmp_path: Path) -> None:
    paths = [written(tmp_path, name, comparison()) for name in ("a.json", "b.json")]
    own = written(tmp_path, "own.json", record(top1=(1.0, 2.0)))
    report = make_report([read_records(path) for path in (own, *paths, own)], Files())
    assert [picture.key for picture in report.pictures] == ["differences", "stages", "epochs"]
    rows = report.pictures[2].table.rows
    assert [(row[0], row[5]) for row in rows[::2]] == [
        ("sofm (own.json)", 1), (f"sofm ({tmp_path.name}/a.json)", 1), ("finetune (control)", 2)
    ]  # fmt: skip
    assert "b.json is a comparison that was given twice, and counts once." in report.html
    assert "own.json is the record of own.json once more, and counts once." in report.html


def test_two_pictures_of_one_key_are_refused() -> None:
    one = Picture("a", "", "", "", "", Table((), ()))
    with pytest.raises(ValueError, match="same key"):
        Report("", (one, one), ())


@pytest.mark.parametrize("change", [{"seed": 7}, {"method": "repr"}, {"top1": (1.0, 2.0)}])
def test_another_runs_record_in_the_folder_is_not_the_runs(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "sofm-0").mkdir()
    written(tmp_path / "sofm-0", "result.json", record(**change))
    found = read_records(written(tmp_path, "comparison.json", comparison()))
    assert isinstance(found, ComparisonRecord)
    last = found.runs[2]
    assert (last.method, last.seed, last.stages[-1].top1, last.edits) == ("sofm", 0, 70.0, ())


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
        {"runs": comparison()["runs"][:1] * 2},
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
