"""How much of each writer's output is present in every state and in every other component.

For a writer's output w and any vector a at the same token, the projection ratio is PR(a, w) = a·w / |w|² (Janiak et al.
2024, equation 1, with b the writer). States and attention outputs are sums of terms, so the ratios of the terms
(``workers.measures.scan.products``) hold them all.

Where |w|² ≤ 1e-10 |resid|², the stream taken at the state right after the writer's sublayer, w has no PR; such tokens
are left out and ``n`` counts the rest. Beside the quantiles stands the pooled coefficient β(c, w) = Σ o_c·o_w / Σ
|o_w|² over all tokens, which adds up over components, and its centred twin, each component's mean vector over all
tokens removed first.

The stream grows, and readers divide by its scale: a writer fades without anybody erasing it. Its *effective presence* in a
state is ρ · PR, with ρ = scale of the first state that contains w / scale of this state, per token: what is left of it as a
reader behind a norm sees it. Pooled it is Σ ρ a·w / Σ |w|²; 1 − Σ ρ |w|² / Σ |w|² is by how much w itself is *diluted*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.cost import Cost, ShardSize, counting
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.scan.products import TERMS, TRACE, ProductReader, PromptProducts
from erasure_sweep.workers.measures.statistics.moments import MergedSizes
from erasure_sweep.workers.measures.statistics.quantile_sketch import (
    SketchCounter,
    SketchSum,
    quantiles,
    stored_counts,
)
from erasure_sweep.workers.records import ScanOptions, ScanWork, State
from erasure_sweep.workers.tables.columns import QUANTILES, Columns

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
        self.n_states = len(model.config.layout.states)
        self.counts = SketchCounter(n_writers * (n_rows + self.n_states), reader.options.shard_tokens, model.device)
        self.ratio_sum = torch.zeros(n_writers, n_rows, dtype=torch.float64, device=model.device)
        self.n = torch.zeros(n_writers, dtype=torch.int64, device=model.device)
        self.scaled = torch.zeros(2, n_writers, self.n_states, dtype=torch.float64, device=model.device)
        """Σ ρ a·w of every state a, and Σ ρ |w|²."""

    @torch.inference_mode()
    def update(self, products: PromptProducts) -> None:
        """Count one prompt's ratios."""
        self.n += products.valid.sum(dim=1)
        scale = products.trace.state_scale[:, products.prompt]
        power = products.valid / products.inverse_norm_sq.masked_fill(~products.valid, 1.0)
        self.counts.begin_prompt(products.n_tokens)
        # One writer at a time, so that the counts it touches stay in the cache.
        for index, term_ratios in enumerate(products.ratios):
            ratios = torch.cat([term_ratios, self.sums_of_terms @ term_ratios])
            self.ratio_sum[index] += ratios.sum(dim=1)
            kept = scale[self.reader.written_states[index]] / scale
            effective = kept * ratios[-self.n_states :]
            self.scaled[0, index] += (effective * power[index]).sum(dim=1)
            self.scaled[1, index] += (kept * power[index]).sum(dim=1)
            counted = torch.cat([ratios, effective])
            sketches = slice(index * len(counted), (index + 1) * len(counted))
            self.counts.add(sketches, counted, products.valid[index])

    def export(self) -> State:
        """Counts by their non-zero bins; means and co-moments over the shard's tokens."""
        sparse = self.counts.export()
        return {
            "count_gap": sparse.gap,
            "count": sparse.count,
            "ratio_sum": self.ratio_sum.cpu().numpy(),
            "scaled": self.scaled.cpu().numpy(),
            "term_mean": self.reader.means().cpu().numpy(),
            "comoment": self.reader.comoments().cpu().numpy(),
            "n": self.n.cpu().numpy(),
            "n_tokens": np.array(self.reader.n_tokens, dtype=np.int64),
        }


class WriterPowers(NamedTuple):
    """How much one block's writers write, and their products with all terms."""

    gram: Float[np.ndarray, "writer term"]
    """Σ o_w·o_c over all tokens."""
    power: Float[np.ndarray, "writer"]
    """Σ |o_w|² over all tokens, NaN for a writer that writes nothing."""
    power_centred: Float[np.ndarray, "writer"]
    """Σ |o_w − mean|², NaN for a writer that is constant up to rounding."""


def finish_powers(layout: Layout, writers: tuple[str, ...], state: State) -> WriterPowers:
    """The writers' powers from one block's merged sums."""
    n, centred = state["n"], state["comoment"]
    terms = [layout.term_index[writer] for writer in writers]
    gram = centred + state["n_tokens"] * state["term_mean"][terms] @ state["term_mean"].T
    power, power_centred = (matrix[np.arange(len(terms)), terms] for matrix in (gram, centred))
    power = np.where(n > 0, power, np.nan)
    varies = (n > 0) & (power_centred > CONSTANT * power)
    return WriterPowers(gram, power, np.where(varies, power_centred, np.nan))


class Statistics(NamedTuple):
    """Finished numbers of one block of writers; rows as in ``Layout.rows``, then every state's effective presence."""

    quantiles: Float[np.ndarray, "writer row_or_effective q"]
    mean: Float[np.ndarray, "writer row"]
    beta: Float[np.ndarray, "writer row"]
    beta_centred: Float[np.ndarray, "writer row"]
    effective_beta: Float[np.ndarray, "writer state"]
    diluted: Float[np.ndarray, "writer state"]
    constant_share: Float[np.ndarray, "writer"]
    n: Int[np.ndarray, "writer"]


def finish_statistics(layout: Layout, writers: tuple[str, ...], state: State) -> Statistics:
    """Quantiles, means and pooled coefficients from one block's merged sums; NaN where a writer writes nothing."""
    flat = quantiles(stored_counts(state), tuple(QUANTILES.values()))
    n, sums, powers = state["n"], row_sums(layout), finish_powers(layout, writers, state)
    means = state["term_mean"][[layout.term_index[writer] for writer in writers]]
    effective, kept = state["scaled"] / powers.power[:, None]
    return Statistics(
        quantiles=flat.reshape(len(writers), len(layout.rows) + len(layout.states), -1),
        mean=state["ratio_sum"] / np.where(n > 0, n, np.nan)[:, None],
        beta=powers.gram @ sums.T / powers.power[:, None],
        beta_centred=state["comoment"] @ sums.T / powers.power_centred[:, None],
        effective_beta=effective,
        diluted=1.0 - kept,
        constant_share=state["n_tokens"] * (means**2).sum(axis=1) / powers.power,
        n=n,
    )


class Projection(Measure[ScanWork, ProductReader, PromptProducts]):
    """Residual and component projections of every writer."""

    stage, name = "scan", "projection"
    needs = (TRACE, TERMS)
    tables = ("residual_projection", "component_projection")

    def start(self, shard: ProductReader) -> ProjectionAccumulator:
        """An empty state for one shard."""
        return ProjectionAccumulator(shard)

    def merge(self, block: Block[ScanWork], states: Iterable[State]) -> State:
        """Add up states; a sketch for each writer and row."""
        layout, labels = block.layout, block.work.writers.labels(block.layout)
        counts = SketchSum(sum(self.sketches(layout, block.work.options)[slice(*block.work.writers)]))
        terms = [layout.term_index[label] for label in labels]
        together: State = {}
        for state in states:
            counts.add(state)
            together = _add(together, state, terms) if together else {name: state[name] for name in SUMS}
        return {**together, **counts.export()}

    def columns(self, block: Block[ScanWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """Both projections, writer by writer."""
        layout, labels = block.layout, block.work.writers.labels(block.layout)
        statistics = finish_statistics(layout, labels, states[self.name])
        residual = projection_columns(layout, statistics, "state", layout.states, labels)
        return {
            "residual_projection": residual | effective_columns(layout, statistics),
            "component_projection": projection_columns(layout, statistics, "component", layout.components, labels),
        }

    def sketches(self, layout: Layout, options: ScanOptions) -> list[int]:
        """One sketch for each row that is projected onto a writer, and one more for each state's effective presence."""
        return [len(layout.rows) + len(layout.states)] * len(layout.writers)

    def cost(self, size: ShardSize) -> Cost:
        """Counting."""
        assert isinstance(size.work, ScanWork)
        writers, options = size.work
        return counting(size, sum(self.sketches(size.layout, options)[writers.start : writers.stop]))


ADDED = ("ratio_sum", "scaled", "n")
SUMS = (*ADDED, "term_mean", "comoment", "n_tokens")
"""What a merged state keeps of the shards beside their counts."""


def _add(a: State, b: State, terms: list[int]) -> State:
    """Sums, means and co-moments of two sets of tokens together."""
    union = MergedSizes.of(a["n_tokens"], b["n_tokens"])
    apart = b["term_mean"] - a["term_mean"]
    return {
        **{name: a[name] + b[name] for name in ADDED},
        "term_mean": union.mean(a["term_mean"], b["term_mean"]),
        "comoment": a["comoment"] + b["comoment"] + union.weight * (apart[terms] @ apart.T),
        "n_tokens": union.n,
    }


def merge_term_means(states: Iterable[State]) -> Float[np.ndarray, "term d_model"]:
    """Mean vector of every term over all tokens of a scan, from the states of one block's shards in plan order."""
    mean, n_tokens = None, np.array(0)
    for state in states:
        union = MergedSizes.of(n_tokens, state["n_tokens"])
        mean, n_tokens = state["term_mean"] if mean is None else union.mean(mean, state["term_mean"]), union.n
    assert mean is not None, "a scan has shards"
    return mean


def projection_columns(
    layout: Layout, statistics: Statistics, key: str, labels: tuple[str, ...], writers: tuple[str, ...]
) -> Columns:
    """A projection table of a block: what is called ``labels``, onto each writer but itself."""
    names, onto = np.array(labels, dtype=object), np.array(writers, dtype=object)
    writer, place = np.nonzero(names != onto[:, None])
    row = np.array([layout.row_index[label] for label in labels])[place]
    columns: Columns = {"writer": onto[writer], key: names[place]}
    columns |= {name: statistics.quantiles[writer, row, i] for i, name in enumerate(QUANTILES)}
    columns |= {name: getattr(statistics, name)[writer, row] for name in ("mean", "beta", "beta_centred")}
    return columns | {"n": statistics.n[writer]}


def effective_columns(layout: Layout, statistics: Statistics) -> Columns:
    """What ``residual_projection`` says beside the projections: states as a reader sees them, and of writers themselves."""
    effective = statistics.quantiles[:, len(layout.rows) :].reshape(-1, len(QUANTILES))
    columns: Columns = {f"effective_{name}": effective[:, i] for i, name in enumerate(QUANTILES)}
    columns |= {name: getattr(statistics, name).reshape(-1) for name in ("effective_beta", "diluted")}
    return columns | {"constant_share": np.repeat(statistics.constant_share, len(layout.states))}
