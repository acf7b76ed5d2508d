"""What a group of heads writes because something is in its value input: V-composed parts of any vectors.

With pattern and scale at their clean values, head e writes at token p, because of a field of vectors x, one per position,

    u_e[p] = Σ_j A_e[p, j] (centred δ[j] / scale[j]) W_V^e W_O^e,   δ = x + Σ u_e' of the group's heads e' in earlier layers.

Heads of one layer all read x alone. Behind them the group reads what they left of it: three heads in a row that each take out
all that they read take out x once, not three times. Products of u with vectors of the stream go through W_O first, so nothing
here is wider than d_head but the fields and δ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.measures.cost import ShardSize
from erasure_sweep.workers.measures.interventions.attention_paths import propagate
from erasure_sweep.workers.measures.interventions.prompt_view import PromptView
from erasure_sweep.workers.measures.interventions.rerun import Sublayer
from erasure_sweep.workers.measures.scan.composition import head_of
from erasure_sweep.workers.records import Target

GroupHeads = Sequence[str]
"""Labels of some later heads."""
Products = Float[Tensor, "field head token"]
MOST_TOGETHER = 2**25
"""Numbers that the values of one product may be: 128 MB of float32."""


class _Layer(NamedTuple):
    """The group's heads of one layer."""

    layer: int
    heads: list[int]


class GroupReader:
    """A group of heads at one prompt."""

    def __init__(self, view: PromptView, target: Target) -> None:
        self.view, self.model = view, view.model
        by_layer: dict[int, list[int]] = {}
        for label in target.erasers:
            by_layer.setdefault(layer_of(label), []).append(head_of(label))
        self.layers = [_Layer(layer, heads) for layer, heads in sorted(by_layer.items())]

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
        for layer, heads in self.layers:
            stream = self.view.input_of(Sublayer(layer, False))
            difference = self.model.read(stream) - self.model.read(stream - self.view.source(label))
            values = torch.einsum("npd,dhe->nhpe", difference[None], self.model.w_v(layer)[:, heads])
            found.append(self.view.patterns(layer, heads, self.view.positions) @ values)
        return found

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
            w_o = self.model.w_o(part.layer)[part.heads]
            products.append((mixed * torch.einsum("ntd,hed->nhte", vectors, w_o)).sum(dim=-1))
        return torch.cat(products, dim=1)

    def same_position(
        self, vectors: Float[Tensor, "token d_model"], direction: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "token"]:
        """Product with ``direction`` of what the group's OV circuits make of vectors, no attention between positions."""
        total = direction.new_zeros(len(direction))
        for part in self.layers:
            trace, at = self.view.trace, (part.layer, self.view.index, self.view.positions, None)
            scale = trace.ln1_scale[at] if trace.write_scale is None else trace.ln1_scale[at] * trace.write_scale[at]
            w_v, w_o = self.model.w_v(part.layer)[:, part.heads], self.model.w_o(part.layer)[part.heads]
            values = torch.einsum("td,dhe->the", vectors / scale, w_v)
            total += (values * torch.einsum("td,hed->the", direction, w_o)).sum(dim=(1, 2))
        return total


class LayerReading(NamedTuple):
    """What heads of one layer do to the fields that they read."""

    fields: list[int]
    clean: Float[Tensor, "field token"]
    """Products of the heads' clean outputs with each field, those that read it added up."""
    read: Float[Tensor, "field token"]
    """The same of what they write because the field is in their value input."""


def read_by_groups(
    view: PromptView, fields: Float[Tensor, "field pos d_model"], groups: Sequence[GroupHeads]
) -> Iterator[LayerReading]:
    """What the heads of each field's own group write along that field, layer by layer.

    A head mixes all fields that it reads in one product. Heads go through it one by one, but all together where many of them
    read many of the fields, as those of broad erasers do.
    """
    model, at, trace = view.model, view.positions, view.trace
    readers: dict[int, dict[str, list[int]]] = {}
    for field, group in enumerate(groups):
        for head in group:
            readers.setdefault(layer_of(head), {}).setdefault(head, []).append(field)
    own, left, last = fields[:, at], fields, max(readers, default=-1)
    for layer in sorted(readers):
        names = list(readers[layer])
        numbers = [head_of(name) for name in names]
        # Behind the last layer nothing reads what is written elsewhere.
        patterns = view.patterns(layer, numbers, at if layer == last else None)
        seen = left / trace.ln1_scale[layer, view.index, :, None]
        written = torch.zeros_like(left) if layer != last else None
        for heads, rows, shares in _together(list(readers[layer].values()), left.shape[1] * model.config.d_head):
            index, reads = [numbers[head] for head in heads], left.new_tensor(shares)
            w_o = model.w_o(layer)[index]
            values = torch.einsum("npd,dhe->hpne", seen[rows], model.w_v(layer)[:, index])
            mixed = (patterns[heads] @ values.flatten(2)).view(len(heads), -1, *values.shape[2:]).transpose(1, 2)
            mixed = mixed * reads[:, :, None, None]
            along = torch.einsum("ntd,hed->hnte", own[rows], w_o)
            clean = (trace.z[layer, view.index, at][:, index].transpose(0, 1)[:, None] * along).sum(dim=-1)
            measured = mixed if written is None else mixed[:, :, at]
            yield LayerReading(rows, (clean * reads[:, :, None]).sum(dim=0), (measured * along).sum(dim=-1).sum(dim=0))
            if written is not None:
                written[rows] += torch.einsum("hnpe,hed->npd", mixed, w_o)
        left = left if written is None else left + written


class _Product(NamedTuple):
    """Heads of a layer that go through one product, the fields that it holds, and 1 where a head reads a field, else 0."""

    heads: list[int]
    fields: list[int]
    reads: list[list[float]]


def _together(readers: Sequence[list[int]], n_values: int) -> Iterator[_Product]:
    """All heads of a layer, or each with its own fields.

    Args:
        readers: the fields that each head reads.
        n_values: numbers that one head makes of one field.
    """
    fields = sorted({field for own in readers for field in own})
    n_together = len(readers) * len(fields)
    if 3 * sum(map(len, readers)) >= n_together and n_together * n_values <= MOST_TOGETHER:
        reads = [[float(field in own) for field in fields] for own in map(set, readers)]
        yield _Product(list(range(len(readers))), fields, reads)
    else:
        yield from (_Product([head], own, [[1.0] * len(own)]) for head, own in enumerate(readers))


def head_reading_flops(size: ShardSize) -> float:
    """Of one head that reads one field at one prompt, in ``read_by_groups``."""
    d_model, d_head = size.shape["d_model"], size.shape["d_head"]
    return float(2 * d_head * size.seq_len * (2 * d_model + size.seq_len))
