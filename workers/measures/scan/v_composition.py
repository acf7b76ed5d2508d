"""How much of a later head's effect along a writer is there because it read the writer.

For every writer w and every head e of a later layer, each layer's heads together (``attn{l}``) and all later heads together
(``later``): PR(o_e, w) clean, and patched, with w subtracted from e's value input; the difference is the V-composed part's
own PR. β of the V-composed part, u_e,w, adds up over heads like every pooled coefficient, and its centred twin,

    Σ (u − mean u)·(o_w − mean o_w) = Σ u·(o_w − mean o_w),

needs the sum of u alone beside the products, kept as the sum of mixed values, from which W_O makes vectors. How β varies
over shards says whether it lies below −τ by more than chance (``workers.measures.scan.significance``).

The writer is read from position 1 on, unless position 0 is measured too. ``beta_first`` is what e writes along w because of
w's output at position 0, which is often a sink of attention: with β it adds up to the coefficient of the whole output's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.cost import Cost, ShardSize, counting
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.scan.composition import PairRows, rows_of_writer
from erasure_sweep.workers.measures.scan.products import PARTS, TERMS, TRACE, ProductReader, PromptProducts
from erasure_sweep.workers.measures.scan.projection import Projection, WriterPowers, finish_powers
from erasure_sweep.workers.measures.scan.significance import ShardSpread, discoveries, half_width, p_below
from erasure_sweep.workers.measures.statistics.moments import MergedSizes
from erasure_sweep.workers.measures.statistics.quantile_sketch import (
    SketchCounter,
    SketchSum,
    quantiles,
    stored_counts,
)
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import ScanOptions, ScanWork, State
from erasure_sweep.workers.tables.columns import QUANTILES, Columns

KINDS = ("clean", "patched", "v_composed")
"""What is counted of each pair: the ratio of the eraser's output, that without the part that reads the writer, and that
part's own."""


class VCompositionAccumulator:
    """Counts and sums of one shard, for one block of writers; rows as in ``PairRows``."""

    def __init__(self, reader: ProductReader) -> None:
        model, rows = reader.model, reader.composer.rows
        self.reader, self.rows = reader, rows
        self.counts = SketchCounter(len(KINDS) * len(rows), reader.options.shard_tokens, model.device)
        self.product = torch.zeros(len(rows), dtype=torch.float64, device=model.device)
        self.mixed = torch.zeros(len(rows), model.config.d_head, dtype=torch.float64, device=model.device)
        self.from_first = torch.zeros(len(rows), dtype=torch.float64, device=model.device)
        self.has_ratio = torch.zeros(len(rows.labels), dtype=torch.bool, device=model.device)

    @torch.inference_mode()
    def update(self, products: PromptProducts) -> None:
        """Count one prompt's ratios, clean and patched."""
        parts = products.parts
        self.product += parts.product
        self.mixed += parts.mixed
        self.from_first += parts.from_first
        self.has_ratio |= products.valid.any(dim=1)
        self.counts.begin_prompt(products.n_tokens)
        for writer in range(len(self.rows.labels)):
            rows = self.rows.of(writer)
            if rows.start == rows.stop:
                continue
            clean = self._clean(products.ratios[writer], writer)
            part = parts.along_writer[rows] * products.inverse_norm_sq[writer]
            for kind, values in enumerate((clean, clean - part, part)):
                before = kind * len(self.rows)
                sketches = slice(before + rows.start, before + rows.stop)
                self.counts.add(sketches, values, products.valid[writer])

    def _clean(self, ratios: Float[Tensor, "term token"], writer: int) -> Float[Tensor, "row token"]:
        """Clean ratios of a writer's rows: later heads, each layer's attention output, all later heads, groups."""
        layout = self.reader.model.config.layout
        later = layout.attention_slices[self.rows.first_layer[writer] :]
        rows = [ratios[attention] for attention in later]
        # Behind a layer's heads stands its bias, if it has one; with it they are the attention output.
        layers = [torch.cat([row[: layout.n_heads], row.sum(dim=0, keepdim=True)]) for row in rows]
        every = torch.stack([row[: layout.n_heads].sum(dim=0) for row in rows]).sum(dim=0, keepdim=True)
        groups = [
            ratios[[layout.term_index[label] for label in group.erasers]].sum(dim=0, keepdim=True)
            for group in self.rows.groups[writer]
        ]
        return torch.cat([*layers, every, *groups])

    def export(self) -> State:
        """Counts by their non-zero bins, products with the writers and the writers' power.

        The power is 0 for a writer that has no projection ratio in the shard.
        """
        model, reader = self.reader.model, self.reader
        writer_mean = reader.means()[reader.terms]
        varying = reader.comoments().gather(1, reader.terms.unsqueeze(1)).squeeze(1)
        power = varying + reader.n_tokens * writer_mean.square().sum(dim=1)
        references = reader.composer.reference_vectors().double().cpu().numpy()
        sparse = self.counts.export()
        mixed = self.mixed.cpu().numpy()
        return {
            "count_gap": sparse.gap,
            "count": sparse.count,
            "product": self.product.cpu().numpy() + along(model, self.rows, mixed, references),
            "mixed": mixed,
            "product_first": self.from_first.cpu().numpy() if reader.first else np.full(len(mixed), np.nan),
            "power": (power * self.has_ratio).cpu().numpy(),
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
    products = np.zeros(len(rows))
    for layer in range(rows.n_layers):
        writers = [writer for writer, first in enumerate(rows.first_layer) if first <= layer]
        # One layer's float64 copy at a time: a large model's whole W_O would take gigabytes.
        w_o = model.w_o(layer).double().cpu().numpy()
        through = vectors[writers] @ w_o.reshape(-1, w_o.shape[-1]).T
        for writer, vector in zip(writers, through.reshape(-1, *w_o.shape[:2]), strict=True):
            heads = rows.layer(writer, layer)
            products[heads] = (mixed[heads] * vector).sum(axis=1)
    return products


class VComposition(Measure[ScanWork, ProductReader, PromptProducts]):
    """Clean and patched ratios of every later head onto every writer, and the coefficients of the V-composed parts."""

    stage, name = "scan", "v_composition"
    needs = (TRACE, TERMS, PARTS)
    tables = ("v_composition",)

    def start(self, shard: ProductReader) -> VCompositionAccumulator:
        """An empty state for one shard."""
        return VCompositionAccumulator(shard)

    def merge(self, block: Block[ScanWork], states: Iterable[State]) -> State:
        """Add up states, a sketch for each kind and row; of the shards' β, mean and squared deviations remain."""
        rows = PairRows(block.layout, block.work.writers, block.work.options.groups)
        counts = SketchSum(len(KINDS) * len(rows))
        spread = ShardSpread.empty(len(rows))
        together: State = {}
        for state in states:
            counts.add(state)
            spread = spread.with_shard(_betas(rows, state))
            together = _add(together, state) if together else {name: state[name] for name in SUMS}
        over_shards = {f"shard_{name}": values for name, values in spread._asdict().items()}
        return {**together, **over_shards, **counts.export()}

    def columns(self, block: Block[ScanWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """Rows of all pairs; what is ``significant`` waits for the p-values of all blocks."""
        rows = PairRows(block.layout, block.work.writers, block.work.options.groups)
        projected = states[Projection.name]
        powers = finish_powers(block.layout, rows.labels, projected)
        pairs = finish_pairs(block.model, rows, states[self.name], powers, setting.tau)
        return {"v_composition": pair_columns(rows, pairs, projected["n"])}

    def complete(self, tables: Mapping[str, Columns], setting: Setting) -> None:
        """Test all pairs of the model together."""
        pairs = tables["v_composition"]
        tested = np.array([mark is not None for mark in pairs["significant"]], dtype=bool)
        pairs["significant"] = discoveries(pairs["p"], tested, "bh")
        pairs["significant_by"] = discoveries(pairs["p"], tested, "by")

    def sketches(self, layout: Layout, options: ScanOptions) -> list[int]:
        """Three sketches for each pair."""
        return [len(KINDS) * rows_of_writer(layout, label, options.groups) for label in layout.writers]

    def cost(self, size: ShardSize) -> Cost:
        """Counting."""
        assert isinstance(size.work, ScanWork)
        writers, options = size.work
        return counting(size, sum(self.sketches(size.layout, options)[writers.start : writers.stop]))


ADDED = ("product", "mixed", "product_first")
SUMS = (*ADDED, "writer_mean", "n_tokens")
"""What a merged state keeps of the shards beside their counts and the spread of their β."""


def _add(a: State, b: State) -> State:
    union = MergedSizes.of(a["n_tokens"], b["n_tokens"])
    sums = {name: a[name] + b[name] for name in ADDED}
    return {**sums, "writer_mean": union.mean(a["writer_mean"], b["writer_mean"]), "n_tokens": union.n}


def _betas(rows: PairRows, state: State) -> Float[np.ndarray, "row"]:
    """One shard's pooled coefficients of the V-composed parts; NaN where its writer has no power."""
    products, power = state["product"].copy(), state["power"][rows.writer]
    rows.sum_heads(products)
    betas: Float[np.ndarray, "row"] = products / np.where(power > 0.0, power, np.nan)
    return betas


class PairStatistics(NamedTuple):
    """Finished numbers of one block's pairs; rows as in ``PairRows``."""

    quantiles: Float[np.ndarray, "kind row q"]
    beta: Float[np.ndarray, "row"]
    """Pooled coefficient of the V-composed part."""
    beta_low: Float[np.ndarray, "row"]
    beta_high: Float[np.ndarray, "row"]
    """Of its 95 % interval by the spread of the shards' coefficients; NaN where that says nothing."""
    beta_centred: Float[np.ndarray, "row"]
    beta_first: Float[np.ndarray, "row"]
    """β of what is written because of the writer's output at position 0; NaN where that is part of the source."""
    p: Float[np.ndarray, "row"]
    """Of the test over shards that β is at least −τ; NaN where there is none."""

    def quantile(self, kind: str, name: str) -> Float[np.ndarray, "row"]:
        """One column of one kind."""
        return self.quantiles[KINDS.index(kind), :, list(QUANTILES).index(name)]


def finish_pairs(model: LeanModel, rows: PairRows, state: State, powers: WriterPowers, tau: float) -> PairStatistics:
    """Quantiles, coefficients and p-values from one block's merged sums.

    Args:
        powers: of the same block's writers.
        tau: how much of a writer a head has to take away before it counts as its eraser.
    """
    flat = quantiles(stored_counts(state), tuple(QUANTILES.values()))
    plain, from_first = state["product"].copy(), state["product_first"].copy()
    centred = plain - along(model, rows, state["mixed"], state["writer_mean"])
    for products in (centred, plain, from_first):
        rows.sum_heads(products)
    power, power_centred = (values[rows.writer] for values in (powers.power, powers.power_centred))
    spread = ShardSpread(*(state[f"shard_{name}"] for name in ShardSpread._fields))
    beta, width = plain / power, half_width(spread)
    return PairStatistics(
        quantiles=flat.reshape(len(KINDS), len(rows), len(QUANTILES)),
        beta=beta,
        beta_low=beta - width,
        beta_high=beta + width,
        beta_centred=centred / power_centred,
        beta_first=from_first / power,
        p=p_below(spread, -tau),
    )


def pair_columns(rows: PairRows, pairs: PairStatistics, n: Int[np.ndarray, "writer"]) -> Columns:
    """The ``v_composition`` table of a block, each writer at its ``n`` tokens.

    ``significant`` and ``significant_by`` are ``False`` for the pairs that are tested, until the p-values of all blocks are
    known.
    """
    columns: Columns = {"writer": rows.writers, "eraser": rows.erasers}
    columns |= {f"{kind}_{name}": pairs.quantile(kind, name) for kind in KINDS for name in QUANTILES}
    numbers = ("beta", "beta_low", "beta_high", "beta_centred", "beta_first", "p")
    columns |= {name: getattr(pairs, name) for name in numbers}
    for name in ("significant", "significant_by"):
        columns[name] = np.array([None, False], dtype=object)[rows.single_heads.astype(int)]
    return columns | {"n": n[rows.writer]}
