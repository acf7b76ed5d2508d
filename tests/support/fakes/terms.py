"""Terms of an invented residual stream, and the statistics that tables hold of them, by their definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from erasure_sweep.workers.labels import Layout

QUANTILES = {"q12_5": 0.125, "q25": 0.25, "median": 0.5, "q75": 0.75, "q87_5": 0.875}
BLOCK = 4
STATS = [*QUANTILES, "mean", "beta", "beta_centred", "n"]

Removals = dict[tuple[str, str], np.ndarray]
"""Per writer and later head the share [token] of the writer's output that the head takes away."""


def fake_terms(
    layout: Layout, n_tokens: int, d_model: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], Removals]:
    """Each term's output [token, d_model], later heads removing part of what some earlier writers wrote."""
    terms: dict[str, np.ndarray] = {}
    removals: Removals = {}
    victims = ["pos_embed", *[label for label in layout.heads if label.startswith("L0")][1::3]]
    for label in layout.terms:
        layer = 0 if label.endswith("embed") else int("".join(c if c.isdigit() else " " for c in label).split()[0])
        constant = rng.normal(size=d_model) * rng.uniform(0.2, 1.0)
        noise = rng.normal(size=(n_tokens, d_model)) * rng.uniform(0.3, 1.0)
        output = (constant + noise) * (0.9 if label.endswith("embed") else 0.5 * 1.1 ** min(layer, 10))
        output = constant * 0.1 + np.zeros_like(noise) if label.startswith("b_O") else output
        if label.startswith("L") and layer > 0:
            output *= 0.5
            share = rng.uniform(0.3, 1.2) / layout.n_heads / max(1, (layout.n_layers - 1) / 2)
            for victim in victims:
                removed = share * rng.uniform(0.3, 1.7, size=(n_tokens, 1))
                output = output - removed * terms[victim]
                removals[victim, label] = removed[:, 0]
        terms[label] = output
    return terms, removals


def projection_rows(parts: dict[str, np.ndarray], writer: str, output: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of the projection ratio of each part onto one writer."""
    stacked = np.stack(list(parts.values()), axis=1)
    power = (output**2).sum(axis=1)
    if not power.any():
        nothing = np.full(len(parts), np.nan)
        return {**dict.fromkeys(STATS, nothing), "n": np.zeros(len(parts), dtype=int)}
    dots = np.einsum("tcd,td->tc", stacked, output)
    ratios = dots / power[:, None]
    centred = output - output.mean(axis=0)
    stacked_centred = stacked - stacked.mean(axis=0)
    rows = {name: np.quantile(ratios, q, axis=0) for name, q in QUANTILES.items()}
    rows["mean"] = ratios.mean(axis=0)
    rows["beta"] = dots.sum(axis=0) / power.sum()
    rows["beta_centred"] = np.einsum("tcd,td->c", stacked_centred, centred) / (centred**2).sum()
    rows["n"] = np.full(len(parts), len(output))
    return rows


def effective_rows(states: dict[str, np.ndarray], first: str, output: np.ndarray) -> dict[str, np.ndarray | float]:
    """What a reader of each state sees of a writer, whose output ``first`` is the first state to hold."""
    power = (output**2).sum(axis=1)
    names = (*(f"effective_{name}" for name in QUANTILES), "effective_beta", "diluted", "constant_share")
    if not power.any():
        return dict.fromkeys(names, np.nan)
    kept = np.stack([states[first].std(axis=1) / state.std(axis=1) for state in states.values()], axis=1)
    dots = kept * np.stack([(state * output).sum(axis=1) for state in states.values()], axis=1)
    rows: dict[str, np.ndarray | float] = {
        f"effective_{name}": np.quantile(dots / power[:, None], q, axis=0) for name, q in QUANTILES.items()
    }
    rows["effective_beta"] = dots.sum(axis=0) / power.sum()
    rows["diluted"] = 1.0 - (kept * power[:, None]).sum(axis=0) / power.sum()
    return rows | {"constant_share": len(output) * float((output.mean(axis=0) ** 2).sum() / power.sum())}


def correlations(own: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of each row of ``values`` [eraser, token] against ``own`` [token]; NaN for a row of zeros."""

    def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x - x.mean(), y - y.mean(axis=-1, keepdims=True)
        return (y @ x) / np.sqrt((x @ x) * (y**2).sum(axis=-1))

    values = np.where(values.any(axis=-1, keepdims=True), values, np.nan)
    r = pearson(own, values)
    slope = r * values.std(axis=-1) / own.std()
    # a line without scatter has no interval to speak of
    bounded = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    reach = 1.96 / np.sqrt(max(len(own) - 3, 1))
    ranks = np.where(np.isnan(values), np.nan, values.argsort(axis=-1).argsort(axis=-1))
    return {
        "r": r,
        "spearman": pearson(own.argsort().argsort().astype(float), ranks),
        "slope": slope,
        "intercept": values.mean(axis=-1) - slope * own.mean(),
        "low": np.tanh(np.arctanh(bounded) - reach),
        "high": np.tanh(np.arctanh(bounded) + reach),
    }


def quantile_columns(values: np.ndarray, run: str = "") -> dict[str, float]:
    """Five quantiles of a run's ratios."""
    return {f"{run}_{name}".lstrip("_"): float(np.quantile(values, share)) for name, share in QUANTILES.items()}


class Invented(NamedTuple):
    """What a model's tables are computed from; ``parts`` are the V-composed parts [token, d_model] by writer and head."""

    name: str
    layout: Layout
    terms: dict[str, np.ndarray]
    parts: dict[str, dict[str, np.ndarray]]
    unembedding: np.ndarray
    seq_len: int

    @property
    def prompt(self) -> np.ndarray:
        """Each token's prompt."""
        return np.arange(len(self.unembedding)) // self.seq_len

    @property
    def position(self) -> np.ndarray:
        """Each token's position."""
        return np.arange(len(self.unembedding)) % self.seq_len

    @property
    def block(self) -> np.ndarray:
        """Each token's block of prompts."""
        return self.prompt // BLOCK

    @property
    def partner(self) -> np.ndarray:
        """Index of the token at the same position of the next prompt."""
        return np.roll(np.arange(len(self.unembedding)), -self.seq_len)

    def dla(self, output: np.ndarray) -> np.ndarray:
        """Direct logit attribution of an output at every token."""
        return (output * self.unembedding).sum(axis=-1)


class FakeTarget(NamedTuple):
    """A verified writer, the heads of its group, and how they were chosen."""

    writer: str
    heads: tuple[str, ...]
    chosen: str

    @property
    def label(self) -> str:
        """As tables name the group."""
        return "later" if self.chosen == "all" else "+".join(self.heads)

    @property
    def keys(self) -> dict[str, str]:
        """What every row of the target begins with."""
        return {"writer": self.writer, "eraser": self.label}


def ratios(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Projection ratio of each token."""
    return (a * b).sum(axis=-1) / (b * b).sum(axis=-1)


def beta_columns(invented: Invented, a: np.ndarray, b: np.ndarray, name: str = "beta") -> dict[str, float]:
    """Pooled coefficient, and its interval from drawing blocks again."""
    over, under = (a * b).sum(axis=-1), (b * b).sum(axis=-1)
    beta = float(over.sum() / under.sum())
    n_blocks = int(invented.block.max()) + 1
    if n_blocks < 2:
        return {name: beta, f"{name}_low": np.nan, f"{name}_high": np.nan}
    weights = np.random.default_rng(0).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=200)
    sums = [np.bincount(invented.block, values, n_blocks) for values in (over, under)]
    low, high = np.quantile((weights @ sums[0]) / (weights @ sums[1]), [0.025, 0.975])
    return {name: beta, f"{name}_low": float(low), f"{name}_high": float(high)}


def summed(vectors: dict[str, np.ndarray], heads: Sequence[str]) -> np.ndarray:
    """The heads' vectors together."""
    return np.sum([vectors[head] for head in heads], axis=0)
