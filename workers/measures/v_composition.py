"""How much of a later head's effect along a writer is there because it read the writer.

For every writer w and every head e of a later layer, each layer's heads together (``attn{l}``) and all later heads together
(``later``): PR(o_e, w) clean, and patched, with w subtracted from e's value input; the difference is the V-composed part's
own PR. β of the V-composed part, u_e,w, adds up over heads like every pooled coefficient, and its centred twin,

    Σ (u − mean u)·(o_w − mean o_w) = Σ u·(o_w − mean o_w),

needs the sum of u alone beside the products, kept as the sum of mixed values, from which W_O makes vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workers.components import Layout
from workers.composition import PairRows, rows_of_writer
from workers.measures.base import Columns
from workers.measures.projection import Statistics
from workers.products import ProductReader, PromptProducts
from workers.records import ScanOptions, State, WriterBlock
from workers.sketch import N_BINS, QUANTILES, SparseCounts, add_counts, count_dtype, quantiles
from workers.trace import LeanModel

KINDS = ("clean", "patched", "v_composed")
"""What is counted of each pair: the ratio of the eraser's output, that without the part that reads the writer, and that
part's own."""


class VCompositionAccumulator:
    """Counts and sums of one shard, for one block of writers; rows as in ``PairRows``."""

    def __init__(self, reader: ProductReader) -> None:
        model, rows = reader.model, reader.composer.rows
        layout = model.config.layout
        self.reader, self.rows = reader, rows
        counting = count_dtype(reader.options.shard_tokens)
        self.counts = torch.zeros(len(KINDS), len(rows), N_BINS, dtype=counting, device=model.device)
        self.product = torch.zeros(len(rows), dtype=torch.float64, device=model.device)
        self.mixed = torch.zeros(len(rows), model.config.d_head, dtype=torch.float64, device=model.device)
        heads = [layout.term_index[f"L{layer}H0"] for layer in range(layout.n_layers)]
        self.heads = [slice(start, start + layout.n_heads) for start in heads]

    @torch.inference_mode()
    def update(self, products: PromptProducts) -> None:
        """Count one prompt's ratios, clean and patched."""
        parts = products.parts
        self.product += parts.product
        self.mixed += parts.mixed
        for writer in range(len(self.rows.labels)):
            rows = self.rows.of(writer)
            if rows.start == rows.stop:
                continue
            clean = self._clean(products.ratios[writer], writer)
            part = parts.along_writer[rows] * products.inverse_norm_sq[writer]
            valid = products.valid[writer].to(self.counts.dtype)
            for counts, values in zip(self.counts, (clean, clean - part, part), strict=True):
                add_counts(counts[rows], values, valid)

    def _clean(self, ratios: Float[Tensor, "term token"], writer: int) -> Float[Tensor, "row token"]:
        """Clean ratios of a writer's rows: later heads, each layer's attention output, all later heads, groups."""
        layout = self.reader.model.config.layout
        later = self.heads[self.rows.first_layer[writer] :]
        rows = [ratios[heads.start : heads.stop + 1] for heads in later]
        # Behind a layer's heads stands its bias; with it they are the attention output.
        layers = [torch.cat([row[:-1], row.sum(dim=0, keepdim=True)]) for row in rows]
        every = torch.stack([row[:-1].sum(dim=0) for row in rows]).sum(dim=0, keepdim=True)
        groups = [
            ratios[[layout.term_index[label] for label in group.erasers]].sum(dim=0, keepdim=True)
            for group in self.rows.groups[writer]
        ]
        return torch.cat([*layers, every, *groups])

    def export(self) -> State:
        """Counts by their non-zero bins; products about the shard's means."""
        model, reader = self.reader.model, self.reader
        writer_mean = reader.means()[reader.terms]
        shift = writer_mean - reader.composer.reference_vectors().double()
        sparse = SparseCounts.from_dense(self.counts)
        mixed = self.mixed.cpu().numpy()
        return {
            "count_gap": sparse.gap,
            "count": sparse.count,
            "product": self.product.cpu().numpy() - along(model, self.rows, mixed, shift.cpu().numpy()),
            "mixed": mixed,
            "writer_mean": writer_mean.cpu().numpy(),
            "n_tokens": np.array(reader.n_tokens, dtype=np.int64),
        }


def along(
    model: LeanModel,
    rows: PairRows,
    mixed: Float[np.ndarray, "row d_head"],
    vectors: Float[np.ndarray, "writer d_model"],
) -> Float[np.ndarray, "row"]:
    """Products of summed head outputs, given as summed mixed values, with a vector of each writer; heads alone."""
    w_o = model.weights["W_O"].double().cpu().numpy()
    products = np.zeros(len(rows))
    for writer, first in enumerate(rows.first_layer):
        for layer in range(first, rows.n_layers):
            heads = rows.layer(writer, layer)
            products[heads] = np.einsum("he,hed,d->h", mixed[heads], w_o[layer], vectors[writer])
    return products


class VComposition:
    """Clean and patched ratios of every later head onto every writer, and the coefficients of the V-composed parts."""

    name = "v_composition"

    def sketches(self, layout: Layout, options: ScanOptions) -> list[int]:
        """Three sketches for each pair."""
        return [len(KINDS) * rows_of_writer(layout, label, options.groups) for label in layout.writers]

    def start(self, reader: ProductReader) -> VCompositionAccumulator:
        """An empty state for one shard."""
        return VCompositionAccumulator(reader)

    def merge(self, model: LeanModel, writers: WriterBlock, options: ScanOptions, states: Iterable[State]) -> State:
        """Add up states; counts become dense: [kind, row, bin]; products are about the means of all tokens."""
        rows = PairRows(model.config.layout, writers, options.groups)
        counts = np.zeros((len(KINDS), len(rows), N_BINS), dtype=np.uint32)
        total: State = {}
        for state in states:
            SparseCounts(state["count_gap"], state["count"]).add_to(counts)
            total = _add(model, rows, total, state) if total else state
        return {**total, "counts": counts}


def _add(model: LeanModel, rows: PairRows, a: State, b: State) -> State:
    n = a["n_tokens"] + b["n_tokens"]
    mean = a["writer_mean"] + (b["writer_mean"] - a["writer_mean"]) * (b["n_tokens"] / n)
    products = (s["product"] - along(model, rows, s["mixed"], mean - s["writer_mean"]) for s in (a, b))
    return {"product": sum(products), "mixed": a["mixed"] + b["mixed"], "writer_mean": mean, "n_tokens": n}


class PairStatistics(NamedTuple):
    """Finished numbers of one block's pairs; rows as in ``PairRows``."""

    quantiles: Float[np.ndarray, "kind row q"]
    beta: Float[np.ndarray, "row"]
    """Pooled coefficient of the V-composed part."""
    beta_centred: Float[np.ndarray, "row"]

    def quantile(self, kind: str, name: str) -> Float[np.ndarray, "row"]:
        """One column of one kind."""
        return self.quantiles[KINDS.index(kind), :, list(QUANTILES).index(name)]


def finish_pairs(model: LeanModel, rows: PairRows, state: State, statistics: Statistics) -> PairStatistics:
    """Quantiles and coefficients from one block's merged sums.

    Args:
        statistics: of the same block's projections, for the writers' power.
    """
    flat = quantiles(state["counts"].reshape(-1, N_BINS), tuple(QUANTILES.values()))
    centred = state["product"].copy()
    plain = centred + along(model, rows, state["mixed"], state["writer_mean"])
    for products in (centred, plain):
        rows.sum_heads(products)
    power, power_centred = (np.repeat(p, np.diff(rows.start)) for p in (statistics.power, statistics.power_centred))
    return PairStatistics(flat.reshape(len(KINDS), len(rows), len(QUANTILES)), plain / power, centred / power_centred)


def pair_columns(rows: PairRows, pairs: PairStatistics, statistics: Statistics, index: int) -> Columns:
    """The ``v_composition`` table of one writer, the ``index``-th of the block."""
    mine, erasers = rows.of(index), rows.erasers(index)
    columns: Columns = {
        "writer": np.full(len(erasers), rows.labels[index], dtype=object),
        "eraser": np.array(erasers, dtype=object),
    }
    columns |= {f"{kind}_{name}": pairs.quantile(kind, name)[mine] for kind in KINDS for name in QUANTILES}
    columns |= {"beta": pairs.beta[mine], "beta_centred": pairs.beta_centred[mine]}
    return columns | {"n": np.full(len(erasers), statistics.n[index])}
