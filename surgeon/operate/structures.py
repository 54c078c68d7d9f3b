"""The structure of a network as a part of a run's state."""

from torch import Tensor, nn

from surgeon.operate.inputs import Subject
from surgeon.operate.keeping import Keeper
from surgeon.structure import CrossSets, Structure, rebuild, structure_of
from surgeon.tuning import State
from surgeon.tuning.state import fitting_state


def structure_state(model: nn.Module) -> State:
    """Return as plain values how a network differs from what its architecture's builder makes."""
    structure = structure_of(model)
    return {
        "widths": {name: dict(sizes) for name, sizes in structure.widths.items()},
        "attention": {name: [list(sets.written), list(sets.read)] for name, sets in structure.attention.items()},
    }


def restore_structure(keeper: Keeper | None, subject: Subject) -> None:
    """Give the network the structure that it had in the state which a run goes on from; its weights follow later.

    Args:
        keeper: of the run, or None.
        subject: the network under its method, as it came.

    Raises:
        CheckpointError: the state is not one of such a run.
    """
    state = None if keeper is None or keeper.state is None else keeper.state.get("structure")
    if state is None:
        return
    with fitting_state():
        attention = {
            name: CrossSets(tuple(written), tuple(read)) for name, (written, read) in state["attention"].items()
        }
        structure = Structure({name: dict(sizes) for name, sizes in state["widths"].items()}, attention)
        if structure == structure_of(subject.model):
            return
        rebuild(subject.model, structure, _zeros)
    subject.trace_anew()


def _zeros(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    # What memory happens to hold could be no number, and is looked at before the weights are there.
    return tensor.new_zeros(shape)
