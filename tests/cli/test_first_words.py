"""What is said before anything is loaded, where images may have to be made."""

import subprocess
import sys
from typing import Any

import pytest

from surgeon.cli.exemplar_options import USUAL_STEPS, first_words
from surgeon.exemplars import schedule

SCRIPT = """
import sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is imported", file=sys.stderr, flush=True)
            sys.exit(7)

sys.meta_path.insert(0, Stop())
from surgeon.cli.main import main
main()
"""


def said_before_torch(*arguments: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, "apply", "net.pth", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7
    *lines, last = done.stderr.splitlines()
    assert last == "torch is imported"
    return lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "whatever needs images works on exemplars"),
        (["--epochs", "0"], "if images are needed"),
        (["--dry-run"], "if images are needed"),
        (["--plan", "p.safetensors", "--epochs", "0"], "if images are needed"),
    ],
)
def test_it_is_said_before_torch_is_imported(arguments: list[str], words: str) -> None:
    (line,) = said_before_torch("--method", "sofm", *arguments)
    assert line.startswith("There is no --data: ")
    assert words in line


@pytest.mark.parametrize(
    "arguments",
    [["--data", "digits"], ["--plan", "p", "--dry-run"], ["--plan", "p", "--epochs", "0", "--no-recalibrate"]],
)
def test_nothing_is_said_where_none_can_be_made(arguments: list[str]) -> None:
    assert said_before_torch(*arguments) == []


USUAL: dict[str, Any] = {"exemplars": 32, "exemplar_steps": None, "exemplar_size": None, "input_size": None}


def told(epochs: int = 10, only_plan: bool = False, **values: Any) -> str:
    text = first_words({**USUAL, **values}, epochs, only_plan=only_plan)
    return text.partition("A ResNet-50 takes about ")[2].partition(" so on")[0]


def test_the_time_grows_with_what_is_known() -> None:
    # 10 s, and for each of 32 images 200 · 0.14 steps of 0.13 s, 10 epochs of 0.3 s and 6 passes of 0.05 s.
    assert told() == "4 minutes"
    assert told(exemplars=320) == "37 minutes"
    assert told(exemplar_steps=2000) == "21 minutes"
    assert told(epochs=100) == "18 minutes"
    assert told(only_plan=True) == told(epochs=0) == "2 minutes"
    assert told(exemplar_size="112") == told(input_size="3,112,112") == "2 minutes"
    assert told(exemplar_size="32", input_size="3,224,224") == "30 seconds"


def test_the_usual_steps_are_those_of_the_synthesis() -> None:
    assert USUAL_STEPS == schedule.USUAL_STEPS
