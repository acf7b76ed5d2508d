"""A model's files → processed weights, staged: as TransformerLens processes them by default, in the way of its architecture.

Before the weights count, the forward pass that the measures use runs on them beside TransformerLens' own on a few tokens, or
beside transformers' where that would take too much memory; a model on which the two disagree is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erasure_sweep.workers.models.architectures.registry import find_architecture
from erasure_sweep.workers.models.files.staged_weights import StagedModel
from erasure_sweep.workers.models.processing.bridge import quiet
from erasure_sweep.workers.models.processing.refusals import refuse_config
from erasure_sweep.workers.models.sources import ModelFiles


def convert(source: ModelFiles, path: Path) -> StagedModel:
    """Process a model, check it, and stage it.

    Args:
        source: the model's files.
        path: of the staged file.

    Raises:
        DataError: the files cannot be used, the model cannot be measured, or the staged file cannot be written.
    """
    refuse_config(source.name, source.config)
    with quiet():
        return find_architecture(source.config).convert(source, path)


def refuse_by_config(name: str, directory: Path, config: dict[str, Any]) -> None:
    """Refuse a model by its config alone; one that passes may still be refused once its weights are here.

    Args:
        name: of the model, as shown.
        directory: with its config.json.
        config: what that holds.

    Raises:
        DataError: the forward cannot express it, or its files are in a layout that nothing reads, with the reason.
    """
    refuse_config(name, config)
    with quiet():
        find_architecture(config).refuse(name, directory, config)
