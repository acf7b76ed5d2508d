"""What transformers' configs say of rotary positions: how many coordinates are turned, how fast, and what is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.model_config import ModelConfig

_KINDS = ("default", "linear", "llama3", "yarn")
"""Those whose frequencies do not depend on how long a prompt is."""


def refuse_rotary(name: str, hf: Any) -> None:
    """Refuse frequencies that change with the prompt.

    Raises:
        DataError: they do.
    """
    kinds = {str(each["rope_type"]) for each in _settings(hf)}
    if kinds - set(_KINDS):
        raise DataError(
            f"model {name} cannot be measured: it has rotary positions of the kind {min(kinds - set(_KINDS))}"
        )


def rotary_dim(hf: Any, d_head: int) -> int:
    """Coordinates of a head that are turned."""
    return int(d_head * _settings(hf)[0].get("partial_rotary_factor", 1.0))


def rotary_scale(hf: Any) -> float:
    """What cosines and sines are multiplied by."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    settings = _settings(hf)
    kind = settings[0]["rope_type"]
    if kind != "yarn":  # the only one that does
        return 1.0
    return float(ROPE_INIT_FUNCTIONS[kind](hf)[1])


def frequencies(config: ModelConfig, rotary: Any) -> dict[str, Tensor]:
    """Radians per position of every pair of coordinates in each layer, by the name of ``weight_shapes``.

    Args:
        rotary: transformers' module of them, of all layers or with those of each kind of layer.
    """
    if hasattr(rotary, "inv_freq"):
        return {"inverse_frequency": rotary.inv_freq.expand(config.n_layers, -1)}
    kinds = rotary.config.layer_types
    return {"inverse_frequency": torch.stack([getattr(rotary, f"{kind}_inv_freq") for kind in kinds])}


def _settings(hf: Any) -> list[dict[str, Any]]:
    """Of all layers, or of each kind of layer."""
    found: dict[str, Any] = hf.rope_parameters
    return [found] if "rope_type" in found else [part for part in found.values() if isinstance(part, dict)]
