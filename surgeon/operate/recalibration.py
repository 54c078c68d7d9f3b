"""BatchNorm statistics after an operation."""

from collections.abc import Sequence

from surgeon.edit.plan import Plan
from surgeon.measure.bn import recalibrate
from surgeon.operate.data_free import moves_values
from surgeon.operate.inputs import Subject
from surgeon.tuning.freeze import frozen_names
from surgeon.tuning.modes import frozen_batch_norms
from surgeon.tuning.sharding import on_device


def recalibrated(subject: Subject, made: Plan, freeze: Sequence[str]) -> bool:
    """Measure the BatchNorm statistics anew where that is possible and needed; return whether any changed.

    Args:
        subject: the network under its method.
        made: the plan that was carried out.
        freeze: the option of fine-tuning: what is frozen keeps its statistics.
    """
    if subject.images is None or not moves_values(made.edits):
        return False
    with on_device(subject.model, subject.device) as model:
        fixed = frozen_batch_norms(model, frozen_names(model, freeze))
        return recalibrate(model, subject.images, device=subject.device, track=subject.track, fixed=fixed) > 0
