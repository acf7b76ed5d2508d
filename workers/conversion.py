"""A model's files → processed weights: as TransformerLens does by default, checked against it, staged.

TransformerLens boots the model, folds LayerNorm, centres what writes to the stream and the unembedding, and folds value
biases into ``b_O`` (its ``enable_compatibility_mode``); the weights are read out. Before they count, the lean forward that
the measures use runs on them beside TransformerLens' own on a few tokens; a model on which the two disagree is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workers.bridges import LOAD_ERRORS, boot_bridge, check_finite, model_config, quiet
from workers.errors import DataError
from workers.hub_files import one_line
from workers.sources import Source
from workers.staged import StagedModel, content_hash, write_staged
from workers.trace import LeanModel, ModelConfig

CHECK_PROMPTS = 2
CHECK_TOKENS = 32
CHECK_SEED = 0
CHECK_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit where that exceeds one."""


def convert(source: Source, path: Path) -> StagedModel:
    """Process a model through TransformerLens, check it, and stage it."""
    with quiet():
        bridge = boot_bridge(source)
        try:
            config, weights = process_bridge(bridge)
            check_finite(source.name, weights)
            with torch.no_grad():
                expected = bridge(check_tokens(config), return_type="logits")
            del bridge  # Half of the memory; the lean model below copies part of the weights.
            model = LeanModel(config, weights)
        except LOAD_ERRORS as error:
            raise DataError(f"model {source.name}: its weights cannot be processed: {one_line(error)}") from error
    check_logits(source.name, model, expected)
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
    with torch.no_grad():
        names = ["W_E", "W_pos", "W_Q", "W_K", "W_V", "b_Q", "b_K", "W_O", "b_O", "W_U", "b_U"]
        names += [] if bridge.cfg.attn_only else ["W_in", "b_in", "W_out", "b_out"]
        weights = {name: getattr(bridge, name).detach().clone().contiguous() for name in names}
    return model_config(bridge.cfg, weights), weights


def check_tokens(config: ModelConfig) -> Int[Tensor, "batch pos"]:
    """The random tokens on which the lean forward is held against TransformerLens'."""
    generator = torch.Generator().manual_seed(CHECK_SEED)
    return torch.randint(config.d_vocab, (CHECK_PROMPTS, min(config.n_ctx, CHECK_TOKENS)), generator=generator)


def check_logits(name: str, model: LeanModel, expected: Float[Tensor, "batch pos d_vocab"]) -> None:
    """Refuse a model on which the lean forward does not reproduce the processed bridge's logits.

    Args:
        name: of the model, as shown.
        model: the lean forward over the processed weights.
        expected: the bridge's logits of ``check_tokens``.

    Raises:
        DataError: the logits differ, by how much is said.
    """
    difference = float((model.logits(check_tokens(model.config)) - expected).abs().max())
    allowed = CHECK_TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise DataError(
            f"model {name} cannot be measured: the trace's logits differ from TransformerLens' by {difference:.2g} "
            f"(at most {allowed:.2g} is allowed)"
        )
