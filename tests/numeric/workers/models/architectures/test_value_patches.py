"""What a head writes because it reads another, by hooks on transformers' own attention, beside the number of the scan.

Nothing of this project's forward stands on the literal side: outputs of heads, states and scales are what transformers'
modules are given and give; a writer's output is taken out of what the values of the reader's layer are made of, its norm's
scale kept, and the reader's output is compared with the clean one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from erasure_sweep.workers.models.forward import LeanModel
from tests.support.models.families import MODELS, files_of, float64_weights
from tests.support.models.transformers_models import in_float64
from tests.support.oracle.measuring import measure_tables

WRITER, READER = 0, 1
"""Layers."""


class Names(NamedTuple):
    """Where transformers keeps a block's parts."""

    block: str
    attention: str = "self_attn"
    out: str = "o_proj"
    in_front: str = "input_layernorm"
    behind: str = ""


NAMES = {
    "llama": Names("model.layers"),
    "llama, wide heads": Names("model.layers"),
    "llama, yarn": Names("model.layers"),
    "mistral": Names("model.layers"),
    "qwen 2": Names("model.layers"),
    "qwen 3": Names("model.layers"),
    "gemma": Names("model.layers"),
    "gemma 2": Names("model.layers", behind="post_attention_layernorm"),
    "gemma 3": Names("model.layers", behind="post_attention_layernorm"),
    "olmo": Names("model.layers"),
    "olmo 2": Names("model.layers", in_front="", behind="post_attention_layernorm"),
    "phi": Names("model.layers", out="dense"),
    "gpt-neo": Names("transformer.h", "attn.attention", "out_proj", "ln_1"),
    "gpt-j": Names("transformer.h", "attn", "out_proj", "ln_1"),
    "opt": Names("model.decoder.layers", out="out_proj", in_front="self_attn_layer_norm"),
}


class Hooked:
    """transformers' model in float64, and what passes through the modules of its blocks."""

    def __init__(self, model: Any, names: Names, n_heads: int) -> None:
        self.model, self.names, self.n_heads = model.double(), names, n_heads
        self.is_rms = any("RMS" in type(module).__name__ for module in model.modules())

    def part(self, layer: int, name: str) -> Any:
        return self.model.get_submodule(f"{self.names.block}.{layer}.{name}")

    def run(self, tokens: Tensor, taken: Tensor | None = None) -> dict[str, Tensor]:
        """Inputs of modules by layer and name, with something taken out of the values' input of the reader's layer."""
        found: dict[str, Tensor] = {}
        names = self.names
        parts = [names.attention + "." + names.out, *filter(None, (names.in_front, names.behind))]
        with ExitStack() as stack, in_float64(), torch.no_grad():
            for layer in (WRITER, READER):
                for part in parts:
                    keep = _keeps(found, f"{layer}.{part}")
                    stack.enter_context(_hook(self.part(layer, part), keep))
            if taken is not None:
                value = self.part(READER, f"{names.attention}.v_proj")
                stack.enter_context(_hook(value, lambda values: values - taken))
            self.model(tokens, use_cache=False)
        return found

    def outputs(self, found: dict[str, Tensor], clean: dict[str, Tensor], layer: int) -> Tensor:
        """What each head writes to the stream, [head, batch, pos, d_model], scales those of the clean run."""
        names = self.names
        z = found[f"{layer}.{names.attention}.{names.out}"].unflatten(-1, (self.n_heads, -1)) - self.constant(layer)
        w_o = self.part(layer, f"{names.attention}.{names.out}").weight.detach().T.unflatten(0, (self.n_heads, -1))
        written = torch.einsum("bphe,hed->hbpd", z, w_o)
        if names.behind:
            written = self.normed(self.part(layer, names.behind), written, clean[f"{layer}.{names.behind}"])
        return written if self.is_rms else written - written.mean(dim=-1, keepdim=True)

    def constant(self, layer: int) -> Tensor:
        """The value that every token has, [head, d_head]: it passes attention unchanged, so it is no head's reading."""
        value = self.part(layer, f"{self.names.attention}.v_proj")
        bias = getattr(self.part(layer, self.names.in_front), "bias", None) if self.names.in_front else None
        at_rest = value(torch.zeros(value.in_features, dtype=torch.float64) if bias is None else bias)
        of_heads = at_rest.view(
            -1, self.part(layer, f"{self.names.attention}.{self.names.out}").in_features // self.n_heads
        )
        return of_heads.repeat_interleave(self.n_heads // len(of_heads), dim=0).detach()

    def normed(self, norm: Any, vectors: Tensor, state: Tensor) -> Tensor:
        """What a norm makes of parts of a state, at the state's scale, its bias left out."""
        eps = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))
        if not self.is_rms:
            state = state - state.mean(dim=-1, keepdim=True)
            vectors = vectors - vectors.mean(dim=-1, keepdim=True)
        scale = torch.sqrt(state.square().mean(dim=-1, keepdim=True) + eps)
        gain = getattr(norm, "weight", None)
        if gain is None:
            return vectors / scale
        return vectors / scale * (gain + 1.0 if "Gemma" in type(norm).__name__ else gain)


def _keeps(found: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def keep(values: Tensor) -> None:
        found[name] = values

    return keep


@contextmanager
def _hook(module: Any, act: Callable[[Tensor], Tensor | None]) -> Any:
    """Show a module's input to ``act``, which may give another."""

    def before(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        other = act(inputs[0])
        return None if other is None else (other, *inputs[1:])

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", NAMES)
def test_the_scans_number_is_that_of_a_hook(kind: str, tmp_path: Path) -> None:
    source, model = files_of(tmp_path, kind)
    config, weights = float64_weights(MODELS[kind][0], source)
    tokens = torch.randint(config.d_vocab, (3, 17), generator=torch.Generator().manual_seed(3))
    table = measure_tables(LeanModel(config, weights, dtype=torch.float64), tokens.numpy())["v_composition"]
    beta = table.set_index(["writer", "eraser"])["beta"]

    hooked = Hooked(model, NAMES[kind], config.n_heads)
    clean = hooked.run(tokens)
    written = hooked.outputs(clean, clean, WRITER)
    before = hooked.outputs(clean, clean, READER)
    found = {}
    for writer, output in enumerate(written):
        taken = output
        if hooked.names.in_front:
            state = clean[f"{READER}.{hooked.names.in_front}"]
            taken = hooked.normed(hooked.part(READER, hooked.names.in_front), output, state)
        change = before - hooked.outputs(hooked.run(tokens, taken), clean, READER)
        products = (change * output).sum(dim=(1, 2, 3)) / output.square().sum()
        found |= {(f"L{WRITER}H{writer}", f"L{READER}H{reader}"): float(of) for reader, of in enumerate(products)}
    assert len(found) == config.n_heads**2
    assert max(map(abs, found.values())) > 1e-3
    np.testing.assert_allclose([beta[pair] for pair in found], list(found.values()), rtol=1e-8, atol=1e-8)
