"""Fine-tuning and evaluation."""

from surgeon.tuning.accelerator import make_accelerator
from surgeon.tuning.by_epochs import EpochByEpoch
from surgeon.tuning.config import MIXED_PRECISIONS, MixedPrecision, TuningConfig
from surgeon.tuning.distill import Objective, soft_target_loss
from surgeon.tuning.evaluate import Scores, compare_logits, evaluate, logits
from surgeon.tuning.figures import Metric, mean_loss, score_by
from surgeon.tuning.held import Held
from surgeon.tuning.loop import OnEpoch, tune
from surgeon.tuning.optimizer import carry_moments, clear_moments, create_optimizer
from surgeon.tuning.records import EpochRecord, Metrics, Score, Tuned
from surgeon.tuning.run import BatchLoss, BetweenEpochs
from surgeon.tuning.schedule import create_schedule
from surgeon.tuning.sparsity import Sparsity
from surgeon.tuning.state import Saving, State

__all__ = [
    "MIXED_PRECISIONS",
    "BatchLoss",
    "BetweenEpochs",
    "EpochByEpoch",
    "EpochRecord",
    "Held",
    "Metric",
    "Metrics",
    "MixedPrecision",
    "Objective",
    "OnEpoch",
    "Saving",
    "Score",
    "Scores",
    "Sparsity",
    "State",
    "Tuned",
    "TuningConfig",
    "carry_moments",
    "clear_moments",
    "compare_logits",
    "create_optimizer",
    "create_schedule",
    "evaluate",
    "logits",
    "make_accelerator",
    "mean_loss",
    "score_by",
    "soft_target_loss",
    "tune",
]
