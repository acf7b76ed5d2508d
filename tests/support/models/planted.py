"""Planted models: processed weights in which one head erases a known part of what one writer wrote, token by token.

What a planted writer writes is a function of the token (or the position) alone, and what its eraser writes is −fraction
times what the writer put into its store at the attended positions (``planting`` has the subspaces). ``expected``
computes both from the construction, without a forward pass, and with them every row of the tables that belongs to the
writer: all other components are orthogonal to it. Planted heads read nothing but their store, so that all they write is
V-composed with the writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from erasure_sweep.workers.labels import layer_of
from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.models.planting import ATTENDS, Attend, Builder, attended, head_index, small_config
from tests.support.oracle.scan import QUANTILES, TAU


class Planted(NamedTuple):
    """A planted model, and who does what in it."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """As ``workers.models.forward.weight_shapes`` names them, float64."""
    writer: str
    eraser: str
    reinforcer: str | None
    """A head beside the eraser that adds ``reinforcement`` times the stored part at its own position."""
    fraction: float
    reinforcement: float
    attend: Attend
    store: np.ndarray
    table: np.ndarray
    """What the writer makes of each token, by its id, or by position for ``pos_embed``."""
    writes: Attend = "self"
    """From where the writer has that."""

    def expected(self, tokens: Tensor | np.ndarray, positions: Tensor | np.ndarray | None = None) -> Expected:
        """What the construction says of the writer; arguments as ``tests.support.oracle.scan.measure`` takes them."""
        ids = np.asarray(tokens)
        rows = np.broadcast_to(np.arange(ids.shape[1]), ids.shape) if self.writer == "pos_embed" else ids
        written = attended(self.writes, ids.shape[1]) @ self.table[rows]
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
        parts["later"] = sum((v for label, v in self.vectors.items() if label != self.planted.writer), zero)
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
        """Heads consistently negative onto the writer: the eraser, the reinforcer, both or neither, as PRs have it.

        They are ``writers.opposing`` until reading is measured and ``writers.erasers`` from then on.
        """
        heads = [label for label in self.planted.config.layout.heads if label in self.vectors]
        later = [label for label in heads if layer_of(label) > layer_of(self.planted.writer)]
        return "+".join(h for h in later if np.median(self.pr(h)) <= -TAU and np.quantile(self.pr(h), 0.75) < 0.0)


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
    varied: bool = False,
) -> Planted:
    """Build a planted model.

    Args:
        seed: of all that is random in it.
        attend: where the eraser attends to.
        fraction: how much of what it reads the eraser takes away; 0 leaves a head that writes nothing at all.
        writer: a head, an MLP, ``embed`` or ``pos_embed``.
        eraser: a head of a later layer; by default the last layer's first.
        reinforcement: what the head behind the eraser (cyclically) adds; there is none where layers have one head.
        varied: most of what varies in the stream is none of the writer's.

    Raises:
        ValueError: the eraser is not later than the writer, or the widths leave no room for the subspaces.
    """
    shape = {"d_model": d_model, "d_head": d_head, "n_ctx": n_ctx, "d_vocab": d_vocab, "attn_only": attn_only}
    config = small_config(n_layers, n_heads, **shape)
    eraser = eraser or f"L{n_layers - 1}H0"
    if layer_of(eraser) <= layer_of(writer):
        raise ValueError(f"eraser {eraser} is not in a layer behind writer {writer}")
    builder = Builder(config, np.random.default_rng(seed))
    table = builder.plant_writer(writer)
    if varied:
        builder.vary_elsewhere()
    builder.plant_reader(eraser, attend, -fraction)
    layer, head = head_index(eraser)
    reinforcer = f"L{layer}H{(head + 1) % n_heads}" if n_heads > 1 else None
    if reinforcer is not None:
        builder.plant_reader(reinforcer, "self", reinforcement)
    store, weights = builder.bases.stores[0], builder.tensors()
    return Planted(config, weights, writer, eraser, reinforcer, fraction, reinforcement, attend, store, table)


class Garden(NamedTuple):
    """A quiet model with several plants, or with none."""

    config: ModelConfig
    weights: dict[str, Tensor]
    plants: tuple[Planted, ...]
    """Without reinforcers; each writer has a store of its own."""

    def erasers(self, tokens: Tensor | np.ndarray, positions: Tensor | np.ndarray | None = None) -> dict[str, str]:
        """``writers.erasers`` of every writer."""
        by_plant = {plant.writer: plant.expected(tokens, positions).opposing() for plant in self.plants}
        return {writer: by_plant.get(writer, "") for writer in self.config.layout.writers}


def plant_several(
    seed: int, n_plants: int = 3, *, n_layers: int = 4, n_heads: int = 3, attn_only: bool = False, n_ctx: int = 16
) -> Garden:
    """Plant at random places: distinct writers (at most one of them an embedding) and distinct erasers behind them.

    Args:
        seed: of places, fractions, what is attended to and all weights.
        n_plants: how many; three have the three ways of attending, in random order.
        n_layers, n_heads, attn_only, n_ctx: the shape.
    """
    rng = np.random.default_rng(seed)
    config = small_config(n_layers, n_heads, d_model=64, attn_only=attn_only, n_ctx=n_ctx)
    builder = Builder(config, rng, max(n_plants, 1), quiet=True, shared=2.0)
    attends, places = rng.permutation(ATTENDS), _places(config, rng, n_plants)
    tables, fractions = [], np.round(rng.uniform(0.5, 1.2, n_plants), 2).tolist()
    for store, (writer, eraser) in enumerate(places):
        tables.append(builder.plant_writer(writer, store))
        builder.plant_reader(eraser, attends[store % len(attends)], -fractions[store], store)
    weights, stores = builder.tensors(), builder.bases.stores
    plants = [
        Planted(config, weights, writer, eraser, None, fractions[i], 0.0, attends[i % 3], stores[i], tables[i])
        for i, (writer, eraser) in enumerate(places)
    ]
    return Garden(config, weights, tuple(plants))


def _places(config: ModelConfig, rng: np.random.Generator, n_plants: int) -> list[tuple[str, str]]:
    """Writers and, behind each, an eraser; no component has two parts to play."""
    layout, taken, places = config.layout, set(), []
    # Only one embedding can be without the carrier.
    taken.add(str(rng.choice(["embed", "pos_embed"])))
    while len(places) < n_plants:
        writer, eraser = str(rng.choice(layout.writers)), str(rng.choice(layout.heads))
        if layer_of(eraser) > layer_of(writer) and not {writer, eraser} & taken:
            places.append((writer, eraser))
            taken |= {writer, eraser}
    return places


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
    if "erasers" not in ledger or pd.isna(ledger["erasers"]):
        assert ledger["opposing"] == expected.opposing()


def assert_reading_matches_construction(
    tables: Mapping[str, pd.DataFrame],
    planted: Planted,
    tokens: Tensor | np.ndarray,
    positions: Tensor | np.ndarray | None = None,
    *,
    tolerance: float = 1e-3,
    sketched: bool = False,
) -> None:
    """Fail where what is V-composed with the planted writer differs from the construction: all that planted heads do.

    Args: as ``assert_matches_construction`` takes them; the tables are ``v_composition`` and ``writers``.
    """
    expected, slack = planted.expected(tokens, positions), 0.004 if sketched else 0.0
    rows = tables["v_composition"][tables["v_composition"]["writer"] == planted.writer].set_index("eraser")
    assert set(rows["n"]) == {len(expected.written)}
    assert {"later", planted.eraser, f"attn{layer_of(planted.eraser)}"} <= set(rows.index)
    for eraser, row in rows.iterrows():
        ratios = dict(zip(QUANTILES, np.quantile(expected.pr(eraser), list(QUANTILES.values())), strict=True))
        for spread, share in (("clean", 1.0), ("patched", 0.0), ("v_composed", 1.0)):
            quantiles = {f"{spread}_{name}": share * value for name, value in ratios.items()}
            _assert_row(f"v_composition {eraser}", row, quantiles, tolerance, slack)
        coefficients = {"beta": expected.beta(eraser), "beta_centred": expected.beta(eraser, centred=True)}
        _assert_row(f"v_composition {eraser}", row, coefficients, tolerance)
    ledger = tables["writers"].set_index("writer").loc[planted.writer]
    erased = {"erased": -expected.beta("later")}
    erased |= {"erased_centred": -expected.beta("later", centred=True)}
    _assert_row("writers", ledger, erased, tolerance)
    assert (ledger["erasers"], ledger["opposing"]) == (expected.opposing(), "")
    if ledger["erasers"]:
        _assert_row("writers", ledger, {"v_composition_share": 1.0}, tolerance)


def _assert_row(
    where: str, row: pd.Series, expected: Mapping[str, float], tolerance: float, slack: float = 0.0
) -> None:
    for column, value in expected.items():
        allowed = tolerance * max(1.0, abs(value)) + slack * (1.0 + abs(value))
        found = float(row[column])
        assert abs(found - value) <= allowed, f"{where}.{column}: {found!r}, by construction {value!r}, ±{allowed:.2g}"
