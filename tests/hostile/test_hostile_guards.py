"""Every guard before a pickle is loaded, by files in which nothing else is wrong; all of them, and without a watch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_case import Case, check_whole
from hostile_files import all_cases
from hostile_headers import header_cases
from hostile_pickles import code, costly, odd_contents
from hostile_zips import contents, lies

import surgeon
from surgeon.errors import SurgeonError

COSTLY = ("million", "1000000 deep", "70,000 records", "costly header")
"""What takes long to make or to refuse, and is left to the watch."""


KINDS: tuple[Callable[[], Iterator[Case]], ...] = (lies, contents, costly, odd_contents, header_cases)
SAID = (
    "zip bomb",
    "zip directory",
    "zip content",
    "pickle of code",
    "costly pickle",
    "costly call",
    "odd content",
    "header length",
    "header entry",
    "header layout",
    "header repeats",
    "header JSON",
    "metadata",
    "costly header",
    "place",
    "foreign",
)
"""Files of which every one that is refused says why."""


def cheap(kind: Callable[[], Iterator[Case]]) -> Iterator[Case]:
    """Yield those of a kind that are quick."""
    return (case for case in kind() if not any(part in case.title for part in COSTLY))


def fault(case: Case, path: Path) -> str:
    """Read a file, and say what is not as stated."""
    case.make(path)
    try:
        model = surgeon.load(path, case.arch)
    except SurgeonError as error:
        return "" if case.outcome == "refused" and case.says in str(error) else str(error)
    if case.whole:
        check_whole(model)
    return "" if case.outcome == "read" else "read"


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


def test_every_refusal_says_why(tmp_path: Path) -> None:
    """What is refused for something else than what a file is an example of does not count."""
    cases = [case for case in all_cases(tmp_path / "canary", mutations=1) if case.kind in SAID]
    assert [case.title for case in cases if case.outcome == "refused" and not case.says] == []
    assert [case.title for kind in KINDS for case in kind() if case.outcome == "read" and not case.whole] == []
