"""How much of each writer's output is present in every state and in every other component.

For a writer's output w and any vector a at the same token, the projection ratio is PR(a, w) = a·w / |w|² (Janiak et al.
2024, equation 1, with b the writer). States and attention outputs are sums of terms, so the Gram matrix of one token's
terms, G[c, w] = o_c·o_w, holds them all: PR(c, w) = G[c, w] / G[w, w], and the PR of a sum is the sum of its rows.

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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workers.components import Layout
from workers.measures.base import Columns, stack
from workers.measures.ledger import ledger_columns
from workers.records import State, Thresholds, WriterBlock
from workers.sketch import N_BINS, QUANTILES, SparseCounts, add_counts, quantiles
from workers.trace import LeanModel, ModelConfig, Trace

NEGLIGIBLE = 1e-10
"""Squared norm of a writer's output, relative to the stream's, at or below which it has no projection ratio."""

CONSTANT = 1e-6
"""Share of a writer's power that must vary over tokens for a centred coefficient: below it there is only rounding."""

CHUNK_BYTES = 48 * 2**20
"""Bound on the working memory of a chunk of tokens: beyond a CPU's caches nothing is gained by larger ones."""


def row_sums(layout: Layout) -> Float[np.ndarray, "row term"]:
    """Which terms each of ``layout.rows`` sums: the identity, then attention outputs, then states."""
    n_terms = len(layout.terms)
    attention = np.zeros((layout.n_layers, n_terms))
    for layer, terms in enumerate(layout.attention_slices):
        attention[layer, terms] = 1.0
    states = np.arange(n_terms) < np.array(layout.state_ends)[:, None]
    return np.concatenate([np.eye(n_terms), attention, states])


def term_vectors(model: LeanModel, trace: Trace, tokens: slice) -> Float[Tensor, "term token d_model"]:
    """Every term's output vector at some of the trace's tokens, in the layout's order."""
    config = model.config
    embed = trace.embed[tokens]
    vectors = embed.new_empty(len(config.layout.terms), len(embed), config.d_model)
    vectors[0], vectors[1] = embed, trace.pos_embed[tokens]
    for layer, attention in enumerate(config.layout.attention_slices):
        heads = vectors[attention.start : attention.stop - 1]
        torch.matmul(trace.z[layer, tokens].transpose(0, 1), model.weights["W_O"][layer], out=heads)
        vectors[attention.stop - 1] = model.weights["b_O"][layer]
        if not config.attn_only:
            vectors[attention.stop] = trace.mlp_out[layer, tokens]
    return vectors


class ProjectionAccumulator:
    """Counts and sums of one shard, for one block of writers.

    The pooled coefficients come from sums of products of vectors from which a reference vector of each term (its mean
    over the shard's first tokens) is taken: components share large constant parts, and float32 products that held them
    would leave nothing of the centred coefficients.
    """

    def __init__(self, model: LeanModel, writers: WriterBlock) -> None:
        layout, device, d_model = model.config.layout, model.device, model.config.d_model
        labels = layout.writers[writers.start : writers.stop]
        self.model = model
        self.terms = torch.tensor([layout.term_index[label] for label in labels], device=device)
        self.written_states = torch.tensor([layout.written_state(label) for label in labels], device=device)
        sums = row_sums(layout)
        n_rows, n_terms = sums.shape
        self.sums_of_terms = torch.from_numpy(sums[n_terms:]).to(device, model.dtype)
        self.counts = torch.zeros(len(labels), n_rows, N_BINS, dtype=torch.int32, device=device)
        self.ratio_sum = torch.zeros(len(labels), n_rows, dtype=torch.float64, device=device)
        self.reference: Float[Tensor, "term 1 d_model"] | None = None
        self.offset_sum = torch.zeros(n_terms, d_model, dtype=torch.float64, device=device)
        self.product_sum = torch.zeros(len(labels), n_terms, dtype=torch.float64, device=device)
        self.n = torch.zeros(len(labels), dtype=torch.int64, device=device)
        self.n_tokens = 0
        self.chunk = max(16, CHUNK_BYTES // (4 * (len(labels) * (n_terms + n_rows) + n_terms * d_model)))

    @torch.inference_mode()
    def update(self, trace: Trace) -> None:
        """Take in a trace, a chunk of tokens at a time."""
        for start in range(0, trace.n_tokens, self.chunk):
            tokens = slice(start, min(start + self.chunk, trace.n_tokens))
            vectors = term_vectors(self.model, trace, tokens)
            by_token = vectors.transpose(0, 1)
            gram = torch.bmm(by_token[:, self.terms], by_token.transpose(1, 2))
            self._count_ratios(gram.permute(1, 2, 0).contiguous(), trace.state_norm_sq[:, tokens])
            self._add_products(vectors)
        self.n_tokens += trace.n_tokens

    def _count_ratios(self, gram: Float[Tensor, "writer term token"], state_norm_sq: Tensor) -> None:
        """Projection ratios of every row onto every writer, into counts and sums; overwrites ``gram``."""
        norm_sq = gram[torch.arange(len(gram), device=gram.device), self.terms]
        valid = norm_sq > NEGLIGIBLE * state_norm_sq[self.written_states]
        self.n += valid.sum(dim=1)
        term_ratios = gram.mul_((valid / norm_sq.masked_fill(~valid, 1.0)).unsqueeze(1))
        ratios = torch.cat([term_ratios, self.sums_of_terms @ term_ratios], dim=1)
        self.ratio_sum += ratios.sum(dim=2)
        # One writer at a time, so that the counts it touches stay in the cache.
        for counts, values, counted in zip(self.counts, ratios, valid.to(torch.int32), strict=True):
            add_counts(counts, values, counted)

    def _add_products(self, vectors: Float[Tensor, "term token d_model"]) -> None:
        """Products of writers with terms, summed over tokens; overwrites ``vectors``."""
        if self.reference is None:
            self.reference = vectors.mean(dim=1, keepdim=True)
        flat = vectors.sub_(self.reference).flatten(1)
        self.offset_sum += vectors.sum(dim=1)
        self.product_sum += flat[self.terms] @ flat.T

    def export(self) -> State:
        """Counts by their non-zero bins; means and co-moments over the shard's tokens."""
        sparse = SparseCounts.from_dense(self.counts)
        assert self.reference is not None
        offset = self.offset_sum / self.n_tokens
        comoment = self.product_sum - self.n_tokens * offset[self.terms] @ offset.T
        return {
            "count_gap": sparse.gap,
            "count": sparse.count,
            "ratio_sum": self.ratio_sum.cpu().numpy(),
            "term_mean": (self.reference.squeeze(1).double() + offset).cpu().numpy(),
            "comoment": comoment.cpu().numpy(),
            "n": self.n.cpu().numpy(),
            "n_tokens": np.array(self.n_tokens, dtype=np.int64),
        }


class Statistics(NamedTuple):
    """Finished numbers of one block of writers; rows as in ``Layout.rows``."""

    quantiles: Float[np.ndarray, "writer row q"]
    mean: Float[np.ndarray, "writer row"]
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
    varies = (n > 0) & (centred_power > CONSTANT * power)
    return Statistics(
        quantiles=flat.reshape(n_writers, n_rows, -1),
        mean=state["ratio_sum"] / np.where(n > 0, n, np.nan)[:, None],
        beta=gram @ sums.T / np.where(n > 0, power, np.nan)[:, None],
        beta_centred=centred @ sums.T / np.where(varies, centred_power, np.nan)[:, None],
        n=n,
    )


class Projection:
    """Residual and component projections of every writer, and the columns of ``writers`` that follow from them."""

    name = "projection"

    def sketches(self, config: ModelConfig) -> int:
        """One sketch for each row that is projected onto a writer."""
        return len(config.layout.rows)

    def start(self, model: LeanModel, writers: WriterBlock) -> ProjectionAccumulator:
        """An empty state for one shard."""
        return ProjectionAccumulator(model, writers)

    def merge(self, config: ModelConfig, writers: WriterBlock, states: Iterable[State]) -> State:
        """Add up states; counts become dense: [writer, row, bin]."""
        layout = config.layout
        counts = np.zeros((writers.stop - writers.start, self.sketches(config), N_BINS), dtype=np.uint32)
        terms = [layout.term_index[label] for label in layout.writers[writers.start : writers.stop]]
        total: State = {}
        for state in states:
            SparseCounts(state["count_gap"], state["count"]).add_to(counts)
            total = _add(total, state, terms) if total else state
        return {**total, "counts": counts}

    def tables(
        self, config: ModelConfig, blocks: Iterable[tuple[WriterBlock, State]], thresholds: Thresholds
    ) -> dict[str, Columns]:
        """``residual_projection``, ``component_projection`` and ``writers``."""
        layout = config.layout
        residual, component, ledgers = [], [], []
        for block, state in blocks:
            writers = layout.writers[block.start : block.stop]
            statistics = finish_statistics(layout, writers, state)
            for index, writer in enumerate(writers):
                others = tuple(label for label in layout.components if label != writer)
                residual.append(_rows(layout, statistics, index, writer, "state", layout.states))
                component.append(_rows(layout, statistics, index, writer, "component", others))
            opposes = opposing(statistics, thresholds)
            ledgers.append(ledger_columns(layout, writers, statistics.beta, statistics.beta_centred, opposes))
        return {
            "residual_projection": stack(residual),
            "component_projection": stack(component),
            "writers": stack(ledgers),
        }


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


def opposing(statistics: Statistics, thresholds: Thresholds) -> Bool[np.ndarray, "writer row"]:
    """Which rows consistently oppose each writer: median ≤ −τ and a negative upper quartile."""
    names = list(QUANTILES)
    median, upper = (statistics.quantiles[..., names.index(name)] for name in ("median", "q75"))
    return (median <= -thresholds.tau) & (upper < 0)


def _rows(
    layout: Layout, statistics: Statistics, index: int, writer: str, key: str, labels: tuple[str, ...]
) -> Columns:
    """One writer's rows of a projection table."""
    rows = [layout.row_index[label] for label in labels]
    columns: Columns = {"writer": np.full(len(rows), writer, dtype=object), key: np.array(labels, dtype=object)}
    columns |= {name: statistics.quantiles[index, rows, i] for i, name in enumerate(QUANTILES)}
    columns |= {name: getattr(statistics, name)[index, rows] for name in ("mean", "beta", "beta_centred")}
    return columns | {"n": np.full(len(rows), statistics.n[index])}
