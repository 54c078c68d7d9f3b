"""A network's numbers are looked at before a run and after each operation: nothing spoilt is edited, or written."""

from torch import nn

from surgeon.checkpoint.display import listed
from surgeon.errors import CheckpointError, DivergenceError
from surgeon.sound import negative_variances, not_finite


def check_sound(model: nn.Module, whose: str = "network") -> None:
    """Refuse a network that computes nothing.

    Args:
        model: the network as it came.
        whose: what it is called in the message.

    Raises:
        CheckpointError: weights or running statistics are NaN or infinite, or running variances negative.
    """
    _refuse(
        not_finite(model),
        f"The {whose} has NaN or infinite values in",
        "Take its weights from before the training diverged.",
    )
    _refuse(
        negative_variances(model),
        f"The {whose} has running variances below zero in",
        "Measure its BatchNorm statistics anew, or take its weights from before they were spoilt.",
    )


def _refuse(names: list[str], problem: str, remedy: str) -> None:
    if names:
        raise CheckpointError(f"{problem} {listed(names)}.", remedy)


def check_operated(model: nn.Module, method: str) -> None:
    """Refuse what an operation has made of a network that was sound.

    Args:
        model: the network; it stays as the operation has left it.
        method: the operation's.

    Raises:
        DivergenceError: a weight or running statistic has become NaN or infinite, or a running variance negative.
    """
    names = not_finite(model)
    if names:
        raise DivergenceError(
            f"By {method}, values of {listed(names)} became too large to be numbers.",
            "Choose other options or layers, or a network with smaller weights.",
        )
    names = negative_variances(model)
    if names:
        raise DivergenceError(
            f"By {method}, variances in {listed(names)} fell below zero.",
            "Choose other options or layers.",
        )
