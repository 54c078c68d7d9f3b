"""What is said goes to disks that may be full, and to readers that may go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call

from surgeon.cli import render
from surgeon.cli.streams import guarded

FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no disk is always full here")


def test_results_that_cannot_be_told_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["methods"], ["methods", "sofm"]):
        with FULL.open("w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert call(patch, *arguments) == 1
        assert capsys.readouterr().err.startswith("Error: stdout cannot be written: No space left on device.\n")


def test_what_cannot_be_said_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with FULL.open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        with guarded():
            render.say("An epoch is over.")
            print("and so is another", file=sys.stderr, flush=True)
        assert call(patch, "methods", "nonsense") == 1


def test_a_program_leaves_without_a_traceback_where_its_results_have_no_room() -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "surgeon", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "Error: stdout cannot be written: No space left on device."
    assert len(done.stderr.splitlines()) == 2


def test_a_reader_that_has_gone_is_no_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        with guarded():
            with pytest.raises(BrokenPipeError):
                print("a result", flush=True)
            # What is left of it asks nobody another time.
            sys.stdout.flush()


def test_the_same_text_comes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        print("before")
        with guarded():
            print("während")
        print("after")
    assert (tmp_path / "out").read_text("utf-8") == "before\nwährend\nafter\n"
