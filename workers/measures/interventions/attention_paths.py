"""Fields of vectors, one vector per position, carried through all later attention of a prompt.

With patterns, scales and MLPs at their clean values (MLPs pass nothing on), what becomes of a field x is

    δ ← x;    for every layer behind it:    δ ← δ + Σ_h A_h (centred δ / scale) W_V^h W_O^h.

Each layer reads what those before it left, so that whatever is taken out once is not taken out again: sums of direct paths
count erasers in series as often as there are layers. All fields of a layer are one batch; scales go into the patterns, and
the half of causal patterns that is zeros is skipped a chunk of query tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.measures.scan.composition import written_pattern
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace

CHUNK_VALUES = 8 * 2**20
"""Bound on the values of the fields that go through a layer at once: beyond a CPU's caches nothing is gained by more."""

PATTERN_BYTES = 256 * 2**20
"""Bound on the patterns of a layer that are kept while its fields go through; beyond it they are computed for each chunk."""


class Hop(NamedTuple):
    """What the heads of one layer write because they read some of the fields."""

    layer: int
    heads: list[int]
    fields: slice
    """Which of the fields."""
    mixed: Float[Tensor, "field token head d_head"]
    """At the measured positions, before W_O."""
    is_last: bool
    """Whether no head reads the fields behind this layer: what is written here is then not added to them."""


def propagate(
    model: LeanModel,
    trace: Trace,
    prompt: int,
    fields: Float[Tensor, "field pos d_model"],
    first_layers: Sequence[int],
    heads: Mapping[int, Sequence[int]] | None = None,
) -> Iterator[Hop]:
    """Carry fields through all later layers, in place.

    In the end they hold δ before the last layer, to which that layer's hops are the rest. A hop is to be used before the next
    one is asked for.

    Args:
        prompt: index in the trace.
        fields: contiguous.
        first_layers: the first layer that reads each field, ascending.
        heads: the heads of each layer that read; all of all layers where ``None``.
    """
    config, positions = model.config, trace.positions[prompt]
    reading = {layer: range(config.n_heads) for layer in range(config.n_layers)} if heads is None else heads
    size = max(1, CHUNK_VALUES // (fields.shape[1] * config.d_model))
    for layer in sorted(reading):
        n_fields = sum(first <= layer for first in first_layers)
        if n_fields == 0 or not reading[layer]:
            continue
        is_last = layer == max(reading)
        attention = _Attention(model, trace, prompt, layer, list(reading[layer]), positions if is_last else None)
        for start in range(0, n_fields, size):
            chunk = slice(start, min(start + size, n_fields))
            mixed = attention.mix(fields[chunk])
            yield Hop(layer, attention.heads, chunk, mixed if is_last else mixed[:, positions], is_last)
            if not is_last:
                rest = fields[chunk].flatten(0, 1)
                rest.addmm_(mixed.flatten(0, 1).flatten(1), attention.w_o)


class _Attention:
    """Some heads of one layer at one prompt.

    Args:
        positions: the query tokens; all where ``None``.
    """

    def __init__(
        self,
        model: LeanModel,
        trace: Trace,
        prompt: int,
        layer: int,
        heads: list[int],
        positions: Int[Tensor, "token"] | None,
    ) -> None:
        self.heads = heads
        self._of_all = None if len(heads) == model.config.n_heads else heads
        w_v, w_o = model.w_v(layer), model.w_o(layer)
        if self._of_all is not None:
            w_v, w_o = w_v[:, heads], w_o[heads]
        self._w_v, self.w_o = w_v.flatten(1), w_o.flatten(0, 1)
        self._model, self._trace, self._prompt, self._layer = model, trace, prompt, layer
        self._scale = trace.ln1_scale[layer, prompt]
        self._positions = torch.arange(len(self._scale), device=model.device) if positions is None else positions
        n_tokens = len(self._positions)
        size = max(32, -(-n_tokens // 16))
        self._chunks = [slice(start, min(start + size, n_tokens)) for start in range(0, n_tokens, size)]
        is_kept = len(heads) * n_tokens * len(self._scale) * w_o.element_size() <= PATTERN_BYTES
        self._kept = [self._pattern(chunk) for chunk in self._chunks] if is_kept else None

    def _pattern(self, chunk: slice) -> Float[Tensor, "head token key"]:
        """Attention weights of some query tokens, over the scale of what they read."""
        positions = self._positions[chunk]
        limit = int(positions[-1]) + 1
        pattern = written_pattern(self._model, self._trace, self._prompt, self._layer, positions, limit, self._of_all)
        return pattern.div_(self._scale[:limit])

    def mix(self, fields: Float[Tensor, "field pos d_model"]) -> Float[Tensor, "field token head d_head"]:
        """The values that the heads mix, before W_O, at the query tokens."""
        n_fields, n_positions, n_heads = *fields.shape[:2], len(self.heads)
        values = (fields.flatten(0, 1) @ self._w_v).view(n_fields, n_positions, n_heads, -1)
        values = values.permute(2, 1, 0, 3).flatten(2)
        mixed = fields.new_empty(n_fields, len(self._positions), n_heads, values.shape[-1] // n_fields)
        for index, chunk in enumerate(self._chunks):
            pattern = self._pattern(chunk) if self._kept is None else self._kept[index]
            part = torch.bmm(pattern, values[:, : pattern.shape[-1]])
            mixed[:, chunk] = part.view(n_heads, -1, n_fields, mixed.shape[-1]).permute(2, 1, 0, 3)
        return mixed
