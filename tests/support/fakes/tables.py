"""Tables of invented models, consistent with each other: what figures and pages are tested and looked at with.

Terms of the residual stream are drawn as random vectors, a constant part plus noise per token; chosen heads of later
layers also write minus a part of what an earlier writer wrote. All tables are then computed from these vectors by
their definitions, so medians, coefficients and the ledger fit together as they would in a real model.

With ``reading=True`` a model also has what is measured of V-composition and DLA: of the parts that later heads take
away, those from heads are read, those from ``pos_embed`` are read by half of the heads and a coincidence in the others.
With ``verify=True`` it has verified some writers as well (``tests/support/fakes/verify.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from erasure_sweep.dashboards.grids import Grid, grid_of, residual_of
from erasure_sweep.workers.labels import Layout
from erasure_sweep.workers.manifest import Manifest, ManifestEntry
from erasure_sweep.workers.tables import SCHEMA_VERSION
from erasure_sweep.workers.tables.sweep_folder import ModelTables
from tests.support.fakes.terms import (
    QUANTILES,
    STATS,
    Invented,
    Removals,
    correlations,
    effective_rows,
    fake_terms,
    projection_rows,
)
from tests.support.fakes.verify import add_verify

NULL_WRITER_COLUMNS = ["v_composition_share", "dla_r", "dla_slope", "net_r", "net_slope", "rank"]
TAU = 0.05

Sums = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Values [head, …] by eraser, with the sums that are measured too."""


def ledger_row(layout: Layout, writer: str, betas: dict[str, float], at_states: dict[str, float]) -> dict[str, float]:
    """Written, remaining, reinforced and opposed from pooled coefficients of terms and states."""
    written_at = layout.written_state(writer)
    later = [betas[label] for label in layout.terms[layout.state_ends[written_at] :]]
    return {
        "written": at_states[layout.states[written_at]],
        "remaining": at_states[layout.states[-1]],
        "reinforced": sum(max(beta, 0.0) for beta in later),
        "opposed": sum(min(beta, 0.0) for beta in later),
    }


def opposing_heads(layout: Layout, writer: str, rows: dict[str, np.ndarray], labels: list[str]) -> str | None:
    """Later heads that are consistently negative, or None for a writer that was not measured."""
    end = layout.state_ends[layout.written_state(writer)]
    later = set(layout.terms[end:]) & set(layout.heads)
    if np.isnan(rows["median"]).all():
        return None
    found = [
        label
        for label, median, upper in zip(labels, rows["median"], rows["q75"], strict=True)
        if label in later and median <= -0.05 and upper < 0
    ]
    return "+".join(found)


def fake_model(
    name: str = "fake-4l",
    n_layers: int = 4,
    n_heads: int = 8,
    *,
    attn_only: bool = False,
    seed: int = 0,
    n_tokens: int = 96,
    d_model: int = 200,
    zero: tuple[str, ...] = (),
    reading: bool = False,
    verify: bool = False,
    groups: dict[str, tuple[str, ...]] | None = None,
    seq_len: int = 12,
    tokenizer: bool = True,
    **about: Any,
) -> ModelTables:
    """A model's manifest entry and its tables; outputs of the writers named in ``zero`` are zero everywhere.

    Without ``reading`` it is a run that did not measure V-composition: its tables are three, with nulls in ``writers``.
    With it, ``groups`` are named writers, and for each some heads of later layers that are measured together. With
    ``verify`` they are verified, and the three writers that rank highest; tokens are those of prompts of ``seq_len``.
    """
    rng = np.random.default_rng(seed)
    layout = Layout(n_layers, n_heads, attn_only)
    terms, removals = fake_terms(layout, n_tokens, d_model, rng)
    terms.update({label: np.zeros_like(terms[label]) for label in zero})
    order = list(terms)
    states = {
        state: sum(terms[t] for t in order[:end]) for state, end in zip(layout.states, layout.state_ends, strict=True)
    }
    sums = {f"attn{i}": sum(terms[t] for t in order[s]) for i, s in enumerate(layout.attention_slices)}
    everything = {label: (terms | sums)[label] for label in layout.components}
    frames: dict[str, list[pd.DataFrame]] = {"residual_projection": [], "component_projection": []}
    writers = []
    for writer in layout.writers:
        by_state = projection_rows(states, writer, terms[writer])
        others = {label: part for label, part in everything.items() if label != writer}
        by_part = projection_rows(others, writer, terms[writer])
        frames["residual_projection"].append(
            _frame(name, writer, "state", list(states), by_state).assign(
                **effective_rows(states, layout.states[layout.written_state(writer)], terms[writer])
            )
        )
        frames["component_projection"].append(_frame(name, writer, "component", list(others), by_part))
        writers.append(_writer_row(name, layout, writer, by_state, by_part, list(others)))
    tables = {key: pd.concat(parts, ignore_index=True) for key, parts in frames.items()}
    final = tables["residual_projection"].groupby("writer")["diluted"].last()
    tables["writers"] = pd.DataFrame(writers).assign(diluted=lambda rows: rows["writer"].map(final))
    if reading or verify:
        invented = Invented(name, layout, terms, {}, np.empty(0), min(seq_len, n_tokens))
        invented = add_reading(invented, removals, tables, np.random.default_rng([seed, 1]), groups or {})
        if verify:
            add_verify(invented, tables, np.random.default_rng([seed, 2]), groups or {}, tokenizer=tokenizer)
    entry = {
        **{
            "name": name,
            "spec": name,
            "hash": f"{seed:016x}",
            "folder": name,
            "n_layers": n_layers,
            "n_heads": n_heads,
        },
        **{
            "d_model": d_model,
            "d_head": d_model // n_heads,
            "d_mlp": None if attn_only else 4 * d_model,
            "n_ctx": 1024,
        },
        **{"d_vocab": 50257, "attn_only": attn_only, "n_params": n_layers * 12 * d_model**2, "act_fn": "gelu"},
        **{"base": name, "training_tokens": None, "training_steps": None, "corpus_name": "stdlib"},
        **{"corpus_fingerprint": "f" * 16, "n_prompts": 8, "n_tokens": n_tokens, "state": "FINISHED", "reason": None},
        **about,
    }
    return model_tables(entry, tables)


def fake_checkpoints(
    base: str, tokens: Sequence[int], *, tokens_per_step: int = 4096, seed: int = 0, **options: Any
) -> list[ModelTables]:
    """A model at points of its training, the last of them its final weights; erasing grows, of each writer at its own time.

    Args:
        tokens: after how many tokens, in order.
        options: of ``fake_model``.
    """
    final = fake_model(base, seed=seed, reading=True, **options)
    midpoints = np.random.default_rng([seed, 3]).uniform(0.65, 0.95, len(final.tables["writers"]))
    midpoint = dict(zip(final.tables["writers"]["writer"], midpoints, strict=True))
    found = []
    for n in tokens:
        name = base if n == tokens[-1] else f"{base}@{n}"
        progress = np.log1p(n) / np.log1p(tokens[-1])
        tables = {key: _grown(table, name, midpoint, progress) for key, table in final.tables.items()}
        about = {"name": name, "spec": name, "folder": name.replace("@", "_"), "base": base}
        steps = {"training_tokens": n, "training_steps": n // tokens_per_step}
        found.append(model_tables({**final.about.to_json(), **about, **steps}, tables))
    return found


def point(name: str, shares: dict[str, float], **about: object) -> ModelTables:
    """A model of which nothing but what is erased of each writer is known."""
    erased = list(shares.values())
    clear = [share > TAU for share in erased]
    writers = pd.DataFrame({"writer": list(shares), "erased": erased, "clearly_erased": clear})
    return model_tables({"name": name, "base": name.partition("@")[0], **about}, {"writers": writers})


def significant_pairs_table(significant: int | None) -> pd.DataFrame:
    """A table ``v_composition`` of a few pairs, so many of them significant; None where none was tested."""
    found: list[bool | None] = [None] if significant is None else [*[True] * significant, False, False]
    return pd.DataFrame({"writer": "embed", "eraser": "L1H0", "significant": pd.Series(found, dtype=object)})


def _grown(table: pd.DataFrame, name: str, midpoint: dict[str, float], progress: float) -> pd.DataFrame:
    """A table of an earlier point of training: what is erased by reading has grown to a part of what it will be."""
    table = table.assign(model=name)
    if "erased" in table:
        columns = ["erased", "erased_centred", "significant_erasers"]
    elif "clean_median" in table:
        columns = ["beta", "beta_centred"]
    else:
        return table
    middles = table["writer"].map(midpoint).to_numpy(dtype=float)
    share = 1 / (1 + np.exp(-40 * (progress - middles))) * (1 + np.exp(-40 * (1 - middles)))
    grown = table.assign(**{column: table[column] * share for column in columns if column in table})
    if "significant_erasers" in grown:
        grown["significant_erasers"] = grown["significant_erasers"].round()
    if "clearly_erased" in grown:
        grown["clearly_erased"] = (grown["erased"] > TAU).astype(object).where(table["clearly_erased"].notna(), None)
    if "rank" in grown:
        grown["rank"] = grown["erased"].rank(ascending=False, method="first")
    return grown


def _frame(model: str, writer: str, column: str, labels: list[str], rows: dict[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({"model": model, "writer": writer, column: labels, **{stat: rows[stat] for stat in STATS}})


def _writer_row(
    model: str,
    layout: Layout,
    writer: str,
    by_state: dict[str, np.ndarray],
    by_part: dict[str, np.ndarray],
    labels: list[str],
) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "writer": writer}
    for beta, suffix in (("beta", ""), ("beta_centred", "_centred")):
        betas = {writer: 0.0, **dict(zip(labels, by_part[beta], strict=True))}
        values = ledger_row(layout, writer, betas, dict(zip(layout.states, by_state[beta], strict=True)))
        if np.isnan(by_state[beta]).all():
            values = dict.fromkeys(values, np.nan)
        row.update({f"{key}{suffix}": value for key, value in values.items()})
        row[f"erased{suffix}"] = np.nan
    row |= {"clearly_erased": None, "erasers": None, "opposing": opposing_heads(layout, writer, by_part, labels)}
    return row | dict.fromkeys(NULL_WRITER_COLUMNS, np.nan)


def add_reading(
    invented: Invented,
    removals: Removals,
    tables: dict[str, pd.DataFrame],
    rng: np.random.Generator,
    groups: dict[str, tuple[str, ...]],
) -> Invented:
    """Add ``v_composition`` and ``dla_correlation``, complete ``writers`` from them; returns what heads have read too."""
    model, layout, terms = invented.name, invented.layout, invented.terms
    unembedding = rng.normal(size=next(iter(terms.values())).shape)
    read: dict[str, dict[str, np.ndarray]] = {}
    composition, correlation, rows = [], [], []
    for writer in layout.writers:
        heads = [label for label in layout.heads if layout.term_index[label] in layout.later_terms(writer)]
        row: dict[str, Any] = dict.fromkeys(COMPLETED, np.nan)
        if heads and terms[writer].any():
            parts = _read_parts(writer, heads, terms, removals, rng)
            read[writer] = dict(zip(heads, parts, strict=True))
            sums = partial(_with_sums, layout, heads, group=groups.get(writer, ()))
            composition.append(_composition_frame(model, writer, heads, parts, terms, sums))
            correlation.append(_correlation_frame(model, writer, heads, parts, terms, unembedding, sums))
            row = _reading_row(layout, writer, heads, composition[-1], correlation[-1], tables)
        elif heads:
            composition.append(_null_frame(model, layout, writer, heads))
        elif terms[writer].any():
            # measured, and there is none
            row |= {"clearly_erased": None, "erasers": "", "opposing": ""}
        rows.append(row)
    completed = tables["writers"].drop(columns=list(COMPLETED)).assign(**pd.DataFrame(rows).to_dict("series"))
    completed["rank"] = completed["erased"].rank(ascending=False, method="first")
    completed["clearly_erased"] = (
        completed["clearly_erased"].astype(object).where(completed["clearly_erased"].notna(), None)
    )
    completed["erasers"] = completed["erasers"].astype(object).where(completed["erasers"].notna(), None)
    completed["opposing"] = completed["opposing"].astype(object).where(completed["opposing"].notna(), None)
    tables["writers"] = completed[tables["writers"].columns]
    tables["v_composition"] = pd.concat(composition, ignore_index=True) if composition else pd.DataFrame()
    if composition:
        tables["erasure_shares"] = _shares_frame(tables["v_composition"])
    tables["dla_correlation"] = pd.concat(correlation, ignore_index=True) if correlation else pd.DataFrame()
    return invented._replace(parts=read, unembedding=unembedding)


COMPLETED = (
    "erased",
    "erased_centred",
    "clearly_erased",
    "erasers",
    "opposing",
    *NULL_WRITER_COLUMNS[:-1],
)


def _read_parts(
    writer: str, heads: list[str], terms: dict[str, np.ndarray], removals: Removals, rng: np.random.Generator
) -> np.ndarray:
    """V-composed parts [head, token, d_model]."""
    output = terms[writer]
    parts = []
    for index, head in enumerate(heads):
        read = removals.get((writer, head), np.zeros(len(output)))
        read = read * 0.05 if writer == "pos_embed" and index % 2 else read
        noise = rng.normal(size=output.shape) * 0.02 * np.abs(output).mean()
        parts.append(noise - read[:, None] * output * (rng.normal(size=(len(output), 1)) * 0.1 + 1))
    return np.stack(parts)


def _with_sums(
    layout: Layout, heads: list[str], values: np.ndarray, group: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Values [head, …] by eraser: each layer's heads, then their sum, then the sum of all and that of the group."""
    by_label = dict(zip(heads, values, strict=True))
    found: dict[str, np.ndarray] = {}
    for layer in range(layout.n_layers):
        own = {label: by_label[label] for label in heads if label.startswith(f"L{layer}H")}
        found |= own
        found |= {f"attn{layer}": np.sum(list(own.values()), axis=0)} if own else {}
    found["later"] = values.sum(axis=0)
    return found | ({"+".join(group): np.sum([by_label[label] for label in group], axis=0)} if group else {})


def _composition_frame(
    model: str, writer: str, heads: list[str], parts: np.ndarray, terms: dict[str, np.ndarray], sums: Sums
) -> pd.DataFrame:
    full = sums(np.stack([terms[head] for head in heads]))
    composed = sums(parts)
    rest = {label: full[label] - composed[label] for label in full}
    columns: dict[str, Any] = {"model": model, "writer": writer, "eraser": list(full)}
    for name, part in (("clean", full), ("patched", rest), ("v_composed", composed)):
        rows = projection_rows(part, writer, terms[writer])
        columns |= {f"{name}_{quantile}": rows[quantile] for quantile in QUANTILES}
    return pd.DataFrame({**columns, "beta": rows["beta"], "beta_centred": rows["beta_centred"], "n": rows["n"]})


def _shares_frame(composition: pd.DataFrame) -> pd.DataFrame:
    """Shares of all attention paths, of which invented models have the direct ones alone."""
    rows = composition[~composition["eraser"].str.contains("+", regex=False)]
    shares = {"share": -rows["beta"], "share_centred": -rows["beta_centred"]}
    return rows[["model", "writer", "eraser"]].assign(**shares).reset_index(drop=True)


def _null_frame(model: str, layout: Layout, writer: str, heads: list[str]) -> pd.DataFrame:
    labels = list(_with_sums(layout, heads, np.zeros(len(heads))))
    names = [f"{run}_{quantile}" for run in ("clean", "patched", "v_composed") for quantile in QUANTILES]
    nothing = dict.fromkeys([*names, "beta", "beta_centred"], np.nan)
    return pd.DataFrame({"model": model, "writer": writer, "eraser": labels, **nothing, "n": 0})


def _correlation_frame(
    model: str,
    writer: str,
    heads: list[str],
    parts: np.ndarray,
    terms: dict[str, np.ndarray],
    unembedding: np.ndarray,
    sums: Sums,
) -> pd.DataFrame:
    own = (terms[writer] * unembedding).sum(axis=-1)
    effects = {"full": np.stack([terms[head] for head in heads]), "v_composition": parts}
    frames = []
    for effect, outputs in effects.items():
        by_eraser = sums((outputs * unembedding).sum(axis=-1))
        numbers = correlations(own, np.stack(list(by_eraser.values())))
        keys = {"model": model, "writer": writer, "eraser": list(by_eraser), "effect": effect}
        frames.append(pd.DataFrame({**keys, **numbers, "n": len(own)}))
    return pd.concat(frames, ignore_index=True)


def _reading_row(
    layout: Layout,
    writer: str,
    heads: list[str],
    composition: pd.DataFrame,
    correlation: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
) -> dict[str, Any]:
    rows = composition.set_index("eraser")
    rule = (rows["v_composed_median"] <= -TAU) & (rows["v_composed_q75"] < 0)
    erasers = [head for head in heads if rule[head]]
    projections = tables["component_projection"]
    full = projections[projections["writer"] == writer].set_index("component")["beta"]
    opposing = tables["writers"].set_index("writer").loc[writer, "opposing"] or ""
    is_against = (correlation["eraser"] == "later") & (correlation["effect"] == "v_composition")
    against = correlation[is_against].iloc[0]
    return {
        "erased": -rows.loc["later", "beta"],
        "erased_centred": -rows.loc["later", "beta_centred"],
        "clearly_erased": -rows.loc["later", "beta"] > TAU,
        "erasers": "+".join(erasers),
        "opposing": "+".join(head for head in opposing.split("+") if head and head not in erasers),
        "v_composition_share": rows.loc[erasers, "beta"].sum() / full[erasers].sum() if erasers else np.nan,
        "dla_r": against["r"],
        "dla_slope": against["slope"],
        "net_r": against["r"],
        "net_slope": 1.0 + against["slope"],
    }


def model_tables(about: Mapping[str, Any] | ManifestEntry, tables: dict[str, pd.DataFrame]) -> ModelTables:
    """A model with these tables; what its entry in the manifest needs and ``about`` lacks is made up.

    What is the sweep's to say stands in the manifest of its own sweep.
    """
    known = about.to_json() if isinstance(about, ManifestEntry) else dict(about)
    made_with = {key: known.pop(key) for key in ("version", "device_type", "git_commit") if key in known}
    config = {key: known.pop(key) for key in ("seq_len", "positions", "seed", "dtype", "tau", "ln") if key in known}
    needed = {"name": "", "folder": known.get("name") or "model", "state": "FINISHED"}
    sweep = fake_sweep(**made_with, config=config) if made_with or config else None
    return ModelTables(ManifestEntry(**(needed | known)), tables, sweep)


def fake_sweep(**values: Any) -> Manifest:
    """The manifest of a sweep without models, of which nothing else is known."""
    return Manifest.model_validate({"config": {}, "models": [], **values})


def fake_manifest(models: list[ModelTables], **changes: Any) -> Manifest:
    """The manifest of a sweep over these models."""
    config = {"prompts": 8, "seq_len": 12, "positions": "all", "corpus": "stdlib", "seed": 5235, "dtype": "float32"}
    values = {
        "sweep_id": "5eed",
        "name": "fake",
        "version": "0.1.0",
        "schema_version": SCHEMA_VERSION,
        "device_type": "cpu",
        "config": config,
        "models": [model.about.to_json() for model in models],
    }
    return Manifest.model_validate(values | changes)


def write_out(models: list[ModelTables], out: Path, **changes: Any) -> None:
    """The models as a finished sweep leaves them in its folder."""
    for model in models:
        folder = out / model.about.folder / "tables"
        folder.mkdir(parents=True)
        for name, table in model.tables.items():
            write_frame(table, folder / f"{name}.parquet")
    (out / "manifest.json").write_bytes(fake_manifest(models, **changes).to_bytes())


def write_frame(table: pd.DataFrame, path: Path) -> None:
    """A table with whatever columns it has, as 0.1.0 wrote tables."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), b"schema_version": SCHEMA_VERSION.encode()}
    pq.write_table(arrow.replace_schema_metadata(metadata), path)


def residual(model: ModelTables) -> Grid:
    """The model's residual projection as matrices."""
    return residual_of(model.tables)


def components(model: ModelTables) -> Grid:
    """The model's component projection as matrices."""
    return grid_of(model.tables["component_projection"], "component")


def cell(table: pd.DataFrame, column: str, writer: str, name: str, statistic: str) -> float:
    """One number of a projection table."""
    rows = table[(table["writer"] == writer) & (table[column] == name)]
    assert len(rows) == 1
    return float(rows[statistic].iloc[0])


def row_of(model: ModelTables, writer: str) -> pd.Series:
    """One writer's row of the writers table."""
    table = model.tables["writers"]
    return table[table["writer"] == writer].iloc[0]
