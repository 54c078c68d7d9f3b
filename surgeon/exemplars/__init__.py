"""Labelled images that are synthesized from a classifier itself, for when there are no others."""

from surgeon.exemplars.config import SynthesisConfig
from surgeon.exemplars.estimate import Effort, measure_effort
from surgeon.exemplars.prepare import Preparation, prepare
from surgeon.exemplars.synthesize import synthesize

__all__ = ["Effort", "Preparation", "SynthesisConfig", "measure_effort", "prepare", "synthesize"]
