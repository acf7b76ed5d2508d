"""What a head writes because it reads another, by hooks on transformers' own attention, beside the number of the scan.

A writer's output is taken out of what the values of the reader's layer are made of, its norm's scale kept, and the reader's
output is compared with the clean one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from erasure_sweep.workers.models.forward import LeanModel
from tests.support.models.families import MODELS, files_of, float64_weights
from tests.support.models.hooked import Hooked, Names
from tests.support.oracle.measuring import measure_tables

WRITER, READER = 0, 1
"""Layers."""
NAMES = {
    "llama": Names(),
    "llama, wide heads": Names(),
    "llama, yarn": Names(),
    "mistral": Names(),
    "qwen 2": Names(),
    "qwen 3": Names(),
    "mixtral": Names(),
    "gemma": Names(),
    "gemma 2": Names(behind="post_attention_layernorm"),
    "gemma 3": Names(behind="post_attention_layernorm"),
    "olmo": Names(),
    "olmo 2": Names(in_front="", behind="post_attention_layernorm"),
    "phi": Names(out="dense"),
    "gpt-neo": Names("transformer.h", "attn.attention", "out_proj", "ln_1"),
    "gpt-j": Names("transformer.h", "attn", "out_proj", "ln_1"),
    "opt": Names("model.decoder.layers", out="out_proj", in_front="self_attn_layer_norm"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_scans_number_is_that_of_a_hook(kind: str, tmp_path: Path) -> None:
    source, model = files_of(tmp_path, kind)
    config, weights = float64_weights(MODELS[kind][0], source)
    tokens = torch.randint(config.d_vocab, (3, 17), generator=torch.Generator().manual_seed(3))
    table = measure_tables(LeanModel(config, weights, dtype=torch.float64), tokens.numpy())["v_composition"]
    beta = table.set_index(["writer", "eraser"])["beta"]

    hooked = Hooked(model, NAMES[kind])
    clean = hooked.run(tokens, (WRITER, READER))
    before = hooked.outputs(clean, clean, READER)
    found = {}
    for writer, output in enumerate(hooked.outputs(clean, clean, WRITER)):
        patched = hooked.run(tokens, (READER,), taken=(READER, hooked.read(READER, output, clean)))
        change = before - hooked.outputs(patched, clean, READER)
        products = (change * output).sum(dim=(1, 2, 3)) / output.square().sum()
        found |= {(f"L{WRITER}H{writer}", f"L{READER}H{reader}"): float(of) for reader, of in enumerate(products)}
    assert len(found) == config.n_heads**2
    assert max(map(abs, found.values())) > 1e-3
    np.testing.assert_allclose([beta[pair] for pair in found], list(found.values()), rtol=1e-8, atol=1e-8)
