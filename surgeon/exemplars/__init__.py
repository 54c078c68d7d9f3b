"""Labelled images that are synthesized from a classifier itself, for when there are no others."""

from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.estimate import Effort, measure_effort
from surgeon.exemplars.synthesize import synthesize

__all__ = ["Effort", "SynthesisConfig", "measure_effort", "synthesize"]
