"""What can go wrong by the user's input, each kind with a name of its own."""


class SurgeonError(Exception):
    """A refusal: one sentence on what is wrong, one on what to do.

    Args:
        problem: one sentence that names the thing and says what is wrong with it.
        remedy: one sentence that says what to do next.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class CheckpointError(SurgeonError):
    """A checkpoint file cannot be read, or its tensors do not fit the network."""


class ArchitectureError(SurgeonError):
    """The network's architecture is unknown, ambiguous or cannot be built."""


class TraceError(SurgeonError):
    """The network cannot be traced into a graph of tensor operations."""


class LayerError(SurgeonError):
    """A layer pattern matches nothing, or only channels that are frozen."""


class OptionError(SurgeonError):
    """A method, or one of its options, is unknown or has a value out of range."""


class DivergenceError(OptionError):
    """The loss, a weight or a statistic became NaN or infinite."""


class PlanError(SurgeonError):
    """A plan does not fit the network that it is executed on."""


class DataError(SurgeonError):
    """A data set cannot be found or read, or its classes do not fit the classifier."""


class OutputError(SurgeonError):
    """An output cannot be written, or exists already."""


class StateError(OutputError):
    """The state of an interrupted run is there, and this run cannot go on from it."""


class MemoryShortageError(SurgeonError):
    """The memory of the computer or of its accelerator ran out."""


class LostProcessError(SurgeonError):
    """A process that reads images, or another one of the same run, has died."""
