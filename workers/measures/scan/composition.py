"""V-composition: what later heads write because a writer's output is in their value input.

With pattern and LayerNorm scale frozen at their clean values, head e writes at token p, because of w,

    u[p] = Σ_j A_e[p, j] (o_w[j] / scale[j]) W_V^e W_O^e,

the difference between its clean output and the one with o_w subtracted from its value input (Janiak et al. 2024, section
2.3; the authors' code keeps the clean scale). For a head w, o_w = z_w W_O^w, so values are mixed as z_w, the writers of a
layer side by side in one product, and everything after the mixing goes through matrices of size d_head × d_head:

    u·o_w[p] = mixed[p] K z_w[p],   K = W_O^w W_V^e W_O^e (W_O^w)ᵀ        u·g = mixed[p] C (W_O^e g),   C = W_O^w W_V^e

MLPs and embeddings are mixed as values, o_w W_V^e. With ``ln="recompute"`` the value input is LN(resid − o_w) with its own
scale: the difference of normalized inputs is mixed, for every writer.

The source is the writer's output from position 1 on, unless a sweep wants it whole. What e writes at later positions because
of the writer's output at position 0 is a column of the pattern times one vector, so that its product with the writer needs
one more sum over tokens alone. Both add up to the part of the whole output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from erasure_sweep.workers.errors import UsageError, nearest
from erasure_sweep.workers.labels import Layout, layer_of
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.records import Group, ScanOptions, WriterBlock

CHUNK_VALUES = 2 * 2**20
"""Bound on the attention weights and on the mixed values of a chunk of query tokens: they should stay in the caches."""

COMPOSITION_BYTES = 2**30
"""Bound on the composition matrices that are kept with a model."""


class PairRows:
    """Rows of the pairs (writer, later head), flat: for each writer, layer by layer, the heads and ``attn{l}``, then
    ``later``, then the groups of heads that are named for it.

    Args:
        layout: of the model.
        writers: the block.
        groups: named groups of later heads.
    """

    def __init__(self, layout: Layout, writers: WriterBlock, groups: Sequence[Group] = ()) -> None:
        self.labels = writers.labels(layout)
        self.n_layers, self.n_heads = layout.n_layers, layout.n_heads
        self.first_layer = [layer_of(label) + 1 for label in self.labels]
        self.groups: list[list[Group]] = [[] for _ in self.labels]
        for group in groups:
            if group.writer in self.labels:
                self.groups[self.labels.index(group.writer)].append(group)
        sizes = (rows_of_writer(layout, label, own) for label, own in zip(self.labels, self.groups, strict=True))
        self.start = [0, *accumulate(sizes)]

    def __len__(self) -> int:
        return self.start[-1]

    def of(self, writer: int) -> slice:
        """All rows of a writer, by its index in the block; empty for writers of the last layer."""
        return slice(self.start[writer], self.start[writer + 1])

    def layer(self, writer: int, layer: int) -> slice:
        """The heads of a later layer; ``attn{l}`` is the row behind them."""
        start = self.start[writer] + (layer - self.first_layer[writer]) * (self.n_heads + 1)
        return slice(start, start + self.n_heads)

    def later(self, writer: int) -> int:
        """The row of all later heads together."""
        return self.start[writer + 1] - 1 - len(self.groups[writer])

    def head(self, writer: int, label: str) -> int:
        """The row of one later head."""
        return int(self.layer(writer, layer_of(label)).start) + head_of(label)

    def sum_heads(self, values: Tensor | np.ndarray) -> None:
        """Fill the rows of ``attn{l}``, ``later`` and groups with the sums of their heads, in place."""
        for writer, first in enumerate(self.first_layer):
            if first == self.n_layers:
                continue
            later = self.later(writer)
            layers = values[self.start[writer] : later].reshape(-1, self.n_heads + 1, *values.shape[1:])
            layers[:, -1] = sums = layers[:, :-1].sum(1)
            values[later] = sums.sum(0)
            for index, group in enumerate(self.groups[writer]):
                members = [self.head(writer, label) for label in group.erasers]
                values[later + 1 + index] = values[members].sum(0)

    @cached_property
    def writer(self) -> Int[np.ndarray, "row"]:
        """Index in the block of each row's writer."""
        return np.repeat(np.arange(len(self.labels)), np.diff(self.start))

    @cached_property
    def writers(self) -> Shaped[np.ndarray, "row"]:
        """Label of each row's writer."""
        labels: Shaped[np.ndarray, "row"] = np.array(self.labels, dtype=object)[self.writer]
        return labels

    @cached_property
    def erasers(self) -> Shaped[np.ndarray, "row"]:
        """Label of each row's eraser."""
        of_layers = np.array(
            [(*(f"L{layer}H{head}" for head in range(self.n_heads)), f"attn{layer}") for layer in range(self.n_layers)],
            dtype=object,
        )
        labels = np.empty(len(self), dtype=object)
        for writer, first in enumerate(self.first_layer):
            if first < self.n_layers:
                rows, later = self.of(writer), self.later(writer)
                labels[rows.start : later] = of_layers[first:].ravel()
                labels[later : rows.stop] = ["later", *(group.label for group in self.groups[writer])]
        return labels

    @cached_property
    def single_heads(self) -> Bool[np.ndarray, "row"]:
        """Which rows are single heads, each head once: a named group of one is no further head."""
        single = np.zeros(len(self), dtype=bool)
        of_layer = np.arange(self.n_heads + 1) < self.n_heads
        for writer, first in enumerate(self.first_layer):
            if first < self.n_layers:
                single[self.start[writer] : self.later(writer)] = np.tile(of_layer, self.n_layers - first)
        return single


def rows_of_writer(layout: Layout, label: str, groups: Sequence[Group] = ()) -> int:
    """How many rows a writer has."""
    layers = layout.n_layers - layer_of(label) - 1
    return layers * (layout.n_heads + 1) + 1 + sum(g.writer == label for g in groups) if layers else 0


def check_groups(layout: Layout, groups: Sequence[Group], writers: Sequence[str] = ()) -> None:
    """See that every group names a writer of the model and heads of later layers, and that later heads read ``writers``.

    Raises:
        UsageError: it does not.
    """
    for writer in (*writers, *(group.writer for group in groups)):
        if writer not in layout.writers:
            raise UsageError(f"--writer {writer}: no such writer: {nearest(writer, layout.writers)}")
        if layer_of(writer) >= layout.n_layers - 1:
            raise UsageError(f"--writer {writer}: no later head can read it: name a writer of an earlier layer")
    for group in groups:
        for label in group.erasers:
            if label not in layout.heads:
                raise UsageError(f"--erasers {label}: no such head: {nearest(label, layout.heads)}")
            if layer_of(label) <= layer_of(group.writer):
                raise UsageError(f"--erasers {label}: a head of layer {layer_of(label)} cannot read {group.writer}")


class PromptParts(NamedTuple):
    """V-composed parts of one prompt, at its measured tokens; rows as in ``PairRows``."""

    along_writer: Float[Tensor, "row token"]
    """u·o_w."""
    dla: Float[Tensor, "row token"]
    """Direct logit attribution of u."""
    product: Float[Tensor, "row"]
    """Σ u·(o_w − reference), float64; heads alone."""
    mixed: Float[Tensor, "row d_head"]
    """Σ of the values that heads mix, before W_O, float64; heads alone."""
    from_first: Float[Tensor, "row"]
    """Σ u⁰·o_w over tokens, float64, with u⁰ what is written because of the writer's output before the source; heads alone."""


class Composer:
    """Computes the V-composed parts of a block of writers, prompt by prompt.

    Args:
        model: on its device.
        writers: the block.
        options: LayerNorm scale and named groups.
    """

    def __init__(self, model: LeanModel, writers: WriterBlock, options: ScanOptions) -> None:
        self.model = model
        self.rows = PairRows(model.config.layout, writers, options.groups)
        self.recompute = options.ln == "recompute"
        self._references: dict[str, Tensor] = {}
        self._direct: list[int] = []
        """Writers that are read through their whole vectors."""
        self._heads: dict[int, list[int]] = {}
        """Heads that are read through their z, by layer."""
        for index, label in enumerate(self.rows.labels):
            if self.recompute or not label.startswith("L"):
                self._direct.append(index)
            else:
                self._heads.setdefault(layer_of(label), []).append(index)

    def reference(self, label: str, own: Float[Tensor, "token own"]) -> Float[Tensor, "own"]:
        """What is taken from a writer's output in ``product`` to keep rounding small: its mean over the first prompt.

        Args:
            own: the writer's output in the coordinates it is read in: z for a head that is read through its z, else o_w.
        """
        if label not in self._references:
            self._references[label] = own.mean(dim=0)
        return self._references[label]

    def reference_vectors(self) -> Float[Tensor, "writer d_model"]:
        """The references as vectors of the stream; zero for writers that nothing later reads."""
        vectors = self.model.w_o(0).new_zeros(len(self.rows.labels), self.model.config.d_model)
        for index, label in enumerate(self.rows.labels):
            if label in self._references:
                own = self._references[label]
                through_z = label.startswith("L") and not self.recompute
                vectors[index] = own @ head_output(self.model, label) if through_z else own
        return vectors

    def parts(self, trace: Trace, prompt: int, first: int = 1) -> PromptParts:
        """Parts of one prompt.

        Args:
            first: the first position at which a writer's output is the source: 0 or 1.
        """
        config, n_tokens = self.model.config, trace.positions.shape[1]
        zeros = trace.embed.new_zeros
        parts = PromptParts(
            zeros(len(self.rows), n_tokens),
            zeros(len(self.rows), n_tokens),
            zeros(len(self.rows), dtype=torch.float64),
            zeros(len(self.rows), config.d_head, dtype=torch.float64),
            zeros(len(self.rows), dtype=torch.float64),
        )
        for layer in range(config.n_layers):
            self._read_layer(trace, prompt, layer, first, parts)
        self.rows.sum_heads(parts.along_writer)
        self.rows.sum_heads(parts.dla)
        return parts

    def _read_layer(self, trace: Trace, prompt: int, layer: int, first: int, parts: PromptParts) -> None:
        """Add what the heads of one layer read from every earlier writer."""
        groups = self._groups(trace, prompt, layer)
        from_first = [group.take_first() for group in groups] if first else [None] * len(groups)
        positions = trace.positions[prompt]
        direction = torch.einsum("td,hed->hte", trace.logit_direction[prompt], self.model.w_o(layer))
        for tokens, limit in (
            query_chunks(positions, self.model.config.n_heads * max(g.width for g in groups)) if groups else []
        ):
            pattern = written_pattern(self.model, trace, prompt, layer, positions[tokens], limit)
            for group, left_out in zip(groups, from_first, strict=True):
                read, mixed = group.mix(pattern, limit)
                target = group.target[:, :, tokens]
                along, dla = _dot(read, target), _dot(mixed, direction[:, tokens])
                centred = (read * (target - group.reference)).sum(dim=(2, 3))
                sums = mixed.sum(dim=2)
                starts = torch.tensor([self.rows.layer(writer, layer).start for writer in group.writers])
                rows = (starts[:, None] + torch.arange(self.model.config.n_heads)).to(along.device)
                parts.along_writer[:, tokens][rows], parts.dla[:, tokens][rows] = along, dla
                if left_out is not None:
                    parts.from_first[rows] += (left_out * group.gather(pattern[:, :, 0], tokens)).sum(dim=-1)
                parts.product[rows] += centred
                parts.mixed[rows] += sums

    def _groups(self, trace: Trace, prompt: int, layer: int) -> list[_Group]:
        """The writers that a layer can read, grouped by how they are read."""
        direct = [index for index in self._direct if self.rows.first_layer[index] <= layer]
        groups: list[_Group] = [_DirectGroup(self, trace, prompt, layer, direct)] if direct else []
        sources = [heads for source, heads in self._heads.items() if source < layer]
        return groups + [_HeadGroup(self, trace, prompt, layer, heads) for heads in sources]


class _HeadGroup:
    """Heads of one earlier layer as writers, read through the d_head × d_head forms."""

    def __init__(self, composer: Composer, trace: Trace, prompt: int, layer: int, writers: list[int]) -> None:
        labels = tuple(composer.rows.labels[i] for i in writers)
        source, first = layer_of(labels[0]), head_of(labels[0])
        heads = slice(first, first + len(writers))
        z = trace.z[source, prompt, :, heads]
        self.writers = writers
        self.width = z.shape[1] * z.shape[2]
        self.values = (z / trace.ln1_scale[layer, prompt, :, None, None]).flatten(1)
        self.target = z[trace.positions[prompt]].transpose(0, 1).unsqueeze(1)
        own = self.target.squeeze(1)
        references = [composer.reference(label, own[i]) for i, label in enumerate(labels)]
        self.reference = torch.stack(references)[:, None, None]
        self.k_c = composition(composer.model, source, layer)[heads]

    def take_first(self) -> Float[Tensor, "writer head d_head"]:
        """Leave position 0 out of what is mixed; returns what each head would write because of it, as ``mix`` does."""
        before = self.values[0].view(len(self.writers), -1).clone()
        self.values[0] = 0.0
        return torch.einsum("wa,whab->whb", before, self.k_c[..., : before.shape[1]])

    def gather(self, weight: Float[Tensor, "head token"], tokens: slice) -> Float[Tensor, "writer head d_head"]:
        """The writers' own outputs, in the coordinates of ``target``, summed with each head's weights."""
        return weight @ self.target[:, 0, tokens]

    def mix(self, pattern: Float[Tensor, "head token key"], limit: int) -> tuple[Tensor, Tensor]:
        n_heads, n_tokens, _ = pattern.shape
        mixed = (pattern.flatten(0, 1) @ self.values[:limit]).view(n_heads, n_tokens, len(self.writers), -1)
        both = mixed.new_empty(len(self.writers), n_heads, n_tokens, self.k_c.shape[-1])
        for index, k_c in enumerate(self.k_c):  # a product for each writer needs no copy of what is mixed
            torch.bmm(mixed[:, :, index], k_c, out=both[index])
        read, values = both.chunk(2, dim=-1)
        return read, values


class _DirectGroup:
    """Writers of any kind, read through their whole vectors."""

    def __init__(self, composer: Composer, trace: Trace, prompt: int, layer: int, writers: list[int]) -> None:
        model = composer.model
        labels = tuple(composer.rows.labels[i] for i in writers)
        outputs = torch.stack([output(model, trace, prompt, label) for label in labels])
        inputs = self._value_inputs(composer, trace, prompt, layer, outputs)
        values = torch.einsum("ntd,dhe->hnte", inputs, model.w_v(layer))
        self.writers = writers
        self.width = len(writers) * model.config.d_head
        self.values = values.permute(0, 2, 1, 3).flatten(2)
        w_o = model.w_o(layer)
        own = outputs[:, trace.positions[prompt]]
        self.target = torch.einsum("ntd,hed->nhte", own, w_o)
        references = torch.stack([composer.reference(label, own[i]) for i, label in enumerate(labels)])
        self.reference = torch.einsum("nd,hed->nhe", references, w_o).unsqueeze(2)

    def take_first(self) -> Float[Tensor, "writer head d_head"]:
        """As of ``_HeadGroup``."""
        before = self.values[:, 0].view(len(self.values), len(self.writers), -1).transpose(0, 1).clone()
        self.values[:, 0] = 0.0
        return before

    def gather(self, weight: Float[Tensor, "head token"], tokens: slice) -> Float[Tensor, "writer head d_head"]:
        """As of ``_HeadGroup``."""
        return torch.einsum("ht,nhte->nhe", weight, self.target[:, :, tokens])

    @staticmethod
    def _value_inputs(
        composer: Composer, trace: Trace, prompt: int, layer: int, outputs: Float[Tensor, "writer pos d_model"]
    ) -> Float[Tensor, "writer pos d_model"]:
        """What of the normalized input is there because of each writer."""
        if not composer.recompute:
            return outputs / trace.ln1_scale[layer, prompt, :, None]
        assert trace.resid_pre is not None
        resid = trace.resid_pre[layer, prompt]
        return composer.model.read(resid) - composer.model.read(resid - outputs)

    def mix(self, pattern: Float[Tensor, "head token key"], limit: int) -> tuple[Tensor, Tensor]:
        mixed = torch.bmm(pattern, self.values[:, :limit])
        mixed = mixed.view(*mixed.shape[:2], len(self.writers), -1).permute(2, 0, 1, 3)
        return mixed, mixed


_Group = _HeadGroup | _DirectGroup


def written_pattern(
    model: LeanModel,
    trace: Trace,
    prompt: int,
    layer: int,
    positions: Int[Tensor, "token"],
    n_keys: int | None = None,
    heads: Sequence[int] | None = None,
) -> Float[Tensor, "head token key"]:
    """With which weights heads write at query tokens what is read at keys: attention, over the scale of a norm behind it.

    Args:
        positions: of the query tokens.
        n_keys: how many keys from position 0 on; all where ``None``.
        heads: which; all where ``None``.
    """
    query, key = trace.q[layer, prompt, positions], trace.k[layer, prompt, :n_keys]
    if heads is not None:
        query, key = query[:, list(heads)], key[:, list(heads)]
    pattern = model.pattern(layer, query, key, positions, heads)
    return pattern if trace.write_scale is None else pattern / trace.write_scale[layer, prompt, positions, None]


def output(model: LeanModel, trace: Trace, prompt: int, label: str) -> Float[Tensor, "pos d_model"]:
    """A writer's output at every position of a prompt."""
    if label in ("embed", "pos_embed"):
        embedding = trace.embed if label == "embed" else trace.pos_embed
        assert embedding is not None, "a model without position vectors has no such writer"
        return embedding[prompt]
    layer = layer_of(label)
    if label.startswith("MLP"):
        return trace.mlp_out[layer, prompt]
    return trace.z[layer, prompt, :, head_of(label)] @ head_output(model, label)


def head_of(label: str) -> int:
    """Index of a head in its layer."""
    return int(label.split("H")[1])


def head_output(model: LeanModel, label: str) -> Float[Tensor, "d_head d_model"]:
    """A head's output weights."""
    return model.w_o(layer_of(label))[head_of(label)]


def composition(model: LeanModel, source: int, layer: int) -> Float[Tensor, "writer head d_head two_d_head"]:
    """The matrices [K, C] of every head of ``source`` as a writer and every head of ``layer``, kept with the model."""
    kept = model.compositions
    if (source, layer) not in kept:
        w_o, w_o_later = model.w_o(source), model.w_o(layer)
        c = torch.einsum("wad,dhb->whab", w_o, model.w_v(layer))
        back = torch.einsum("hbd,wad->whba", w_o_later, w_o)
        both = torch.cat([c @ back, c], dim=-1)
        if sum(tensor.nbytes for tensor in kept.values()) + both.nbytes > COMPOSITION_BYTES:
            return both
        kept[source, layer] = both
    return kept[source, layer]


def query_chunks(positions: Int[Tensor, "token"], width: int) -> list[tuple[slice, int]]:
    """Chunks of query tokens, each with the number of keys that it can attend to.

    Half of causal attention is zeros, and small chunks skip most of it; large ones make better matrix products.
    """
    n_tokens = len(positions)
    size = min(max(16, CHUNK_VALUES // width), max(32, -(-n_tokens // 16)))
    starts = range(0, n_tokens, size)
    last = [min(start + size, n_tokens) for start in starts]
    return [(slice(start, stop), int(positions[stop - 1]) + 1) for start, stop in zip(starts, last, strict=True)]


def _dot(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return (a * b).sum(dim=-1)
