"""TransformerLens' bridge to a model → processed weights, in memory, checked against the bridge's own logits, staged.

TransformerLens folds LayerNorm, centres what writes to the stream and the unembedding, and folds value biases into ``b_O``
(its ``enable_compatibility_mode``); the weights are read out. How a bridge is booted is said in each file of
``architectures``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.errors import DataError, one_line
from erasure_sweep.workers.hub.files import quiet_hub
from erasure_sweep.workers.models.activations import activation
from erasure_sweep.workers.models.files.staged_weights import StagedModel, content_hash, write_staged
from erasure_sweep.workers.models.forward import LeanModel, default_attn_scale
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.logits_check import check_logits, check_tokens
from erasure_sweep.workers.models.processing.refusals import LOAD_ERRORS, check_finite
from erasure_sweep.workers.models.sources import ModelFiles


def convert_bridge(source: ModelFiles, path: Path, boot: Callable[[ModelFiles], Any]) -> StagedModel:
    """Process a model through TransformerLens, check it and stage it.

    Args:
        source: the model's files.
        path: of the staged file.
        boot: makes the bridge.
    """
    bridge = boot(source)
    with processing_errors(source.name):
        tokens = check_tokens(bridge.cfg)
        unprocessed = bridge_logits(bridge, tokens)
        config, weights = process_bridge(bridge)
        check_finite(source.name, weights)
        processed = bridge_logits(bridge, tokens)
        del bridge  # Half of the memory; the lean model below copies part of the weights.
        model = LeanModel(config, weights)
    check_logits(source.name, model, processed)
    # TransformerLens 4.3 mistakes the sides of an MLP that is as wide as the stream.
    check_logits(source.name, model, unprocessed, "the unprocessed model's")
    staged = StagedModel(config, content_hash(config, weights), weights)
    write_staged(staged, source, path)
    return staged


def process_bridge(bridge: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Process a bridge's weights as TransformerLens does by default and read them out.

    Args:
        bridge: a ``TransformerBridge``, processed in place unless it was before.

    Returns:
        The architecture, and the weights as ``weight_shapes`` names them, in the bridge's dtype.
    """
    bridge.enable_compatibility_mode(disable_warnings=True)
    return read_bridge(bridge)


def read_bridge(bridge: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Architecture and weights of a bridge that was processed; it stays as it is."""
    with torch.no_grad():
        names = ["W_E", "W_pos", "W_Q", "W_K", "W_V", "b_Q", "b_K", "W_O", "b_O", "W_U", "b_U"]
        names += [] if bridge.cfg.attn_only else ["W_in", "b_in", "W_out", "b_out"]
        weights = {name: getattr(bridge, name).detach().clone().contiguous() for name in names}
    return model_config(bridge.cfg, weights), weights


def model_config(bridge_config: Any, weights: Mapping[str, Tensor]) -> ModelConfig:
    """The architecture of a processed model; sizes are those of its weights, which every config agrees with."""
    n_layers, n_heads, d_head, d_model = weights["W_O"].shape
    attn_only = bool(bridge_config.attn_only)
    return ModelConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=int(bridge_config.d_mlp or 0) if attn_only else weights["W_in"].shape[-1],
        n_ctx=weights["W_pos"].shape[0],
        d_vocab=weights["W_E"].shape[0],
        act_fn=activation(bridge_config.act_fn),
        attn_only=attn_only,
        eps=float(bridge_config.eps),
        attn_scale=default_attn_scale(d_head),
    )


@torch.no_grad()
def bridge_logits(bridge: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """A bridge's own logits, centred over the vocabulary."""
    return centred_logits(bridge(tokens, return_type="logits"))


def centred_logits(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
    """As the logits of a model are whose unembedding is centred."""
    return logits - logits.mean(dim=-1, keepdim=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and progress bars off the terminal while they load a model."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with quiet_hub(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def processing_errors(name: str) -> Iterator[None]:
    """Say of which model it is what the libraries stumble over."""
    try:
        yield
    except LOAD_ERRORS as error:
        raise DataError(f"model {name}: its weights cannot be processed: {one_line(error)}") from error
