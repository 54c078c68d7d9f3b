"""What stands under the names of our own files of JSON, in a folder that anybody may have filled."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from killed_runs import len_of
from safetensors.torch import save_file
from shared_comparison import make_runs
from small_jobs import make_job

from surgeon.bounded_json import BoundError
from surgeon.data.exemplars import KEY, read_about
from surgeon.errors import DataError, OutputError
from surgeon.operate.compare import COMPARISON, compare
from surgeon.operate.comparison_run import RUN, Hooks, told_runs
from surgeon.operate.generations import generations, unfinished
from surgeon.operate.told import LARGEST_FILE, MOST_VALUES, read_told
from surgeon.progress import no_progress


def endless(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def words(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "half": words('{"surgeon": "0", "rows": ['),
    "no text": lambda path: path.write_bytes(b'{"surgeon": "\xff", "rows": []}'),
    "deep": words('{"surgeon": "0", "rows": ' + 10**6 * "["),
    "as deep, and whole": words('{"surgeon": "0", "rows": ' + 10**4 * "[" + 10**4 * "]" + "}"),
    "values": words('{"surgeon": "0", "rows": [' + (MOST_VALUES - 1) * "{}," + "{}]}"),
    "a terabyte of nothing": endless,
    "larger": words('{"surgeon": "0", "rows": []}' + LARGEST_FILE * " "),
    "a number of many digits": words('{"surgeon": "0", "rows": ' + 10**6 * "9" + "}"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
}


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return HOSTILE[request.param]


def test_what_is_no_record_of_a_comparison_is_refused_in_a_sentence(
    tmp_path: Path, hostile: Callable[[Path], object]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    hostile(folder / COMPARISON)
    with pytest.raises(OutputError, match=r"comparison\.json is not the record of a comparison\.") as refused:
        compare(make_runs(tmp_path, 1), folder, Hooks(no_progress, len_of, len_of, len_of, len_of))
    assert len(str(refused.value).splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == [COMPARISON]


def test_a_run_that_nothing_sound_is_told_of_is_none(tmp_path: Path, hostile: Callable[[Path], object]) -> None:
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
    hostile(tmp_path / "bad" / RUN)
    (tmp_path / "good" / RUN).write_text('{"name": "sofm"}')
    assert told_runs(tmp_path) == [{"name": "sofm"}]


def test_a_generation_without_a_sound_record_is_not_finished(tmp_path: Path, hostile: Callable[[Path], object]) -> None:
    job = make_job(None, teacher="original", recipe={"lr": 0.1}, output=tmp_path / "out.safetensors")
    jobs = generations(dataclasses.replace(job, overwrite=True), 2)
    save_file({"w": torch.zeros(1)}, jobs[0].result, {"surgeon": "{}"})
    hostile(jobs[0].record)
    if not jobs[0].record.is_file():
        with pytest.raises(OutputError, match="is no regular file"):
            unfinished(jobs, lambda text: None)
        return
    assert unfinished(jobs, lambda text: None) == jobs


@pytest.mark.parametrize("name", ["deep", "as deep, and whole", "values", "a terabyte of nothing", "larger"])
def test_more_than_runs_write_is_refused_before_any_of_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(json, "loads", None)
    HOSTILE[name](tmp_path / "a.json")
    with pytest.raises(BoundError):
        read_told(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{" + 1500 * '"a":{', "describes them by more than its version does"),
        (f"[{2000 * '0,'}0]", "describes them by more than its version does"),
        ('{"seed": 1, "seed": 2}', "describes them by more than its version does"),
        ('{"seed": ' + 5000 * "9" + "}", "describes them in something else than JSON"),
        ('{"seed": ', "describes them in something else than JSON"),
    ],
)
def test_what_a_file_of_exemplars_says_is_bounded(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"images": torch.zeros(1), "labels": torch.zeros(1)}, path, {KEY: text})
    with pytest.raises(DataError, match=said):
        read_about(path)


def test_what_runs_write_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    content = {"a": [1, 2.5, None, True, "é\n"], "b": {"c": float("inf")}}
    path.write_text(json.dumps(content, indent=2))
    assert read_told(path) == content
    with pytest.raises(FileNotFoundError):
        read_told(tmp_path / "none.json")
