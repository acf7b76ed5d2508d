"""What no model may have: an architecture beyond the forward pass, weights of another shape, numbers that are none.

What one family refuses beside is said in its file of ``architectures``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.models.activations import ACTIVATIONS, activation
from erasure_sweep.workers.models.forward import default_attn_scale

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


def unsupported(values: Mapping[str, Any]) -> list[str]:
    """What the lean trace cannot express in an architecture, given in the words of TransformerLens' config."""
    n_heads, d_head = values["n_heads"], values["d_head"]
    positions = str(values.get("positional_embedding_type") or "standard").lower()
    normalization = str(values.get("normalization_type") or "no")
    kv_heads = values.get("n_key_value_heads") or n_heads
    act_fn = values.get("act_fn")
    scale = float(values.get("attn_scale") or -1.0)
    caps = [float(values.get(name) or -1.0) for name in ("attn_scores_soft_cap", "output_logits_soft_cap")]
    d_vocab_out = int(values.get("d_vocab_out") or -1)
    reasons = {
        f"{positions} position embeddings": positions != "standard",
        "shortformer position embeddings": values.get("shortformer_pos"),
        f"{normalization} normalization": normalization not in ("LN", "LNPre"),
        "RMS normalization before the unembedding": values.get("final_rms"),
        "attention and MLP in parallel": values.get("parallel_attn_mlp"),
        f"grouped-query attention ({n_heads} heads on {kv_heads} keys)": kv_heads != n_heads,
        "a gated MLP": values.get("gated_mlp"),
        "a mixture of experts": values.get("num_experts"),
        f"the activation {act_fn}": not values.get("attn_only") and activation(act_fn) not in ACTIVATIONS,
        "soft-capped scores or logits": max(caps) > 0,
        "local attention": values.get("use_local_attn") or values.get("window_size"),
        "attention that is not causal": values.get("attention_dir", "causal") != "causal",
        f"attention not scaled by 1/sqrt(d_head = {d_head})": not _is_default_scale(values, scale, d_head),
        "normalized queries and keys": values.get("use_qk_norm"),
        "normalization after sublayers or embedding": values.get("use_normalization_before_and_after")
        or values.get("post_embedding_ln")
        or values.get("do_layer_norm_before") is False,
        "cross-attention": values.get("add_cross_attention"),
        "recurrent layers": values.get("is_stateful"),
        f"a vocabulary of {d_vocab_out} for output alone": d_vocab_out not in (-1, values["d_vocab"]),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _is_default_scale(values: Mapping[str, Any], scale: float, d_head: int) -> bool:
    scaled = values.get("use_attn_scale", True) and values.get("scale_attn_weights", True)
    by_layer = values.get("scale_attn_by_inverse_layer_idx", False)
    usual = scale <= 0 or math.isclose(scale, default_attn_scale(d_head), rel_tol=1e-6)
    return bool(scaled and not by_layer and usual)


def refuse_unsupported(name: str, values: Mapping[str, Any]) -> None:
    """Refuse an architecture that the lean trace cannot express.

    Args:
        name: of the model, as shown.
        values: as ``unsupported`` takes them.

    Raises:
        DataError: with every reason.
    """
    try:
        reasons = unsupported(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"model {name}: config.json holds a value of another kind: {one_line(error)}") from error
    _refuse_for(name, reasons)


def refuse_reasons(name: str, reasons: Mapping[str, object], act_fn: object) -> None:
    """Refuse a model that has something the forward cannot express.

    Args:
        name: of the model, as shown.
        reasons: what it would have, and whether it has it.
        act_fn: the nonlinearity of its MLPs.

    Raises:
        DataError: with every reason that holds.
    """
    all_reasons = {**reasons, f"the activation {act_fn}": activation(act_fn) not in ACTIVATIONS}
    _refuse_for(name, [reason for reason, holds in all_reasons.items() if holds])


def _refuse_for(name: str, reasons: Sequence[str]) -> None:
    if reasons:
        raise DataError(f"model {name} cannot be measured: it has {', '.join(reasons)}")


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
        refuse_misfit(name, [f"it says {n_layers:,} layers, and the files hold {n_tensors:,} tensors"])


def check_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold NaN or infinity, naming the first tensor that does."""
    for key, tensor in state.items():
        numbers = tensor.float() if tensor.element_size() == 1 else tensor  # torch asks nothing of float8
        bad = int((~torch.isfinite(numbers)).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise DataError(f"model {name}: {key} holds NaN or infinity at {bad} of {tensor.numel()} places")
