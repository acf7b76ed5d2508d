"""The literal oracle of reading, in float64: what later heads write because a writer is in their value input.

For every prompt, writer w and head e of a later layer: subtract w's output from e's value input, rerun e with its clean
pattern, and project. What is gone is the V-composed part of e from w. Nothing else in the model sees the subtraction,
and later layers are not rerun.

- ``frozen``: the value input loses (o_w − mean o_w) / scale, with the scale that LayerNorm had in the clean run.
- ``recompute``: the value input is LN(resid_pre − o_w) with the scale that this stream has.

The patched output of ``attn{l}`` is the clean one without its heads' V-composed parts; ``later`` is the sum over all
later heads, without output biases. β of a V-composed part is ``tests.support.oracle.scan``'s β of a component.

Of w only what it writes from position 1 on is subtracted, the source, unless position 0 is asked for. ``beta_first`` is
β of what is gone when only its output at position 0 is subtracted.

A pair is *significant* where a one-sided t-test over shards of prompts, of each shard's β of the V-composed part, puts
their mean below −τ, by the rule of Benjamini and Hochberg at 5 % over all pairs of a writer and a single later head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.oracle.dla import (
    INTERVALS,
    LINE,
    OF_RANKS,
    Readout,
    attribute,
    correlate,
    intervals,
    readout,
    t_quantile,
)
from tests.support.oracle.paths import path_tables
from tests.support.oracle.scan import (
    QUANTILES,
    TAU,
    Activations,
    Measured,
    as_numpy,
    centred_coefficient,
    forward,
    is_later_head,
    kept_positions,
    layer_of_head,
    measure,
    pooled_coefficient,
    quantile,
    scan_tables,
)
from tests.support.oracle.sublayers import centre, read_stream, written_by

NormReading = Literal["frozen", "recompute"]
SPREADS = ("clean", "patched", "v_composed")
"""What a row of ``v_composition`` has quantiles of: PR of the eraser's output, of its patched output, their difference."""
OVER_SHARDS = ("p", "shards", "shard_mean", "shard_error")
V_COMPOSITION = (
    *(f"{spread}_{name}" for spread in SPREADS for name in QUANTILES),
    *("beta", "beta_low", "beta_high", "beta_centred", "beta_first", *OVER_SHARDS),
)
LEVEL = 0.05
"""Of the false discoveries among significant pairs."""
READING = (
    "erasers",
    "opposing",
    "significant_erasers",
    "v_composition_share",
    "opposed_by_erasers",
    "dla_r",
    "dla_slope",
)


class Row(NamedTuple):
    """A later head, ``attn{l}`` or ``later`` of one writer; vectors at the measured tokens [token, d_model]."""

    eraser: str
    full: np.ndarray
    v_composed: np.ndarray
    from_first: np.ndarray
    """The V-composed part from the writer's output at position 0; NaN where that belongs to the source."""


class Reading(NamedTuple):
    """Everything that the tables are made of."""

    measured: Measured
    parts: dict[tuple[str, str], np.ndarray]
    """V-composed part of (writer, head) at the measured tokens, [token, d_model]."""
    parts_first: dict[tuple[str, str], np.ndarray]
    """The part from the writer's output at position 0."""
    to_logits: Readout
    shards: list[np.ndarray]
    """The measured tokens of each shard of prompts."""

    def later_heads(self, writer: str) -> list[str]:
        """Heads of every layer behind the writer's, in the order in which they run."""
        return [label for label in self.measured.terms if is_later_head(label, writer)]

    def rows(self, writer: str) -> Iterator[Row]:
        """A writer's rows: each later layer's heads and their ``attn{l}`` behind them, last ``later``."""
        later = self.later_heads(writer)
        for layer in sorted({layer_of_head(head) for head in later}):
            heads = [head for head in later if layer_of_head(head) == layer]
            for head in heads:
                yield Row(head, self.measured.terms[head], *self._parts(writer, [head]))
            yield Row(f"attn{layer}", self.measured.components[f"attn{layer}"], *self._parts(writer, heads))
        if later:
            yield Row("later", sum(self.measured.terms[head] for head in later), *self._parts(writer, later))

    def _parts(self, writer: str, heads: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return tuple(sum(parts[writer, head] for head in heads) for parts in (self.parts, self.parts_first))


def resid_pre(run: Activations, layer: int) -> np.ndarray:
    """The stream that a layer's attention reads."""
    return run.states["resid_pre0" if layer == 0 else f"resid_post{layer - 1}"]


def patched_output(
    config: ModelConfig, w: Mapping[str, np.ndarray], run: Activations, written: np.ndarray, head: str, ln: NormReading
) -> np.ndarray:
    """A head's output [pos, d_model], its pattern clean, with vectors [pos, d_model] taken out of its value input."""
    layer = layer_of_head(head)
    stream = resid_pre(run, layer)
    if ln == "frozen":
        clean, _ = read_stream(config, stream)
        x = clean - centre(config, written) / run.ln1_scales[layer][:, None]
    else:
        x, _ = read_stream(config, stream - written)
    return written_by(config, w, head, run.patterns[head], x)


def source(written: np.ndarray, first_position: bool) -> np.ndarray:
    """What is taken out of a writer's output [pos, d_model]: zero at position 0, unless that is asked for."""
    return written if first_position else np.concatenate([np.zeros_like(written[:1]), written[1:]])


def read(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray | Tensor,
    positions: np.ndarray | Tensor | None = None,
    ln: NormReading = "frozen",
    block: int = 4,
    first_position: bool = True,
) -> Reading:
    """Every V-composed part at the measured positions; arguments as ``reading_tables`` takes them."""
    ids, w = np.asarray(tokens), as_numpy(weights)
    kept = kept_positions(ids, positions, first_position)
    runs = [forward(config, w, prompt) for prompt in ids]
    measured = measure(config, w, ids, kept)

    def gone(head: str, taken_out: list[np.ndarray]) -> np.ndarray:
        """What is missing of a head's output at the measured tokens, given what is taken out of each prompt."""
        missing = [
            (run.terms[head] - patched_output(config, w, run, vectors, head, ln))[chosen]
            for run, vectors, chosen in zip(runs, taken_out, kept, strict=True)
        ]
        return np.concatenate(missing)

    parts, parts_first = {}, {}
    for writer in measured.writers:
        outputs = [run.terms[writer] for run in runs]
        sources = [source(output, first_position) for output in outputs]
        at_first = [output - from_there for output, from_there in zip(outputs, sources, strict=True)]
        for head in measured.terms:
            if is_later_head(head, writer):
                parts[writer, head] = gone(head, sources)
                parts_first[writer, head] = gone(head, at_first) * (math.nan if first_position else 1.0)
    ends = np.cumsum([0, *map(len, kept)])
    shards = [np.arange(ends[i], ends[min(i + block, len(ids))]) for i in range(0, len(ids), block)]
    return Reading(measured, parts, parts_first, readout(config, runs, kept, w["W_U"]), shards)


def reading_tables(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray | Tensor,
    positions: np.ndarray | Tensor | None = None,
    tau: float = TAU,
    ln: NormReading = "frozen",
    block: int = 4,
    first_position: bool = True,
) -> dict[str, pd.DataFrame]:
    """``v_composition``, ``dla_correlation`` and the complete ``writers`` by definition, without their ``model`` column.

    Beside the contract's columns ``dla_correlation`` carries ``resolution``, the spread of y in units of the eraser's
    whole DLA, ``v_composition`` the mean of the shards' β and its standard error, and ``writers`` carries
    ``opposed_by_erasers``, the denominator of ``v_composition_share``: tolerances are stated in them.

    Args:
        config, weights: the processed model.
        tokens: ids [prompt, pos].
        positions: the measured positions of each prompt [prompt, n]; None measures all.
        tau: erasers and opposing heads have a median PR of at most −tau.
        ln: which LayerNorm scale a patched value input has.
        block: prompts of one shard.
        first_position: whether position 0 is one of all, and part of the source.
    """
    reading = read(config, weights, tokens, positions, ln, block, first_position)
    composition, correlation = [], []
    for writer in reading.measured.writers:
        for row in reading.rows(writer):
            key = {"writer": writer, "eraser": row.eraser}
            composition.append(key | composition_statistics(reading, writer, row, tau))
            correlation += [key | effect for effect in dla_effects(reading, writer, row)]
    v_composition = pd.DataFrame(composition, columns=["writer", "eraser", *V_COMPOSITION, "n"])
    single = v_composition["eraser"].str.startswith("L")
    p_values = v_composition["p"].where(single).tolist()
    v_composition["significant"] = significant(p_values)
    v_composition["significant_by"] = significant(p_values, any_dependence=True)
    effects = ["writer", "eraser", "effect", *LINE, *INTERVALS, *OF_RANKS, "n", "stage", "resolution"]
    dla_correlation = pd.DataFrame(correlation, columns=effects)
    writers = scan_tables(config, weights, tokens, positions, tau, first_position)["writers"].drop(columns="opposing")
    ledger = [reading_ledger(reading, writer, v_composition, dla_correlation, tau) for writer in writers["writer"]]
    writers = writers.join(pd.DataFrame(ledger, columns=READING))
    erased = path_tables(config, weights, tokens, positions, first_position)["writers"]
    writers = writers.merge(erased[["writer", "erased", "erased_centred"]], on="writer", how="left")
    writers["rank"] = ranking(writers["erased"].tolist())
    return {"v_composition": v_composition, "dla_correlation": dla_correlation, "writers": writers}


def composition_statistics(reading: Reading, writer: str, row: Row, tau: float) -> dict[str, float | int]:
    """Quantiles of the three PRs, β of the V-composed part and its test; NaN throughout where no token has a PR."""
    measured = reading.measured
    w = measured.terms[writer]
    values: dict[str, float | int] = {}
    for spread, vectors in zip(SPREADS, (row.full, row.full - row.v_composed, row.v_composed), strict=True):
        ratios = measured.ratios(vectors, writer)
        if not ratios:
            return dict.fromkeys(V_COMPOSITION, math.nan) | {"n": 0}
        values |= {f"{spread}_{name}": quantile(ratios, fraction) for name, fraction in QUANTILES.items()}
    coefficients = {
        "beta": pooled_coefficient(row.v_composed, w),
        "beta_centred": centred_coefficient(row.v_composed, w),
        "beta_first": pooled_coefficient(row.from_first, w),
    }
    test = t_test(shard_coefficients(reading, writer, row.v_composed), tau)
    return values | coefficients | beta_interval(coefficients["beta"], test) | test | {"n": len(ratios)}


def shard_coefficients(reading: Reading, writer: str, v_composed: np.ndarray) -> list[float]:
    """β of a V-composed part [token, d_model] in each shard in which some token has a PR."""
    measured, betas = reading.measured, []
    for tokens in reading.shards:
        states = {state: vectors[tokens] for state, vectors in measured.states.items()}
        w = measured.terms[writer][tokens]
        shard = measured._replace(terms=measured.terms | {writer: w}, states=states)
        if shard.ratios(w, writer):
            betas.append(pooled_coefficient(v_composed[tokens], w))
    return betas


def t_test(betas: Sequence[float], tau: float) -> dict[str, float | int]:
    """The t-test that the shards' β are at least −tau on average against that they are less; NaN where all are the same."""
    if len(betas) < 2:
        return dict.fromkeys(OVER_SHARDS, math.nan) | {"shards": len(betas)}
    mean, error = float(np.mean(betas)), float(np.std(betas, ddof=1)) / math.sqrt(len(betas))
    alike = len(set(betas)) == 1
    p = math.nan if alike else float(stats.ttest_1samp(betas, -tau, alternative="less").pvalue)
    return {"p": p, "shards": len(betas), "shard_mean": mean, "shard_error": error}


def beta_interval(beta: float, test: dict[str, float | int]) -> dict[str, float]:
    """95 % interval of β by the t-distribution of the shards' β; NaN where there is no test."""
    if math.isnan(test["p"]):
        return {"beta_low": math.nan, "beta_high": math.nan}
    reach = t_quantile(test["shards"] - 1) * test["shard_error"]
    return {"beta_low": beta - reach, "beta_high": beta + reach}


def significant(p_values: Sequence[float], any_dependence: bool = False) -> list[bool | None]:
    """Benjamini and Hochberg's rule: the k smallest of m p-values, for the largest k of which the k-th is ≤ 5 % · k / m.

    Under any dependence, by Benjamini and Yekutieli, 5 % is divided by 1 + 1/2 + … + 1/m. NaN is no test and ``None`` its
    outcome.
    """
    ordered = sorted(p for p in p_values if not math.isnan(p))
    level = LEVEL / sum(1 / k for k in range(1, len(ordered) + 1)) if any_dependence and ordered else LEVEL
    allowed = [p for k, p in enumerate(ordered, start=1) if p <= level * k / len(ordered)]
    cut = max(allowed, default=-1.0)
    return [None if math.isnan(p) else p <= cut for p in p_values]


def dla_effects(reading: Reading, writer: str, row: Row) -> Iterator[dict[str, object]]:
    """The line between the writer's DLA and that of the eraser's output, then of its V-composed part."""
    x = attribute(reading.measured.terms[writer], reading.to_logits)
    whole = attribute(row.full, reading.to_logits)
    size = math.sqrt(np.mean(whole**2))
    for effect, y in (("full", whole), ("v_composition", attribute(row.v_composed, reading.to_logits))):
        resolution = float(y.std()) / size if size > 0.0 else 0.0
        line = correlate(x, y) | intervals(x, y, reading.shards)
        yield {"effect": effect} | line | {"n": len(x), "stage": "scan", "resolution": resolution}


def reading_ledger(
    reading: Reading, writer: str, v_composition: pd.DataFrame, dla_correlation: pd.DataFrame, tau: float
) -> dict[str, object]:
    """A writer's columns of ``writers`` that follow from its rows; a writer without output has none of them."""
    measured, w = reading.measured, reading.measured.terms[writer]
    if not measured.ratios(w, writer):
        return dict.fromkeys(READING, math.nan) | {"erasers": None, "opposing": None}
    rows = v_composition[v_composition["writer"] == writer].set_index("eraser")
    if rows.empty:
        return dict.fromkeys(READING, math.nan) | {"erasers": "", "opposing": ""}
    heads = rows.loc[reading.later_heads(writer)]
    erasers = heads.index[(heads["v_composed_median"] <= -tau) & (heads["v_composed_q75"] < 0.0)]
    negative = heads.index[(heads["clean_median"] <= -tau) & (heads["clean_q75"] < 0.0)]
    opposed = sum(pooled_coefficient(measured.terms[head], w) for head in erasers) if len(erasers) else math.nan
    effects = dla_correlation[dla_correlation["writer"] == writer].set_index(["eraser", "effect"])
    line = effects.loc[("later", "v_composition")]
    return {
        "erasers": "+".join(erasers),
        "opposing": "+".join(head for head in negative if head not in erasers),
        "significant_erasers": sum(heads["significant"].dropna()) if heads["significant"].notna().any() else math.nan,
        "v_composition_share": -heads.loc[erasers, "beta"].sum() / -opposed if opposed < 0.0 else math.nan,
        "opposed_by_erasers": opposed,
        "dla_r": line["r"],
        "dla_slope": line["slope"],
    }


def ranking(erased: Sequence[float]) -> list[float]:
    """1 for the largest, NaN for what is not a number; of equals the first comes first."""
    order = sorted((i for i, value in enumerate(erased) if not math.isnan(value)), key=lambda i: -erased[i])
    places = {index: float(place) for place, index in enumerate(order, start=1)}
    return [places.get(index, math.nan) for index in range(len(erased))]
