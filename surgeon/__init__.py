"""Bring dead, duplicated and weak channels of pretrained vision networks back to life."""

from surgeon.coupling import trace
from surgeon.edit.permute import permute

__version__ = "0.1.0"

__all__ = ["__version__", "permute", "trace"]
