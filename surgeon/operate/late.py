"""What starts anew when the learning rate is nearly zero."""

from surgeon.tuning import TuningConfig
from surgeon.tuning.schedule import rate_share

LITTLE = 0.05
"""The share of the learning rate below which what starts anew hardly learns any more."""


def too_late(tuning: TuningConfig, epoch: int, when: str) -> str | None:
    """Return the remark that what starts anew before an epoch will hardly learn, or None where it can.

    Args:
        tuning: the options of the fine-tuning.
        epoch: from 0, below the number of epochs.
        when: the beginning of the sentence.
    """
    share = rate_share(tuning, epoch)
    if share >= LITTLE:
        return None
    return (
        f"{when} the learning rate is {share:.2%} of --lr, and it will hardly learn: take --sched none or multistep, "
        "or more epochs."
    )
