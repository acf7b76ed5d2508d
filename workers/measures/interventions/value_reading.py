"""What a group of heads writes because something is in its value input: V-composed parts of any vectors.

With pattern and scale at their clean values, head e writes at token p, because of a field of vectors x, one per position,

    u_e[p] = Σ_j A_e[p, j] (centred δ[j] / scale[j]) W_V^e W_O^e,   δ = x + Σ u_e' of the group's heads e' in earlier layers.

Heads of one layer all read x alone. Behind them the group reads what they left of it: three heads in a row that each take out
all that they read take out x once, not three times. Products of u with vectors of the stream go through W_O first, so nothing
here is wider than d_head but the fields and δ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.interventions.attention_paths import propagate
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import Sublayer
from erasure_sweep.workers.measures.scan.composition import attention_pattern, head_of
from erasure_sweep.workers.records import Target

Products = Float[Tensor, "field head token"]


class _Layer(NamedTuple):
    """The group's heads of one layer."""

    layer: int
    heads: list[int]
    pattern: Float[Tensor, "head token source"]


class GroupReader:
    """A group of heads at one prompt."""

    def __init__(self, view: PromptView, target: Target) -> None:
        self.view, self.model = view, view.model
        by_layer: dict[int, list[int]] = {}
        for label in target.erasers:
            by_layer.setdefault(layer_of(label), []).append(head_of(label))
        self.layers = [_Layer(layer, heads, self._pattern(layer, heads)) for layer, heads in sorted(by_layer.items())]

    def _pattern(self, layer: int, heads: list[int]) -> Float[Tensor, "head token source"]:
        trace, index = self.view.trace, self.view.index
        query, key = trace.q[layer, index, self.view.positions][:, heads], trace.k[layer, index][:, heads]
        return attention_pattern(query, key, self.view.positions, self.model.config.attn_scale)

    def read(self, fields: Float[Tensor, "field pos d_model"]) -> list[Float[Tensor, "field _ token d_head"]]:
        """V-composed parts of some fields, layer by layer, before W_O."""
        heads = {part.layer: part.heads for part in self.layers}
        parts: dict[int, list[Tensor]] = {layer: [] for layer in heads}
        for hop in propagate(self.model, self.view.trace, self.view.index, fields.clone(), [0] * len(fields), heads):
            parts[hop.layer].append(hop.mixed.transpose(1, 2))
        return [torch.cat(of_layer) for of_layer in parts.values()]

    def read_rescaled(self, label: str) -> list[Float[Tensor, "field _ token d_head"]]:
        """The part of a writer if the value input is LN(stream − writer), its scale recomputed."""
        found = []
        for part in self.layers:
            stream = self.view.input_of(Sublayer(part.layer, False))
            difference = self.model.normalize(stream) - self.model.normalize(stream - self.view.source(label))
            found.append(self._mix(part, difference[None]))
        return found

    def _mix(
        self, part: _Layer, inputs: Float[Tensor, "field pos d_model"]
    ) -> Float[Tensor, "field head token d_head"]:
        values = torch.einsum("npd,dhe->nhpe", inputs, self.model.w_v(part.layer)[:, part.heads])
        return part.pattern @ values

    def outputs(self) -> list[Float[Tensor, "field _ token d_head"]]:
        """The heads' clean outputs, before W_O."""
        z, index = self.view.trace.z, self.view.index
        return [z[part.layer, index, self.view.positions][:, part.heads].transpose(0, 1)[None] for part in self.layers]

    def along(
        self, parts: list[Float[Tensor, "part _ token d_head"]], vectors: Float[Tensor, "field token d_model"]
    ) -> Products:
        """Products of parts, one for each vector or one for all, with vectors of the stream; heads in the group's order."""
        products = []
        for part, mixed in zip(self.layers, parts, strict=True):
            w_o = self.model.weights["W_O"][part.layer, part.heads]
            products.append((mixed * torch.einsum("ntd,hed->nhte", vectors, w_o)).sum(dim=-1))
        return torch.cat(products, dim=1)

    def same_position(
        self, vectors: Float[Tensor, "token d_model"], direction: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token"]:
        """Product with ``direction`` of what the group's OV circuits make of vectors, no attention between positions."""
        total = direction.new_zeros(len(direction))
        for part in self.layers:
            scale = self.view.trace.ln1_scale[part.layer, self.view.index, self.view.positions, None]
            w_v, w_o = self.model.w_v(part.layer)[:, part.heads], self.model.weights["W_O"][part.layer, part.heads]
            values = torch.einsum("td,dhe->the", vectors / scale, w_v)
            total += (values * torch.einsum("td,hed->the", direction, w_o)).sum(dim=(1, 2))
        return total
