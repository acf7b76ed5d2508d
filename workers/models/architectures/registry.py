"""Which architecture a model is of: every file of this folder that holds an ``ARCHITECTURE`` is asked."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models import architectures as folder
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config


@cache
def architectures() -> tuple[Architecture, ...]:
    """All families, in the order of their files."""
    names = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    modules = [import_module(f"{folder.__name__}.{name}") for name in names]
    return tuple(module.ARCHITECTURE for module in modules if hasattr(module, "ARCHITECTURE"))


def find_architecture(config: Config) -> Architecture:
    """The family that a config.json is of; of two that recognize it, the one that is no fallback.

    Raises:
        DataError: none recognizes it.
    """
    recognized = [architecture for architecture in architectures() if architecture.recognizes(config)]
    if not recognized:
        raise DataError(f"config.json is of no known architecture ({', '.join(each.name for each in architectures())})")
    return min(recognized, key=lambda architecture: architecture.is_fallback)
