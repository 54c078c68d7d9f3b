"""The parts composed into the jobs that users ask for."""

from surgeon.operate.apply import apply
from surgeon.operate.finetune import finetune
from surgeon.operate.plan import plan

__all__ = ["apply", "finetune", "plan"]
