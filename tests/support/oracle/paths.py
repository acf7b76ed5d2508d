"""The literal oracle of all attention paths, in float64: a rerun without a vector, patterns, scales and MLPs kept.

The stream loses ``removed`` right behind the writer's sublayer. Every later head runs on what is left, with its clean pattern
and the clean scale of its LayerNorm; MLPs and biases add what they add in the clean run. What the clean run has and the rerun
has not is δ: of the stream, what became of ``removed``; of a head, what it adds to δ.

- ``erased`` = 1 − β(δ at the end, w); a head's share = −β(its part of δ, w). The source is the writer's output, zero at
  position 0 unless that is measured. *Centred*: source and target less the writer's mean over the measured tokens. *First*:
  the source is the output at position 0 alone.
- Net DLA: that of δ at the end, against the writer's own.
- Intervals: everything again without each prompt, t with one degree of freedom less than prompts; r by Fisher's z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from erasure_sweep.workers.models.model_config import ModelConfig
from tests.support.oracle.dla import Readout, attribute, correlate, fisher, jackknife, readout
from tests.support.oracle.scan import (
    CONSTANT,
    Activations,
    Kept,
    Measured,
    as_numpy,
    forward,
    is_later_head,
    kept_positions,
    layer_of_head,
    measure,
)
from tests.support.oracle.sublayers import biases, centre, written_by


class Lost(NamedTuple):
    """What a rerun lacks of the clean run."""

    stream: np.ndarray
    """Of the final state, [pos, d_model]."""
    heads: dict[str, np.ndarray]
    """Of each later head's output."""


def rerun_without(
    config: ModelConfig,
    w: Mapping[str, np.ndarray],
    run: Activations,
    writer: str,
    removed: np.ndarray,
    through: tuple[str, ...] | None = None,
) -> Lost:
    """Rerun everything behind a writer's layer without ``removed`` [pos, d_model].

    Args:
        through: the heads that are rerun, all others add what they add in the clean run; all where ``None``.
    """
    layer_of_mlp = int(writer.removeprefix("MLP")) if writer.startswith("MLP") else None
    own = -1 if writer in ("embed", "pos_embed") else layer_of_head(writer) if layer_of_mlp is None else layer_of_mlp
    assert own is not None
    before = "resid_pre0" if own < 0 else f"resid_post{own}"
    resid, heads = run.states[before] - removed, {}
    for layer in range(own + 1, config.n_layers):
        x = centre(config, resid) / run.ln1_scales[layer][:, None]
        added = np.zeros_like(resid)
        for head in range(config.n_heads):
            label = f"L{layer}H{head}"
            output = run.terms[label]
            if through is None or label in through:
                output = written_by(config, w, label, run.patterns[label], x)
            heads[label] = run.terms[label] - output
            added += output
        resid = resid + added + sum(biases(config, w, layer, len(resid)).values())
        if not config.attn_only:
            resid = resid + run.terms[f"MLP{layer}"]
    return Lost(list(run.states.values())[-1] - resid, heads)


class Carried(NamedTuple):
    """A writer at one prompt, at the measured positions."""

    heads: dict[str, np.ndarray]
    """What every later head adds to δ, [token, d_model]."""
    end: np.ndarray
    """δ at the end."""
    target: np.ndarray
    """What δ is set against."""


def path_tables(
    config: ModelConfig,
    weights: Mapping[str, Tensor | np.ndarray],
    tokens: np.ndarray | Tensor,
    positions: np.ndarray | Tensor | None = None,
    first_position: bool = True,
    centred_prompts: int | None = None,
) -> dict[str, pd.DataFrame]:
    """``erasure_shares``, ``net_dla`` and what ``writers`` has of them, without their ``model`` column.

    Args:
        config, weights: the processed model.
        tokens: ids [prompt, pos].
        positions: the measured positions of each prompt [prompt, n]; None measures all.
        first_position: whether position 0 is one of all, and part of the source.
        centred_prompts: on how many prompts the centred shares and those of position 0 are measured; all where None.
    """
    ids, w = np.asarray(tokens), as_numpy(weights)
    kept = kept_positions(ids, positions, first_position)
    runs = [forward(config, w, prompt) for prompt in ids]
    measured = measure(config, w, ids, kept)
    few = len(ids) if centred_prompts is None else centred_prompts
    shares, lines, erased = [], [], []
    for writer in measured.writers:
        later = [label for label in measured.terms if is_later_head(label, writer)]
        families = {
            suffix: [
                _carry(config, w, run, writer, chosen, *parts)
                for run, chosen, parts in zip(runs, kept, of, strict=False)
            ]
            for suffix, of in _sources(measured, writer, runs, first_position, few).items()
        }
        rows = [_share_row(measured, writer, eraser, heads, families) for eraser, heads in _erasers(later)]
        shares += rows
        line = _line_row(writer, families[""], readout_by_prompt(config, runs, kept, w["W_U"])) if later else None
        lines += [line] if line else []
        row = {
            f"erased{c[5:]}": v
            for c, v in (rows[-1] if rows else {}).items()
            if c.startswith("share") and "first" not in c
        }
        erased.append({"writer": writer, **row, **({"net_r": line["r"], "net_slope": line["slope"]} if line else {})})
    return {"erasure_shares": pd.DataFrame(shares), "net_dla": pd.DataFrame(lines), "writers": pd.DataFrame(erased)}


def readout_by_prompt(
    config: ModelConfig, runs: Sequence[Activations], kept: Kept, unembedding: np.ndarray
) -> list[Readout]:
    """Each prompt's own."""
    return [readout(config, [run], [chosen], unembedding) for run, chosen in zip(runs, kept, strict=True)]


def _sources(
    measured: Measured, writer: str, runs: Sequence[Activations], first_position: bool, few: int
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """By suffix of its columns, each family's source [pos, d_model] and what is taken from its target, prompt by prompt."""
    mean, outputs = measured.terms[writer].mean(axis=0), [run.terms[writer] for run in runs]

    def masked(output: np.ndarray, first: bool) -> np.ndarray:
        return np.stack([x * ((i == 0) == first) for i, x in enumerate(output)])

    plain = [output if first_position else masked(output, False) for output in outputs]
    centred = [output - mean if first_position else masked(output - mean, False) for output in outputs[:few]]
    zero = np.zeros_like(mean)
    families = {"": [(source, zero) for source in plain], "_centred": [(source, mean) for source in centred]}
    return families | ({} if first_position else {"_first": [(masked(o, True), zero) for o in outputs[:few]]})


def _carry(
    config: ModelConfig,
    w: Mapping[str, np.ndarray],
    run: Activations,
    writer: str,
    chosen: np.ndarray,
    source: np.ndarray,
    less: np.ndarray,
) -> Carried:
    lost = rerun_without(config, w, run, writer, source)
    heads = {head: part[chosen] for head, part in lost.heads.items()}
    return Carried(heads, lost.stream[chosen], run.terms[writer][chosen] - less)


def _erasers(later: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Every later head, behind each layer's its ``attn{l}``, last ``later``."""
    found: list[tuple[str, list[str]]] = []
    for layer in sorted({layer_of_head(head) for head in later}):
        heads = [head for head in later if layer_of_head(head) == layer]
        found += [*((head, [head]) for head in heads), (f"attn{layer}", heads)]
    return [*found, ("later", list(later))] if later else []


def _share_row(
    measured: Measured, writer: str, eraser: str, heads: Sequence[str], families: Mapping[str, Sequence[Carried]]
) -> dict[str, object]:
    row: dict[str, object] = {"writer": writer, "eraser": eraser}
    writes = bool(measured.ratios(measured.terms[writer], writer))
    for suffix in ("", "_centred", "_first"):
        prompts = families.get(suffix, ()) if writes else ()
        whole = sum((p.target**2).sum() for p in families[""][: len(prompts)])
        if suffix == "_centred" and sum((p.target**2).sum() for p in prompts) <= CONSTANT * whole:
            prompts = ()

        def share(some: Sequence[Carried]) -> float:
            along = sum((p.heads[head] * p.target).sum() for p in some for head in heads)
            return -along / sum((p.target**2).sum() for p in some)

        row |= _estimate(f"share{suffix}", share, [p for p in prompts if (p.target**2).sum() > 0])
    followed = [families[suffix] for suffix in ("", "_centred")]
    counts = [sum(bool((p.target**2).sum() > 0) for p in prompts) for prompts in followed]
    return row | dict(zip(("prompts", "prompts_centred"), counts, strict=True))


def _line_row(writer: str, prompts: Sequence[Carried], to: Sequence[Readout]) -> dict[str, object]:
    points = [(attribute(p.target, own), attribute(p.end, own)) for p, own in zip(prompts, to, strict=True)]

    def line(some: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        return correlate(*(np.concatenate(values) for values in zip(*some, strict=True)))

    row: dict[str, object] = {"writer": writer}
    row |= _estimate("r", lambda some: line(some)["r"], points, fisher, math.tanh)
    row |= _estimate("slope", lambda some: line(some)["slope"], points)
    return row | {"n": sum(len(x) for x, _ in points)}


def _estimate(
    name: str,
    of: Callable[[Sequence], float],
    prompts: Sequence,
    to: Callable[[float], float] = float,
    back: Callable[[float], float] = float,
) -> dict[str, float]:
    """A number of some prompts and its interval; NaN for what is not defined."""
    if not prompts:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    value = of(prompts)
    if len(prompts) < 2:
        return {name: value, f"{name}_low": math.nan, f"{name}_high": math.nan}
    reach = jackknife([to(of([*prompts[:i], *prompts[i + 1 :]])) for i in range(len(prompts))])
    if reach == 0.0:
        reach = math.nan
    return {name: value, f"{name}_low": back(to(value) - reach), f"{name}_high": back(to(value) + reach)}
