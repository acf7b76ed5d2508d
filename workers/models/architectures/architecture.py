"""What the project has to know of a family of models before and while it reads their files.

A file of this folder that holds an ``ARCHITECTURE`` adds a family; the registry finds it. Its weights become those that
``forward.weight_shapes`` names: norms folded into what reads them, what writes to the stream centred.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from erasure_sweep.workers.models.files.staged_weights import StagedModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.sources import ModelFiles

Config = Mapping[str, Any]
"""What config.json holds."""


class InMemory(NamedTuple):
    """A model's processed weights that are nowhere staged."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """As ``weight_shapes`` names them, float32, or float64 where a model of transformers is."""


@dataclass(frozen=True)
class Architecture:
    """A family of models."""

    name: str
    """As people call it."""
    recognizes: Callable[[Config], bool]
    """Whether a config is of this family."""
    refuse: Callable[[str, Path, Config], None]
    """Given a model's name, directory and config: raises ``DataError`` where the forward cannot express it, before any weight
    is read."""
    boot: Callable[[ModelFiles], Any] | None
    """TransformerLens' bridge to the model, its weights as the files hold them, in float32 on the CPU; ``None`` where none is
    made. Raises ``DataError`` where they are damaged or do not fit their config."""
    convert: Callable[[ModelFiles, Path], StagedModel]
    """Processes a model, checks its logits and stages it under a path."""
    process: Callable[[str, Config, Mapping[str, Tensor]], InMemory]
    """Processes a model in memory: its name, its config and its state dict, which stays as it is."""
