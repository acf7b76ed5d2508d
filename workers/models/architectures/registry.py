"""Which architecture a model is of: every file of this folder that holds an ``ARCHITECTURE`` is asked."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models import architectures as folder
from erasure_sweep.workers.models.architectures.architecture import Architecture, Config

RECURRENT = frozenset(
    ("mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "jamba", "bamba", "zamba", "zamba2", "xlstm")
)
"""What configs call models whose layers hand on a state from token to token."""


@cache
def architectures() -> tuple[Architecture, ...]:
    """All families, in the order of their files."""
    names = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    modules = [import_module(f"{folder.__name__}.{name}") for name in names]
    return tuple(module.ARCHITECTURE for module in modules if hasattr(module, "ARCHITECTURE"))


def find_architecture(config: Config) -> Architecture:
    """The family that a config.json is of.

    Raises:
        DataError: none recognizes it.
    """
    found = next((architecture for architecture in architectures() if architecture.recognizes(config)), None)
    if found is None:
        raise DataError(f"models of the kind {config.get('model_type')} are not read: {_why_not(config)}")
    return found


def _why_not(config: Config) -> str:
    if config.get("is_encoder_decoder"):
        return "they have an encoder"
    if config.get("model_type") in RECURRENT:
        return "they are recurrent"
    return f"those that are read are of the kinds {', '.join(each.name for each in architectures())}"
