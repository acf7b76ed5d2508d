"""The literal oracle: the definitions as written, in float64, against which the fast measures are tested.

One prompt at a time, one component at a time, one vector per component and token: explicit LayerNorm, explicit causal
softmax, every product spelled out. It shares nothing with ``workers`` but the names of weights and labels, and derives
the labels, the states and "later" from the order in which its own forward adds things up.

- PR(a, w) = a·w / |w|² per token; where |w|² ≤ 1e-10 |resid|², the stream at the state right after the writer's
  sublayer, w has no PR.
- β(c, w) = Σ o_c·o_w / Σ |o_w|² over all measured tokens; the centred one after each vector's mean over them is gone.
- Effective presence of w in a state, per token: ρ · PR, ρ = LayerNorm's scale at the first state that holds w over its scale
  at this state. Pooled Σ ρ a·w / Σ |w|², over the tokens with a PR; diluted = 1 − Σ ρ |w|² / Σ |w|². Constant share of a
  writer: the power of its mean vector over that of all tokens.
- Ledger of a writer: written = β at the state after its sublayer, remaining = β at the final state, reinforced and
  opposed = sums of the positive and of the negative β of the terms added after its sublayer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from erasure_sweep.workers.positions import PADDING
from tests.support.oracle.sublayers import (
    biases,
    embeddings,
    layer_heads,
    normalize,
    read_stream,
    run_mlp,
    uncapped_logits,
)

QUANTILES = {"q12_5": 0.125, "q25": 0.25, "median": 0.5, "q75": 0.75, "q87_5": 0.875}
STATISTICS = (*QUANTILES, "mean", "beta", "beta_centred")
GROWTH = ("diluted", "constant_share")
EFFECTIVE = (*(f"effective_{name}" for name in QUANTILES), "effective_beta", *GROWTH)
NEGLIGIBLE = 1e-10
CONSTANT = 1e-6
"""Share of a writer's power that must vary over tokens for it to have a centred coefficient."""
TAU = 0.05


class Activations(NamedTuple):
    """All that one forward pass over one prompt computed; every vector is [pos, d_model] unless said otherwise."""

    terms: dict[str, np.ndarray]
    """What adds up to the final stream, in the order in which it is added."""
    attention: dict[str, np.ndarray]
    """``attn{l}``: a layer's heads and its output bias, if it has one."""
    states: dict[str, np.ndarray]
    last_term: dict[str, str]
    """For each state, the last of the terms that it sums."""
    patterns: dict[str, np.ndarray]
    """Per head [query, key]: attention over what the norm behind its layer divides by."""
    ln1_scales: list[np.ndarray]
    """Per layer [pos], what the attention's input is divided by."""
    ln2_scales: list[np.ndarray]
    write_scales: list[np.ndarray]
    """Per layer [pos], what the norm behind the attention divides by; 1 where there is none."""
    final_scale: np.ndarray
    """[pos]."""
    logits: np.ndarray
    """[pos, d_vocab], before any cap."""


def as_numpy(weights: Mapping[str, Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Weights as float64 arrays."""
    return {name: np.asarray(values, dtype=np.float64) for name, values in weights.items()}


def forward(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: Sequence[int],
    added: Mapping[str, np.ndarray] | None = None,
    unseen: Mapping[str, np.ndarray] | None = None,
) -> Activations:
    """Run the model over one prompt and keep everything, with edits or without.

    Everything behind an edit is computed anew, each layer with its own pattern and scale.

    Args:
        added: by state, what is added to the stream there [pos, d_model]; it is part of the state, and of no term.
        unseen: by head, what is subtracted from its normalised value input [pos, d_model], while its queries, its keys and
            every other reader see it.
    """
    added, unseen = added or {}, unseen or {}
    w, ids = as_numpy(weights), [int(token) for token in tokens if token != PADDING]
    terms = embeddings(config, w, ids)
    states: dict[str, np.ndarray] = {}
    last_term: dict[str, str] = {}

    def pass_state(name: str, stream: np.ndarray) -> np.ndarray:
        states[name] = stream + added[name] if name in added else stream
        last_term[name] = next(reversed(terms))
        return states[name]

    resid = pass_state("resid_pre0", np.sum(list(terms.values()), axis=0))
    summed, patterns, ln1_scales, ln2_scales, write_scales = {}, {}, [], [], []
    for layer in range(config.n_layers):
        before = resid
        x, scale = read_stream(config, resid)
        ln1_scales.append(scale)
        outputs, of_layer, write_scale = layer_heads(config, w, layer, x, unseen)
        patterns |= of_layer
        write_scales.append(write_scale)
        outputs |= biases(config, w, layer, len(ids))
        terms |= outputs
        summed[f"attn{layer}"] = np.sum(list(outputs.values()), axis=0)
        resid = resid + summed[f"attn{layer}"]
        if not config.attn_only:
            if not config.parallel:
                before = resid = pass_state(f"resid_mid{layer}", resid)
            ln2_scales.append(read_stream(config, before)[1])
            terms[f"MLP{layer}"] = run_mlp(config, w, layer, before)
            resid = resid + terms[f"MLP{layer}"]
        resid = pass_state(f"resid_post{layer}", resid)
    logits, final_scale = uncapped_logits(config, w, resid)
    return Activations(
        terms, summed, states, last_term, patterns, ln1_scales, ln2_scales, write_scales, final_scale, logits
    )


def projection_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """PR(a, b) = a·b / |b|²: how much of b is present in a."""
    return float(np.dot(a, b) / np.dot(b, b))


def quantile(values: Iterable[float], fraction: float) -> float:
    """Linear interpolation between order statistics: rank (n − 1)·fraction, counted from zero."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * fraction
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def pooled_coefficient(component: np.ndarray, writer: np.ndarray) -> float:
    """β of a component's vectors [token, d_model] from the writer's; NaN for a writer that is zero everywhere."""
    power = float((writer**2).sum())
    return float((component * writer).sum()) / power if power > 0.0 else math.nan


def centred_coefficient(component: np.ndarray, writer: np.ndarray) -> float:
    """β after each one's mean vector over all tokens is removed; NaN for a writer that is the same at every token."""
    varying = writer - writer.mean(axis=0)
    if (varying**2).sum() <= CONSTANT * (writer**2).sum():
        return math.nan
    return pooled_coefficient(component - component.mean(axis=0), varying)


class Measured(NamedTuple):
    """Vectors at the measured tokens of all prompts, [token, d_model] each, and where things stand in the sum."""

    terms: dict[str, np.ndarray]
    components: dict[str, np.ndarray]
    """The terms, and each layer's ``attn{l}`` behind its bias."""
    states: dict[str, np.ndarray]
    last_term: dict[str, str]
    scales: Mapping[str, np.ndarray] = MappingProxyType({})
    """Of every state, what the final norm would divide it by [token]."""

    @property
    def writers(self) -> list[str]:
        """Terms that can be writers: all but the attention biases."""
        return [label for label in self.terms if not label.startswith("b_O")]

    def written_state(self, writer: str) -> str:
        """The first state that holds the writer's output."""
        order = list(self.terms)
        return next(s for s, last in self.last_term.items() if order.index(last) >= order.index(writer))

    def later_terms(self, writer: str) -> list[str]:
        """Terms added after the writer's own sublayer."""
        order = list(self.terms)
        return order[order.index(self.last_term[self.written_state(writer)]) + 1 :]

    def ratios(self, vectors: np.ndarray, writer: str) -> list[float]:
        """PR at every token where the writer has one."""
        w, resid = self.terms[writer], self.states[self.written_state(writer)]
        return [projection_ratio(vectors[t], w[t]) for t in range(len(w)) if has_ratio(w[t], resid[t])]


def layer_of_head(label: str) -> int | None:
    """Layer of a head's label; None when the label is not a head's."""
    return int(label[1:].split("H", maxsplit=1)[0]) if label.startswith("L") else None


Kept = Sequence[np.ndarray]
"""The measured positions of each prompt."""


def measure(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray | Tensor,
    positions: np.ndarray | Tensor | Kept | None = None,
    first_position: bool = True,
) -> Measured:
    """Run every prompt by itself and keep every vector at the measured positions.

    Args:
        config, weights: the processed model.
        tokens: ids [prompt, pos].
        positions: the measured positions of each prompt [prompt, n]; None measures all.
        first_position: whether position 0 is one of all.
    """
    ids = np.asarray(tokens)
    kept = kept_positions(ids, positions, first_position)
    runs = [forward(config, weights, prompt) for prompt in ids]

    def gather(vectors: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        labels = vectors[0]
        return {name: np.concatenate([v[name][k] for v, k in zip(vectors, kept, strict=True)]) for name in labels}

    terms = gather([run.terms for run in runs])
    attention = gather([run.attention for run in runs])
    components: dict[str, np.ndarray] = {}
    behind = {
        (f"b_O{i}" if config.attn_bias else f"L{i}H{config.n_heads - 1}"): f"attn{i}" for i in range(config.n_layers)
    }
    for label, vectors in terms.items():
        components[label] = vectors
        if label in behind:
            components[behind[label]] = attention[behind[label]]
    states = gather([run.states for run in runs])
    scales = {name: normalize(config, vectors)[1] for name, vectors in states.items()}
    return Measured(terms, components, states, runs[0].last_term, scales)


def kept_positions(ids: np.ndarray, positions: np.ndarray | Tensor | Kept | None, first_position: bool) -> Kept:
    """The measured positions of each prompt: those that are given, else all of its tokens, with or without position 0."""
    if positions is not None:
        return [np.asarray(of_prompt) for of_prompt in positions]
    lengths = [sum(token != PADDING for token in prompt) for prompt in ids]
    return [np.array([p for p in range(length) if p > 0 or first_position]) for length in lengths]


def scan_tables(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray | Tensor,
    positions: np.ndarray | Tensor | Kept | None = None,
    tau: float = TAU,
    first_position: bool = True,
) -> dict[str, pd.DataFrame]:
    """The tables of the scan by definition, without their ``model`` column.

    ``residual_projection`` and ``component_projection`` carry ``mean_abs``, the mean |PR|, beside the contract's
    columns: tolerances are stated in it. ``writers`` has the columns of the ledger and of growth alone.

    Args:
        config, weights, tokens, positions, first_position: as ``measure`` takes them.
        tau: heads count as opposing from a median PR of −tau.
    """
    measured = measure(config, weights, tokens, positions, first_position)
    by_state, by_component, ledgers = [], [], []
    for writer in measured.writers:
        for state, vectors in measured.states.items():
            row = statistics(measured, vectors, writer) | effective_presence(measured, state, writer)
            by_state.append({"writer": writer, "state": state} | row)
        rows = {
            component: {"writer": writer, "component": component} | statistics(measured, vectors, writer)
            for component, vectors in measured.components.items()
            if component != writer
        }
        by_component += rows.values()
        final = {name: by_state[-1][name] for name in GROWTH}
        ledgers.append({"writer": writer} | ledger(measured, writer) | opposing(rows, writer, tau) | final)
    return {
        "residual_projection": pd.DataFrame(by_state),
        "component_projection": pd.DataFrame(by_component),
        "writers": pd.DataFrame(ledgers),
    }


def statistics(measured: Measured, vectors: np.ndarray, writer: str) -> dict[str, float | int]:
    """One row's statistics of vectors [token, d_model] against a writer; NaN throughout where no token has a PR."""
    ratios = measured.ratios(vectors, writer)
    if not ratios:
        return dict.fromkeys((*STATISTICS, "mean_abs"), math.nan) | {"n": 0}
    return {name: quantile(ratios, fraction) for name, fraction in QUANTILES.items()} | {
        "mean": sum(ratios) / len(ratios),
        "mean_abs": sum(abs(ratio) for ratio in ratios) / len(ratios),
        "beta": pooled_coefficient(vectors, measured.terms[writer]),
        "beta_centred": centred_coefficient(vectors, measured.terms[writer]),
        "n": len(ratios),
    }


def effective_presence(measured: Measured, state: str, writer: str) -> dict[str, float]:
    """How much of a writer a reader of a state sees behind its LayerNorm, beside what it saw right after the writing."""
    first, w = measured.written_state(writer), measured.terms[writer]
    presence, seen, power, own = [], 0.0, 0.0, 0.0
    for token, vector in enumerate(w):
        if not has_ratio(vector, measured.states[first][token]):
            continue
        kept = measured.scales[first][token] / measured.scales[state][token]
        presence.append(kept * projection_ratio(measured.states[state][token], vector))
        seen += kept * float(measured.states[state][token] @ vector)
        own += kept * float(vector @ vector)
        power += float(vector @ vector)
    if not presence:
        return dict.fromkeys(EFFECTIVE, math.nan)
    return {f"effective_{name}": quantile(presence, fraction) for name, fraction in QUANTILES.items()} | {
        "effective_beta": seen / power,
        "diluted": 1.0 - own / power,
        "constant_share": len(w) * float((w.mean(axis=0) ** 2).sum()) / float((w**2).sum()),
    }


def has_ratio(vector: np.ndarray, resid: np.ndarray) -> bool:
    """Whether a writer's vector is large enough beside the stream to have a PR."""
    return float(np.dot(vector, vector)) > NEGLIGIBLE * float(np.dot(resid, resid))


def ledger(measured: Measured, writer: str) -> dict[str, float]:
    """What was written, what later terms add and take, what remains; NaN where the writer has no such coefficient."""
    w = measured.terms[writer]
    has_ratio = bool(measured.ratios(w, writer))
    values: dict[str, float] = {}
    for suffix, coefficient in (("", pooled_coefficient), ("_centred", centred_coefficient)):
        later = [coefficient(measured.terms[label], w) for label in measured.later_terms(writer)]
        entries = {
            "written": coefficient(measured.states[measured.written_state(writer)], w),
            "remaining": coefficient(list(measured.states.values())[-1], w),
            "reinforced": sum(beta for beta in later if beta > 0.0),
            "opposed": sum(beta for beta in later if beta < 0.0),
        }
        defined = has_ratio and not math.isnan(coefficient(w, w))
        values |= {f"{name}{suffix}": float(value) if defined else math.nan for name, value in entries.items()}
    return values


def opposing(rows: Mapping[str, Mapping[str, object]], writer: str, tau: float) -> dict[str, str | None]:
    """Later heads with a median PR of at most −tau and a negative upper quartile; None where no token has a PR."""
    if not any(row["n"] for row in rows.values()):
        return {"opposing": None}
    names = [
        component
        for component, row in rows.items()
        if is_later_head(component, writer) and row["median"] <= -tau and row["q75"] < 0.0
    ]
    return {"opposing": "+".join(names)}


def is_later_head(component: str, writer: str) -> bool:
    """Whether a component is a head of a layer behind the writer's; every head is behind the embeddings."""
    layer = layer_of_head(component)
    if layer is None:
        return False
    if writer in ("embed", "pos_embed"):
        return True
    own = layer_of_head(writer)
    return layer > (int(writer.removeprefix("MLP")) if own is None else own)
