"""What is said about the time of a job without images, against times worked by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from command_line import call, small_network
from torch import nn

import surgeon
from surgeon.errors import OptionError
from surgeon.exemplars import Effort
from surgeon.operate import make_exemplars
from surgeon.operate.exemplar_time import Forecast, Passes, count_passes, in_words
from surgeon.tuning import TuningConfig


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89.4, "89 s"), (90, "1.5 minutes"), (600, "10.0 minutes")]
)
def test_seconds_and_minutes(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def said_after(expected: float, later: float, times: list[tuple[float, float]]) -> list[str]:
    """What is said by a forecast of so many seconds, when these shares are done at these times."""
    clock = iter([0.0, *(now for now, _ in times)])
    said: list[str] = []
    forecast = Forecast(expected, later, said.append, lambda: next(clock))
    forecast.begin("Images are made")
    for _, share in times:
        forecast.on_step(share)
    return said


def test_nothing_is_synthesized_through_a_network_that_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_exemplars, "sharded", lambda device: True)
    job = SimpleNamespace(tuning=TuningConfig(mixed_precision="no"))
    with pytest.raises(OptionError, match="no exemplars are synthesized"):
        make_exemplars.prepare_exemplars(job, None, None)


def test_a_good_estimate_stands() -> None:
    said = said_after(100, 60, [(20 * n, n / 6) for n in range(1, 7)])
    assert said == ["Images are made in about 1.7 minutes; everything together takes about 2.7 minutes."]


def test_too_little_is_corrected_even_where_hardly_any_time_was_expected() -> None:
    # A second was expected; a tenth takes ten.
    said = said_after(1, 2, [(10 * n, n / 10) for n in range(1, 11)])
    assert said[1:] == ["By the speed so far the exemplars are ready in 1.5 minutes, and everything in 4.8 minutes."]


def test_too_much_is_corrected_and_what_changes_is_corrected_again() -> None:
    # Five minutes were expected. It looks like 50 seconds until half of it is done, and then hangs.
    said = said_after(300, 300, [(1, 0.02), (10, 0.2), (20, 0.4), (25, 0.5), (60, 0.51), (118, 0.99)])
    assert said[1:] == [
        "By the speed so far the exemplars are ready in 40 s, and everything in 5.7 minutes.",
        "By the speed so far the exemplars are ready in 58 s, and everything in 6.0 minutes.",
    ]


def test_the_time_of_passes() -> None:
    effort = Effort((0.5,), 100.0, forward=0.25, training=1.0)
    assert Passes(forward=8, training=3).seconds(effort, 10) == 10 * (2 + 3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--layers", "layer4", "--epochs", "3"],
        ["--layers", "layer3", "--layers", "layer4", "--epochs", "2"],
        ["--layers", "layer4", "--epochs", "0"],
        ["--layers", "layer4", "--epochs", "1", "--no-recalibrate"],
        ["--layers", "layer3", "--layers", "layer4", "--dry-run"],
        ["--layers", "layer4", "--epochs", "3", "--every", "1", "--method", "reinit"],
    ],
)
def test_the_passes_are_those_that_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    path = tmp_path / "test_resnet.safetensors"
    surgeon.save(path, small_network())
    expected: list[Passes] = []
    seen = {True: 0, False: 0}
    forward, synthesize = timm.models.ResNet.forward, make_exemplars.synthesize

    def watched(self: nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen[self.training] += len(images)
        return forward(self, images)

    def counted(*given: Any, **named: Any) -> Passes:
        expected.append(count_passes(*given, **named))
        return expected[0]

    def made(*given: Any, **named: Any) -> Any:
        result = synthesize(*given, **named)
        seen.update({True: 0, False: 0})
        return result

    monkeypatch.setattr(timm.models.ResNet, "forward", watched)
    monkeypatch.setattr(make_exemplars, "count_passes", counted)
    monkeypatch.setattr(make_exemplars, "synthesize", made)
    few = ["--input-size", "3,32,32", "--exemplars", "6", "--exemplar-steps", "1", "--method", "sofm"]
    assert call(monkeypatch, "apply", path, *few, *arguments) == 0
    assert (seen[False] / 6, seen[True] / 6) == (expected[0].forward, expected[0].training)
