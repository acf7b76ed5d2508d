"""Every family beside transformers' own model of it: tiny random ones, logits in float64, and the way from files to staged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.models.processing.bridge import centred_logits
from erasure_sweep.workers.models.processing.conversion import convert
from tests.support.models.families import MODELS, files_of, float64_weights
from tests.support.models.transformers_models import float64_logits


def tokens_of(config: ModelConfig) -> Tensor:
    return torch.randint(config.d_vocab, (3, 29), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    source, model = files_of(tmp_path, kind)
    config, weights = float64_weights(MODELS[kind][0], source)
    tokens = tokens_of(config)
    expected = float64_logits(model, tokens)
    found = LeanModel(config, weights, dtype=torch.float64).logits(tokens)
    expected = expected if config.logit_cap else centred_logits(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", MODELS)
def test_files_become_a_staged_model(kind: str, tmp_path: Path) -> None:
    """With transformers' logits computed as it computes them, from files that hold every tensor in its own dtype."""
    source, model = files_of(tmp_path, kind)
    staged = convert(source, tmp_path / "staged" / "m.safetensors")
    tokens = tokens_of(staged.config)
    with torch.no_grad():
        expected = model(tokens).logits
    found = LeanModel(staged.config, staged.weights).logits(tokens)
    expected = expected if staged.config.logit_cap else centred_logits(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
