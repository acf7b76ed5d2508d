"""Whether the forward pass that the measures use gives the logits of another one, on a few random tokens."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.errors import DataError
from erasure_sweep.workers.models.forward import LeanModel

CHECK_PROMPTS = 2
CHECK_TOKENS = 32
CHECK_SEED = 0
CHECK_TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit where that exceeds one."""


def check_tokens(config: Any) -> Int[Tensor, "batch pos"]:
    """The random tokens on which the lean forward is held against another; of a config, ``d_vocab`` and ``n_ctx`` count."""
    generator = torch.Generator().manual_seed(CHECK_SEED)
    return torch.randint(config.d_vocab, (CHECK_PROMPTS, min(config.n_ctx, CHECK_TOKENS)), generator=generator)


def check_logits(
    name: str,
    model: LeanModel,
    expected: Float[Tensor, "batch pos d_vocab"],
    whose: str = "TransformerLens'",
    tolerance: float = CHECK_TOLERANCE,
) -> None:
    """Refuse a model on which the lean forward does not reproduce another's logits.

    Args:
        name: of the model, as shown.
        model: the lean forward over the processed weights.
        expected: the other's logits of ``check_tokens``, centred over the vocabulary.
        whose: they are.
        tolerance: how far they may differ, relative to the largest logit where that exceeds one.

    Raises:
        DataError: the logits differ, by how much is said.
    """
    found = model.logits(check_tokens(model.config).to(model.device))
    difference = float((found - expected).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise DataError(
            f"model {name} cannot be measured: the trace's logits differ from {whose} by {difference:.2g} "
            f"(at most {allowed:.2g} is allowed)"
        )
