"""Fields carried through all later attention, against a literal rerun with patterns, scales and MLPs kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from erasure_sweep.workers.measures.interventions import attention_paths
from erasure_sweep.workers.measures.interventions.attention_paths import propagate
from tests.support.models.random_models import random_lean
from tests.support.oracle.paths import rerun_without
from tests.support.oracle.scan import as_numpy, forward

SHAPES: list[dict[str, Any]] = [
    {"n_layers": 4, "n_heads": 2, "d_model": 40},
    {"n_layers": 3, "n_heads": 3, "d_model": 24, "d_head": 5, "act_fn": "gelu_new"},
    {"n_layers": 4, "n_heads": 1, "d_model": 12, "attn_only": True},
    {"n_layers": 2, "n_heads": 4, "d_model": 32},
]
N_POSITIONS = 70
WRITERS = ("embed", "pos_embed", "L0H0", "MLP0", "L1H0")
"""In the order of the stream, some of each kind."""


def first_layer(writer: str) -> int:
    return 0 if writer in ("embed", "pos_embed") else int(writer[-1] if writer.startswith("MLP") else writer[1]) + 1


@pytest.mark.parametrize("tight", [False, True], ids=["", "in small parts"])
@pytest.mark.parametrize("positions", [None, [0, 3, 4, 41, 69]], ids=["all", "some"])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_all_paths_are_those_of_a_rerun(
    shape: int, positions: list[int] | None, tight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, weights, model = random_lean(shape, n_ctx=N_POSITIONS, dtype=torch.float64, **SHAPES[shape])
    if tight:
        monkeypatch.setattr(attention_paths, "CHUNK_VALUES", 2 * N_POSITIONS * config.d_model)
        monkeypatch.setattr(attention_paths, "PATTERN_BYTES", 0)
    tokens = np.random.default_rng(shape).integers(0, config.d_vocab, N_POSITIONS)
    run = forward(config, as_numpy(weights), tokens)
    writers = [writer for writer in WRITERS if writer in run.terms and first_layer(writer) < config.n_layers]
    chosen = list(range(N_POSITIONS)) if positions is None else positions
    trace = model.trace(torch.from_numpy(tokens)[None], None if positions is None else torch.tensor([positions]))
    through = tuple(f"L{layer}H0" for layer in range(config.n_layers) if layer != 2)
    for heads, names in ((None, None), ({layer: [0] for layer in range(config.n_layers) if layer != 2}, through)):
        fields = torch.from_numpy(np.stack([run.terms[writer] for writer in writers]))
        found: dict[tuple[str, str], np.ndarray] = {}
        for hop in propagate(model, trace, 0, fields, [first_layer(writer) for writer in writers], heads):
            parts = torch.einsum("nthe,hed->nhtd", hop.mixed, model.weights["W_O"][hop.layer, hop.heads])
            if hop.is_last:
                fields[hop.fields, chosen] += parts.sum(dim=1)
            for writer, of_writer in zip(writers[hop.fields], parts, strict=True):
                found |= {(writer, f"L{hop.layer}H{h}"): p.numpy() for h, p in zip(hop.heads, of_writer, strict=True)}
        for index, writer in enumerate(writers):
            lost = rerun_without(config, as_numpy(weights), run, writer, run.terms[writer], names)
            for head, expected in lost.heads.items():
                part = found.pop((writer, head), np.zeros((len(chosen), config.d_model)))
                np.testing.assert_allclose(part, expected[chosen], atol=1e-11, err_msg=f"{writer} {head}")
            np.testing.assert_allclose(fields[index, chosen].numpy(), lost.stream[chosen], atol=1e-11)
        assert not found
