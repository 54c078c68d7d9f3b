"""Every guard before a pickle is loaded, by files in which nothing else is wrong; all of them, and without a watch."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_case import Case, check_whole
from hostile_damage import truncated
from hostile_headers import header_cases
from hostile_pickles import code, costly, odd_contents
from hostile_zips import contents, lies

import surgeon
from surgeon.checkpoint import torch_file
from surgeon.errors import SurgeonError

COSTLY = ("million", "1000000 deep", "70,000 records", "costly header")
"""What takes long to make or to refuse, and is left to the watch."""


KINDS: tuple[Callable[[], Iterator[Case]], ...] = (lies, contents, costly, odd_contents, header_cases, truncated)


def cheap(kind: Callable[[], Iterator[Case]]) -> Iterator[Case]:
    """Yield those of a kind that are quick."""
    return (case for case in kind() if not any(part in case.title for part in COSTLY))


def fault(case: Case, path: Path) -> str:
    """Read a file, and say what is not as stated."""
    case.make(path)
    try:
        model = surgeon.load(path, case.arch)
    except SurgeonError as error:
        return "" if case.outcome != "read" and case.says in str(error) else str(error)
    if case.outcome == "refused" or not (case.whole or case.outcome == "either"):
        return "read, and held against nothing"
    if case.whole:
        check_whole(model)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_refused_for_what_is_wrong_with_it_alone(tmp_path: Path, kind: Callable[[], Iterator[Case]]) -> None:
    faults = {case.title: fault(case, tmp_path / f"file{case.suffix}") for case in cheap(kind)}
    assert {title: what for title, what in faults.items() if what} == {}
    assert len(faults) > 20


def test_no_pickle_runs_code(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    faults = {case.title: fault(case, tmp_path / f"file{case.suffix}") for case in code(canary)}
    assert {title: what for title, what in faults.items() if what} == {}
    assert not canary.exists()


def test_no_pickle_runs_code_where_nothing_has_looked_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's restricted unpickler is the second guard, and is enough for that."""
    canary = tmp_path / "canary"
    monkeypatch.setattr(torch_file, "_look_through", lambda path, zipped: None)
    cases = [case for case in code(canary) if case.suffix != ".tar" and "tar " not in case.name]
    for case in cases:
        case.make(tmp_path / f"file{case.suffix}")
        with contextlib.suppress(SurgeonError):
            surgeon.load(tmp_path / f"file{case.suffix}", case.arch)
        assert not canary.exists(), case.title
    assert len(cases) > 100
