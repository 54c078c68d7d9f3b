"""Bring dead, duplicated and weak channels of pretrained vision networks back to life.

The names below are imported when they are first used, so that `surgeon --help` starts without torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "trace": "surgeon.coupling",
    "plan": "surgeon.operate",
    "execute": "surgeon.operate.execute",
    "apply": "surgeon.operate",
    "finetune": "surgeon.operate",
    "permute": "surgeon.edit.permute",
    "load": "surgeon.checkpoint",
    "save": "surgeon.checkpoint",
    "save_plan": "surgeon.operate.stored_plan",
    "load_plan": "surgeon.operate.stored_plan",
    "methods": "surgeon.methods",
}

__all__ = [
    "__version__", "apply", "execute", "finetune", "load", "load_plan", "methods", "permute", "plan", "save",
    "save_plan", "trace",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'surgeon' has no attribute '{name}'")
    home = importlib.import_module(_HOMES[name])
    return home if name == "methods" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
