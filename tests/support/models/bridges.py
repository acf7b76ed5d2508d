"""TransformerLens' bridges to models, to compare with."""

from __future__ import annotations

from typing import Any

from erasure_sweep.workers.models.architectures.registry import find_architecture
from erasure_sweep.workers.models.processing.bridge import quiet
from erasure_sweep.workers.models.sources import ModelFiles


def boot_bridge(source: ModelFiles) -> Any:
    """The bridge to a model of any architecture, unprocessed."""
    return find_architecture(source.config).boot(source)


def bridge_to(model: Any) -> Any:
    """TransformerLens' bridge around a model of transformers that is in memory."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    with quiet():
        return build_bridge_from_module(
            model, type(model).__name__, hf_config=model.config, device="cpu", model_name="held"
        ).eval()
