"""What all prompts say together: a row for each component, and one for each that takes of its bar, or adds to it.

Bars are means over prompts, so that they add up: DLA = kept + direct, effect = direct + Σ mediated. The word of a bar is given
by the rule of trust (``statistics.effect_sums``): its size and fit are of squares over prompts, so that prompts on which a
component errs in opposite directions do not make it right, and the share that arrives is of the means, effect / direct: by
squares a bar of +0.6 of which −0.4 arrive would hold where the effect is what the bar says of each prompt less a constant.
Intervals are over prompts; of a single prompt over its donors, where it has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from erasure_sweep.workers.labels import Layout, kind_of, layer_of
from erasure_sweep.workers.measures.audit.effects import Effects
from erasure_sweep.workers.measures.audit.joint import Joint
from erasure_sweep.workers.measures.audit.lens import Lens
from erasure_sweep.workers.measures.interventions.replaced_writer import mediators, mediators_of
from erasure_sweep.workers.measures.statistics.effect_sums import TokenSums, judge
from erasure_sweep.workers.measures.statistics.jackknife import Estimate, jackknife
from erasure_sweep.workers.records import TrustThresholds
from erasure_sweep.workers.tables.columns import Columns
from erasure_sweep.workers.tables.facts.trust import bar_word

TEXTS = ("component", "kind", "layer", "word", "settled")
"""Columns of components that hold no numbers, or whole ones that may be missing."""
UNEMBEDDING = "b_U"
"""The row of the unembedding's biases."""


class Samples(NamedTuple):
    """Numbers of independent samples: of prompts, or of one prompt's donors."""

    dla: Float[np.ndarray, "sample writer"]
    direct: Float[np.ndarray, "sample writer"]
    effect: Float[np.ndarray, "sample writer"]
    net: Float[np.ndarray, "sample writer"]
    squares: Float[np.ndarray, "sample sum writer"]
    """As ``TokenSums``; behind them Σ d and Σ e."""
    mediated: Float[np.ndarray, "sample writer mediator"]


def samples_of(layout: Layout, found: Sequence[Effects]) -> Samples:
    """Of several prompts each, its donors averaged; of one prompt its donors."""
    at = [layout.term_index[writer] for writer in layout.writers]
    parts = [_of_prompt(effects, at) for effects in found]
    if len(parts) > 1:
        parts = [Samples(*(values.mean(axis=0, keepdims=True) for values in part)) for part in parts]
    return Samples(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def component_rows(layout: Layout, found: Sequence[Effects], limits: TrustThresholds) -> Columns:
    """A row for each term of the stream, in its order, and one for the unembedding's biases; biases have a DLA alone."""
    samples = samples_of(layout, found)
    rows = [_row(layout, samples, index, label, limits) for index, label in enumerate(layout.writers)]
    by_label = {row["component"]: row for row in rows}
    constant = {
        term: np.array([float(one.attribution[index]) for one in found]) for term, index in layout.term_index.items()
    }
    constant[UNEMBEDDING] = np.array([one.unembedding_bias for one in found])
    ordered = [by_label.get(label) or _bias_row(label, values) for label, values in constant.items()]
    return {name: _column(name, [row.get(name) for row in ordered]) for name in rows[0]}


def mediation_rows(layout: Layout, found: Sequence[Effects]) -> Columns:
    """A row for each component and everything behind it: what that adds to its bar, or takes from it, on average."""
    samples, names = samples_of(layout, found), mediators(layout)
    pairs = [(writer, name) for writer in layout.writers for name in mediators_of(layout, writer)]
    rows = [layout.writers.index(writer) for writer, _ in pairs]
    columns = [names.index(name) for _, name in pairs]
    estimate = mean_of(samples.mediated[:, rows, columns])
    squares = samples.squares[:, list(TokenSums._fields).index("direct_sq")].sum(axis=0)[rows]
    product = (samples.direct[:, rows] * samples.mediated[:, rows, columns]).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = product / squares
    return {
        "component": np.array([writer for writer, _ in pairs], dtype=object),
        "mediator": np.array([name for _, name in pairs], dtype=object),
        **estimate.columns("mediated"),
        "share": share,
    }


def joint_rows(layout: Layout, members: Sequence[str], found: Sequence[Joint]) -> Columns:
    """A row for each member, what DLA says of it, and for everything else and what it does when all members are gone."""
    names = (*members, *(name for name in mediators(layout) if name not in members))
    at = [mediators(layout).index(name) for name in names[len(members) :]]
    runs = [np.concatenate([one.direct.cpu().numpy(), one.mediated.cpu().numpy()[:, at]], axis=1) for one in found]
    samples = runs[0] if len(runs) == 1 else np.stack([run.mean(axis=0) for run in runs])
    return {
        "component": np.array(names, dtype=object),
        "is_member": np.array([name in members for name in names]),
        **mean_of(samples).columns("part"),
    }


def _of_prompt(effects: Effects, at: Sequence[int]) -> Samples:
    direct, effect, net, mediated = (
        values.cpu().numpy() for values in (effects.direct, effects.effect, effects.net, effects.mediated)
    )
    dla = np.broadcast_to(effects.attribution.cpu().numpy()[list(at)], direct.shape)
    ones = np.ones_like(direct)
    sums = TokenSums(ones, dla * dla, direct * direct, effect * effect, direct * effect, np.abs(dla), np.abs(effect))
    return Samples(dla, direct, effect, net, np.stack([*sums, direct, effect], axis=1), mediated)


def _share_of_means(sums: Float[np.ndarray, "sum *batch"]) -> Float[np.ndarray, "*batch"]:
    """Of the mean bar what arrives on average; NaN where no part of a bar is taken."""
    direct, effect = sums[-2:]
    return np.where(np.abs(direct) > 0.0, effect / direct, np.nan)


def _row(layout: Layout, samples: Samples, index: int, label: str, limits: TrustThresholds) -> dict[str, object]:
    judged = judge(samples.squares[:, :, index], limits, _share_of_means, bar_word)
    dla, direct, effect, net = (
        mean_of(values[:, index]) for values in (samples.dla, samples.direct, samples.effect, samples.net)
    )
    return {
        "component": label,
        "kind": kind_of(label),
        "layer": layer_of(label),
        **_floats(dla, "dla"),
        "kept": float(dla.value - direct.value),
        **_floats(direct, "direct"),
        **_floats(effect, "effect"),
        "net": float(net.value),
        "word": judged.word,
        "settled": None if judged.word is None else bool(judged.settled),
        **{
            key: float(value)
            for name in ("share", "r", "size")
            for key, value in judged.numbers[name].columns(name).items()
        },
    }


def _bias_row(label: str, dla: Float[np.ndarray, "prompt"]) -> dict[str, object]:
    layer = None if label == UNEMBEDDING else layer_of(label)
    estimate = mean_of(dla)
    return {
        "component": label,
        "kind": "bias",
        "layer": layer,
        **_floats(estimate, "dla"),
        "kept": float(estimate.value),
    }


def _column(name: str, values: list[object]) -> np.ndarray:
    if name in TEXTS:
        return np.array(values, dtype=object)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _floats(estimate: Estimate, name: str) -> dict[str, float]:
    return {key: float(value) for key, value in estimate.columns(name).items()}


def mean_of(values: Float[np.ndarray, "sample *row"]) -> Estimate:
    """The mean over samples, with its 95 % interval."""
    sums = np.stack([np.ones_like(values), values], axis=1)
    return jackknife(sums, lambda both: both[1] / both[0])


def joint_effect(found: Sequence[Joint]) -> tuple[float, float, float]:
    """How much the logit difference falls where all members are ablated, with its interval."""
    runs = [one.effect.cpu().numpy() for one in found]
    estimate = mean_of(runs[0] if len(runs) == 1 else np.array([run.mean() for run in runs]))
    return float(estimate.value), float(estimate.low), float(estimate.high)


def state_rows(layout: Layout, found: Sequence[Lens], predicted: Sequence[str] | None) -> Columns:
    """A row for each state of the stream; what it would predict where there is one prompt."""
    columns: Columns = {"state": np.array(layout.states, dtype=object)}
    for name in ("accumulated", "lens"):
        values = np.stack([getattr(one, name).cpu().numpy() for one in found])
        columns |= mean_of(values).columns(name)
    return columns | {
        "predicted": np.array([None] * len(layout.states) if predicted is None else predicted, dtype=object)
    }
