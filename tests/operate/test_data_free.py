"""What is said about the time of a synthesis, against times worked by hand."""

from types import SimpleNamespace

import pytest

from surgeon.errors import OptionError
from surgeon.operate import make_exemplars as data_free
from surgeon.tuning import TuningConfig


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89.4, "89 s"), (90, "1.5 minutes"), (600, "10.0 minutes")]
)
def test_seconds_and_minutes(seconds: float, words: str) -> None:
    assert data_free._minutes(seconds) == words


def test_the_estimate_is_corrected_once_and_without_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first tenth takes a minute, and every further one five seconds.
    clock = iter([60.0, 65.0, 70.0, 75.0, 80.0])
    monkeypatch.setattr(data_free.time, "perf_counter", lambda: next(clock))
    said: list[str] = []
    on_step = data_free._corrected(100.0, said.append)
    for tenth in range(1, 6):
        on_step(tenth / 10)
    # After ten seconds three tenths are done; the other seven take 35 seconds.
    assert said == ["By the speed so far the exemplars are ready in 35 s."]


def test_a_short_synthesis_needs_no_correction() -> None:
    said: list[str] = []
    on_step = data_free._corrected(10.0, said.append)
    for tenth in range(1, 11):
        on_step(tenth / 10)
    assert said == []


def test_nothing_is_synthesized_through_a_network_that_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_free, "sharded", lambda device: True)
    job = SimpleNamespace(tuning=TuningConfig(mixed_precision="no"))
    with pytest.raises(OptionError, match="no exemplars are synthesized"):
        data_free.prepare_exemplars(job, None, None)
