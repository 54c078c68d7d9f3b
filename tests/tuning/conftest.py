import pytest
from accelerate.state import AcceleratorState, PartialState


@pytest.fixture
def fresh_process_state():
    """Let a test choose device and precision, which accelerate allows once a process, and put the old choice back."""
    shared = (AcceleratorState._shared_state, PartialState._shared_state)
    saved = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    yield
    for state, old in zip(shared, saved, strict=True):
        state.clear()
        state.update(old)
