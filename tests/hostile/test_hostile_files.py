"""A sample of hostile files, read by one watched process; `python benchmarks/faults.py --files` reads all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_case import Case, laid_out, small_state, writes
from hostile_damage import mutated
from hostile_files import all_cases, sample
from watched import Watch

FILES = 120
UNSAID = ("mutated", "plan", "record", "state", "config.json", "header's arguments", "header's network", "odd numbers")
"""Kinds in which a file may be refused without a word on what for: by chance, or since all else in it is sound."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watch, Path]]:
    """A watch for all tests, since a worker takes long to start, and the canary."""
    folder = tmp_path_factory.mktemp("hostile")
    with Watch(folder / "work", folder / "canary") as watch:
        yield watch, folder / "canary"


def test_a_sample_of_hostile_files(places: tuple[Watch, Path]) -> None:
    watch, canary = places
    verdicts = [watch.read(case) for case in sample(canary, FILES)]
    assert [f"{verdict.case.title}: {verdict.faults}" for verdict in verdicts if verdict.faults] == []
    assert len(verdicts) == FILES
    assert {verdict.outcome for verdict in verdicts} == {"read", "refused"}


def test_an_outcome_other_than_the_stated_one_is_a_fault(places: tuple[Watch, Path]) -> None:
    verdict = places[0].read(Case("place", "no checkpoint", writes(b"x"), "read", says="web page"))
    assert [fault.split(":")[0] for fault in verdict.faults] == [
        "refused instead of read", "the message does not say 'web page'",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("says", "deed"),
    [
        ("MiB", "held = bytearray(400 * 2**20)\ndel held"),
        ("executed", "import os\nos.mkdir(CANARY)"),
        ("left behind", "open('left', 'w').close()"),
        ("was changed", "import pathlib\npathlib.Path(FILE).with_name('new').touch()"),
        ("touched", "import subprocess\nsubprocess.run(['true'])"),
        ("failed: SystemExit", "raise SystemExit"),
        # Last, since it costs the worker.
        ("died", "import os\nos._exit(3)"),
    ],
)
def test_the_watch_sees_what_goes_wrong(places: tuple[Watch, Path], tmp_path: Path, says: str, deed: str) -> None:
    """What a hostile file could do, done by code that the worker is told to run."""
    watch, canary = places
    code = tmp_path / "code.py"

    def make(path: Path) -> None:
        path.write_bytes(laid_out(small_state()))
        code.write_text(f"CANARY, FILE = {str(canary)!r}, {str(path)!r}\n{deed}\ndef build(): pass\n")

    verdict = watch.read(Case("deed", says, make, arch=f"{code}:build"))
    assert any(says in fault for fault in verdict.faults), verdict


def test_there_are_enough_files_with_a_name_of_their_own_and_a_reason_to_be_refused(tmp_path: Path) -> None:
    cases = list(all_cases(tmp_path / "canary", mutations=1))
    titles = [case.title for case in cases]
    assert len(titles) > 500
    assert len(set(titles)) == len(titles)
    # A file that is refused for something else than what it is an example of shows nothing.
    assert [case.title for case in cases if case.outcome == "refused" and not (case.says or case.kind in UNSAID)] == []


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    made: list[list[bytes]] = []
    for seed in (1, 1, 2):
        made.append([])
        for case in mutated(seed, 1):
            case.make(tmp_path / "one")
            made[-1].append((tmp_path / "one").read_bytes())
    assert made[0] == made[1] != made[2]
