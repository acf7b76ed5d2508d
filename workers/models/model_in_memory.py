"""A model that is in memory already, as people hold it in a notebook → the same processed weights as from files.

Read are models of transformers, TransformerLens' bridges, and whatever has ``HookedTransformer``'s ``cfg`` and parameters. The
model stays as it is: its weights are copied while they are processed, and its own logits on a few random tokens tell whether
the forward that the measures use is the same function. What patches change by less than the tolerance is not seen there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from erasure_sweep.workers.errors import DataError, UsageError, one_line
from erasure_sweep.workers.models.architectures.architecture import Config, InMemory
from erasure_sweep.workers.models.architectures.registry import find_architecture
from erasure_sweep.workers.models.files.staged_weights import content_hash
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.bridge import centred_logits, processing_errors, quiet, read_bridge
from erasure_sweep.workers.models.processing.logits_check import CHECK_TOLERANCE, check_logits, check_tokens
from erasure_sweep.workers.models.processing.refusals import LOAD_ERRORS, check_finite, refuse_config
from erasure_sweep.workers.models.processing.saved_state import GPT2, NATIVE
from erasure_sweep.workers.models.processing.stored_transformer import transformers_config, without_weights
from erasure_sweep.workers.models.resolve_model import load_model, resolve_model

HALF_TOLERANCE = 0.05
"""Largest difference of logits, relative to the largest, from a model that computes in 16 bits."""
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_WRAPPER = "._original_component"
"""What a bridge puts into the names of the modules that it stands around."""


class HeldModel(NamedTuple):
    """A model in memory, ready to be measured."""

    name: str
    config: ModelConfig
    lean: LeanModel
    hash: str
    """Of config and processed weights."""
    tokenizer: Any | None
    """The one that came with the model, where one did: transformers', or where it lies."""


def hold(model: Any, dtype: torch.dtype | None = None) -> HeldModel:
    """A model in memory as measures take it, on the device that it is on.

    Args:
        model: of transformers, a ``TransformerBridge``, or what has ``HookedTransformer``'s ``cfg`` and ``state_dict``.
        dtype: of the forward that measures use, as ``LeanModel`` takes it; by default float64 for a model of transformers in
            float64, else float32.

    Raises:
        UsageError: it is none of these, or no such dtype.
        DataError: its architecture cannot be measured, it has hooks, or the forward does not reproduce its logits: all say
            why.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if not isinstance(model, nn.Module):
        raise _no_model(model)
    if dtype not in (None, *DTYPES):
        raise UsageError(f"{dtype} is no precision that models are measured in: give {', '.join(map(str, DTYPES))}")
    name, kept = _name(model), [*model.state_dict().values()]
    _refuse_hooks(name, model)
    with quiet(), processing_errors(name):
        config, found = _processed(name, model)
        check_finite(name, found)
        precise = torch.float64 if found["W_E"].dtype == torch.float64 else torch.float32
        weights = {key: values.to(precise) for key, values in found.items()}
        tokens = check_tokens(config).to(kept[0].device)
        lean = LeanModel(config, weights, kept[0].device, precise)  # the check is of the weights, not of a rounding
        logits = _own_logits(name, model, tokens, config.d_vocab).to(lean.device)
        whole = max(kept, key=lambda values: values.numel()).element_size() >= precise.itemsize
        tolerance = CHECK_TOLERANCE if whole else HALF_TOLERANCE
        expected = logits if config.logit_cap else centred_logits(logits)
        check_logits(name, lean, expected, f"the model's own{_hint(model)}", tolerance)
        if dtype not in (None, precise):
            lean = LeanModel(config, weights, lean.device, dtype)
    return HeldModel(name, config, lean, content_hash(config, weights), getattr(model, "tokenizer", None))


def hold_named(spec: str, staging: Path, dtype: torch.dtype | None = None) -> HeldModel:
    """A model that has a name, a folder or a file, on the accelerator where there is one.

    Args:
        spec: as ``resolve_model`` takes it.
        staging: the folder that keeps processed weights between runs.
        dtype: of the forward, as ``LeanModel`` takes it; by default float32.

    Raises:
        UsageError: nothing has this name.
        DataError: its files cannot be fetched or used, or the model cannot be measured.
    """
    resolved = resolve_model(spec, staging, halved=dtype == torch.bfloat16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config, lean = load_model(resolved.weights, device, dtype or torch.float32)
    return HeldModel(resolved.name, config, lean, resolved.hash, resolved.tokenizer)


def _refuse_hooks(name: str, model: nn.Module) -> None:
    """Refuse a model with hooks of its user's: what they change is no part of the weights, and may be too little to be seen.

    A bridge has hooks of its own on the modules that it stands around; its user's are in its hook points.
    """
    bridged = hasattr(model, "original_model")
    for path, module in model.named_modules():
        hooks = getattr(module, "fwd_hooks", []) if bridged else [*module._forward_hooks, *module._forward_pre_hooks]
        if hooks:
            raise DataError(
                f"model {name} has hooks at {path or 'its root'}, which are no part of what is measured: take them off"
            )


def _processed(name: str, model: Any) -> InMemory:
    """The processed weights, by what the model is."""
    inside = getattr(model, "original_model", model)
    cfg, config = getattr(model, "cfg", None), _transformers_config(inside)
    if getattr(model, "compatibility_mode", False) and getattr(cfg, "architecture", None) in (NATIVE, GPT2):
        return InMemory(*read_bridge(model))  # it is processed, and its own modules alone hold what was made of them
    if config is not None:
        refuse_config(name, config)
        state = inside.state_dict()
        if any("lora_" in key or ".base_layer." in key for key in state):
            raise DataError(f"model {name} has adapters beside its weights: merge them (merge_and_unload) first")
        if inside is not model:
            state = _without_wrappers(name, config, state)
        return find_architecture(config).process(name, config, state)
    if cfg is None:
        raise _no_model(model)
    config = dict(cfg.to_dict() if hasattr(cfg, "to_dict") else vars(cfg))
    return find_architecture(config).process(name, config, model.state_dict())


def _transformers_config(model: Any) -> Config | None:
    """What config.json would hold of a model of transformers; ``None`` of another."""
    config = getattr(model, "config", None)
    if config is None or not (hasattr(config, "model_type") and hasattr(config, "to_json_string")):
        return None
    values: Config = json.loads(config.to_json_string())
    return values


def _without_wrappers(name: str, config: Config, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model that a bridge stands around, by their own names; what the bridge made of them is left out."""
    known = without_weights(name, transformers_config(name, config), torch.device("meta")).state_dict()
    found = {key.replace(_WRAPPER, ""): values for key, values in state.items()}
    return {key: values for key, values in found.items() if key in known}


@torch.no_grad()
def _own_logits(
    name: str, model: nn.Module, tokens: Int[Tensor, "batch pos"], d_vocab: int
) -> Float[Tensor, "batch pos d_vocab"]:
    """What the model itself says, with its dropout off."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        found = model(tokens)
    except LOAD_ERRORS as error:
        raise DataError(f"model {name}: it does not run: {one_line(error)}") from error
    finally:
        for module in training:
            module.training = True
    logits = getattr(found, "logits", found)
    if not isinstance(logits, Tensor) or logits.shape != (*tokens.shape, d_vocab):
        raise DataError(
            f"model {name}: it gives no next-token logits: give the one with its unembedding (…ForCausalLM)"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _hint(model: Any) -> str:
    """What may be the reason where the forward is not the model's, to be told behind whose logits they are."""
    if getattr(model, "compatibility_mode", False):
        return " (its weights were processed by enable_compatibility_mode: give the bridge as it was before)"
    return " (patches in it are no part of what is measured: take them off)"


def _name(model: Any) -> str:
    """What the model calls itself, without the folder that it is from; else its class."""
    config = getattr(model, "cfg", None) or getattr(model, "config", None)
    said = getattr(config, "model_name", None) or getattr(config, "_name_or_path", None)
    return str(said or "").rstrip("/.").rpartition("/")[2] or type(model).__name__


def _no_model(model: Any) -> UsageError:
    return UsageError(
        f"a {type(model).__name__} is no model that can be read: give a model of transformers, a TransformerBridge or a "
        "HookedTransformer"
    )
