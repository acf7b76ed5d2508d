"""All attention paths of every writer at one prompt: what each later head writes along it, and what is left of its DLA.

A writer's output is carried through all later attention (``interventions.attention_paths``). With u_h what head h adds on the
way, the sums over measured tokens Σ u_h·w over Σ |w|² are the heads' shares, which add up to what is erased. Three families
of fields are carried for each writer:

- ``plain``: its output, zero at position 0 where that is left out;
- ``centred``: the same less the writer's mean over the scan, against the writer less its mean;
- ``first``: its output at position 0 alone.

Of a head w = z W_O^w, so that with Z = Σ_t z[t]ᵀ m_h[t] (m_h what h mixes, before W_O) Σ_t u_h·w = Σ (Z ∘ W_O^w (W_O^h)ᵀ): all
products are of width d_head. The centred family takes the prompt's mean of z out of z first, so that large constant parts
leave its digits alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import is_head, layer_of
from erasure_sweep.workers.measures.cost import Cost, ShardSize, SharedProduct
from erasure_sweep.workers.measures.interventions.attention_paths import Hop, propagate
from erasure_sweep.workers.measures.scan.composition import PairRows, head_of, output
from erasure_sweep.workers.measures.scan.products import NEGLIGIBLE
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.models.trace import Trace
from erasure_sweep.workers.records import PathsWork

FAMILIES = ("plain", "centred", "first")
FIELD_BYTES = 256 * 2**20
"""Bound on the fields that are carried at once, a few writers at least."""


class PathProducts(NamedTuple):
    """Sums over one prompt's measured tokens, float64; zero in families that are not carried here."""

    along: Float[Tensor, "family row"]
    """Σ u·target; rows as in ``PairRows``, heads alone."""
    power: Float[Tensor, "family writer"]
    """Σ |target|²."""
    n_valid: Int[Tensor, "writer"]
    """Tokens at which the writer has a projection ratio."""
    line: Float[Tensor, "sum writer"]
    """1, x, y, x², xy and y² of the writer's DLA x and its net DLA y."""


class PathReader:
    """All paths of a block of writers.

    Args:
        work: the block.
        means: of the model's terms over the scan.
        first: the first position at which a writer's output is a source: 0 or 1.
    """

    def __init__(self, model: LeanModel, work: PathsWork, means: Float[Tensor, "term d_model"], first: int) -> None:
        layout = model.config.layout
        self.model, self.first = model, first
        self.rows = PairRows(layout, work.writers)
        self._families = FAMILIES[:1] if not work.every_family else FAMILIES if first else FAMILIES[:2]
        self.means = means[[layout.term_index[label] for label in self.rows.labels]]
        self.written = [layout.written_state(label) for label in self.rows.labels]

    @torch.inference_mode()
    def read(self, trace: Trace, prompt: int) -> PathProducts:
        """Products of one prompt of a trace."""
        n_writers, zeros = len(self.rows.labels), trace.embed.new_zeros
        found = PathProducts(
            zeros(len(FAMILIES), len(self.rows), dtype=torch.float64),
            zeros(len(FAMILIES), n_writers, dtype=torch.float64),
            zeros(n_writers, dtype=torch.int64),
            zeros(6, n_writers, dtype=torch.float64),
        )
        size = max(4, FIELD_BYTES // trace.embed[prompt].nbytes)
        read = [index for index, layer in enumerate(self.rows.first_layer) if layer < self.rows.n_layers]
        for start in range(0, len(read), size):
            for family in self._families:
                _Fields(self, trace, prompt, read[start : start + size], family).carry(found)
        return found


class _Fields:
    """Fields of one family, of some writers, at one prompt."""

    def __init__(self, reader: PathReader, trace: Trace, prompt: int, writers: list[int], family: str) -> None:
        self._trace, self._prompt = trace, prompt
        self._model, self._rows = reader.model, reader.rows
        self._family, self._writers = family, writers
        self._labels = [reader.rows.labels[index] for index in writers]
        self._means, self._written = reader.means[writers], [reader.written[index] for index in writers]
        positions = trace.positions[prompt]
        outputs = [output(self._model, trace, prompt, label) for label in self._labels]
        self._fields = torch.stack(outputs)
        self._targets = self._fields[:, positions]
        if family == "centred":
            self._fields -= self._means[:, None]
            self._targets = self._targets - self._means[:, None]
        if family == "first":
            self._fields[:, 1:] = 0.0
        else:
            self._fields[:, : reader.first] = 0.0

    def carry(self, found: PathProducts) -> None:
        """Carry the fields through all later layers and add what comes of them."""
        family, writers = FAMILIES.index(self._family), self._writers
        found.power[family, writers] = self._targets.square().sum(dim=(1, 2), dtype=torch.float64)
        if self._family == "plain":
            stream = self._trace.state_norm_sq[self._written, self._prompt]
            found.n_valid[writers] = (self._targets.square().sum(dim=2) > NEGLIGIBLE * stream).sum(dim=1)
        firsts = [self._rows.first_layer[index] for index in writers]
        for hop in propagate(self._model, self._trace, self._prompt, self._fields, firsts):
            for part in self._parts(hop):
                heads = [self._rows.layer(writers[index], hop.layer) for index in range(part.start, part.stop)]
                rows = torch.tensor([range(each.start, each.stop) for each in heads], device=found.along.device)
                mixed = hop.mixed[part.start - hop.fields.start : part.stop - hop.fields.start]
                found.along[family, rows] = self._along(part, hop.layer, mixed)
            if hop.is_last and self._family == "plain":
                self._add_lines(hop, found)

    def _parts(self, hop: Hop) -> Iterator[slice]:
        """The hop's fields, heads of one layer together and others together: those whose products are formed alike."""
        labels = list(enumerate(self._labels))[hop.fields]
        for _, part in groupby(labels, key=lambda each: (is_head(each[1]), is_head(each[1]) and layer_of(each[1]))):
            indices = [index for index, _ in part]
            yield slice(indices[0], indices[-1] + 1)

    def _along(
        self, part: slice, layer: int, mixed: Float[Tensor, "field token head d_head"]
    ) -> Float[Tensor, "field head"]:
        """Σ u·target over measured tokens of what every head of a layer adds."""
        w_o, labels = self._model.w_o(layer), self._labels[part]
        if not is_head(labels[0]):
            targets = torch.einsum("ntd,hed->nthe", self._targets[part], w_o)
            return (mixed * targets).sum(dim=(1, 3), dtype=torch.float64)
        source, heads = layer_of(labels[0]), [head_of(label) for label in labels]
        z = self._trace.z[source, self._prompt, self._trace.positions[self._prompt]][:, heads].transpose(0, 1)
        own = self._model.w_o(source)[heads]
        rest = None
        if self._family == "centred":
            reference = z.mean(dim=1, keepdim=True)
            z = z - reference
            rest = self._means[part] - (reference @ own).squeeze(1)
        through = own.flatten(0, 1) @ w_o.flatten(0, 1).T
        products = torch.bmm(z.transpose(1, 2), mixed.flatten(2)) * through.view(*own.shape[:2], -1)
        along: Tensor = products.view(len(labels), -1, *w_o.shape[:2]).sum(dim=(1, 3), dtype=torch.float64)
        if rest is not None:
            along -= (mixed.sum(dim=1) * torch.einsum("nd,hed->nhe", rest, w_o)).sum(dim=2, dtype=torch.float64)
        return along

    def _add_lines(self, hop: Hop, found: PathProducts) -> None:
        """What is left of the writers' attribution when all paths have been taken, beside what it was."""
        direction = self._trace.logit_direction[self._prompt]
        through = torch.einsum("td,hed->the", direction, self._model.w_o(hop.layer))
        left = self._fields[hop.fields, self._trace.positions[self._prompt]]
        net = (left * direction).sum(dim=2) + (hop.mixed * through).sum(dim=(2, 3))
        x, y = (self._targets[hop.fields] * direction).sum(dim=2).double(), net.double()
        sums = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y]).sum(dim=2)
        found.line[:, self._writers[hop.fields]] = sums


def _carried(size: ShardSize) -> Cost:
    """The forward pass, and three products of the width of the stream for each writer and later layer."""
    assert isinstance(size.work, PathsWork)
    layout, d_model = size.layout, size.shape["d_model"]
    rows = PairRows(layout, size.work.writers)
    hops = sum(layout.n_layers - first for first in rows.first_layer)
    width = size.shape["n_heads"] * size.shape["d_head"]
    families = len(FAMILIES) if size.work.every_family else 1
    flops = families * hops * size.n_prompts * size.seq_len * width * (4 * d_model + size.seq_len)
    top_two = 2 * size.n_tokens * d_model * size.shape["d_vocab"]
    return Cost(passes=size.n_prompts, flops=flops + top_two)


ALL_PATHS = SharedProduct("all attention paths", _carried)
"""Every writer carried through all later attention."""
