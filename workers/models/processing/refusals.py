"""What no model may have: an architecture beyond the forward pass, weights of another shape, numbers that are none.

What one family refuses beside is said in its file of ``architectures``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.activations import ACTIVATIONS, activation

LOAD_ERRORS = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError, OSError, EOFError)
"""What the libraries raise when they cannot load or process a model."""


_LAYER_KEYS = ("n_layers", "n_layer", "num_hidden_layers", "num_layers")
_MOST_LAYERS = 10_000
"""More than any model has; a config that says more would fill memory before weights could contradict it."""


def refuse_config(name: str, config: Mapping[str, Any]) -> None:
    """Refuse what no family may say in its config.json, before anything is made of it.

    Raises:
        DataError: the weights are quantized, or there would be more layers than memory has room for their names.
    """
    if config.get("quantization_config") is not None:
        settings = config["quantization_config"]
        method = settings.get("quant_method") if isinstance(settings, Mapping) else None
        raise DataError(
            f"model {name} cannot be measured: its weights are quantized{f' ({method})' if method else ''}: give the "
            "model that they were made from"
        )
    for key in _LAYER_KEYS:
        value = config.get(key)
        if isinstance(value, int | float) and value > _MOST_LAYERS:
            raise DataError(f"model {name}: config.json says {key} = {value:,}, and no model has so many")
    for part in config.values():
        if isinstance(part, Mapping):
            refuse_config(name, part)


def refuse_reasons(name: str, reasons: Mapping[str, object], act_fn: object) -> None:
    """Refuse a model that has something the forward cannot express.

    Args:
        name: of the model, as shown.
        reasons: what it would have, and whether it has it.
        act_fn: the nonlinearity of its MLPs; ``None`` where it has none.

    Raises:
        DataError: with every reason that holds.
    """
    unknown = act_fn is not None and activation(act_fn) not in ACTIVATIONS
    all_reasons = {**reasons, f"the activation {act_fn}": unknown}
    found = [reason for reason, holds in all_reasons.items() if holds]
    if found:
        raise DataError(f"model {name} cannot be measured: it has {', '.join(found)}")


def refuse_misfit(name: str, problems: Sequence[str]) -> None:
    """Refuse a model whose weights are not those of its config, if there are problems: the first is said.

    Raises:
        DataError: there are.
    """
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"model {name}: weights do not fit config.json: {problems[0]}{more}")


def refuse_other_depth(name: str, n_layers: object, n_tensors: int) -> None:
    """Refuse more layers than there are tensors, before a model of so many is built, be it without weights."""
    if isinstance(n_layers, int) and n_layers > n_tensors:
        refuse_misfit(name, [f"it says {n_layers:,} layers, and there are {n_tensors:,} tensors"])


def check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold NaN or infinity, naming the first tensor that does."""
    for key, tensor in state.items():
        numbers = tensor.float() if tensor.element_size() == 1 else tensor  # torch asks nothing of float8
        bad = int((~torch.isfinite(numbers)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise DataError(f"model {name}: {key} holds NaN or infinity at {bad} of {tensor.numel()} places")
