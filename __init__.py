"""Which components of a language model erase what earlier ones wrote, and which logit attributions survive it.

``erasure_sweep.run("demo")`` measures a sweep and returns its tables; ``erasure_sweep.audit(model, prompts)`` says which bars
of a direct logit attribution survive. The names here are imported when they are first used:
``import erasure_sweep`` takes neither torch nor pandas. Inside the package no module imports this one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erasure_sweep.sweep.audit import Audit, audit, hold
    from erasure_sweep.sweep.config import SweepConfig, load_config
    from erasure_sweep.sweep.results import run
    from erasure_sweep.workers.errors import SweepError, UsageError

__all__ = ["Audit", "SweepConfig", "SweepError", "UsageError", "audit", "hold", "load_config", "run"]

_HOMES = {
    "Audit": "erasure_sweep.sweep.audit",
    "audit": "erasure_sweep.sweep.audit",
    "hold": "erasure_sweep.sweep.audit",
    "SweepConfig": "erasure_sweep.sweep.config",
    "load_config": "erasure_sweep.sweep.config",
    "run": "erasure_sweep.sweep.results",
    "SweepError": "erasure_sweep.workers.errors",
    "UsageError": "erasure_sweep.workers.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
