"""How the direct logit attribution of a writer goes with that of the heads that may erase it.

Direct logit attribution (DLA) of an output o at a token is its product with the direction of the logit difference of the
two most likely next tokens there, over the final LayerNorm's scale. Where erasers remove what a writer wrote, theirs is the
negative of the writer's: for every writer and every later head, ``attn{l}`` and ``later``, the line and the correlation of
the eraser's DLA, of its ``full`` output and of its ``v_composition`` part, against the writer's (Janiak et al. 2024, figure
4; perfect erasure has r = −1 and slope −1).

Tokens of one prompt depend on each other, so intervals come from leaving out groups of shards (a jackknife, of Fisher's z
for r and of the slope itself), not from the number of tokens. Rank correlations come from a bounded sample, the tokens with
the lowest hashes, and their intervals from leaving the same groups out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt64

from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.measures.cost import Cost, ShardSize
from erasure_sweep.workers.measures.measure import Block, Measure, Setting
from erasure_sweep.workers.measures.scan.composition import PairRows
from erasure_sweep.workers.measures.scan.products import PARTS, TERMS, TRACE, ProductReader, PromptProducts
from erasure_sweep.workers.measures.statistics.jackknife import FISHER, interval
from erasure_sweep.workers.measures.statistics.moments import CONSTANT, MergedSizes
from erasure_sweep.workers.measures.statistics.rank_correlation import GroupedRanks, rank_correlations
from erasure_sweep.workers.positions import hash_u64
from erasure_sweep.workers.records import ScanWork, State
from erasure_sweep.workers.tables.columns import Columns

EFFECTS = ("full", "v_composition")

GROUPS = 16
"""Into how many groups shards are dealt for the intervals, at most."""


class DlaAccumulator:
    """Means, co-moments and the sample of one shard."""

    def __init__(self, reader: ProductReader) -> None:
        self.reader, self.rows = reader, reader.composer.rows
        n_terms, device = len(reader.model.config.layout.terms), reader.model.device
        self.reference: tuple[torch.Tensor, torch.Tensor] | None = None
        self.sums = torch.zeros(n_terms, dtype=torch.float64, device=device)
        self.products = torch.zeros(n_terms, n_terms, dtype=torch.float64, device=device)
        self.part_sums = torch.zeros(3, len(self.rows), dtype=torch.float64, device=device)
        """Σ y, Σ y² and Σ x·y of the V-composed parts."""
        self.samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    @torch.inference_mode()
    def update(self, products: PromptProducts) -> None:
        """Take in one prompt's attributions."""
        dla, parts = products.dla, products.parts.dla
        if self.reference is None:
            self.reference = dla.mean(dim=1, keepdim=True), parts.mean(dim=1, keepdim=True)
        x, y = dla - self.reference[0], parts - self.reference[1]
        self.sums += x.sum(dim=1)
        self.products += x @ x.T
        self.part_sums[0] += y.sum(dim=1)
        self.part_sums[1] += y.square().sum(dim=1)
        for writer, term in enumerate(self.reader.terms):
            rows = self.rows.of(writer)
            self.part_sums[2, rows] += y[rows] @ x[term]
        self._sample(products)

    def _sample(self, products: PromptProducts) -> None:
        options, positions = self.reader.options, products.trace.positions[products.prompt]
        hashes = hash_u64(options.seed, products.corpus_prompt, positions.cpu().numpy())
        kept = np.flatnonzero(hashes <= np.uint64(options.sample_below - 1))
        columns = torch.from_numpy(kept).to(positions.device)
        dla, parts = (values[:, columns].T.cpu().numpy() for values in (products.dla, products.parts.dla))
        self.samples.append((hashes[kept], dla, parts))

    def export(self) -> State:
        """Moments about the shard's means, and the sample."""
        assert self.reference is not None
        n, terms = self.reader.n_tokens, self.reader.terms
        mean, (part_mean, part_square, part_product) = self.sums / n, self.part_sums / n
        x_mean = mean[terms].repeat_interleave(torch.tensor(np.diff(self.rows.start), device=mean.device))
        hashes, dla, parts = (np.concatenate(values) for values in zip(*self.samples, strict=True))
        arrays = {
            "mean": mean + self.reference[0].squeeze(1),
            "comoment": self.products - n * torch.outer(mean, mean),
            "part_mean": part_mean + self.reference[1].squeeze(1),
            "part_square": n * (part_square - part_mean.square()),
            "part_product": n * (part_product - x_mean * part_mean),
        }
        return {
            **{name: tensor.cpu().numpy() for name, tensor in arrays.items()},
            "n_tokens": np.array(n, dtype=np.int64),
            "sample_size": np.array(self.reader.options.sample, dtype=np.int64),
            "sample_hash": hashes,
            "sample_dla": dla,
            "sample_parts": parts,
        }


class Moments(NamedTuple):
    """Attributions of one set of tokens: of terms, and of V-composed parts against their writers."""

    n: int
    mean: Float[np.ndarray, "term"]
    comoment: Float[np.ndarray, "term term"]
    part_mean: Float[np.ndarray, "row"]
    part_square: Float[np.ndarray, "row"]
    part_product: Float[np.ndarray, "row"]

    def merged(self, other: Moments, writer_term: np.ndarray) -> Moments:
        """Both sets together; ``writer_term`` is each row's writer among the terms."""
        union = MergedSizes.of(self.n, other.n)
        apart, part_apart = other.mean - self.mean, other.part_mean - self.part_mean
        return Moments(
            union.n,
            union.mean(self.mean, other.mean),
            self.comoment + other.comoment + union.weight * np.outer(apart, apart),
            union.mean(self.part_mean, other.part_mean),
            self.part_square + other.part_square + union.weight * part_apart**2,
            self.part_product + other.part_product + union.weight * part_apart * apart[writer_term],
        )


class Dla(Measure[ScanWork, ProductReader, PromptProducts]):
    """Correlations of DLA between writers and the heads that may erase them."""

    stage, name = "scan", "dla"
    needs = (TRACE, TERMS, PARTS)
    tables = ("dla_correlation",)

    def start(self, shard: ProductReader) -> DlaAccumulator:
        """An empty state for one shard."""
        return DlaAccumulator(shard)

    def merge(self, block: Block[ScanWork], states: Iterable[State]) -> State:
        """Moments by group of shards, dealt in plan order, and the tokens with the lowest hashes of all samples."""
        writer_term = row_writers(block.layout, _rows(block))
        groups: dict[int, Moments] = {}
        sample: list[np.ndarray] = []
        for index, state in enumerate(states):
            moments = Moments(int(state["n_tokens"]), *(state[name] for name in Moments._fields[1:]))
            group = index % GROUPS
            groups[group] = groups[group].merged(moments, writer_term) if group in groups else moments
            drawn = [state[f"sample_{name}"] for name in ("hash", "dla", "parts")]
            drawn.append(np.full(len(drawn[0]), group))
            sample = [np.concatenate(pair) for pair in zip(sample, drawn, strict=True)] if sample else drawn
            sample = lowest(sample, int(state["sample_size"]))
        merged = {name: np.stack([getattr(m, name) for m in groups.values()]) for name in Moments._fields}
        return {**merged, "sample_dla": sample[1], "sample_parts": sample[2], "sample_group": sample[3]}

    def columns(self, block: Block[ScanWork], states: Mapping[str, State], setting: Setting) -> dict[str, Columns]:
        """Lines of all pairs."""
        rows = _rows(block)
        return {"dla_correlation": line_columns(rows, finish_lines(block.layout, rows, states[self.name]))}

    def cost(self, size: ShardSize) -> Cost:
        """Co-moments of all terms; moments are small where they are stored."""
        return Cost(flops=2 * size.n_tokens * len(size.layout.terms) ** 2)


def _rows(block: Block[ScanWork]) -> PairRows:
    return PairRows(block.layout, block.work.writers, block.work.options.groups)


def lowest(sample: list[np.ndarray], size: int) -> list[np.ndarray]:
    """The ``size`` sampled tokens with the lowest hashes; the first array holds the hashes."""
    hashes: UInt64[np.ndarray, "token"] = sample[0]
    order = np.argsort(hashes, kind="stable")[:size]
    return [array[order] for array in sample]


def row_writers(layout: Layout, rows: PairRows) -> np.ndarray:
    """Index among the terms of each row's writer."""
    terms: np.ndarray = np.array([layout.term_index[label] for label in rows.labels])[rows.writer]
    return terms


class ErasersInFull:
    """The full outputs of erasers as sums of terms, each eraser once: many rows have the same one.

    An eraser that is a single term needs no sum: in a large model nearly all are.
    """

    def __init__(self, layout: Layout, rows: PairRows) -> None:
        n_terms, index = len(layout.terms), layout.term_index
        first = np.array(rows.first_layer)[rows.writer]
        names = np.where(rows.erasers == "later", [f"later{layer}" for layer in first], rows.erasers)
        sums = [name for name in dict.fromkeys(names) if name not in index]
        # BLAS adds up rows in fours, and what is over in another order: whole fours make a value's last digit its own.
        self._sums = np.zeros((len(sums) + -len(sums) % 4, n_terms))
        for row, name in zip(self._sums, sums, strict=False):
            row[self._terms(layout, name)] = 1.0
        places = index | {name: n_terms + place for place, name in enumerate(sums)}
        self.of_row = np.array([places[name] for name in names], dtype=np.intp)
        """Which eraser each row has: a term, or behind the terms a sum."""

    @staticmethod
    def _terms(layout: Layout, name: str) -> list[int]:
        if name.startswith("later"):
            heads = range(layout.n_heads)
            return [layout.term_index[f"L{la}H{h}"] for la in range(int(name[5:]), layout.n_layers) for h in heads]
        if name.startswith("attn"):
            attention = layout.attention_slices[int(name[4:])]
            return list(range(attention.start, attention.stop))
        return [layout.term_index[head] for head in name.split("+")]

    def products(self, comoment: Float[np.ndarray, "term term"]) -> tuple[np.ndarray, np.ndarray]:
        """Co-moments of all erasers with all terms, and of each with itself."""
        summed = self._sums @ comoment
        squares = np.einsum("et,et->e", summed, self._sums)
        return np.concatenate([comoment, summed]), np.concatenate([np.diag(comoment), squares])

    def values(self, of_terms: Float[np.ndarray, "*point term"]) -> Float[np.ndarray, "*point eraser"]:
        """All erasers' values, from those of the terms."""
        return np.concatenate([of_terms, of_terms @ self._sums.T], axis=-1)


class PairLines(NamedTuple):
    """Regression of erasers' attributions on their writers', [effect, row]."""

    r: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    low: np.ndarray
    """95 % interval of r."""
    high: np.ndarray
    slope_low: np.ndarray
    slope_high: np.ndarray
    spearman: np.ndarray
    spearman_low: np.ndarray
    spearman_high: np.ndarray
    n: int


def finish_lines(layout: Layout, rows: PairRows, state: State) -> PairLines:
    """Correlations and lines from one block's merged moments; NaN where one side is constant."""
    terms, erasers = row_writers(layout, rows), ErasersInFull(layout, rows)
    groups = [Moments(int(n), *parts) for n, *parts in zip(*(state[name] for name in Moments._fields), strict=True)]
    whole = _together(groups, terms)
    r, slope, intercept = _line(whole, terms, erasers)
    low = high = slope_low = slope_high = np.full_like(r, np.nan)
    if len(groups) > 1:
        without = (_together(groups[:i] + groups[i + 1 :], terms) for i in range(len(groups)))
        left_out = np.array([_line(moments, terms, erasers)[:2] for moments in without])
        low, high = interval(r, left_out[:, 0], FISHER)
        slope_low, slope_high = interval(slope, left_out[:, 1])
    ranks = _rank_lines(state, terms, erasers, len(groups))
    rho, rho_low, rho_high = np.where(np.isnan(r), np.nan, ranks)
    return PairLines(r, slope, intercept, low, high, slope_low, slope_high, rho, rho_low, rho_high, whole.n)


RANKED_AT_ONCE = 2**21
"""Values whose ranks are in memory together."""


def _rank_lines(
    state: State, terms: np.ndarray, erasers: ErasersInFull, n_groups: int
) -> Float[np.ndarray, "three effect row"]:
    """Rank correlations and both ends of their intervals, from the sample."""
    group, parts = state["sample_group"], state["sample_parts"]
    every = GroupedRanks(erasers.values(state["sample_dla"].astype(np.float64)), group)
    found = np.full((3, len(EFFECTS), len(terms)), np.nan)
    at_once = max(1, RANKED_AT_ONCE // max(1, len(group)))
    for start in range(0, len(terms), at_once):
        rows = slice(start, start + at_once)
        read = GroupedRanks(parts[:, rows].astype(np.float64), group)
        x, own = terms[rows], erasers.of_row[rows]
        found[:, 0, rows] = rank_correlations(every, every, n_groups, x, own)
        found[:, 1, rows] = rank_correlations(every, read, n_groups, x, np.arange(len(x)))
    return found


def _together(groups: list[Moments], terms: np.ndarray) -> Moments:
    whole = groups[0]
    for group in groups[1:]:
        whole = whole.merged(group, terms)
    return whole


def _line(m: Moments, terms: np.ndarray, erasers: ErasersInFull) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r, slope and intercept, [effect, row]."""
    x_square, x_mean = np.diag(m.comoment)[terms], m.mean[terms]
    (products, squares), own = erasers.products(m.comoment), erasers.of_row
    y_square = np.stack([squares[own], m.part_square])
    product = np.stack([products[own, terms], m.part_product])
    y_mean = np.stack([erasers.values(m.mean)[own], m.part_mean])
    scale = x_square + (x_mean**2) * m.n
    x_square = np.where(x_square > CONSTANT * scale, x_square, np.nan)
    y_square = np.where(y_square > CONSTANT * (y_square + y_mean**2 * m.n), y_square, np.nan)
    slope = product / x_square
    return product / np.sqrt(x_square * y_square), slope, y_mean - slope * x_mean


def line_columns(rows: PairRows, lines: PairLines) -> Columns:
    """The ``dla_correlation`` table of a block, both effects of each eraser in turn."""
    columns: Columns = {
        "writer": np.repeat(rows.writers, len(EFFECTS)),
        "eraser": np.repeat(rows.erasers, len(EFFECTS)),
        "effect": np.tile(np.array(EFFECTS, dtype=object), len(rows)),
    }
    for name in PairLines._fields[:-1]:
        columns[name] = getattr(lines, name).T.flatten()
    return columns | {"n": np.full(2 * len(rows), lines.n), "stage": np.full(2 * len(rows), "scan", dtype=object)}
