"""TransformerLens' bridges to models, to compare with."""

from __future__ import annotations

from typing import Any

from erasure_sweep.workers.models.architectures.registry import find_architecture
from erasure_sweep.workers.models.sources import ModelFiles


def boot_bridge(source: ModelFiles) -> Any:
    """The bridge to a model of any architecture, unprocessed."""
    return find_architecture(source.config).boot(source)
