"""Record a network without the work that only a debugger or a compiler would need."""

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the search for unreachable cycles: a recording makes many objects and keeps nearly all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Leave out the lines of source behind every operation, where this version of torch lets one choose."""
    config: Any = getattr(torch.fx, "config", None)
    before = getattr(config, "do_not_emit_stack_traces", None)
    if before is None:
        yield
        return
    config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before


def _without_code() -> contextlib.AbstractContextManager[None]:
    """Write Python code for a graph only when somebody runs it, where this version of torch lets one choose."""
    try:
        from torch.fx._lazy_graph_module import _use_lazy_graph_module
    except ImportError:
        return contextlib.nullcontext()
    return _use_lazy_graph_module(True)


class _Switches:
    """Settings of the whole process, for several threads at once: the first one sets them, the last restores them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = contextlib.ExitStack()

    def enter(self) -> None:
        with self._lock:
            if not self._users:
                for switch in (_without_collections, _without_stack_traces, _without_code):
                    self._before.enter_context(switch())
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._before.close()


_SWITCHES = _Switches()


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Switch off what takes time in a recording and changes nothing in its graph; the user's settings come back.

    May be nested, and entered by several threads at once.
    """
    _SWITCHES.enter()
    try:
        yield
    finally:
        _SWITCHES.leave()
