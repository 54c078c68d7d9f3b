"""While a network is recorded some settings of the process are others; afterwards they are the user's again."""

import gc
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from surgeon.coupling import trace
from surgeon.coupling.lean import lean
from surgeon.coupling.record import storage_free
from surgeon.errors import TraceError


class Watching(nn.Module):
    """Writes down during its forward pass whether the collector runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.append(gc.isenabled())
        return self.layer(x)


SEEN: list[bool] = []


@pytest.fixture(params=[True, False], ids=["collecting", "not collecting"])
def collecting(request: pytest.FixtureRequest) -> Iterator[bool]:
    """The user's own setting of the collector."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_the_collector_pauses_while_a_network_is_recorded(collecting: bool) -> None:
    SEEN.clear()
    trace(Watching(), torch.zeros(2, 3, 4, 4))
    assert SEEN
    assert not any(SEEN)
    assert gc.isenabled() is collecting


def test_the_settings_come_back_after_an_error(collecting: bool) -> None:
    with pytest.raises(TraceError):
        trace(Watching(), torch.zeros(2, 5, 4, 4))
    assert gc.isenabled() is collecting


def test_the_settings_may_be_nested(collecting: bool) -> None:
    with lean():
        with lean():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() is collecting


def test_the_last_of_several_threads_brings_the_settings_back(collecting: bool) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with lean():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with lean():
        thread.start()
        inside.wait()
    assert not gc.isenabled()
    leave.set()
    thread.join()
    assert gc.isenabled() is collecting


def test_a_switch_that_this_torch_lacks_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    config = getattr(torch.fx, "config", None)
    if hasattr(config, "do_not_emit_stack_traces"):
        monkeypatch.delattr(config, "do_not_emit_stack_traces")
    with lean():
        assert not hasattr(config, "do_not_emit_stack_traces")
    assert not hasattr(config, "do_not_emit_stack_traces")


def test_where_torch_has_the_switch_stack_traces_are_off_for_the_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.fx.config, "do_not_emit_stack_traces", False, raising=False)
    with lean():
        assert torch.fx.config.do_not_emit_stack_traces
    assert not torch.fx.config.do_not_emit_stack_traces


def test_a_copy_to_record_has_counters_of_batches_only_for_training() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    mode = FakeTensorMode()
    kept = {name for name, _ in storage_free(model, mode).named_buffers()}
    assert kept == {"1.running_mean", "1.running_var"}
    counted = {name for name, _ in storage_free(model, mode, counting=True).named_buffers()}
    assert counted == {*kept, "1.num_batches_tracked"}
    assert model[1].num_batches_tracked is not None
