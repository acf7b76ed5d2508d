"""Planted models: processed weights in which one head erases a known part of what one writer wrote, token by token.

The residual stream is cut into orthogonal subspaces of the vectors whose entries sum to zero (so that LayerNorm's
centring leaves them alone):

- *carrier*, one direction that an embedding fills with a constant much larger than everything else, so that the
  LayerNorm scale is the same at every token of every layer to within 5e-4;
- *code*, written by ``embed``: a vector per token, with a part that all tokens share;
- *clock*, written by ``pos_embed``: positions on circles, from which planted heads attend to a chosen position;
- *store*, in which the writer alone writes, and which the eraser and the reinforcer read and write;
- *rest*, where all other heads, MLPs and biases write; they read everything but the carrier.

What the writer writes is then a function of the token (or the position) alone, and what the eraser writes is −fraction
times what the writer put into the store at the attended positions. ``expected`` computes both from the construction,
without a forward pass, and with them every row of the tables that belongs to the writer: all other components are
orthogonal to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tests.oracle import QUANTILES, TAU, activate
from workers.components import layer_of
from workers.trace import ModelConfig, default_attn_scale, weight_shapes

Attend = Literal["self", "previous", "uniform"]
ATTENDS: tuple[Attend, ...] = ("self", "previous", "uniform")

CARRIER = 300.0
"""Length of the constant part of the stream; all else together stays near 5."""
CODE_DIM, STORE_DIM, CIRCLES = 6, 4, 4
VARIATION = 0.3
"""Size of what differs between tokens in each code dimension, beside a shared part of length one."""
SHARPNESS = 20.0
"""How far the score of the attended position lies above all others: e⁻²⁰ of the attention goes elsewhere."""


class Subspaces(NamedTuple):
    """Orthonormal bases, one direction per row."""

    carrier: np.ndarray
    code: np.ndarray
    clock: np.ndarray
    store: np.ndarray
    rest: np.ndarray


class Planted(NamedTuple):
    """A planted model, and who does what in it."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """As ``workers.trace.weight_shapes`` names them, float64."""
    writer: str
    eraser: str
    reinforcer: str | None
    """A head beside the eraser that adds ``reinforcement`` times the stored part at its own position."""
    fraction: float
    reinforcement: float
    attend: Attend
    store: np.ndarray
    table: np.ndarray
    """The writer's output vector by token id, or by position for ``pos_embed``."""

    def expected(self, tokens: Tensor | np.ndarray, positions: Tensor | np.ndarray | None = None) -> Expected:
        """What the construction says of the writer; arguments as ``tests.oracle.measure`` takes them."""
        ids = np.asarray(tokens)
        rows = np.broadcast_to(np.arange(ids.shape[1]), ids.shape) if self.writer == "pos_embed" else ids
        written = self.table[rows]
        stored = written @ self.store.T @ self.store
        vectors = {self.writer: written, self.eraser: -self.fraction * (attended(self.attend, ids.shape[1]) @ stored)}
        if self.reinforcer is not None:
            vectors[self.reinforcer] = self.reinforcement * stored
        kept = np.broadcast_to(np.arange(ids.shape[1]), ids.shape) if positions is None else np.asarray(positions)
        prompts = np.arange(len(ids))[:, None]
        return Expected(
            self, {label: array[prompts, kept].reshape(-1, array.shape[-1]) for label, array in vectors.items()}
        )


class Expected(NamedTuple):
    """What the construction says at the measured tokens, prompts and positions flattened."""

    planted: Planted
    vectors: dict[str, np.ndarray]
    """Outputs [token, d_model] of the components that touch the store; all others are orthogonal to the writer."""

    @property
    def written(self) -> np.ndarray:
        return self.vectors[self.planted.writer]

    def along_writer(self) -> dict[str, np.ndarray]:
        """Every component's and state's vectors [token, d_model], without what is orthogonal to the writer."""
        layout, zero = self.planted.config.layout, np.zeros_like(self.written)
        terms = {label: self.vectors.get(label, zero) for label in layout.terms}
        parts = dict(terms)
        for layer in range(layout.n_layers):
            parts[f"attn{layer}"] = sum(
                (v for label, v in self.vectors.items() if label.startswith(f"L{layer}H")), zero
            )
        for state, end in zip(layout.states, layout.state_ends, strict=True):
            parts[state] = sum(list(terms.values())[:end], zero)
        return parts

    def pr(self, label: str) -> np.ndarray:
        """PR of a component or state onto the writer, per token."""
        w = self.written
        return (self.along_writer()[label] * w).sum(axis=1) / (w * w).sum(axis=1)

    def beta(self, label: str, centred: bool = False) -> float:
        """β of a component or state onto the writer."""
        w, vectors = self.written, self.along_writer()[label]
        if centred:
            w, vectors = w - w.mean(axis=0), vectors - vectors.mean(axis=0)
        return float((vectors * w).sum() / (w * w).sum())

    def ledger(self) -> dict[str, float]:
        """The writer's row of ``writers``."""
        planted = self.planted
        changes = [label for label in (planted.eraser, planted.reinforcer) if label is not None]
        values = {}
        for suffix, centred in (("", False), ("_centred", True)):
            betas = [self.beta(label, centred) for label in changes]
            values |= {
                f"written{suffix}": 1.0,
                f"remaining{suffix}": 1.0 + sum(betas),
                f"reinforced{suffix}": sum(beta for beta in betas if beta > 0.0),
                f"opposed{suffix}": sum(beta for beta in betas if beta < 0.0),
            }
        return values

    def opposing(self) -> str:
        """``writers.opposing``: the eraser, the reinforcer, both or neither, as their PRs have it."""
        heads = [label for label in self.planted.config.layout.heads if label in self.vectors]
        later = [label for label in heads if layer_of(label) > layer_of(self.planted.writer)]
        return "+".join(h for h in later if np.median(self.pr(h)) <= -TAU and np.quantile(self.pr(h), 0.75) < 0.0)


def attended(attend: Attend, n: int) -> np.ndarray:
    """The eraser's attention pattern [query, key]; the first position has none before it and attends to itself."""
    if attend == "uniform":
        return np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None]
    offset = 1 if attend == "previous" else 0
    return np.eye(n)[np.maximum(np.arange(n) - offset, 0)]


def plant(
    seed: int,
    attend: Attend = "self",
    fraction: float = 0.8,
    *,
    n_layers: int = 3,
    n_heads: int = 3,
    d_model: int = 48,
    d_head: int = 8,
    n_ctx: int = 16,
    d_vocab: int = 40,
    attn_only: bool = False,
    writer: str = "L0H0",
    eraser: str | None = None,
    reinforcement: float = 0.25,
) -> Planted:
    """Build a planted model.

    Args:
        seed: of all that is random in it.
        attend: where the eraser attends to.
        fraction: how much of what it reads the eraser takes away; 0 leaves a head that writes nothing at all.
        writer: a head, an MLP, ``embed`` or ``pos_embed``.
        eraser: a head of a later layer; by default the last layer's first.
        reinforcement: what the head behind the eraser (cyclically) adds; there is none where layers have one head.

    Raises:
        ValueError: the eraser is not later than the writer, or the widths leave no room for the subspaces.
    """
    config = ModelConfig(
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_head,
        d_mlp=2 * d_model,
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        act_fn="gelu",
        attn_only=attn_only,
        eps=1e-5,
        attn_scale=default_attn_scale(d_head),
    )
    eraser = eraser or f"L{n_layers - 1}H0"
    if layer_of(eraser) <= layer_of(writer):
        raise ValueError(f"eraser {eraser} is not in a layer behind writer {writer}")
    builder = _Builder(config, np.random.default_rng(seed))
    table = builder.plant_writer(writer)
    builder.plant_reader(eraser, attend, -fraction)
    layer, head = layer_of(eraser), int(eraser.split("H")[1])
    reinforcer = f"L{layer}H{(head + 1) % n_heads}" if n_heads > 1 else None
    if reinforcer is not None:
        builder.plant_reader(reinforcer, "self", reinforcement)
    weights = {name: torch.from_numpy(builder.weights[name]) for name in weight_shapes(config)}
    return Planted(
        config, weights, writer, eraser, reinforcer, fraction, reinforcement, attend, builder.bases.store, table
    )


class _Builder:
    """A random model whose components leave the store alone, and what is then planted into it.

    Weights that read are multiplied by the LayerNorm scale, so that readers see the stream as it was written.
    """

    def __init__(self, config: ModelConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.bases = _subspaces(config, rng)
        self.scale = math.sqrt(CARRIER**2 / config.d_model + config.eps)
        self.weights = self._background()

    def normal(self, *shape: int, std: float) -> np.ndarray:
        return std * self.rng.standard_normal(shape)

    def _reading(self, *shape: int, std: float) -> np.ndarray:
        """Random weights [*leading, d_model, width] that read everything but the carrier."""
        seen = np.eye(self.config.d_model) - self.bases.carrier.T @ self.bases.carrier
        return self.scale * seen @ self.normal(*shape, std=std)

    def _writing(self, *shape: int, std: float) -> np.ndarray:
        """Random weights [*leading, d_model] that write into the rest."""
        return self.normal(*shape[:-1], len(self.bases.rest), std=std) @ self.bases.rest

    def _background(self) -> dict[str, np.ndarray]:
        shapes, width = weight_shapes(self.config), 1.0 / math.sqrt(self.config.d_model)
        weights = {name: self._reading(*shapes[name], std=width) for name in ("W_Q", "W_K", "W_V")}
        weights |= {name: self.normal(*shapes[name], std=0.2) for name in ("b_Q", "b_K", "b_U")}
        weights |= {"W_O": self._writing(*shapes["W_O"], std=width), "b_O": self._writing(*shapes["b_O"], std=0.1)}
        if not self.config.attn_only:
            weights |= {
                "W_in": self._reading(*shapes["W_in"], std=width),
                "b_in": self.normal(*shapes["b_in"], std=0.2),
            }
            weights |= {"W_out": self._writing(*shapes["W_out"], std=width)}
            weights |= {"b_out": self._writing(*shapes["b_out"], std=0.1)}
        weights["W_U"] = self._reading(*shapes["W_U"], std=width)
        weights["W_E"] = self._code() @ self.bases.code
        weights["W_pos"] = self._clock() @ self.bases.clock + CARRIER * self.bases.carrier
        return weights

    def _code(self) -> np.ndarray:
        """Code of each token: one shared dimension, the others its own."""
        own = self.normal(self.config.d_vocab, CODE_DIM - 1, std=VARIATION)
        return np.concatenate([np.ones((self.config.d_vocab, 1)), own], axis=1)

    def _angles(self, steps: np.ndarray) -> np.ndarray:
        """Angles [step, circle] of some steps along the positions."""
        circles = len(self.bases.clock) // 2
        return 2.0 * np.pi * steps[:, None] * np.arange(1, circles + 1) / self.config.n_ctx

    def _clock(self) -> np.ndarray:
        """Clock of each position: cosines, then sines, of one to four turns per context; length one."""
        angles = self._angles(np.arange(self.config.n_ctx))
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / math.sqrt(angles.shape[1])

    def _attend(self, layer: int, head: int, attend: Attend) -> None:
        """Make a head's attention what ``attended`` says: query and key are clocks, the query's turned back."""
        w = self.weights
        for name in ("W_Q", "W_K", "b_Q", "b_K"):
            w[name][layer, head] = 0.0
        if attend == "uniform":
            return
        overlap = np.cos(self._angles(np.arange(1, self.config.n_ctx))).mean(axis=1)
        gain = math.sqrt(SHARPNESS * self.config.attn_scale / (1.0 - overlap.max()))
        turn = self._angles(np.array([1.0 if attend == "previous" else 0.0]))[0]
        cosine, sine = np.diag(np.cos(turn)), np.diag(np.sin(turn))
        turned = np.block([[cosine, -sine], [sine, cosine]])
        width = len(self.bases.clock)
        w["W_Q"][layer, head, :, :width] = gain * self.scale * self.bases.clock.T @ turned
        w["W_K"][layer, head, :, :width] = gain * self.scale * self.bases.clock.T

    def plant_reader(self, head_label: str, attend: Attend, amount: float) -> None:
        """Make a head write ``amount`` times what the store holds where it attends to."""
        layer, head = layer_of(head_label), int(head_label.split("H")[1])
        self._attend(layer, head, attend)
        inner = np.linalg.qr(self.normal(self.config.d_head, STORE_DIM, std=1.0))[0]
        self.weights["W_V"][layer, head] = self.scale * self.bases.store.T @ inner.T
        self.weights["W_O"][layer, head] = amount * inner @ self.bases.store

    def plant_writer(self, writer: str) -> np.ndarray:
        """Make a component the store's only writer; its output by token id, by position for ``pos_embed``."""
        if writer in ("embed", "pos_embed"):
            return self._plant_embedding(writer)
        return self._plant_mlp(layer_of(writer)) if writer.startswith("MLP") else self._plant_head(writer)

    def _plant_embedding(self, writer: str) -> np.ndarray:
        own, other = ("W_E", "W_pos") if writer == "embed" else ("W_pos", "W_E")
        shared, varied = self.normal(STORE_DIM, std=1.0), self.normal(len(self.weights[own]), STORE_DIM, std=VARIATION)
        if writer == "pos_embed":
            self.weights[own] = self.weights[own] - CARRIER * self.bases.carrier
            self.weights[other] = self.weights[other] + CARRIER * self.bases.carrier
        self.weights[own] = self.weights[own] + (shared + varied) @ self.bases.store
        return self.weights[own]

    def _plant_head(self, writer: str) -> np.ndarray:
        layer, head = layer_of(writer), int(writer.split("H")[1])
        self._attend(layer, head, "self")
        into = self.normal(CODE_DIM, self.config.d_head, std=1.0 / math.sqrt(CODE_DIM))
        out = self.normal(self.config.d_head, STORE_DIM, std=1.0)
        self.weights["W_V"][layer, head] = self.scale * self.bases.code.T @ into
        self.weights["W_O"][layer, head] = out @ self.bases.store
        return self.weights["W_E"] @ self.bases.code.T @ into @ out @ self.bases.store

    def _plant_mlp(self, layer: int) -> np.ndarray:
        w, hidden = self.weights, self.config.d_mlp
        into = self.normal(CODE_DIM, hidden, std=1.0)
        w["W_in"][layer] = self.scale * self.bases.code.T @ into
        w["W_out"][layer] = self.normal(hidden, STORE_DIM, std=2.0 / math.sqrt(hidden)) @ self.bases.store
        w["b_out"][layer] = self.normal(STORE_DIM, std=0.5) @ self.bases.store
        return (
            activate("gelu", w["W_E"] @ self.bases.code.T @ into + w["b_in"][layer]) @ w["W_out"][layer]
            + w["b_out"][layer]
        )


def _subspaces(config: ModelConfig, rng: np.random.Generator) -> Subspaces:
    """Cut the vectors whose entries sum to zero into orthogonal subspaces at random."""
    clock_dim = 2 * min(CIRCLES, config.d_head // 2)
    sizes = [1, CODE_DIM, clock_dim, STORE_DIM]
    rest = config.d_model - 1 - sum(sizes)
    if rest < 1 or config.d_head < STORE_DIM:
        raise ValueError(f"d_model {config.d_model} and d_head {config.d_head} are too small to plant in")
    ones = np.ones((config.d_model, 1))
    basis = np.linalg.qr(np.concatenate([ones, rng.standard_normal((config.d_model, config.d_model - 1))], axis=1))[0]
    return Subspaces(*np.split(basis.T[1:], np.cumsum(sizes)))


def assert_matches_construction(
    tables: Mapping[str, pd.DataFrame],
    planted: Planted,
    tokens: Tensor | np.ndarray,
    positions: Tensor | np.ndarray | None = None,
    *,
    tolerance: float = 1e-3,
    sketched: bool = False,
) -> None:
    """Fail where a table's rows of the planted writer differ from what the construction says.

    Args:
        tables: of any measure of projections, with or without further columns and writers.
        planted, tokens, positions: what was measured.
        tolerance: of every number, relative above one.
        sketched: the quantiles come from a sketch, which may add 0.004 + 0.4 %.
    """
    expected = planted.expected(tokens, positions)
    for name, key in (("residual_projection", "state"), ("component_projection", "component")):
        rows = tables[name][tables[name]["writer"] == planted.writer].set_index(key)
        labels = planted.config.layout.states if key == "state" else planted.config.layout.components
        assert list(rows.index) == [label for label in labels if label != planted.writer]
        assert set(rows["n"]) == {len(expected.written)}
        for label in rows.index:
            where, row, slack = f"{name} {label}", rows.loc[label], 0.004 if sketched else 0.0
            quantiles = dict(zip(QUANTILES, np.quantile(expected.pr(label), list(QUANTILES.values())), strict=True))
            _assert_row(where, row, quantiles, tolerance, slack)
            coefficients = {"beta": expected.beta(label), "beta_centred": expected.beta(label, centred=True)}
            _assert_row(where, row, {"mean": float(expected.pr(label).mean())} | coefficients, tolerance)
    ledger = tables["writers"].set_index("writer").loc[planted.writer]
    _assert_row("writers", ledger, expected.ledger(), tolerance)
    assert ledger["opposing"] == expected.opposing()


def _assert_row(
    where: str, row: pd.Series, expected: Mapping[str, float], tolerance: float, slack: float = 0.0
) -> None:
    for column, value in expected.items():
        allowed = tolerance * max(1.0, abs(value)) + slack * (1.0 + abs(value))
        found = float(row[column])
        assert abs(found - value) <= allowed, f"{where}.{column}: {found!r}, by construction {value!r}, ±{allowed:.2g}"
