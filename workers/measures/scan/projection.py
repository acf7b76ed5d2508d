"""How much of each writer's output is present in every state and in every other component.

For a writer's output w and any vector a at the same token, the projection ratio is PR(a, w) = a·w / |w|² (Janiak et al.
2024, equation 1, with b the writer). States and attention outputs are sums of terms, so the ratios of the terms
(``workers.measures.scan.products``) hold them all.

Where |w|² ≤ 1e-10 |resid|², the stream taken at the state right after the writer's sublayer, w has no PR; such tokens
are left out and ``n`` counts the rest. Beside the quantiles stands the pooled coefficient β(c, w) = Σ o_c·o_w / Σ
|o_w|² over all tokens, which adds up over components, and its centred twin, each component's mean vector over all
tokens removed first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.measure import Columns
from erasure_sweep.workers.measures.scan.products import ProductReader, PromptProducts
from erasure_sweep.workers.measures.statistics.quantile_sketch import (
    N_BINS,
    QUANTILES,
    SparseCounts,
    add_counts,
    count_dtype,
    quantiles,
)
from erasure_sweep.workers.models.forward import LeanModel
from erasure_sweep.workers.records import ScanOptions, State, WriterBlock

CONSTANT = 1e-6
"""Share of a writer's power that must vary over tokens for a centred coefficient: below it there is only rounding."""


def row_sums(layout: Layout) -> Float[np.ndarray, "row term"]:
    """Which terms each of ``layout.rows`` sums: the identity, then attention outputs, then states."""
    n_terms = len(layout.terms)
    attention = np.zeros((layout.n_layers, n_terms))
    for layer, terms in enumerate(layout.attention_slices):
        attention[layer, terms] = 1.0
    states = np.arange(n_terms) < np.array(layout.state_ends)[:, None]
    return np.concatenate([np.eye(n_terms), attention, states])


class ProjectionAccumulator:
    """Counts and sums of one shard, for one block of writers."""

    def __init__(self, reader: ProductReader) -> None:
        model, n_writers = reader.model, len(reader.terms)
        sums = row_sums(model.config.layout)
        n_rows, n_terms = sums.shape
        self.reader = reader
        self.sums_of_terms = torch.from_numpy(sums[n_terms:]).to(model.device, model.dtype)
        self.counts = torch.zeros(
            n_writers, n_rows, N_BINS, dtype=count_dtype(reader.options.shard_tokens), device=model.device
        )
        self.ratio_sum = torch.zeros(n_writers, n_rows, dtype=torch.float64, device=model.device)
        self.n = torch.zeros(n_writers, dtype=torch.int64, device=model.device)

    @torch.inference_mode()
    def update(self, products: PromptProducts) -> None:
        """Count one prompt's ratios."""
        self.n += products.valid.sum(dim=1)
        counted = products.valid.to(self.counts.dtype)
        # One writer at a time, so that the counts it touches stay in the cache.
        for index, term_ratios in enumerate(products.ratios):
            ratios = torch.cat([term_ratios, self.sums_of_terms @ term_ratios])
            self.ratio_sum[index] += ratios.sum(dim=1)
            add_counts(self.counts[index], ratios, counted[index])

    def export(self) -> State:
        """Counts by their non-zero bins; means and co-moments over the shard's tokens."""
        sparse = SparseCounts.from_dense(self.counts)
        return {
            "count_gap": sparse.gap,
            "count": sparse.count,
            "ratio_sum": self.ratio_sum.cpu().numpy(),
            "term_mean": self.reader.means().cpu().numpy(),
            "comoment": self.reader.comoments().cpu().numpy(),
            "n": self.n.cpu().numpy(),
            "n_tokens": np.array(self.reader.n_tokens, dtype=np.int64),
        }


class Statistics(NamedTuple):
    """Finished numbers of one block of writers; rows as in ``Layout.rows``."""

    quantiles: Float[np.ndarray, "writer row q"]
    mean: Float[np.ndarray, "writer row"]
    power: Float[np.ndarray, "writer"]
    """Σ |o_w|² over all tokens, NaN for a writer that writes nothing."""
    power_centred: Float[np.ndarray, "writer"]
    """Σ |o_w − mean|², NaN for a writer that is constant up to rounding."""
    beta: Float[np.ndarray, "writer row"]
    beta_centred: Float[np.ndarray, "writer row"]
    n: Int[np.ndarray, "writer"]


def finish_statistics(layout: Layout, writers: tuple[str, ...], state: State) -> Statistics:
    """Quantiles, means and pooled coefficients from one block's merged sums; NaN where a writer writes nothing."""
    n_writers, n_rows, _ = state["counts"].shape
    flat = quantiles(state["counts"].reshape(n_writers * n_rows, N_BINS), tuple(QUANTILES.values()))
    n, centred, sums = state["n"], state["comoment"], row_sums(layout)
    terms = [layout.term_index[writer] for writer in writers]
    gram = centred + state["n_tokens"] * state["term_mean"][terms] @ state["term_mean"].T
    power, centred_power = (matrix[np.arange(n_writers), terms] for matrix in (gram, centred))
    power = np.where(n > 0, power, np.nan)
    centred_power = np.where((n > 0) & (centred_power > CONSTANT * power), centred_power, np.nan)
    return Statistics(
        quantiles=flat.reshape(n_writers, n_rows, -1),
        mean=state["ratio_sum"] / np.where(n > 0, n, np.nan)[:, None],
        power=power,
        power_centred=centred_power,
        beta=gram @ sums.T / power[:, None],
        beta_centred=centred @ sums.T / centred_power[:, None],
        n=n,
    )


class Projection:
    """Residual and component projections of every writer."""

    name = "projection"

    def sketches(self, layout: Layout, options: ScanOptions) -> list[int]:
        """One sketch for each row that is projected onto a writer."""
        return [len(layout.rows)] * len(layout.writers)

    def start(self, reader: ProductReader) -> ProjectionAccumulator:
        """An empty state for one shard."""
        return ProjectionAccumulator(reader)

    def merge(self, model: LeanModel, writers: WriterBlock, options: ScanOptions, states: Iterable[State]) -> State:
        """Add up states; counts become dense: [writer, row, bin]."""
        layout = model.config.layout
        counts = np.zeros((writers.stop - writers.start, len(layout.rows), N_BINS), dtype=np.uint32)
        terms = [layout.term_index[label] for label in layout.writers[writers.start : writers.stop]]
        total: State = {}
        for state in states:
            SparseCounts(state["count_gap"], state["count"]).add_to(counts)
            total = _add(total, state, terms) if total else state
        return {**total, "counts": counts}


def _add(a: State, b: State, terms: list[int]) -> State:
    """Sums, means and co-moments of two sets of tokens together (Chan, Golub and LeVeque 1979)."""
    n = a["n_tokens"] + b["n_tokens"]
    apart = b["term_mean"] - a["term_mean"]
    between = a["n_tokens"] * b["n_tokens"] / n * (apart[terms] @ apart.T)
    return {
        "ratio_sum": a["ratio_sum"] + b["ratio_sum"],
        "term_mean": a["term_mean"] + apart * (b["n_tokens"] / n),
        "comoment": a["comoment"] + b["comoment"] + between,
        "n": a["n"] + b["n"],
        "n_tokens": n,
    }


def projection_columns(
    layout: Layout, statistics: Statistics, index: int, key: str, labels: tuple[str, ...], writer: str
) -> Columns:
    """One writer's rows of a projection table, its writer the ``index``-th of the block."""
    rows = [layout.row_index[label] for label in labels]
    columns: Columns = {"writer": np.full(len(rows), writer, dtype=object), key: np.array(labels, dtype=object)}
    columns |= {name: statistics.quantiles[index, rows, i] for i, name in enumerate(QUANTILES)}
    columns |= {name: getattr(statistics, name)[index, rows] for name in ("mean", "beta", "beta_centred")}
    return columns | {"n": np.full(len(rows), statistics.n[index])}
